//! Against a real Kafka at `POLYBOLOS_TEST_KAFKA` (`make test` starts one). Each test makes topics of its own.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use polybolos_kafka::{
    admin::{Admin, TopicDescription},
    connection::Connection,
    error::KafkaError,
    fetcher::{FetchTopic, Fetcher, FetcherConfig, SourceKey},
    produce::Producer,
    records::RecordChunk,
};
use polybolos_streaming::frame::OffsetRange;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

const DEADLINE: Duration = Duration::from_secs(30);

fn servers() -> String {
    std::env::var("POLYBOLOS_TEST_KAFKA").expect("POLYBOLOS_TEST_KAFKA=host:port names a real Kafka; `make test` starts one")
}

fn connection() -> Connection {
    Connection::new(servers())
}

fn fetcher(config: FetcherConfig) -> Arc<Fetcher> {
    Fetcher::new(config, &prometheus::Registry::new()).unwrap()
}

fn key(source: u32) -> SourceKey {
    SourceKey { incarnation: "test".into(), source }
}

struct Topic {
    name: String,
    admin: Admin,
}

async fn topic(what: &str, partitions: i32, config: &[(&str, &str)]) -> Topic {
    let name = format!("{what}-{}", uuid::Uuid::new_v4().simple());
    let admin = Admin::connect(&connection()).unwrap();
    admin.create_topic(&name, partitions, 1, config).await.unwrap();
    let topic = Topic { name, admin };
    topic.appears(partitions as usize).await;
    topic
}

