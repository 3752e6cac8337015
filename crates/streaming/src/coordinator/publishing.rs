//! The sinks: recorded epochs go to each of them in order, the parts of one epoch side by side (the third step of the protocol).
//!
//! What is known here runs ahead of the manifest: positions and refused rows are written into it with the next swap. An epoch's refused rows enter
//! the manifest together with the position of the sink that refused them: later, and a new leader would not know of them; earlier, and it would publish
//! the epoch again, and refuse and count them twice (rule 15). Therefore the dead-letter sink passes an epoch only after all others have, and after
//! everything they refused is recorded and published.
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{
    action::{Action, EpochPublished, PublishOrder},
    config::{CoordinatorConfig, Rule, SECOND_US},
    event::{Now, PublishFailure},
};
use crate::{
    ids::{Epoch, ExecutorId, PartIndex, SinkId},
    manifest::{DEAD_LETTERS, EpochRecord, Manifest},
    pace::smoothed,
    report::{PartFile, PublishReport},
    window::write_timestamp_us,
};

/// From a failure that somebody has to repair to the next try, which is of one part of the sink. So long, at most, rows wait for
/// nothing once it is repaired.
pub(super) const REPAIR_US: u64 = 2 * SECOND_US;

#[derive(Debug)]
pub(super) struct Publishing {
    sinks: BTreeMap<SinkId, Sink>,
    /// Not in the manifest yet; by the epoch and the sink that refused them.
    refused: BTreeMap<(Epoch, SinkId), Vec<PartFile>>,
    /// In the swap that is under way.
    being_recorded: BTreeSet<Epoch>,
    /// Who has the part in memory.
    computed_by: BTreeMap<(Epoch, PartIndex), ExecutorId>,
    turn: usize,
}

#[derive(Debug, Default)]
struct Sink {
    /// Everything through this epoch is at the sink.
    through: Epoch,
    /// Of the epoch after `through` that is being published.
    parts: BTreeMap<PartIndex, Part>,
    rows: u64,
    retries: u64,
    write_us: u64,
    /// Since the first order of the epoch after `through`, and what epochs took lately from then until all of it was there.
    ordered_us: Option<u64>,
    publish_us: u64,
    failures: u32,
    /// Somebody has to repair something, and this part was tried last. Until one passes, one at a time tells for all: more would only keep
    /// other jobs' parts from being published.
    tried: Option<PartIndex>,
    trouble: Option<String>,
    /// Where its publishers are, if they stay somewhere.
    homes: BTreeMap<u16, ExecutorId>,
}

#[derive(Debug)]
enum Part {
    Waiting { until_us: u64 },
    Ordered { executor: ExecutorId, since_us: u64 },
    Done,
}

impl Part {
    fn is_due(&self, now_us: u64) -> bool {
        matches!(self, Self::Waiting { until_us } if *until_us <= now_us)
    }
}

/// How far the sinks are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    pub epochs: u64,
    pub bytes: u64,
    pub slowest: Option<SinkId>,
    /// What the slowest takes for an epoch.
    pub publish_us: u64,
}

/// What became of a publisher's report.
pub(super) enum Receipt {
    Taken,
    /// Not waited for. If it names a file of refused rows, that is rubbish, unless it is the same one again.
    Stray,
}

impl Publishing {
    pub fn new(manifest: &Manifest) -> Self {
        let sink = |(id, through): (&SinkId, &Epoch)| (*id, Sink { through: *through, ..Sink::default() });
        let mut sinks: BTreeMap<SinkId, Sink> = manifest.published.iter().map(sink).collect();
        let oldest = manifest.unpublished.first().map_or(manifest.epoch, |record| Epoch(record.epoch.0 - 1));
        sinks.entry(DEAD_LETTERS).or_insert_with(|| Sink { through: oldest, ..Sink::default() });
        Self { sinks, refused: BTreeMap::new(), being_recorded: BTreeSet::new(), computed_by: BTreeMap::new(), turn: 0 }
    }

    pub fn computed_by(&mut self, epoch: Epoch, part: PartIndex, executor: ExecutorId) {
        self.computed_by.insert((epoch, part), executor);
    }

