//! Schedules that the simulation (`tests/simulation`) found to go wrong, each as short as it gets.
use std::collections::BTreeMap;

use super::*;
use crate::{
    frame::Frame,
    ids::{Epoch, Incarnation, JobName, PartIndex, SourceId, SourcePartition},
    manifest::{EpochRecord, SourcePosition},
    report::{PartReport, StepTimes},
};

pub(super) const SOURCE: SourceId = SourceId(0);
pub(super) const SINK: SinkId = SinkId(0);

/// A new job that reads two partitions.
pub(super) fn manifest() -> Manifest {
    let next = BTreeMap::from([(0, 0), (1, 0)]);
    let topic_id = Some("first".to_owned());
    let position = SourcePosition { topic: "readings".into(), topic_id, next, ..SourcePosition::default() };
    Manifest {
        sources: BTreeMap::from([(SOURCE, position)]),
        published: BTreeMap::from([(SINK, Epoch(0)), (DEAD_LETTERS, Epoch(0))]),
        ..Manifest::new(JobName::new("job"), Incarnation::new("incarnation"), Generation(0), Nonce::new("created"))
    }
}

/// A leading coordinator and all that it has done since it was last asked.
pub(super) struct Bench {
    pub coordinator: JobCoordinator,
    pub now: Now,
    swaps: u64,
    pub done: Vec<Action>,
}

impl Bench {
    fn leading() -> Self {
        Self::leading_as(manifest(), CoordinatorConfig { on_data_loss: OnDataLoss::Continue, ..CoordinatorConfig::default() })
    }

    /// Leads the job, with its topic known.
    pub fn leading_as(manifest: Manifest, config: CoordinatorConfig) -> Self {
        let ends = manifest.sources[&SOURCE].next.clone();
        let mut bench = Self::taking_over(manifest, config);
        bench.store();
        bench.list(&ends);
        bench
    }

    /// The first swap is under way.
    fn taking_over(manifest: Manifest, config: CoordinatorConfig) -> Self {
        let generation = manifest.generation.next();
        let mut count = 0;
        let nonces = move || {
            count += 1;
            Nonce(format!("nonce-{generation}-{count}"))
        };
        let now = Now { monotonic_us: 1, wall_us: 1 };
        let (coordinator, done) = JobCoordinator::recover(manifest, Version::new("0"), generation, config, nonces, now);
        Self { coordinator, now, swaps: 0, done }
    }

    /// What the broker tells.
    pub fn list(&mut self, ends: &BTreeMap<i32, i64>) {
        self.list_asked(self.now.monotonic_us, ends);
    }

    /// What the broker told, asked then.
    fn list_asked(&mut self, asked_us: u64, ends: &BTreeMap<i32, i64>) {
        let beginnings = ends.keys().map(|partition| (*partition, 0)).collect();
        self.send(Event::Partitions { source: SOURCE, asked_us, topic_id: Some("first".into()), beginnings, ends: ends.clone() });
    }

    pub fn send(&mut self, event: Event) {
        self.done.extend(self.coordinator.on_event(self.now, event));
    }

    /// The store takes the last swap.
    pub fn store(&mut self) {
        let swap = |action: &Action| if let Action::Swap { manifest, .. } = action { Some(manifest.nonce.clone()) } else { None };
        let nonce = self.done.iter().rev().find_map(swap).expect("a swap");
        self.swaps += 1;
        self.done.clear();
        self.send(Event::SwapReplied { nonce, reply: SwapReply::Stored { version: Version(self.swaps.to_string()) } });
    }

    /// The store takes all swaps, until there is nothing more to say.
    fn store_all(&mut self) {
        while self.done.iter().any(|action| matches!(action, Action::Swap { .. })) {
            self.store();
        }
    }

    /// Three records of each partition are computed, each part with three rows; the record is under way.
    fn compute(&mut self) {
        let (attempt, frame) = self.begin();
        self.finish(attempt, &frame);
    }

