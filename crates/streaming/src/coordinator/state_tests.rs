//! Jobs with a state: single parts, the watermark, idle partitions, timers, and the runs of state with their files.
use std::collections::{BTreeMap, BTreeSet};

use super::{
    tests::{Bench, SINK, SOURCE, file, manifest},
    *,
};
use crate::{
    frame::{Frame, PartWork},
    ids::{Epoch, Incarnation, PartIndex, SourcePartition},
    manifest::{StateEnd, StateRun},
    pace::PaceConfig,
    report::{CompactFailure, PartReport, StepTimes},
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

    fn deleted(&self) -> BTreeSet<String> {
        let names = |action| if let Action::DeleteFiles { names } = action { names.clone() } else { vec![] };
        self.done.iter().cloned().flat_map(names).collect()
    }
}

#[test]
fn one_part_reads_all_ranges_and_a_report_of_other_ranges_does_not_count() {
    let mut bench = leading(config());
    bench.available(0, 3);
    let (attempt, frame) = bench.submitted().expect("an attempt");
    assert_eq!((frame.parts.len(), frame.parts[0].ranges.len(), frame.rows()), (1, 1, 3));
    bench.available(1, 2);
    let report = |work: PartWork| {
        Event::PartReported(PartReport {
            incarnation: Incarnation::new("incarnation"),
            generation: Generation(1),
            epoch: frame.epoch,
            attempt,
            execution: Nonce::new("execution"),
            executor: ExecutorId::new("executor"),
            work,
            file: file(PartIndex(0), "file", SINK),
            counts: Counts::default(),
            times: StepTimes::default(),
            max_timestamp_ms: Some(7),
            event_time_us: BTreeMap::new(),
            fired_us: None,
        })
    };
    bench.send(report(PartWork { ranges: vec![], ..frame.parts[0].clone() }));
    let twice = [frame.parts[0].ranges.clone(), frame.parts[0].ranges.clone()].concat();
    bench.send(report(PartWork { ranges: twice, ..frame.parts[0].clone() }));
    assert!(matches!(bench.coordinator.status().phase, Phase::Computing { .. }));
    bench.send(report(frame.parts[0].clone()));
    bench.store();
    let next = |bench: &Bench| bench.coordinator.manifest().sources[&SOURCE].next.clone();
    assert_eq!(next(&bench), BTreeMap::from([(0, 3), (1, 0)]));
    bench.available(0, 4);
    let frame = bench.report(&[], 0);
    assert_eq!(frame.parts[0].ranges.iter().map(|of| of.source).collect::<Vec<_>>(), [partition(1)], "submitted at the record");
    bench.store();
    let frame = bench.report(&[], 0);
    bench.store();
    assert_eq!((frame.parts[0].ranges.len(), next(&bench)), (1, BTreeMap::from([(0, 4), (1, 2)])));
    assert_eq!(bench.coordinator.manifest().counts.late, 2);
    assert_eq!(bench.coordinator.manifest().window_end_us, 1 + 3, "a window of one microsecond for each epoch");
}

#[test]
fn a_frame_carries_the_watermark_of_what_is_recorded() {
    let mut bench = leading(CoordinatorConfig { has_timers: false, ..config() });
    assert_eq!(bench.epoch(&[(0, 50)], 0).watermark_us, None);
    assert_eq!(bench.coordinator.manifest().watermark_us, None, "partition 1 has seen nothing, and is not idle");
    assert_eq!(bench.epoch(&[(1, 30)], 0).watermark_us, None);
    assert_eq!(bench.coordinator.manifest().watermark_us, Some(30));
    assert_eq!(bench.epoch(&[(1, 20)], 0).watermark_us, Some(30));
    assert_eq!(bench.coordinator.manifest().sources[&SOURCE].event_time_us, BTreeMap::from([(0, 50), (1, 30)]));
    // A new partition has seen nothing either.
    bench.list(&BTreeMap::from([(0, 1), (1, 2), (2, 0)]));
    assert_eq!(bench.epoch(&[(1, 60)], 0).watermark_us, Some(30));
    assert_eq!(bench.coordinator.manifest().watermark_us, Some(30), "and does not take it back");
    assert!(bench.coordinator.manifest().frame_watermark_us == Some(30) && bench.submitted().is_none());
}