    pub fn reported(&mut self, report: &PublishReport, now_us: u64, config: &CoordinatorConfig) -> Receipt {
        let Some(sink) = self.sinks.get_mut(&report.sink) else {
            return Receipt::Stray;
        };
        if report.epoch <= sink.through {
            return Receipt::Stray;
        }
        let Some(part @ (Part::Waiting { .. } | Part::Ordered { .. })) = sink.parts.get_mut(&report.part) else {
            return Receipt::Stray;
        };
        if report.sink == DEAD_LETTERS && report.refused.is_some() {
            // There is nowhere else for them to go.
            sink.failures += 1;
            sink.trouble = Some(format!(
                "the dead-letter table refused rows of epoch {}; give it the columns that the documentation lists",
                report.epoch
            ));
            *part = Part::Waiting { until_us: now_us + config.backoff(sink.failures) };
            return Receipt::Stray;
        }
        *part = Part::Done;
        sink.rows += report.rows;
        sink.retries += report.retries;
        sink.write_us += report.write_us;
        sink.failures = 0;
        sink.tried = None;
        sink.trouble = None;
        if let Some(file) = &report.refused {
            self.refused.entry((report.epoch, report.sink)).or_default().push(file.clone());
        }
        Receipt::Taken
    }

    /// Whether the failure is of an order that stands: an older one's, or another executor's than the one asked last, says nothing about the present.
    pub fn failed(&mut self, failure: &PublishFailure, now_us: u64, config: &CoordinatorConfig) -> bool {
        let Some(sink) = self.sinks.get_mut(&failure.sink).filter(|sink| failure.epoch == sink.through.next()) else {
            return false;
        };
        if let Some(part) = sink.parts.get_mut(&failure.part)
            && matches!(part, Part::Ordered { executor, .. } if *executor == failure.executor)
        {
            sink.failures += 1;
            sink.trouble = Some(failure.message.clone());
            let pause_us = if failure.retryable { config.backoff(sink.failures) } else { REPAIR_US.min(config.max_backoff_us) };
            *part = Part::Waiting { until_us: now_us + pause_us };
            if !failure.retryable {
                sink.tried.get_or_insert(failure.part);
            }
            return true;
        }
        false
    }

    pub fn executor_lost(&mut self, lost: &ExecutorId) {
        for part in self.sinks.values_mut().flat_map(|sink| sink.parts.values_mut()) {
            if matches!(part, Part::Ordered { executor, .. } if executor == lost) {
                *part = Part::Waiting { until_us: 0 };
            }
        }
        self.computed_by.retain(|_, executor| executor != lost);
        self.sinks.values_mut().for_each(|sink| sink.homes.retain(|_, home| home != lost));
    }

    /// Gives out what can be published now, and moves positions on.
    pub fn advance(
        &mut self,
        now: Now,
        manifest: &Manifest,
        executors: &BTreeSet<ExecutorId>,
        config: &CoordinatorConfig,
        actions: &mut Vec<Action>,
    ) {
        // The dead letters' id is the highest: they come last and see how far the others are.
        let mut others = Epoch(u64::MAX);
        for (&id, sink) in &mut self.sinks {
            let mut first = manifest.unpublished.partition_point(|record| record.epoch <= sink.through);
            if config.lacks(Rule::EpochsInOrder) {
                first = first.max(manifest.unpublished.len().saturating_sub(1));
            }
            for record in &manifest.unpublished[first..] {
                let may_grow = id == DEAD_LETTERS
                    && (others < record.epoch
                        || self.refused.keys().any(|(epoch, _)| *epoch == record.epoch)
                        || self.being_recorded.contains(&record.epoch));
                sink.add_parts(id, record);
                if may_grow || !sink.parts.values().all(|part| matches!(part, Part::Done)) {
                    sink.order(id, record, now.monotonic_us, executors, &self.computed_by, &mut self.turn, config, actions);
                    break;
                }
                sink.finish(id, record, now, actions);
            }
            if id != DEAD_LETTERS {
                others = others.min(sink.through);
            }
        }
    }

    /// Whether the next swap has something to say.
    pub fn is_ahead_of(&self, manifest: &Manifest) -> bool {
        // A sink's refused rows wait for its position.
        self.sinks.iter().any(|(id, sink)| manifest.published.get(id) != Some(&sink.through))
    }

