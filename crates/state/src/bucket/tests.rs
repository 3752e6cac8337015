//! A table of buckets beside an ordered map of weights, and how its rows end.
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn rows(table: &BucketTable, key: &[u8]) -> Vec<(Vec<u8>, i64)> {
    let mut rows = vec![];
    table.visit(key, |row, entry| {
        rows.push((row.to_vec(), entry.weight));
        true
    });
    let mut backwards = vec![];
    table.visit_backwards(key, |row, entry| {
        backwards.push((row.to_vec(), entry.weight));
        true
    });
    backwards.reverse();
    assert_eq!(rows, backwards);
    for (low, end) in [(0, None), (20, None), (20, Some(30)), (30, Some(20)), (7, Some(55))] {
        let mut between = vec![];
        let end = end.map(|end: u8| [end]);
        table.visit_between(key, &[low], end.as_ref().map(|end| end.as_slice()), |row, entry| {
            between.push((row.to_vec(), entry.weight));
            true
        });
        let is_between = |row: &&(Vec<u8>, i64)| row.0[0] >= low && end.is_none_or(|end| row.0[0] < end[0]);
        assert_eq!(rows.iter().filter(is_between).cloned().collect::<Vec<_>>(), between);
    }
    rows
}

proptest! {
    #[test]
    fn behaves_as_an_ordered_map_of_weights(steps in prop::collection::vec((0_u8..3, 0_u8..60, -2_i64..3, 0_u8..12), 1..400)) {
        let mut table = BucketTable::default();
        let mut expected: BTreeMap<(u8, u8), i64> = BTreeMap::new();
        let mut recorded = expected.clone();
        for (key, row, weight, then) in steps {
            table.add(&[key], &[row], weight, None);
            let known = expected.entry((key, row)).or_default();
            *known += weight;
            if *known == 0 {
                expected.remove(&(key, row));
            }
            match then {
                0 => {
                    table.commit();
                    recorded.clone_from(&expected);
                }
                1 => {
                    table.discard();
                    expected.clone_from(&recorded);
                }
                _ => {}
            }
            for key in 0..3 {
                let wanted: Vec<_> =
                    expected.range((key, 0)..=(key, 255)).map(|((_, row), weight)| (vec![*row], *weight)).collect();
                prop_assert_eq!(rows(&table, &[key]), wanted);
            }
        }
        table.commit();
        prop_assert_eq!(table.len(), expected.len());
    }
}

proptest! {
    #[test]
    fn rows_end_together_or_one_by_one(
        steps in prop::collection::vec((0_u8..2, 0_u8..40, prop::option::of(1_i64..5), any::<bool>(), 0_u8..20), 1..300),
    ) {
        let mut table = BucketTable::default();
        let mut expected: BTreeMap<(u8, u8), i64> = BTreeMap::new();
        let mut now = 0;
        for (key, row, ahead, stays, then) in steps {
            // Mostly all end at one time, as rows of a window do.
            let end = ahead.map(|ahead| now + if then % 4 == 0 { 10 * ahead } else { 10 });
            if stays {
                table.put(&[key], &[row], Entry::of(1), Some(end.unwrap_or(NEVER)));
                expected.insert((key, row), end.unwrap_or(NEVER));
            } else {
                table.delete(&[key], &[row]);
                expected.remove(&(key, row));
            }
            if then > 2 {
                continue;
            }
            table.commit();
            now += i64::from(then) * 6;
            let due: Vec<(u8, u8)> = table.due(now).map(|(key, row, _)| (key[0], row[0])).collect();
            let ended = |(_, end): &(&(u8, u8), &i64)| **end <= now;
            let wanted: Vec<(u8, u8)> = expected.iter().filter(ended).map(|(row, _)| *row).collect();
            prop_assert_eq!(due.iter().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>(), wanted);
            prop_assert_eq!(due.len(), expected.values().filter(|end| **end <= now).count());
            table.begin(Some(now), None);
            table.commit();
            expected.retain(|_, end| *end > now);
            prop_assert_eq!(table.len(), expected.len());
            for key in 0..2 {
                let wanted: Vec<_> = expected.range((key, 0)..=(key, 255)).map(|((_, row), _)| (vec![*row], 1)).collect();
                prop_assert_eq!(rows(&table, &[key]), wanted);
            }
        }
        expected.keys().for_each(|(key, row)| table.delete(&[*key], &[*row]));
        (0..2).for_each(|key| (0..40).for_each(|row| table.delete(&[key], &[row])));
        table.commit();
        prop_assert_eq!((table.len(), table.bytes()), (0, 0));
    }
}

