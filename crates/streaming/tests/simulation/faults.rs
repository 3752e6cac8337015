//! What can go wrong, which fault a run plans, and how often each struck.
use std::{collections::BTreeMap, fmt};

use polybolos_streaming::coordinator::Rule;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        pub const ALL: &[Fault] = &[$(Fault::$name,)*];
    };
}

faults! {
    SwapReplyLost,
    SwapRequestLost,
    /// Answered as timed out, and arrives at the store long after.
    SwapLate,
    SwapDuplicated,
    ManifestReadLost,
    LeaseReplyLost,
    LeaseWriteLate,
    ExecutorDies,
    /// Stops, is given up, wakes and goes on with what it was doing.
    ExecutorHangs,
    /// Dies while it writes a part file.
    TornFile,
    ReportLost,
    ReportLate,
    ReportDuplicated,
    /// Ballista runs a task once more.
    SecondExecution,
    StatusLost,
    /// Status and report: only the deadline ends the attempt.
    StatusAndReportLost,
    AttemptFails,
    /// Frames of more than a few rows never end.
    HeavyFrames,
    PublishOrderLost,
    PublishReportLost,
    PublishReportDuplicated,
    /// A publisher stops between two batches, and wakes.
    PublisherHangs,
    ClockForward,
    ClockBack,
    LeaderDies,
    /// Sleeps beyond its lease, wakes after the takeover, and finds its old events.
    LeaderPaused,
    PartitionAdded,
    Retention,
    TopicRecreated,
    SinkAway,
    SinkRefuses,
    PowerCut,
    PausedByUser,
    /// Ends when all that is recorded is published.
    Dropped,
    /// Ends at once.
    Discarded,
    /// An executor has to forget its state.
    MemoryLost,
    CompactionFails,
    CompactReportLost,
    /// After the order has expired.
    CompactReportLate,
}

/// A rule of EPOCHS.md that a run does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// One of those that live in the coordinator.
    Coordinator(Rule),
    /// 1: recovery believes the consumer group's offsets.
    GroupOffsets,
    /// 2: a swap is a plain write.
    PlainWrites,
    /// 2: a power cut takes the last swap back.
    ManifestNotSynced,
    /// Compute: a part is reported before its file is synced.
    PartNotSynced,
    /// 4: files go as soon as nobody names them.
    DeletedAtOnce,
    /// 5: executors follow a leader although they have heard of a later one.
    LowerGenerations,
    /// 5: an order goes on when the stream that it came by has ended, or its job.
    OrdersOutliveStreams,
    /// 6: publishers do not look at their grant.
    NoGrants,
    /// 7: a part that trades rows with others is run again in the same attempt.
    PartsRunAgain,
    /// 7: part files are named without a nonce.
    NamesWithoutNonce,
    /// 8: an execution changes the state in memory, not an overlay of its own.
    OverlayMergedAtOnce,
    /// 8: an executor that lacks a run of state does without.
    StateNotLoaded,
    /// 10: a part holds all changes of a key, not the last.
    AllChangesPerKey,
}

/// How one run is set up. The same plan gives the same run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// The fault that must happen; others may.
    pub fault: Fault,
    pub without: Option<Sabotage>,
    /// The job has a state, and so a watermark and timers.
    pub stateful: bool,
    /// What the state holds ends with time.
    pub state_ends: bool,
    /// How many executors share the state at most.
    pub sharing: u16,
    /// A leader that was paused does not notice for a while, as its clock stood still and the store is away.
    pub drowsy: bool,
    /// Keep a diary of everything that happens.
    pub traced: bool,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let (round, fault) = (seed / ALL.len() as u64, ALL[(seed % ALL.len() as u64) as usize]);
        let needs_state =
            matches!(fault, Fault::MemoryLost | Fault::CompactionFails | Fault::CompactReportLost | Fault::CompactReportLate);
        let sharing = 1 + (round / 2 % 2) as u16;
        let (stateful, state_ends) = (needs_state || round % 2 == 1, !needs_state && round / 4 % 2 == 1);
        Self { seed, fault, without: None, stateful, state_ends, sharing, drowsy: false, traced: false }
    }

    pub fn lacks(&self, sabotage: Sabotage) -> bool {
        self.without == Some(sabotage)
    }
}

/// How often each fault happened.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<Fault, u64>);

impl Counters {
    pub fn count(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Counters) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(fault, count)| write!(f, "{fault:?} {count}  "))
    }
}