    /// All parts of an attempt are computed; the record is under way.
    fn finish(&mut self, attempt: Attempt, frame: &Frame) {
        for part in 0..frame.parts.len() {
            self.send(reported(attempt, frame, part, &format!("{attempt}-{part}")));
        }
    }

    /// Records of each partition are there to be read, up to `end`.
    fn arrive(&mut self, end: i64) {
        for partition in 0..2 {
            let partition = SourcePartition { source: SOURCE, partition };
            self.send(Event::Available { partition, log: "first".into(), end, bytes_per_record: 1 });
        }
    }

    /// Three records of each partition are there to be read, and an executor.
    fn begin(&mut self) -> (Attempt, Frame) {
        self.arrive(3);
        self.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
        self.submitted().expect("an attempt")
    }

    pub fn submitted(&mut self) -> Option<(Attempt, Frame)> {
        let at = self.done.iter().position(|action| matches!(action, Action::Submit { .. }))?;
        let Action::Submit { attempt, frame, .. } = self.done.remove(at) else { return None };
        Some((attempt, frame))
    }

    /// What is to be read ahead.
    fn log(&self) -> Log {
        let log = |action: &Action| if let Action::Prefetch { logs, .. } = action { Some(logs[&SOURCE].clone()) } else { None };
        self.done.iter().rev().find_map(log).expect("an order to read ahead")
    }

    pub fn orders(&self) -> Vec<PublishOrder> {
        let order = |action: &Action| if let Action::Publish(order) = action { Some(order.clone()) } else { None };
        self.done.iter().filter_map(order).collect()
    }

    pub fn published(&mut self, order: &PublishOrder, refused: Option<PartFile>) {
        self.send(Event::PublishReported(PublishReport {
            incarnation: Incarnation::new("incarnation"),
            generation: Generation(1),
            epoch: order.epoch,
            sink: order.sink,
            part: order.part.part,
            rows: 3,
            retries: 0,
            write_us: 1,
            refused,
        }));
    }
}

/// An execution of a part has written a file of its name.
fn reported(attempt: Attempt, frame: &Frame, part: usize, execution: &str) -> Event {
    let work = frame.parts[part].clone();
    Event::PartReported(PartReport {
        incarnation: Incarnation::new("incarnation"),
        generation: Generation(1),
        epoch: frame.epoch,
        attempt,
        execution: Nonce::new(execution),
        executor: ExecutorId::new("executor"),
        file: file(work.part, execution, SINK),
        work,
        counts: Counts::default(),
        times: StepTimes::default(),
        max_timestamp_ms: None,
        event_time_us: BTreeMap::new(),
        fired_us: None,
    })
}

pub(super) fn file(part: PartIndex, name: &str, sink: SinkId) -> PartFile {
    PartFile { part, name: name.to_owned(), bytes: 1, crc32: 0, rows: BTreeMap::from([(sink, 3)]), state_bytes: 0, state_end: None }
}

#[test]
fn an_epoch_that_is_not_due_yet_waits_for_nothing_but_a_slow_sink() {
    let mut bench = Bench::leading();
    bench.compute();
    bench.store();
    bench.now.monotonic_us += 1_000_000;
    bench.arrive(6);
    let (attempt, frame) = bench.submitted().expect("an attempt");
    bench.finish(attempt, &frame);
    bench.store();
    bench.arrive(9);
    assert_eq!(bench.submitted(), None, "two epochs are not published");
    let status = bench.coordinator.status();
    assert_eq!((status.phase, status.limit), (Phase::Pacing, Limit::Publishing { sink: SINK }));
    // The rest of what was read is computed, and there will be no more.
    bench.send(Event::SourceAway { source: SOURCE, message: "all brokers are down".into() });
    let status = bench.coordinator.status();
    assert_eq!(status.limit, Limit::KafkaAway { source: SOURCE });
    assert_eq!(status.phase, Phase::Waiting { why: "topic \"readings\" cannot be read: all brokers are down".into() });
}

