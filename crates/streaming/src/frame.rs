//! One epoch's exact input: half-open offset ranges, the clock its expressions see, and the window of its write timestamps.
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, PartIndex, SourcePartition};

/// Offsets `[start, end)` of one topic-partition. Never reversed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    pub start: i64,
    pub end: i64,
}

impl OffsetRange {
    /// # Panics
    /// When `start > end`.
    pub fn new(start: i64, end: i64) -> Self {
        assert!(start <= end, "offset range [{start}, {end}) is reversed");
        Self { start, end }
    }

    pub fn len(&self) -> u64 {
        (self.end - self.start) as u64
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn contains(&self, offset: i64) -> bool {
        (self.start..self.end).contains(&offset)
    }
}

/// What one part of an epoch reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRange {
    pub part: PartIndex,
    pub source: SourcePartition,
    pub range: OffsetRange,
}

/// The input of one epoch, chosen by the coordinator; unrecorded frames bind nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    pub epoch: Epoch,
    /// What `now()` answers, in microseconds since 1970.
    pub clock_us: i64,
    /// Start `w` of the epoch's write-time window `[w, w + P)`; part *i* writes with timestamp `w + i`.
    pub window_start_us: i64,
    /// One entry per part, by ascending part; ranges are not empty.
    pub parts: Vec<PartRange>,
}

impl Frame {
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.range.len()).sum()
    }
}
