//! Single parts, and how the watermark goes on: over idle partitions, in frames, and by timers that are due.
use super::*;
use crate::frame::PartWork;

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
