//! Jobs with a state: single parts, the watermark, idle partitions, timers, and the runs of state with their files.
mod files;
mod manifests;
mod runs;
mod watermark;

use super::*;
use crate::{
    manifest::{StateEnd, StateRun},
    pace::PaceConfig,
};

const IDLE_US: u64 = IDLE_TIMEOUT_US;

fn config() -> CoordinatorConfig {
    CoordinatorConfig {
        layout: PartLayout::Shared { most: 1 },
        watermarked: BTreeMap::from([(SOURCE, IDLE_US)]),
        has_timers: true,
        compact_from_runs: 2,
        pace: PaceConfig { rest_us: 0, unpublished_at_ease: 100, ..PaceConfig::default() },
        ..CoordinatorConfig::default()
    }
}

fn leading(config: CoordinatorConfig) -> Bench {
    let mut bench = Bench::leading_as(manifest(), config);
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    bench.send(Event::Pinned { names: BTreeSet::new() });
    bench
}

fn partition(partition: i32) -> SourcePartition {
    SourcePartition { source: SOURCE, partition }
}

impl Bench {
    fn pass(&mut self, us: u64) {
        self.now.monotonic_us += us;
        self.now.wall_us += us as i64;
        self.send(Event::Tick);
    }

    /// Time passes, and then the broker says that there is nothing new.
    fn hush(&mut self, us: u64) {
        self.pass(us);
        let ends = self.coordinator.sources.positions().iter().map(|(key, next)| (key.partition, *next)).collect();
        self.list(&ends);
    }

    fn available(&mut self, partition: i32, end: i64) {
        self.send(Event::Available { partition: self::partition(partition), log: "first".into(), end, bytes_per_record: 1 });
    }

    /// The attempt's only part is computed; the record is under way.
    fn report(&mut self, times: &[(i32, i64)], state_bytes: u64) -> Frame {
        self.report_with(times, |_, report| report.file.state_bytes = state_bytes)
    }

    fn report_with(&mut self, times: &[(i32, i64)], change: impl FnOnce(&Frame, &mut PartReport)) -> Frame {
        let (attempt, frame) = self.submitted().expect("an attempt");
        let name = format!("epoch-{}", frame.epoch);
        let mut report = PartReport {
            incarnation: Incarnation::new("incarnation"),
            generation: self.coordinator.generation,
            epoch: frame.epoch,
            attempt,
            execution: Nonce(name.clone()),
            executor: ExecutorId::new("executor"),
            work: frame.parts[0].clone(),
            file: file(PartIndex(0), &name, SINK),
            counts: Counts { late: 1, ..Counts::default() },
            times: StepTimes::default(),
            max_timestamp_ms: None,
            event_time_us: times.iter().map(|(number, time)| (partition(*number), *time)).collect(),
            fired_us: None,
        };
        change(&frame, &mut report);
        self.send(Event::PartReported(report));
        frame
    }

    /// The same where the task fires the timers that its records make due, and what it changes ends at `end_us`.
    fn closing_epoch(&mut self, times: &[(i32, i64)], end_us: i64) -> Frame {
        self.become_available(times);
        let frame = self.report_with(times, |frame, report| {
            let closing = frame.closing.as_ref().expect("only one part");
            report.fired_us = closing.watermark_us(frame.watermark_us, &report.event_time_us);
            report.file.state_bytes = 1;
            report.file.state_end = Some(StateEnd { watermark_us: Some(end_us), clock_us: None });
        });
        self.store();
        frame
    }

    /// One record more of each partition.
    fn become_available(&mut self, times: &[(i32, i64)]) {
        for (number, _) in times {
            let next = self.coordinator.sources.position(partition(*number)).expect("a partition");
            self.available(*number, next + 1);
        }
    }

    /// An epoch with one record of each partition given, from its report to its record.
    fn epoch(&mut self, times: &[(i32, i64)], state_bytes: u64) -> Frame {
        self.become_available(times);
        let frame = self.report(times, state_bytes);
        self.store();
        frame
    }

    fn runs(&self) -> Vec<(&str, u64, u64)> {
        let run = |run: &StateRun| (run.first_epoch.0, run.last_epoch.0);
        self.coordinator.manifest().state.iter().map(|it| (it.name.as_str(), run(it).0, run(it).1)).collect()
    }

    fn compact_order(&mut self) -> Option<Vec<StateRun>> {
        let at = self.done.iter().position(|action| matches!(action, Action::CompactState { .. }))?;
        let Action::CompactState { runs, .. } = self.done.remove(at) else { return None };
        Some(runs)
    }

    fn compacted(&mut self, runs: &[StateRun], name: &str, generation: Generation) {
        let (first_epoch, last_epoch) = (runs[0].first_epoch, runs[runs.len() - 1].last_epoch);
        self.send(Event::StateCompacted(CompactReport {
            incarnation: Incarnation::new("incarnation"),
            generation,
            replaced: runs.iter().map(|run| run.name.clone()).collect(),
            run: StateRun { name: name.into(), bytes: 9, crc32: 0, state_bytes: 9, first_epoch, last_epoch, end: None },
        }));
    }

    /// The runs that are ordered to be merged are merged, and that is recorded.
    fn merge(&mut self) {
        let runs = self.compact_order().expect("an order");
        self.compacted(&runs, "merged", Generation(1));
        self.pass(1);
        self.store();
    }

    fn deleted(&self) -> BTreeSet<String> {
        let names = |action| if let Action::DeleteFiles { names } = action { names.clone() } else { vec![] };
        self.done.iter().cloned().flat_map(names).collect()
    }
}
