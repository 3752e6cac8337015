//! What one feed has done: counted in the metrics, and kept as the report that [`crate::reporting`] writes.
use parking_lot::Mutex;
use polybolos_service::feeds::{FeedFailure, FeedReport, FeedState, RENEW_MS};

use crate::{config::Feed, metrics::Metrics, target};

/// Of an error's text.
const MOST_CHARACTERS: usize = 500;

/// Milliseconds since 1970.
pub type Clock = fn() -> i64;

/// This process, as reports name it.
#[derive(Clone, Debug)]
pub struct Ingestor {
    pub id: String,
    pub host: Option<String>,
}

impl Ingestor {
    pub fn of_this_process() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
        let host = host.map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
        Self { id: uuid::Uuid::new_v4().simple().to_string(), host }
    }
}

pub struct Account {
    feed: String,
    metrics: Metrics,
    clock: Clock,
    kept: Mutex<Kept>,
}

struct Kept {
    report: FeedReport,
    told: Option<Told>,
}

/// What the last report said that was taken, as far as news are concerned.
struct Told {
    state: FeedState,
    error: Option<String>,
    at_ms: i64,
}

impl Account {
    pub fn new(feed: &Feed, ingestor: &Ingestor, metrics: Metrics, clock: Clock) -> Self {
        let now_ms = clock();
        let report = FeedReport {
            feed: feed.name.clone(),
            topic: feed.topic.clone(),
            url: target::shown(&feed.http.url),
            state: FeedState::Starting,
            records: 0,
            skipped_items: 0,
            last_record_ms: None,
            last_failure: None,
            ingestor: ingestor.id.clone(),
            host: ingestor.host.clone(),
            started_ms: now_ms,
            reported_ms: now_ms,
        };
        Self { feed: feed.name.clone(), metrics, clock, kept: Mutex::new(Kept { report, told: None }) }
    }

    pub fn requested(&self) {
        self.metrics.requests.with_label_values(&[&self.feed]).inc();
    }

    /// All of an answer's records were delivered.
    pub fn runs(&self) {
        self.turn_to(FeedState::Running, None);
    }

    /// A request failed.
    pub fn failed(&self, message: &str) {
        self.metrics.failures.with_label_values(&[&self.feed]).inc();
        self.turn_to(FeedState::Failing, Some(message));
    }

    /// Records could not be delivered yet.
    pub fn not_delivered(&self, message: &str) {
        self.metrics.failures.with_label_values(&[&self.feed]).inc();
        self.turn_to(FeedState::Waiting, Some(message));
    }

    /// Its topic cannot be made yet.
    pub fn has_no_topic(&self, message: &str) {
        self.turn_to(FeedState::Waiting, Some(message));
    }

    /// A record will never be delivered.
    pub fn refused(&self, message: &str) {
        self.metrics.failures.with_label_values(&[&self.feed]).inc();
        let state = self.kept.lock().report.state;
        self.turn_to(state, Some(message));
    }

    /// A record was delivered.
    pub fn delivered(&self, bytes: usize) {
        self.metrics.records.with_label_values(&[&self.feed]).inc();
        self.metrics.bytes.with_label_values(&[&self.feed]).inc_by(bytes as u64);
        let now_ms = (self.clock)();
        let mut kept = self.kept.lock();
        kept.report.records += 1;
        kept.report.last_record_ms = Some(now_ms);
    }

    /// Items made no records.
    pub fn skipped(&self, items: u64) {
        self.metrics.skipped.with_label_values(&[&self.feed]).inc_by(items);
        self.kept.lock().report.skipped_items += items;
    }

    /// The ingestor ends.
    pub fn stopped(&self) {
        self.turn_to(FeedState::Stopped, None);
    }

    fn turn_to(&self, state: FeedState, error: Option<&str>) {
        let at_ms = (self.clock)();
        let mut kept = self.kept.lock();
        // What a feed does while it is stopped is no news.
        if kept.report.state == FeedState::Stopped {
            return;
        }
        kept.report.state = state;
        if let Some(error) = error {
            let message = error.chars().take(MOST_CHARACTERS).collect();
            kept.report.last_failure = Some(FeedFailure { message, at_ms });
        }
    }

