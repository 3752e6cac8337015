//! What an epoch changes of a table: one change behind the other, in the order in which they came, with an index by key. There may be as many as there are
//! keys, and an epoch goes through them several times.
use hashbrown::DefaultHashBuilder;
use indexmap::{IndexMap, map::raw_entry_v1::RawEntryApiV1};

use crate::size::Key;

pub(crate) type Overlay<C> = IndexMap<Key, C, DefaultHashBuilder>;

/// What changes of a key; where nothing did, it begins with `first`, and only then is the key copied.
pub(crate) fn change_of<'a, C>(overlay: &'a mut Overlay<C>, key: &[u8], first: impl FnOnce() -> C) -> &'a mut C {
    overlay.raw_entry_mut_v1().from_key(key).or_insert_with(|| (key.into(), first())).1
}
