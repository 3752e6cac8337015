//! Publishing: writes one part of one recorded epoch to one sink. Doing it twice is the same as once: in a table by the epoch's write
//! timestamp, in a topic by the position that is committed with the part, in a folder by the file's name.
pub mod files;
pub mod topic;

use std::{collections::BTreeMap, collections::HashMap, fmt, sync::Arc, time::Instant};

use datafusion::arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
    error::ArrowError,
    json::LineDelimitedWriter,
    util::pretty::pretty_format_batches,
};
use parking_lot::Mutex;
use polybolos_kafka::error::KafkaError;
use polybolos_persist::{
    StoreError, crash,
    part::{self, Encoded, Sections},
};
use polybolos_streaming::{
    ids::{Epoch, Generation, Incarnation, Nonce, SinkId},
    manifest::DEAD_LETTERS,
    report::{PartFile, PublishReport},
};
use polybolos_tables::{Grant, Refused, TableError, TableName, TableSchema, TableWriter, WriteOptions};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::{
    files::FilesTarget,
    topic::{TopicPublishers, TopicTarget},
};
use crate::{
    changes::is_delete,
    dead_letters::{self, DeadLetter, cut},
    services::ExecutorServices,
};

/// Where a sink's changes go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SinkSpec {
    Table {
        table: TableName,
        /// By which rows replace each other; `None`: by whichever the table has.
        #[serde(default)]
        key: Option<DeclaredKey>,
        columns: Vec<String>,
        options: WriteOptions,
    },
    /// Rows and tombstones as records of a topic.
    Topic {
        target: TopicTarget,
    },
    /// Rows as files, one for each part.
    Files {
        target: FilesTarget,
    },
    /// Rows to a table of letters, and to what the job names beside it: tables of the same columns, a topic.
    Letters {
        table: TableName,
        columns: Vec<String>,
        options: WriteOptions,
        others: Vec<TableName>,
        topic: Option<TopicTarget>,
    },
    /// Changes as a table in the executor's log: `+` for rows, `-` for the keys of deleted ones.
    Print {
        name: String,
    },
    Blackhole,
}

/// A table's primary key, as it was declared. A table that was made again with another one must not be taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredKey {
    pub partition: Vec<String>,
    pub clustering: Vec<String>,
}

impl DeclaredKey {
    /// A stored table as it was declared, if that is known.
    pub fn applied(key: Option<&Self>, stored: TableSchema) -> TableSchema {
        let Some(Self { partition, clustering }) = key.cloned() else { return stored };
        TableSchema { partition_key: partition, clustering_key: clustering, ..stored }
    }
}

/// A table that rows go to, as a sink has it.
#[derive(Clone, Copy)]
struct Target<'a> {
    table: &'a TableName,
    key: Option<&'a DeclaredKey>,
    columns: &'a [String],
    options: &'a WriteOptions,
}

impl Target<'_> {
    /// Under which its writer is kept.
    fn writer_key(&self) -> String {
        format!("{}({}) {:?} {:?}", self.table, self.columns.join(","), self.key, self.options)
    }
}

impl SinkSpec {
    /// The topic that it writes to, if any.
    pub fn topic(&self) -> Option<&TopicTarget> {
        match self {
            Self::Topic { target } => Some(target),
            Self::Letters { topic, .. } => topic.as_ref(),
            Self::Table { .. } | Self::Files { .. } | Self::Print { .. } | Self::Blackhole => None,
        }
    }
}

/// One order of the coordinator.
#[derive(Clone, Debug)]
pub struct Order {
    pub job: String,
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub epoch: Epoch,
    pub sink: SinkId,
    pub file: PartFile,
    pub timestamp_us: i64,
    pub spec: SinkSpec,
}

/// A row that a topic or file does not take: the batch it is in, its place there, and why.
#[derive(Debug)]
pub struct RefusedRow {
    pub batch: usize,
    pub row: usize,
    pub error: String,
}

#[derive(Debug, Default)]
pub struct Published {
    pub rows: u64,
    pub refused: Vec<RefusedRow>,
}

#[derive(Debug, Error)]
pub enum PublishError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error("cannot write rows as Parquet: {0}")]
    Parquet(String),
    #[error("cannot format rows: {0}")]
    Format(#[from] ArrowError),
    #[error("cannot make dead letters: {0}")]
    DeadLetters(#[from] datafusion::common::DataFusionError),
}

impl PublishError {
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Table(error) => error.is_retryable() || matches!(error, TableError::GrantExpired),
            Self::Store(error) => error.is_retryable(),
            Self::Kafka(error) => error.is_retryable(),
            Self::Parquet(_) | Self::Format(_) | Self::DeadLetters(_) => false,
        }
    }
}

/// Publishes for one executor; keeps its writers while they work, as asking the backend for one costs questions to the store.
pub struct Publisher {
    services: Arc<ExecutorServices>,
    writers: Mutex<HashMap<String, Arc<dyn TableWriter>>>,
    topics: TopicPublishers,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("executor", &self.services.executor).finish_non_exhaustive()
    }
}