    /// Writes positions and refused rows into the next manifest and forgets what no sink needs any more.
    ///
    /// # Panics
    /// When an epoch's files exceed what a part index can count, which sixty sinks refusing a row of each of 1024 parts do not reach.
    pub fn apply(&mut self, manifest: &mut Manifest) {
        let is_passed = |epoch: Epoch, sink: SinkId| self.sinks.get(&sink).is_some_and(|sink| sink.through >= epoch);
        let (passed, waiting) =
            std::mem::take(&mut self.refused).into_iter().partition(|((epoch, sink), _)| is_passed(*epoch, *sink));
        self.refused = waiting;
        let passed: BTreeMap<(Epoch, SinkId), Vec<PartFile>> = passed;
        for ((epoch, _), files) in passed {
            let at = manifest.unpublished.partition_point(|record| record.epoch < epoch);
            let record = manifest
                .unpublished
                .get_mut(at)
                .filter(|record| record.epoch == epoch)
                .expect("an epoch stays until the dead letters have passed it");
            let mut next = record
                .files
                .iter()
                .map(|file| file.part.0)
                .max()
                .map_or(0, |part| part.checked_add(1).expect("part index within 16 bits"));
            for file in files {
                manifest.counts.refused += file.rows.get(&DEAD_LETTERS).copied().unwrap_or(0);
                record.files.push(PartFile { part: PartIndex(next), ..file });
                next = next.checked_add(1).expect("part index within 16 bits");
            }
            self.being_recorded.insert(epoch);
        }
        manifest.published = self.sinks.iter().map(|(id, sink)| (*id, sink.through)).collect();
        let oldest = self.oldest();
        manifest.unpublished.retain(|record| record.epoch > oldest);
    }

    /// The swap under way is stored.
    pub fn stored(&mut self) {
        self.being_recorded.clear();
        let oldest = self.oldest();
        self.computed_by.retain(|(epoch, _), _| *epoch > oldest);
    }

    fn oldest(&self) -> Epoch {
        self.sinks.values().map(|sink| sink.through).min().unwrap_or_default()
    }

    pub fn refused_files(&self) -> impl Iterator<Item = &PartFile> {
        self.refused.values().flatten()
    }

    pub fn behind(&self, manifest: &Manifest) -> Behind {
        let oldest = self.oldest();
        let mut behind = Behind::default();
        for record in manifest.unpublished.iter().rev().take_while(|record| record.epoch > oldest) {
            behind.epochs += 1;
            behind.bytes += record.files.iter().map(|file| file.bytes).sum::<u64>();
        }
        if behind.epochs > 0 {
            // Among equals the one that comes first: the dead letters wait for the others.
            let slowest = self.sinks.iter().min_by_key(|(id, sink)| (sink.through, **id));
            behind.slowest = slowest.map(|(id, _)| *id);
            behind.publish_us = slowest.map_or(0, |(_, sink)| sink.publish_us);
        }
        behind
    }

    pub fn is_drained(&self, manifest: &Manifest) -> bool {
        self.refused.is_empty() && self.being_recorded.is_empty() && self.behind(manifest).epochs == 0
    }

    pub fn positions(&self) -> BTreeMap<SinkId, Epoch> {
        self.sinks.iter().map(|(id, sink)| (*id, sink.through)).collect()
    }

    /// Whether a sink has all rows of an epoch.
    pub fn has(&self, sink: SinkId, epoch: Epoch) -> bool {
        self.sinks.get(&sink).is_some_and(|sink| sink.through >= epoch)
    }

    pub fn troubles(&self) -> BTreeMap<SinkId, String> {
        self.sinks.iter().filter_map(|(id, sink)| Some((*id, sink.trouble.clone()?))).collect()
    }

    /// `None`: nothing waits for time (parts that wait for an executor, or for another part that is tried, wait for its event).
    pub fn wakeup_us(&self, config: &CoordinatorConfig) -> Option<u64> {
        let due = |part: &Part| match part {
            Part::Waiting { until_us: 0 } | Part::Done => None,
            Part::Waiting { until_us } => Some(*until_us),
            Part::Ordered { since_us, .. } => Some(since_us + config.publish_timeout_us),
        };
        self.sinks.values().flat_map(|sink| sink.parts.values()).filter_map(due).min()
    }
}

