//! Sinks: refused rows, failures and what is tried again, and where publishers are.
use super::*;
use crate::manifest::EpochRecord;

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
