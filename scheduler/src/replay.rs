//! Dead letters sent back to their topics, each once. A row of `polybolos.replayed_letters` says so: written before the record is sent, with where the topic-partition ended then,
//! and again with the record's offset. A letter found half way is looked for in the topic from there, by the header that every replayed record has.
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Int32Type, Int64Type, TimestampMillisecondType},
};
use futures::StreamExt;
use polybolos_kafka::{
    admin::Admin,
    connection::Connection,
    fetcher::{FetchTopic, Fetcher, FetcherConfig, SourceKey},
    produce::Producer,
};
use polybolos_operators::dead_letters;
use polybolos_streaming::frame::OffsetRange;
use polybolos_tables::{
    Column, CreateOptions, Grant, KeyPredicate, PredicateOp, ScanRequest, TableBackend, TableName, TableSchema, WriteOptions,
};
use tokio::sync::Mutex;

/// The header that names the letter.
pub const HEADER: &str = "polybolos-replayed";

/// Letters of one statement at most; the next one goes on.
const MOST: usize = 10_000;

const READ_TIME: Duration = Duration::from_secs(20);

/// Which letters.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub job: Option<String>,
    pub id: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    pub sent: usize,
    /// Replayed before, or of a record that was, by a letter of another run or another job.
    pub known: usize,
    /// Rows that a table refused, and records of which only the beginning is kept.
    pub left: usize,
    /// Of topics that keep the last record of each key, where nobody asked for the one letter: an old record would take the place of a newer one.
    pub kept_back: usize,
}

/// A record, whichever run and job a letter of it is of. Where a topic was made again, another record has its offset, at another time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Record {
    topic: String,
    partition: i32,
    offset: i64,
    time: Option<i64>,
}

struct Letter {
    id: String,
    record: Record,
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
}

/// What the mark of a letter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    None,
    /// It was to be sent when the partition ended here.
    Sending(i64),
    Sent,
}

/// Writes hold as long as this process serves the statement.
struct Always;

impl Grant for Always {
    fn holds(&self) -> bool {
        true
    }
}

/// `polybolos.replayed_letters`.
pub fn marks() -> TableSchema {
    TableSchema {
        name: TableName::new("polybolos", "replayed_letters"),
        columns: vec![
            Column::new("id", DataType::Utf8),
            Column::new("topic", DataType::Utf8),
            Column::new("topic_partition", DataType::Int32),
            Column::new("from_offset", DataType::Int64),
            Column::new("topic_offset", DataType::Int64),
        ],
        partition_key: vec!["id".into()],
        clustering_key: vec![],
    }
}

pub struct Replay {
    tables: Arc<dyn TableBackend>,
    /// One statement at a time, so that no letter is sent by two.
    running: Mutex<()>,
}

impl Replay {
    pub fn new(tables: Arc<dyn TableBackend>) -> Self {
        Self { tables, running: Mutex::default() }
    }

