//! Publishers that are dropped at any moment, and others that take over: readers of committed records see every part once. The same
//! against a real Kafka (`POLYBOLOS_TEST_KAFKA`, `make test` starts one) and against the embedded broker.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use polybolos_embedded::{Broker, BrokerConfig};
use polybolos_kafka::{
    admin::Admin,
    connection::Connection,
    encode::{EncodeOptions, encode},
    error::KafkaError,
    fetcher::{FetchTopic, Fetcher, FetcherConfig, SourceKey},
    publish::{
        OneTransaction, POSITIONS_CONFIG, PublisherConfig, Records, TopicPublisher, positions_topic, refused, transactional_id,
    },
    records::RecordChunk,
    settled::until_settled,
};
use polybolos_streaming::frame::OffsetRange;
use rand::{Rng, SeedableRng, rngs::StdRng};

const DEADLINE: Duration = Duration::from_secs(60);
const PUBLISHERS: u16 = 2;
const PARTITIONS: i32 = 3;

/// A sink's topic, its positions, and what should be read there.
struct Sink {
    connection: Connection,
    admin: Admin,
    topic: String,
    incarnation: String,
}

impl Sink {
    async fn new(servers: &str, config: &[(&str, &str)]) -> Self {
        let connection = Connection::new(servers);
        let admin = Admin::connect(&connection).unwrap();
        let incarnation = uuid::Uuid::new_v4().simple().to_string();
        let topic = format!("sink-{incarnation}");
        admin.ensure_topic(&topic, Some(PARTITIONS), config).await.unwrap();
        admin.ensure_topic(&positions_topic(&incarnation, 0), Some(PUBLISHERS.into()), POSITIONS_CONFIG).await.unwrap();
        Self { connection, admin, topic, incarnation }
    }

    fn publisher(&self, number: u16) -> PublisherConfig {
        PublisherConfig {
            connection: self.connection.clone(),
            topic: self.topic.clone(),
            transactional_id: transactional_id(&self.incarnation, 0, number),
            positions_topic: positions_topic(&self.incarnation, 0),
            positions_partition: number.into(),
        }
    }

    async fn open(&self, number: u16) -> TopicPublisher {
        TopicPublisher::open(self.publisher(number)).await.unwrap()
    }

    async fn delete_topic(&self) {
        self.admin.delete_topic(&self.topic).await.unwrap();
        let until = Instant::now() + DEADLINE;
        while self.admin.describe(&self.topic).await.unwrap().is_some() {
            assert!(Instant::now() < until, "the topic stays");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Everything that readers of committed records see, read as a job's source does: exact ranges up to the ends that the broker tells.
    async fn read(&self) -> Vec<RecordChunk> {
        let fetcher = Fetcher::new(FetcherConfig::default(), &prometheus::Registry::new()).unwrap();
        let partitions: Vec<i32> = (0..PARTITIONS).collect();
        let ends = self.admin.offsets(&self.topic, &partitions).await.unwrap().ends;
        let key = SourceKey { incarnation: "reader".into(), source: 0 };
        let mut chunks = vec![];
        for (partition, end) in ends {
            let range = OffsetRange::new(0, end);
            chunks.extend(
                fetcher.read(&key, FetchTopic::new(&self.connection, &self.topic), partition, range, DEADLINE).await.unwrap(),
            );
        }
        chunks
    }

    async fn payloads(&self) -> Vec<String> {
        let chunks = self.read().await;
        let all = chunks.iter().flat_map(|chunk| (0..chunk.len()).map(|record| chunk.payload(record).unwrap().to_vec()));
        let mut payloads: Vec<String> = all.map(|payload| String::from_utf8(payload).unwrap()).collect();
        payloads.sort();
        payloads
    }
}

impl Sink {
    /// That these payloads are there, each once, and no others. Kafka answers a commit before its markers are where readers look.
    async fn holds(&self, expected: &[String]) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.payloads().await;
            if found == expected {
                return;
            }
            assert!(Instant::now() < until, "{} payloads instead of {}", found.len(), expected.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The rows of a part, each once in the world.
fn rows(epoch: u64, part: u16) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..20).map(|row| format!("{epoch}/{part}/{row}"))));
    RecordBatch::try_from_iter([("n", numbers), ("name", names)]).unwrap()
}

