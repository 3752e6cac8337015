//! Publishing recorded epochs to a topic, each exactly once to readers of committed records (EPOCHS rule 16).
//!
//! A sink has a few *publishers*; a part of an epoch always goes to the same one. A publisher is a transactional id, and a partition of
//! its own in the sink's positions topic. One transaction holds a part's records and, there, the **position**: epoch and parts that are
//! published with it. Who takes a publisher over opens the id, waits until nothing is open in the position's partition, and reads the last
//! position: what it names is published, what it does not name is not.
//!
//! Nobody else writes to that partition, so its last committed record is the position, found by looking back from the end. Old ones go by
//! size (`retention.bytes`), which spares the newest segment: a position never expires with time, as a committed offset would.
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError as ClientError,
};
use serde::{Deserialize, Serialize};

use crate::{
    admin::Admin,
    connection::Connection,
    context::QuietContext,
    encode::Encoded,
    error::{KafkaError, Result},
    settled::settled_ends,
    transaction::{Outgoing, PART_TIMEOUT_MS, STATEMENT_TIMEOUT_MS, TransactionalProducer, unsettled},
};

/// What of every sink's positions topic is kept: a few segments.
pub const POSITIONS_CONFIG: &[(&str, &str)] =
    &[("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "4194304"), ("segment.bytes", "1048576")];

/// Kafka's default of a topic's `max.message.bytes`.
const MESSAGE_BYTES_MAX: usize = 1_048_588;
/// What a batch of one record has around key and payload, at most.
const ENVELOPE_BYTES: usize = 128;
/// For finding the position.
const ANSWER: Duration = Duration::from_secs(5);
const FIND: Duration = Duration::from_secs(20);
/// Between two looks whether the topic is still there, while records wait for it.
const WATCH: Duration = Duration::from_secs(2);
/// A broker may hear late of a topic that was just made: so often it is asked, with pauses between.
const QUESTIONS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// Between two looks whether a record has arrived.
const LOOK: Duration = Duration::from_millis(10);
/// How far the search for the last position first looks back, in offsets; doubled until there is one.
const LOOK_BACK: i64 = 64;

/// The topic with the positions of a sink's publishers, one partition each. Its leading `__` keeps it out of lists of topics.
pub fn positions_topic(incarnation: &str, sink: u32) -> String {
    format!("__polybolos_positions-{incarnation}-{sink}")
}

/// The transactional id of a publisher.
pub fn transactional_id(incarnation: &str, sink: u32, publisher: u16) -> String {
    format!("polybolos-{incarnation}-{sink}-{publisher}")
}

/// Through where a publisher has published: everything before `epoch`, and these parts of it with the rows that the topic refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub epoch: u64,
    pub parts: BTreeMap<u16, Vec<u32>>,
}

impl Position {
    /// The rows of a published part that were refused, which of epochs before the last is not known; `None` where it is not
    /// published.
    pub fn published(&self, epoch: u64, part: u16) -> Option<&[u32]> {
        if self.epoch > epoch {
            return Some(&[]);
        }
        (self.epoch == epoch).then(|| self.parts.get(&part)).flatten().map(Vec::as_slice)
    }

    fn with(&self, epoch: u64, part: u16, refused: Vec<u32>) -> Self {
        let mut next = if self.epoch == epoch { self.clone() } else { Self { epoch, parts: BTreeMap::new() } };
        next.parts.insert(part, refused);
        next
    }
}

/// Records for one topic: some rows' keys and payloads.
#[derive(Debug)]
pub struct Records {
    /// `None`: records without a key.
    pub keys: Option<Encoded>,
    /// `None`: tombstones.
    pub payloads: Option<Encoded>,
}

impl Records {
    fn len(&self) -> usize {
        self.payloads.as_ref().or(self.keys.as_ref()).map_or(0, Encoded::len)
    }

    /// A row's key and payload, or why it cannot be sent.
    fn row(&self, row: usize, bytes_max: usize) -> Result<(Option<&[u8]>, Option<&[u8]>), String> {
        let key = self.keys.as_ref().map(|keys| keys.row(row)).transpose()?;
        let payload = self.payloads.as_ref().map(|payloads| payloads.row(row)).transpose()?;
        let length = key.map_or(0, <[u8]>::len) + payload.map_or(0, <[u8]>::len) + ENVELOPE_BYTES;
        if length > bytes_max {
            return Err(format!("a record of {length} bytes is larger than the topic's max.message.bytes, {bytes_max}"));
        }
        Ok((key, payload))
    }
}

/// Where a publisher publishes.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    pub connection: Connection,
    pub topic: String,
    pub transactional_id: String,
    pub positions_topic: String,
    pub positions_partition: i32,
}