#[test]
fn an_epoch_that_is_not_due_yet_does_not_wait_for_records_that_are_there() {
    let mut bench = Bench::leading();
    let (attempt, frame) = bench.begin();
    bench.now.monotonic_us += SECOND_US;
    for part in 0..frame.parts.len() {
        let mut event = reported(attempt, &frame, part, &format!("{attempt}-{part}"));
        if let Event::PartReported(report) = &mut event {
            report.times.fetch_us = 1_000;
        }
        bench.send(event);
    }
    bench.store();
    let ends = BTreeMap::from([(0, 6), (1, 6)]);
    bench.list(&ends);
    let why = "waiting for records from Kafka".to_owned();
    assert_eq!(bench.coordinator.status().phase, Phase::Waiting { why }, "they have not arrived");
    bench.arrive(6);
    assert_eq!(bench.submitted(), None, "it is not due");
    let status = bench.coordinator.status();
    assert_eq!((status.phase, status.limit), (Phase::Pacing, Limit::Fetching), "the last epoch took longest with that");
}

/// A new leader would publish the part again, and its rows would be refused and counted again.
#[test]
fn refused_rows_enter_the_manifest_with_the_position_of_their_sink() {
    let mut bench = Bench::leading();
    bench.compute();
    bench.store();
    let orders = bench.orders();
    assert_eq!(orders.len(), 2);
    bench.published(&orders[0], Some(file(PartIndex(0), "refused", DEAD_LETTERS)));
    // Something else makes a swap in the middle of the epoch.
    bench.send(Event::Command(Command::Pause));
    bench.store();
    assert_eq!(bench.coordinator.manifest().counts.refused, 0);
    bench.published(&orders[1], None);
    bench.store();
    let manifest = bench.coordinator.manifest();
    assert_eq!((manifest.counts.refused, manifest.published[&SINK]), (3, Epoch(1)));
}

/// A statement that holds a job may be gone with its leader: the next one computes, unless somebody paused the job.
#[test]
fn a_job_that_is_held_comes_to_rest_and_nothing_of_that_is_recorded() {
    let mut bench = Bench::leading();
    bench.compute();
    bench.store();
    let orders = bench.orders();
    bench.store_all();
    bench.now.monotonic_us += 10 * SECOND_US;
    bench.arrive(6);
    let (attempt, _) = bench.submitted().expect("the next attempt");
    bench.store_all();
    assert!(!bench.coordinator.is_at_rest());
    bench.send(Event::Command(Command::Hold));
    assert!(bench.done.iter().any(|action| matches!(action, Action::CancelAttempt { attempt: ended } if *ended == attempt)));
    assert_eq!(bench.coordinator.status().phase, Phase::Paused);
    bench.published(&orders[0], None);
    bench.store_all();
    assert!(!bench.coordinator.is_at_rest(), "the other part is not published");
    bench.published(&orders[1], None);
    assert!(!bench.coordinator.is_at_rest(), "the position is not recorded");
    bench.store_all();
    assert!(bench.coordinator.is_at_rest());
    assert_eq!(bench.coordinator.manifest().life, Life::Running, "whoever leads next goes on");
    bench.now.monotonic_us += 10 * SECOND_US;
    bench.send(Event::Tick);
    assert!(bench.submitted().is_none() && bench.coordinator.is_at_rest());
    bench.send(Event::Command(Command::LetGo));
    assert!(bench.submitted().is_some() && !bench.coordinator.is_at_rest());
}

#[test]
fn a_job_that_is_paused_while_it_is_held_stays_paused() {
    let mut bench = Bench::leading();
    bench.send(Event::Command(Command::Hold));
    assert!(bench.coordinator.is_at_rest());
    bench.send(Event::Command(Command::Pause));
    assert!(!bench.coordinator.is_at_rest(), "that is to be recorded");
    bench.store_all();
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    bench.arrive(3);
    bench.send(Event::Command(Command::LetGo));
    bench.now.monotonic_us += 10 * SECOND_US;
    bench.send(Event::Tick);
    assert!(bench.submitted().is_none());
    assert_eq!(bench.coordinator.manifest().life, Life::Paused);
}

