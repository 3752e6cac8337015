//! What a job is doing, for people and metrics. Never the basis of a decision.
use std::{collections::BTreeMap, fmt};

use crate::ids::{Attempt, Epoch, Generation, SinkId, SourceId};

#[derive(Clone, Debug, PartialEq)]
pub struct JobStatus {
    pub phase: Phase,
    /// What limits the job now.
    pub limit: Limit,
    pub generation: Generation,
    /// The last recorded epoch.
    pub epoch: Epoch,
    /// Recorded, and not yet published at some sink.
    pub unpublished_epochs: u64,
    pub unpublished_bytes: u64,
    /// Per sink, the epoch through which everything is published (as known here; the manifest may lag by a moment).
    pub published: BTreeMap<SinkId, Epoch>,
    /// Records in the topics that no recorded epoch has read, as far as the broker told.
    pub lag_records: u64,
    /// The last failure of the environment that is being retried, per sink that has one.
    pub sink_troubles: BTreeMap<SinkId, String>,
    /// Rows that the next epoch may take, by the adaptive pace.
    pub epoch_rows_limit: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Swapping the manifest to this generation.
    TakingOver,
    Computing {
        epoch: Epoch,
        attempt: Attempt,
        since_us: u64,
        rows: u64,
    },
    /// A computed epoch (or a change of the job's life) is on its way into the manifest.
    Recording {
        epoch: Epoch,
        since_us: u64,
    },
    /// Everything there is has been computed and recorded.
    Idle,
    /// There is something to do that cannot be done now.
    Waiting {
        why: String,
    },
    Paused,
    /// `draining`: recorded epochs are still being published.
    Stopped {
        draining: bool,
    },
    Failed {
        reason: String,
    },
    Fenced,
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    NoNewData,
    /// Records exist and have not arrived yet.
    Fetching,
    Decoding,
    Computing,
    PartFiles,
    Recording,
    /// Unpublished epochs are at their bound; this sink is the furthest behind.
    Publishing {
        sink: SinkId,
    },
    WaitingForExecutors,
    KafkaAway {
        source: SourceId,
    },
    /// Attempts fail because of the environment; the next one waits.
    RetryingAttempts,
    /// The manifest's store does not answer.
    StoreAway,
    /// Paused, stopped, failed, fenced or dropped: nothing is to be computed.
    Halted,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNewData => f.write_str("no new data"),
            Self::Fetching => f.write_str("waiting for records from Kafka"),
            Self::Decoding => f.write_str("decoding records"),
            Self::Computing => f.write_str("computing"),
            Self::PartFiles => f.write_str("writing part files"),
            Self::Recording => f.write_str("recording epochs in the manifest"),
            Self::Publishing { sink } => write!(f, "sink {sink} is slower than the job, unpublished epochs are at their bound"),
            Self::WaitingForExecutors => f.write_str("waiting for an executor"),
            Self::KafkaAway { source } => write!(f, "source {source}: Kafka cannot be reached"),
            Self::RetryingAttempts => f.write_str("attempts fail, waiting before the next"),
            Self::StoreAway => f.write_str("the store of the manifest does not answer"),
            Self::Halted => f.write_str("not running"),
        }
    }
}
