//! A coordinator's settings; durations in microseconds.
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    frame::{OffsetRange, PartWork, SourceRange},
    ids::{Attempt, PartIndex, SinkId, SourceId, SourcePartition},
    manifest::MAX_PARTS,
    pace::PaceConfig,
};

pub const SECOND_US: u64 = 1_000_000;

/// Of a partition where its table does not say otherwise.
pub const IDLE_TIMEOUT_US: u64 = 30 * SECOND_US;

#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorConfig {
    pub pace: PaceConfig,
    pub layout: PartLayout,
    /// Sources whose table has a WATERMARK. It does not wait for a partition that had nothing to read for so long.
    pub watermarked: BTreeMap<SourceId, u64>,
    /// The plan emits when event time passes, also without records (windows, joins that expire). Needs [`PartLayout::Shared`].
    pub has_timers: bool,
    /// Timers are due at multiples of this event time only (the greatest common divisor of all windows' sizes and slides), so that the watermark's
    /// steps in between need no epoch of their own; 1 where they may be due at any time.
    pub timer_granule_us: i64,
    /// Runs of state that are merged at once at least; more make a longer chain to load, fewer rewrite the state more often.
    pub compact_from_runs: usize,
    /// Time for an order to merge runs; doubled after each one that exceeded it.
    pub compact_timeout_us: u64,
    pub max_compact_timeout_us: u64,
    /// `on_data_loss`.
    pub on_data_loss: OnDataLoss,
    /// Number of the first attempt. A leader that recovers the same job a second time passes on what
    /// [`next_attempt`](super::JobCoordinator::next_attempt) said, so that attempts stay unique within a generation.
    pub first_attempt: Attempt,
    /// Time for an attempt at first; doubled after each one that exceeded it.
    pub attempt_deadline_us: u64,
    pub max_attempt_deadline_us: u64,
    /// After Ballista said *completed*, how long to wait for reports still under way.
    pub report_grace_us: u64,
    /// How often a single record is tried before the job fails because of it.
    pub attempts_per_record: u32,
    /// First and longest pause after a failure of the environment; doubled each time.
    pub backoff_us: u64,
    pub max_backoff_us: u64,
    /// No answer to a swap or read for so long counts as unknown.
    pub store_timeout_us: u64,
    /// No answer to a publish order for so long: it is given out again.
    pub publish_timeout_us: u64,
    /// Sinks whose publishers stay where they are (rule 16): to move one costs the new executor a takeover.
    pub staying: BTreeSet<SinkId>,
    /// Publish positions wait so long for a record to travel with, before they are swapped on their own.
    pub position_delay_us: u64,
    /// Rule 17: bounds on what is recorded and not yet published. Computing stops at either.
    pub max_unpublished_bytes: u64,
    pub max_unpublished_epochs: u64,
    /// Rule 4: how long a file outlives the last manifest that named it.
    pub file_retention_us: u64,
    /// The rule that a simulation takes out to show that it is needed. Always `None` in production.
    #[doc(hidden)]
    pub without: Option<Rule>,
}

impl CoordinatorConfig {
    /// The pause after so many failures in a row, from one on.
    pub(super) fn backoff(&self, failures: u32) -> u64 {
        self.backoff_us.saturating_mul(1 << failures.saturating_sub(1).min(30)).min(self.max_backoff_us)
    }

    pub(super) fn lacks(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            pace: PaceConfig::default(),
            layout: PartLayout::PerPartition,
            watermarked: BTreeMap::new(),
            has_timers: false,
            timer_granule_us: 1,
            compact_from_runs: 32,
            compact_timeout_us: 60 * SECOND_US,
            max_compact_timeout_us: 3_600 * SECOND_US,
            on_data_loss: OnDataLoss::Fail,
            first_attempt: Attempt(1),
            attempt_deadline_us: 10 * SECOND_US,
            max_attempt_deadline_us: 300 * SECOND_US,
            report_grace_us: 2 * SECOND_US,
            attempts_per_record: 3,
            backoff_us: 100_000,
            max_backoff_us: 10 * SECOND_US,
            store_timeout_us: 5 * SECOND_US,
            publish_timeout_us: 60 * SECOND_US,
            staying: BTreeSet::new(),
            position_delay_us: SECOND_US,
            max_unpublished_bytes: 512 << 20,
            max_unpublished_epochs: 256,
            file_retention_us: 3_600 * SECOND_US,
            without: None,
        }
    }
}