fn records(epoch: u64, part: u16) -> Vec<Records> {
    let payloads = Some(encode(&rows(epoch, part), EncodeOptions::default()).unwrap());
    vec![Records { keys: None, payloads }]
}

fn payloads_of(parts: impl Iterator<Item = (u64, u16)>) -> Vec<String> {
    let of = |(epoch, part)| (0..20).map(move |row| format!("{{\"n\":{row},\"name\":\"{epoch}/{part}/{row}\"}}"));
    let mut payloads: Vec<String> = parts.flat_map(of).collect();
    payloads.sort();
    payloads
}

/// A publisher dies at seeded moments: before it sends, with its transaction open, after the commit whose answer nobody hears.
async fn dropped_anywhere(servers: &str) {
    const EPOCHS: u64 = 25;
    let sink = Sink::new(servers, &[]).await;
    let mut random = StdRng::seed_from_u64(20261124);
    let mut open: BTreeMap<u16, TopicPublisher> = BTreeMap::new();
    let mut faults = [0; 3];
    for epoch in 1..=EPOCHS {
        for part in 0..3u16 {
            let number = part % PUBLISHERS;
            loop {
                let publisher = match open.remove(&number) {
                    Some(publisher) => publisher,
                    None => sink.open(number).await,
                };
                if publisher.position().published(epoch, part).is_some() {
                    open.insert(number, publisher);
                    break;
                }
                let fault = random.random_range(0..12);
                if fault == 0 {
                    // As a killed process leaves it: nothing is aborted, no connection is closed.
                    std::mem::forget(publisher);
                    faults[0] += 1;
                    continue;
                }
                let sent = publisher.send(epoch, part, records(epoch, part)).await.unwrap();
                if fault == 1 {
                    std::mem::forget(sent);
                    faults[1] += 1;
                    continue;
                }
                let publisher = sent.commit().await.unwrap();
                if fault == 2 {
                    std::mem::forget(publisher);
                    faults[2] += 1;
                    continue;
                }
                open.insert(number, publisher);
                break;
            }
        }
    }
    assert!(faults.iter().all(|count| *count > 0), "{faults:?}");
    let expected = payloads_of((1..=EPOCHS).flat_map(|epoch| (0..3).map(move |part| (epoch, part))));
    sink.holds(&expected).await;
}

/// The one before wakes up with its transaction open: it may not commit any more.
async fn a_zombie_is_fenced(servers: &str) {
    let sink = Sink::new(servers, &[]).await;
    let zombie = sink.open(0).await.send(1, 0, records(1, 0)).await.unwrap();
    let second = sink.open(0).await;
    assert_eq!(second.position().published(1, 0), None);
    let error = zombie.commit().await.unwrap_err();
    assert!(matches!(error, KafkaError::Fenced { .. }) && error.is_retryable(), "{error}");
    let second = second.send(1, 0, records(1, 0)).await.unwrap().commit().await.unwrap();
    assert_eq!(second.position().published(1, 0), Some(&[][..]));
    sink.holds(&payloads_of([(1, 0)].into_iter())).await;
    // One that is dropped in order aborts what it had open, so that readers need not wait for a timeout.
    drop(second.send(2, 0, records(2, 0)).await.unwrap());
    let other = sink.open(1).await.send(2, 1, records(2, 1)).await.unwrap().commit().await.unwrap();
    sink.holds(&payloads_of([(1, 0), (2, 1)].into_iter())).await;
    drop(other);
}