#[test]
fn an_epoch_closes_what_its_own_records_finish() {
    let mut bench = leading(CoordinatorConfig { timer_granule_us: 10, ..config() });
    bench.closing_epoch(&[(0, 50)], i64::MAX);
    bench.closing_epoch(&[(1, 42)], i64::MAX);
    let at = |bench: &Bench| {
        let manifest = bench.coordinator.manifest();
        (manifest.frame_watermark_us, manifest.fired_through_us(), manifest.watermark_us)
    };
    assert_eq!(at(&bench), (None, Some(42), Some(42)));
    assert!(bench.submitted().is_none(), "no timer waits for an epoch without rows");
    bench.closing_epoch(&[(1, 48)], i64::MAX);
    assert_eq!(at(&bench), (Some(42), Some(42), Some(48)), "no timer is due between 42 and 48");
    // Partition 1 falls silent, and the watermark goes on with partition 0; what the epoch of that closed stays closed when 1 wakes up with what is older.
    bench.hush(IDLE_US);
    bench.hush(IDLE_US);
    bench.report(&[], 0);
    bench.store();
    let frame = bench.closing_epoch(&[(0, 70)], i64::MAX);
    assert_eq!((frame.watermark_us, at(&bench)), (Some(50), (Some(50), Some(70), Some(70))));
    assert_eq!(bench.closing_epoch(&[(1, 55)], i64::MAX).watermark_us, Some(70));
}

#[test]
fn a_recorded_epoch_tells_its_bytes_and_through_which_event_time_all_is_there() {
    let leading_with = |has_timers: bool| {
        let mut bench = leading(CoordinatorConfig { has_timers, timer_granule_us: 10, ..config() });
        bench.epoch(&[(0, 50)], 0);
        bench.become_available(&[(1, 42)]);
        bench.report_with(&[(1, 42)], |_, report| (report.file.bytes, report.file.state_bytes) = (10, 4));
        bench.store();
        let told = bench.done.iter().find_map(|action| match action {
            Action::EpochRecorded(epoch) => Some((epoch.bytes_out, epoch.complete_through_us)),
            _ => None,
        });
        (bench, told.expect("it is recorded"))
    };
    assert_eq!(leading_with(false).1, (6, Some(42)));
    let (mut bench, told) = leading_with(true);
    assert_eq!(told, (6, None), "what closes by then is not computed yet");
    bench.report(&[], 0);
    bench.store();
    assert_eq!(bench.coordinator.status().complete_through_us, Some(42));
}

#[test]
fn the_oldest_runs_of_state_are_forgotten_when_all_in_them_has_ended() {
    let mut bench = leading(CoordinatorConfig { compact_from_runs: 100, ..config() });
    // Partition 1 never has anything.
    bench.hush(IDLE_US);
    bench.hush(IDLE_US);
    let mut epoch = |time: i64, end_us: i64, runs: &[(&str, u64, u64)]| {
        bench.closing_epoch(&[(0, time)], end_us);
        assert_eq!(bench.runs(), runs);
    };
    epoch(10, 30, &[("epoch-1", 1, 1)]);
    epoch(20, 60, &[("epoch-1", 1, 1), ("epoch-2", 2, 2)]);
    epoch(25, 40, &[("epoch-1", 1, 1), ("epoch-2", 2, 2), ("epoch-3", 3, 3)]);
    // What is left covers their epochs.
    epoch(30, 70, &[("epoch-2", 1, 2), ("epoch-3", 3, 3), ("epoch-4", 4, 4)]);
    // One that has ended waits for those before it.
    epoch(45, 70, &[("epoch-2", 1, 2), ("epoch-3", 3, 3), ("epoch-4", 4, 4), ("epoch-5", 5, 5)]);
    epoch(70, 70, &[]);
    epoch(75, i64::MAX, &[("epoch-7", 1, 7)]);
}

