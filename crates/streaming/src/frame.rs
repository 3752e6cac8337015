//! One epoch's exact input: half-open offset ranges, the clock its expressions see, and the window of its write timestamps.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, PartIndex, SourceId, SourcePartition};

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
    /// `None`: timers that the epoch's own records make due are left to the next one.
    #[serde(default)]
    pub closing: Option<Closing>,
    /// Names of the logs that offsets count in, where these are not the first of their topics: others had the same offsets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logs: BTreeMap<SourceId, String>,
    /// One entry per part, by ascending part.
    pub parts: Vec<PartWork>,
}

/// What the only part of an epoch needs to know to fire the timers that its own records make due: a window's end then takes no epoch of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The partitions that the watermark waits for.
    pub awake: Vec<SeenTime>,
    /// Timers are due at multiples of it only.
    pub granule_us: i64,
}

/// The largest event time that is known of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenTime {
    pub source: SourcePartition,
    pub event_time_us: Option<i64>,
}

impl Closing {
    /// The watermark once the epoch has brought partitions these event times, where timers are due by it that were not by the epoch's own.
    pub fn watermark_us(&self, frame_us: Option<i64>, brought: &BTreeMap<SourcePartition, i64>) -> Option<i64> {
        let seen = self.awake.iter().map(|it| it.event_time_us.max(brought.get(&it.source).copied()));
        let after_us = seen.min().flatten();
        after_us.filter(|_| timers_lie_between(frame_us, after_us, self.granule_us))
    }
}

/// Whether timers, which are due at multiples of `granule_us` only, are due by the later watermark that were not by the earlier one.
pub fn timers_lie_between(earlier_us: Option<i64>, later_us: Option<i64>, granule_us: i64) -> bool {
    let granule = |time_us: i64| time_us.div_euclid(granule_us.max(1));
    later_us.map(granule) > earlier_us.map(granule)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_fires_the_timers_that_the_last_of_all_awake_partitions_makes_due() {
        let source = |partition| SourcePartition { source: SourceId(0), partition };
        let seen = |partition, event_time_us| SeenTime { source: source(partition), event_time_us };
        let closing = |awake: &[SeenTime]| Closing { awake: awake.to_vec(), granule_us: 10 };
        let brought = BTreeMap::from([(source(0), 31), (source(1), 5)]);
        let two = closing(&[seen(0, Some(12)), seen(1, Some(25))]);
        assert_eq!(two.watermark_us(Some(12), &brought), Some(25));
        assert_eq!(two.watermark_us(Some(21), &brought), None, "nothing is due between 21 and 25");
        assert_eq!(two.watermark_us(None, &brought), Some(25));
        assert_eq!(
            closing(&[seen(0, Some(12)), seen(2, None)]).watermark_us(Some(12), &brought),
            None,
            "it may still see anything"
        );
        assert_eq!(closing(&[]).watermark_us(Some(12), &brought), None);
    }
}
