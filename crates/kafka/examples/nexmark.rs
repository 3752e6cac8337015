//! What `make bench-source` and `make bench-nexmark` need of Nexmark: `nexmark fill TOPIC EVENTS` produces its JSON into a topic of four partitions,
//! `fill-unified` as Flink's generator writes it, and
//! `nexmark consume TOPIC arrow-json|columns` is the loop that somebody would write by hand: poll, decode, forget. It prints a line of JSON
//! with events, CPU-seconds and seconds. Kafka is at `POLYBOLOS_TEST_KAFKA`.
use std::{
    collections::BTreeMap,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::datatypes::{DataType, Field as Column, Fields, Schema, SchemaRef};
use polybolos_kafka::{
    admin::Admin,
    connection::Connection,
    decode::{DecodeOptions, Field, JsonDecoder},
    records::{ChunkBuilder, RawRecord},
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};

/// As the platform's own binary has it; librdkafka uses it as well.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PARTITIONS: i32 = 4;
const MINUTE: Duration = Duration::from_secs(60);

/// Records decoded at once, by either decoder.
const BATCH: usize = 4_096;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let servers = std::env::var("POLYBOLOS_TEST_KAFKA").map_err(|_| "POLYBOLOS_TEST_KAFKA=host:port names a real Kafka")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["fill", topic, events] => {
            // Not `EventGenerator::default()`: its step is 0, and it repeats one event for ever.
            let generated = nexmark::EventGenerator::new(Default::default()).take(events.parse()?);
            fill(&servers, topic, events.parse()?, generated.map(|event| serde_json::to_string(&event).unwrap_or_default()))
        }
        ["fill-unified", topic, events] => {
            fill(&servers, topic, events.parse()?, polybolos_testkit::nexmark::records(events.parse()?))
        }
        ["consume", topic, "arrow-json"] => consume(&servers, topic, &mut ArrowJson::new()?),
        ["consume", topic, "columns"] => consume(&servers, topic, &mut Columns::new(topic)?),
        _ => Err("usage: nexmark fill|fill-unified TOPIC EVENTS | nexmark consume TOPIC arrow-json|columns".into()),
    }
}

#[tokio::main]
async fn create(servers: &str, topic: &str) -> Outcome<()> {
    Ok(Admin::connect(&Connection::new(servers))?.create_topic(topic, PARTITIONS, 1, &[]).await?)
}

#[tokio::main]
async fn ends(servers: &str, topic: &str) -> Outcome<BTreeMap<i32, i64>> {
    let admin = Admin::connect(&Connection::new(servers))?;
    Ok(admin.offsets(topic, &(0..PARTITIONS).collect::<Vec<_>>()).await?.ends)
}

fn fill(servers: &str, topic: &str, events: usize, records: impl Iterator<Item = String>) -> Outcome<()> {
    create(servers, topic)?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "1000000")
        .create()?;
    let mut bytes = 0;
    for (index, payload) in records.enumerate() {
        let payload = payload.into_bytes();
        bytes += payload.len();
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(index as i32 % PARTITIONS).payload(&payload);
        while let Err((_, again)) = producer.send(record) {
            record = again;
            producer.poll(Duration::from_millis(10));
        }
        if index % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(MINUTE)?;
    let there: i64 = ends(servers, topic)?.values().sum();
    if there != events as i64 {
        return Err(format!("topic {topic:?} has {there} records, not {events}").into());
    }
    println!("{{\"bytes_per_event\": {}}}", bytes / events.max(1));
    Ok(())
}

/// One of the two decoders: takes records, and counts the rows that come out.
trait Decode {
    fn take(&mut self, offset: i64, payload: &[u8]) -> Outcome<()>;
    fn flush(&mut self) -> Outcome<usize>;
}

/// Arrow's own decoder, straight from librdkafka's memory.
struct ArrowJson(arrow_json::reader::Decoder);