    /// Sends every letter that is wanted and was not sent before. `connection_of` a topic; `keeps_last_record`: whether a topic's last records are rows of a
    /// table.
    pub async fn run(
        &self,
        wanted: &Wanted,
        connection_of: impl Fn(&str) -> Connection,
        keeps_last_record: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Replayed> {
        let _running = self.running.lock().await;
        self.tables.create(&marks(), &CreateOptions::default()).await.context("table polybolos.replayed_letters")?;
        let known = self.marks(wanted.id.as_deref()).await?;
        let (letters, mut sent, mut outcome) = self.letters(wanted, &known, keeps_last_record).await?;
        if letters.is_empty() && outcome == Replayed::default() && wanted.id.is_some() {
            bail!("dead letter {} does not exist; `polybolos dlq list` shows all", wanted.id.as_deref().unwrap_or_default());
        }
        for letter in letters {
            if outcome.sent == MOST {
                break;
            }
            // Whoever set the record aside reads the one copy of it.
            if !sent.insert(letter.record.clone()) {
                outcome.known += 1;
                continue;
            }
            let connection = connection_of(&letter.record.topic);
            let mark = known.get(&letter.id).copied().unwrap_or(Mark::None);
            if let Mark::Sending(from) = mark
                && let Some(offset) = find(&connection, &letter, from).await?
            {
                self.mark(&letter, from, Some(offset)).await?;
                outcome.known += 1;
                continue;
            }
            let admin = Admin::connect(&connection)?;
            let Record { topic, partition, .. } = &letter.record;
            let ends = admin.offsets(topic, &[*partition]).await?.ends;
            let from = ends.get(partition).copied();
            let from = from.ok_or_else(|| anyhow!("topic {topic:?} has no partition {partition} any more"))?;
            self.mark(&letter, from, None).await?;
            let producer = Producer::connect(&connection)?;
            let (_, offset) =
                producer.send_marked(topic, *partition, letter.key.as_deref(), &letter.payload, (HEADER, &letter.id)).await?;
            self.mark(&letter, from, Some(offset)).await?;
            outcome.sent += 1;
        }
        Ok(outcome)
    }

    /// What can be sent, half-sent letters first; the records that were sent, also by letters that are not wanted; and how many letters are not sent.
    async fn letters(
        &self,
        wanted: &Wanted,
        known: &HashMap<String, Mark>,
        keeps_last_record: impl Fn(&str) -> bool,
    ) -> anyhow::Result<(Vec<Letter>, HashSet<Record>, Replayed)> {
        let (mut letters, mut sent, mut outcome) = (vec![], HashSet::new(), Replayed::default());
        for batch in self.scan(dead_letters::table(), wanted.id.as_deref()).await? {
            let text = |name: &str, row: usize| {
                let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
                column.is_valid(row).then(|| column.value(row).to_owned())
            };
            let bytes = |name: &str, row: usize| {
                let column = batch.column_by_name(name)?.as_binary_opt::<i32>()?;
                column.is_valid(row).then(|| column.value(row).to_vec())
            };
            let record = |row: usize| {
                let partition = batch.column_by_name("topic_partition")?.as_primitive_opt::<Int32Type>()?;
                let offset = batch.column_by_name("topic_offset")?.as_primitive_opt::<Int64Type>()?;
                let time = batch.column_by_name("record_time")?.as_primitive_opt::<TimestampMillisecondType>()?;
                let topic = text("topic", row)?;
                (partition.is_valid(row) && offset.is_valid(row)).then(|| Record {
                    topic,
                    partition: partition.value(row),
                    offset: offset.value(row),
                    time: time.is_valid(row).then(|| time.value(row)),
                })
            };
            let length = |row: usize| Some(batch.column_by_name("raw_bytes")?.as_primitive_opt::<Int64Type>()?.value(row));
            for row in 0..batch.num_rows() {
                let id = text("id", row);
                let is_wanted = wanted.job.is_none() || text("job", row) == wanted.job;
                if id.as_ref().is_some_and(|id| known.get(id) == Some(&Mark::Sent)) {
                    outcome.known += usize::from(is_wanted);
                    sent.extend(record(row));
                    continue;
                }
                if !is_wanted {
                    continue;
                }
                match (id, record(row), bytes("raw", row)) {
                    (Some(id), Some(record), Some(payload)) if length(row) == Some(payload.len() as i64) => {
                        if wanted.id.is_none() && keeps_last_record(&record.topic) {
                            outcome.kept_back += 1;
                        } else {
                            letters.push(Letter { id, record, key: bytes("record_key", row), payload });
                        }
                    }
                    _ => outcome.left += 1,
                }
            }
        }
        letters.sort_by_cached_key(|letter| (!known.contains_key(&letter.id), letter.id.clone()));
        Ok((letters, sent, outcome))
    }

    /// Of that letter, or of all: nobody else changes them meanwhile.
    async fn marks(&self, id: Option<&str>) -> anyhow::Result<HashMap<String, Mark>> {
        let mut known = HashMap::new();
        for batch in self.scan(marks(), id).await? {
            let number = |name: &str| batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
            let ids = batch.column_by_name("id").and_then(|column| column.as_string_opt::<i32>());
            let (Some(ids), Some(from), Some(offset)) = (ids, number("from_offset"), number("topic_offset")) else { continue };
            for row in 0..batch.num_rows() {
                let mark = if offset.is_valid(row) { Mark::Sent } else { Mark::Sending(from.value(row)) };
                known.insert(ids.value(row).to_owned(), mark);
            }
        }
        Ok(known)
    }

    async fn mark(&self, letter: &Letter, from: i64, offset: Option<i64>) -> anyhow::Result<()> {
        let table = marks();
        let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
        let values: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![letter.id.as_str()])),
            Arc::new(StringArray::from(vec![letter.record.topic.as_str()])),
            Arc::new(Int32Array::from(vec![letter.record.partition])),
            Arc::new(Int64Array::from(vec![from])),
            Arc::new(Int64Array::from(vec![offset])),
        ];
        let batch = RecordBatch::try_new(table.arrow(), values)?;
        let writer = self.tables.writer(&table, &columns, &WriteOptions::default()).await?;
        // Twice within a microsecond would be a tie.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let outcome = writer.write(&batch, self.tables.clock_us().await?, &Always).await?;
        match outcome.refused.first() {
            Some(refused) => bail!("letter {} cannot be marked: {}", letter.id, refused.error),
            None => Ok(()),
        }
    }

    async fn scan(&self, table: TableSchema, id: Option<&str>) -> anyhow::Result<Vec<RecordBatch>> {
        let columns = table.columns.iter().map(|column| column.name.clone()).collect();
        let predicates =
            id.map(|id| KeyPredicate { column: "id".into(), op: PredicateOp::Eq, values: Arc::new(StringArray::from(vec![id])) });
        let request = ScanRequest { table, columns, predicates: predicates.into_iter().collect(), limit: None };
        let mut found = vec![];
        for slice in self.tables.slices(&request, 4).await? {
            let mut batches = self.tables.scan(&request, &slice);
            while let Some(batch) = batches.next().await {
                found.push(batch?);
            }
        }
        Ok(found)
    }
}

/// The letter's record in its topic, from an offset on.
async fn find(connection: &Connection, letter: &Letter, from: i64) -> anyhow::Result<Option<i64>> {
    let Record { topic, partition, .. } = &letter.record;
    let ends = Admin::connect(connection)?.offsets(topic, &[*partition]).await?.ends;
    let end = ends.get(partition).copied().unwrap_or(from);
    if end <= from {
        return Ok(None);
    }
    let fetcher = Fetcher::new(FetcherConfig::default(), &Default::default())?;
    let key = SourceKey { incarnation: "replay".into(), source: 0 };
    let chunks = fetcher.read(&key, FetchTopic::new(connection, topic), *partition, OffsetRange::new(from, end), READ_TIME).await?;
    let is_it = |name: &str, value: Option<&[u8]>| name == HEADER && value == Some(letter.id.as_bytes());
    let found = chunks.iter().find_map(|chunk| {
        let record = (0..chunk.len()).find(|&record| chunk.headers(record).any(|(name, value)| is_it(name, value)))?;
        Some(chunk.offset(record))
    });
    fetcher.forget(&key);
    Ok(found)
}