/// What a topic does not take stays out, and is known to whoever takes over, whatever the topic takes by then.
async fn large_rows_are_refused_by_number(servers: &str) {
    let sink = Sink::new(servers, &[("max.message.bytes", "2000")]).await;
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(["small".into(), "x".repeat(3_000), "tiny".into()]));
    let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
    let records = || vec![Records { keys: None, payloads: Some(encode(&batch, EncodeOptions::default()).unwrap()) }];
    let publisher = sink.open(0).await;
    let found = refused(&records(), publisher.record_bytes_max());
    assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1]);
    assert!(found[0].1.contains("2000"), "{found:?}");
    std::mem::forget(publisher.send(1, 0, records()).await.unwrap().commit().await.unwrap());
    let publisher = sink.open(0).await;
    assert_eq!(publisher.position().published(1, 0), Some(&[1][..]));
    sink.holds(&[r#"{"text":"small"}"#.into(), r#"{"text":"tiny"}"#.into()]).await;
    // Together they are larger than what the topic takes at once.
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..200).map(|row| format!("{row:0100}"))));
    let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
    let many = vec![Records { keys: None, payloads: Some(encode(&batch, EncodeOptions::default()).unwrap()) }];
    publisher.send(2, 0, many).await.unwrap().commit().await.unwrap();
    let mut expected: Vec<String> = (0..200).map(|row| format!("{{\"text\":\"{row:0100}\"}}")).collect();
    expected.extend([r#"{"text":"small"}"#.into(), r#"{"text":"tiny"}"#.into()]);
    expected.sort();
    sink.holds(&expected).await;
}

/// What is not committed yet is waited for.
async fn open_transactions_are_waited_for(servers: &str) {
    let sink = Sink::new(servers, &[]).await;
    let open = sink.open(0).await.send(1, 0, records(1, 0)).await.unwrap();
    let mut settling = std::pin::pin!(until_settled(&sink.connection, &sink.topic));
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut settling).await.is_err(), "it is open");
    open.commit().await.unwrap();
    settling.await.unwrap();
    assert_eq!(sink.read().await.iter().map(RecordChunk::len).sum::<usize>(), 20);
    let missing = until_settled(&sink.connection, "no-such-topic").await;
    assert!(matches!(missing, Err(KafkaError::NoSuchTopic { .. })), "{missing:?}");
}

