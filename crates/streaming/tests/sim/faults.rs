//! What can go wrong, how often it did, and what a run has planned.
use std::collections::BTreeMap;

use polybolos_streaming::coordinator::Rule;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    SwapReplyLost,
    SwapRequestLost,
    /// Answered as timed out, and arrives at the store long after.
    SwapLate,
    SwapDuplicated,
    ReadLost,
    ExecutorDies,
    /// Stops, is given up, wakes as a zombie and goes on with what it was doing.
    ExecutorHangs,
    /// Dies while writing a part file.
    TornFile,
    ReportLost,
    ReportLate,
    ReportDuplicated,
    SecondExecution,
    StatusLost,
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
    /// Sleeps through a takeover, wakes, and finds its old events.
    LeaderPaused,
    /// A takeover while the old leader lives and works.
    TwoLeaders,
    PartitionAdded,
    Retention,
    TopicRecreated,
    SinkAway,
    SinkRefuses,
    PowerCut,
    PausedByUser,
    Dropped,
}

pub const ALL: [Fault; 32] = [
    Fault::SwapReplyLost,
    Fault::SwapRequestLost,
    Fault::SwapLate,
    Fault::SwapDuplicated,
    Fault::ReadLost,
    Fault::ExecutorDies,
    Fault::ExecutorHangs,
    Fault::TornFile,
    Fault::ReportLost,
    Fault::ReportLate,
    Fault::ReportDuplicated,
    Fault::SecondExecution,
    Fault::StatusLost,
    Fault::AttemptFails,
    Fault::HeavyFrames,
    Fault::PublishOrderLost,
    Fault::PublishReportLost,
    Fault::PublishReportDuplicated,
    Fault::PublisherHangs,
    Fault::ClockForward,
    Fault::ClockBack,
    Fault::LeaderDies,
    Fault::LeaderPaused,
    Fault::TwoLeaders,
    Fault::PartitionAdded,
    Fault::Retention,
    Fault::TopicRecreated,
    Fault::SinkAway,
    Fault::SinkRefuses,
    Fault::PowerCut,
    Fault::PausedByUser,
    Fault::Dropped,
];

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
    /// 6: publishers do not look at their grant.
    NoGrants,
    /// 7: part files are named without a nonce, and a second execution is ignored.
    NamesWithoutNonce,
    /// 10: a part holds all changes of a key, not the last.
    AllChangesPerKey,
}

/// How one run is set up.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// The fault that must happen; others may.
    pub fault: Fault,
    pub without: Option<Sabotage>,
    pub trace: bool,
}

/// How often each fault happened.
#[derive(Clone, Debug, Default)]
pub struct Counters(pub BTreeMap<Fault, u64>);

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
