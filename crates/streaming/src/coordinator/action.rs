//! What a coordinator asks its shell to do. The shell does it and decides nothing; an action that fails or gets lost comes back as an event or is
//! asked for again.
use std::collections::BTreeMap;

use crate::{
    frame::Frame,
    ids::{Attempt, Epoch, ExecutorId, Nonce, SinkId, SourceId, SourcePartition, Version},
    manifest::{Manifest, StateRun},
    report::{Counts, PartFile, StepTimes},
};

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Run the job's plan with this frame, upon the state that these recorded runs make (oldest first). Past `deadline_us` (monotonic) the coordinator cancels
    /// it by itself.
    Submit {
        attempt: Attempt,
        frame: Frame,
        state: Vec<StateRun>,
        deadline_us: u64,
    },
    /// Stop the attempt's work wherever it runs; its reports no longer count.
    CancelAttempt {
        attempt: Attempt,
    },
    /// Replace the manifest if its version is `expected`. The shell serialises it once and keeps the bytes under `manifest.nonce`.
    Swap {
        expected: Version,
        manifest: Box<Manifest>,
    },
    /// Send the kept bytes of this nonce again, with the same expected version.
    Resend {
        nonce: Nonce,
    },
    ReadManifest {
        request: Nonce,
    },
    Publish(PublishOrder),
    /// Have these consecutive runs of state, oldest first, merged into one; answered by [`Event::StateCompacted`](super::Event::StateCompacted) or
    /// [`Event::CompactFailed`](super::Event::CompactFailed).
    CompactState {
        executor: ExecutorId,
        runs: Vec<StateRun>,
    },
    /// This job's publishers shall stop now; their grant is not renewed.
    RevokePublishes,
    /// No recorded manifest has named these files for the retention time, and none ever will. Missing files are fine.
    DeleteFiles {
        names: Vec<String>,
    },
    /// Read ahead from these offsets: the whole of what is wanted; partitions not named are no longer wanted. Sent when the set or a position changes by other means
    /// than recording (which [`Action::Released`] tells). What was read of another log than the source's is of no use any more.
    Prefetch {
        wanted: BTreeMap<SourcePartition, i64>,
        logs: BTreeMap<SourceId, Log>,
    },
    /// Recorded: buffers below these offsets may go.
    Released {
        through: BTreeMap<SourcePartition, i64>,
    },
    /// For lag tools; never read back.
    CommitOffsets {
        source: SourceId,
        next: BTreeMap<i32, i64>,
    },
    /// The job needs somebody. The coordinator stays and goes on publishing.
    Failed {
        reason: String,
    },
    /// Another generation owns the job: this coordinator does nothing any more; drop it.
    Fenced,
    /// The incarnation has ended with its last swap; files and this coordinator may go.
    Dropped,
    EpochRecorded(EpochRecorded),
    EpochPublished(EpochPublished),
}

/// What a source's offsets count in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Tells it from every other log of the source, and says nothing else.
    pub name: String,
    /// Kafka's id of the topic, where it is known: a topic of another id is not to be read.
    pub topic_id: Option<String>,
}

/// One part of one recorded epoch, for one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishOrder {
    pub sink: SinkId,
    pub epoch: Epoch,
    pub part: PartFile,
    /// `USING TIMESTAMP`: the same at every repetition.
    pub timestamp_us: i64,
    /// Who shall do it: the executor that computed the part while it is there, otherwise any.
    pub executor: ExecutorId,
}

/// For the history and metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochRecorded {
    pub epoch: Epoch,
    /// Attempts it took.
    pub attempts: u64,
    pub counts: Counts,
    /// Of the part files, what is not state: the rows for sinks, dead letters and late rows among them.
    pub bytes_out: u64,
    /// Summed over the parts.
    pub times: StepTimes,
    /// From submitting the winning attempt to its last report.
    pub compute_us: u64,
    /// From the last report to the store's answer.
    pub record_us: u64,
    pub through: BTreeMap<SourceId, BTreeMap<i32, i64>>,
    pub max_timestamp_ms: Option<i64>,
    /// Event time through which the epochs up to this one hold all rows, in microseconds.
    pub complete_through_us: Option<i64>,
    pub recorded_at_us: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochPublished {
    pub sink: SinkId,
    pub epoch: Epoch,
    pub rows: u64,
    pub retries: u64,
    /// Time the publishers spent writing, summed over the parts.
    pub write_us: u64,
    /// From the record (by the wall clock) until the sink had it all.
    pub latency_us: u64,
}