impl Publisher {
    pub fn new(services: Arc<ExecutorServices>) -> Self {
        Self { services, writers: Mutex::default(), topics: TopicPublishers::default() }
    }

    /// A job has ended here.
    pub fn forget(&self, incarnation: &Incarnation) {
        self.topics.forget(incarnation);
    }

    pub async fn publish(&self, order: &Order, grant: &dyn Grant) -> Result<PublishReport, PublishError> {
        let started = Instant::now();
        let batches = self.changes(order).await?;
        crash::point("publishing-before");
        let mut report = PublishReport {
            incarnation: order.incarnation.clone(),
            generation: order.generation,
            epoch: order.epoch,
            sink: order.sink,
            part: order.file.part,
            rows: 0,
            retries: 0,
            write_us: 0,
            refused: None,
        };
        let mut letters = vec![];
        match &order.spec {
            SinkSpec::Blackhole => {}
            SinkSpec::Print { name } => {
                report.rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
                tracing::info!(target: "print", table = %name, epoch = %order.epoch, "\n{}", printed(&batches)?);
            }
            SinkSpec::Topic { target } => letters = self.write_topic(order, target, &batches, grant, &mut report).await?,
            SinkSpec::Table { table, key, columns, options } => {
                let target = Target { table, key: key.as_ref(), columns, options };
                letters = self.write_table(order, target, &batches, grant, &mut report).await?;
            }
            SinkSpec::Files { target } => {
                let published = files::write(&self.services.places, order, target, &batches, grant).await?;
                report.rows = published.rows;
                letters = refused_rows(order, &target.place, &batches, published)?;
            }
            SinkSpec::Letters { table, columns, options, others, topic } => {
                let target = Target { table, key: None, columns, options };
                letters = self.write_table(order, target, &batches, grant, &mut report).await?;
                // What these refuse has no third place; the system's table has it.
                let mut copy = PublishReport { rows: 0, ..report.clone() };
                for other in others {
                    let refused = self.write_table(order, Target { table: other, ..target }, &batches, grant, &mut copy).await?;
                    if !refused.is_empty() {
                        tracing::warn!(job = %order.job, table = %other, rows = refused.len(), "a table refused letters; {table} has them");
                    }
                }
                if let Some(target) = topic {
                    let refused = self.write_topic(order, target, &batches, grant, &mut copy).await?;
                    if !refused.is_empty() {
                        tracing::warn!(job = %order.job, topic = %target.topic, rows = refused.len(), "a topic refused letters; {table} has them");
                    }
                }
                report.retries = copy.retries;
            }
        }
        if !letters.is_empty() {
            report.refused = Some(self.store_refused(order, &letters).await?);
        }
        // What another sink of the part still needs (dead letters, rarely) it reads from the file.
        self.services.parts.remove(&order.file.name);
        report.write_us = started.elapsed().as_micros() as u64;
        Ok(report)
    }

    async fn write_topic(
        &self,
        order: &Order,
        target: &TopicTarget,
        batches: &[RecordBatch],
        grant: &dyn Grant,
        report: &mut PublishReport,
    ) -> Result<Vec<DeadLetter>, PublishError> {
        let published = self.topics.publish(order, target, batches, grant).await?;
        report.rows = published.rows;
        refused_rows(order, format_args!("topic {:?}", target.topic), batches, published)
    }

    async fn write_table(
        &self,
        order: &Order,
        target: Target<'_>,
        batches: &[RecordBatch],
        grant: &dyn Grant,
        report: &mut PublishReport,
    ) -> Result<Vec<DeadLetter>, PublishError> {
        let mut letters = vec![];
        let writer = self.writer(target).await?;
        // The row of the part that a batch begins with: a refused row's identity must not depend on how rows are cut into batches.
        let mut first = 0;
        for batch in batches {
            let written = if is_delete(batch) {
                writer.delete(batch, order.timestamp_us, grant).await
            } else {
                writer.write(batch, order.timestamp_us, grant).await
            };
            let outcome = match written {
                Ok(outcome) => outcome,
                Err(error) => {
                    // The backend knows whether its writer is what is broken (a table that was dropped and made again), and has it prepared anew.
                    self.writers.lock().remove(&target.writer_key());
                    return Err(error.into());
                }
            };
            report.rows += outcome.rows;
            report.retries += outcome.retries;
            for refused in &outcome.refused {
                letters.push(refused_row(order, target.table, batch, first, refused)?);
            }
            first += batch.num_rows();
        }
        crash::point("publishing-written");
        Ok(letters)
    }

    /// The part's changes for the sink: from memory when this executor computed it, else from the store.
    async fn changes(&self, order: &Order) -> Result<Vec<RecordBatch>, PublishError> {
        if order.file.name.is_empty() {
            return Ok(vec![]);
        }
        let bytes = match self.services.parts.get(&order.file.name) {
            Some(bytes) => bytes,
            None => self.services.store.read(&order.file.name).await?,
        };
        Ok(part::decode_sink(&order.file.name, &bytes, order.file.crc32, order.sink)?)
    }

