//! One value per key: the accumulators of a group.
use hashbrown::HashMap;

use crate::{
    StateError,
    expiry::{Expiry, NEVER},
    overlay::{Overlay, change_of},
    size::{Key, elsewhere, shrink, slot},
    spill::{Choice, Cold, Parts},
};

/// Most accumulators are three numbers at most: as keys are, they lie in place.
type Value = Key;

#[derive(Debug)]
pub(crate) struct Change {
    /// `None`: deleted.
    pub value: Option<Value>,
    /// `None`: stays until it is deleted.
    pub expiry: Option<i64>,
}

#[derive(Debug)]
struct Held {
    value: Value,
    expiry: i64,
}

/// What an entry takes.
fn size(key: &Key, value: &Value, expiry: i64) -> usize {
    let due = if expiry == NEVER { 0 } else { slot::<Key>() + elsewhere(key) };
    slot::<(Key, Held)>() + elsewhere(key) + elsewhere(value) + due
}

#[derive(Debug, Default)]
pub struct ValueTable {
    base: HashMap<Key, Held>,
    overlay: Overlay<Change>,
    expiry: Expiry<Key>,
    /// What `base` takes.
    bytes: usize,
    /// Of entries that are put without one: those of a job with a TTL.
    default_expiry: Option<i64>,
    /// Entries that are not in `base`, for want of memory.
    cold: Option<Cold>,
}

