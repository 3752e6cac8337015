//! When entries end: an index from expiry to what expires then, of base entries only. Each entry is in it at most once, at the expiry that it has now.
use std::{collections::BTreeMap, hash::Hash};

use hashbrown::{Equivalent, HashSet};

/// The expiry of what stays until it is deleted.
pub(crate) const NEVER: i64 = i64::MAX;

/// How far time has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub watermark_us: Option<i64>,
    /// Processing time, which a TTL counts by.
    pub clock_us: Option<i64>,
}

impl Passed {
    pub(crate) fn of(&self, by_clock: bool) -> Option<i64> {
        if by_clock { self.clock_us } else { self.watermark_us }
    }
}

#[derive(Debug)]
pub(crate) struct Expiry<T> {
    due: BTreeMap<i64, HashSet<T>>,
    /// What the running task declared gone: hidden from it, and dropped when its overlay is committed.
    declared: Option<i64>,
}

impl<T> Default for Expiry<T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), declared: None }
    }
}

impl<T: Hash + Eq> Expiry<T> {
    pub fn add(&mut self, at: i64, entry: impl FnOnce() -> T) {
        if at != NEVER {
            self.due.entry(at).or_default().insert(entry());
        }
    }

    pub fn remove(&mut self, at: i64, entry: &(impl Hash + Equivalent<T>)) {
        if at == NEVER {
            return;
        }
        let Some(entries) = self.due.get_mut(&at) else { return };
        entries.remove(entry);
        if entries.is_empty() {
            self.due.remove(&at);
        }
    }

    pub fn declare(&mut self, through: i64) {
        self.declared = self.declared.max(Some(through));
    }

    pub fn withdraw(&mut self) {
        self.declared = None;
    }

    /// Whether an entry of this expiry is no more for the running task.
    pub fn hides(&self, at: i64) -> bool {
        self.declared.is_some_and(|through| at <= through)
    }

    /// Takes out what is due by the declared time.
    pub fn take_declared(&mut self) -> Vec<T> {
        match self.declared.take() {
            Some(through) => self.take(through),
            None => vec![],
        }
    }

    pub fn take(&mut self, through: i64) -> Vec<T> {
        if self.due.first_key_value().is_none_or(|(first, _)| *first > through) {
            return vec![];
        }
        let later = self.due.split_off(&(through.saturating_add(1)));
        std::mem::replace(&mut self.due, later).into_values().flatten().collect()
    }

    pub fn due(&self, through: i64) -> impl Iterator<Item = &T> {
        self.due.range(..=through).flat_map(|(_, entries)| entries)
    }
}
