//! Weighted rows per key, in order: the rows that a join matches, a partition's rows by sort key, the values of an aggregate that can lose some.
use hashbrown::{Equivalent, HashMap};

use crate::{
    StateError,
    expiry::{Expiry, NEVER},
    size::{allocated, shrink, slot},
    sorted::{Rows, Sorted},
    spill::{Choice, Cold, Parts, damaged},
};

type Bytes = Box<[u8]>;

/// How often a row is there, and a number of the operator's own (a join's count of matches).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub weight: i64,
    pub matches: i64,
}

impl Entry {
    pub const BYTES: usize = 16;

    pub fn of(weight: i64) -> Self {
        Self { weight, matches: 0 }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.weight.to_le_bytes());
        bytes[8..].copy_from_slice(&self.matches.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (weight, matches) = bytes.split_first_chunk::<8>()?;
        let matches: [u8; 8] = matches.try_into().ok()?;
        Some(Self { weight: i64::from_le_bytes(*weight), matches: i64::from_le_bytes(matches) })
    }
}

/// A recorded row's entry, and when it ends.
#[derive(Clone, Copy, Debug)]
struct Held {
    entry: Entry,
    expiry: i64,
}

/// A row as the index of expiries has it.
#[derive(Hash)]
struct RowOf<'a>(&'a [u8], &'a [u8]);

impl Equivalent<(Bytes, Bytes)> for RowOf<'_> {
    fn equivalent(&self, (key, row): &(Bytes, Bytes)) -> bool {
        self.0 == key.as_ref() && self.1 == row.as_ref()
    }
}

#[derive(Debug)]
pub(crate) struct Change {
    /// `None`: deleted.
    pub entry: Option<Entry>,
    /// `None`: stays until it is deleted.
    pub expiry: Option<i64>,
}

/// The rows of one key, ordered by their bytes.
type Bucket = Sorted<Held>;
type ChangedBucket = Sorted<Change>;

/// What a row takes among others of its key.
fn size(key: &[u8], row: &[u8], expiry: i64) -> usize {
    let due = if expiry == NEVER { 0 } else { slot::<(Bytes, Bytes)>() + allocated(key.len()) + allocated(row.len()) };
    // Lists and trees of rows have room to spare.
    size_of::<(Bytes, Held)>() * 3 / 2 + allocated(row.len()) + due
}

/// What a key with rows takes beside them.
fn size_of_key(key: &[u8]) -> usize {
    slot::<(Bytes, Bucket)>() + allocated(key.len())
}

#[derive(Debug, Default)]
pub struct BucketTable {
    base: HashMap<Bytes, Bucket>,
    overlay: HashMap<Bytes, ChangedBucket>,
    expiry: Expiry<(Bytes, Bytes)>,
    rows: usize,
    /// What `base` takes.
    bytes: usize,
    /// Of rows that are put without one: those of a job with a TTL.
    default_expiry: Option<i64>,
    /// Keys with their rows that are not in `base`, for want of memory.
    cold: Option<Cold>,
}

