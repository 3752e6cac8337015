//! Reading ahead: one long-lived consumer per source and executor fetches its partitions' records before an epoch asks for them, and hands
//! out exact ranges. A thread per consumer takes records from one queue per partition into chunks; a partition that holds enough is left
//! alone, and librdkafka stops fetching it, so a backlog of any size takes bounded memory and nothing is fetched twice.
mod bell;
mod buffer;
mod comeback;
mod polling;
mod source;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use polybolos_streaming::frame::OffsetRange;
use prometheus::Registry;
use tokio::sync::watch;

use self::source::Source;
use crate::{
    connection::Connection,
    error::{KafkaError, Result},
    metrics::Metrics,
    records::RecordChunk,
};

/// A source of a job incarnation, or of a query.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey {
    pub incarnation: String,
    pub source: u32,
}

/// What is read.
#[derive(Clone, Copy, Debug)]
pub struct FetchTopic<'a> {
    pub connection: &'a Connection,
    pub name: &'a str,
    /// Whether records come with their headers: finding out that a record has none costs as much as a tenth of reading it.
    pub headers: bool,
    /// Names the log that offsets count in, for who reads ahead: a topic made again under the same name is another one. Empty: not told.
    pub log: &'a str,
    /// Kafka's id of the topic, for who reads ahead: one of another id is not read. `None`: not known.
    pub topic_id: Option<&'a str>,
}

