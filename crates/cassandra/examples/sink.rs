//! What `make bench-sink` needs: writes users into a table of Cassandra, and prints a line of JSON with rows, CPU-seconds and
//! seconds. `sink ours TABLE ROWS` by the platform's sink; `sink loop TABLE ROWS BATCH IN_FLIGHT` by the loop around the driver
//! that somebody would write by hand, with so many rows in a batch and so many batches under way. The clock starts when rows,
//! connections and statements are there. Cassandra is at `POLYBOLOS_TEST_CASSANDRA`.
use std::{error::Error, iter, num::NonZeroUsize, sync::Arc, time::Instant};

use arrow::{
    array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray},
    datatypes::DataType,
    error::ArrowError,
};
use futures::{StreamExt, TryStreamExt, future, stream};
use polybolos_cassandra::{CassandraBackend, CassandraConfig};
use polybolos_tables::{Column, CreateOptions, Grant, TableBackend, TableError, TableName, TableSchema, WriteOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scylla::{
    client::{PoolSize, session::Session, session_builder::SessionBuilder},
    errors::ExecutionError,
    serialize::{
        SerializationError,
        row::{RowSerializationContext, SerializeRow},
        writers::RowWriter,
    },
    statement::{
        Consistency,
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
};
use tokio::task::JoinSet;

/// As the platform's own binary has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Written at the same time, each by a task of its own: as executors do with the parts of an epoch.
const PARTS: usize = 4;
/// Rows that the sink gets at once.
const BATCH: usize = 8_192;
const TEXTS: [&str; 13] = [
    "id",
    "first_name",
    "last_name",
    "gender",
    "address",
    "post_code",
    "email",
    "username",
    "dob",
    "registered_date",
    "phone",
    "picture",
    "nationality",
];

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let address =
        std::env::var("POLYBOLOS_TEST_CASSANDRA").map_err(|_| "POLYBOLOS_TEST_CASSANDRA=host:port names a real Cassandra")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (table, rows, how): (TableSchema, usize, Option<(usize, usize)>) =
        match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["ours", table, rows] => (schema(table), rows.parse()?, None),
            ["loop", table, rows, batch, in_flight] => (schema(table), rows.parse()?, Some((batch.parse()?, in_flight.parse()?))),
            _ => return Err("usage: sink ours TABLE ROWS | sink loop TABLE ROWS BATCH IN_FLIGHT".into()),
        };
    let config = CassandraConfig {
        contact_points: vec![address],
        username: "cassandra".into(),
        password: "cassandra".into(),
        ..CassandraConfig::default()
    };
    let backend = CassandraBackend::connect(&config).await?;
    backend.create(&table, &CreateOptions::default()).await?;
    let users = users(rows);
    let (cpu, seconds) = match how {
        None => by_sink(backend, &table, &users).await?,
        Some((batch, in_flight)) => {
            drop(backend);
            by_loop(&config, &table, users, batch, in_flight).await?
        }
    };
    println!("{{\"rows\": {rows}, \"cpu_s\": {cpu:.2}, \"seconds\": {seconds:.2}}}");
    Ok(())
}

struct Always;

impl Grant for Always {
    fn holds(&self) -> bool {
        true
    }
}