/// Rule 18: after an UPGRADE a leader leads the job anew, and what still comes of an earlier attempt is another definition's.
#[test]
fn attempts_of_an_earlier_coordinator_of_the_same_leader_are_told_apart() {
    let mut earlier = Bench::leading();
    let (attempt, frame) = earlier.begin();
    let config = CoordinatorConfig { first_attempt: earlier.coordinator.next_attempt(), ..CoordinatorConfig::default() };
    let mut bench = Bench::leading_as(manifest(), config);
    let (later, same) = bench.begin();
    assert_eq!(frame.parts, same.parts);
    assert_eq!(later, attempt.next());
    bench.finish(attempt, &frame);
    assert!(matches!(bench.coordinator.status().phase, Phase::Computing { .. }), "nothing is to be recorded of it");
    bench.finish(later, &same);
    assert!(matches!(bench.coordinator.status().phase, Phase::Recording { .. }));
}

/// Rule 7: with which of the two others have computed is not known.
#[test]
fn a_second_execution_of_a_part_ends_the_attempt() {
    let mut bench = Bench::leading();
    let (attempt, frame) = bench.begin();
    bench.send(reported(attempt, &frame, 0, "one"));
    bench.send(reported(attempt, &frame, 0, "one"));
    let is_ended = |action: &Action| matches!(action, Action::CancelAttempt { attempt: ended } if *ended == attempt);
    assert!(!bench.done.iter().any(is_ended), "the same report once more says nothing");
    bench.send(reported(attempt, &frame, 0, "another"));
    assert!(bench.done.iter().any(is_ended), "{:?}", bench.done);
    bench.now.monotonic_us += SECOND_US;
    bench.send(Event::Tick);
    let (next, _) = bench.submitted().expect("another attempt");
    assert_eq!(next, attempt.next());
    bench.send(reported(attempt, &frame, 1, "late"));
    assert!(!bench.done.iter().any(|action| matches!(action, Action::Swap { .. })), "{:?}", bench.done);
}

/// Rules 5 and 18: attempts are numbered anew by each leader and in each run of a job.
#[test]
fn what_was_computed_for_another_leader_or_run_is_not_recorded() {
    let mut bench = Bench::leading();
    let (attempt, frame) = bench.begin();
    let others = [("incarnation", 0), ("incarnation", 2), ("another", 1)];
    for (part, (incarnation, generation)) in (0..2).flat_map(|part| others.map(|other| (part, other))) {
        let Event::PartReported(report) = reported(attempt, &frame, part, "stray") else { unreachable!() };
        let (incarnation, generation) = (Incarnation::new(incarnation), Generation(generation));
        bench.send(Event::PartReported(PartReport { incarnation, generation, ..report }));
    }
    let is_swap = |action: &Action| matches!(action, Action::Swap { .. });
    assert!(!bench.done.iter().any(is_swap), "{:?}", bench.done);
    for part in 0..2 {
        bench.send(reported(attempt, &frame, part, &format!("own-{part}")));
    }
    assert!(bench.done.iter().any(is_swap), "{:?}", bench.done);
}

fn missing_table(order: &PublishOrder) -> PublishFailure {
    PublishFailure {
        generation: Generation(1),
        sink: order.sink,
        epoch: order.epoch,
        part: order.part.part,
        executor: order.executor.clone(),
        message: "the table is missing".into(),
        retryable: false,
    }
}

/// An executor that wakes long after its order was given to another says what was true then.
#[test]
fn a_failure_of_an_old_order_does_not_fail_the_job() {
    let mut bench = Bench::leading();
    bench.compute();
    bench.store();
    let order = bench.orders()[0].clone();
    bench.published(&order, None);
    bench.send(Event::PublishFailed(missing_table(&order)));
    assert!(!bench.done.iter().any(|action| matches!(action, Action::Failed { .. })), "{:?}", bench.done);
}