#[test]
fn a_silent_partition_holds_the_watermark_back_for_the_idle_time_also_over_a_takeover() {
    let mut bench = leading(CoordinatorConfig { has_timers: false, ..config() });
    bench.epoch(&[(0, 50)], 0);
    bench.hush(IDLE_US / 2);
    bench.epoch(&[(0, 60)], 0);
    assert_eq!(bench.coordinator.status().watermark_us, None);
    bench.hush(IDLE_US / 2);
    assert_eq!(bench.coordinator.status().watermark_us, Some(60));
    assert_eq!(bench.epoch(&[(0, 70)], 0).watermark_us, Some(60));
    let manifest = bench.coordinator.manifest().clone();
    assert_eq!((manifest.watermark_us, manifest.frame_watermark_us), (Some(70), Some(60)));
    assert_eq!(manifest.sources[&SOURCE].idle, BTreeSet::from([1]));

    let mut bench = Bench::leading_as(manifest, CoordinatorConfig { has_timers: false, ..config() });
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    bench.epoch(&[(0, 80)], 0);
    assert_eq!(bench.coordinator.status().watermark_us, Some(80), "it is not waited for again");
    bench.epoch(&[(1, 10)], 0);
    assert_eq!(bench.coordinator.manifest().sources[&SOURCE].idle, BTreeSet::new());
    bench.epoch(&[(0, 90)], 0);
    assert_eq!(bench.coordinator.status().watermark_us, Some(80), "it is awake, and behind");
    bench.hush(2 * IDLE_US);
    assert_eq!(bench.coordinator.status().watermark_us, Some(80), "nobody has asked in that time");
    bench.hush(IDLE_US);
    assert_eq!(bench.coordinator.status().watermark_us, Some(90));
}

#[test]
fn a_partition_with_a_backlog_is_never_idle_and_one_that_nobody_can_ask_for_does_not_become_so() {
    let mut bench = leading(CoordinatorConfig { has_timers: false, ..config() });
    bench.epoch(&[(0, 50)], 0);
    // The broker has a record that no executor has read yet.
    bench.list(&BTreeMap::from([(0, 1), (1, 1)]));
    bench.pass(2 * IDLE_US);
    bench.list(&BTreeMap::from([(0, 1), (1, 1)]));
    bench.epoch(&[(0, 60)], 0);
    assert_eq!(bench.coordinator.status().watermark_us, None);
    bench.epoch(&[(1, 40)], 0);
    assert_eq!(bench.coordinator.status().watermark_us, Some(40));
    bench.hush(0);
    bench.send(Event::SourceAway { source: SOURCE, message: "all brokers are down".into() });
    bench.pass(2 * IDLE_US);
    bench.send(Event::SourceBack { source: SOURCE });
    bench.hush(0);
    bench.hush(IDLE_US - 1);
    assert_eq!(bench.coordinator.status().watermark_us, Some(40));
    bench.hush(1);
    assert_eq!(bench.coordinator.status().watermark_us, Some(60));
}

#[test]
fn an_epoch_without_ranges_follows_when_timers_may_be_due_and_nothing_else_does() {
    let mut bench = leading(config());
    bench.epoch(&[(0, 50)], 0);
    assert_eq!(bench.submitted(), None, "no watermark yet");
    bench.epoch(&[(1, 40)], 0);
    let frame = bench.report(&[], 0);
    assert_eq!((frame.rows(), frame.parts.len(), frame.watermark_us), (0, 1, Some(40)));
    bench.store();
    assert_eq!(bench.submitted(), None, "nothing is due any more");
    bench.hush(0);
    bench.hush(IDLE_US);
    let frame = bench.report(&[], 0);
    assert_eq!((frame.rows(), frame.watermark_us), (0, Some(50)), "both are idle");
    bench.store();
    bench.hush(10 * IDLE_US);
    assert_eq!(bench.submitted(), None);
    assert_eq!(bench.coordinator.next_wakeup().filter(|at| *at <= bench.now.monotonic_us), None, "and nothing is waited for");
}

