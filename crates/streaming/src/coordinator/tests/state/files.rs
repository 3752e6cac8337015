//! Files that go, and what still names one that stays.
use super::*;

fn untimed() -> CoordinatorConfig {
    CoordinatorConfig { watermarked: BTreeMap::new(), position_delay_us: 1, ..config() }
}

fn pinned(names: &[&str]) -> Event {
    Event::Pinned { names: names.iter().map(|name| (*name).to_owned()).collect() }
}

#[test]
fn files_go_when_they_are_neither_published_nor_state_any_more() {
    let mut bench = leading(untimed());
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
    bench.merge();
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
    let mut bench = leading(untimed());
    let retention_us = bench.coordinator.config.file_retention_us;
    for _ in 0..2 {
        bench.epoch(&[(0, 1)], 5);
        let order = bench.orders().pop().expect("an order");
        bench.published(&order, None);
        bench.done.retain(|action| !matches!(action, Action::Publish(_)));
    }
    bench.send(pinned(&["epoch-1", "epoch-2"]));
    bench.merge();
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
    let mut bench = leading(untimed());
    let retention_us = bench.coordinator.config.file_retention_us;
    bench.epoch(&[(0, 1)], 5);
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
    let stateful = untimed();
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
    bench.send(pinned(&[]));
    assert_eq!(bench.deleted(), BTreeSet::from(["stray".to_owned()]));
}
