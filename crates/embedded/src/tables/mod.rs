//! Keyed tables in a local folder, in place of Cassandra: the same traits, the same meaning. One process at a time.
//!
//! Rows live in an LSM store (fjall), a keyspace per table, ordered by primary key ([`key`]); a row holds its cells with their write
//! timestamps ([`cells`]). The store checks every block and journal entry it reads against a checksum.
//!
//! * [`types`]: which column types there are;
//! * [`catalog`]: the durable list of tables;
//! * [`columns`]: Arrow to bytes and back;
//! * [`writer`], [`scan`], [`ranges`]: the two ways in and out, and how predicates become key ranges;
//! * [`graves`]: deletions and expired rows, until their grace has passed.
mod catalog;
mod cells;
mod columns;
mod graves;
mod key;
mod ranges;
mod scan;
#[cfg(test)]
mod tests;
mod types;
mod writer;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use catalog::StoredSchema;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode};
use futures::stream::BoxStream;
use parking_lot::{Mutex, RwLock};
use polybolos_tables::{
    CreateOptions, KeyPredicate, ScanRequest, ScanSlice, TableBackend, TableError, TableName, TableSchema, TableWriter,
    WriteOptions, WriteOutcome,
};

use crate::trouble::{POISONED, remedy};

const CATALOG: &str = "catalog";
const GRAVES: &str = "graves";
/// How long a deletion is kept, so that an older write that comes late finds it: a day is far beyond the hour that EPOCHS rule 14 asks.
const GRACE_US: i64 = 24 * 3600 * 1_000_000;
/// Between two looks for what can be buried.
const BURY_EVERY_US: i64 = 60 * 1_000_000;

/// The microseconds since 1970, by somebody's clock.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;
/// Rows of a table that wait in memory before they become a file. Small, because every table may have as much.
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// The store's least; the journal is what a start has to replay.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes on disk that are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Damage(&'static str);

/// All embedded tables of one data folder.
pub struct EmbeddedTables {
    store: Arc<Store>,
    catalog: Keyspace,
    tables: RwLock<HashMap<TableName, Arc<Table>>>,
    creating: tokio::sync::Mutex<()>,
}

/// The store below the tables, and what was done to it.
struct Store {
    folder: PathBuf,
    database: Database,
    graves: Keyspace,
    grace_us: i64,
    clock: Clock,
    rows_written: AtomicU64,
    bytes_written: AtomicU64,
}

/// One table: its schema, its rows, and the lock that makes reading, merging and writing a row one step.
struct Table {
    stored: StoredSchema,
    rows: Keyspace,
    writing: Mutex<()>,
    /// When somebody last looked for what can be buried.
    buried_us: AtomicI64,
}

impl EmbeddedTables {
    /// Opens the tables below `folder`, which is made where missing. Another process that has them open is an error.
    pub async fn open(folder: impl AsRef<Path>) -> Result<Self, TableError> {
        Self::open_with_clock(folder, Arc::new(system_clock_us)).await
    }

    /// The same with a clock of one's own, by which rows expire and deletions are forgotten.
    pub async fn open_with_clock(folder: impl AsRef<Path>, clock: Clock) -> Result<Self, TableError> {
        let folder = folder.as_ref().to_path_buf();
        blocking(move || Self::open_blocking(folder, clock)).await
    }

    fn open_blocking(folder: PathBuf, clock: Clock) -> Result<Self, TableError> {
        let opened = Database::builder(&folder)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(1)
            .open()
            .map_err(|error| store_error(&folder, error))?;
        let graves = keyspace(&opened, GRAVES).map_err(|error| store_error(&folder, error))?;
        let store = Arc::new(Store {
            folder,
            database: opened,
            graves,
            grace_us: GRACE_US,
            clock,
            rows_written: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        });
        let catalog = store.keyspace(CATALOG)?;
        let mut tables = HashMap::new();
        for entry in catalog.iter() {
            let entry = entry.value().map_err(|error| store.error(error))?;
            let stored = StoredSchema::decode(&entry).map_err(|Damage(message)| TableError::Corrupt {
                object: format!("the table catalog in {}", store.folder.display()),
                message: message.into(),
            })?;
            let table = Table::open(&store, stored)?;
            while graves::bury(&store, &table)? > 0 {}
            tables.insert(table.stored.schema.name.clone(), Arc::new(table));
        }
        Ok(Self { store, catalog, tables: RwLock::new(tables), creating: tokio::sync::Mutex::new(()) })
    }

    fn table(&self, name: &TableName) -> Result<Arc<Table>, TableError> {
        let table = self.tables.read().get(name).cloned();
        table.ok_or_else(|| TableError::NoSuchTable { table: name.to_string() })
    }
}

impl Store {
    fn keyspace(&self, name: &str) -> Result<Keyspace, TableError> {
        keyspace(&self.database, name).map_err(|error| self.error(error))
    }

    fn now_us(&self) -> i64 {
        (self.clock)()
    }

    fn error(&self, error: fjall::Error) -> TableError {
        store_error(&self.folder, error)
    }

    fn count_written(&self, outcome: &WriteOutcome) {
        self.rows_written.fetch_add(outcome.rows, Relaxed);
        self.bytes_written.fetch_add(outcome.bytes, Relaxed);
    }
}

impl Table {
    fn open(store: &Store, stored: StoredSchema) -> Result<Self, TableError> {
        let rows = store.keyspace(&stored.keyspace_name())?;
        Ok(Self { stored, rows, writing: Mutex::new(()), buried_us: AtomicI64::new(store.now_us()) })
    }

