//! Weighted rows per key, in order: the rows that a join matches, a partition's rows by sort key, the values of an aggregate that can lose some.
use hashbrown::{Equivalent, HashMap};

use crate::{
    expiry::{Expiry, NEVER},
    overlay::{Overlay, change_of},
    size::{Key, allocated, elsewhere, slot},
    sorted::Sorted,
    spill::Cold,
};

mod cold;
mod visit;

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
type Ending = (Key, Option<Bytes>);

#[derive(Hash)]
struct EndingOf<'a>(&'a [u8], Option<&'a [u8]>);

impl Equivalent<Ending> for EndingOf<'_> {
    fn equivalent(&self, (key, row): &Ending) -> bool {
        self.0 == key.as_slice() && self.1 == row.as_deref()
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
        slot::<Ending>() + elsewhere(key) + row.map_or(0, |row| allocated(row.len()))
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
    slot::<(Key, Bucket)>() + elsewhere(key)
}

#[derive(Debug, Default)]
pub struct BucketTable {
    base: HashMap<Key, Bucket>,
    overlay: Overlay<ChangedBucket>,
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

    /// Whether a row that is there ends when those end that change now; all do without a TTL.
    pub fn ends_with_changes(&self, key: &[u8], row: &[u8]) -> bool {
        self.default_expiry.is_none_or(|at| self.expiry(key, row) == Some(at))
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
                self.overlay.swap_remove(key);
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
        let bucket = change_of(&mut self.overlay, key, ChangedBucket::default);
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
                    self.overlay.swap_remove(key);
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
        let bucket = |(key, bucket): (&Key, &ChangedBucket)| size_of_key(key) + bucket.iter().map(change).sum::<usize>();
        self.bytes + self.endings.bytes + self.overlay.iter().map(bucket).sum::<usize>()
    }

    fn overlaid(&self) -> impl Iterator<Item = (&Key, &Bytes, &Change)> {
        self.overlay.iter().flat_map(|(key, bucket)| bucket.iter().map(move |(row, change)| (key, row, change)))
    }

    /// What came and ended with the running task is none.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (&Key, &Bytes, &Change)> {
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

#[cfg(test)]
mod tests;