#[test]
fn the_watermark_must_pass_a_multiple_of_the_granule() {
    let mut bench = leading(CoordinatorConfig { timer_granule_us: 100, ..config() });
    bench.list(&BTreeMap::from([(0, 0), (1, 0)]));
    bench.hush(IDLE_US);
    bench.epoch(&[(0, 150)], 0);
    assert_eq!(bench.report(&[], 0).watermark_us, Some(150), "the first one");
    bench.store();
    bench.epoch(&[(0, 199)], 0);
    assert_eq!(bench.submitted(), None);
    bench.epoch(&[(0, 200)], 0);
    assert_eq!(bench.report(&[], 0).watermark_us, Some(200));
}

#[test]
fn an_epoch_in_which_only_time_passes_and_that_always_fails_fails_the_job() {
    let mut bench = leading(config());
    bench.hush(IDLE_US);
    bench.epoch(&[(0, 150)], 0);
    for _ in 0..bench.coordinator.config.attempts_per_record {
        let (attempt, frame) = bench.submitted().expect("an attempt");
        assert_eq!(frame.rows(), 0);
        let outcome = AttemptOutcome::Failed { message: "sum overflows".into(), retryable: true, data: true };
        bench.send(Event::AttemptEnded { attempt, outcome });
        bench.pass(SECOND_US);
    }
    assert!(matches!(&bench.coordinator.status().phase, Phase::Failed { reason } if reason.contains("sum overflows")));
}

#[test]
fn recorded_deltas_become_runs_and_merged_runs_take_their_place() {
    let mut bench = leading(CoordinatorConfig { watermarked: BTreeMap::new(), compact_from_runs: 3, ..config() });
    bench.epoch(&[(0, 1)], 0);
    bench.epoch(&[(0, 1)], 5);
    assert_eq!(bench.runs(), [("epoch-2", 1, 2)], "the first epoch changed nothing");
    bench.epoch(&[(0, 1)], 5);
    bench.available(0, 4);
    let state = |action: &Action| if let Action::Submit { state, .. } = action { Some(state.clone()) } else { None };
    let given = bench.done.iter().find_map(state).expect("an attempt");
    assert_eq!(given, bench.coordinator.manifest().state);
    bench.report(&[], 5);
    bench.store();
    let runs = bench.compact_order().expect("an order");
    assert_eq!(runs, bench.coordinator.manifest().state);
    assert_eq!(bench.runs().len(), 3);

    // Another epoch is recorded, and yet another is under way when the answer comes.
    bench.epoch(&[(0, 1)], 5);
    assert_eq!(bench.compact_order(), None);
    bench.available(0, 6);
    bench.report(&[], 5);
    bench.compacted(&runs, "merged", Generation(1));
    bench.store();
    assert_eq!(bench.runs(), [("epoch-2", 1, 2), ("epoch-3", 3, 3), ("epoch-4", 4, 4), ("epoch-5", 5, 5), ("epoch-6", 6, 6)]);
    // Nothing more comes to travel with.
    bench.pass(SECOND_US);
    bench.store();
    assert_eq!(bench.runs(), [("merged", 1, 4), ("epoch-5", 5, 5), ("epoch-6", 6, 6)]);
}

