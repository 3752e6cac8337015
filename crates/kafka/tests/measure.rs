//! Figures, not assertions: `cargo test -p polybolos-kafka --test measure -- --ignored --nocapture --test-threads=1`, with a real Kafka at
//! `POLYBOLOS_TEST_KAFKA`. `POLYBOLOS_MEASURE_EVENTS` says how many Nexmark events (2 000 000).
#![allow(clippy::unwrap_used)] // a test fails by panicking
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::datatypes::{DataType, Field as Column, Fields, Schema, SchemaRef};
use polybolos_kafka::{
    admin::Admin,
    connection::Connection,
    decode::{DecodeOptions, Field, JsonDecoder},
    fetcher::{FetchTopic, Fetcher, FetcherConfig, SourceKey},
    produce::Producer,
};
use polybolos_streaming::frame::OffsetRange;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

const PARTITIONS: i32 = 4;
const MINUTE: Duration = Duration::from_secs(60);

fn connection() -> Connection {
    let servers = std::env::var("POLYBOLOS_TEST_KAFKA").expect("POLYBOLOS_TEST_KAFKA=host:port names a real Kafka");
    Connection::new(servers)
}

/// CPU time of this process, all threads, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn new_topic(what: &str) -> (Admin, String) {
    let name = format!("{what}-{}", uuid::Uuid::new_v4().simple());
    let admin = Admin::connect(&connection()).unwrap();
    admin.create_topic(&name, PARTITIONS, 1, &[]).await.unwrap();
    (admin, name)
}

fn key() -> SourceKey {
    SourceKey { incarnation: "measure".into(), source: 0 }
}

fn schema(all: bool) -> SchemaRef {
    let int = |name: &str| Column::new(name, DataType::Int64, true);
    let text = |name: &str| Column::new(name, DataType::Utf8, true);
    let part = |name: &str, columns: Vec<Column>| Column::new(name, DataType::Struct(Fields::from(columns)), true);
    if !all {
        return Arc::new(Schema::new(vec![part("Bid", vec![int("auction"), int("bidder"), int("price")])]));
    }
    let person = ["name", "email_address", "credit_card", "city", "state", "extra"].map(text);
    let auction = ["initial_bid", "reserve", "date_time", "expires", "seller", "category"].map(int);
    Arc::new(Schema::new(vec![
        part("Person", [vec![int("id"), int("date_time")], person.to_vec()].concat()),
        part("Auction", [vec![int("id"), text("item_name"), text("description"), text("extra")], auction.to_vec()].concat()),
        part(
            "Bid",
            ["auction", "bidder", "price", "date_time"].map(int).into_iter().chain(["channel", "url", "extra"].map(text)).collect(),
        ),
    ]))
}

fn fill(topic: &str, events: usize) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", connection().bootstrap_servers)
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .unwrap();
    for (index, event) in nexmark::EventGenerator::new(Default::default()).take(events).enumerate() {
        let payload = serde_json::to_vec(&event).unwrap();
        let partition = index as i32 % PARTITIONS;
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(&payload);
        while let Err((_, again)) = producer.send(record) {
            record = again;
            producer.poll(Duration::from_millis(10));
        }
        if index % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(MINUTE).unwrap();
}

fn report(what: &str, events: usize, began: Instant, cpu_began: f64) {
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu() - cpu_began);
    println!(
        "{what:45} {:7.0} K/CPU-s {:7.0} K/s ({cpu:.2} CPU-s, {wall:.2} s)",
        events as f64 / cpu / 1e3,
        events as f64 / wall / 1e3
    );
}

/// The loop somebody would write by hand.
fn bare(topic: &str, ends: &BTreeMap<i32, i64>, schema: Option<SchemaRef>) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", connection().bootstrap_servers)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in ends.keys() {
        list.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut decoder = schema.map(|schema| arrow_json::ReaderBuilder::new(schema).with_batch_size(8_192).build_decoder().unwrap());
    let total: i64 = ends.values().sum();
    let mut rows = 0;
    for seen in 0..total {
        let message = consumer.poll(MINUTE).unwrap().unwrap();
        match &mut decoder {
            None => rows += 1,
            Some(decoder) => {
                decoder.decode(message.payload().unwrap()).unwrap();
                if seen % 8_192 == 8_191 {
                    rows += decoder.flush().unwrap().unwrap().num_rows();
                }
            }
        }
    }
    if let Some(rest) = decoder.and_then(|mut decoder| decoder.flush().unwrap()) {
        rows += rest.num_rows();
    }
    assert_eq!(rows as i64, total);
}

