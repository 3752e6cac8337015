//! Entries that have no room in memory. They lie in a store of the executor's own, beside the base and never in both, and come back when an epoch touches
//! their key. What is there is worth nothing to anybody else: the truth is in the recorded runs.
use std::{
    collections::BTreeMap,
    fmt::Debug,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{StateError, expiry::NEVER};

/// An ordered store of bytes, which need not outlive the process. A key that is put is not there yet, and one that is removed is there.
pub trait Spill: Debug + Send + Sync {
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// Keys from the first to the second, both included, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn keys(&self, from: &[u8], through: &[u8]) -> Result<Vec<Vec<u8>>, StateError>;

    /// All of it or nothing.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn write(&self, puts: Vec<(Vec<u8>, Vec<u8>)>, removes: Vec<Vec<u8>>) -> Result<(), StateError>;

    /// Makes room of all that is there, if it can: nobody asks for it any more.
    fn clear(&self);
}

/// A spill in memory, for tests: it holds its callers to their word.
#[derive(Debug, Default)]
pub struct MemorySpill(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl MemorySpill {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spill for MemorySpill {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.entries().get(key).cloned())
    }

    fn keys(&self, from: &[u8], through: &[u8]) -> Result<Vec<Vec<u8>>, StateError> {
        let range = (Bound::Included(from), Bound::Included(through));
        Ok(self.entries().range::<[u8], _>(range).map(|(key, _)| key.clone()).collect())
    }

    fn write(&self, puts: Vec<(Vec<u8>, Vec<u8>)>, removes: Vec<Vec<u8>>) -> Result<(), StateError> {
        let mut entries = self.entries();
        let is_new = puts.into_iter().all(|(key, value)| entries.insert(key, value).is_none());
        let was_there = removes.iter().all(|key| entries.remove(key).is_some());
        if is_new && was_there { Ok(()) } else { Err(StateError::Spill("a key was put twice or removed twice".into())) }
    }

    fn clear(&self) {
        self.entries().clear();
    }
}

/// Of which table of a state an entry is. A state that was cleared uses another number for what it spills from then on, so that nothing of before is found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub state: u32,
    pub lane: u16,
    pub table: u16,
}

/// So many entries are written at once.
const BATCH: usize = 4_096;

/// Longer keys stay in memory: stores have their limits.
const LONGEST_KEY: usize = 32 << 10;

/// The part of a table that is not in memory.
#[derive(Debug)]
pub(crate) struct Cold {
    spill: Arc<dyn Spill>,
    place: Place,
    /// How many keys.
    keys: usize,
}

/// Keys in the store begin with the place, then one of these. A due key has the time in front of the table's key, so that they are ordered by it.
const ENTRY: u8 = 0;
const DUE: u8 = 1;

impl Cold {
    pub fn new(spill: Arc<dyn Spill>, place: Place) -> Self {
        Self { spill, place, keys: 0 }
    }

    pub fn keys(&self) -> usize {
        self.keys
    }

    fn key(&self, kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        let Place { state, lane, table } = self.place;
        let mut key = Vec::with_capacity(9 + parts.iter().map(|part| part.len()).sum::<usize>());
        key.extend_from_slice(&state.to_be_bytes());
        key.extend_from_slice(&lane.to_be_bytes());
        key.extend_from_slice(&table.to_be_bytes());
        key.push(kind);
        parts.iter().for_each(|part| key.extend_from_slice(part));
        key
    }

    /// Takes out what is kept of those of `keys` that are here: the key, and what was put. Nothing is taken out when that fails.
    pub fn take<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<(&'a [u8], Vec<u8>)>, StateError> {
        if self.keys == 0 {
            return Ok(vec![]);
        }
        let mut taken = vec![];
        let mut removes = vec![];
        let mut known = hashbrown::HashSet::new();
        for key in keys.filter(|key| key.len() <= LONGEST_KEY && known.insert(*key)) {
            let entry = self.key(ENTRY, &[key]);
            let Some(mut kept) = self.spill.get(&entry)? else { continue };
            let due = kept.split_off(kept.len().checked_sub(8).ok_or_else(damaged)?);
            if due != ordered(NEVER) {
                removes.push(self.key(DUE, &[&due, key]));
            }
            removes.push(entry);
            taken.push((key, kept));
        }
        if !taken.is_empty() {
            self.spill.write(vec![], removes)?;
            self.keys -= taken.len();
        }
        Ok(taken)
    }

    /// Keys of which something ends by `through`.
    pub fn due(&self, through: i64) -> Result<Vec<Box<[u8]>>, StateError> {
        if self.keys == 0 {
            return Ok(vec![]);
        }
        // What ends later has a greater time in front of its key.
        let (from, end) = (self.key(DUE, &[]), self.key(DUE, &[&ordered(through.saturating_add(1))]));
        let at = from.len() + 8;
        let keys = self.spill.keys(&from, &end)?;
        Ok(keys.iter().filter(|key| key.len() >= at).map(|key| key[at..].into()).collect())
    }

    /// Puts entries here: key, what is kept of it, and when the first part of it ends.
    pub fn put(&mut self, entries: impl Iterator<Item = (impl AsRef<[u8]>, Vec<u8>, i64)>) -> Result<(), StateError> {
        let mut puts = vec![];
        let mut entries = entries.peekable();
        while let Some((key, mut kept, due)) = entries.next() {
            let due_bytes = ordered(due);
            if due != NEVER {
                puts.push((self.key(DUE, &[&due_bytes, key.as_ref()]), vec![]));
            }
            kept.extend_from_slice(&due_bytes);
            puts.push((self.key(ENTRY, &[key.as_ref()]), kept));
            self.keys += 1;
            if puts.len() >= BATCH || entries.peek().is_none() {
                self.spill.write(std::mem::take(&mut puts), vec![])?;
            }
        }
        Ok(())
    }
}

/// Bytes that compare as the numbers do.
fn ordered(at: i64) -> [u8; 8] {
    (at ^ i64::MIN).to_be_bytes()
}

pub(crate) fn damaged() -> StateError {
    StateError::Spill("an entry came back other than it was put".into())
}

/// Which entries go when some have to: each of a share of the keys, other ones in every round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    round: u32,
    below: u32,
}

impl Choice {
    /// About `share` of all keys, 0 to 1.
    pub fn of(share: f64, round: u32) -> Self {
        Self { round, below: (share.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32 }
    }

    /// The key of no columns stays: every epoch would bring it back.
    pub fn takes(&self, key: &[u8]) -> bool {
        let mixed = (crc32fast::hash(key) ^ self.round.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
        (1..=LONGEST_KEY).contains(&key.len()) && mixed <= self.below
    }
}

/// Takes parts off the front of what was kept.
pub(crate) struct Parts<'a>(pub &'a [u8]);

impl<'a> Parts<'a> {
    pub fn number(&mut self) -> Result<i64, StateError> {
        let (number, rest) = self.0.split_first_chunk().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(i64::from_le_bytes(*number))
    }

    pub fn bytes(&mut self, length: i64) -> Result<&'a [u8], StateError> {
        let (bytes, rest) = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length)).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(bytes)
    }
}
