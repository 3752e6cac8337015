//! About how much memory entries take: their parts, and what allocations are rounded up to.
use std::hash::Hash;

use hashbrown::HashMap;
use smallvec::SmallVec;

/// Most keys are three columns of numbers and times at most. In place, they need no allocation, and none to look at when keys are compared. (One byte less than a
/// multiple of eight: so much the smaller is the whole.)
pub(crate) type Key = SmallVec<[u8; KEY_BYTES]>;

const KEY_BYTES: usize = 31;

/// What a key takes that has no room in place.
pub(crate) fn elsewhere(key: &[u8]) -> usize {
    if key.len() > KEY_BYTES { allocated(key.len()) } else { 0 }
}

/// An allocation of so many bytes.
pub(crate) fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16) }
}

/// A slot of `T` in a hash table: with its byte of control, and those that are kept free.
pub(crate) const fn slot<T>() -> usize {
    (size_of::<T>() + 1) * 3 / 2
}

/// Gives memory back where a table is far larger than what is in it.
pub(crate) fn shrink<K: Hash + Eq, V>(table: &mut HashMap<K, V>) {
    if table.len() < table.capacity() / 4 {
        table.shrink_to_fit();
    }
}
