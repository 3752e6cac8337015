//! Producing: idempotent, compressed; a record counts when the broker's delivery report says so.
use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _, PurgeConfig},
    types::RDKafkaErrorCode,
};

use crate::{
    connection::Connection,
    error::{KafkaError, Result},
    renewal::{apart, end_apart},
};

/// Properties, by name.
type Properties = &'static [(&'static str, &'static str)];

const DEFAULTS: Properties = &[
    ("linger.ms", "2"),
    ("compression.type", "lz4"),
    ("message.timeout.ms", "10000"),
    ("message.max.bytes", "16777216"),
    ("queue.buffering.max.messages", "200000"),
];

const FIXED: Properties = &[("enable.idempotence", "true")];

/// Whoever sends a record again that the client gave up gives it another sequence number, and the broker takes it for another record though it may have the first.
/// Both names are of one setting.
const PATIENT: Properties = &[("enable.idempotence", "true"), ("message.timeout.ms", "0"), ("delivery.timeout.ms", "0")];

/// Wait for room in the client's queue.
const QUEUE: Duration = Duration::from_secs(10);

/// A client that still knows its brokers is connected again in this time, and answered: librdkafka pauses up to fifteen seconds.
const ANSWER: Duration = Duration::from_secs(20);

/// Between two looks whether somebody still has a client that was given up.
const GIVEN_UP: Duration = Duration::from_secs(1);

pub struct Producer {
    connection: Connection,
    fixed: Properties,
    client: Mutex<Arc<FutureProducer>>,
    /// Held by whoever looks whether another client is needed.
    renewing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("servers", &self.servers()).finish_non_exhaustive()
    }
}

impl Producer {
    /// One that answers in time: a record that is not delivered in ten seconds is given up, and nobody knows whether the broker has it.
    pub fn connect(connection: &Connection) -> Result<Self> {
        Self::connect_with(connection, FIXED)
    }

    /// One that never gives a record up, however long the brokers are away: it is there once when `send` has answered. Who cannot wait drops the future, and the
    /// producer, or asks from time to time whether it has to be renewed ([`Self::renew_if_lost`]).
    pub fn connect_patient(connection: &Connection) -> Result<Self> {
        Self::connect_with(connection, PATIENT)
    }

    fn connect_with(connection: &Connection, fixed: Properties) -> Result<Self> {
        let client = Mutex::new(connect(connection, fixed)?);
        Ok(Self { connection: connection.clone(), fixed, client, renewing: tokio::sync::Mutex::default() })
    }

    /// Where the brokers are.
    pub fn servers(&self) -> &str {
        &self.connection.bootstrap_servers
    }

    fn client(&self) -> Arc<FutureProducer> {
        self.client.lock().clone()
    }

    /// Takes a new client if the present one has lost its brokers for good (`renewal` says how), and answers whether it did. Records
    /// that wait come back as errors that may pass. Sent again they may be there twice, as nobody knows what became of those that were
    /// under way; so the new client has to be answered while the old one is not.
    pub async fn renew_if_lost(&self) -> bool {
        self.renew(ANSWER).await
    }

    async fn renew(&self, patience: Duration) -> bool {
        let Ok(_alone) = self.renewing.try_lock() else { return false };
        let lost = self.client();
        if is_answered(&lost, patience).await {
            return false;
        }
        let Ok(new) = connect(&self.connection, self.fixed) else { return false };
        // Brokers that have only just come back are found by the old client too, in its time.
        let is_lost = is_answered(&new, patience).await && !is_answered(&lost, patience).await;
        match is_lost {
            true => self.replace(new),
            false => end_apart(new),
        }
        is_lost
    }

    fn replace(&self, new: Arc<FutureProducer>) {
        give_up(std::mem::replace(&mut *self.client.lock(), new));
    }

    /// Sends one record and waits for its delivery; answers partition and offset.
    pub async fn send(&self, topic: &str, key: Option<&[u8]>, payload: &[u8]) -> Result<(i32, i64)> {
        self.send_to(topic, None, key, Some(payload)).await
    }

    /// The same to a chosen partition; without a payload it is a tombstone.
    pub async fn send_to(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
    ) -> Result<(i32, i64)> {
        self.send_record(FutureRecord { topic, partition, payload, key, timestamp: None, headers: None }).await
    }