#[test]
fn a_job_that_a_sink_stopped_goes_on_when_the_sink_has_what_waited() {
    let mut bench = Bench::leading();
    bench.compute();
    bench.store();
    let orders = bench.orders();
    bench.send(Event::PublishFailed(missing_table(&orders[0])));
    assert!(bench.done.iter().any(|action| matches!(action, Action::Failed { .. })), "{:?}", bench.done);
    bench.published(&orders[1], None);
    bench.store();
    let life = &bench.coordinator.manifest().life;
    assert!(
        matches!(life, Life::Failed { reason, stuck: Some((SINK, Epoch(1))) } if reason.contains("the table is missing")),
        "{life:?}"
    );
    bench.done.clear();
    bench.now.monotonic_us += publishing::REPAIR_US;
    bench.send(Event::Tick);
    let again = bench.orders();
    assert_eq!(again, [orders[0].clone()]);
    bench.published(&again[0], None);
    bench.store();
    assert_eq!(bench.coordinator.manifest().life, Life::Running);
}

/// What is ordered after so long.
fn tried(bench: &mut Bench, after_us: u64) -> Vec<PublishOrder> {
    bench.done.clear();
    bench.now.monotonic_us += after_us;
    bench.send(Event::Tick);
    bench.orders()
}

/// Each try takes a place on an executor that other jobs wait for.
#[test]
fn what_somebody_has_to_repair_is_tried_with_one_part_after_another() {
    let mut bench = Bench::leading();
    bench.compute();
    bench.store();
    let orders = bench.orders();
    assert_eq!(orders.len(), 2);
    for order in &orders {
        bench.send(Event::PublishFailed(missing_table(order)));
    }
    bench.store();
    assert!(tried(&mut bench, publishing::REPAIR_US - 1).is_empty());
    assert_eq!(tried(&mut bench, 1), [orders[1].clone()]);
    let wakeup_us = bench.coordinator.next_wakeup().expect("a deadline of the order");
    assert!(wakeup_us > bench.now.monotonic_us, "the other part waits for no time");
    assert!(tried(&mut bench, publishing::REPAIR_US).is_empty(), "while the order stands");
    bench.send(Event::PublishFailed(missing_table(&orders[1])));
    assert!(tried(&mut bench, publishing::REPAIR_US - 1).is_empty(), "no part is tried before the pause is over");
    assert_eq!(tried(&mut bench, 1), [orders[0].clone()], "the failure may be the other part's own");
    bench.done.clear();
    bench.published(&orders[0], None);
    assert_eq!(bench.orders(), [orders[1].clone()]);
    bench.published(&orders[1], None);
    bench.store();
    assert_eq!(bench.coordinator.manifest().life, Life::Running);
}

#[test]
fn an_order_from_before_a_failure_does_not_hold_up_the_next_try() {
    let mut bench = Bench::leading();
    bench.compute();
    bench.store();
    let orders = bench.orders();
    bench.send(Event::PublishFailed(missing_table(&orders[1])));
    bench.store();
    assert_eq!(tried(&mut bench, publishing::REPAIR_US), [orders[1].clone()], "nothing is heard of the first part");
}

#[test]
fn a_failure_of_one_part_leaves_the_others_pause_as_it_is() {
    let backoff_us = 2 * publishing::REPAIR_US;
    let mut bench = Bench::leading_as(manifest(), CoordinatorConfig { backoff_us, ..CoordinatorConfig::default() });
    bench.compute();
    bench.store();
    let orders = bench.orders();
    bench.send(Event::PublishFailed(PublishFailure { retryable: true, ..missing_table(&orders[1]) }));
    bench.send(Event::PublishFailed(missing_table(&orders[0])));
    bench.store();
    assert_eq!(tried(&mut bench, publishing::REPAIR_US), [orders[0].clone()]);
    bench.done.clear();
    bench.published(&orders[0], None);
    assert!(bench.orders().is_empty());
    assert_eq!(tried(&mut bench, backoff_us - publishing::REPAIR_US), [orders[1].clone()]);
}