#[test]
fn rows_end_when_their_expiry_is_recorded() {
    let mut table = BucketTable::default();
    table.put(b"k", b"a", Entry::of(1), Some(10));
    table.put(b"k", b"b", Entry::of(1), Some(20));
    table.commit();
    table.begin(Some(15), None);
    assert_eq!(table.due(15).count(), 1);
    table.discard();
    assert_eq!(table.len(), 2);
    table.begin(Some(15), None);
    table.commit();
    assert_eq!(rows(&table, b"k"), [(b"b".to_vec(), 1)]);
}

#[test]
fn a_row_ends_at_the_expiry_that_it_was_given_last() {
    let mut table = BucketTable::default();
    table.put(b"k", b"a", Entry::of(1), Some(10));
    table.put(b"k", b"b", Entry::of(1), Some(10));
    table.commit();
    table.put(b"k", b"a", Entry::of(1), Some(30));
    table.put(b"k", b"b", Entry::of(2), None);
    table.commit();
    table.begin(Some(20), None);
    assert_eq!(rows(&table, b"k").len(), 2, "what comes in this epoch still meets it");
    table.begin(Some(25), None);
    assert_eq!(rows(&table, b"k"), [(b"a".to_vec(), 1)], "what comes when time moves on does not");
    table.commit();
    assert_eq!(table.len(), 1);
    table.delete(b"k", b"a");
    table.commit();
    table.put(b"k", b"a", Entry::of(1), Some(50));
    table.commit();
    table.begin(Some(40), None);
    table.commit();
    assert_eq!(table.len(), 1, "its expiry before it was deleted counts no more");
}

#[test]
fn what_comes_as_it_ends_is_due_once_and_no_change_of_the_state() {
    let mut table = BucketTable::default();
    table.put(b"k", b"recorded", Entry::of(1), Some(10));
    table.commit();
    table.begin(Some(10), None);
    table.put(b"k", b"recorded", Entry::of(2), Some(10));
    table.put(b"k", b"new", Entry::of(1), Some(10));
    table.put(b"k", b"later", Entry::of(1), Some(20));
    let due = |table: &BucketTable, through| {
        let mut rows: Vec<_> = table.due(through).map(|(_, row, entry)| (row.to_vec(), entry.weight)).collect();
        rows.sort();
        rows
    };
    assert_eq!(due(&table, 10), [(b"new".to_vec(), 1), (b"recorded".to_vec(), 2)]);
    let mut changed: Vec<_> = table.changed().map(|(_, row, _)| row.to_vec()).collect();
    changed.sort();
    assert_eq!(
        changed,
        [b"later".to_vec(), b"recorded".to_vec()],
        "who loads the state drops what was recorded, by its new expiry"
    );
    table.begin(Some(20), None);
    assert_eq!(due(&table, 20), [(b"later".to_vec(), 1)]);
    assert_eq!(table.changed().count(), 1);
    table.begin(Some(20), None);
    assert_eq!(due(&table, 20), [], "it ended already");
    table.commit();
    assert_eq!(table.len(), 0);
}

#[test]
fn marks_add_up_and_those_of_a_dropped_epoch_are_gone() {
    let mut table = BucketTable::default();
    assert_eq!(table.mark(b"k", b"a", 0b01, None), 0);
    assert_eq!(table.mark(b"k", b"a", 0b10, None), 0b01);
    table.commit();
    assert_eq!(table.mark(b"k", b"a", 0b11, None), 0b11);
    assert_eq!(table.changed().count(), 0, "what was there already is no change");
    assert_eq!(table.mark(b"k", b"a", 0b100, Some(9)), 0b11);
    table.discard();
    assert_eq!(table.mark(b"k", b"a", 0b100, Some(9)), 0b11);
    table.commit();
    table.begin(Some(9), Some(30));
    assert_eq!(table.mark(b"k", b"a", 0b1, None), 0, "what ended was never there");
    table.commit();
    table.begin(Some(20), Some(50));
    assert_eq!(table.mark(b"k", b"a", 0b1, None), 0b1);
    table.commit();
    table.begin(Some(40), None);
    assert_eq!(rows(&table, b"k").len(), 1, "with a TTL it ends so long after it was seen last");
}

#[test]
fn with_a_ttl_rows_end_so_long_after_their_last_change() {
    let mut table = BucketTable::default();
    table.begin(Some(0), Some(10));
    table.add(b"k", b"a", 1, None);
    table.add(b"k", b"b", 1, None);
    table.commit();
    table.begin(Some(5), Some(15));
    table.add(b"k", b"a", 1, None);
    assert_eq!([b"a", b"b"].map(|row| table.ends_with_changes(b"k", row)), [true, false]);
    table.commit();
    table.begin(Some(10), Some(20));
    assert_eq!(rows(&table, b"k"), [(b"a".to_vec(), 2)]);
    assert_eq!(table.add(b"k", b"b", -1, None), (0, 0), "nothing is taken from what is gone");
    table.commit();
    assert_eq!(table.len(), 1);
}