#[test]
fn files_go_when_they_are_neither_published_nor_state_any_more() {
    let mut bench = leading(CoordinatorConfig { watermarked: BTreeMap::new(), position_delay_us: 1, ..config() });
    let retention_us = bench.coordinator.config.file_retention_us;
    bench.epoch(&[(0, 1)], 5);
    let order = bench.orders()[0].clone();
    bench.published(&order, None);
    bench.pass(1);
    bench.store();
    assert!(bench.coordinator.manifest().unpublished.is_empty());
    bench.pass(2 * retention_us);
    assert_eq!(bench.deleted(), BTreeSet::new(), "published, and state");

    bench.epoch(&[(0, 1)], 5);
    let order = bench.orders()[0].clone();
    let runs = bench.compact_order().expect("an order");
    bench.compacted(&runs, "merged", Generation(1));
    bench.pass(1);
    bench.store();
    assert_eq!(bench.runs(), [("merged", 1, 2)]);
    bench.pass(2 * retention_us);
    assert_eq!(bench.deleted(), BTreeSet::from(["epoch-1".to_owned()]), "epoch 2 is merged, and not published");
    bench.done.clear();
    let ordered = bench.orders().pop().unwrap_or(order);
    bench.published(&ordered, None);
    bench.pass(1);
    bench.store();
    bench.pass(2 * retention_us);
    assert_eq!(bench.deleted(), BTreeSet::from(["epoch-2".to_owned()]));
}

#[test]
fn what_a_savepoint_names_goes_only_when_no_savepoint_names_it_any_more() {
    let mut bench = leading(CoordinatorConfig { watermarked: BTreeMap::new(), position_delay_us: 1, ..config() });
    let retention_us = bench.coordinator.config.file_retention_us;
    for _ in 0..2 {
        bench.epoch(&[(0, 1)], 5);
        let order = bench.orders().pop().expect("an order");
        bench.published(&order, None);
        bench.done.retain(|action| !matches!(action, Action::Publish(_)));
    }
    let pinned = |names: &[&str]| Event::Pinned { names: names.iter().map(|name| (*name).to_owned()).collect() };
    bench.send(pinned(&["epoch-1", "epoch-2"]));
    let runs = bench.compact_order().expect("an order");
    bench.compacted(&runs, "merged", Generation(1));
    bench.pass(1);
    bench.store();
    assert_eq!(bench.runs(), [("merged", 1, 2)]);
    bench.pass(2 * retention_us);
    assert_eq!(bench.deleted(), BTreeSet::new());
    // One savepoint is dropped, another stays.
    bench.send(pinned(&["epoch-2", "merged"]));
    bench.pass(2 * retention_us);
    assert_eq!(bench.deleted(), BTreeSet::from(["epoch-1".to_owned()]));
    bench.send(pinned(&[]));
    bench.pass(2 * retention_us);
    assert_eq!(bench.deleted(), BTreeSet::from(["epoch-1".to_owned(), "epoch-2".to_owned()]), "what is state stays");
}

#[test]
fn what_a_crash_left_goes_and_what_is_named_all_the_same_stays() {
    let mut bench = leading(CoordinatorConfig { watermarked: BTreeMap::new(), position_delay_us: 1, ..config() });
    let retention_us = bench.coordinator.config.file_retention_us;
    bench.epoch(&[(0, 1)], 5);
    let pinned = |names: &[&str]| Event::Pinned { names: names.iter().map(|name| (*name).to_owned()).collect() };
    bench.send(pinned(&["kept"]));
    bench.send(Event::LeftBehind { names: ["epoch-1", "epoch-2", "half-merged", "kept"].map(str::to_owned).to_vec() });
    bench.epoch(&[(0, 1)], 5);
    bench.pass(retention_us / 2);
    assert_eq!(bench.deleted(), BTreeSet::new(), "who reads it yet has time");
    bench.pass(retention_us);
    assert_eq!(bench.deleted(), BTreeSet::from(["half-merged".to_owned()]));
    bench.send(pinned(&[]));
    bench.pass(2 * retention_us);
    assert_eq!(bench.deleted(), BTreeSet::from(["half-merged", "kept"].map(str::to_owned)));
}

