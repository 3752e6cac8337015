//! Compaction of a job's state: recorded runs are merged in the background, so that the chain of runs that an epoch builds on stays short. One order is in
//! flight at most; its result replaces the runs it was made of with the next swap, whatever was recorded meanwhile. A takeover forgets an order: what
//! still comes of it names runs that were never ordered here, and its file is rubbish.
//!
//! Which runs: the size-tiered choice of [`choose`]. A run is rewritten only together with newer ones that are as large as it, so each time a byte is
//! written again the run it lies in has doubled since, or was new, or as much has been overwritten: a state of *n* bytes that grows by deltas
//! of *d* is rewritten log₂(*n*/*d*) times, and the chain is log₂(*n*/*d*) + [`CoordinatorConfig::compact_from_runs`] runs long. The runs of parts that
//! shared an epoch are merged together or not at all: a merge that begins in their midst would pass for one that begins with the epoch.
use std::{collections::BTreeSet, ops::Range};

use super::{
    action::Action,
    config::{CoordinatorConfig, Rule, SECOND_US},
};
use crate::{
    ids::{Epoch, ExecutorId},
    manifest::{Manifest, StateRun},
    report::{CompactFailure, CompactReport},
};

#[derive(Debug, Default)]
pub(super) struct Compaction {
    order: Option<Order>,
    /// Waits for the next swap.
    merged: Option<Merged>,
    failures: u32,
    expiries: u32,
    retry_at_us: u64,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Order {
    executor: ExecutorId,
    runs: Vec<String>,
    first_epoch: Epoch,
    last_epoch: Epoch,
    deadline_us: u64,
}

#[derive(Debug)]
struct Merged {
    replaced: Vec<String>,
    run: StateRun,
}

impl Compaction {
    /// Gives out an order if there is something worth it. `holder` has the state in memory.
    pub fn advance(
        &mut self,
        now_us: u64,
        manifest: &Manifest,
        holder: Option<&ExecutorId>,
        executors: &BTreeSet<ExecutorId>,
        config: &CoordinatorConfig,
        actions: &mut Vec<Action>,
    ) {
        if self.order.as_ref().is_some_and(|order| now_us >= order.deadline_us) {
            let seconds = self.timeout_us(config) / SECOND_US;
            self.expiries += 1;
            self.fail(format!("merging runs of state was not done within {seconds} s"), config.backoff_us, now_us);
        }
        if self.order.is_some() || self.merged.is_some() || now_us < self.retry_at_us {
            return;
        }
        let per_epoch = usize::from(config.layout.sharing(executors.len()));
        let Some(chosen) = choose(&manifest.state, config.compact_from_runs * per_epoch) else {
            return;
        };
        let holder = holder.filter(|holder| self.failures == 0 && executors.contains(*holder));
        let Some(executor) = holder.or_else(|| executors.iter().nth(self.failures as usize % executors.len().max(1))) else {
            return;
        };
        let runs = manifest.state[chosen].to_vec();
        self.order = Some(Order {
            executor: executor.clone(),
            runs: runs.iter().map(|run| run.name.clone()).collect(),
            first_epoch: runs[0].first_epoch,
            last_epoch: runs[runs.len() - 1].last_epoch,
            deadline_us: now_us + self.timeout_us(config),
        });
        actions.push(Action::CompactState { executor: executor.clone(), runs });
    }

    fn timeout_us(&self, config: &CoordinatorConfig) -> u64 {
        config.compact_timeout_us.saturating_mul(1 << self.expiries.min(20)).min(config.max_compact_timeout_us)
    }

    /// Whether the report is the answer to the order that stands; otherwise its file is rubbish.
    pub fn reported(&mut self, report: &CompactReport, config: &CoordinatorConfig) -> bool {
        let CompactReport { replaced, run, .. } = report;
        let is_ordered = self.order.as_ref().is_some_and(|order| {
            order.runs == *replaced && (order.first_epoch, order.last_epoch) == (run.first_epoch, run.last_epoch)
        });
        if !is_ordered && !config.lacks(Rule::CompactionOrdered) {
            return false;
        }
        *self = Self { merged: Some(Merged { replaced: replaced.clone(), run: run.clone() }), ..Self::default() };
        true
    }

    pub fn failed(&mut self, failure: &CompactFailure, now_us: u64, config: &CoordinatorConfig) {
        let is_ordered = |order: &Order| order.executor == failure.executor && order.runs == failure.replaced;
        if self.order.as_ref().is_some_and(is_ordered) {
            let pause_us = if failure.retryable { config.backoff(self.failures + 1) } else { config.max_backoff_us };
            self.fail(failure.message.clone(), pause_us, now_us);
        }
    }

    pub fn executor_lost(&mut self, lost: &ExecutorId) {
        self.order.take_if(|order| order.executor == *lost);
    }

    /// The job computes nothing any more; what is merged already still enters the manifest.
    pub fn halt(&mut self) {
        self.order = None;
        self.retry_at_us = 0;
    }

