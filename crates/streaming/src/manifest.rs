//! The durable truth about one job incarnation (EPOCHS rules 1–3): the record step replaces it by compare-and-swap, recovery reads it,
//! and nothing else is believed.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Epoch, Generation, Incarnation, JobName, Nonce, SinkId, SourceId},
    report::{Counts, PartFile},
    savepoint::{first_difference, first_other_column},
};

/// The sink that takes every job's dead letters; a job's own sinks count from 0.
pub const DEAD_LETTERS: SinkId = SinkId(u32::MAX);

/// The sink that takes every job's late rows.
pub const LATE_ROWS: SinkId = SinkId(u32::MAX - 1);

/// Whether a sink is one that every job has, for what it could not process.
pub fn is_shared(sink: SinkId) -> bool {
    [DEAD_LETTERS, LATE_ROWS].contains(&sink)
}

/// Most parts of an epoch, and so the width of a write-time window in microseconds.
pub const MAX_PARTS: u16 = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub job: JobName,
    pub incarnation: Incarnation,
    pub generation: Generation,
    /// New in every manifest; tells whether a swap whose reply was lost was ours.
    pub nonce: Nonce,
    /// The last recorded epoch; 0 before the first.
    pub epoch: Epoch,
    pub life: Life,
    pub sources: BTreeMap<SourceId, SourcePosition>,
    /// End of the last write-time window, microseconds since 1970: later windows start at or after it.
    pub window_end_us: i64,
    pub counts: Counts,
    /// What a stateful job's state is made of, oldest first: each run covers the epochs after those of the one before it, the first one those from 1 on. Runs of
    /// parts that shared the last of its epochs have no key in common; the first of them covers what was before.
    #[serde(default)]
    pub state: Vec<StateRun>,
    /// How that state is laid out, a line for its format and one per operator: nobody whose own are others may read it.
    #[serde(default)]
    pub layout: Vec<String>,
    /// What those operators keep, a line per column with its type. Empty: a version wrote it that did not tell.
    #[serde(default)]
    pub kept_columns: Vec<String>,
    /// The job's watermark in microseconds of event time, as of the last record; never falls. `None`: nothing is known of event time yet.
    #[serde(default)]
    pub watermark_us: Option<i64>,
    /// The watermark that the last recorded epoch judged its rows by.
    #[serde(default)]
    pub frame_watermark_us: Option<i64>,
    /// Timers that epochs fired because of their own records: those through it.
    #[serde(default)]
    pub fired_us: Option<i64>,
    /// Recorded epochs that some sink has still to publish, oldest first.
    pub unpublished: Vec<EpochRecord>,
    /// Per sink, the epoch through which everything is published.
    pub published: BTreeMap<SinkId, Epoch>,
    /// Rows of an earlier run that are to go (EPOCHS rule 18).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<Replace>,
    /// Microseconds since 1970 of the record step, by the leader's clock. For people.
    pub recorded_at_us: i64,
}

/// Once a job has read and published `through`, everything in its tables that was written before `before_us` is deleted: an earlier run wrote it, and this one did
/// not write it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replace {
    /// All of this incarnation's write times are at or after it.
    pub before_us: i64,
    /// The ends of the topics when the job was restarted.
    pub through: BTreeMap<SourceId, BTreeMap<i32, i64>>,
}

impl Replace {
    /// Whether a job at these positions has read everything that there was.
    pub fn is_due(&self, sources: &BTreeMap<SourceId, SourcePosition>) -> bool {
        self.through.iter().all(|(source, ends)| {
            let next = sources.get(source).map(|position| &position.next);
            ends.iter().all(|(partition, end)| next.and_then(|next| next.get(partition)).is_some_and(|next| next >= end))
        })
    }
}

/// What the job is meant to do. `Stopped`, `Failed` and `Dropped` incarnations compute nothing; what is recorded is still published
/// (except after `Dropped`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Life {
    Running,
    Paused,
    Stopped,
    /// Stopped by an error that needs somebody: `reason` names object and remedy.
    Failed {
        reason: String,
        /// What could not be published. Once it is, the job goes on by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stuck: Option<(SinkId, Epoch)>,
    },
    /// The last swap of an incarnation; its files may go.
    Dropped,
}

/// Changes of a job's state over consecutive epochs, as a section of a file: of an epoch's part file, or of one that compaction wrote. A run holds
/// for each key that its epochs touched what was true at their end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRun {
    /// Key on the store, relative to its root.
    pub name: String,
    pub bytes: u64,
    pub crc32: u32,
    /// Of the section alone.
    pub state_bytes: u64,
    /// Both inclusive. A run from epoch 1 on is a snapshot: there is nothing before it.
    pub first_epoch: Epoch,
    pub last_epoch: Epoch,
    /// When all of it has ended; `None`: never.
    #[serde(default)]
    pub end: Option<StateEnd>,
}

