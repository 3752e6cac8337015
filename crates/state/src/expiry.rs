//! When entries end: an index from expiry to what expires then, of base entries only.
use std::collections::BTreeMap;

#[derive(Debug)]
pub(crate) struct Expiry<T> {
    due: BTreeMap<i64, Vec<T>>,
    /// What the running task declared gone; becomes fact when its overlay is committed.
    declared: Option<i64>,
}

impl<T> Default for Expiry<T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), declared: None }
    }
}

impl<T> Expiry<T> {
    pub fn add(&mut self, at: i64, entry: T) {
        self.due.entry(at).or_default().push(entry);
    }

    pub fn declare(&mut self, through: i64) {
        self.declared = self.declared.max(Some(through));
    }

    pub fn withdraw(&mut self) {
        self.declared = None;
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

    pub fn clear(&mut self) {
        self.due.clear();
        self.declared = None;
    }
}