    async fn writer(&self, target: Target<'_>) -> Result<Arc<dyn TableWriter>, PublishError> {
        let key = target.writer_key();
        if let Some(writer) = self.writers.lock().get(&key) {
            return Ok(writer.clone());
        }
        let schema = self.services.tables.describe(target.table).await?;
        let stored = schema.ok_or_else(|| TableError::NoSuchTable { table: target.table.to_string() })?;
        let schema = DeclaredKey::applied(target.key, stored);
        let writer = self.services.tables.writer(&schema, target.columns, target.options).await?;
        self.writers.lock().insert(key, writer.clone());
        Ok(writer)
    }

    async fn store_refused(&self, order: &Order, letters: &[DeadLetter]) -> Result<PartFile, PublishError> {
        let sinks = BTreeMap::from([(DEAD_LETTERS, vec![dead_letters::batch(letters)?])]);
        let Encoded { bytes, crc32, state_bytes } = part::encode(&Sections { sinks, state: vec![] })?;
        let nonce = Nonce(uuid::Uuid::new_v4().simple().to_string());
        let name = format!("{}-refused-{}-{nonce}", order.file.name, order.sink);
        self.services.store.create(&name, bytes.clone()).await?;
        let rows = BTreeMap::from([(DEAD_LETTERS, letters.len() as u64)]);
        Ok(PartFile { part: order.file.part, name, bytes: bytes.len() as u64, crc32, rows, state_bytes, state_end: None })
    }
}

/// Rows with a sign in front, one table per run of rows or deletes.
fn printed(batches: &[RecordBatch]) -> Result<String, ArrowError> {
    let mut tables = vec![];
    for run in batches.chunk_by(|a, b| a.schema_ref() == b.schema_ref()) {
        let signed = run.iter().map(signed).collect::<Result<Vec<_>, _>>()?;
        tables.push(pretty_format_batches(&signed)?.to_string());
    }
    Ok(tables.join("\n"))
}

fn signed(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let sign = if is_delete(batch) { "-" } else { "+" };
    let signs = StringArray::from_iter_values(std::iter::repeat_n(sign, batch.num_rows()));
    let mut fields = vec![Arc::new(Field::new("±", DataType::Utf8, false))];
    fields.extend(batch.schema_ref().fields().iter().cloned());
    let mut columns: Vec<ArrayRef> = vec![Arc::new(signs)];
    columns.extend_from_slice(batch.columns());
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn refused_rows(
    order: &Order,
    place: impl fmt::Display,
    batches: &[RecordBatch],
    published: Published,
) -> Result<Vec<DeadLetter>, PublishError> {
    let before = |batch: usize| batches[..batch].iter().map(RecordBatch::num_rows).sum();
    let letter =
        |RefusedRow { batch, row, error }| refused_row(order, &place, &batches[batch], before(batch), &Refused { row, error });
    published.refused.into_iter().map(letter).collect()
}

fn refused_row(
    order: &Order,
    place: impl fmt::Display,
    batch: &RecordBatch,
    first: usize,
    refused: &Refused,
) -> Result<DeadLetter, PublishError> {
    let mut json = LineDelimitedWriter::new(Vec::new());
    json.write(&batch.slice(refused.row, 1))?;
    json.finish()?;
    let (raw, raw_bytes) = cut(Some(&json.into_inner()));
    let (part, row) = (order.file.part, first + refused.row);
    let what = if is_delete(batch) { "delete" } else { "row" };
    Ok(DeadLetter {
        id: format!("{}/sink-{}/{}/{part}/{row}", order.incarnation, order.sink, order.epoch),
        job: order.job.clone(),
        step: "publish",
        error: format!("{place} refused the {what}: {}", refused.error),
        topic: None,
        partition: None,
        offset: None,
        timestamp_ms: None,
        key: None,
        raw,
        raw_bytes,
    })
}

#[cfg(test)]
mod tests {
    //! What the tests of the sinks share.
    use std::sync::atomic::{AtomicUsize, Ordering};

    use polybolos_streaming::ids::PartIndex;

    use super::*;

    /// A grant that holds so often, and not afterwards; counts who asks.
    pub(super) struct Held {
        times: usize,
        asked: AtomicUsize,
    }

    impl Held {
        pub(super) fn times(times: usize) -> Self {
            Self { times, asked: AtomicUsize::new(0) }
        }

        pub(super) fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    impl Grant for Held {
        fn holds(&self) -> bool {
            self.asked.fetch_add(1, Ordering::Relaxed) < self.times
        }
    }

    /// An order for a part whose rows the test has.
    pub(super) fn order() -> Order {
        Order {
            job: "job".into(),
            incarnation: Incarnation::new("incarnation"),
            generation: Generation(1),
            epoch: Epoch(3),
            sink: SinkId(0),
            file: PartFile::none(PartIndex(0)),
            timestamp_us: 1,
            spec: SinkSpec::Blackhole,
        }
    }
}
