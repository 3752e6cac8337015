//! Keyed state of stateful operators: what an executor holds in memory, and how it travels to the durable store.
//!
//! The state of a job is split into *lanes* by a hash of the key, and within a lane into tables, one or more per operator. A table maps keys
//! (bytes in Arrow's row format) to values ([`ValueTable`]) or to ordered buckets of weighted rows ([`BucketTable`]).
//!
//! A task changes only an *overlay*. Its changes become the epoch's delta ([`JobState::changes`]); only when the epoch is recorded does the overlay
//! enter the base ([`JobState::commit`]), and otherwise it is dropped ([`JobState::discard`]) (EPOCHS rule 8). A state is rebuilt by applying the
//! recorded runs in order ([`JobState::apply`]), into any number of lanes: which lane a key belongs to follows from its bytes alone. Where several executors
//! share a job, each holds the keys of its own lanes ([`Share`]), and runs may come from any of them.
//!
//! Entries may carry an *expiry*: once the recorded watermark reaches it, the entry is gone, without a delete in any delta. In tables with a TTL that is
//! a time of the clock, a while after the entry's last change.
//!
//! Where memory ends, entries go to a [`Spill`] ([`JobState::spill`]) and come back when an operator says that it will ask for their keys
//! ([`ValueTable::load`], [`BucketTable::load`]); what is due comes back by itself when an epoch begins.
//!
//! ```
//! use polybolos_state::{JobState, Table, TableKind};
//!
//! let mut state = JobState::new(&[TableKind::Values.into()], 2);
//! let key = b"device 7";
//! let lane = state.lane_of(key).expect("it holds all keys");
//! let Table::Values(table) = &mut state.lanes_mut()[lane].tables[0] else { unreachable!() };
//! table.put(key, b"1", None);
//! assert_eq!(table.get(key), Some(&b"1"[..]));
//! let delta = state.changes()?;
//! state.commit();
//!
//! let mut elsewhere = JobState::new(&[TableKind::Values.into()], 5);
//! elsewhere.apply(&delta)?;
//! assert_eq!(elsewhere.entries(), 1);
//! # Ok::<(), polybolos_state::StateError>(())
//! ```
#![forbid(unsafe_code)]

mod bucket;
mod error;
mod expiry;
mod job;
mod overlay;
mod run;
mod size;
mod sorted;
mod spill;
mod value;

pub use bucket::{BucketTable, Entry};
pub use error::StateError;
pub use expiry::Passed;
pub use job::{JobState, LaneState, Table, TableKind, TableSpec};
pub use run::{Merging, end_of_run, merge_runs, parts_of, run_schema};
pub use spill::{MemorySpill, Spill};
pub use value::ValueTable;

/// Which part of a job's keys a state holds. Every part has as many lanes; a key's lane among those of all parts tells whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub part: usize,
    pub parts: usize,
}

impl Share {
    /// All keys.
    pub const WHOLE: Self = Self { part: 0, parts: 1 };

    /// The lane of a key, where it is one of this part's `lanes`.
    pub fn lane_of(self, key: &[u8], lanes: usize) -> Option<usize> {
        let lane = lane_of(key, lanes * self.parts);
        (lane / lanes == self.part).then_some(lane % lanes)
    }
}

/// The lane of a key among `lanes`. The same in every process and version: an exchange and a reload must agree.
pub fn lane_of(key: &[u8], lanes: usize) -> usize {
    if lanes <= 1 { 0 } else { crc32fast::hash(key) as usize % lanes }
}