impl ArrowJson {
    fn new() -> Outcome<Self> {
        Ok(Self(arrow_json::ReaderBuilder::new(schema()).with_batch_size(BATCH).build_decoder()?))
    }
}

impl Decode for ArrowJson {
    fn take(&mut self, _: i64, payload: &[u8]) -> Outcome<()> {
        self.0.decode(payload)?;
        Ok(())
    }

    fn flush(&mut self) -> Outcome<usize> {
        Ok(self.0.flush()?.map_or(0, |batch| batch.num_rows()))
    }
}

/// The platform's decoder, which needs records of a partition in one piece of memory.
struct Columns {
    topic: String,
    decoder: JsonDecoder,
    records: ChunkBuilder,
}

impl Columns {
    fn new(topic: &str) -> Outcome<Self> {
        let schema = schema();
        let fields = schema.fields().iter().map(|field| Field::Json { name: field.name().clone() }).collect();
        let decoder = JsonDecoder::new(schema, fields, DecodeOptions::default())?;
        Ok(Self { topic: topic.to_owned(), decoder, records: ChunkBuilder::new() })
    }
}

impl Decode for Columns {
    fn take(&mut self, offset: i64, payload: &[u8]) -> Outcome<()> {
        self.records.push(RawRecord { offset, timestamp: None, key: None, payload: Some(payload) }, std::iter::empty());
        Ok(())
    }

    fn flush(&mut self) -> Outcome<usize> {
        let (records, bytes) = (self.records.len(), self.records.bytes());
        let chunk = self.records.finish();
        self.records = ChunkBuilder::with_capacity(records, bytes + bytes / 32);
        Ok(self.decoder.decode(&chunk, 0..chunk.len(), &self.topic, 0)?.batch.num_rows())
    }
}

fn consume(servers: &str, topic: &str, decoder: &mut dyn Decode) -> Outcome<()> {
    let ends = ends(servers, topic)?;
    let total: i64 = ends.values().sum();
    let (began, cpu_began) = (Instant::now(), cpu_seconds()?);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in ends.keys() {
        list.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut rows = 0;
    for seen in 0..total {
        let message = consumer.poll(MINUTE).ok_or("no record came for a minute")??;
        // One decoder for all partitions: the place in the whole stream stands for the offset.
        decoder.take(seen, message.payload().unwrap_or_default())?;
        if (seen + 1) % BATCH as i64 == 0 {
            rows += decoder.flush()?;
        }
    }
    rows += decoder.flush()?;
    if rows as i64 != total {
        return Err(format!("{rows} rows of {total} records").into());
    }
    let (cpu, seconds) = (cpu_seconds()? - cpu_began, began.elapsed().as_secs_f64());
    println!("{{\"events\": {total}, \"cpu_s\": {cpu:.2}, \"seconds\": {seconds:.2}}}");
    Ok(())
}

/// CPU time of this process, all threads.
fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("an unknown form of /proc/self/stat")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// All columns of all three events; `bench/source.py` declares the same table.
fn schema() -> SchemaRef {
    let int = |name: &&str| Column::new(*name, DataType::Int64, true);
    let text = |name: &&str| Column::new(*name, DataType::Utf8, true);
    let event = |name: &str, ints: &[&str], texts: &[&str]| {
        let columns: Vec<Column> = ints.iter().map(int).chain(texts.iter().map(text)).collect();
        Column::new(name, DataType::Struct(Fields::from(columns)), true)
    };
    Arc::new(Schema::new(vec![
        event("Person", &["id", "date_time"], &["name", "email_address", "credit_card", "city", "state", "extra"]),
        event(
            "Auction",
            &["id", "initial_bid", "reserve", "date_time", "expires", "seller", "category"],
            &["item_name", "description", "extra"],
        ),
        event("Bid", &["auction", "bidder", "price", "date_time"], &["channel", "url", "extra"]),
    ]))
}
