//! What the console and `/api/v1/status` show: one typed picture of the platform, filled by the engine and read by
//! people. Times are milliseconds since 1970 UTC, sizes are bytes, rates are per second over the last second.
use serde::Serialize;

/// How many points of history a job carries: two minutes, one point per second.
pub const HISTORY_POINTS: usize = 120;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub version: String,
    pub now_ms: u64,
    pub uptime_s: u64,
    /// `embedded` or `cluster`.
    pub mode: String,
    pub leader: Leader,
    pub jobs: Vec<JobStatus>,
    pub executors: Vec<ExecutorStatus>,
    pub tables: Vec<TableStatus>,
    pub topics: Vec<TopicStatus>,
    pub feeds: Vec<FeedStatus>,
    pub kafka: Health,
    pub cassandra: Health,
}

/// Which scheduler leads, as this one sees it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Leader {
    /// Of the answering process if it leads, else empty.
    pub id: String,
    /// Where the leader's console is, if another process leads and that is known.
    pub door: Option<String>,
    /// Whether the answering process is the leader; otherwise it waits.
    pub is_me: bool,
    pub since_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Health {
    pub state: HealthState,
    /// One line: what was reached, or why not and what helps.
    pub message: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    Ok,
    Away,
    #[default]
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    #[default]
    Starting,
    Running,
    /// Everything there is has been computed, recorded and published.
    Idle,
    /// Wants to work and cannot now; `limiting` says why.
    Waiting,
    Paused,
    Stopped,
    Failed,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct JobStatus {
    pub name: String,
    /// This life of the job: what the ids of its dead letters and late rows begin with. Absent until it has started.
    pub incarnation: Option<String>,
    pub state: JobState,
    /// In words: what limits the job now.
    pub limiting: String,
    pub epoch: u64,
    pub unpublished_epochs: u64,
    pub rows_per_s: f64,
    pub bytes_per_s: f64,
    pub records_in: u64,
    pub rows_out: u64,
    pub dead_letters: u64,
    /// Records that were gone before they were read, skipped because of `on_data_loss = 'continue'`.
    pub lost_records: u64,
    /// Rows that came after their windows had closed.
    pub late_rows: u64,
    pub retries: u64,
    /// Absent while a topic cannot be looked at, or was not yet.
    pub lag_records: Option<u64>,
    /// Of the partitions with unread records, how long ago the newest record that was read came; absent where nothing waits.
    pub lag_ms: Option<u64>,
    /// The last epoch.
    pub epoch_ms: StepTimes,
    /// Event time that the job has reached: older rows are late. Absent without a source that has a watermark.
    pub watermark_ms: Option<i64>,
    /// Per table that the job writes.
    pub complete_through: Vec<CompleteThrough>,
    pub error: Option<String>,
    /// Oldest first, at most [`HISTORY_POINTS`].
    pub history: Vec<HistoryPoint>,
}

/// Milliseconds of one epoch's steps.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StepTimes {
    pub fetch: f64,
    pub decode: f64,
    pub compute: f64,
    pub write: f64,
    pub record: f64,
    pub publish: f64,
}

/// One second of a job: rates over that second, step times averaged over its epochs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct HistoryPoint {
    pub at_ms: u64,
    pub rows_per_s: f64,
    pub lag_records: u64,
    pub epoch_ms: StepTimes,
}

/// Everything up to here is in the table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CompleteThrough {
    pub table: String,
    /// The last epoch that is there in full.
    pub epoch: u64,
    pub offsets: Vec<OffsetThrough>,
    /// Of the newest record that is there.
    pub event_time_ms: Option<u64>,
    /// All rows of windows that ended by this event time are there, but for late ones. Absent where it is not known.
    pub watermark_ms: Option<i64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct OffsetThrough {
    pub topic: String,
    pub partition: i32,
    /// The first offset that is not in the table yet.
    pub end_offset: i64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct ExecutorStatus {
    pub id: String,
    pub address: String,
    /// `ready`, `draining`, `lost`.
    pub state: String,
    pub memory_bytes: Option<u64>,
    /// Of all its cores, 0–100.
    pub cpu_percent: Option<f64>,
    pub task_slots: u32,
    /// Topic-partitions that it reads.
    pub partitions: u32,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TableStatus {
    /// As one writes it in SQL.
    pub name: String,
    pub connector: String,
    /// The job that writes it, if any: the console watches such tables first.
    pub written_by: Option<String>,
    pub columns: u32,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TopicStatus {
    pub name: String,
    pub partitions: u32,
    pub records: Option<u64>,
}

/// A feed of an ingestor, by its last report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FeedStatus {
    pub name: String,
    pub topic: String,
    /// Without login and query.
    pub url: String,
    /// `starting`, `running`, `failing`, `waiting`, `stopped`, `silent`.
    pub state: String,
    /// Since the ingestor started, as are the items that made none.
    pub records: u64,
    pub skipped_items: u64,
    /// By the ingestor's clock, as are the other times.
    pub last_record_ms: Option<i64>,
    /// It stays when the feed works again.
    pub last_error: Option<String>,
    pub last_error_ms: Option<i64>,
    pub ingestor: String,
    pub host: Option<String>,
    pub started_ms: i64,
    pub reported_ms: i64,
}