/// One publisher, open on this process until it is dropped or another process opens it.
#[derive(Debug)]
pub struct TopicPublisher {
    config: PublisherConfig,
    /// Its connections are kept while the publisher is open, for questions about the topic.
    admin: Arc<Admin>,
    producer: TransactionalProducer,
    position: Position,
    record_bytes_max: usize,
}

/// A part that is sent and not committed yet. Dropped, it never becomes visible.
#[derive(Debug)]
pub struct Sent {
    publisher: TopicPublisher,
    position: Position,
}

impl TopicPublisher {
    /// Takes the publisher over from whoever had it, and finds its position.
    ///
    /// # Errors
    /// [`KafkaError::NoSuchTopic`] where the topic is gone: it is not made anew, as nobody would notice what went with it.
    pub async fn open(config: PublisherConfig) -> Result<Self> {
        let admin = Arc::new(Admin::connect(&config.connection)?);
        must_exist(&admin, &config.topic).await?;
        let record_bytes_max = record_bytes_max(&admin, &config.topic).await?;
        let PublisherConfig { connection, transactional_id: id, .. } = config.clone();
        let producer = blocking(move || TransactionalProducer::open(&connection, &id, PART_TIMEOUT_MS, record_bytes_max)).await?;
        let position = find_position(&admin, &config).await?;
        tracing::debug!(id = %config.transactional_id, ?position, "publisher taken over");
        Ok(Self { config, admin, producer, position, record_bytes_max })
    }

    pub fn position(&self) -> &Position {
        &self.position
    }

    /// A record with this may not be sent; the remedy is the topic's `max.message.bytes`.
    pub fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }

    /// Sends a part's records, but those that the topic would refuse, and the position that says so. Parts come epoch after epoch.
    pub async fn send(self, epoch: u64, part: u16, records: Vec<Records>) -> Result<Sent> {
        let (admin, topic) = (self.admin.clone(), self.config.topic.clone());
        let sending = blocking(move || {
            let refused = refused(&records, self.record_bytes_max).into_iter().map(|(row, _)| row).collect();
            let position = self.position.with(epoch, part, refused);
            let marker = serde_json::to_vec(&position).map_err(|error| KafkaError::Bug(error.to_string()))?;
            let marker = Outgoing {
                topic: &self.config.positions_topic,
                partition: Some(self.config.positions_partition),
                key: Some(self.config.transactional_id.as_bytes()),
                payload: Some(&marker),
            };
            self.producer.begin()?;
            self.producer.send(outgoing(&records, &self.config.topic, self.record_bytes_max).chain([marker]))?;
            Ok(Sent { publisher: self, position })
        });
        watched(&admin, &topic, sending).await
    }
}

impl Sent {
    /// Makes the part visible. After an error it may be or not: whoever opens the publisher next finds out.
    pub async fn commit(self) -> Result<TopicPublisher> {
        let (admin, topic) = (self.publisher.admin.clone(), self.publisher.config.topic.clone());
        let committing = blocking(move || {
            self.publisher.producer.commit()?;
            Ok(TopicPublisher { position: self.position, ..self.publisher })
        });
        match committing.await {
            Ok(publisher) => Ok(publisher),
            Err(error) => Err(explained(&admin, &topic, error).await),
        }
    }
}

/// Rows of one statement, in one transaction: all of them become visible when it is committed, or none.
#[derive(Debug)]
pub struct OneTransaction {
    admin: Arc<Admin>,
    producer: TransactionalProducer,
    topic: String,
    record_bytes_max: usize,
}