impl BucketTable {
    /// Has the rows of these keys in memory. An epoch loads the keys that it will ask for or change, before it does.
    ///
    /// # Errors
    /// When what was spilled cannot be read. Nothing changed then.
    pub fn load<'a>(&mut self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<(), StateError> {
        let Some(cold) = &mut self.cold else { return Ok(()) };
        let base = &self.base;
        for (key, kept) in cold.take(keys.into_iter().filter(|key| !base.contains_key(*key)))? {
            let mut parts = Parts(&kept);
            let mut rows = vec![];
            while !parts.0.is_empty() {
                let expiry = Some(parts.number()?).filter(|at| *at != NEVER);
                let entry = Entry::from_bytes(parts.bytes(Entry::BYTES as i64)?).ok_or_else(damaged)?;
                let length = parts.number()?;
                rows.push((parts.bytes(length)?.into(), Change { entry: Some(entry), expiry }));
            }
            // They were counted all the time.
            self.rows -= rows.len();
            self.apply_all(key, rows);
        }
        Ok(())
    }

    pub(crate) fn cold(&self) -> Option<&Cold> {
        self.cold.as_ref()
    }

    /// Takes the rows of the chosen keys out of memory. There must be no changes.
    pub(crate) fn spill(&mut self, choice: Choice, cold: impl FnOnce() -> Cold) -> Result<(), StateError> {
        let (expiries, bytes) = (&mut self.expiry, &mut self.bytes);
        let chosen = self.base.extract_if(|key, _| choice.takes(key));
        let entries = chosen.map(|(key, bucket)| {
            *bytes -= size_of_key(&key);
            let (mut kept, mut due) = (vec![], NEVER);
            for (row, held) in bucket.iter() {
                *bytes -= size(&key, row, held.expiry);
                expiries.remove(held.expiry, &RowOf(&key, row));
                due = due.min(held.expiry);
                kept.extend_from_slice(&held.expiry.to_le_bytes());
                kept.extend_from_slice(&held.entry.to_bytes());
                kept.extend_from_slice(&(row.len() as i64).to_le_bytes());
                kept.extend_from_slice(row);
            }
            (key, kept, due)
        });
        self.cold.get_or_insert_with(cold).put(entries)?;
        shrink(&mut self.base);
        Ok(())
    }

    pub fn get(&self, key: &[u8], row: &[u8]) -> Option<Entry> {
        if !self.overlay.is_empty()
            && let Some(change) = self.overlay.get(key).and_then(|bucket| bucket.get(row))
        {
            return change.entry;
        }
        Some(self.held(key, row)?.entry)
    }

    /// The recorded row, unless it is hidden.
    fn held(&self, key: &[u8], row: &[u8]) -> Option<Held> {
        self.base.get(key)?.get(row).copied().filter(|held| !self.expiry.hides(held.expiry))
    }

    /// When a row that is there ends; `None`: when it is deleted.
    pub fn expiry(&self, key: &[u8], row: &[u8]) -> Option<i64> {
        if let Some(change) = self.overlay.get(key).and_then(|bucket| bucket.get(row)) {
            return change.expiry;
        }
        self.held(key, row).map(|held| held.expiry).filter(|at| *at != NEVER)
    }

    /// Whether rows end some time after their last change. What a row was then may be gone when it is taken away.
    pub fn has_ttl(&self) -> bool {
        self.default_expiry.is_some()
    }

    /// `None` leaves the expiry as it was, unless rows expire some time after their last change.
    pub fn put(&mut self, key: &[u8], row: &[u8], entry: Entry, expiry: Option<i64>) {
        let expiry = expiry.or(self.default_expiry).or_else(|| self.expiry(key, row));
        self.change(key, row, Change { entry: Some(entry), expiry });
    }

    pub fn delete(&mut self, key: &[u8], row: &[u8]) {
        if let Some(held) = self.base.get(key).and_then(|bucket| bucket.get(row)) {
            // That it was there need not be known for longer than it would have been there.
            let expiry = Some(held.expiry).filter(|at| *at != NEVER);
            self.change(key, row, Change { entry: None, expiry });
        } else if let Some(bucket) = self.overlay.get_mut(key) {
            bucket.remove(row);
            if bucket.is_empty() {
                self.overlay.remove(key);
            }
        }
    }

    /// Adds to a row's weight; a row of weight zero is gone. Answers the weight before and after.
    pub fn add(&mut self, key: &[u8], row: &[u8], weight: i64, expiry: Option<i64>) -> (i64, i64) {
        let recorded = self.base.get(key).and_then(|bucket| bucket.get(row)).copied();
        let held = recorded.filter(|held| !self.expiry.hides(held.expiry));
        let bucket = self.overlay.entry_ref(key).or_default();
        let changed = bucket.get_mut(row);
        let before = changed.as_ref().map_or(held.map(|held| held.entry), |change| change.entry).unwrap_or_default();
        let mut after = before.weight + weight;
        if self.default_expiry.is_some() {
            after = after.max(0);
        }
        let entry = (after != 0).then_some(Entry { weight: after, ..before });
        let expiry = expiry.or(self.default_expiry);
        match changed {
            // Nobody need know of a row that came and went.
            _ if entry.is_none() && recorded.is_none() => {
                bucket.remove(row);
                if bucket.is_empty() {
                    self.overlay.remove(key);
                }
            }
            Some(change) => *change = Change { entry, expiry: expiry.or(change.expiry) },
            None => {
                let known = held.map(|held| held.expiry).filter(|at| *at != NEVER);
                bucket.insert(row.into(), Change { entry, expiry: expiry.or(known) });
            }
        }
        (before.weight, after)
    }

    /// Sets bits of a row's `matches`; the row is made when there is none. Answers the bits that were set before. Without a TTL nothing changes when all were.
    pub fn mark(&mut self, key: &[u8], row: &[u8], bits: i64, expiry: Option<i64>) -> i64 {
        let held = self.held(key, row);
        let changes = if self.overlay.is_empty() { None } else { self.overlay.get_mut(key) };
        let changed = changes.and_then(|bucket| bucket.get_mut(row));
        let before = changed.as_ref().map_or(held.map(|held| held.entry), |change| change.entry).unwrap_or_default().matches;
        let after = before | bits;
        if after == before && self.default_expiry.is_none() {
            return before;
        }
        let entry = Some(Entry { weight: 1, matches: after });
        let expiry = expiry.or(self.default_expiry);
        match changed {
            Some(change) => *change = Change { entry, expiry: expiry.or(change.expiry) },
            None => {
                let known = held.map(|held| held.expiry).filter(|at| *at != NEVER);
                self.change(key, row, Change { entry, expiry: expiry.or(known) });
            }
        }
        before
    }

    fn change(&mut self, key: &[u8], row: &[u8], change: Change) {
        if let Some(bucket) = self.overlay.get_mut(key) {
            bucket.insert(row.into(), change);
        } else {
            self.overlay.insert(key.into(), Sorted::of(row.into(), change));
        }
    }

    /// The recorded rows of a key from `low` on and before `end` that are not hidden, in order.
    fn shown(&self, key: &[u8], low: &[u8], end: Option<&[u8]>) -> Option<impl DoubleEndedIterator<Item = (&[u8], Entry)>> {
        let rows = self.base.get(key)?.between(low, end).filter(|(_, held)| !self.expiry.hides(held.expiry));
        Some(rows.map(|(row, held)| (row.as_ref(), held.entry)))
    }

    /// The rows of a key in order, as long as `visit` answers true.
    pub fn visit(&self, key: &[u8], visit: impl FnMut(&[u8], Entry) -> bool) {
        self.visit_between(key, &[], None, visit);
    }

    /// The same of the rows from `low` on that come before `end`.
    pub fn visit_between(&self, key: &[u8], low: &[u8], end: Option<&[u8]>, mut visit: impl FnMut(&[u8], Entry) -> bool) {
        let base = self.shown(key, low, end);
        let changes = if self.overlay.is_empty() { None } else { self.overlay.get(key) };
        match (base, changes) {
            (None, None) => {}
            (Some(mut base), None) => {
                base.all(|(row, entry)| visit(row, entry));
            }
            (base, Some(changes)) => visit_merged(base, changes.between(low, end), false, &mut visit),
        }
    }

    /// The same from the last row to the first.
    pub fn visit_backwards(&self, key: &[u8], mut visit: impl FnMut(&[u8], Entry) -> bool) {
        let base = self.shown(key, &[], None);
        let changes = if self.overlay.is_empty() { None } else { self.overlay.get(key) };
        match (base, changes) {
            (None, None) => {}
            (Some(base), None) => {
                base.rev().all(|(row, entry)| visit(row, entry));
            }
            (base, Some(changes)) => visit_merged(base, changes.iter(), true, &mut visit),
        }
    }

    /// Rows that expire at or before `through`: recorded ones, and those that the running task left when it declared rows gone before.
    pub fn due(&self, through: i64) -> impl Iterator<Item = (&[u8], &[u8], Entry)> {
        let entry = |key: &Bytes, row: &Bytes| Some(self.base.get(key)?.get(row)?.entry);
        let is_changed = |key: &Bytes, row: &Bytes| self.overlay.get(key).is_some_and(|bucket| bucket.get(row).is_some());
        let recorded = self.expiry.due(through).filter(move |(key, row)| !is_changed(key, row));
        let ends = move |change: &Change| change.expiry.is_some_and(|at| self.expiry.ends(at, through));
        let changed = self.changed().filter(move |(.., change)| ends(change));
        let changed = changed.filter_map(|(key, row, change)| Some((key.as_ref(), row.as_ref(), change.entry?)));
        recorded.filter_map(move |(key, row)| Some((key.as_ref(), row.as_ref(), entry(key, row)?))).chain(changed)
    }

    /// Rows due at or before `through` end with this epoch, and are hidden from now on.
    pub fn expire(&mut self, through: i64) {
        self.expiry.declare(through);
    }

    pub(crate) fn begin(&mut self, through: Option<i64>, default_expiry: Option<i64>) {
        through.into_iter().for_each(|through| self.expire(through));
        self.default_expiry = default_expiry;
    }

    /// Recorded rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Memory that it takes, about, the changes of the running task included.
    pub fn bytes(&self) -> usize {
        let change = |(row, change): (&Bytes, &Change)| size(&[], row, change.expiry.unwrap_or(NEVER));
        let bucket = |(key, bucket): (&Bytes, &ChangedBucket)| size_of_key(key) + bucket.iter().map(change).sum::<usize>();
        self.bytes + self.overlay.iter().map(bucket).sum::<usize>()
    }

    pub(crate) fn changed(&self) -> impl Iterator<Item = (&Bytes, &Bytes, &Change)> {
        self.overlay.iter().flat_map(|(key, bucket)| bucket.iter().map(move |(row, change)| (key, row, change)))
    }

    pub(crate) fn commit(&mut self) {
        for (key, changes) in std::mem::take(&mut self.overlay) {
            self.apply_all(&key, changes);
        }
        let due = self.expiry.take_declared();
        self.remove(due);
    }

    pub(crate) fn apply(&mut self, key: &[u8], row: Bytes, change: Change) {
        self.apply_all(key, [(row, change)]);
    }

    fn apply_all(&mut self, key: &[u8], changes: impl IntoIterator<Item = (Bytes, Change)>) {
        let bucket = self.base.entry_ref(key).or_insert_with(|| {
            self.bytes += size_of_key(key);
            Bucket::default()
        });
        for (row, Change { entry, expiry }) in changes {
            let Some(entry) = entry else {
                if let Some(held) = bucket.remove(&row) {
                    self.rows -= 1;
                    self.bytes -= size(key, &row, held.expiry);
                    self.expiry.remove(held.expiry, &RowOf(key, &row));
                }
                continue;
            };
            let expiry = expiry.unwrap_or(NEVER);
            let held = Held { entry, expiry };
            self.bytes += size(key, &row, expiry);
            let before = match bucket.get_mut(&row) {
                Some(known) => std::mem::replace(known, held).expiry,
                None => {
                    self.rows += 1;
                    self.expiry.add(expiry, || (key.into(), row.clone()));
                    bucket.insert(row, held);
                    continue;
                }
            };
            self.bytes -= size(key, &row, before);
            if before != expiry {
                self.expiry.remove(before, &RowOf(key, &row));
                self.expiry.add(expiry, || (key.into(), row));
            }
        }
        if bucket.is_empty() {
            self.base.remove(key);
            self.bytes -= size_of_key(key);
        }
    }

    fn remove(&mut self, due: Vec<(Bytes, Bytes)>) {
        for (key, row) in due {
            let Some(bucket) = self.base.get_mut(&key) else { continue };
            if let Some(held) = bucket.remove(&row) {
                self.rows -= 1;
                self.bytes -= size(&key, &row, held.expiry);
            }
            if bucket.is_empty() {
                self.base.remove(&key);
                self.bytes -= size_of_key(&key);
            }
        }
    }

    pub(crate) fn drop_due(&mut self, through: i64) {
        let due = self.expiry.take(through);
        self.remove(due);
    }

    pub(crate) fn discard(&mut self) {
        self.overlay.clear();
        self.expiry.withdraw();
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn base(&self) -> impl Iterator<Item = (&[u8], &[u8], Entry)> {
        self.base.iter().flat_map(|(key, bucket)| bucket.iter().map(move |(row, held)| (key.as_ref(), row.as_ref(), held.entry)))
    }
}

