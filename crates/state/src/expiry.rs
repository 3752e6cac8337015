//! When entries end: an index from expiry to what expires then, of base entries only. Each entry is in it at most once, at the expiry that it has now.
use std::{collections::BTreeMap, hash::Hash, ops::Bound};

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
    /// Through whichever is later, of either time.
    #[must_use]
    pub fn later_of(self, other: Self) -> Self {
        Self { watermark_us: self.watermark_us.max(other.watermark_us), clock_us: self.clock_us.max(other.clock_us) }
    }

    pub(crate) fn of(&self, by_clock: bool) -> Option<i64> {
        if by_clock { self.clock_us } else { self.watermark_us }
    }
}

#[derive(Debug)]
pub(crate) struct Expiry<T> {
    due: BTreeMap<i64, HashSet<T>>,
    /// What ends with the running task, and is dropped when its overlay is committed.
    declared: Option<i64>,
    /// What it had declared before.
    declared_before: Option<i64>,
    /// What is hidden from it.
    hidden: Option<i64>,
}

impl<T> Default for Expiry<T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), declared: None, declared_before: None, hidden: None }
    }
}

impl<T: Hash + Eq> Expiry<T> {
    pub fn add(&mut self, at: i64, entry: impl FnOnce() -> T) {
        if at != NEVER {
            self.due.entry(at).or_default().insert(entry());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
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

    /// Declares what ends with the running task. `at_once`: it is no more for that task already; otherwise the rows that the task is given still meet it, and what
    /// it declares later does not.
    pub fn declare(&mut self, through: Option<i64>, at_once: bool) {
        let Some(through) = through else { return };
        self.declared_before = self.declared;
        self.declared = self.declared.max(Some(through));
        self.hidden = if at_once { self.declared } else { self.hidden.max(self.declared_before) };
    }

    pub fn withdraw(&mut self) {
        (self.declared, self.declared_before, self.hidden) = (None, None, None);
    }

    /// Whether an entry of this expiry ends by `through`, and has not ended by what the task declared before.
    pub fn ends(&self, at: i64, through: i64) -> bool {
        at <= through && self.declared_before.is_none_or(|before| at > before)
    }

    /// Whether an entry of this expiry ends with the running task.
    pub fn is_declared(&self, at: i64) -> bool {
        self.declared.is_some_and(|through| at <= through)
    }

    /// Whether an entry of this expiry is no more for the running task.
    pub fn hides(&self, at: i64) -> bool {
        self.hidden.is_some_and(|through| at <= through)
    }

    /// Takes out what is due by the declared time.
    pub fn take_declared(&mut self) -> Vec<T> {
        let declared = self.declared;
        self.withdraw();
        declared.map_or(vec![], |through| self.take(through))
    }

    pub fn take(&mut self, through: i64) -> Vec<T> {
        if self.due.first_key_value().is_none_or(|(first, _)| *first > through) {
            return vec![];
        }
        let later = self.due.split_off(&(through.saturating_add(1)));
        std::mem::replace(&mut self.due, later).into_values().flatten().collect()
    }

    /// Entries that end by `through`, without those that ended by what the task declared before.
    pub fn due(&self, through: i64) -> impl Iterator<Item = &T> {
        let from = self.declared_before.map_or(Bound::Unbounded, Bound::Excluded);
        let to = Bound::Included(self.declared_before.map_or(through, |before| before.max(through)));
        self.due.range((from, to)).flat_map(|(_, entries)| entries)
    }
}