#[test]
fn nothing_is_deleted_while_savepoints_are_not_known() {
    let stateful = CoordinatorConfig { watermarked: BTreeMap::new(), position_delay_us: 1, ..config() };
    let retention_us = stateful.file_retention_us;
    let mut bench = Bench::leading_as(manifest(), stateful);
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    bench.compacted(
        &[StateRun {
            name: "r".into(),
            bytes: 1,
            crc32: 0,
            state_bytes: 1,
            first_epoch: Epoch(1),
            last_epoch: Epoch(1),
            end: None,
        }],
        "stray",
        Generation(1),
    );
    bench.pass(2 * retention_us);
    assert_eq!(bench.deleted(), BTreeSet::new());
    assert_eq!(bench.coordinator.next_wakeup().filter(|at| *at <= bench.now.monotonic_us), None, "and nobody is woken for it");
    bench.send(Event::Pinned { names: BTreeSet::new() });
    assert_eq!(bench.deleted(), BTreeSet::from(["stray".to_owned()]));
}

#[test]
fn rows_of_an_earlier_run_that_are_gone_are_forgotten_by_a_swap() {
    let replace = crate::manifest::Replace { before_us: 1, through: BTreeMap::from([(SOURCE, BTreeMap::from([(0, 1)]))]) };
    let mut bench = Bench::leading_as(Manifest { replace: Some(replace.clone()), ..manifest() }, config());
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    assert!(!replace.is_due(&bench.coordinator.manifest().sources));
    bench.epoch(&[(0, 1)], 5);
    assert!(replace.is_due(&bench.coordinator.manifest().sources));
    assert_eq!(bench.coordinator.manifest().replace, Some(replace));
    bench.send(Event::Replaced);
    bench.pass(2 * SECOND_US);
    bench.store();
    assert_eq!(bench.coordinator.manifest().replace, None);
    assert_eq!(bench.coordinator.next_wakeup().filter(|at| *at <= bench.now.monotonic_us), None);
}

#[test]
fn a_takeover_forgets_an_order_and_its_late_file_is_rubbish() {
    let stateful = || CoordinatorConfig { watermarked: BTreeMap::new(), ..config() };
    let mut bench = leading(stateful());
    bench.epoch(&[(0, 1)], 5);
    bench.epoch(&[(0, 1)], 5);
    let runs = bench.compact_order().expect("an order");
    let mut bench = Bench::leading_as(bench.coordinator.manifest().clone(), stateful());
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    bench.send(Event::Pinned { names: BTreeSet::new() });
    assert_eq!(bench.compact_order().expect("an order of its own"), runs);
    bench.compacted(&runs, "late", Generation(1));
    bench.compacted(&runs, "merged", Generation(2));
    bench.compacted(&runs, "again", Generation(2));
    bench.compacted(&runs, "merged", Generation(2));
    bench.compacted(&runs, "future", Generation(3));
    bench.pass(SECOND_US);
    bench.pass(SECOND_US);
    bench.store();
    assert_eq!(bench.runs(), [("merged", 1, 2)]);
    bench.pass(2 * bench.coordinator.config.file_retention_us);
    let deleted = bench.deleted();
    assert!(deleted.contains("late") && deleted.contains("again"), "{deleted:?}");
    assert!(!deleted.contains("merged") && !deleted.contains("future"), "{deleted:?}");
}

