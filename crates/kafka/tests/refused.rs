//! Brokers that refuse offsets which they keep, played by librdkafka's own cluster.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use std::{sync::Arc, time::Duration};

use polybolos_kafka::{
    connection::Connection,
    error::KafkaError,
    fetcher::{FetchTopic, Fetcher, FetcherConfig, SourceKey},
    produce::Producer,
    records::RecordChunk,
};
use polybolos_streaming::frame::OffsetRange;
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

const DEADLINE: Duration = Duration::from_secs(30);
const TOPIC: &str = "refused";
const RECORDS: i64 = 3;
const REFUSAL: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;

struct Bench {
    fetcher: Arc<Fetcher>,
    connection: Connection,
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Bench {
    /// With all records written, and the next requests for them refused.
    async fn refusing(times: usize) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let connection = Connection::new(cluster.bootstrap_servers());
        let producer = Producer::connect(&connection).unwrap();
        for _ in 0..RECORDS {
            producer.send_to(TOPIC, Some(0), None, Some(b"{}")).await.unwrap();
        }
        cluster.request_errors(RDKafkaApiKey::Fetch, &vec![REFUSAL; times]);
        let fetcher = Fetcher::new(FetcherConfig::default(), &prometheus::Registry::new()).unwrap();
        Self { fetcher, connection, cluster }
    }

    async fn read(&self) -> Result<Vec<RecordChunk>, KafkaError> {
        let key = SourceKey { incarnation: "test".into(), source: 0 };
        let topic = FetchTopic::new(&self.connection, TOPIC);
        self.fetcher.read(&key, topic, 0, OffsetRange::new(0, RECORDS), DEADLINE).await
    }
}

fn count(chunks: &[RecordChunk]) -> i64 {
    chunks.iter().map(|chunk| chunk.len() as i64).sum()
}

/// The client stops to read a partition at the first refusal: a log that was cut and has grown again, for one, would never be read
/// on.
#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_kept_is_asked_for_again() {
    let bench = Bench::refusing(1).await;
    assert_eq!(count(&bench.read().await.unwrap()), RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_offset_is_always_refused_does_not_stand_still_in_silence() {
    let bench = Bench::refusing(1_000).await;
    let told = bench.read().await.unwrap_err();
    assert!(matches!(&told, KafkaError::OffsetRefused { partition: 0, offset: 0, .. }) && told.is_retryable(), "{told}");
    bench.cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    assert_eq!(count(&bench.read().await.unwrap()), RECORDS);
}
