//! Runs of state: recorded, merged, and forgotten when all in them has ended.
use super::*;
use crate::report::CompactFailure;

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