/// How an epoch's ranges are shared among parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartLayout {
    /// A part for each range: nothing that one computes depends on another.
    #[default]
    PerPartition,
    /// For a job with a state: on so many executors at most, a part for each, which has its share of the topic-partitions and of the state's keys.
    Shared { most: u16 },
}

impl PartLayout {
    /// The parts of an epoch that reads these ranges, with so many executors. Parts that share a state are all there, also without ranges: they take part in
    /// the exchanges, and time passes for the state.
    pub(super) fn parts(self, chosen: Vec<(SourcePartition, OffsetRange)>, executors: usize) -> Vec<PartWork> {
        let ranges = chosen.into_iter().map(|(source, range)| SourceRange { source, range });
        match self {
            Self::PerPartition => {
                let part = |(i, range)| PartWork { part: PartIndex(i as u16), ranges: vec![range] };
                ranges.enumerate().map(part).collect()
            }
            Self::Shared { .. } => {
                let count = self.sharing(executors);
                let mut parts: Vec<PartWork> = (0..count).map(|part| PartWork { part: PartIndex(part), ranges: vec![] }).collect();
                for range in ranges {
                    parts[usize::from(Self::reader(range.source, count).0)].ranges.push(range);
                }
                parts
            }
        }
    }

    /// How many parts share a state on so many executors; 1 where none do.
    pub fn sharing(self, executors: usize) -> u16 {
        match self {
            Self::PerPartition => 1,
            Self::Shared { most } => most.min(MAX_PARTS).min(u16::try_from(executors).unwrap_or(MAX_PARTS)).max(1),
        }
    }

    /// Which of so many parts that share a state reads a topic-partition.
    pub fn reader(source: SourcePartition, parts: u16) -> PartIndex {
        PartIndex(((i64::from(source.source.0) + i64::from(source.partition)).rem_euclid(i64::from(parts))) as u16)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDataLoss {
    /// The job fails and says which topic, partition and offsets.
    #[default]
    Fail,
    /// Skip to the first offset there is, and count what is lost.
    Continue,
}

/// The rules of EPOCHS.md that live in the coordinator and that the simulation can take out, one at a time.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Sources: records are there to be read only if they are of the log that is read now (without: of whichever).
    RecordsOfOneLog,
    /// Event time: the watermark never falls (without: it is what the partitions say now).
    WatermarkAscends,
    /// Event time: the watermark is where an epoch's own records took its timers (without: where the partitions put it).
    WatermarkFollowsTimers,
    /// State: a merged run counts only as the answer to the order that stands (without: whenever it comes).
    CompactionOrdered,
    /// 4: a published file stays while it is a run of the state (without: it goes).
    StateOutlivesPublishing,
    /// 3: a swap without a clear answer is read back and repeated with the same bytes (without: made anew).
    SameBytes,
    /// 4: what a savepoint names stays (without: it goes).
    SavepointsPin,
    /// 5: the first swap takes the job over (without: work starts on what was read).
    TakeOver,
    /// 7: a second execution of a part ends the attempt (without: ignored).
    OneExecution,
    /// 7: an epoch needs a report for each part (without: Ballista's word is enough).
    FullCoverage,
    /// 8: only the winner's counts count (without: each report counts).
    WinnerCounts,
    /// 9: an attempt has a deadline (without: none).
    Deadline,
    /// 9: the attempt after a deadline is smaller (without: the same).
    SmallerNext,
    /// 12: windows never go back (without: they start at the wall clock).
    WindowsAscend,
    /// 13: a sink gets recorded epochs in order (without: the newest first).
    EpochsInOrder,
    /// 15: what a sink refused is recorded before the sink's position passes it (without: it is published from memory).
    RecordRefused,
    /// 17: unpublished bytes are bounded (without: not).
    BoundUnpublished,
    /// 18: an incarnation ends with a last swap (without: who leads it just stops).
    LastSwap,
}
