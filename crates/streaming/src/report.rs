//! What tasks say of a part they computed, and publishers of a part they published.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    frame::PartRange,
    ids::{Attempt, Epoch, ExecutorId, Generation, Incarnation, Nonce, PartIndex, SinkId},
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
    /// Records lost to retention and skipped with `on_data_loss = 'continue'`.
    pub lost: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.records_in += other.records_in;
        self.bytes_in += other.bytes_in;
        self.rows_out += other.rows_out;
        self.dead_letters += other.dead_letters;
        self.refused += other.refused;
        self.lost += other.lost;
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
    pub range: PartRange,
    pub file: PartFile,
    pub counts: Counts,
    pub times: StepTimes,
    /// Largest record timestamp read, in milliseconds since 1970; `None` without records.
    pub max_timestamp_ms: Option<i64>,
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