/// Reading ahead would go on from the old topic's offsets, which the new one may never reach.
#[test]
fn a_record_of_a_topic_made_again_meanwhile_releases_nothing_of_its_successor() {
    let mut bench = Bench::leading();
    bench.compute();
    let topic_id = Some("second".to_owned());
    let (beginnings, ends) = (BTreeMap::from([(0, 0), (1, 0)]), BTreeMap::from([(0, 2), (1, 2)]));
    bench.send(Event::Partitions { source: SOURCE, asked_us: 0, topic_id, beginnings, ends });
    bench.store();
    let released = |action: &Action| if let Action::Released { through } = action { Some(through.clone()) } else { None };
    let released: Vec<_> = bench.done.iter().filter_map(released).collect();
    assert_eq!(released, [BTreeMap::new()]);
}

/// An executor may tell of the old topic's records after the new one was found, and before it is told to read that.
#[test]
fn records_of_a_topic_that_is_no_more_are_not_there_to_be_read() {
    let mut bench = Bench::leading();
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    let topic_id = Some("second".to_owned());
    let (beginnings, ends) = (BTreeMap::from([(0, 0), (1, 0)]), BTreeMap::from([(0, 3), (1, 3)]));
    bench.send(Event::Partitions { source: SOURCE, asked_us: 0, topic_id, beginnings, ends });
    let Log { name: log, topic_id } = bench.log();
    assert_ne!(log, "first");
    assert_eq!(topic_id.as_deref(), Some("second"));
    let partition = SourcePartition { source: SOURCE, partition: 0 };
    bench.send(Event::Available { partition, log: "first".into(), end: 3, bytes_per_record: 1 });
    assert!(bench.submitted().is_none(), "nobody has read the new topic yet");
    bench.send(Event::Available { partition, log, end: 3, bytes_per_record: 1 });
    assert!(bench.submitted().is_some());
}

/// Other records had its offsets before.
#[test]
fn a_frame_names_a_log_that_is_not_the_first_of_its_topic() {
    let mut bench = Bench::leading();
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    let partition = SourcePartition { source: SOURCE, partition: 0 };
    bench.send(Event::Available { partition, log: "first".into(), end: 3, bytes_per_record: 1 });
    let (_, frame) = bench.submitted().expect("an attempt");
    assert!(frame.logs.is_empty(), "{:?}", frame.logs);
    let topic_id = Some("second".to_owned());
    let (beginnings, ends) = (BTreeMap::from([(0, 0), (1, 0)]), BTreeMap::from([(0, 3), (1, 3)]));
    bench.send(Event::Partitions { source: SOURCE, asked_us: 0, topic_id, beginnings, ends });
    let log = bench.log().name;
    bench.now.monotonic_us += 60_000_000;
    bench.send(Event::Available { partition, log: log.clone(), end: 3, bytes_per_record: 1 });
    let (_, frame) = bench.submitted().expect("an attempt");
    assert_eq!(frame.logs, BTreeMap::from([(SOURCE, log)]));
}

/// What was recorded is not lost with its topic, and what nobody heard of is not known.
#[test]
fn what_is_lost_with_a_log_is_what_was_known_of_it_and_not_read() {
    let lost = |of_tail: bool| {
        let mut bench = Bench::leading();
        bench.compute();
        bench.store();
        bench.list(&BTreeMap::from([(0, 8), (1, 3)]));
        let topic_id = Some(if of_tail { "first" } else { "second" }.to_owned());
        let (beginnings, ends) = (BTreeMap::from([(0, 0), (1, 0)]), BTreeMap::from([(0, 2), (1, 3)]));
        let asked_us = bench.now.monotonic_us;
        bench.send(Event::Partitions { source: SOURCE, asked_us, topic_id, beginnings, ends });
        bench.send(Event::Command(Command::Pause));
        bench.store();
        bench.coordinator.manifest().counts.lost
    };
    assert_eq!(lost(false), 5, "three of eight were read, and three of three");
    assert_eq!(lost(true), 5);
}