/// Keys keep to a partition, tombstones are null payloads, and reading ahead reaches the end, over the marker there.
async fn keys_tombstones_and_quiet_ends(servers: &str) {
    let sink = Sink::new(servers, &[]).await;
    let keys = |epoch| Some(encode(&rows(epoch, 0).project(&[0]).unwrap(), EncodeOptions::default()).unwrap());
    let payloads = Some(encode(&rows(1, 0), EncodeOptions::default()).unwrap());
    let publisher = sink.open(0).await;
    let publisher = publisher.send(1, 0, vec![Records { keys: keys(1), payloads }]).await.unwrap().commit().await.unwrap();
    let publisher = publisher.send(2, 0, vec![Records { keys: keys(2), payloads: None }]).await.unwrap().commit().await.unwrap();
    until_settled(&sink.connection, &sink.topic).await.unwrap();
    assert_eq!(sink.read().await.iter().map(RecordChunk::len).sum::<usize>(), 40);
    let mut places: BTreeMap<Vec<u8>, Vec<(usize, bool)>> = BTreeMap::new();
    for (index, chunk) in sink.read().await.iter().enumerate() {
        for record in 0..chunk.len() {
            let places = places.entry(chunk.key(record).unwrap().to_vec()).or_default();
            places.push((index, chunk.payload(record).is_some()));
        }
    }
    assert_eq!(places.len(), 20);
    assert!(places.contains_key(&br#"{"n":7}"#[..]));
    for (key, places) in places {
        assert_eq!(places.iter().map(|place| place.1).collect::<Vec<_>>(), [true, false], "{key:?}");
    }

    let fetcher = Fetcher::new(FetcherConfig::default(), &prometheus::Registry::new()).unwrap();
    let key = SourceKey { incarnation: "ahead".into(), source: 0 };
    let starts = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
    fetcher.prefetch(key, FetchTopic::new(&sink.connection, &sink.topic), starts);
    let partitions: Vec<i32> = (0..PARTITIONS).collect();
    for _ in 0..2 {
        let ends = sink.admin.offsets(&sink.topic, &partitions).await.unwrap().ends;
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let here: BTreeMap<i32, i64> =
                fetcher.available().iter().map(|available| (available.partition, available.end)).collect();
            if here == ends {
                break;
            }
            assert!(Instant::now() < until, "{here:?} of {ends:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // An aborted transaction is a longer hole.
        drop(sink.open(1).await.send(3, 1, records(3, 1)).await.unwrap());
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    drop(publisher);
}

/// It is not made again behind the user's back, and goes on once it is.
async fn a_topic_that_is_gone_is_missed(servers: &str) {
    let sink = Sink::new(servers, &[]).await;
    let open = sink.open(0).await.send(1, 0, records(1, 0)).await.unwrap().commit().await.unwrap();
    sink.delete_topic().await;
    let begun = Instant::now();
    let missed = open.send(2, 0, records(2, 0)).await.unwrap_err();
    assert!(matches!(&missed, KafkaError::NoSuchTopic { topic } if *topic == sink.topic), "{missed}");
    assert!(begun.elapsed() < Duration::from_secs(15), "the client would go on trying: {missed}");
    let missing = TopicPublisher::open(sink.publisher(0)).await.unwrap_err();
    assert!(matches!(&missing, KafkaError::NoSuchTopic { topic } if *topic == sink.topic), "{missing}");
    assert!(sink.admin.describe(&sink.topic).await.unwrap().is_none());
    sink.admin.ensure_topic(&sink.topic, Some(PARTITIONS), &[]).await.unwrap();
    // Kafka tells of a topic before it takes records for it: that passes.
    let until = Instant::now() + DEADLINE;
    loop {
        let again = sink.open(0).await;
        assert_eq!((again.position().published(1, 0), again.position().published(2, 0)), (Some(&[][..]), None));
        match again.send(2, 0, records(2, 0)).await {
            Ok(sent) => break drop(sent.commit().await.unwrap()),
            Err(error) => assert!(error.is_retryable() && Instant::now() < until, "{error}"),
        }
    }
    sink.holds(&payloads_of([(2, 0)].into_iter())).await;
}

/// A statement's rows: all or none.
async fn one_transaction_is_all_or_none(servers: &str) {
    let sink = Sink::new(servers, &[]).await;
    let begin = || OneTransaction::begin(sink.connection.clone(), sink.topic.clone());
    let dropped = begin().await.unwrap().send(records(1, 0).remove(0)).await.unwrap();
    drop(dropped);
    let kept = begin().await.unwrap().send(records(2, 0).remove(0)).await.unwrap().send(records(2, 1).remove(0)).await.unwrap();
    kept.commit().await.unwrap();
    sink.holds(&payloads_of([(2, 0), (2, 1)].into_iter())).await;
    // One whose topic goes before its rows are sent says so.
    let begun = begin().await.unwrap();
    sink.delete_topic().await;
    let missed = begun.send(records(3, 0).remove(0)).await.unwrap_err();
    assert!(matches!(&missed, KafkaError::NoSuchTopic { topic } if *topic == sink.topic), "{missed}");
}

macro_rules! against_both {
    ($($name:ident),*) => {
        mod real_kafka {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let servers = std::env::var("POLYBOLOS_TEST_KAFKA");
                super::$name(&servers.expect("POLYBOLOS_TEST_KAFKA=host:port names a real Kafka; `make test` starts one")).await;
            })*
        }

        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let folder = tempfile::tempdir().unwrap();
                let config = super::BrokerConfig::new("127.0.0.1:0".parse().unwrap(), folder.path());
                let broker = super::Broker::start(config).await.unwrap();
                super::$name(&broker.address().to_string()).await;
                broker.stop().await;
            })*
        }
    };
}

against_both!(
    dropped_anywhere,
    a_zombie_is_fenced,
    large_rows_are_refused_by_number,
    open_transactions_are_waited_for,
    keys_tombstones_and_quiet_ends,
    a_topic_that_is_gone_is_missed,
    one_transaction_is_all_or_none
);
