//! Dead letters sent back to their topics, each once. A row of `polybolos.replayed_letters` says so: written before the record is sent, with where the topic-partition ended then,
//! and again with the record's offset. A letter found half way is looked for in the topic from there, by the header that every replayed record has.
use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Int32Type, Int64Type},
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
    /// Replayed before.
    pub known: usize,
    /// Rows that a table refused, and records of which only the beginning is kept.
    pub left: usize,
    /// Of topics that keep the last record of each key, where nobody asked for the one letter: an old record would take the place of a newer one.
    pub kept_back: usize,
}

struct Letter {
    id: String,
    topic: String,
    partition: i32,
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
        let (letters, mut outcome) = self.letters(wanted, keeps_last_record).await?;
        if letters.is_empty() && outcome.left == 0 && wanted.id.is_some() {
            bail!("dead letter {} does not exist; `polybolos dlq list` shows all", wanted.id.as_deref().unwrap_or_default());
        }
        let known = self.marks(wanted.id.as_deref()).await?;
        for letter in letters {
            if outcome.sent == MOST {
                break;
            }
            let connection = connection_of(&letter.topic);
            let mark = known.get(&letter.id).copied().unwrap_or(Mark::None);
            if mark == Mark::Sent {
                outcome.known += 1;
                continue;
            }
            if let Mark::Sending(from) = mark
                && let Some(offset) = find(&connection, &letter, from).await?
            {
                self.mark(&letter, from, Some(offset)).await?;
                outcome.known += 1;
                continue;
            }
            let admin = Admin::connect(&connection)?;
            let ends = admin.offsets(&letter.topic, &[letter.partition]).await?.ends;
            let from = ends.get(&letter.partition).copied();
            let from = from.ok_or_else(|| anyhow!("topic {:?} has no partition {} any more", letter.topic, letter.partition))?;
            self.mark(&letter, from, None).await?;
            let producer = Producer::connect(&connection)?;
            let (_, offset) = producer
                .send_marked(&letter.topic, letter.partition, letter.key.as_deref(), &letter.payload, (HEADER, &letter.id))
                .await?;
            self.mark(&letter, from, Some(offset)).await?;
            outcome.sent += 1;
        }
        Ok(outcome)
    }

    /// What can be sent, and how many letters are not.
    async fn letters(&self, wanted: &Wanted, keeps_last_record: impl Fn(&str) -> bool) -> anyhow::Result<(Vec<Letter>, Replayed)> {
        let (mut letters, mut outcome) = (vec![], Replayed::default());
        for batch in self.scan(dead_letters::table(), wanted.id.as_deref()).await? {
            let text = |name: &str, row: usize| {
                let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
                column.is_valid(row).then(|| column.value(row).to_owned())
            };
            let bytes = |name: &str, row: usize| {
                let column = batch.column_by_name(name)?.as_binary_opt::<i32>()?;
                column.is_valid(row).then(|| column.value(row).to_vec())
            };
            let partition = |row: usize| {
                let column = batch.column_by_name("topic_partition")?.as_primitive_opt::<Int32Type>()?;
                column.is_valid(row).then(|| column.value(row))
            };
            let length = |row: usize| Some(batch.column_by_name("raw_bytes")?.as_primitive_opt::<Int64Type>()?.value(row));
            for row in 0..batch.num_rows() {
                if wanted.job.is_some() && text("job", row) != wanted.job {
                    continue;
                }
                match (text("id", row), text("topic", row), partition(row), bytes("raw", row)) {
                    (Some(id), Some(topic), Some(partition), Some(payload)) if length(row) == Some(payload.len() as i64) => {
                        if wanted.id.is_none() && keeps_last_record(&topic) {
                            outcome.kept_back += 1;
                        } else {
                            letters.push(Letter { id, topic, partition, key: bytes("record_key", row), payload });
                        }
                    }
                    _ => outcome.left += 1,
                }
            }
        }
        letters.sort_by(|a, b| a.id.cmp(&b.id));
        Ok((letters, outcome))
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
            Arc::new(StringArray::from(vec![letter.topic.as_str()])),
            Arc::new(Int32Array::from(vec![letter.partition])),
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
    let ends = Admin::connect(connection)?.offsets(&letter.topic, &[letter.partition]).await?.ends;
    let end = ends.get(&letter.partition).copied().unwrap_or(from);
    if end <= from {
        return Ok(None);
    }
    let fetcher = Fetcher::new(FetcherConfig::default(), &Default::default())?;
    let key = SourceKey { incarnation: "replay".into(), source: 0 };
    let chunks = fetcher
        .read(&key, FetchTopic::new(connection, &letter.topic), letter.partition, OffsetRange::new(from, end), READ_TIME)
        .await?;
    let is_it = |name: &str, value: Option<&[u8]>| name == HEADER && value == Some(letter.id.as_bytes());
    let found = chunks.iter().find_map(|chunk| {
        let record = (0..chunk.len()).find(|&record| chunk.headers(record).any(|(name, value)| is_it(name, value)))?;
        Some(chunk.offset(record))
    });
    fetcher.forget(&key);
    Ok(found)
}
