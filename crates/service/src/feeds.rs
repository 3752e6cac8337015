//! What ingestors tell of their feeds: records of the topic [`TOPIC`] of the platform's Kafka, which is all that they share with schedulers. A report is
//! written when it says something new, and renewed; who reads them takes the last of each ingestor and feed. Times are milliseconds since 1970 UTC, by the
//! ingestor's clock.
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// It has one partition.
pub const TOPIC: &str = "polybolos.feeds";

/// The last report of each feed stays for a week. A broker that does not compact keeps some thousand of the newest reports.
pub const TOPIC_SETTINGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact,delete"),
    ("retention.ms", "604800000"),
    ("retention.bytes", "4194304"),
    // What is written now is not compacted.
    ("segment.ms", "600000"),
];

/// So often a report is written that says nothing new.
pub const RENEW_MS: i64 = 10_000;

/// An ingestor that has told nothing for longer is gone, or cannot tell: three reports are missing.
pub const SILENT_MS: i64 = 30_000;

/// So long a feed is known that nobody tells of: as long as its report is kept.
pub const FORGET_MS: i64 = 7 * 24 * 3_600 * 1_000;

/// Of this machine's clock.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as i64)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedState {
    /// Nothing was answered yet.
    Starting,
    Running,
    /// The last request failed, and is tried again.
    Failing,
    /// For Kafka, which has not taken the last answer's records, or has no topic for them.
    Waiting,
    /// Its ingestor ended in order.
    Stopped,
}

impl FeedState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Failing => "failing",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedFailure {
    /// In one line.
    pub message: String,
    pub at_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedReport {
    pub feed: String,
    pub topic: String,
    /// Where it asks, without login and query.
    pub url: String,
    pub state: FeedState,
    /// Acknowledged by Kafka since the ingestor started.
    pub records: u64,
    /// Items of answers that made no record since then.
    pub skipped_items: u64,
    pub last_record_ms: Option<i64>,
    /// It stays when the feed works again.
    pub last_failure: Option<FeedFailure>,
    /// One life of a process.
    pub ingestor: String,
    /// The machine's name, where it is known.
    pub host: Option<String>,
    pub started_ms: i64,
    pub reported_ms: i64,
}

impl FeedReport {
    /// Of its record.
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.ingestor, self.topic, self.feed)
    }

    pub fn payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a report is plain data")
    }

    /// `None` where a record is no report.
    pub fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// Whether both tell of the same feed, by whatever ingestor.
    pub fn is_of_same_feed(&self, other: &Self) -> bool {
        self.feed == other.feed && self.topic == other.topic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_are_written_and_what_is_no_report_is_not() {
        let report = FeedReport {
            feed: "users".into(),
            topic: "users_created".into(),
            url: "https://example.org/users".into(),
            state: FeedState::Failing,
            records: 7,
            skipped_items: 1,
            last_record_ms: None,
            last_failure: Some(FeedFailure { message: "the server answered 500".into(), at_ms: 3 }),
            ingestor: "a".into(),
            host: None,
            started_ms: 1,
            reported_ms: 4,
        };
        assert_eq!(report.key(), "a/users_created/users");
        assert_eq!(FeedReport::read(&report.payload()).as_ref(), Some(&report));
        // A later version may tell more.
        let mut more: serde_json::Value = serde_json::from_slice(&report.payload()).expect("JSON");
        more["more"] = 1.into();
        assert_eq!(FeedReport::read(more.to_string().as_bytes()), Some(report));
        assert_eq!(FeedReport::read(b"{\"feed\":\"users\"}"), None);
        assert_eq!(FeedReport::read(b""), None);
    }
}