impl ValueTable {
    /// Has the entries of these keys in memory. An epoch loads the keys that it will ask for or change, before it does.
    ///
    /// # Errors
    /// When what was spilled cannot be read. Nothing changed then.
    pub fn load<'a>(&mut self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<(), StateError> {
        let Some(cold) = &mut self.cold else { return Ok(()) };
        let base = &self.base;
        for (key, kept) in cold.take(keys.into_iter().filter(|key| !base.contains_key(*key)))? {
            let mut parts = Parts(&kept);
            let expiry = Some(parts.number()?).filter(|at| *at != NEVER);
            self.apply(key.into(), Change { value: Some(parts.0.into()), expiry });
        }
        Ok(())
    }

    pub(crate) fn cold(&self) -> Option<&Cold> {
        self.cold.as_ref()
    }

    /// Takes the chosen entries out of memory. There must be no changes.
    pub(crate) fn spill(&mut self, choice: Choice, cold: impl FnOnce() -> Cold) -> Result<(), StateError> {
        let (expiries, bytes) = (&mut self.expiry, &mut self.bytes);
        let chosen = self.base.extract_if(|key, _| choice.takes(key));
        let entries = chosen.map(|(key, held)| {
            *bytes -= size(&key, &held.value, held.expiry);
            expiries.remove(held.expiry, &key);
            let kept = [&held.expiry.to_le_bytes(), held.value.as_ref()].concat();
            (key, kept, held.expiry)
        });
        self.cold.get_or_insert_with(cold).put(entries)?;
        shrink(&mut self.base);
        Ok(())
    }

    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        if !self.overlay.is_empty()
            && let Some(change) = self.overlay.get(key)
        {
            return change.value.as_deref();
        }
        self.base.get(key).filter(|held| !self.expiry.hides(held.expiry)).map(|held| held.value.as_ref())
    }

    /// `None` leaves the expiry as it was, unless entries expire some time after their last change.
    pub fn put(&mut self, key: &[u8], value: &[u8], expiry: Option<i64>) {
        let (base, expiries, given) = (&self.base, &self.expiry, expiry.or(self.default_expiry));
        let known = || {
            // Where nothing that is held ends, the key is not looked for.
            let held = if expiries.is_empty() { None } else { base.get(key) };
            held.map(|held| held.expiry).filter(|at| *at != NEVER && !expiries.hides(*at))
        };
        let change = change_of(&mut self.overlay, key, || Change { value: None, expiry: given.or_else(known) });
        *change = Change { value: Some(value.into()), expiry: given.or(change.expiry) };
    }

    /// Makes room for so many more changes.
    pub fn reserve(&mut self, changes: usize) {
        self.overlay.reserve(changes);
    }

    pub fn delete(&mut self, key: &[u8]) {
        if let Some(held) = self.base.get(key) {
            // That it was there need not be known for longer than it would have been there.
            let expiry = Some(held.expiry).filter(|at| *at != NEVER);
            self.overlay.insert(key.into(), Change { value: None, expiry });
        } else {
            self.overlay.swap_remove(key);
        }
    }

    /// Entries that expire at or before `through`, without those that ended by what the running task declared before.
    pub fn due(&self, through: i64) -> impl Iterator<Item = (&[u8], &[u8])> {
        let value = |key: &Key| self.base.get(key).map(|held| held.value.as_ref());
        let recorded = self.expiry.due(through).filter(|key| !self.overlay.contains_key(*key));
        let ends = move |change: &Change| change.expiry.is_some_and(|at| self.expiry.ends(at, through));
        let changed = self.overlay.iter().filter(move |(_, change)| ends(change));
        let changed = changed.filter_map(|(key, change)| Some((key.as_ref(), change.value.as_deref()?)));
        recorded.filter_map(move |key| Some((key.as_ref(), value(key)?))).chain(changed)
    }

    /// Entries due at or before `through` end with this epoch: those of a TTL are gone when it begins, others when it is over.
    pub(crate) fn begin(&mut self, through: Option<i64>, default_expiry: Option<i64>) {
        self.default_expiry = default_expiry;
        self.expiry.declare(through, default_expiry.is_some());
    }

    pub fn len(&self) -> usize {
        self.base.len() + self.cold.as_ref().map_or(0, Cold::keys)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that it takes, about, the changes of the running task included.
    pub fn bytes(&self) -> usize {
        let change = |(key, change): (&Key, &Change)| match &change.value {
            Some(value) => size(key, value, change.expiry.unwrap_or(NEVER)),
            None => slot::<(Key, Change)>() + elsewhere(key),
        };
        self.bytes + self.overlay.iter().map(change).sum::<usize>()
    }

    /// What came and ended with the running task is none.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (&Key, &Change)> {
        let ended = |change: &Change| change.expiry.is_some_and(|at| self.expiry.is_declared(at));
        self.overlay.iter().filter(move |(key, change)| !ended(change) || self.base.contains_key(*key))
    }

    pub(crate) fn commit(&mut self) {
        for (key, change) in std::mem::take(&mut self.overlay) {
            self.apply(key, change);
        }
        let due = self.expiry.take_declared();
        self.remove(due);
    }

    fn remove(&mut self, due: Vec<Key>) {
        for key in due {
            if let Some(held) = self.base.remove(&key) {
                self.bytes -= size(&key, &held.value, held.expiry);
            }
        }
    }

    pub(crate) fn apply(&mut self, key: Key, change: Change) {
        let Some(value) = change.value else {
            if let Some(held) = self.base.remove(&key) {
                self.bytes -= size(&key, &held.value, held.expiry);
                self.expiry.remove(held.expiry, &key);
            }
            return;
        };
        let expiry = change.expiry.unwrap_or(NEVER);
        self.bytes += size(&key, &value, expiry);
        match self.base.entry(key) {
            hashbrown::hash_map::Entry::Occupied(mut entry) => {
                self.bytes -= size(entry.key(), &entry.get().value, entry.get().expiry);
                let before = std::mem::replace(&mut entry.get_mut().expiry, expiry);
                entry.get_mut().value = value;
                if before != expiry {
                    self.expiry.remove(before, entry.key());
                    self.expiry.add(expiry, || entry.key().clone());
                }
            }
            hashbrown::hash_map::Entry::Vacant(entry) => {
                self.expiry.add(expiry, || entry.key().clone());
                entry.insert(Held { value, expiry });
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

    pub(crate) fn base(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.base.iter().map(|(key, held)| (key.as_ref(), held.value.as_ref()))
    }
}
