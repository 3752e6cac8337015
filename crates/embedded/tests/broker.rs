//! The embedded broker as clients see it, through librdkafka: produce, consume, offsets, topics, restarts, and a broker that is killed.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use polybolos_embedded::{Broker, BrokerConfig};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
    producer::{FutureProducer, FutureRecord},
};
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(20);

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

async fn start(folder: &Path) -> Broker {
    Broker::start(BrokerConfig::new(loopback(0), folder)).await.unwrap()
}

fn config(address: SocketAddr) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address.to_string());
    config
}

fn producer(address: SocketAddr, compression: &str) -> FutureProducer {
    config(address).set("enable.idempotence", "true").set("compression.type", compression).set("linger.ms", "5").create().unwrap()
}

fn consumer(address: SocketAddr) -> BaseConsumer {
    config(address)
        .set("group.id", "polybolos.test")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap()
}

fn admin(address: SocketAddr) -> AdminClient<DefaultClientContext> {
    config(address).create().unwrap()
}

async fn create_topic(address: SocketAddr, name: &str, partitions: i32) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let results = admin(address).create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    results.into_iter().for_each(|result| assert_eq!(result.unwrap(), name));
}

async fn produce(producer: &FutureProducer, topic: &str, count: usize, partitions: usize) {
    let mut pending = Vec::new();
    for number in 0..count {
        let (key, value) = (format!("key {number}"), format!("value {number}"));
        let record = FutureRecord::to(topic).key(&key).payload(&value).partition((number % partitions) as i32);
        pending.push(producer.send_result(record).unwrap());
    }
    for (number, sent) in pending.into_iter().enumerate() {
        let delivery = sent.await.unwrap().unwrap();
        assert_eq!((delivery.partition as usize, delivery.offset as usize), (number % partitions, number / partitions));
    }
}

type Records = BTreeMap<(i32, i64), (Option<String>, Option<String>)>;

