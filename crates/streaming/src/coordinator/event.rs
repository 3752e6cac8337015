//! What happens to a job: everything a [`JobCoordinator`](super::JobCoordinator) learns, it learns from one of these events. An event may come late,
//! twice or not at all; a late or doubled one is never believed where that could harm (attempts, nonces and generations tell).
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ids::{Attempt, Epoch, ExecutorId, Generation, Nonce, PartIndex, SinkId, SourceId, SourcePartition, Version},
    manifest::Manifest,
    report::{CompactFailure, CompactReport, PartReport, PublishReport},
};

/// The two clocks, read by the shell just before it hands an event over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Never goes back; for deadlines. Its zero is any moment of this process.
    pub monotonic_us: u64,
    /// Microseconds since 1970; may jump either way.
    pub wall_us: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed: send it when [`next_wakeup`](super::JobCoordinator::next_wakeup) is reached (earlier or more often does no harm).
    Tick,
    /// Records of `partition` up to `end` (exclusive) can be read now. `bytes_per_record` is an estimate, 0 when unknown. Of another log than the one that
    /// [`Action::Prefetch`](super::Action::Prefetch) named last, it means nothing.
    Available {
        partition: SourcePartition,
        log: String,
        end: i64,
        bytes_per_record: u32,
    },
    /// What the broker says of a source's topic, asked for from time to time (seconds). The shell asks anew only after it has handed over the last
    /// answer, so that an answer is never older than the one before. It may have waited while
    /// the job read on.
    Partitions {
        source: SourceId,
        /// When it was asked for, by the monotonic clock: what it says is no older.
        asked_us: u64,
        topic_id: Option<String>,
        beginnings: BTreeMap<i32, i64>,
        ends: BTreeMap<i32, i64>,
    },
    /// The source cannot be reached; `message` says what was tried. Only the status changes: what has been fetched is still computed.
    SourceAway {
        source: SourceId,
        message: String,
    },
    SourceBack {
        source: SourceId,
    },
    /// An executor can take work. A new process is a new id.
    ExecutorJoined {
        executor: ExecutorId,
    },
    /// The control stream of an executor is gone; it may still be alive somewhere.
    ExecutorLost {
        executor: ExecutorId,
    },
    PartReported(PartReport),
    /// The Ballista job of an attempt has ended. Reports may come before or after.
    AttemptEnded {
        attempt: Attempt,
        outcome: AttemptOutcome,
    },
    /// The answer to [`Action::Swap`](super::Action::Swap) or [`Action::Resend`](super::Action::Resend).
    SwapReplied {
        nonce: Nonce,
        reply: SwapReply,
    },
    /// The answer to [`Action::ReadManifest`](super::Action::ReadManifest) with the same `request`.
    ManifestRead {
        request: Nonce,
        answer: ManifestAnswer,
    },
    PublishReported(PublishReport),
    /// A publisher gave up on a part, its own retries included.
    PublishFailed(PublishFailure),
    StateCompacted(CompactReport),
    CompactFailed(CompactFailure),
    /// The whole of the files that savepoints name, listed after this coordinator had taken the job over, so that no savepoint can be missing: whoever makes one
    /// checks afterwards that it still leads. Until it is told, no file is deleted.
    Pinned {
        names: BTreeSet<String>,
    },
    /// Files in the incarnation's folder that are older than this coordinator's lead, listed after it had taken the job over: no
    /// report can name them any more. What nobody names of them was left by a crash, or by a leader that ended before it was due.
    LeftBehind {
        names: Vec<String>,
    },
    /// The earlier run's rows are gone from the tables ([`Manifest::replace`]).
    Replaced,
    Command(Command),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Ballista says successful. It counts only through its part reports.
    Completed,
    /// `data`: the records themselves are at fault (a poison record), so smaller frames are tried to find which. Otherwise the environment is.
    /// Without `retryable` the attempt is treated as `data`.
    Failed { message: String, retryable: bool, data: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwapReply {
    Stored {
        version: Version,
    },
    /// The object's version is not the expected one.
    Conflict,
    /// Nothing is known: time-out, lost connection, an error of the store.
    Unknown {
        message: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum ManifestAnswer {
    Found { version: Version, manifest: Box<Manifest> },
    Missing,
    Unknown { message: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishFailure {
    pub generation: Generation,
    pub sink: SinkId,
    pub epoch: Epoch,
    pub part: PartIndex,
    pub executor: ExecutorId,
    pub message: String,
    /// False: trying again without somebody repairing something (a missing table, a refused password) is hopeless. The job fails, and what is
    /// recorded goes on being tried, slowly.
    pub retryable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Compute nothing more; go on publishing.
    Pause,
    /// Run again after `Pause`, `Stop` or a failure.
    Resume,
    /// Compute nothing more; the job has ended when all is published.
    Stop,
    /// Compute nothing more for a while. That is not recorded: it ends with this leader, if nobody lets the job go before.
    Hold,
    /// Go on after `Hold`, as the job was.
    LetGo,
    /// The incarnation's end, by a last swap: after publishing all that is recorded, or at once with `discard`.
    Drop { discard: bool },
}
