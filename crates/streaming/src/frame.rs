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

/// Offsets of one of the job's topic-partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRange {
    pub source: SourcePartition,
    pub range: OffsetRange,
}

/// What one part of an epoch reads: one range where parts are independent, those of its topic-partitions where they share a state, which may be none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartWork {
    pub part: PartIndex,
    /// By ascending source and partition, each at most once; no range is empty.
    pub ranges: Vec<SourceRange>,
}

impl PartWork {
    pub fn rows(&self) -> u64 {
        self.ranges.iter().map(|of| of.range.len()).sum()
    }
}

/// The input of one epoch, chosen by the coordinator; unrecorded frames bind nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    pub epoch: Epoch,
    /// What `now()` answers, in microseconds since 1970.
    pub clock_us: i64,
    /// Start `w` of the epoch's write-time window `[w, w + P)`; part *i* writes with timestamp `w + i`.
    pub window_start_us: i64,
    /// The job's watermark before this epoch, in microseconds of event time: what is late is judged by it, and the timers through it fire.
    #[serde(default)]
    pub watermark_us: Option<i64>,
    /// One entry per part, by ascending part.
    pub parts: Vec<PartWork>,
}

impl Frame {
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(PartWork::rows).sum()
    }

    /// All that the epoch reads.
    pub fn ranges(&self) -> impl Iterator<Item = &SourceRange> {
        self.parts.iter().flat_map(|part| &part.ranges)
    }
}
