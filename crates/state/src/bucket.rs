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

/// What the index of expiries has: a key all of whose rows end together, or one row of a key.
type Ending = (Bytes, Option<Bytes>);

#[derive(Hash)]
struct EndingOf<'a>(&'a [u8], Option<&'a [u8]>);

impl Equivalent<Ending> for EndingOf<'_> {
    fn equivalent(&self, (key, row): &Ending) -> bool {
        self.0 == key.as_ref() && self.1 == row.as_deref()
    }
}

/// When rows end.
#[derive(Debug, Default)]
struct Endings {
    expiry: Expiry<Ending>,
    /// What the index takes.
    bytes: usize,
}

impl Endings {
    fn size(key: &[u8], row: Option<&[u8]>) -> usize {
        slot::<Ending>() + allocated(key.len()) + row.map_or(0, |row| allocated(row.len()))
    }

    fn add(&mut self, at: i64, key: &[u8], row: Option<&[u8]>) {
        if at != NEVER {
            self.bytes += Self::size(key, row);
            self.expiry.add(at, || (key.into(), row.map(Into::into)));
        }
    }

    fn remove(&mut self, at: i64, key: &[u8], row: Option<&[u8]>) {
        if at != NEVER {
            self.bytes -= Self::size(key, row);
            self.expiry.remove(at, &EndingOf(key, row));
        }
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
#[derive(Debug, Default)]
struct Bucket {
    rows: Sorted<Held>,
    /// Whether the index of expiries has each row; else all end together, and it has the key.
    ends_apart: bool,
    /// Of all, where they end together.
    end: i64,
}

impl Bucket {
    /// Answers what was there.
    fn insert(&mut self, key: &[u8], row: Bytes, held: Held, endings: &mut Endings) -> Option<Held> {
        if self.ends_apart {
            let before = self.rows.insert(row.clone(), held);
            if before.map(|before| before.expiry) != Some(held.expiry) {
                before.inspect(|before| endings.remove(before.expiry, key, Some(&row)));
                endings.add(held.expiry, key, Some(&row));
            }
            return before;
        }
        let before = self.rows.insert(row, held);
        if self.rows.len() == 1 {
            before.inspect(|before| endings.remove(before.expiry, key, None));
            endings.add(held.expiry, key, None);
            self.end = held.expiry;
        } else if self.end != held.expiry {
            endings.remove(self.end, key, None);
            self.ends_apart = true;
            self.rows.iter().for_each(|(row, held)| endings.add(held.expiry, key, Some(row)));
        }
        before
    }

    fn remove(&mut self, key: &[u8], row: &[u8], endings: &mut Endings) -> Option<Held> {
        let removed = self.rows.remove(row)?;
        if self.ends_apart {
            endings.remove(removed.expiry, key, Some(row));
        } else if self.rows.is_empty() {
            endings.remove(removed.expiry, key, None);
        }
        Some(removed)
    }
}

type ChangedBucket = Sorted<Change>;

/// What a row takes among others of its key.
fn size(row: &[u8]) -> usize {
    // Lists and trees of rows have room to spare.
    size_of::<(Bytes, Held)>() * 3 / 2 + allocated(row.len())
}

/// What a key with rows takes beside them.
fn size_of_key(key: &[u8]) -> usize {
    slot::<(Bytes, Bucket)>() + allocated(key.len())
}

#[derive(Debug, Default)]
pub struct BucketTable {
    base: HashMap<Bytes, Bucket>,
    overlay: HashMap<Bytes, ChangedBucket>,
    endings: Endings,
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
        let (endings, bytes) = (&mut self.endings, &mut self.bytes);
        let chosen = self.base.extract_if(|key, _| choice.takes(key));
        let entries = chosen.map(|(key, bucket)| {
            *bytes -= size_of_key(&key);
            let (mut kept, mut due) = (vec![], NEVER);
            if !bucket.ends_apart {
                endings.remove(bucket.end, &key, None);
            }
            for (row, held) in bucket.rows.iter() {
                *bytes -= size(row);
                if bucket.ends_apart {
                    endings.remove(held.expiry, &key, Some(row));
                }
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
        self.base.get(key)?.rows.get(row).copied().filter(|held| !self.endings.expiry.hides(held.expiry))
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
        if let Some(held) = self.base.get(key).and_then(|bucket| bucket.rows.get(row)) {
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
        self.change_weight(key, row, weight, None, expiry)
    }

    /// The same, and the row's `matches` are these from now on.
    pub fn add_matched(&mut self, key: &[u8], row: &[u8], weight: i64, matches: i64, expiry: Option<i64>) {
        self.change_weight(key, row, weight, Some(matches), expiry);
    }

    fn change_weight(&mut self, key: &[u8], row: &[u8], weight: i64, matches: Option<i64>, expiry: Option<i64>) -> (i64, i64) {
        let recorded = self.base.get(key).and_then(|bucket| bucket.rows.get(row)).copied();
        let held = recorded.filter(|held| !self.endings.expiry.hides(held.expiry));
        let bucket = self.overlay.entry_ref(key).or_default();
        let changed = bucket.get_mut(row);
        let before = changed.as_ref().map_or(held.map(|held| held.entry), |change| change.entry).unwrap_or_default();
        let mut after = before.weight + weight;
        if self.default_expiry.is_some() {
            after = after.max(0);
        }
        let entry = (after != 0).then_some(Entry { weight: after, matches: matches.unwrap_or(before.matches) });
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
        let rows = self.base.get(key)?.rows.between(low, end).filter(|(_, held)| !self.endings.expiry.hides(held.expiry));
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

    /// The recorded rows that the index means.
    fn rows_of<'a>(&'a self, (key, row): &'a Ending) -> impl Iterator<Item = (&'a Bytes, &'a Held)> + use<'a> {
        let bucket = self.base.get(key);
        let one = row.as_ref().and_then(|row| Some((row, bucket?.rows.get(row)?)));
        let all = bucket.filter(|_| row.is_none()).map(|bucket| bucket.rows.iter());
        one.into_iter().chain(all.into_iter().flatten())
    }

    /// Rows that expire at or before `through`, without those that ended by what the running task declared before.
    pub fn due(&self, through: i64) -> impl Iterator<Item = (&[u8], &[u8], Entry)> {
        let is_changed = |key: &[u8], row: &[u8]| self.overlay.get(key).is_some_and(|bucket| bucket.get(row).is_some());
        let recorded = self.endings.expiry.due(through).flat_map(|ending| self.rows_of(ending).map(move |row| (&ending.0, row)));
        let recorded = recorded.filter(move |(key, (row, _))| !is_changed(key, row));
        let recorded = recorded.map(|(key, (row, held))| (key.as_ref(), row.as_ref(), held.entry));
        let ends = move |change: &Change| change.expiry.is_some_and(|at| self.endings.expiry.ends(at, through));
        let changed = self.overlaid().filter(move |(.., change)| ends(change));
        recorded.chain(changed.filter_map(|(key, row, change)| Some((key.as_ref(), row.as_ref(), change.entry?))))
    }

    /// Rows due at or before `through` end with this epoch: those of a TTL are gone when it begins, others when it is over.
    pub(crate) fn begin(&mut self, through: Option<i64>, default_expiry: Option<i64>) {
        self.default_expiry = default_expiry;
        self.endings.expiry.declare(through, default_expiry.is_some());
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
        let change = |(row, _): (&Bytes, &Change)| size(row);
        let bucket = |(key, bucket): (&Bytes, &ChangedBucket)| size_of_key(key) + bucket.iter().map(change).sum::<usize>();
        self.bytes + self.endings.bytes + self.overlay.iter().map(bucket).sum::<usize>()
    }

    fn overlaid(&self) -> impl Iterator<Item = (&Bytes, &Bytes, &Change)> {
        self.overlay.iter().flat_map(|(key, bucket)| bucket.iter().map(move |(row, change)| (key, row, change)))
    }

    /// What came and ended with the running task is none.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (&Bytes, &Bytes, &Change)> {
        let ended = |change: &Change| change.expiry.is_some_and(|at| self.endings.expiry.is_declared(at));
        let is_recorded = |key: &[u8], row: &[u8]| self.base.get(key).is_some_and(|bucket| bucket.rows.get(row).is_some());
        self.overlaid().filter(move |(key, row, change)| !ended(change) || is_recorded(key, row))
    }

    pub(crate) fn commit(&mut self) {
        for (key, changes) in std::mem::take(&mut self.overlay) {
            self.apply_all(&key, changes);
        }
        let due = self.endings.expiry.take_declared();
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
                if bucket.remove(key, &row, &mut self.endings).is_some() {
                    self.rows -= 1;
                    self.bytes -= size(&row);
                }
                continue;
            };
            let (held, size) = (Held { entry, expiry: expiry.unwrap_or(NEVER) }, size(&row));
            if bucket.insert(key, row, held, &mut self.endings).is_none() {
                self.rows += 1;
                self.bytes += size;
            }
        }
        if bucket.rows.is_empty() {
            self.base.remove(key);
            self.bytes -= size_of_key(key);
        }
    }

    /// What the index has given out.
    fn remove(&mut self, due: Vec<Ending>) {
        for (key, row) in due {
            self.endings.bytes -= Endings::size(&key, row.as_deref());
            let Some(bucket) = self.base.get_mut(&key) else { continue };
            match row {
                Some(row) => {
                    if bucket.rows.remove(&row).is_some() {
                        self.rows -= 1;
                        self.bytes -= size(&row);
                    }
                }
                None => {
                    let rows = std::mem::take(&mut bucket.rows);
                    self.rows -= rows.len();
                    self.bytes -= rows.iter().map(|(row, _)| size(row)).sum::<usize>();
                }
            }
            if bucket.rows.is_empty() {
                self.base.remove(&key);
                self.bytes -= size_of_key(&key);
            }
        }
    }

    pub(crate) fn drop_due(&mut self, through: i64) {
        let due = self.endings.expiry.take(through);
        self.remove(due);
    }

    pub(crate) fn discard(&mut self) {
        self.overlay.clear();
        self.endings.expiry.withdraw();
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn base(&self) -> impl Iterator<Item = (&[u8], &[u8], Entry)> {
        self.base
            .iter()
            .flat_map(|(key, bucket)| bucket.rows.iter().map(move |(row, held)| (key.as_ref(), row.as_ref(), held.entry)))
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
        table.commit();
        table.begin(Some(10), Some(20));
        assert_eq!(rows(&table, b"k"), [(b"a".to_vec(), 2)]);
        assert_eq!(table.add(b"k", b"b", -1, None), (0, 0), "nothing is taken from what is gone");
        table.commit();
        assert_eq!(table.len(), 1);
    }
}