/// Base and changes as one ordered list.
fn visit_merged<'a>(
    base: Option<impl DoubleEndedIterator<Item = (&'a [u8], Entry)>>,
    changes: Rows<'a, Change>,
    backwards: bool,
    visit: &mut impl FnMut(&[u8], Entry) -> bool,
) {
    let base = base.into_iter().flatten();
    let changes = changes.map(|(row, change)| (row.as_ref(), change.entry));
    if backwards {
        merge(base.rev(), changes.rev(), |left, right| left > right, visit);
    } else {
        merge(base, changes, |left, right| left < right, visit);
    }
}

fn merge<'a>(
    base: impl Iterator<Item = (&'a [u8], Entry)>,
    changes: impl Iterator<Item = (&'a [u8], Option<Entry>)>,
    comes_first: impl Fn(&[u8], &[u8]) -> bool,
    visit: &mut impl FnMut(&[u8], Entry) -> bool,
) {
    let (mut base, mut changes) = (base.peekable(), changes.peekable());
    loop {
        let go_on = match (base.peek(), changes.peek()) {
            (None, None) => return,
            (Some(&(row, entry)), change) if change.is_none_or(|(changed, _)| comes_first(row, changed)) => {
                base.next();
                visit(row, entry)
            }
            (known, Some(&(row, entry))) => {
                if known.is_some_and(|(known, _)| *known == row) {
                    base.next();
                }
                changes.next();
                entry.is_none_or(|entry| visit(row, entry))
            }
            (Some(_), None) => return,
        };
        if !go_on {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn rows_end_when_their_expiry_is_recorded() {
        let mut table = BucketTable::default();
        table.put(b"k", b"a", Entry::of(1), Some(10));
        table.put(b"k", b"b", Entry::of(1), Some(20));
        table.commit();
        table.expire(15);
        assert_eq!(table.due(15).count(), 1);
        table.discard();
        assert_eq!(table.len(), 2);
        table.expire(15);
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
        table.expire(20);
        assert_eq!(rows(&table, b"k"), [(b"a".to_vec(), 1)], "what expired is hidden at once");
        table.commit();
        assert_eq!(table.len(), 1);
        table.delete(b"k", b"a");
        table.commit();
        table.put(b"k", b"a", Entry::of(1), Some(50));
        table.commit();
        table.expire(40);
        table.commit();
        assert_eq!(table.len(), 1, "its expiry before it was deleted counts no more");
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
        table.commit();
        table.begin(Some(10), Some(20));
        assert_eq!(rows(&table, b"k"), [(b"a".to_vec(), 2)]);
        assert_eq!(table.add(b"k", b"b", -1, None), (0, 0), "nothing is taken from what is gone");
        table.commit();
        assert_eq!(table.len(), 1);
    }
}
