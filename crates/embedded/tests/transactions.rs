//! Transactions at the embedded broker, through librdkafka: what readers of committed records see, fencing, restarts, and producers that
//! vanish.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use polybolos_embedded::{Broker, BrokerConfig};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafkaErrorCode,
};
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(20);
const TOPIC: &str = "readings";

async fn start(folder: &Path, port: u16) -> Broker {
    Broker::start(BrokerConfig::new((Ipv4Addr::LOCALHOST, port).into(), folder)).await.unwrap()
}

fn config(address: SocketAddr) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address.to_string()).set("reconnect.backoff.max.ms", "200");
    config
}

fn opened(address: SocketAddr, id: &str, timeout_ms: &str) -> BaseProducer {
    let producer: BaseProducer = config(address)
        .set("transactional.id", id)
        .set("transaction.timeout.ms", timeout_ms)
        .set("message.timeout.ms", timeout_ms)
        .set("linger.ms", "0")
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    producer
}

fn send(producer: &BaseProducer, values: std::ops::Range<usize>) {
    producer.begin_transaction().unwrap();
    for value in values {
        producer.send(BaseRecord::<(), str>::to(TOPIC).partition((value % 2) as i32).payload(&value.to_string())).unwrap();
    }
    producer.flush(WAIT).unwrap();
}

/// What a reader sees, and the ends it is told, per partition.
fn read(address: SocketAddr, isolation: &str) -> (BTreeSet<usize>, Vec<i64>) {
    let consumer: BaseConsumer = config(address)
        .set("group.id", "g")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "50")
        .set("isolation.level", isolation)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    (0..2).for_each(|partition| list.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap());
    consumer.assign(&list).unwrap();
    let (mut values, mut ended) = (BTreeSet::new(), BTreeSet::new());
    let until = Instant::now() + WAIT;
    while ended.len() < 2 {
        assert!(Instant::now() < until, "{values:?}, ends of {ended:?}");
        match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => {
                let value = std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap();
                assert!(values.insert(value), "{value} came twice");
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => _ = ended.insert(partition),
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    let ends = (0..2).map(|partition| consumer.fetch_watermarks(TOPIC, partition, WAIT).unwrap().1).collect();
    (values, ends)
}

fn committed(address: SocketAddr) -> BTreeSet<usize> {
    read(address, "read_committed").0
}

fn numbers(values: impl Iterator<Item = usize>) -> BTreeSet<usize> {
    values.collect()
}

async fn topic(address: SocketAddr) {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let admin: AdminClient<_> = config(address).create().unwrap();
    let topic = NewTopic::new(TOPIC, 2, TopicReplication::Fixed(1));
    admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_committed_records_see_whole_transactions_only() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path(), 0).await;
    let address = broker.address();
    topic(address).await;
    let producer = opened(address, "a", "60000");
    send(&producer, 0..10);
    assert_eq!(read(address, "read_committed"), (BTreeSet::new(), vec![0, 0]));
    assert_eq!(read(address, "read_uncommitted"), (numbers(0..10), vec![5, 5]));
    producer.commit_transaction(WAIT).unwrap();
    assert_eq!(read(address, "read_committed"), (numbers(0..10), vec![6, 6]), "each end is a marker");

    send(&producer, 10..20);
    producer.abort_transaction(WAIT).unwrap();
    send(&producer, 20..30);
    producer.commit_transaction(WAIT).unwrap();
    // Another one that stays open holds readers back, also from what is committed behind it.
    let other = opened(address, "b", "60000");
    send(&other, 30..40);
    send(&producer, 40..50);
    producer.commit_transaction(WAIT).unwrap();
    assert_eq!(committed(address), numbers((0..10).chain(20..30)));
    other.abort_transaction(WAIT).unwrap();
    assert_eq!(committed(address), numbers((0..10).chain(20..30).chain(40..50)));
    assert_eq!(read(address, "read_uncommitted").0.len(), 50);
    broker.stop().await;

    let broker = start(folder.path(), 0).await;
    assert_eq!(committed(broker.address()), numbers((0..10).chain(20..30).chain(40..50)), "aborts are durable too");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_holder_of_an_id_aborts_and_fences_the_one_before() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path(), 0).await;
    let address = broker.address();
    topic(address).await;
    let first = opened(address, "a", "60000");
    send(&first, 0..10);
    let second = opened(address, "a", "60000");
    let refused = first.commit_transaction(WAIT).unwrap_err();
    assert!(
        matches!(refused.rdkafka_error_code(), Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced)),
        "{refused:?}"
    );
    send(&second, 10..20);
    second.commit_transaction(WAIT).unwrap();
    assert_eq!(committed(address), numbers(10..20));
    // What was aborted stays, for those who want to see it.
    assert_eq!(read(address, "read_uncommitted").0, numbers(0..20));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_goes_on_over_a_restart_of_the_broker() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path(), 0).await;
    let address = broker.address();
    topic(address).await;
    let producer = opened(address, "a", "60000");
    send(&producer, 0..10);
    broker.stop().await;
    let broker = start(folder.path(), address.port()).await;
    assert_eq!(read(address, "read_committed"), (BTreeSet::new(), vec![0, 0]), "it is still open");
    producer.commit_transaction(WAIT).unwrap();
    assert_eq!(committed(address), numbers(0..10));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_producer_vanished_ends_by_itself() {
    let folder = TempDir::new().unwrap();
    let broker = start(folder.path(), 0).await;
    let address = broker.address();
    topic(address).await;
    let vanished = opened(address, "a", "2000");
    send(&vanished, 0..10);
    std::mem::forget(vanished);
    let producer = opened(address, "b", "60000");
    send(&producer, 10..20);
    producer.commit_transaction(WAIT).unwrap();
    assert_eq!(committed(address), BTreeSet::new());
    let until = Instant::now() + WAIT;
    while committed(address) != numbers(10..20) {
        assert!(Instant::now() < until, "it stays open");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    broker.stop().await;
}
