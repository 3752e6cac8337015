//! Reads the topic of reports: what it keeps when it is first seen, then what comes. Schedulers do without it: while it cannot be read, feeds fall silent.
use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use polybolos_kafka::{
    admin::Admin,
    connection::Connection,
    error::KafkaError,
    fetcher::{FetchTopic, Fetcher, FetcherConfig, SourceKey},
};
use polybolos_service::feeds::{FeedReport, TOPIC, now_ms};
use polybolos_streaming::frame::OffsetRange;

use super::Board;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After a look that failed.
const RETRY: Duration = Duration::from_secs(5);

const READ_TIME: Duration = Duration::from_secs(20);

/// Longer than feeds take to renew their reports: the consumer stays while there are any.
const IDLE: Duration = Duration::from_secs(30);

const BUFFER_BYTES: usize = 1 << 20;

const PARTITION: i32 = 0;

/// Offsets at the topic's end that are read at most, where somebody has given it other settings than ours.
const LOOK_BACK: i64 = 50_000;

/// Offsets that are read at once.
const PIECE: i64 = 5_000;

/// Never ends.
pub(super) async fn follow(board: &RwLock<Board>, connection: &Connection) {
    let mut complained = false;
    let mut reader = loop {
        match Reader::new(connection) {
            Ok(reader) => break reader,
            Err(error) => complain(&error, &mut complained),
        }
        tokio::time::sleep(RETRY).await;
    };
    loop {
        let pause = match reader.look(board).await {
            Ok(()) => {
                complained = false;
                LOOK_EVERY
            }
            Err(error) => {
                complain(&error, &mut complained);
                reader.begin_anew();
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Once, and not of an outage, which whoever needs Kafka tells of.
fn complain(error: &KafkaError, complained: &mut bool) {
    if error.is_retryable() || std::mem::replace(complained, true) {
        tracing::debug!(topic = TOPIC, %error, "reports of feeds cannot be read now");
    } else {
        tracing::warn!(topic = TOPIC, %error, "what feeds do cannot be heard, and polybolos.feeds is not up to date");
    }
}

struct Reader<'a> {
    connection: &'a Connection,
    admin: Admin,
    fetcher: Arc<Fetcher>,
    key: SourceKey,
    /// Everything before it was read.
    next: Option<i64>,
    /// The end was reached: what comes is news.
    is_up_to_date: bool,
}

impl<'a> Reader<'a> {
    fn new(connection: &'a Connection) -> Result<Self, KafkaError> {
        let config = FetcherConfig { partition_bytes: BUFFER_BYTES, source_bytes: BUFFER_BYTES, idle: IDLE };
        Ok(Self {
            connection,
            admin: Admin::connect(connection)?,
            fetcher: Fetcher::new(config, &prometheus::Registry::new())?,
            key: SourceKey { incarnation: "feeds".into(), source: 0 },
            next: None,
            is_up_to_date: false,
        })
    }

    /// Reads what came since the last look.
    async fn look(&mut self, board: &RwLock<Board>) -> Result<(), KafkaError> {
        // The first ingestor makes it.
        if self.next.is_none() && !self.admin.exists(TOPIC).await? {
            return Ok(());
        }
        let offsets = self.admin.offsets(TOPIC, &[PARTITION]).await?;
        let (Some(first), Some(end)) = (offsets.beginnings.get(&PARTITION), offsets.ends.get(&PARTITION)) else {
            self.begin_anew();
            return Ok(());
        };
        let end = *end;
        let start = start(self.next, *first, end);
        if self.next.is_some_and(|next| next != start) {
            self.begin_anew();
        }
        let mut from = start;
        while from < end {
            let range = OffsetRange::new(from, end.min(from + PIECE));
            self.read(range, board).await?;
            from = range.end;
        }
        self.next = Some(end);
        self.is_up_to_date = true;
        Ok(())
    }

    async fn read(&self, range: OffsetRange, board: &RwLock<Board>) -> Result<(), KafkaError> {
        let topic = FetchTopic::new(self.connection, TOPIC);
        let chunks = self.fetcher.read(&self.key, topic, PARTITION, range, READ_TIME).await?;
        let now_ms = now_ms();
        let mut board = board.write();
        for chunk in &chunks {
            for report in (0..chunk.len()).filter_map(|record| FeedReport::read(chunk.payload(record)?)) {
                // News are as new as they are here, whatever the clock of who tells them; of the rest only that clock says how old it is.
                let at_ms = if self.is_up_to_date { now_ms } else { report.reported_ms.min(now_ms) };
                board.hear(report, at_ms);
            }
        }
        self.fetcher.release(&self.key, PARTITION, range.end);
        Ok(())
    }

    /// The topic is gone or another one, lost records that were not read yet, or could not be read.
    fn begin_anew(&mut self) {
        self.fetcher.forget(&self.key);
        self.next = None;
        self.is_up_to_date = false;
    }
}

/// Where to read on in a log that has offsets from `first` to before `end`.
fn start(next: Option<i64>, first: i64, end: i64) -> i64 {
    let oldest = first.max(end - LOOK_BACK);
    next.filter(|next| (oldest..=end).contains(next)).unwrap_or(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_goes_on_where_it_was_unless_that_is_gone() {
        assert_eq!(start(None, 3, 10), 3);
        assert_eq!(start(None, 3, LOOK_BACK + 10), 10, "no more than so many");
        assert_eq!(start(Some(7), 3, 10), 7);
        assert_eq!(start(Some(10), 3, 10), 10, "nothing came");
        assert_eq!(start(Some(2), 3, 10), 3, "retention was faster");
        assert_eq!(start(Some(11), 0, 10), 0, "another topic");
    }
}