/// While a leader is busy, answers wait, and what executors have computed meanwhile overtakes them.
#[test]
fn a_topic_has_lost_its_tail_only_by_an_answer_that_was_asked_after_the_job_had_read_it() {
    let mut bench = Bench::leading_as(manifest(), CoordinatorConfig::default());
    let ends = |end| BTreeMap::from([(0, end), (1, end)]);
    bench.compute();
    bench.store();
    // Asked for at 10, 20 and 30, when there were two records; read by the job after that.
    bench.now.monotonic_us = 40;
    bench.list_asked(10, &ends(2));
    bench.now.monotonic_us = 41;
    bench.list_asked(20, &ends(2));
    bench.now.monotonic_us = 42;
    bench.list_asked(30, &ends(2));
    assert!(!is_failed(&bench), "{:?}", bench.done);
    bench.now.monotonic_us = 50;
    bench.list_asked(41, &ends(2));
    assert!(is_failed(&bench), "{:?}", bench.done);
}

/// The predecessor read them while this leader was taking over.
#[test]
fn an_answer_that_was_asked_before_a_predecessors_last_record_was_found_does_not_contradict_it() {
    let mut before = Bench::leading_as(manifest(), CoordinatorConfig::default());
    let taken = before.coordinator.manifest().clone();
    before.compute();
    before.store();
    let recorded = before.coordinator.manifest().clone();

    let mut bench = Bench::taking_over(taken, CoordinatorConfig::default());
    let sent = |action: &Action| if let Action::Swap { manifest, .. } = action { Some(manifest.nonce.clone()) } else { None };
    let nonce = bench.done.iter().find_map(sent).expect("a swap");
    bench.send(Event::SwapReplied { nonce, reply: SwapReply::Conflict });
    let asked = |action: &Action| if let Action::ReadManifest { request } = action { Some(request.clone()) } else { None };
    let request = bench.done.iter().find_map(asked).expect("it looks what became of the swap");
    bench.now.monotonic_us = 40;
    let answer = ManifestAnswer::Found { version: Version::new("another"), manifest: Box::new(recorded) };
    bench.send(Event::ManifestRead { request, answer });
    bench.store();
    bench.list_asked(39, &BTreeMap::from([(0, 2), (1, 2)]));
    assert!(!is_failed(&bench), "{:?}", bench.done);
    bench.list_asked(40, &BTreeMap::from([(0, 2), (1, 2)]));
    assert!(is_failed(&bench), "{:?}", bench.done);
}

fn is_failed(bench: &Bench) -> bool {
    bench.done.iter().any(|action| matches!(action, Action::Failed { .. }))
}

/// An executor that was cut off may still hold what it read of an earlier log.
#[test]
fn a_log_keeps_its_name_under_the_next_leader_and_no_other_gets_it() {
    let lose_a_tail = |bench: &mut Bench, ends: [i64; 2]| {
        bench.list(&BTreeMap::from([(0, ends[0]), (1, ends[1])]));
        bench.log().name
    };
    let config = CoordinatorConfig { on_data_loss: OnDataLoss::Continue, ..CoordinatorConfig::default() };
    let mut bench = Bench::leading_as(manifest(), config.clone());
    assert_eq!(bench.log().name, "first", "as before logs had names of their own");
    bench.compute();
    bench.store();
    bench.list(&BTreeMap::from([(0, 3), (1, 3)]));
    let second = lose_a_tail(&mut bench, [3, 1]);
    bench.send(Event::Command(Command::Pause));
    bench.store();
    let recorded = bench.coordinator.manifest().clone();
    assert_eq!(recorded.sources[&SOURCE].log, second);

    let mut next = Bench::leading_as(recorded, config);
    assert_eq!(next.log(), Log { name: second.clone(), topic_id: Some("first".into()) });
    let third = lose_a_tail(&mut next, [2, 1]);
    assert!(third != second && third != "first", "{third}");
}