impl Topic {
    /// Asks until the broker tells what is looked for; for a while it may know nothing.
    async fn until<T>(&self, missed: &str, looked_for: impl Fn(Option<TopicDescription>) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.admin.describe(&self.name).await {
                Ok(description) => {
                    if let Some(found) = looked_for(description) {
                        return found;
                    }
                }
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            assert!(Instant::now() < until, "topic {} {missed}", self.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn appears(&self, partitions: usize) {
        let whole = |found: Option<TopicDescription>| (found?.partitions.len() == partitions).then_some(());
        self.until("does not appear", whole).await;
    }

    async fn id(&self) -> String {
        self.until("has no id", |found| found?.topic_id).await
    }

    /// Deletes it, and waits until it is gone.
    async fn end(&self) {
        self.delete().await;
        self.until("does not go away", |found| found.is_none().then_some(())).await;
    }

    async fn delete(&self) {
        let client: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
        client.delete_topics(&[&self.name], &options).await.unwrap()[0].as_ref().unwrap();
    }

    async fn fill(&self, partition: i32, count: usize, bytes: usize) {
        let producer = Producer::connect(&connection()).unwrap();
        for start in (0..count).step_by(10_000) {
            let payloads: Vec<String> = (start..count.min(start + 10_000)).map(|index| payload(partition, index, bytes)).collect();
            let sends =
                payloads.iter().map(|payload| producer.send_to(&self.name, Some(partition), None, Some(payload.as_bytes())));
            for sent in join_all(sends).await {
                sent.unwrap();
            }
        }
    }

    async fn delete_records(&self, partition: i32, before: i64) {
        let client: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(before)).unwrap();
        client.delete_records(&list, &AdminOptions::new()).await.unwrap();
    }
}

fn payload(partition: i32, index: usize, bytes: usize) -> String {
    format!("{{\"p\":{partition},\"i\":{index},\"x\":\"{}\"}}", "x".repeat(bytes))
}

async fn read(fetcher: &Arc<Fetcher>, topic: &Topic, partition: i32, start: i64, end: i64) -> Result<Vec<RecordChunk>, KafkaError> {
    fetcher.read(&key(0), FetchTopic::new(&connection(), &topic.name), partition, OffsetRange::new(start, end), DEADLINE).await
}

fn offsets(chunks: &[RecordChunk]) -> Vec<i64> {
    chunks.iter().flat_map(|chunk| (0..chunk.len()).map(|record| chunk.offset(record))).collect()
}

fn payloads(chunks: &[RecordChunk]) -> Vec<String> {
    let all = chunks.iter().flat_map(|chunk| (0..chunk.len()).map(|record| chunk.payload(record).unwrap()));
    all.map(|payload| String::from_utf8(payload.to_vec()).unwrap()).collect()
}

fn assert_exact(chunks: &[RecordChunk], partition: i32, range: OffsetRange, bytes: usize) {
    assert_eq!(offsets(chunks), (range.start..range.end).collect::<Vec<_>>());
    let expected: Vec<String> = (range.start..range.end).map(|offset| payload(partition, offset as usize, bytes)).collect();
    assert!(payloads(chunks) == expected, "partition {partition}, {range:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_ranges_come_back_exactly() {
    const EACH: i64 = 50_000;
    let topic = topic("ranges", 4, &[]).await;
    join_all((0..4).map(|partition| topic.fill(partition, EACH as usize, 20))).await;
    let ends = topic.admin.offsets(&topic.name, &[0, 1, 2, 3]).await.unwrap();
    assert_eq!(ends.ends, (0..4).map(|partition| (partition, EACH)).collect());
    assert_eq!(ends.beginnings, (0..4).map(|partition| (partition, 0)).collect());

    // As a job does: read ahead, epochs of random sizes, each released once recorded; all partitions side by side.
    let fetcher = fetcher(FetcherConfig { partition_bytes: 1 << 20, ..FetcherConfig::default() });
    fetcher.prefetch(key(0), FetchTopic::new(&connection(), &topic.name), (0..4).map(|partition| (partition, 0)).collect());
    let readers = (0..4).map(|partition| {
        let (fetcher, topic) = (fetcher.clone(), &topic);
        async move {
            let mut random = StdRng::seed_from_u64(partition as u64);
            let mut start = 0;
            while start < EACH {
                let end = EACH.min(start + random.random_range(1..9_000));
                let chunks = read(&fetcher, topic, partition, start, end).await.unwrap();
                assert_exact(&chunks, partition, OffsetRange::new(start, end), 20);
                if random.random_bool(0.2) {
                    // A second attempt of the same epoch.
                    let again = read(&fetcher, topic, partition, start, end).await.unwrap();
                    assert_exact(&again, partition, OffsetRange::new(start, end), 20);
                }
                fetcher.release(&key(0), partition, end);
                start = end;
            }
        }
    });
    join_all(readers).await;

    // As queries do: anywhere, backwards too.
    let mut random = StdRng::seed_from_u64(99);
    for _ in 0..12 {
        let partition = random.random_range(0..4);
        let start = random.random_range(0..EACH - 1);
        let range = OffsetRange::new(start, EACH.min(start + random.random_range(1..2_000)));
        let chunks = read(&fetcher, &topic, partition, range.start, range.end).await.unwrap();
        assert_exact(&chunks, partition, range, 20);
    }
}

/// A partition that is assigned anew has no queue of its own until the client has stopped the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_jumps_takes_nothing_from_the_others() {
    const EACH: i64 = 60_000;
    let topic = topic("jumps", 4, &[]).await;
    join_all((0..4).map(|partition| topic.fill(partition, EACH as usize, 20))).await;
    let fetcher = fetcher(FetcherConfig { partition_bytes: 1 << 18, ..FetcherConfig::default() });
    fetcher.prefetch(key(0), FetchTopic::new(&connection(), &topic.name), (0..4).map(|partition| (partition, 0)).collect());
    let readers = (0..4).map(|partition| {
        let (fetcher, topic) = (fetcher.clone(), &topic);
        async move {
            let mut random = StdRng::seed_from_u64(partition as u64);
            for epoch in 0..60 {
                // The even ones jump, the odd ones go on.
                let start = if partition % 2 == 0 { random.random_range(0..EACH - 1_000) } else { epoch * 1_000 };
                let range = OffsetRange::new(start, start + 1_000);
                let chunks = read(&fetcher, topic, partition, range.start, range.end).await.unwrap();
                assert_exact(&chunks, partition, range, 20);
                fetcher.release(&key(0), partition, range.end);
            }
        }
    });
    join_all(readers).await;
}

/// Looking over the hole at the end assigns a partition anew, and all partitions of a quiet topic at once: each end has to be told of the right one.
#[tokio::test(flavor = "multi_thread")]
async fn every_partition_of_a_quiet_topic_is_read_over_its_last_marker() {
    const PARTITIONS: i32 = 8;
    let topic = topic("quiet", PARTITIONS, &[]).await;
    let name = topic.name.clone();
    let sent = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", servers()).set("transactional.id", format!("id-{name}")).create().unwrap();
        producer.init_transactions(DEADLINE).unwrap();
        producer.begin_transaction().unwrap();
        for partition in 0..PARTITIONS {
            producer.send(BaseRecord::<(), str>::to(&name).partition(partition).payload("a")).unwrap();
        }
        producer.commit_transaction(DEADLINE).unwrap();
    });
    sent.await.unwrap();
    let ends: BTreeMap<i32, i64> = (0..PARTITIONS).map(|partition| (partition, 2)).collect();
    for round in 0..12 {
        let fetcher = fetcher(FetcherConfig::default());
        fetcher.prefetch(
            key(0),
            FetchTopic::new(&connection(), &topic.name),
            (0..PARTITIONS).map(|partition| (partition, 0)).collect(),
        );
        let until = Instant::now() + DEADLINE;
        loop {
            let here: BTreeMap<i32, i64> =
                fetcher.available().iter().map(|available| (available.partition, available.end)).collect();
            if here == ends {
                break;
            }
            assert!(Instant::now() < until, "round {round}: {here:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_end_in_control_records() {
    let topic = topic("transactions", 1, &[]).await;
    let name = topic.name.clone();
    let expected = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", servers()).set("transactional.id", format!("id-{name}")).create().unwrap();
        producer.init_transactions(DEADLINE).unwrap();
        let mut expected = vec![];
        for transaction in 0..20 {
            producer.begin_transaction().unwrap();
            for record in 0..3 {
                let payload = format!("{transaction}/{record}");
                producer.send(BaseRecord::<(), str>::to(&name).partition(0).payload(&payload)).unwrap();
                if transaction % 3 != 0 {
                    expected.push(payload);
                }
            }
            producer.flush(DEADLINE).unwrap();
            if transaction % 3 == 0 {
                producer.abort_transaction(DEADLINE).unwrap();
            } else {
                producer.commit_transaction(DEADLINE).unwrap();
            }
        }
        expected
    })
    .await
    .unwrap();
    // Each transaction is three records and a marker; the log ends in a marker.
    let mut end = 0;
    let until = Instant::now() + DEADLINE;
    while end < 80 && Instant::now() < until {
        end = topic.admin.offsets(&topic.name, &[0]).await.unwrap().ends[&0];
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(end, 80);
    let fetcher = fetcher(FetcherConfig::default());
    fetcher.prefetch(key(0), FetchTopic::new(&connection(), &topic.name), BTreeMap::from([(0, 0)]));
    let started = Instant::now();
    assert_eq!(payloads(&read(&fetcher, &topic, 0, 0, 80).await.unwrap()), expected);
    println!("a range that ends in a marker took {:?}", started.elapsed());
    assert!(read(&fetcher, &topic, 0, 79, 80).await.unwrap().is_empty(), "only a marker");
    // Offsets 76 to 78 were committed by transaction 19.
    assert_eq!(payloads(&read(&fetcher, &topic, 0, 76, 79).await.unwrap()), ["19/0", "19/1", "19/2"]);
    assert!(read(&fetcher, &topic, 0, 72, 76).await.unwrap().is_empty(), "transaction 18 was aborted");

    // Past the end of the log nothing is made up: the range comes when its records do.
    let waiting = tokio::time::timeout(Duration::from_secs(2), read(&fetcher, &topic, 0, 80, 81)).await;
    assert!(waiting.is_err(), "{waiting:?}");
    let (fetcher, topic) = (&fetcher, &topic);
    let (chunks, ()) = tokio::join!(read(fetcher, topic, 0, 80, 81), topic.fill(0, 1, 0));
    assert_eq!(payloads(&chunks.unwrap()), [payload(0, 0, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_deleted_under_a_reader_are_reported() {
    let topic = topic("retention", 2, &[]).await;
    topic.fill(0, 1_000, 10).await;
    topic.fill(1, 10, 10).await;
    topic.delete_records(0, 500).await;
    let fetcher = fetcher(FetcherConfig::default());
    fetcher.prefetch(key(0), FetchTopic::new(&connection(), &topic.name), BTreeMap::from([(0, 100), (1, 0)]));
    let error = read(&fetcher, &topic, 0, 100, 600).await.unwrap_err();
    assert!(matches!(&error, KafkaError::DataLost { partition: 0, offset: 100, kept: Some((500, 1000)), .. }), "{error}");
    println!("{error}");
    assert!(!error.is_retryable());
    assert_exact(&read(&fetcher, &topic, 1, 0, 10).await.unwrap(), 1, OffsetRange::new(0, 10), 10);
    assert_exact(&read(&fetcher, &topic, 0, 500, 1_000).await.unwrap(), 0, OffsetRange::new(500, 1_000), 10);
    assert_eq!(topic.admin.offsets(&topic.name, &[0]).await.unwrap().beginnings[&0], 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_is_not_the_same() {
    let topic = topic("again", 1, &[]).await;
    topic.fill(0, 100, 10).await;
    let first = topic.id().await;
    let fetcher = fetcher(FetcherConfig::default());
    fetcher.prefetch(key(0), FetchTopic::new(&connection(), &topic.name), BTreeMap::from([(0, 0)]));
    assert_exact(&read(&fetcher, &topic, 0, 0, 100).await.unwrap(), 0, OffsetRange::new(0, 100), 10);
    topic.end().await;
    let error = read(&fetcher, &topic, 0, 100, 101).await.unwrap_err();
    println!("after deletion: {error}");
    assert!(matches!(error, KafkaError::NoSuchTopic { .. } | KafkaError::DataLost { .. }), "{error}");
    topic.admin.create_topic(&topic.name, 1, 1, &[]).await.unwrap();
    topic.appears(1).await;
    topic.fill(0, 5, 10).await;
    assert_ne!(first, topic.id().await);
    let error = read(&fetcher, &topic, 0, 100, 101).await.unwrap_err();
    println!("after making it again: {error}");
    assert!(matches!(error, KafkaError::DataLost { .. } | KafkaError::NoSuchTopic { .. }), "{error}");
    // Said once, where the new topic begins.
    fetcher.prefetch(key(0), FetchTopic::new(&connection(), &topic.name), BTreeMap::from([(0, 0)]));
    let until = Instant::now() + DEADLINE;
    while fetcher.available().iter().all(|available| available.end != 5) {
        assert!(Instant::now() < until, "the new topic is not read ahead");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_exact(&read(&fetcher, &topic, 0, 0, 5).await.unwrap(), 0, OffsetRange::new(0, 5), 10);
    let restarted = Fetcher::new(FetcherConfig::default(), &prometheus::Registry::new()).unwrap();
    assert_exact(&read(&restarted, &topic, 0, 0, 5).await.unwrap(), 0, OffsetRange::new(0, 5), 10);
}

/// Nobody has asked for any of it, so both topics are read from the same offset.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_ahead_of_a_topic_does_not_outlive_it() {
    let topic = topic("outlived", 1, &[]).await;
    topic.fill(0, 100, 10).await;
    let (fetcher, connection) = (fetcher(FetcherConfig::default()), connection());
    let prefetch = |log: &str| {
        let fetched = FetchTopic { log, ..FetchTopic::new(&connection, &topic.name) };
        fetcher.prefetch(key(0), fetched, BTreeMap::from([(0, 0)]));
    };
    let ahead = async |log: &str, end: i64| {
        let until = Instant::now() + DEADLINE;
        while !fetcher.available().iter().any(|available| available.log == log && available.end == end) {
            assert!(Instant::now() < until, "{log} is not read ahead through {end}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    prefetch("first");
    ahead("first", 100).await;
    topic.end().await;
    topic.admin.create_topic(&topic.name, 1, 1, &[]).await.unwrap();
    topic.appears(1).await;
    topic.fill(0, 5, 30).await;
    prefetch("second");
    ahead("second", 5).await;
    assert_exact(&read(&fetcher, &topic, 0, 0, 5).await.unwrap(), 0, OffsetRange::new(0, 5), 30);
}

/// The leader may take long to see that it is another.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_is_not_read_for_the_one_that_was_ordered() {
    let topic = topic("ordered", 1, &[]).await;
    topic.fill(0, 100, 10).await;
    let (fetcher, connection) = (fetcher(FetcherConfig::default()), connection());
    let prefetch = async |log: &str| {
        let id = topic.id().await;
        let fetched = FetchTopic { log, topic_id: Some(&id), ..FetchTopic::new(&connection, &topic.name) };
        fetcher.prefetch(key(0), fetched, BTreeMap::from([(0, 0)]));
    };
    let wait_for = async |what: &str, ends: &[i64]| {
        let until = Instant::now() + DEADLINE;
        while fetcher.available().iter().map(|available| available.end).collect::<Vec<_>>() != ends {
            assert!(Instant::now() < until, "{what}: {:?}", fetcher.available());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    prefetch("first").await;
    wait_for("reading ahead", &[100]).await;
    topic.delete().await;
    wait_for("the topic's end", &[]).await;
    topic.admin.create_topic(&topic.name, 1, 1, &[]).await.unwrap();
    topic.appears(1).await;
    topic.fill(0, 200, 30).await;
    // Longer than anything waits that goes on by itself.
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert!(fetcher.available().is_empty(), "records of another topic");
        let early = tokio::time::timeout(Duration::from_millis(50), read(&fetcher, &topic, 0, 0, 100)).await;
        assert!(early.is_err(), "a reader gets records of another topic");
    }
    prefetch("second").await;
    wait_for("the new topic's records", &[200]).await;
    assert_exact(&read(&fetcher, &topic, 0, 0, 200).await.unwrap(), 0, OffsetRange::new(0, 200), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_any_size_takes_bounded_memory() {
    const RECORDS: i64 = 60_000;
    const LIMIT: u64 = 1 << 20;
    let topic = topic("backlog", 2, &[]).await;
    join_all((0..2).map(|partition| topic.fill(partition, RECORDS as usize, 1_000))).await;
    let fetcher = fetcher(FetcherConfig { partition_bytes: 8 << 20, source_bytes: 2 * LIMIT as usize, ..FetcherConfig::default() });
    fetcher.prefetch(key(0), FetchTopic::new(&connection(), &topic.name), BTreeMap::from([(0, 0), (1, 0)]));
    let mut changed = fetcher.changed();
    let mut starts = [0i64; 2];
    let (mut most, mut rounds) = (0, 0);
    let until = Instant::now() + Duration::from_secs(60);
    while starts != [RECORDS; 2] {
        assert!(Instant::now() < until, "stuck at {starts:?}");
        for available in fetcher.available() {
            most = most.max(available.bytes);
            let start = &mut starts[available.partition as usize];
            if available.end > *start {
                let chunks = read(&fetcher, &topic, available.partition, *start, available.end).await.unwrap();
                assert_eq!(offsets(&chunks), (*start..available.end).collect::<Vec<_>>());
                fetcher.release(&key(0), available.partition, available.end);
                *start = available.end;
                rounds += 1;
            }
        }
        let _ = tokio::time::timeout(Duration::from_millis(200), changed.changed()).await;
    }
    println!("{rounds} ranges, at most {most} bytes buffered in a partition");
    // A chunk may go past the limit, never by more than one chunk.
    assert!(most < LIMIT + (5 << 20), "{most} bytes were buffered");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_records_are_refused_or_read() {
    let small = topic("small", 1, &[]).await;
    let producer = Producer::connect(&connection()).unwrap();
    // Random, or compression would make it small.
    let mut random = StdRng::seed_from_u64(1);
    let large: Vec<u8> = (0..10 << 20).map(|_| random.random()).collect();
    let error = producer.send(&small.name, None, &large).await.unwrap_err();
    assert!(matches!(error, KafkaError::TooLarge { .. }), "{error}");
    println!("{error}");

    let wide = topic("wide", 1, &[("max.message.bytes", "16000000")]).await;
    producer.send(&wide.name, None, b"{}").await.unwrap();
    producer.send(&wide.name, None, &large).await.unwrap();
    producer.send(&wide.name, None, b"{}").await.unwrap();
    let fetcher = fetcher(FetcherConfig { partition_bytes: 1 << 20, ..FetcherConfig::default() });
    let chunks = read(&fetcher, &wide, 0, 0, 3).await.unwrap();
    let sizes: Vec<usize> =
        chunks.iter().flat_map(|chunk| (0..chunk.len()).map(|record| chunk.payload(record).unwrap().len())).collect();
    assert_eq!(sizes, [2, 10 << 20, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_keys_headers_and_timestamps_arrive() {
    let topic = topic("fields", 1, &[]).await;
    let name = topic.name.clone();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let headers = rdkafka::message::OwnedHeaders::new()
            .insert(rdkafka::message::Header { key: "trace", value: Some("abc") })
            .insert(rdkafka::message::Header::<&str> { key: "none", value: None });
        producer.send(BaseRecord::<str, str>::to(&name).key("k").timestamp(1_234).headers(headers)).unwrap();
        producer.send(BaseRecord::<(), str>::to(&name).payload("")).unwrap();
        producer.flush(DEADLINE).unwrap();
    })
    .await
    .unwrap();
    let fetcher = fetcher(FetcherConfig::default());
    let connection = connection();
    let without = FetchTopic { headers: false, ..FetchTopic::new(&connection, &topic.name) };
    let chunks = fetcher.read(&key(0), without, 0, OffsetRange::new(0, 2), DEADLINE).await.unwrap();
    assert_eq!((offsets(&chunks), chunks[0].headers(0).count()), (vec![0, 1], 0));
    // Who wants them gets them, though others were content without.
    let chunks = read(&fetcher, &topic, 0, 0, 2).await.unwrap();
    assert_eq!(offsets(&chunks), [0, 1]);
    let first = &chunks[0];
    assert_eq!((first.key(0), first.payload(0), first.timestamp_ms(0)), (Some(b"k".as_slice()), None, Some(1_234)));
    assert_eq!(first.headers(0).collect::<Vec<_>>(), [("trace", Some(b"abc".as_slice())), ("none", None)]);
    let last = chunks.last().unwrap();
    assert_eq!(last.payload(last.len() - 1), Some(b"".as_slice()));
    let found = topic.admin.offsets_for_timestamp(&topic.name, &[0], 1_235).await.unwrap();
    assert_eq!(found, BTreeMap::from([(0, 1)]));
    let found = topic.admin.offsets_for_timestamp(&topic.name, &[0], i64::MAX / 2).await.unwrap();
    assert_eq!(found, BTreeMap::from([(0, 2)]), "newer than all is the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_given_up_leaves_nothing_behind() {
    let topic = topic("cancel", 1, &[]).await;
    topic.fill(0, 10, 10).await;
    let fetcher = fetcher(FetcherConfig::default());
    for _ in 0..20 {
        let waiting = tokio::time::timeout(Duration::from_millis(5), read(&fetcher, &topic, 0, 5, 50)).await;
        assert!(waiting.is_err());
    }
    assert_exact(&read(&fetcher, &topic, 0, 0, 10).await.unwrap(), 0, OffsetRange::new(0, 10), 10);
    let late = fetcher
        .read(&key(0), FetchTopic::new(&connection(), &topic.name), 0, OffsetRange::new(10, 11), Duration::from_millis(50))
        .await;
    assert!(matches!(late, Err(KafkaError::Late { .. })), "{late:?}");
    fetcher.forget(&key(0));
    assert!(fetcher.available().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_said() {
    let admin = Admin::connect(&connection()).unwrap();
    assert_eq!(admin.describe("no-such-topic").await.unwrap(), None);
    let fetcher = fetcher(FetcherConfig::default());
    let range = OffsetRange::new(0, 1);
    let error = fetcher.read(&key(0), FetchTopic::new(&connection(), "no-such-topic"), 0, range, DEADLINE).await.unwrap_err();
    assert!(matches!(&error, KafkaError::NoSuchTopic { .. }), "{error}");
    let mut odd = connection();
    odd.properties.insert("sasl.jaas.config".into(), "secret".into());
    let error = fetcher.read(&key(1), FetchTopic::new(&odd, "t"), 0, range, DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains("sasl.jaas.config") && !error.contains("secret"), "{error}");
    // Nobody listens there.
    let away = Connection::new("127.0.0.1:1");
    let error = fetcher.read(&key(2), FetchTopic::new(&away, "t"), 0, range, Duration::from_secs(3)).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("did not arrive"), "{error}");
    assert!(fetcher.away().iter().any(|(source, away)| *source == key(2) && away.is_some()));
    println!("{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_committed_for_lag_tools() {
    let topic = topic("commit", 2, &[]).await;
    let group = format!("group-{}", topic.name);
    topic.admin.commit_offsets(&group, &topic.name, &BTreeMap::from([(0, 7), (1, 9)])).await.unwrap();
    topic.admin.commit_offsets(&group, &topic.name, &BTreeMap::from([(0, 8)])).await.unwrap();
    let committed = tokio::task::spawn_blocking(move || {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", servers()).set("group.id", &group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic.name, 0);
        list.add_partition(&topic.name, 1);
        let committed = consumer.committed_offsets(list, DEADLINE).unwrap();
        committed.elements().iter().map(|element| element.offset()).collect::<Vec<_>>()
    })
    .await
    .unwrap();
    assert_eq!(committed, [Offset::Offset(8), Offset::Offset(9)]);
}