impl OneTransaction {
    pub async fn begin(connection: Connection, topic: String) -> Result<Self> {
        let admin = Arc::new(Admin::connect(&connection)?);
        let record_bytes_max = record_bytes_max(&admin, &topic).await?;
        let id = format!("polybolos-insert-{}", uuid::Uuid::new_v4().simple());
        blocking(move || {
            let producer = TransactionalProducer::open(&connection, &id, STATEMENT_TIMEOUT_MS, record_bytes_max)?;
            producer.begin()?;
            Ok(Self { admin, producer, topic, record_bytes_max })
        })
        .await
    }

    /// Sends more; dropped afterwards, nothing was written. A row that the topic would refuse is an error.
    pub async fn send(self, records: Records) -> Result<Self> {
        let (admin, topic) = (self.admin.clone(), self.topic.clone());
        let sending = blocking(move || {
            let records = [records];
            if let Some((_, reason)) = refused(&records, self.record_bytes_max).into_iter().next() {
                return Err(KafkaError::Refused { action: format!("writing a row to topic {:?}", self.topic), reason });
            }
            self.producer.send(outgoing(&records, &self.topic, self.record_bytes_max))?;
            Ok(self)
        });
        watched(&admin, &topic, sending).await
    }

    pub async fn commit(self) -> Result<()> {
        let Self { admin, producer, topic, .. } = self;
        match blocking(move || producer.commit()).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explained(&admin, &topic, error).await),
        }
    }
}

/// Rows that a topic would refuse, counted over all records, and why.
pub fn refused(records: &[Records], record_bytes_max: usize) -> Vec<(u32, String)> {
    let rows = records.iter().flat_map(|records| (0..records.len()).map(move |row| records.row(row, record_bytes_max)));
    rows.enumerate().filter_map(|(row, outcome)| Some((row as u32, outcome.err()?))).collect()
}

fn outgoing<'a>(records: &'a [Records], topic: &'a str, bytes_max: usize) -> impl Iterator<Item = Outgoing<'a>> {
    let rows = records.iter().flat_map(move |records| (0..records.len()).filter_map(move |row| records.row(row, bytes_max).ok()));
    rows.map(move |(key, payload)| Outgoing { topic, partition: None, key, payload })
}

async fn must_exist(admin: &Admin, topic: &str) -> Result<()> {
    for question in 0..QUESTIONS {
        if question > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if admin.exists(topic).await? {
            return Ok(());
        }
    }
    Err(KafkaError::NoSuchTopic { topic: topic.to_owned() })
}

/// Sends, and looks meanwhile whether the topic is still there: the client goes on trying for long, and then cannot tell why. What is
/// still being sent when the topic is missed is never committed.
async fn watched<T>(admin: &Admin, topic: &str, sending: impl Future<Output = Result<T>>) -> Result<T> {
    let sent = tokio::select! {
        sent = sending => sent,
        missing = found_missing(admin, topic) => return Err(missing),
    };
    match sent {
        Ok(sent) => Ok(sent),
        Err(error) => Err(explained(admin, topic, error).await),
    }
}

/// What the broker refuses of a topic that is gone, in words that name it.
async fn explained(admin: &Admin, topic: &str, error: KafkaError) -> KafkaError {
    if error.is_retryable() && !matches!(error, KafkaError::Unled { .. }) {
        return error;
    }
    match must_exist(admin, topic).await {
        Err(missing @ KafkaError::NoSuchTopic { .. }) => missing,
        _ => error,
    }
}

/// Returns only when the topic is found to be gone.
async fn found_missing(admin: &Admin, topic: &str) -> KafkaError {
    loop {
        tokio::time::sleep(WATCH).await;
        if let Err(error @ KafkaError::NoSuchTopic { .. }) = must_exist(admin, topic).await {
            return error;
        }
    }
}

async fn record_bytes_max(admin: &Admin, topic: &str) -> Result<usize> {
    let setting = admin.topic_setting(topic, "max.message.bytes").await?;
    Ok(setting.and_then(|bytes| bytes.parse().ok()).unwrap_or(MESSAGE_BYTES_MAX))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| KafkaError::Bug(error.to_string()))?
}

/// The last committed position, once nothing is open before the end that the partition has now.
async fn find_position(admin: &Admin, config: &PublisherConfig) -> Result<Position> {
    let PublisherConfig { connection, positions_topic, positions_partition, .. } = config;
    // Nobody else writes there, and what our predecessor had open ended when its id was taken over.
    let ends = settled_ends(admin, connection, positions_topic, &[*positions_partition]).await?;
    let (end, config) = (ends[positions_partition], config.clone());
    blocking(move || Positions::connect(&config)?.last(end, Instant::now() + FIND)).await
}

