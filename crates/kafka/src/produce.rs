//! Producing: idempotent, compressed; a record counts when the broker's delivery report says so.
use std::{fmt, time::Duration};

use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _},
    types::RDKafkaErrorCode,
};

use crate::{
    connection::Connection,
    error::{KafkaError, Result},
};

const DEFAULTS: &[(&str, &str)] = &[
    ("linger.ms", "2"),
    ("compression.type", "lz4"),
    ("message.timeout.ms", "10000"),
    ("message.max.bytes", "16777216"),
    ("queue.buffering.max.messages", "200000"),
];

const FIXED: &[(&str, &str)] = &[("enable.idempotence", "true")];

/// Whoever sends a record again that the client gave up gives it another sequence number, and the broker takes it for another record though it may have the first.
/// Both names are of one setting.
const PATIENT: &[(&str, &str)] = &[("enable.idempotence", "true"), ("message.timeout.ms", "0"), ("delivery.timeout.ms", "0")];

/// Wait for room in the client's queue.
const QUEUE: Duration = Duration::from_secs(10);

pub struct Producer {
    servers: String,
    client: FutureProducer,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Producer {
    /// One that answers in time: a record that is not delivered in ten seconds is given up, and nobody knows whether the broker has it.
    pub fn connect(connection: &Connection) -> Result<Self> {
        Self::connect_with(connection, FIXED)
    }

    /// One that never gives a record up, however long the brokers are away: it is there once when `send` has answered. Who cannot wait drops the future, and the
    /// producer.
    pub fn connect_patient(connection: &Connection) -> Result<Self> {
        Self::connect_with(connection, PATIENT)
    }

    fn connect_with(connection: &Connection, fixed: &[(&str, &str)]) -> Result<Self> {
        let client = connection.client_config(DEFAULTS, fixed).create();
        let client =
            client.map_err(|error| KafkaError::from_client(error, &connection.bootstrap_servers, "connecting a producer"))?;
        Ok(Self { servers: connection.bootstrap_servers.clone(), client })
    }

    /// Where the brokers are.
    pub fn servers(&self) -> &str {
        &self.servers
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
        match self.client.send(record, QUEUE).await {
            Ok(delivery) => Ok((delivery.partition, delivery.offset)),
            Err((error, _)) => Err(match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => KafkaError::TooLarge {
                    topic: topic.to_owned(),
                    bytes: payload.map_or(0, <[u8]>::len),
                    limit: "it is larger than the topic takes".into(),
                },
                Some(RDKafkaErrorCode::QueueFull) => {
                    KafkaError::Away { servers: self.servers.clone(), reason: "records queue up".into() }
                }
                _ => KafkaError::from_client(error, &self.servers, format!("producing to topic {topic:?}")),
            }),
        }
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
        self.client.flush(timeout).map_err(|error| KafkaError::from_client(error, &self.servers, "flushing"))
    }
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
}
