//! What tasks say of a part they computed, and publishers of a part they published.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    frame::PartWork,
    ids::{Attempt, Epoch, ExecutorId, Generation, Incarnation, Nonce, PartIndex, SinkId, SourcePartition},
    manifest::{StateEnd, StateRun},
};

/// A part file on the durable store: named once, written once, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFile {
    pub part: PartIndex,
    /// Key on the store, relative to its root. An empty name: the part changed nothing and wrote no file.
    pub name: String,
    pub bytes: u64,
    pub crc32: u32,
    /// Rows to publish, by sink. Dead letters and late rows are sinks like others.
    pub rows: BTreeMap<SinkId, u64>,
    /// Bytes of the file's state section; more than 0: the epoch changed the job's state, and recording it makes the file a run of that state.
    #[serde(default)]
    pub state_bytes: u64,
    /// When all of that section has ended; `None`: never.
    #[serde(default)]
    pub state_end: Option<StateEnd>,
}

impl PartFile {
    /// Of a part that changed nothing.
    pub fn none(part: PartIndex) -> Self {
        Self { part, name: String::new(), bytes: 0, crc32: 0, rows: BTreeMap::new(), state_bytes: 0, state_end: None }
    }
}

/// Counts of one part's work, summed into the manifest's totals when the epoch is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records read from sources (offsets that hold no record, e.g. transaction markers, are not counted).
    pub records_in: u64,
    pub bytes_in: u64,
    /// Changes computed for the job's own sinks, after keeping the last per key.
    pub rows_out: u64,
    /// Records that became dead letters while computing.
    pub dead_letters: u64,
    /// Rows refused by a sink while publishing, which became dead letters too.
    pub refused: u64,
    /// Records that were known to be there and are no more (retention, a topic that was made again or lost its tail), skipped with
    /// `on_data_loss = 'continue'`. Offsets without a record count too.
    pub lost: u64,
    /// Rows that came after their windows had closed.
    #[serde(default)]
    pub late: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.records_in += other.records_in;
        self.bytes_in += other.bytes_in;
        self.rows_out += other.rows_out;
        self.dead_letters += other.dead_letters;
        self.refused += other.refused;
        self.lost += other.lost;
        self.late += other.late;
    }
}

/// How long a part spent where, in microseconds; for metrics and for saying what limits a job, never for decisions on truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTimes {
    /// Waiting for records to arrive from Kafka.
    pub fetch_us: u64,
    pub decode_us: u64,
    /// Filters, projections, checks, keeping the last change per key.
    pub compute_us: u64,
    /// Encoding, writing and syncing the part file.
    pub write_us: u64,
}

/// A task's report of one part. It counts only if the epoch's record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReport {
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub epoch: Epoch,
    pub attempt: Attempt,
    /// Of this task execution: a second execution of the same partition has another.
    pub execution: Nonce,
    pub executor: ExecutorId,
    pub work: PartWork,
    pub file: PartFile,
    pub counts: Counts,
    pub times: StepTimes,
    /// Largest record timestamp read, in milliseconds since 1970; `None` without records.
    pub max_timestamp_ms: Option<i64>,
    /// Largest event time seen (the table's WATERMARK expression), in microseconds, by partition; partitions without any are left out.
    pub event_time_us: BTreeMap<SourcePartition, i64>,
    /// Timers through it have fired, where that is more than the frame's watermark made due.
    pub fired_us: Option<i64>,
}

/// An executor has merged runs of state into one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactReport {
    pub incarnation: Incarnation,
    pub generation: Generation,
    /// Names of the runs that were merged, oldest first.
    pub replaced: Vec<String>,
    pub run: StateRun,
}

/// An executor could not merge the runs that it was told to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactFailure {
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub replaced: Vec<String>,
    pub executor: ExecutorId,
    pub message: String,
    /// False: somebody must repair something first. It is tried again all the same, slowly.
    pub retryable: bool,
}

/// What a publisher says of one part of one epoch at one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishReport {
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub epoch: Epoch,
    pub sink: SinkId,
    pub part: PartIndex,
    pub rows: u64,
    pub retries: u64,
    pub write_us: u64,
    /// Rows that the sink refused for good, as a part file of dead letters, to be recorded before the sink's position passes this epoch.
    pub refused: Option<PartFile>,
}