    fn fail(&mut self, message: String, pause_us: u64, now_us: u64) {
        self.order = None;
        self.failures += 1;
        self.retry_at_us = now_us + pause_us;
        self.trouble = Some(message);
    }

    pub fn is_under_way(&self) -> bool {
        self.order.is_some() || self.merged.is_some()
    }

    /// Whether the next swap has something to say.
    pub fn is_ahead(&self) -> bool {
        self.merged.is_some()
    }

    /// Puts the merged run in the place of those it was made of.
    pub fn apply(&mut self, manifest: &mut Manifest, config: &CoordinatorConfig) {
        let Some(Merged { replaced, run }) = self.merged.take() else {
            return;
        };
        let state = &mut manifest.state;
        let is_start = |window: &[StateRun]| window.iter().map(|run| &run.name).eq(&replaced);
        let found = state.windows(replaced.len().max(1)).position(is_start);
        if let Some(start) = found {
            state.splice(start..start + replaced.len(), [run]);
        } else if config.lacks(Rule::CompactionOrdered) {
            state.retain(|old| !replaced.contains(&old.name));
            let at = state.partition_point(|old| old.first_epoch < run.first_epoch);
            state.insert(at, run);
        }
    }

    /// A file that no manifest names yet.
    pub fn file_name(&self) -> Option<&str> {
        self.merged.as_ref().map(|merged| merged.run.name.as_str())
    }

    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// `None`: nothing waits for time.
    pub fn wakeup_us(&self, now_us: u64) -> Option<u64> {
        match &self.order {
            Some(order) => Some(order.deadline_us),
            None => Some(self.retry_at_us).filter(|at| *at > now_us),
        }
    }
}

/// The runs to merge next: from the oldest that is no larger than all newer ones together, to the newest; none as long as that would be fewer than
/// `from_runs`.
pub(super) fn choose(runs: &[StateRun], from_runs: usize) -> Option<Range<usize>> {
    let mut newer_bytes = 0u64;
    let mut start = None;
    for (i, run) in runs.iter().enumerate().rev() {
        let begins_epoch = i == 0 || run.first_epoch > runs[i - 1].last_epoch;
        if begins_epoch && run.state_bytes <= newer_bytes && runs.len() - i >= from_runs.max(2) {
            start = Some(i);
        }
        newer_bytes = newer_bytes.saturating_add(run.state_bytes);
    }
    start.map(|start| start..runs.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::coordinator::tests::manifest;

    const FROM_RUNS: usize = 8;

    fn run(first: u64, last: u64, state_bytes: u64) -> StateRun {
        let name = format!("{first}-{last}");
        StateRun { name, bytes: state_bytes, crc32: 0, state_bytes, first_epoch: Epoch(first), last_epoch: Epoch(last), end: None }
    }

    fn chain(sizes: &[u64]) -> Vec<StateRun> {
        sizes.iter().zip(1..).map(|(bytes, epoch)| run(epoch, epoch, *bytes)).collect()
    }

    #[test]
    fn a_run_is_merged_only_with_newer_ones_that_are_as_large() {
        assert_eq!(choose(&chain(&[]), 2), None);
        assert_eq!(choose(&chain(&[1]), 2), None);
        assert_eq!(choose(&chain(&[1, 1]), 2), Some(0..2));
        assert_eq!(choose(&chain(&[1, 1]), 3), None, "too few");
        assert_eq!(choose(&chain(&[100, 1, 1, 1]), 3), Some(1..4));
        assert_eq!(choose(&chain(&[3, 1, 1, 1]), 3), Some(0..4));
        assert_eq!(choose(&chain(&[1, 9, 4, 1]), 2), Some(0..4), "a large one does not shield the small one before it");
        assert_eq!(choose(&chain(&[8, 4, 2, 1]), 2), None);
    }

    #[test]
    fn what_parts_wrote_in_one_epoch_is_merged_together() {
        let shared = [run(1, 1, 100), run(1, 1, 1), run(2, 2, 1), run(2, 2, 1), run(3, 3, 1)];
        assert_eq!(choose(&shared, 2), Some(2..5), "the second of epoch 1 would begin at 1 as well, and is no snapshot");
        assert_eq!(choose(&shared[..3], 2), None);
    }

    /// Records runs of the given sizes and compacts after each as far as it goes; `grown` says what is left of merged bytes. Answers bytes written again and the longest chain.
    fn amplify(sizes: impl Iterator<Item = u64>, grown: impl Fn(u64) -> u64) -> (u64, usize) {
        let (mut runs, mut written, mut longest) = (Vec::new(), 0, 0);
        for (bytes, epoch) in sizes.zip(1..) {
            runs.push(run(epoch, epoch, bytes));
            while let Some(chosen) = choose(&runs, FROM_RUNS) {
                assert!(chosen.len() >= FROM_RUNS && chosen.end == runs.len());
                let total = grown(runs[chosen.clone()].iter().map(|run| run.state_bytes).sum());
                let (first, last) = (runs[chosen.start].first_epoch.0, runs[chosen.end - 1].last_epoch.0);
                runs.splice(chosen, [run(first, last, total)]);
                written += total;
            }
            longest = longest.max(runs.len());
        }
        (written, longest)
    }

    #[test]
    fn equal_deltas_are_written_again_a_logarithm_of_times() {
        const DELTAS: u64 = 20_000;
        let (written, longest) = amplify(std::iter::repeat_n(1_000, DELTAS as usize), |total| total);
        let bound = DELTAS.ilog2() as usize;
        assert!(written <= DELTAS * 1_000 * bound as u64, "{written}");
        assert!(longest <= bound + FROM_RUNS, "{longest}");
    }

    #[test]
    fn a_state_of_bounded_size_costs_no_more_than_its_deltas() {
        let (written, longest) = amplify(std::iter::repeat_n(1_000, 20_000), |total| total.min(64_000));
        assert!(written < 20_000 * 1_000 * 3, "{written}");
        assert!(longest <= 6 + FROM_RUNS, "{longest}");
    }

    proptest! {
        #[test]
        fn any_deltas_are_written_again_a_logarithm_of_times(sizes in prop::collection::vec(1u64..100_000, 1..400)) {
            let total: u64 = sizes.iter().sum();
            let levels = total.ilog2() as u64 + 1;
            let (written, longest) = amplify(sizes.iter().copied(), |total| total);
            prop_assert!(written <= total * (levels + 1));
            prop_assert!(longest as u64 <= levels + FROM_RUNS as u64);
        }
    }

    #[test]
    fn what_was_recorded_meanwhile_stays_behind_the_merged_run() {
        let config = CoordinatorConfig { compact_from_runs: 2, ..CoordinatorConfig::default() };
        let executors = BTreeSet::from([ExecutorId::new("a")]);
        let mut manifest = manifest();
        manifest.state = chain(&[9, 1, 1]);
        let (mut compaction, mut actions) = (Compaction::default(), vec![]);
        compaction.advance(0, &manifest, None, &executors, &config, &mut actions);
        let runs = manifest.state[1..].to_vec();
        assert_eq!(actions, [Action::CompactState { executor: ExecutorId::new("a"), runs: runs.clone() }]);
        compaction.advance(1, &manifest, None, &executors, &config, &mut actions);
        assert_eq!(actions.len(), 1, "one at a time");

        manifest.state.push(run(4, 4, 1));
        let report = |run: StateRun| CompactReport {
            incarnation: manifest.incarnation.clone(),
            generation: manifest.generation,
            replaced: runs.iter().map(|run| run.name.clone()).collect(),
            run,
        };
        let (other, right) = (report(run(1, 3, 2)), report(StateRun { name: "merged".into(), ..run(2, 3, 2) }));
        assert!(!compaction.reported(&other, &config), "of other epochs");
        assert!(compaction.reported(&right, &config));
        assert!(!compaction.reported(&right, &config), "once");
        compaction.apply(&mut manifest, &config);
        let names: Vec<&str> = manifest.state.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["1-1", "merged", "4-4"]);
        assert!(!compaction.is_ahead());
    }

    #[test]
    fn an_order_that_fails_is_given_out_again_elsewhere_and_later() {
        let config = CoordinatorConfig { compact_from_runs: 2, ..CoordinatorConfig::default() };
        let executors = BTreeSet::from([ExecutorId::new("a"), ExecutorId::new("b")]);
        let mut manifest = manifest();
        manifest.state = chain(&[1, 1]);
        let mut compaction = Compaction::default();
        let holder = ExecutorId::new("a");
        let next = |compaction: &mut Compaction, now_us: u64| {
            let mut actions = vec![];
            compaction.advance(now_us, &manifest, Some(&holder), &executors, &config, &mut actions);
            match actions.pop() {
                Some(Action::CompactState { executor, .. }) => Some(executor.0),
                _ => None,
            }
        };
        assert_eq!(next(&mut compaction, 0).as_deref(), Some("a"));
        let failure = CompactFailure {
            incarnation: manifest.incarnation.clone(),
            generation: manifest.generation,
            replaced: manifest.state.iter().map(|run| run.name.clone()).collect(),
            executor: ExecutorId::new("a"),
            message: "no space".into(),
            retryable: true,
        };
        compaction.failed(&CompactFailure { executor: ExecutorId::new("b"), ..failure.clone() }, 1, &config);
        assert_eq!(compaction.trouble(), None, "nobody asked b");
        compaction.failed(&failure, 1, &config);
        assert_eq!(compaction.trouble(), Some("no space"));
        assert_eq!(next(&mut compaction, 2), None, "not at once");
        let retry_us = compaction.wakeup_us(2).expect("a time");
        assert_eq!(next(&mut compaction, retry_us).as_deref(), Some("b"));
        let deadline_us = compaction.wakeup_us(retry_us).expect("a deadline");
        assert_eq!(next(&mut compaction, deadline_us), None, "expired");
        let retry_us = compaction.wakeup_us(deadline_us).expect("a time");
        assert_eq!(next(&mut compaction, retry_us).as_deref(), Some("a"));
        compaction.executor_lost(&ExecutorId::new("a"));
        assert!(next(&mut compaction, retry_us).is_some(), "at once, by another");
    }
}