/// Looks into a publisher's own partition.
struct Positions<'a> {
    config: &'a PublisherConfig,
    consumer: BaseConsumer<QuietContext>,
}

impl<'a> Positions<'a> {
    fn connect(config: &'a PublisherConfig) -> Result<Self> {
        let fixed = [
            ("group.id", "polybolos-positions"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("allow.auto.create.topics", "false"),
            ("isolation.level", "read_committed"),
        ];
        let client = config.connection.client_config(&[("fetch.wait.max.ms", "10")], &fixed);
        let consumer = client.create_with_context(QuietContext);
        let failed = |error| KafkaError::from_client(error, &config.connection.bootstrap_servers, "connecting");
        Ok(Self { config, consumer: consumer.map_err(failed)? })
    }

    fn beginning(&self) -> Result<i64> {
        let found = self.consumer.fetch_watermarks(&self.config.positions_topic, self.config.positions_partition, ANSWER);
        Ok(found.map_err(|error| self.error(error))?.0)
    }

    /// The last record before `end`, whose first offsets may be markers of transactions or aborted.
    fn last(&self, end: i64, until: Instant) -> Result<Position> {
        let beginning = self.beginning()?;
        let mut back = LOOK_BACK;
        loop {
            let start = beginning.max(end - back);
            if let Some(payload) = self.last_from(start, end, until)? {
                return serde_json::from_slice(&payload).map_err(|error| KafkaError::Refused {
                    action: format!(
                        "reading the position of {:?} in topic {:?}",
                        self.config.transactional_id, self.config.positions_topic
                    ),
                    reason: format!("{error}; it was written by something else"),
                });
            }
            if start == beginning {
                return Ok(Position::default());
            }
            back *= 2;
        }
    }

    fn last_from(&self, start: i64, end: i64, until: Instant) -> Result<Option<Vec<u8>>> {
        if start >= end {
            return Ok(None);
        }
        let mut list = TopicPartitionList::new();
        let at = Offset::Offset(start);
        let assigned = list.add_partition_offset(&self.config.positions_topic, self.config.positions_partition, at);
        assigned.and_then(|()| self.consumer.assign(&list)).map_err(|error| self.error(error))?;
        let mut last = None;
        loop {
            match self.consumer.poll(LOOK) {
                Some(Ok(message)) if message.offset() >= end => return Ok(last),
                Some(Ok(message)) => last = message.payload().map(<[u8]>::to_vec),
                Some(Err(ClientError::PartitionEOF(_))) => return Ok(last),
                Some(Err(error)) if !error.rdkafka_error_code().is_some_and(crate::error::is_away) => return Err(self.error(error)),
                Some(Err(_)) | None => {}
            }
            if Instant::now() > until {
                return Err(self.late("its records do not arrive"));
            }
        }
    }

    fn late(&self, why: &str) -> KafkaError {
        let PublisherConfig { connection, positions_topic, positions_partition, .. } = self.config;
        KafkaError::Away {
            servers: connection.bootstrap_servers.clone(),
            reason: format!("topic {positions_topic:?} partition {positions_partition}: {why}"),
        }
    }

    fn error(&self, error: ClientError) -> KafkaError {
        let action = format!("looking for a position in topic {:?}", self.config.positions_topic);
        unsettled(error, &self.config.connection.bootstrap_servers, action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_names_what_is_published() {
        let position = Position::default();
        assert_eq!(position.published(1, 0), None);
        let position = position.with(3, 0, vec![]).with(3, 4, vec![7]);
        assert_eq!((position.published(3, 0), position.published(3, 4)), (Some(&[][..]), Some(&[7][..])));
        assert_eq!((position.published(3, 8), position.published(4, 0)), (None, None));
        assert_eq!(position.published(2, 8), Some(&[][..]), "epochs come one after the other");
        let next = position.with(4, 0, vec![]);
        assert_eq!((next.published(4, 4), next.published(3, 8)), (None, Some(&[][..])));
        let text = serde_json::to_vec(&next).unwrap();
        assert_eq!(serde_json::from_slice::<Position>(&text).unwrap(), next);
    }
}