async fn by_sink(backend: CassandraBackend, table: &TableSchema, users: &[User]) -> Outcome<(f64, f64)> {
    let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let writer = backend.writer(table, &columns, &WriteOptions::default()).await?;
    let timestamp_us = backend.clock_us().await?;
    let of_part = |part: &[User]| part.chunks(BATCH).map(batch_of).collect::<Result<Vec<_>, _>>();
    let parts: Vec<Vec<RecordBatch>> = users.chunks(users.len().div_ceil(PARTS).max(1)).map(of_part).collect::<Result<_, _>>()?;
    let clock = Clock::start()?;
    let mut running = JoinSet::new();
    for part in parts {
        let writer = writer.clone();
        running.spawn(async move {
            for batch in part {
                let outcome = writer.write(&batch, timestamp_us, &Always).await?;
                if let Some(refused) = outcome.refused.first() {
                    return Err(TableError::Bug(format!("a row was refused: {}", refused.error)));
                }
            }
            Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    clock.stop()
}

async fn by_loop(
    config: &CassandraConfig,
    table: &TableSchema,
    users: Vec<User>,
    rows: usize,
    in_flight: usize,
) -> Outcome<(f64, f64)> {
    let connections: NonZeroUsize = config.connections_per_host.try_into()?;
    let session = SessionBuilder::new()
        .known_nodes(&config.contact_points)
        .user(&config.username, &config.password)
        .pool_size(PoolSize::PerHost(connections))
        .build()
        .await?;
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let marks = vec!["?"; names.len()].join(", ");
    let insert = session.prepare(format!("INSERT INTO {} ({}) VALUES ({marks})", table.name, names.join(", "))).await?;
    let full = batch_statement(&insert, rows);
    let writing = Arc::new(Loop { session, insert, full, users, rows });
    let batches = writing.users.len().div_ceil(rows);
    let clock = Clock::start()?;
    let mut running = JoinSet::new();
    for part in 0..PARTS {
        let writing = writing.clone();
        let sends = stream::iter((part..batches).step_by(PARTS)).map(move |number| {
            let writing = writing.clone();
            async move { writing.send(number).await }
        });
        running.spawn(sends.buffer_unordered(in_flight.div_ceil(PARTS)).try_for_each(|()| future::ok(())));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    clock.stop()
}

struct Loop {
    session: Session,
    insert: PreparedStatement,
    /// Of `rows` statements, made once.
    full: Batch,
    users: Vec<User>,
    rows: usize,
}

impl Loop {
    async fn send(&self, number: usize) -> Result<(), ExecutionError> {
        let start = number * self.rows;
        let users = &self.users[start..(start + self.rows).min(self.users.len())];
        if users.len() == self.rows {
            self.session.batch(&self.full, users).await?;
        } else {
            self.session.batch(&batch_statement(&self.insert, users.len()), users).await?;
        }
        Ok(())
    }
}

fn batch_statement(insert: &PreparedStatement, rows: usize) -> Batch {
    let statements = iter::repeat_n(BatchStatement::PreparedStatement(insert.clone()), rows).collect();
    let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
    batch.set_is_idempotent(true);
    batch.set_consistency(Consistency::LocalQuorum);
    batch
}

/// A row as a program of one's own would have it.
struct User {
    texts: [String; TEXTS.len()],
    age: i32,
    latitude: f64,
    longitude: f64,
}

impl SerializeRow for User {
    fn serialize(&self, _: &RowSerializationContext<'_>, writer: &mut RowWriter) -> Result<(), SerializationError> {
        let mut cell = |bytes: &[u8]| writer.make_cell_writer().set_value(bytes).map(|_| ()).map_err(SerializationError::new);
        for text in &self.texts {
            cell(text.as_bytes())?;
        }
        cell(&self.age.to_be_bytes())?;
        cell(&self.latitude.to_be_bytes())?;
        cell(&self.longitude.to_be_bytes())
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// Of the sizes of those in `bench/records.py`.
fn users(count: usize) -> Vec<User> {
    const SYLLABLES: [&str; 12] = ["ba", "cor", "del", "fén", "gris", "hal", "jør", "kel", "lin", "mor", "ras", "وند"];
    let mut random = ChaCha8Rng::seed_from_u64(42);
    let word = |random: &mut ChaCha8Rng| -> String {
        let count = random.random_range(2..4);
        (0..count).map(|_| SYLLABLES[random.random_range(0..SYLLABLES.len())]).collect()
    };
    let moment =
        |random: &mut ChaCha8Rng| format!("19{}-11-2{}T10:15:30.123Z", random.random_range(45..99), random.random_range(0..9));
    let mut user = || {
        let random = &mut random;
        let name = format!("{}{}{}", word(random), word(random), random.random_range(0..1_000));
        let (house, street) = (random.random_range(1..9_999), word(random));
        let texts: [String; TEXTS.len()] = [
            uuid::Builder::from_random_bytes(random.random()).into_uuid().to_string(),
            word(random),
            word(random),
            if random.random() { "female".into() } else { "male".into() },
            format!("{house} {street} Street, {}, {}, New Zealand", word(random), word(random)),
            random.random_range(10_000_u32..99_999).to_string(),
            format!("{name}@example.com"),
            name,
            moment(random),
            moment(random),
            random.random_range(1_000_000_000_i64..9_999_999_999).to_string(),
            format!("https://randomuser.me/api/portraits/med/women/{}.jpg", random.random_range(0..100)),
            "NZ".into(),
        ];
        let (latitude, longitude) = (random.random_range(-90.0..90.0), random.random_range(-180.0..180.0));
        User { texts, age: random.random_range(18..80), latitude, longitude }
    };
    iter::repeat_with(&mut user).take(count).collect()
}

fn batch_of(users: &[User]) -> Result<RecordBatch, ArrowError> {
    let texts = |index: usize| Arc::new(StringArray::from_iter_values(users.iter().map(|user| &user.texts[index]))) as ArrayRef;
    let mut columns: Vec<(&str, ArrayRef)> = TEXTS.into_iter().enumerate().map(|(index, name)| (name, texts(index))).collect();
    let numbers = |of: fn(&User) -> f64| Arc::new(Float64Array::from_iter_values(users.iter().map(of))) as ArrayRef;
    columns.push(("age", Arc::new(Int32Array::from_iter_values(users.iter().map(|user| user.age))) as ArrayRef));
    columns.extend([("latitude", numbers(|user| user.latitude)), ("longitude", numbers(|user| user.longitude))]);
    RecordBatch::try_from_iter(columns)
}

/// The table that `jobs/users` fills.
fn schema(table: &str) -> TableSchema {
    let mut columns: Vec<Column> = TEXTS.iter().map(|name| Column::new(*name, DataType::Utf8)).collect();
    columns.push(Column::new("age", DataType::Int32));
    columns.extend(["latitude", "longitude"].map(|name| Column::new(name, DataType::Float64)));
    TableSchema { name: TableName::new("bench_sink", table), columns, partition_key: vec!["id".into()], clustering_key: vec![] }
}

struct Clock {
    began: Instant,
    cpu: f64,
}

impl Clock {
    fn start() -> Outcome<Self> {
        Ok(Self { began: Instant::now(), cpu: cpu_seconds()? })
    }

    /// CPU-seconds and seconds.
    fn stop(self) -> Outcome<(f64, f64)> {
        Ok((cpu_seconds()? - self.cpu, self.began.elapsed().as_secs_f64()))
    }
}

/// CPU time of this process, all threads.
fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("an unknown form of /proc/self/stat")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
