//! The traits a table store implements: [`TableBackend`] for schema, scans and writers, [`TableWriter`] for the hot path.
use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use arrow::{array::ArrayRef, record_batch::RecordBatch};
use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{TableError, TableName, TableSchema};

/// How to create a table that does not exist.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// The keyspace's replication factor where the keyspace has to be created too (SimpleStrategy); default 1.
    pub replication_factor: Option<u32>,
}

/// How a sink writes. Keys are those of the `WITH` clause, documented with the Cassandra connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteOptions {
    /// Driver batches under way at once.
    pub in_flight: usize,
    /// Most rows in one unlogged batch; rows of a batch share their replicas.
    pub batch_rows: usize,
    /// Most bytes of values in one batch (Cassandra warns from `batch_size_warn_threshold`, 5 KiB by default).
    pub batch_bytes: usize,
    /// `ONE`, `QUORUM`, `LOCAL_QUORUM`, …
    pub consistency: String,
    /// Retries of one batch, with exponential back-off and jitter, before the write gives up as `Unavailable`.
    pub retries: u32,
    /// How long a row stays after its write timestamp. What is left of it when it is written is what the store is told (EPOCHS rule 14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { in_flight: 32, batch_rows: 16, batch_bytes: 16 * 1024, consistency: "LOCAL_QUORUM".into(), retries: 5, ttl_ms: None }
    }
}

/// How rows are looked up by key. Keys are those of the `WITH` clause, documented with the Cassandra connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupOptions {
    /// Keys asked for at once.
    pub in_flight: usize,
    /// For how long what was found is taken for what is there; `None`: each epoch asks again.
    pub cache_ttl_ms: Option<u64>,
    /// Most rows kept so.
    pub cache_max_rows: Option<usize>,
}

impl Default for LookupOptions {
    fn default() -> Self {
        Self { in_flight: 64, cache_ttl_ms: None, cache_max_rows: None }
    }
}

/// The right to write, checked before every batch (EPOCHS rule 6): a process that slept past its grant must not write.
pub trait Grant: Send + Sync {
    /// Whether writing is allowed at this moment.
    fn holds(&self) -> bool;
}

/// A row the store will never take (too large, out of range, …): its index in the batch, and the store's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub row: usize,
    pub error: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOutcome {
    pub rows: u64,
    pub bytes: u64,
    pub retries: u64,
    pub refused: Vec<Refused>,
}

/// Comparison in a pushed-down key predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredicateOp {
    Eq,
    In,
    Lt,
    LtEq,
    Gt,
    GtEq,
}

/// `column op values`; `values` has one element, or for `In` at least one, each once.
#[derive(Clone, Debug)]
pub struct KeyPredicate {
    pub column: String,
    pub op: PredicateOp,
    pub values: ArrayRef,
}

/// What to read. A backend applies every predicate that [`TableBackend::supports`] accepted, exactly.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    pub table: TableSchema,
    /// Column names, in output order. May be empty: then batches carry row counts only.
    pub columns: Vec<String>,
    pub predicates: Vec<KeyPredicate>,
    pub limit: Option<usize>,
}

/// One independent piece of a scan (a token range, a key range), to be read by any task on any executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanSlice {
    /// Meaning is the backend's own, e.g. `-9223372036854775808..0`.
    pub descriptor: String,
}

/// The time by the clock of one node of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTime {
    /// Its address, for messages.
    pub node: String,
    /// Microseconds since 1970.
    pub at_us: i64,
}

#[async_trait]
pub trait TableBackend: Debug + Send + Sync {
    /// `cassandra` or `embedded`, for messages.
    fn store(&self) -> &str;

    /// The stored table, or `None` where there is none.
    async fn describe(&self, table: &TableName) -> Result<Option<TableSchema>, TableError>;

    /// Of a column that a described table has and that cannot be used: `column "c": why not`.
    fn unusable(&self, _table: &TableName, _column: &str) -> Option<String> {
        None
    }

    /// Creates keyspace and table where missing; an existing table is left as it is (check it with `describe`).
    async fn create(&self, schema: &TableSchema, options: &CreateOptions) -> Result<(), TableError>;

    /// How long the store remembers a deletion, in seconds; `None` where there is no such table. [`crate::check::deletes`] judges it.
    async fn gc_grace_seconds(&self, table: &TableName) -> Result<Option<u64>, TableError>;

    /// All tables outside the store's own system keyspaces.
    async fn list(&self) -> Result<Vec<TableName>, TableError>;

    /// The store's clock in microseconds since 1970, to which write timestamps are anchored.
    async fn clock_us(&self) -> Result<i64, TableError>;

    /// The same, with the node that told it, where a store has several whose clocks differ.
    async fn node_time(&self) -> Result<NodeTime, TableError> {
        Ok(NodeTime { node: self.store().to_owned(), at_us: self.clock_us().await? })
    }

    /// How long after it was sent a write may still take effect, though whoever sent it may be gone. Zero: all has happened when
    /// its writer returns.
    fn writes_linger(&self) -> Duration {
        Duration::ZERO
    }

    /// A writer of `columns` (all key columns among them); other columns stay unset. Prepared once, used for many epochs.
    async fn writer(
        &self,
        table: &TableSchema,
        columns: &[String],
        options: &WriteOptions,
    ) -> Result<Arc<dyn TableWriter>, TableError>;

    /// Which of `predicates` a scan would apply exactly; the same length as `predicates`.
    fn supports(&self, table: &TableSchema, predicates: &[KeyPredicate]) -> Vec<bool>;

    /// Splits a scan into about `wanted` slices that together cover it exactly once.
    async fn slices(&self, request: &ScanRequest, wanted: usize) -> Result<Vec<ScanSlice>, TableError>;

    /// Reads one slice; batches of at most 8 192 rows with the requested columns (nullability as in [`TableSchema::arrow`]).
    fn scan(&self, request: &ScanRequest, slice: &ScanSlice) -> BoxStream<'static, Result<RecordBatch, TableError>>;

    /// Rows and other figures for the operator's eyes, by name. Empty where the store has none.
    fn statistics(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
}

#[async_trait]
pub trait TableWriter: Debug + Send + Sync {
    /// Upserts every row with `timestamp_us`; NULL is written as NULL. `batch` has the writer's columns in the writer's order, at most
    /// one row per primary key. Returns when every row is durable or refused; `Unavailable` when the retry budget is used up (rows
    /// before it may have been written: writing all again is harmless).
    ///
    /// With [`WriteOptions::ttl_ms`] a row ends that long after `timestamp_us`, however late it is written; one that has ended already is
    /// deleted.
    async fn write(&self, batch: &RecordBatch, timestamp_us: i64, grant: &dyn Grant) -> Result<WriteOutcome, TableError>;

    /// Deletes rows with `timestamp_us`: what was written up to then is gone, what is written later stays, in whatever order they come.
    /// `keys` has exactly the primary key's columns, in the key's order. Otherwise as [`TableWriter::write`].
    async fn delete(&self, keys: &RecordBatch, timestamp_us: i64, grant: &dyn Grant) -> Result<WriteOutcome, TableError>;
}