/// Until then it cannot tell another topic of the name from it.
#[test]
fn who_reads_ahead_is_told_the_topics_id_when_it_is_known() {
    let mut unknown = manifest();
    unknown.sources.get_mut(&SOURCE).expect("a source").topic_id = None;
    let mut bench = Bench::leading_as(unknown, CoordinatorConfig::default());
    assert_eq!(bench.log(), Log { name: String::new(), topic_id: Some("first".into()) });
    bench.done.clear();
    bench.list(&BTreeMap::from([(0, 0), (1, 0)]));
    assert!(bench.done.iter().all(|action| !matches!(action, Action::Prefetch { .. })), "{:?}", bench.done);
}

/// Each move would cost a takeover: the new holder waits until what the old one had open has ended, and reads the position.
#[test]
fn publishers_of_a_topic_stay_where_they_are() {
    let config = CoordinatorConfig { staying: [SINK].into(), ..CoordinatorConfig::default() };
    let record = |epoch: u64, part| EpochRecord {
        epoch: Epoch(epoch),
        window_start_us: epoch as i64 * 10_000,
        files: vec![file(PartIndex(part), "file", SINK)],
        through: BTreeMap::new(),
        max_timestamp_ms: None,
        recorded_at_us: 0,
    };
    let manifest = Manifest { epoch: Epoch(2), unpublished: vec![record(1, 5), record(2, 1)], ..manifest() };
    assert_eq!(PartIndex(5).publisher(), PartIndex(1).publisher());
    let (a, b) = (ExecutorId::new("a"), ExecutorId::new("b"));
    let mut publishing = Publishing::new(&manifest);
    publishing.computed_by(Epoch(1), PartIndex(5), b.clone());
    publishing.computed_by(Epoch(2), PartIndex(1), a.clone());
    let order = |publishing: &mut Publishing, executors: &[&ExecutorId]| {
        let executors = executors.iter().map(|executor| (*executor).clone()).collect();
        let mut actions = vec![];
        publishing.advance(Now { monotonic_us: 1, wall_us: 1 }, &manifest, &executors, &config, &mut actions);
        let orders = actions.into_iter().filter_map(|action| if let Action::Publish(order) = action { Some(order) } else { None });
        orders.filter(|order| order.sink == SINK).map(|order| (order.epoch, order.executor)).collect::<Vec<_>>()
    };
    assert_eq!(order(&mut publishing, &[&a, &b]), [(Epoch(1), b.clone())], "where it was computed");
    publishing.reported(
        &PublishReport {
            incarnation: Incarnation::new("incarnation"),
            generation: Generation(1),
            epoch: Epoch(1),
            sink: SINK,
            part: PartIndex(5),
            rows: 3,
            retries: 0,
            write_us: 1,
            refused: None,
        },
        1,
        &config,
    );
    assert_eq!(order(&mut publishing, &[&a, &b]), [(Epoch(2), b.clone())], "where its publisher is");
    publishing.executor_lost(&b);
    assert_eq!(order(&mut publishing, &[&a]), [(Epoch(2), a.clone())]);
}

/// Who pauses a job is answered then.
#[test]
fn what_a_job_shall_do_is_recorded_once_the_store_has_it_and_nothing_else_is_on_its_way() {
    let mut bench = Bench::leading();
    assert!(bench.coordinator.is_life_recorded());
    bench.send(Event::Command(Command::Pause));
    assert!(!bench.coordinator.is_life_recorded());
    bench.store();
    assert!(bench.coordinator.is_life_recorded());
    bench.send(Event::Command(Command::Resume));
    bench.send(Event::Command(Command::Pause));
    assert!(!bench.coordinator.is_life_recorded(), "that it runs is on its way to the store");
    bench.store_all();
    assert!(bench.coordinator.is_life_recorded());
    assert_eq!(bench.coordinator.manifest().life, Life::Paused);
}
