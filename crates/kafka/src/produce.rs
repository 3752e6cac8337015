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
    pub fn connect(connection: &Connection) -> Result<Self> {
        let client = connection.client_config(DEFAULTS, FIXED).create();
        let client =
            client.map_err(|error| KafkaError::from_client(error, &connection.bootstrap_servers, "connecting a producer"))?;
        Ok(Self { servers: connection.bootstrap_servers.clone(), client })
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