impl Sink {
    fn add_parts(&mut self, id: SinkId, record: &EpochRecord) {
        for file in &record.files {
            if file.rows.get(&id).is_some_and(|rows| *rows > 0) {
                self.parts.entry(file.part).or_insert(Part::Waiting { until_us: 0 });
            }
        }
    }

    /// The part that tells next whether somebody has repaired what was in the way, once the last one has failed and its pause is over:
    /// the one after it, as a part may have a failure of its own. Orders given before the failure are not waited for.
    fn to_try(&self, now_us: u64) -> Option<PartIndex> {
        let last = self.tried?;
        if !self.parts.get(&last)?.is_due(now_us) {
            return None;
        }
        let after = self.parts.range((Bound::Excluded(last), Bound::Unbounded));
        let mut in_turn = after.chain(self.parts.range(..=last));
        in_turn.find_map(|(index, part)| part.is_due(now_us).then_some(*index))
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, which holds these apart")]
    fn order(
        &mut self,
        id: SinkId,
        record: &EpochRecord,
        now_us: u64,
        executors: &BTreeSet<ExecutorId>,
        computed_by: &BTreeMap<(Epoch, PartIndex), ExecutorId>,
        turn: &mut usize,
        config: &CoordinatorConfig,
        actions: &mut Vec<Action>,
    ) {
        for part in self.parts.values_mut() {
            if let Part::Ordered { since_us, .. } = part
                && now_us >= *since_us + config.publish_timeout_us
            {
                *part = Part::Waiting { until_us: 0 };
                self.retries += 1;
            }
        }
        let to_try = self.to_try(now_us);
        for file in &record.files {
            let Some(part) = self.parts.get_mut(&file.part) else {
                continue;
            };
            if !part.is_due(now_us) {
                continue;
            }
            if self.tried.is_some() && to_try != Some(file.part) {
                // What becomes of that one is an event.
                *part = Part::Waiting { until_us: 0 };
                continue;
            }
            let home = self.homes.get(&file.part.publisher());
            let holder = home.or_else(|| computed_by.get(&(record.epoch, file.part)));
            let holder = holder.filter(|holder| self.failures == 0 && executors.contains(*holder));
            let Some(executor) = holder.or_else(|| executors.iter().nth(*turn % executors.len().max(1))) else {
                *part = Part::Waiting { until_us: 0 };
                continue;
            };
            *turn = turn.wrapping_add(1);
            *part = Part::Ordered { executor: executor.clone(), since_us: now_us };
            self.ordered_us.get_or_insert(now_us);
            self.tried = to_try;
            let executor = executor.clone();
            if config.staying.contains(&id) {
                self.homes.insert(file.part.publisher(), executor.clone());
            }
            // Dead letters have a key of their own each, so one timestamp does for all, refused rows beyond the window's parts included.
            let timestamp_us =
                if id == DEAD_LETTERS { record.window_start_us } else { write_timestamp_us(record.window_start_us, file.part) };
            actions.push(Action::Publish(PublishOrder {
                sink: id,
                epoch: record.epoch,
                part: file.clone(),
                timestamp_us,
                executor,
            }));
        }
    }

    fn finish(&mut self, id: SinkId, record: &EpochRecord, now: Now, actions: &mut Vec<Action>) {
        self.through = record.epoch;
        if let Some(since_us) = self.ordered_us.take() {
            self.publish_us = smoothed(self.publish_us, now.monotonic_us.saturating_sub(since_us));
        }
        if !self.parts.is_empty() {
            actions.push(Action::EpochPublished(EpochPublished {
                sink: id,
                epoch: record.epoch,
                rows: self.rows,
                retries: self.retries,
                write_us: self.write_us,
                latency_us: u64::try_from(now.wall_us - record.recorded_at_us).unwrap_or(0),
            }));
        }
        self.parts.clear();
        (self.rows, self.retries, self.write_us) = (0, 0, 0);
    }
}