/// All that a run changes has ended once time has passed both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEnd {
    /// Event time, which entries end by; `None`: none of them does.
    pub watermark_us: Option<i64>,
    /// Write times, which those with a TTL end by.
    pub clock_us: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePosition {
    pub topic: String,
    /// Kafka's id of the topic, where the broker tells one: another id under the same name is another topic.
    pub topic_id: Option<String>,
    /// Names the log that the offsets count in, where that is another than the first of this topic; empty: the topic's id names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// Where the incarnation began, by partition; others began at 0. `None`: with a savepoint, or before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<BTreeMap<i32, i64>>,
    /// Records of an earlier topic of this name were read: it was deleted and made again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_made_again: bool,
    /// Next offset to read, by partition.
    pub next: BTreeMap<i32, i64>,
    /// Largest record timestamp seen, milliseconds since 1970, by partition (of a part that reads several: the largest of them all).
    pub max_timestamp_ms: BTreeMap<i32, i64>,
    /// Largest event time seen, in microseconds, by partition.
    #[serde(default)]
    pub event_time_us: BTreeMap<i32, i64>,
    /// Partitions that were silent for so long that the watermark does not wait for them.
    #[serde(default)]
    pub idle: BTreeSet<i32>,
}

/// One recorded epoch, as far as publishing needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    pub epoch: Epoch,
    pub window_start_us: i64,
    pub files: Vec<PartFile>,
    /// Offsets read through (exclusive), by source and partition: what a table is complete through once this epoch is published.
    pub through: BTreeMap<SourceId, BTreeMap<i32, i64>>,
    pub max_timestamp_ms: Option<i64>,
    pub recorded_at_us: i64,
}

impl Manifest {
    /// Of an incarnation that reads and writes nothing, and has done nothing yet: whoever makes a job's adds what is its own.
    pub fn new(job: JobName, incarnation: Incarnation, generation: Generation, nonce: Nonce) -> Self {
        Self {
            job,
            incarnation,
            generation,
            nonce,
            epoch: Epoch(0),
            life: Life::Running,
            sources: BTreeMap::new(),
            window_end_us: 0,
            counts: Counts::default(),
            state: vec![],
            layout: vec![],
            kept_columns: vec![],
            watermark_us: None,
            frame_watermark_us: None,
            fired_us: None,
            unpublished: vec![],
            published: BTreeMap::new(),
            replace: None,
            recorded_at_us: 0,
        }
    }

    /// The epoch through which the state's runs reach; 0 without any.
    pub fn state_through(&self) -> Epoch {
        self.state.last().map_or(Epoch(0), |run| run.last_epoch)
    }

    /// What the state was written by where that is not `layout`, or of where that is not `kept_columns`, and what there is instead.
    pub fn unreadable_by<'a>(&'a self, layout: &'a [String], kept_columns: &'a [String]) -> Option<(&'a str, &'a str)> {
        if self.state.is_empty() {
            return None;
        }
        first_difference(&self.layout, layout).or_else(|| first_other_column(&self.kept_columns, kept_columns))
    }

    /// Timers after it have not fired yet.
    pub fn fired_through_us(&self) -> Option<i64> {
        self.frame_watermark_us.max(self.fired_us)
    }

    /// Forgets the oldest runs of state, as far as all that they hold has ended: nobody asks for it any more. What is left covers their epochs.
    pub fn drop_ended_runs(&mut self) {
        let (watermark_us, clock_us) = (self.fired_through_us(), Some(self.window_end_us));
        let has_ended = |run: &StateRun| run.end.is_some_and(|end| end.watermark_us <= watermark_us && end.clock_us <= clock_us);
        let ended = self.state.iter().take_while(|run| has_ended(run)).count();
        self.state.drain(..ended);
        if let Some(first) = self.state.first_mut().filter(|_| ended > 0) {
            first.first_epoch = Epoch(1);
        }
    }

    /// The part files that publishing needs.
    pub fn files(&self) -> impl Iterator<Item = &PartFile> {
        self.unpublished.iter().flat_map(|record| &record.files)
    }

    /// Every file that recovery and publishing need; a part file with a state may be named twice. Anything else in the incarnation's folder that is old
    /// enough is rubbish (rule 4).
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        let parts = self.files().map(|file| file.name.as_str());
        parts.chain(self.state.iter().map(|run| run.name.as_str()))
    }
}