/// As the plan node does: what has arrived is read, decoded, released.
async fn ours(topic: &str, ends: &BTreeMap<i32, i64>, schema: Option<SchemaRef>) {
    let fetcher = Fetcher::new(FetcherConfig::default(), &prometheus::Registry::new()).unwrap();
    fetcher.prefetch(
        key(),
        FetchTopic { headers: false, ..FetchTopic::new(&connection(), topic) },
        ends.keys().map(|partition| (*partition, 0)).collect(),
    );
    let mut changed = fetcher.changed();
    let mut decoder = schema.map(|schema| {
        let fields = schema.fields().iter().map(|field| Field::Json { name: field.name().clone() }).collect();
        JsonDecoder::new(schema, fields, DecodeOptions::default()).unwrap()
    });
    let mut starts: BTreeMap<i32, i64> = ends.keys().map(|partition| (*partition, 0)).collect();
    let mut rows = 0;
    let (mut ranges, mut chunks_read) = (0, 0);
    while starts != *ends {
        for available in fetcher.available() {
            let start = starts[&available.partition];
            if available.end == start {
                continue;
            }
            let range = OffsetRange::new(start, available.end);
            let chunks = fetcher
                .read(
                    &key(),
                    FetchTopic { headers: false, ..FetchTopic::new(&connection(), topic) },
                    available.partition,
                    range,
                    MINUTE,
                )
                .await
                .unwrap();
            ranges += 1;
            for chunk in &chunks {
                chunks_read += 1;
                rows += match &mut decoder {
                    None => chunk.len(),
                    Some(decoder) => {
                        let decoded = decoder.decode(chunk, 0..chunk.len(), topic, available.partition).unwrap();
                        assert!(decoded.failures.is_empty());
                        decoded.batch.num_rows()
                    }
                };
            }
            fetcher.release(&key(), available.partition, available.end);
            starts.insert(available.partition, available.end);
        }
        let _ = tokio::time::timeout(Duration::from_millis(100), changed.changed()).await;
    }
    println!("  {ranges} ranges, {chunks_read} chunks");
    assert_eq!(rows as i64, ends.values().sum::<i64>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn events_per_cpu_second() {
    let events = std::env::var("POLYBOLOS_MEASURE_EVENTS").map_or(2_000_000, |events| events.parse().unwrap());
    let (admin, topic) = new_topic("nexmark").await;
    fill(&topic, events);
    let ends = admin.offsets(&topic, &(0..PARTITIONS).collect::<Vec<_>>()).await.unwrap().ends;
    for (what, schema) in [("counting", None), ("three nested columns", Some(schema(false))), ("all columns", Some(schema(true)))] {
        for round in 0..2 {
            let (began, cpu_began) = (Instant::now(), cpu());
            ours(&topic, &ends, schema.clone()).await;
            report(&format!("fetcher + decoder, {what}, {round}"), events, began, cpu_began);
            let (began, cpu_began) = (Instant::now(), cpu());
            bare(&topic, &ends, schema.clone());
            report(&format!("bare + arrow-json, {what}, {round}"), events, began, cpu_began);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn idle_and_latency() {
    let (_admin, topic) = new_topic("idle").await;
    let producer = Producer::connect(&connection()).unwrap();
    let fetcher = Fetcher::new(FetcherConfig::default(), &prometheus::Registry::new()).unwrap();
    let began = Instant::now();
    let (_, first) = producer.send_to(&topic, Some(0), None, Some(b"{}")).await.unwrap();
    println!("cold produce: {:?}", began.elapsed());
    let began = Instant::now();
    fetcher.prefetch(key(), FetchTopic::new(&connection(), &topic), (0..PARTITIONS).map(|partition| (partition, 0)).collect());
    fetcher.read(&key(), FetchTopic::new(&connection(), &topic), 0, OffsetRange::new(first, first + 1), MINUTE).await.unwrap();
    println!("cold read: {:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (began, cpu_began) = (Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(10)).await;
    println!("idle source: {:.2} % of a core", (cpu() - cpu_began) / began.elapsed().as_secs_f64() * 100.0);
    let mut times = vec![];
    for _ in 0..200 {
        let began = Instant::now();
        let (_, offset) = producer.send_to(&topic, Some(0), None, Some(b"{}")).await.unwrap();
        fetcher
            .read(&key(), FetchTopic::new(&connection(), &topic), 0, OffsetRange::new(offset, offset + 1), MINUTE)
            .await
            .unwrap();
        times.push(began.elapsed());
        fetcher.release(&key(), 0, offset + 1);
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    times.sort_unstable();
    println!("produce to read, producer's 2 ms linger included: p50 {:?}, p99 {:?}", times[100], times[198]);
    let began = Instant::now();
    fetcher.read(&key(), FetchTopic::new(&connection(), &topic), 0, OffsetRange::new(first, first + 1), MINUTE).await.unwrap();
    println!("read from another place: {:?}", began.elapsed());
}