impl<'a> FetchTopic<'a> {
    /// With headers, of a log that has no name.
    pub fn new(connection: &'a Connection, name: &'a str) -> Self {
        Self { connection, name, headers: true, log: "", topic_id: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetcherConfig {
    /// Read ahead per partition at most.
    pub partition_bytes: usize,
    /// Read ahead per source at most; its partitions share it evenly.
    pub source_bytes: usize,
    /// A consumer that was never told to read ahead ends after this time without a reader.
    pub idle: Duration,
}

impl Default for FetcherConfig {
    fn default() -> Self {
        Self { partition_bytes: 8 << 20, source_bytes: 24 << 20, idle: Duration::from_secs(10) }
    }
}

/// What is buffered of a partition: records below `end`, contiguous from where reading began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    pub source: SourceKey,
    pub partition: i32,
    /// The log that it was read of, as whoever had it read ahead called it.
    pub log: String,
    pub end: i64,
    pub bytes: u64,
}

pub struct Fetcher {
    config: FetcherConfig,
    metrics: Metrics,
    sources: Mutex<HashMap<SourceKey, Arc<Source>>>,
    changed: watch::Sender<u64>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("config", &self.config).field("sources", &self.sources.lock().len()).finish_non_exhaustive()
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.close();
    }
}

impl Fetcher {
    pub fn new(config: FetcherConfig, registry: &Registry) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { config, metrics: Metrics::new(registry)?, sources: Mutex::default(), changed: watch::Sender::new(0) }))
    }

    /// Reads these partitions ahead from these offsets, and no others of the source. What is here already stays, and goes on, if it is of
    /// the same log.
    pub fn prefetch(self: &Arc<Self>, key: SourceKey, topic: FetchTopic<'_>, starts: BTreeMap<i32, i64>) {
        if starts.is_empty() {
            return self.forget(&key);
        }
        match self.source(&key, topic) {
            Ok(source) => source.prefetch(topic.log, topic.topic_id, &starts),
            Err(error) => tracing::error!(topic = topic.name, %error, "cannot read ahead"),
        }
    }

    /// Ends all reading, for a process that stops while others still have the fetcher: consumers must not outlive the broker and miss it.
    pub fn close(&self) {
        for (_, source) in self.sources.lock().drain() {
            source.close();
        }
    }

    pub fn forget(&self, key: &SourceKey) {
        if let Some(source) = self.sources.lock().remove(key) {
            source.close();
        }
    }

    pub fn forget_incarnation(&self, incarnation: &str) {
        self.sources.lock().retain(|key, source| {
            let keep = key.incarnation != incarnation;
            if !keep {
                source.close();
            }
            keep
        });
    }

    /// Recorded: records below `through` are not asked for again.
    pub fn release(&self, key: &SourceKey, partition: i32, through: i64) {
        let source = self.sources.lock().get(key).cloned();
        if let Some(source) = source {
            source.release(partition, through);
        }
    }

    pub fn available(&self) -> Vec<Available> {
        let sources: Vec<_> = self.sources.lock().iter().map(|(key, source)| (key.clone(), source.clone())).collect();
        let mut available = vec![];
        for (key, source) in sources {
            source.each_readable(|log, partition, end, bytes| {
                available.push(Available { source: key.clone(), partition, log: log.to_owned(), end, bytes: bytes as u64 });
            });
        }
        self.metrics.buffered_bytes.set(available.iter().map(|available| available.bytes as i64).sum());
        available
    }

    /// Sources whose brokers cannot be reached, and why, or can (`None`).
    pub fn away(&self) -> Vec<(SourceKey, Option<String>)> {
        let away: Vec<_> = self.sources.lock().iter().map(|(key, source)| (key.clone(), source.away())).collect();
        self.metrics.sources_away.set(away.iter().filter(|(_, away)| away.is_some()).count() as i64);
        away
    }

    /// Changes whenever something arrived.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The records of an exact range; waits for those that are not here yet. Cancel-safe. `range.end` must not be past the end offset that
    /// the broker reports (under read-committed).
    pub async fn read(
        self: &Arc<Self>,
        key: &SourceKey,
        topic: FetchTopic<'_>,
        partition: i32,
        range: OffsetRange,
        deadline: Duration,
    ) -> Result<Vec<RecordChunk>> {
        if range.is_empty() {
            return Ok(vec![]);
        }
        let until = tokio::time::Instant::now() + deadline;
        let late = |away| {
            let OffsetRange { start, end } = range;
            Err(KafkaError::Late { topic: topic.name.to_owned(), partition, start, end, waited: deadline, away })
        };
        loop {
            let source = self.source(key, topic)?;
            match tokio::time::timeout_at(until, source.read(partition, range)).await {
                Ok(Ok(Some(chunks))) => return Ok(chunks),
                // Its consumer had just ended for want of readers, and a new one begins; or the first order to read ahead came.
                Ok(Ok(None)) => continue,
                Ok(Err(error)) => {
                    if matches!(error, KafkaError::DataLost { .. }) {
                        self.metrics.lost_ranges.inc();
                    }
                    return Err(error);
                }
                Err(_) => return late(source.away()),
            }
        }
    }

    /// The source's consumer, begun if there is none yet.
    fn source(self: &Arc<Self>, key: &SourceKey, topic: FetchTopic<'_>) -> Result<Arc<Source>> {
        let mut sources = self.sources.lock();
        if let Some(source) = sources.get(key)
            && source.reads(topic)
        {
            return Ok(source.clone());
        }
        let source = Source::new(topic);
        polling::start(&source, &self.config, self.metrics.clone(), Announcer { fetcher: Arc::downgrade(self), key: key.clone() })?;
        if let Some(old) = sources.insert(key.clone(), source.clone()) {
            old.close();
        }
        Ok(source)
    }
}

/// A consumer thread's way back; it does not keep the fetcher alive.
struct Announcer {
    fetcher: Weak<Fetcher>,
    key: SourceKey,
}

impl Announcer {
    fn changed(&self) {
        if let Some(fetcher) = self.fetcher.upgrade() {
            fetcher.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The thread has ended.
    fn ended(&self, source: &Arc<Source>) {
        if let Some(fetcher) = self.fetcher.upgrade() {
            let mut sources = fetcher.sources.lock();
            if sources.get(&self.key).is_some_and(|current| Arc::ptr_eq(current, source)) {
                sources.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_records_is_told_that_reading_has_ended() {
        let fetcher = Fetcher::new(FetcherConfig::default(), &Registry::new()).expect("a fetcher");
        let connection = Connection::new("127.0.0.1:2");
        let (key, topic) = (SourceKey { incarnation: "a".into(), source: 0 }, FetchTopic::new(&connection, "t"));
        let reading = fetcher.read(&key, topic, 0, OffsetRange { start: 0, end: 1 }, Duration::from_secs(60));
        // Closed once it waits.
        let (read, ()) = tokio::join!(reading, async { fetcher.close() });
        assert!(matches!(read.err(), Some(KafkaError::Closed)));
        assert!(fetcher.away().is_empty(), "nothing is read any more");
    }
}
