//! Merged runs beside an ordered map that takes one run after the other.
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Table, key, and row within a bucket.
type Identity = (usize, Vec<u8>, Option<Vec<u8>>);

/// Value (`None`: deleted), expiry, and whether that is a time of the clock.
type Change = (Option<Vec<u8>>, Option<i64>, bool);

type Run = BTreeMap<Identity, Change>;

/// Few, of few bytes: they are in several runs, and some differ only in where the key ends and the row begins.
fn identity() -> impl Strategy<Value = Identity> {
    let bytes = || prop::collection::vec(0_u8..2, 0..3);
    (0_usize..2, bytes(), prop::option::of(bytes()))
}

fn change() -> impl Strategy<Value = Change> {
    (prop::option::of(prop::collection::vec(any::<u8>(), 0..3)), prop::option::of(0_i64..20), any::<bool>())
}

/// In batches of so many rows.
fn batches(run: &Run, rows: usize) -> Vec<RecordBatch> {
    let entries: Vec<(&Identity, &Change)> = run.iter().collect();
    let batch = |entries: &[(&Identity, &Change)]| {
        let mut writer = Writer::new();
        for ((table, key, subkey), (value, at, by_clock)) in entries {
            let ends = Ends { at: *at, by_clock: *by_clock };
            writer.add(*table, key, subkey.as_deref(), value.as_deref(), ends).expect("adds");
        }
        writer.finish().expect("finishes")
    };
    entries.chunks(rows).flat_map(batch).collect()
}

/// Adds what is in batches of one run.
fn read(batches: &[RecordBatch], run: &mut Run) {
    for batch in batches {
        for Row { table, key, subkey, value, ends } in rows(batch).expect("rows") {
            let identity = (table, key.to_vec(), subkey.map(<[u8]>::to_vec));
            let change = (value.map(<[u8]>::to_vec), ends.at, ends.by_clock);
            assert!(run.insert(identity, change).is_none(), "a key is in a run once");
        }
    }
}

/// The batches that are complete.
fn come_out(merging: &mut Merging) -> Vec<RecordBatch> {
    std::iter::from_fn(|| merging.next_batch()).collect()
}

/// The last change of each key.
fn expected(runs: &[Run], from_the_start: bool, recorded: Passed) -> Run {
    let mut last = Run::new();
    runs.iter().for_each(|run| last.extend(run.clone()));
    let has_ended =
        |at: Option<i64>, by_clock: bool| matches!((at, recorded.of(by_clock)), (Some(at), Some(through)) if at <= through);
    for (value, at, by_clock) in last.values_mut() {
        if has_ended(*at, *by_clock) {
            *value = None;
        }
    }
    last.retain(|_, (value, ..)| value.is_some() || !from_the_start);
    last
}

proptest! {
    #[test]
    fn merged_runs_have_the_last_change_of_each_key_once(
        runs in prop::collection::vec(prop::collection::btree_map(identity(), change(), 0..60), 1..6),
        batch_rows in 1_usize..40,
        from_the_start in any::<bool>(),
        watermark_us in prop::option::of(0_i64..20),
        clock_us in prop::option::of(0_i64..20),
        parts in 1_usize..4,
    ) {
        let recorded = Passed { watermark_us, clock_us };
        let wanted = expected(&runs, from_the_start, recorded);
        let runs: Vec<Vec<RecordBatch>> = runs.iter().map(|run| batches(run, batch_rows)).collect();

        let mut merged = Run::new();
        read(&merge_runs(&runs, from_the_start, recorded).expect("merges"), &mut merged);
        prop_assert_eq!(&merged, &wanted);

        let mut by_part = Run::new();
        let mut merging = Merging::new(from_the_start, recorded);
        for part in 0..parts {
            for (index, run) in runs.iter().enumerate().rev() {
                for batch in run {
                    let of_part = parts_of(batch, parts).expect("a run").swap_remove(part);
                    merging.take(&of_part, index == 0).expect("takes");
                }
            }
            merging.finish().expect("finishes");
            read(&come_out(&mut merging), &mut by_part);
        }
        prop_assert_eq!(&by_part, &wanted);
    }
}

#[test]
fn keys_of_the_oldest_run_are_not_remembered() {
    let run =
        |keys: std::ops::Range<u8>| -> Run { keys.map(|key| ((0, vec![key], None), (Some(vec![key]), None, false))).collect() };
    let (oldest, newest) = (run(0..60), run(50..70));
    let mut merging = Merging::new(true, Passed::default());
    batches(&newest, 7).iter().try_for_each(|batch| merging.take(batch, false)).expect("takes");
    batches(&oldest, 7).iter().try_for_each(|batch| merging.take(batch, true)).expect("takes");
    assert_eq!(merging.known.len(), 20);
    merging.finish().expect("finishes");
    assert!(merging.known.is_empty(), "those of another part are others");
    let mut merged = Run::new();
    read(&come_out(&mut merging), &mut merged);
    assert_eq!(merged, run(0..70));
}

#[test]
fn a_batch_may_have_more_keys_than_are_hashed_at_once() {
    let run = |keys: std::ops::Range<u16>, value: u8| -> Run {
        keys.map(|key| ((0, key.to_be_bytes().to_vec(), None), (Some(vec![value]), None, false))).collect()
    };
    let runs = [run(0..3_000, 1), run(2_000..5_000, 2)];
    let wanted = expected(&runs, true, Passed::default());
    let runs = runs.map(|run| batches(&run, 3 * HASHED_ROWS));
    let mut merged = Run::new();
    read(&merge_runs(&runs, true, Passed::default()).expect("merges"), &mut merged);
    assert_eq!(merged, wanted);
}
