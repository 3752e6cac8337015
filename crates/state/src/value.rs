//! One value per key: the accumulators of a group.
use hashbrown::HashMap;

use crate::expiry::Expiry;

type Bytes = Box<[u8]>;

#[derive(Debug)]
pub(crate) struct Change {
    /// `None`: deleted.
    pub value: Option<Bytes>,
    pub expiry: Option<i64>,
}

#[derive(Debug, Default)]
pub struct ValueTable {
    base: HashMap<Bytes, Bytes>,
    overlay: HashMap<Bytes, Change>,
    expiry: Expiry<Bytes>,
}

impl ValueTable {
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        if !self.overlay.is_empty()
            && let Some(change) = self.overlay.get(key)
        {
            return change.value.as_deref();
        }
        self.base.get(key).map(AsRef::as_ref)
    }

    /// `expiry` is a function of the key: it is the same whenever the key is put.
    pub fn put(&mut self, key: &[u8], value: &[u8], expiry: Option<i64>) {
        let change = Change { value: Some(value.into()), expiry };
        self.overlay.insert(key.into(), change);
    }

    pub fn delete(&mut self, key: &[u8]) {
        if self.base.contains_key(key) {
            self.overlay.insert(key.into(), Change { value: None, expiry: None });
        } else {
            self.overlay.remove(key);
        }
    }

    /// Recorded entries that expire at or before `through`, in the order of their expiry.
    pub fn due(&self, through: i64) -> impl Iterator<Item = (&[u8], &[u8])> {
        let value = |key: &Bytes| self.base.get(key).map(AsRef::as_ref);
        self.expiry.due(through).filter_map(move |key| Some((key.as_ref(), value(key)?)))
    }

    /// Entries due at or before `through` end with this epoch.
    pub fn expire(&mut self, through: i64) {
        self.expiry.declare(through);
    }

    pub fn len(&self) -> usize {
        self.base.len()
    }

    pub fn is_empty(&self) -> bool {
        self.base.is_empty()
    }

    pub(crate) fn changed(&self) -> impl Iterator<Item = (&Bytes, &Change)> {
        self.overlay.iter()
    }

    pub(crate) fn commit(&mut self) {
        for (key, change) in std::mem::take(&mut self.overlay) {
            self.apply(key, change);
        }
        for key in self.expiry.take_declared() {
            self.base.remove(&key);
        }
    }

    pub(crate) fn apply(&mut self, key: Bytes, change: Change) {
        match change.value {
            None => {
                self.base.remove(&key);
            }
            Some(value) => match self.base.entry(key) {
                hashbrown::hash_map::Entry::Occupied(mut entry) => {
                    entry.insert(value);
                }
                hashbrown::hash_map::Entry::Vacant(entry) => {
                    if let Some(at) = change.expiry {
                        self.expiry.add(at, entry.key().clone());
                    }
                    entry.insert(value);
                }
            },
        }
    }

    pub(crate) fn drop_due(&mut self, through: i64) {
        for key in self.expiry.take(through) {
            self.base.remove(&key);
        }
    }

    pub(crate) fn discard(&mut self) {
        self.overlay.clear();
        self.expiry.withdraw();
    }

    pub(crate) fn clear(&mut self) {
        self.discard();
        self.base.clear();
        self.expiry.clear();
    }

    pub(crate) fn base(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.base.iter()
    }
}