    async fn send_record(&self, record: FutureRecord<'_, [u8], [u8]>) -> Result<(i32, i64)> {
        let (topic, payload) = (record.topic, record.payload);
        match self.client().send(record, QUEUE).await {
            Ok(delivery) => Ok((delivery.partition, delivery.offset)),
            Err((error, _)) => Err(match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => KafkaError::TooLarge {
                    topic: topic.to_owned(),
                    bytes: payload.map_or(0, <[u8]>::len),
                    limit: "it is larger than the topic takes".into(),
                },
                Some(RDKafkaErrorCode::QueueFull) => self.away("records queue up"),
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {
                    self.away("the client that had the record was given up")
                }
                _ => KafkaError::from_client(error, self.servers(), format!("producing to topic {topic:?}")),
            }),
        }
    }

    fn away(&self, reason: &str) -> KafkaError {
        KafkaError::Away { servers: self.servers().into(), reason: reason.into() }
    }

    /// The same to a chosen partition, with a header.
    pub async fn send_marked(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        payload: &[u8],
        (name, value): (&str, &str),
    ) -> Result<(i32, i64)> {
        let headers = OwnedHeaders::new().insert(Header { key: name, value: Some(value) });
        self.send_record(FutureRecord {
            topic,
            partition: Some(partition),
            payload: Some(payload),
            key,
            timestamp: None,
            headers: Some(headers),
        })
        .await
    }

    /// Waits until nothing is under way.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.client().flush(timeout).map_err(|error| KafkaError::from_client(error, self.servers(), "flushing"))
    }
}

fn connect(connection: &Connection, fixed: Properties) -> Result<Arc<FutureProducer>> {
    let client = connection.client_config(DEFAULTS, fixed).create();
    let client = client.map_err(|error| KafkaError::from_client(error, &connection.bootstrap_servers, "connecting a producer"))?;
    Ok(Arc::new(client))
}

/// Whether any broker answers it in time.
async fn is_answered(client: &Arc<FutureProducer>, patience: Duration) -> bool {
    let client = client.clone();
    let asked = tokio::task::spawn_blocking(move || client.client().fetch_metadata(None, patience).is_ok());
    asked.await.unwrap_or(false)
}

/// Gives back what waits in a client, also what somebody who has it still puts there, and ends it on a thread of its own.
fn give_up(client: Arc<FutureProducer>) {
    apart(move || {
        loop {
            client.purge(PurgeConfig::default().queue().inflight());
            if Arc::strong_count(&client) == 1 {
                return;
            }
            std::thread::sleep(GIVEN_UP);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_patient_producer_gives_no_record_up() {
        let mut connection = Connection::new("127.0.0.1:1");
        connection.properties.insert("message.timeout.ms".into(), "100".into());
        let config = connection.client_config(DEFAULTS, PATIENT);
        for name in ["message.timeout.ms", "delivery.timeout.ms"] {
            assert_eq!(config.get(name), Some("0"));
        }
        let producer = Producer::connect(&connection).unwrap();
        assert!(producer.send("t", None, b"{}").await.is_err(), "given up in time");
        let producer = Producer::connect_patient(&connection).unwrap();
        let send = producer.send("t", None, b"{}");
        assert!(tokio::time::timeout(Duration::from_secs(3), send).await.is_err(), "it waits");
    }

    #[tokio::test]
    async fn what_waits_in_a_client_that_is_given_up_comes_back_to_be_sent_again() {
        let producer = Arc::new(Producer::connect_patient(&Connection::new("127.0.0.1:1")).unwrap());
        let send = |number: u8| {
            let producer = producer.clone();
            tokio::spawn(async move { producer.send("t", None, &[number]).await })
        };
        let waiting = [send(1), send(2)];
        assert!(!producer.renew(Duration::from_millis(200)).await, "another client is not answered either");
        assert!(waiting.iter().all(|send| !send.is_finished()), "they wait");
        producer.replace(connect(&producer.connection, PATIENT).unwrap());
        for send in waiting {
            let error = send.await.unwrap().expect_err("it was not delivered");
            assert!(error.is_retryable() && error.to_string().contains("was given up"), "{error}");
        }
        let send = producer.send("t", None, b"3");
        assert!(tokio::time::timeout(Duration::from_secs(1), send).await.is_err(), "the new client waits as well");
    }
}
