//! A producer that writes in transactions, under a transactional id that at most one producer in the world holds: who opens it fences the
//! one before and ends what that left open. What librdkafka leaves unclear (an error while committing) is settled the same way: the
//! producer is given up, and the next one that opens the id finds out what was committed.
use std::{fmt, time::Duration};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError as ClientError,
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
    types::RDKafkaErrorCode as Code,
};

use crate::{
    connection::Connection,
    context::QuietContext,
    error::{KafkaError, Result},
    renewal::apart,
};

const DEFAULTS: &[(&str, &str)] = &[
    ("linger.ms", "5"),
    ("compression.type", "lz4"),
    ("message.timeout.ms", "20000"),
    ("message.max.bytes", "67108864"),
    ("queue.buffering.max.messages", "200000"),
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "500"),
    // A key keeps to the partition that Java's producers choose for it; a record without one goes anywhere.
    ("partitioner", "murmur2_random"),
];

/// How long a transaction whose producer vanished holds readers up, when no other producer opens its id.
pub(crate) const PART_TIMEOUT_MS: &str = "30000";
/// The same for one that takes as long as a statement: the most that brokers allow by default.
pub(crate) const STATEMENT_TIMEOUT_MS: &str = "900000";

/// librdkafka's default.
const BATCH_BYTES: usize = 1_000_000;
/// For opening an id: what its predecessor left open has to end first.
const OPEN: Duration = Duration::from_secs(20);
/// For records to be acknowledged, and for a commit.
const COMMIT: Duration = Duration::from_secs(25);
/// For room in the client's queue.
const ROOM: Duration = Duration::from_millis(50);
/// A courtesy to readers: what is open is aborted at once instead of when it times out.
const ABORT: Duration = Duration::from_secs(2);
/// Records between two looks at what was acknowledged.
const SERVE_EVERY: usize = 1_000;

/// One record to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub topic: &'a str,
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
}

/// Keeps the first record that was not delivered.
#[derive(Debug, Default)]
struct Deliveries {
    failure: Mutex<Option<Code>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        QuietContext.log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        QuietContext.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failure.lock().get_or_insert(error.rdkafka_error_code().unwrap_or(Code::Unknown));
        }
    }
}

/// The producer. All its methods block.
pub(crate) struct TransactionalProducer {
    id: String,
    servers: String,
    /// Always there, until it is dropped.
    client: Option<BaseProducer<Deliveries>>,
}

impl fmt::Debug for TransactionalProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionalProducer").field("id", &self.id).field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        apart(move || {
            let _ = client.abort_transaction(ABORT);
        });
    }
}

impl TransactionalProducer {
    /// Takes the id over, for a topic that takes batches so large: fences its last holder and waits until what that left open has ended.
    pub fn open(connection: &Connection, id: &str, timeout_ms: &str, batch_bytes_max: usize) -> Result<Self> {
        // A topic's limit is one of batches.
        let batch_bytes = batch_bytes_max.min(BATCH_BYTES).to_string();
        let fixed = [
            ("enable.idempotence", "true"),
            ("transactional.id", id),
            // A topic that was deleted is missed, not made again with whatever the broker's defaults are.
            ("allow.auto.create.topics", "false"),
            ("transaction.timeout.ms", timeout_ms),
            ("batch.size", &batch_bytes),
        ];
        let servers = connection.bootstrap_servers.clone();
        let client: BaseProducer<Deliveries> = connection
            .client_config(DEFAULTS, &fixed)
            .create_with_context(Deliveries::default())
            .map_err(|error| KafkaError::from_client(error, &servers, "connecting a producer"))?;
        let producer = Self { id: id.to_owned(), servers, client: Some(client) };
        producer.client().init_transactions(OPEN).map_err(|error| producer.error(error, "taking over"))?;
        Ok(producer)
    }

    fn client(&self) -> &BaseProducer<Deliveries> {
        self.client.as_ref().expect("the client is there until the producer is dropped")
    }

    pub fn begin(&self) -> Result<()> {
        self.client().begin_transaction().map_err(|error| self.error(error, "beginning"))
    }

    /// Sends the records and waits until the broker has them. They are not committed yet. After an error the producer is of no more use.
    pub fn send<'a>(&self, records: impl Iterator<Item = Outgoing<'a>>) -> Result<()> {
        let client = self.client();
        for (number, outgoing) in records.enumerate() {
            self.enqueue(&outgoing)?;
            if number % SERVE_EVERY == SERVE_EVERY - 1 {
                client.poll(Duration::ZERO);
                self.check_delivered()?;
            }
        }
        let flushed = client.flush(COMMIT);
        self.check_delivered()?;
        flushed.map_err(|error| self.error(error, "sending"))
    }

    fn enqueue(&self, outgoing: &Outgoing<'_>) -> Result<()> {
        let mut record = BaseRecord::<[u8], [u8]>::to(outgoing.topic);
        (record.key, record.payload, record.partition) = (outgoing.key, outgoing.payload, outgoing.partition);
        let started = std::time::Instant::now();
        loop {
            record = match self.client().send(record) {
                Ok(()) => return Ok(()),
                Err((ClientError::MessageProduction(Code::QueueFull), record)) if started.elapsed() < COMMIT => record,
                Err((error, _)) => return Err(self.error(error, "sending")),
            };
            self.client().poll(ROOM);
            self.check_delivered()?;
        }
    }

    fn check_delivered(&self) -> Result<()> {
        match self.client().context().failure.lock().take() {
            None => Ok(()),
            // The client throws records away once a transaction has failed. Why is told at the next attempt to begin one, which that state forbids.
            Some(Code::PurgeQueue | Code::PurgeInflight) => {
                self.begin()?;
                Err(KafkaError::Bug(format!("records under transactional id {:?} were thrown away for no reason", self.id)))
            }
            Some(code) => Err(self.error(ClientError::MessageProduction(code), "sending")),
        }
    }

    /// Commits what was sent. After an error it may be committed or not, and the producer is of no more use.
    pub fn commit(&self) -> Result<()> {
        self.client().commit_transaction(COMMIT).map_err(|error| self.error(error, "committing"))
    }

    fn error(&self, error: ClientError, doing: &str) -> KafkaError {
        let code = error.rdkafka_error_code();
        if matches!(code, Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::State)) {
            return KafkaError::Fenced { id: self.id.clone() };
        }
        if matches!(code, Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)) {
            return KafkaError::Unled { id: self.id.clone(), reason: error.to_string() };
        }
        unsettled(error, &self.servers, format!("{doing} under transactional id {:?}", self.id))
    }
}

/// What goes wrong around a transaction may go right the next time, with a new producer, unless the broker says that it never will.
pub(crate) fn unsettled(error: ClientError, servers: &str, action: String) -> KafkaError {
    let Some(code) = error.rdkafka_error_code() else { return KafkaError::from_client(error, servers, action) };
    match code {
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::InvalidTransactionTimeout
        | Code::PolicyViolation => KafkaError::Refused { action, reason: code.to_string() },
        _ => KafkaError::Away { servers: servers.to_owned(), reason: format!("{action}: {error}") },
    }
}