#[test]
fn compaction_that_fails_is_told_and_holds_nothing_up() {
    let mut bench = leading(CoordinatorConfig { watermarked: BTreeMap::new(), ..config() });
    bench.epoch(&[(0, 1)], 5);
    bench.epoch(&[(0, 1)], 5);
    let runs = bench.compact_order().expect("an order");
    bench.send(Event::CompactFailed(CompactFailure {
        incarnation: Incarnation::new("incarnation"),
        generation: Generation(1),
        replaced: runs.iter().map(|run| run.name.clone()).collect(),
        executor: ExecutorId::new("executor"),
        message: "no space".into(),
        retryable: true,
    }));
    assert_eq!(bench.coordinator.status().compaction_trouble.as_deref(), Some("no space"));
    assert_eq!(bench.compact_order(), None);
    bench.epoch(&[(0, 1)], 5);
    assert_eq!(bench.runs().len(), 3);
    bench.pass(SECOND_US);
    assert_eq!(bench.compact_order().expect("an order").len(), 3);
    bench.send(Event::Command(Command::Pause));
    assert_eq!(bench.coordinator.next_wakeup().filter(|at| *at <= bench.now.monotonic_us), None);
}

/// As the version before there was state wrote it.
#[test]
fn manifests_of_the_version_before_are_read() {
    let old = r#"{
        "job": "job", "incarnation": "job-1", "generation": 3, "nonce": "n", "epoch": 7, "life": { "state": "running" },
        "sources": { "0": { "topic": "readings", "topic_id": "id", "next": { "0": 12 }, "max_timestamp_ms": { "0": 5 } } },
        "window_end_us": 9,
        "counts": { "records_in": 1, "bytes_in": 2, "rows_out": 3, "dead_letters": 4, "refused": 5, "lost": 6 },
        "unpublished": [{
            "epoch": 7, "window_start_us": 8,
            "files": [{ "part": 0, "name": "f", "bytes": 1, "crc32": 2, "rows": { "0": 3 } }],
            "through": { "0": { "0": 12 } }, "max_timestamp_ms": null, "recorded_at_us": 1
        }],
        "published": { "0": 6, "4294967295": 6 },
        "recorded_at_us": 1
    }"#;
    let manifest: Manifest = serde_json::from_str(old).expect("readable");
    assert_eq!((manifest.epoch, manifest.counts.late, manifest.watermark_us), (Epoch(7), 0, None));
    assert!(
        manifest.state.is_empty()
            && manifest.kept_columns.is_empty()
            && manifest.sources[&SOURCE].idle.is_empty()
            && manifest.sources[&SOURCE].log.is_empty()
    );
    assert_eq!(manifest.files().map(|file| file.state_bytes).collect::<Vec<_>>(), [0]);
    let new = Manifest {
        state: vec![StateRun {
            name: "r".into(),
            bytes: 1,
            crc32: 2,
            state_bytes: 3,
            first_epoch: Epoch(1),
            last_epoch: Epoch(7),
            end: None,
        }],
        ..manifest
    };
    let written = serde_json::to_string(&new).expect("writable");
    assert_eq!(serde_json::from_str::<Manifest>(&written).expect("readable"), new);
}

#[test]
fn state_of_other_types_is_not_read_where_it_tells_its_types() {
    let run =
        StateRun { name: "r".into(), bytes: 1, crc32: 2, state_bytes: 3, first_epoch: Epoch(1), last_epoch: Epoch(1), end: None };
    let lines = |line: &str| vec![line.to_owned()];
    let untold = Manifest { state: vec![run], layout: lines("Aggregate: by [d]"), ..manifest() };
    let told = Manifest { kept_columns: lines("Aggregate: key d Date32"), ..untold.clone() };
    let by = |manifest: &Manifest, column: &str| {
        let (layout, columns) = (lines("Aggregate: by [d]"), lines(column));
        manifest.unreadable_by(&layout, &columns).map(|(then, now)| format!("{then}, {now}"))
    };
    let (date, time) = ("Aggregate: key d Date32", "Aggregate: key d Timestamp(ns)");
    assert_eq!(by(&told, date), None);
    assert_eq!(by(&told, time), Some(format!("{date}, {time}")));
    assert_eq!(by(&untold, time), None, "an earlier version did not tell them");
    assert_eq!(by(&Manifest { state: vec![], ..told }, time), None, "nothing is read");
}