    /// Whether it is time to look for what can be buried; true for one caller.
    fn may_bury(&self, now_us: i64) -> bool {
        let last_us = self.buried_us.load(Relaxed);
        now_us - last_us >= BURY_EVERY_US && self.buried_us.compare_exchange(last_us, now_us, Relaxed, Relaxed).is_ok()
    }

    fn damaged(&self, Damage(message): Damage) -> TableError {
        TableError::Corrupt { object: format!("table {}", self.stored.schema.name), message: message.into() }
    }
}

#[async_trait]
impl TableBackend for EmbeddedTables {
    fn store(&self) -> &str {
        "embedded"
    }

    async fn describe(&self, table: &TableName) -> Result<Option<TableSchema>, TableError> {
        Ok(self.tables.read().get(table).map(|table| table.stored.schema.clone()))
    }

    async fn create(&self, schema: &TableSchema, _options: &CreateOptions) -> Result<(), TableError> {
        let _creating = self.creating.lock().await;
        if self.tables.read().contains_key(&schema.name) {
            return Ok(());
        }
        let number = self.tables.read().values().map(|table| table.stored.number + 1).max().unwrap_or(0);
        let stored = StoredSchema::new(number, schema)?;
        let (store, catalog) = (Arc::clone(&self.store), self.catalog.clone());
        let table = blocking(move || {
            // The keyspace first: a crash in between leaves an empty one, which the next table of this number takes over.
            let (name, entry) = (stored.schema.name.to_string(), stored.encode());
            let table = Table::open(&store, stored)?;
            catalog.insert(name, entry).map_err(|error| store.error(error))?;
            store.database.persist(PersistMode::SyncAll).map_err(|error| store.error(error))?;
            Ok(table)
        })
        .await?;
        self.tables.write().insert(schema.name.clone(), Arc::new(table));
        Ok(())
    }

    async fn gc_grace_seconds(&self, table: &TableName) -> Result<Option<u64>, TableError> {
        Ok(self.tables.read().contains_key(table).then_some((self.store.grace_us / 1_000_000) as u64))
    }

    async fn list(&self) -> Result<Vec<TableName>, TableError> {
        let mut names: Vec<_> = self.tables.read().keys().cloned().collect();
        names.sort();
        Ok(names)
    }

    async fn clock_us(&self) -> Result<i64, TableError> {
        match self.store.now_us() {
            0 => Err(TableError::Rejected { message: "this machine's clock is before 1970; set it".into(), source: None }),
            now_us => Ok(now_us),
        }
    }

    async fn writer(
        &self,
        table: &TableSchema,
        columns: &[String],
        options: &WriteOptions,
    ) -> Result<Arc<dyn TableWriter>, TableError> {
        let table = self.table(&table.name)?;
        Ok(Arc::new(writer::EmbeddedWriter::new(Arc::clone(&self.store), table, columns, options)?))
    }

    fn supports(&self, table: &TableSchema, predicates: &[KeyPredicate]) -> Vec<bool> {
        predicates.iter().map(|predicate| ranges::supports(table, predicate)).collect()
    }

    async fn slices(&self, request: &ScanRequest, wanted: usize) -> Result<Vec<ScanSlice>, TableError> {
        let table = self.table(&request.table.name)?;
        Ok(ranges::slices(&table.stored, &request.predicates, wanted))
    }

    fn scan(&self, request: &ScanRequest, slice: &ScanSlice) -> BoxStream<'static, Result<RecordBatch, TableError>> {
        scan::scan(&self.store, self.table(&request.table.name), request, slice)
    }

    fn statistics(&self) -> BTreeMap<String, u64> {
        let tables = self.tables.read();
        let mut figures = BTreeMap::from([
            ("tables".to_owned(), tables.len() as u64),
            ("rows_written".to_owned(), self.store.rows_written.load(Relaxed)),
            ("bytes_written".to_owned(), self.store.bytes_written.load(Relaxed)),
            ("disk_bytes".to_owned(), self.store.database.disk_space().unwrap_or(0)),
        ]);
        for (name, table) in tables.iter() {
            figures.insert(format!("rows_approximate.{name}"), table.rows.approximate_len() as u64);
        }
        figures
    }
}

fn keyspace(database: &Database, name: &str) -> fjall::Result<Keyspace> {
    database.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))
}

/// 0 where the clock is before 1970.
fn system_clock_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    since_1970.and_then(|age| i64::try_from(age.as_micros()).ok()).unwrap_or(0)
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, TableError> + Send + 'static) -> Result<T, TableError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(TableError::Bug(format!("the embedded tables' thread died: {error}"))),
    }
}

/// An error of the store in our words: what is wrong, where, and what to do.
fn store_error(folder: &Path, error: fjall::Error) -> TableError {
    let object = || format!("the tables in {}", folder.display());
    match error {
        fjall::Error::Locked => TableError::Rejected {
            message: format!(
                "the tables in {} are open in another process; stop it or choose another data folder",
                folder.display()
            ),
            source: None,
        },
        fjall::Error::Poisoned => TableError::Unavailable { store: object(), message: POISONED.into(), source: None },
        fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io)) => {
            use std::io::ErrorKind::{InvalidData, UnexpectedEof};
            if matches!(io.kind(), InvalidData | UnexpectedEof) {
                return TableError::Corrupt { object: object(), message: io.to_string() };
            }
            let message = format!("{io}{}", remedy(&io));
            TableError::Unavailable { store: object(), message, source: Some(Box::new(io)) }
        }
        other => TableError::Corrupt { object: object(), message: other.to_string() },
    }
}

impl fmt::Debug for EmbeddedTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedTables").field("folder", &self.store.folder).finish_non_exhaustive()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.stored.schema.name).finish_non_exhaustive()
    }
}