/// Reads every partition from its start to its end.
fn consume(consumer: &BaseConsumer, topic: &str, partitions: i32) -> Records {
    let mut list = TopicPartitionList::new();
    (0..partitions).for_each(|index| list.add_partition_offset(topic, index, Offset::Beginning).unwrap());
    consumer.assign(&list).unwrap();
    let mut records = Records::new();
    let mut ended = std::collections::BTreeSet::new();
    let deadline = Instant::now() + WAIT;
    while ended.len() < partitions as usize {
        assert!(Instant::now() < deadline, "only {} records, ends of {ended:?}", records.len());
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
                let before =
                    records.insert((message.partition(), message.offset()), (text(message.key()), text(message.payload())));
                assert!(before.is_none());
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => _ = ended.insert(partition),
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    records
}

fn ends(consumer: &BaseConsumer, topic: &str, partitions: i32) -> Vec<i64> {
    let mut list = TopicPartitionList::new();
    (0..partitions).for_each(|index| list.add_partition_offset(topic, index, Offset::End).unwrap());
    let ends = consumer.offsets_for_times(list, WAIT).unwrap();
    ends.elements().iter().map(|element| element.offset().to_raw().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_records_survive_a_restart() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path()).await;
    create_topic(broker.address(), "readings", 4).await;
    produce(&producer(broker.address(), "none"), "readings", 10_000, 4).await;
    let before = {
        let consumer = consumer(broker.address());
        assert_eq!(ends(&consumer, "readings", 4), [2500; 4], "all ends in one request");
        assert_eq!(consumer.fetch_watermarks("readings", 2, WAIT).unwrap(), (0, 2500));
        consume(&consumer, "readings", 4)
    };
    assert_eq!(before.len(), 10_000);
    assert_eq!(before[&(3, 7)], (Some("key 31".into()), Some("value 31".into())));
    broker.stop().await;

    let broker = start(folder.path()).await;
    let consumer = consumer(broker.address());
    assert_eq!(consume(&consumer, "readings", 4), before);
    assert_eq!(ends(&consumer, "readings", 4), [2500; 4]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_batches_are_served_as_they_came() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path()).await;
    for compression in ["lz4", "zstd"] {
        create_topic(broker.address(), compression, 2).await;
        produce(&producer(broker.address(), compression), compression, 1000, 2).await;
        let records = consume(&consumer(broker.address()), compression, 2);
        assert_eq!(records.len(), 1000);
        assert_eq!(records[&(1, 0)].1.as_deref(), Some("value 1"));
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_may_begin_anywhere_and_times_have_offsets() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path()).await;
    create_topic(broker.address(), "readings", 1).await;
    let producer = producer(broker.address(), "none");
    for (time, value) in [(1_000, "a"), (2_000, "b"), (3_000, "c")] {
        let record = FutureRecord::<(), _>::to("readings").payload(value).timestamp(time);
        producer.send(record, WAIT).await.unwrap();
    }
    let consumer = consumer(broker.address());
    let at = |offset: Offset| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("readings", 0, offset).unwrap();
        list
    };
    let found = |time| consumer.offsets_for_times(at(Offset::Offset(time)), WAIT).unwrap().elements()[0].offset();
    assert_eq!((found(0), found(1_001), found(3_000)), (Offset::Offset(0), Offset::Offset(1), Offset::Offset(2)));
    assert_eq!(found(3_001), Offset::End);
    let one_batch: FutureProducer = config(broker.address()).set("linger.ms", "500").create().unwrap();
    let times = [4_000, 5_000, 6_000];
    let sent = times.map(|time| one_batch.send_result(FutureRecord::<(), _>::to("readings").payload("d").timestamp(time)).unwrap());
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    assert_eq!((found(3_500), found(4_001), found(6_000)), (Offset::Offset(3), Offset::Offset(4), Offset::Offset(5)));
    consumer.assign(&at(Offset::Offset(1))).unwrap();
    let message = consumer.poll(WAIT).unwrap().unwrap();
    assert_eq!((message.offset(), message.payload(), message.timestamp().to_millis()), (1, Some(&b"b"[..]), Some(2_000)));
    drop(message);
    drop(consumer);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_grown_described_emptied_and_deleted() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path()).await;
    let address = broker.address();
    let (admin, options) = (admin(address), AdminOptions::new());
    create_topic(address, "readings", 1).await;
    let again = NewTopic::new("readings", 1, TopicReplication::Fixed(1));
    let refused = admin.create_topics(&[again], &options).await.unwrap().remove(0).unwrap_err();
    assert_eq!(refused.1, rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists);
    produce(&producer(address, "none"), "readings", 100, 1).await;

    admin.create_partitions(&[NewPartitions::new("readings", 3)], &options).await.unwrap().remove(0).unwrap();
    let consumer = consumer(address);
    let partitions = |topic: &str| consumer.fetch_metadata(Some(topic), WAIT).unwrap().topics()[0].partitions().len();
    assert_eq!(partitions("readings"), 3);
    assert_eq!(ends(&consumer, "readings", 3), [100, 0, 0]);

    let settings = admin.describe_configs([&ResourceSpecifier::Topic("readings")], &options).await.unwrap().remove(0).unwrap();
    assert_eq!(settings.get("retention.ms").and_then(|entry| entry.value.as_deref()), Some("604800000"));

    let mut before = TopicPartitionList::new();
    before.add_partition_offset("readings", 0, Offset::Offset(60)).unwrap();
    admin.delete_records(&before, &options).await.unwrap();
    assert_eq!(consumer.fetch_watermarks("readings", 0, WAIT).unwrap(), (60, 100));
    assert_eq!(consume(&consumer, "readings", 3).keys().next(), Some(&(0, 60)));

    admin.delete_topics(&["readings"], &options).await.unwrap().remove(0).unwrap();
    assert_eq!(partitions("readings"), 0);
    create_topic(address, "readings", 2).await;
    assert_eq!(ends(&consumer, "readings", 2), [0, 0], "a topic of the same name begins anew");
    drop(consumer);
    broker.stop().await;
    let broker = start(folder.path()).await;
    assert_eq!(ends(&self::consumer(broker.address()), "readings", 2), [0, 0]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_s_first_record_makes_a_topic_of_four_partitions() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path()).await;
    producer(broker.address(), "none").send(FutureRecord::to("new").key("k").payload("v"), WAIT).await.unwrap();
    let metadata = consumer(broker.address()).fetch_metadata(Some("new"), WAIT).unwrap();
    assert_eq!(metadata.topics()[0].partitions().len(), 4);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_commit_offsets_for_good() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path()).await;
    create_topic(broker.address(), "readings", 2).await;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("readings", 1, Offset::Offset(17)).unwrap();
    consumer(broker.address()).commit(&list, CommitMode::Sync).unwrap();
    broker.stop().await;
    let broker = start(folder.path()).await;
    let mut asked = TopicPartitionList::new();
    asked.add_partition("readings", 0);
    asked.add_partition("readings", 1);
    let committed = consumer(broker.address()).committed_offsets(asked, WAIT).unwrap();
    let offsets: Vec<_> = committed.elements().iter().map(|element| element.offset()).collect();
    assert_eq!(offsets, [Offset::Invalid, Offset::Offset(17)]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_records_are_refused() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path()).await;
    create_topic(broker.address(), "readings", 1).await;
    let large: FutureProducer = config(broker.address()).set("message.max.bytes", "20000000").create().unwrap();
    let payload = vec![7; 3_000_000];
    let error = large.send(FutureRecord::<(), _>::to("readings").payload(&payload), WAIT).await.unwrap_err().0;
    assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::MessageSizeTooLarge));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_waits_is_woken_by_a_record() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path()).await;
    create_topic(broker.address(), "readings", 1).await;
    let consumer: BaseConsumer = config(broker.address()).set("group.id", "g").set("fetch.wait.max.ms", "10000").create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("readings", 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    assert!(consumer.poll(Duration::from_millis(500)).is_none());
    let begun = Instant::now();
    producer(broker.address(), "none").send(FutureRecord::<(), _>::to("readings").payload("now"), WAIT).await.unwrap();
    let message = consumer.poll(WAIT).unwrap().unwrap();
    assert_eq!(message.payload(), Some(&b"now"[..]));
    assert!(begun.elapsed() < Duration::from_secs(8), "woken after {:?}", begun.elapsed());
    drop(message);
    drop(consumer);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_and_a_folder_in_use_are_named() {
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let broker = start(first.path()).await;
    let taken = Broker::start(BrokerConfig::new(broker.address(), second.path())).await.unwrap_err().to_string();
    assert!(taken.contains(&broker.address().port().to_string()), "{taken}");
    let in_use = Broker::start(BrokerConfig::new(loopback(0), first.path())).await.unwrap_err().to_string();
    assert!(in_use.contains(&first.path().display().to_string()), "{in_use}");
    broker.stop().await;
    start(first.path()).await.stop().await;
}

// --- a broker that is killed ------------------------------------------------------------------------------------------------------

const CHILD_FOLDER: &str = "POLYBOLOS_TEST_BROKER_FOLDER";
const CHILD_PORT: &str = "POLYBOLOS_TEST_BROKER_PORT";

/// Not a test: the broker process of the next one.
#[tokio::test(flavor = "multi_thread")]
async fn child_broker() {
    let (Ok(folder), Ok(port)) = (std::env::var(CHILD_FOLDER), std::env::var(CHILD_PORT)) else { return };
    let _broker = Broker::start(BrokerConfig::new(loopback(port.parse().unwrap()), folder)).await.unwrap();
    // Longer than the test that kills it.
    tokio::time::sleep(Duration::from_secs(120)).await;
}

struct Killed(Child);

impl Killed {
    fn start(folder: &Path, port: u16) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_broker", "--nocapture"])
            .env(CHILD_FOLDER, folder)
            .env(CHILD_PORT, port.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGKILL, to a process that runs.
    fn kill(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the broker had ended before it was killed");
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_broker_acknowledged_is_there_once() {
    let folder = TempDir::new().unwrap();
    let port = std::net::TcpListener::bind(loopback(0)).unwrap().local_addr().unwrap().port();
    let mut child = Killed::start(folder.path(), port);
    let producer: FutureProducer = config(loopback(port))
        .set("enable.idempotence", "true")
        .set("linger.ms", "2")
        .set("batch.num.messages", "50")
        .set("reconnect.backoff.max.ms", "200")
        .create()
        .unwrap();
    let mut sent = Vec::new();
    for number in 0..6_000 {
        let (key, value) = (format!("{number}"), format!("value {number}"));
        sent.push(producer.send_result(FutureRecord::to("readings").key(&key).payload(&value).partition(number % 4)).unwrap());
        tokio::time::sleep(Duration::from_micros(200)).await;
        if number % 2000 == 1500 {
            child.kill();
            child = Killed::start(folder.path(), port);
        }
    }
    let mut acknowledged = BTreeMap::new();
    for (number, sent) in sent.into_iter().enumerate() {
        let delivery = sent.await.unwrap().unwrap();
        acknowledged.insert((delivery.partition, delivery.offset), format!("value {number}"));
    }
    assert_eq!(acknowledged.len(), 6_000);
    child.kill();
    let broker = start(folder.path()).await;
    let records = consume(&consumer(broker.address()), "readings", 4);
    let values: BTreeMap<_, _> = records.into_iter().map(|(at, (_, value))| (at, value.unwrap())).collect();
    assert_eq!(values, acknowledged);
    broker.stop().await;
}