    /// The report, where it says something new, or was taken a while ago. It counts as told from then on.
    pub fn take_due(&self) -> Option<FeedReport> {
        let now_ms = (self.clock)();
        let mut kept = self.kept.lock();
        let Kept { report, told } = &mut *kept;
        let error = report.last_failure.as_ref().map(|failure| failure.message.clone());
        let is_told = told.as_ref().is_some_and(|told| {
            let is_fresh = (0..RENEW_MS).contains(&(now_ms - told.at_ms));
            is_fresh && told.state == report.state && told.error == error
        });
        if is_told {
            return None;
        }
        *told = Some(Told { state: report.state, error, at_ms: now_ms });
        report.reported_ms = now_ms;
        Some(report.clone())
    }

    /// What was taken last could not be written.
    pub fn is_untold(&self) {
        self.kept.lock().told = None;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW_MS: Cell<i64> = const { Cell::new(0) };
    }

    fn account() -> Account {
        let feed = "name = 'users'\ntopic = 'users_created'\n[http]\nurl = 'https://ann:hush@example.org/users?key=hush'";
        let feed: Feed = toml::from_str(feed).expect("a feed");
        let ingestor = Ingestor { id: "i".into(), host: Some("h".into()) };
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("metrics");
        Account::new(&feed, &ingestor, metrics, || NOW_MS.get())
    }

    /// What is due at this time: state, records and last error.
    fn due(account: &Account, at_ms: i64) -> Option<(FeedState, u64, Option<String>)> {
        NOW_MS.set(at_ms);
        let report = account.take_due()?;
        assert_eq!(report.reported_ms, at_ms);
        Some((report.state, report.records, report.last_failure.map(|failure| failure.message)))
    }

    #[test]
    fn news_are_told_at_once_and_the_rest_every_ten_seconds() {
        let account = account();
        assert_eq!(due(&account, 1_000), Some((FeedState::Starting, 0, None)));
        assert_eq!(due(&account, 2_000), None);
        account.runs();
        assert_eq!(due(&account, 3_000), Some((FeedState::Running, 0, None)));
        account.delivered(10);
        account.delivered(10);
        assert_eq!(due(&account, 12_999), None, "records are no news");
        assert_eq!(due(&account, 13_000), Some((FeedState::Running, 2, None)));
        account.failed("no");
        assert_eq!(due(&account, 13_100), Some((FeedState::Failing, 2, Some("no".into()))));
        account.failed("no");
        assert_eq!(due(&account, 13_200), None, "the same again");
        account.failed("never");
        assert_eq!(due(&account, 13_300), Some((FeedState::Failing, 2, Some("never".into()))));
        account.runs();
        assert_eq!(due(&account, 13_400), Some((FeedState::Running, 2, Some("never".into()))), "what went wrong last stays");
        assert!(due(&account, 0).is_some(), "a clock that is set back silences nobody");
    }

    #[test]
    fn what_could_not_be_written_is_due_again() {
        let account = account();
        assert!(due(&account, 1_000).is_some() && due(&account, 2_000).is_none());
        account.is_untold();
        assert!(due(&account, 3_000).is_some());
    }

    #[test]
    fn the_last_word_is_that_it_stopped() {
        let account = account();
        account.stopped();
        account.failed("too late");
        account.runs();
        assert_eq!(due(&account, 1_000), Some((FeedState::Stopped, 0, None)));
    }

    #[test]
    fn a_report_says_where_and_since_when_and_no_secret() {
        NOW_MS.set(5_000);
        let account = account();
        NOW_MS.set(6_000);
        account.delivered(10);
        account.skipped(3);
        account.refused(&"x".repeat(9_999));
        let report = account.take_due().expect("it is new");
        assert!(!String::from_utf8_lossy(&report.payload()).contains("hush"));
        assert_eq!((report.url.as_str(), report.key().as_str()), ("https://example.org/users?…", "i/users_created/users"));
        assert_eq!((report.started_ms, report.last_record_ms, report.skipped_items), (5_000, Some(6_000), 3));
        assert_eq!(report.state, FeedState::Starting, "a record that is refused is no state of the feed");
        assert_eq!(report.last_failure.map(|failure| (failure.message.len(), failure.at_ms)), Some((MOST_CHARACTERS, 6_000)));
    }
}
