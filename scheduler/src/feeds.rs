//! What ingestors tell of their feeds, as this scheduler has heard it: the last report of each, and whether it is still renewed. Reports come by a topic
//! ([`polybolos_service::feeds`]), which every scheduler reads for itself: those that stand by know them too.
mod reading;

use parking_lot::RwLock;
use polybolos_gateway::status::FeedStatus;
use polybolos_kafka::connection::Connection;
use polybolos_service::feeds::{FORGET_MS, FeedReport, FeedState, SILENT_MS, now_ms};

#[derive(Default)]
pub struct Feeds {
    board: RwLock<Board>,
}

impl Feeds {
    /// By name and topic.
    pub fn shown(&self) -> Vec<FeedStatus> {
        self.board.read().shown(now_ms())
    }

    /// Hears what is told until it is dropped.
    pub async fn follow(&self, connection: &Connection) {
        reading::follow(&self.board, connection).await;
    }
}

struct Heard {
    report: FeedReport,
    at_ms: i64,
}

impl Heard {
    fn is_silent(&self, now_ms: i64) -> bool {
        self.report.state != FeedState::Stopped && now_ms - self.at_ms > SILENT_MS
    }

    /// Whether its ingestor does not run it any more, as far as anybody can tell.
    fn is_over(&self, now_ms: i64) -> bool {
        self.report.state == FeedState::Stopped || self.is_silent(now_ms)
    }

    fn status(&self, now_ms: i64) -> FeedStatus {
        let report = self.report.clone();
        let (last_error, last_error_ms) = report.last_failure.map(|failure| (failure.message, failure.at_ms)).unzip();
        FeedStatus {
            name: report.feed,
            topic: report.topic,
            url: report.url,
            state: if self.is_silent(now_ms) { "silent".into() } else { report.state.name().into() },
            records: report.records,
            skipped_items: report.skipped_items,
            last_record_ms: report.last_record_ms,
            last_error,
            last_error_ms,
            ingestor: report.ingestor,
            host: report.host,
            started_ms: report.started_ms,
            reported_ms: report.reported_ms,
        }
    }
}

/// The reports that count. Pure: no Kafka, no clock.
#[derive(Default)]
struct Board {
    heard: Vec<Heard>,
}

impl Board {
    /// Takes the place of what its ingestor said before, and of an ingestor that ran the feed before and is gone.
    fn hear(&mut self, report: FeedReport, at_ms: i64) {
        self.heard.retain(|known| {
            let is_known_feed = known.report.is_of_same_feed(&report);
            let is_replaced = is_known_feed && (known.report.ingestor == report.ingestor || known.is_over(at_ms));
            !is_replaced && at_ms - known.at_ms <= FORGET_MS
        });
        self.heard.push(Heard { report, at_ms });
    }

    fn shown(&self, now_ms: i64) -> Vec<FeedStatus> {
        let kept = self.heard.iter().filter(|heard| now_ms - heard.at_ms <= FORGET_MS);
        let mut shown: Vec<_> = kept.map(|heard| heard.status(now_ms)).collect();
        shown.sort_by(|a, b| (&a.name, &a.topic, &a.ingestor).cmp(&(&b.name, &b.topic, &b.ingestor)));
        shown
    }
}

#[cfg(test)]
mod tests {
    use polybolos_service::feeds::FeedFailure;

    use super::*;

    fn report(ingestor: &str, feed: &str, state: FeedState) -> FeedReport {
        FeedReport {
            feed: feed.into(),
            topic: "t".into(),
            url: "http://127.0.0.1/".into(),
            state,
            records: 1,
            skipped_items: 0,
            last_record_ms: Some(5),
            last_failure: Some(FeedFailure { message: "the server answered 500".into(), at_ms: 4 }),
            ingestor: ingestor.into(),
            host: Some("h".into()),
            started_ms: 1,
            reported_ms: 6,
        }
    }

    /// Ingestor, feed and state of each.
    fn told(board: &Board, now_ms: i64) -> Vec<String> {
        board.shown(now_ms).iter().map(|feed| format!("{} {} {}", feed.ingestor, feed.name, feed.state)).collect()
    }

    #[test]
    fn a_feed_that_nobody_tells_of_is_silent_and_later_forgotten() {
        let mut board = Board::default();
        board.hear(report("i", "users", FeedState::Failing), 1_000);
        board.hear(report("i", "ended", FeedState::Stopped), 1_000);
        assert_eq!(told(&board, 1_000 + SILENT_MS), ["i ended stopped", "i users failing"]);
        assert_eq!(told(&board, 1_001 + SILENT_MS), ["i ended stopped", "i users silent"]);
        board.hear(report("i", "users", FeedState::Running), 50_000);
        assert_eq!(told(&board, 50_000 + SILENT_MS), ["i ended stopped", "i users running"]);
        let shown = board.shown(50_000);
        let users = &shown[1];
        assert_eq!((users.last_error.as_deref(), users.last_error_ms), (Some("the server answered 500"), Some(4)));
        assert_eq!(told(&board, 50_000 + FORGET_MS), ["i users silent"]);
        assert!(told(&board, 50_001 + FORGET_MS).is_empty());
        board.hear(report("i", "new", FeedState::Running), 50_001 + FORGET_MS);
        assert_eq!(board.heard.len(), 1, "what is forgotten takes no room");
    }

    #[test]
    fn an_ingestor_that_runs_a_feed_takes_the_place_of_one_that_is_gone() {
        let mut board = Board::default();
        board.hear(report("old", "users", FeedState::Running), 0);
        board.hear(report("new", "users", FeedState::Running), 1_000);
        assert_eq!(told(&board, 1_000), ["new users running", "old users running"], "both may live");
        board.hear(report("new", "users", FeedState::Running), 40_000);
        assert_eq!(told(&board, 40_000), ["new users running"]);
        board.hear(report("new", "users", FeedState::Stopped), 41_000);
        board.hear(report("newer", "users", FeedState::Starting), 42_000);
        assert_eq!(told(&board, 42_000), ["newer users starting"]);
        board.hear(report("other", "orders", FeedState::Running), 90_000);
        assert_eq!(told(&board, 90_000), ["other orders running", "newer users silent"], "nobody else runs it");
    }
}
