//! What manifests tell of a state: of the version before, of other types, and of an earlier run's rows.
use super::*;

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
