//! Writing: a batch becomes keys and rows in one pass, rows that exist are merged cell by cell, and everything is on disk when
//! [`TableWriter::write`] or [`TableWriter::delete`] returns. One fsync per call, not per row.
use std::{collections::HashMap, sync::Arc};

use arrow::{array::ArrayRef, record_batch::RecordBatch};
use async_trait::async_trait;
use fjall::{PersistMode, UserKey};
use polybolos_tables::{Grant, Refused, TableError, TableWriter, WriteOptions, WriteOutcome};

use super::{
    Store, Table,
    cells::{self, Deletion, NEVER, Written},
    columns::ColumnReader,
    graves, key,
};

/// Rows between two looks at the grant; also what is atomic on disk. At 13 short columns about a megabyte, some milliseconds.
const CHUNK_ROWS: usize = 4096;
/// A row's grave has its key, too.
const KEY_BYTES_MAX: usize = key::BYTES_MAX - graves::PREFIX_BYTES;
/// Cassandra refuses mutations above half a commit-log segment, 16 MiB by default.
const ROW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Writes some columns of one table.
#[derive(Debug)]
pub(super) struct EmbeddedWriter {
    store: Arc<Store>,
    table: Arc<Table>,
    /// By the writer's order: which column of the table.
    columns: Arc<[usize]>,
    /// The key's columns, in the key's order: what a batch of deletes has.
    key_columns: Arc<[usize]>,
    ttl_us: Option<i64>,
}

/// What is done to every row of a batch.
#[derive(Clone, Copy, Debug)]
enum Change {
    Upsert(Written),
    Delete(Deletion),
}

impl EmbeddedWriter {
    /// Checks that `columns` are the table's and hold its whole primary key.
    pub(super) fn new(
        store: Arc<Store>,
        table: Arc<Table>,
        columns: &[String],
        options: &WriteOptions,
    ) -> Result<Self, TableError> {
        let schema = &table.stored.schema;
        let mut positions = Vec::with_capacity(columns.len());
        let mut mismatches = Vec::new();
        for name in columns {
            match schema.columns.iter().position(|column| column.name == *name) {
                Some(position) if positions.contains(&position) => mismatches.push(format!("column {name} is written twice")),
                Some(position) => positions.push(position),
                None => mismatches.push(format!("it has no column {name}")),
            }
        }
        for key in schema.primary_key().filter(|key| !columns.iter().any(|name| name == key)) {
            mismatches.push(format!("key column {key} is not written"));
        }
        if !mismatches.is_empty() {
            return Err(TableError::Mismatch { table: schema.name.to_string(), mismatches });
        }
        let key_columns = table.stored.key.iter().map(|(position, _)| *position).collect();
        let ttl_us = options.ttl_ms.map(|ttl_ms| i64::try_from(ttl_ms).unwrap_or(i64::MAX).saturating_mul(1000));
        Ok(Self { store, table, columns: positions.into(), key_columns, ttl_us })
    }

    fn check(&self, batch: &RecordBatch, columns: &[usize]) -> Result<(), TableError> {
        let table = &self.table.stored.schema;
        if batch.num_columns() != columns.len() {
            let (got, want) = (batch.num_columns(), columns.len());
            return Err(TableError::Bug(format!("a batch for table {} has {got} columns, its writer {want}", table.name)));
        }
        let mut mismatches = Vec::new();
        for (array, position) in batch.columns().iter().zip(columns) {
            let column = &table.columns[*position];
            if *array.data_type() != column.data_type {
                mismatches.push(format!("column {} is {}, the batch has {}", column.name, column.data_type, array.data_type()));
            }
        }
        if mismatches.is_empty() {
            return Ok(());
        }
        Err(TableError::Mismatch { table: table.name.to_string(), mismatches })
    }
}

#[async_trait]
impl TableWriter for EmbeddedWriter {
    async fn write(&self, batch: &RecordBatch, timestamp_us: i64, grant: &dyn Grant) -> Result<WriteOutcome, TableError> {
        let expires_us = self.ttl_us.map_or(NEVER, |ttl_us| timestamp_us.saturating_add(ttl_us));
        let change = Change::Upsert(Written { timestamp_us, expires_us });
        self.change(batch, &self.columns, change, grant).await
    }

    async fn delete(&self, keys: &RecordBatch, timestamp_us: i64, grant: &dyn Grant) -> Result<WriteOutcome, TableError> {
        let made_us = self.store.now_us();
        self.change(keys, &self.key_columns, Change::Delete(Deletion { timestamp_us, made_us }), grant).await
    }
}

impl EmbeddedWriter {
    async fn change(
        &self,
        batch: &RecordBatch,
        columns: &Arc<[usize]>,
        change: Change,
        grant: &dyn Grant,
    ) -> Result<WriteOutcome, TableError> {
        self.check(batch, columns)?;
        let mut outcome = WriteOutcome::default();
        for start in (0..batch.num_rows()).step_by(CHUNK_ROWS) {
            if !grant.holds() {
                return Err(TableError::GrantExpired);
            }
            let chunk = batch.slice(start, CHUNK_ROWS.min(batch.num_rows() - start));
            let (store, table, columns) = (Arc::clone(&self.store), Arc::clone(&self.table), Arc::clone(columns));
            let written = super::blocking(move || write_chunk(&store, &table, &columns, &chunk, change)).await?;
            outcome.rows += written.rows;
            outcome.bytes += written.bytes;
            outcome.refused.extend(written.refused.into_iter().map(|Refused { row, error }| Refused { row: start + row, error }));
        }
        if batch.num_rows() > 0 {
            // Also when no cell changed: an earlier call may have written the same and died before this line.
            let (store, table) = (Arc::clone(&self.store), Arc::clone(&self.table));
            super::blocking(move || {
                store.database.persist(PersistMode::SyncAll).map_err(|error| store.error(error))?;
                graves::bury_now_and_then(&store, &table)
            })
            .await?;
        }
        self.store.count_written(&outcome);
        Ok(outcome)
    }
}

fn write_chunk(
    store: &Store,
    table: &Table,
    columns: &[usize],
    chunk: &RecordBatch,
    change: Change,
) -> Result<WriteOutcome, TableError> {
    let encoder = RowEncoder::new(table, columns, chunk.columns())?;
    let layouts = &table.stored.cell_layouts;
    let mut outcome = WriteOutcome::default();
    let mut rows: Vec<(UserKey, Vec<u8>)> = Vec::with_capacity(chunk.num_rows());
    let mut seen: HashMap<UserKey, usize> = HashMap::with_capacity(chunk.num_rows());
    let (mut key, mut row, mut merged) = (Vec::new(), Vec::new(), Vec::new());

    // Read, merge and write of a row must not interleave with another writer's.
    let _writing = table.writing.lock();
    for index in 0..chunk.num_rows() {
        if let Err(error) = encoder.encode(index, change, &mut key, &mut row) {
            outcome.refused.push(Refused { row: index, error });
            continue;
        }
        outcome.rows += 1;
        outcome.bytes += (key.len() + row.len()) as u64;
        let key = UserKey::from(&key);
        merged.clear();
        if let Some(earlier) = seen.get(&key) {
            cells::merge(layouts, &rows[*earlier].1, &row, &mut merged).map_err(|damage| table.damaged(damage))?;
            rows[*earlier].1.clone_from(&merged);
            continue;
        }
        match table.rows.get(&key).map_err(|error| store.error(error))? {
            Some(stored) => {
                cells::merge(layouts, &stored, &row, &mut merged).map_err(|damage| table.damaged(damage))?;
                if merged != *stored {
                    seen.insert(key.clone(), rows.len());
                    rows.push((key, merged.clone()));
                }
            }
            None => {
                seen.insert(key.clone(), rows.len());
                rows.push((key, row.clone()));
            }
        }
    }
    let mut transaction = fjall::OwnedWriteBatch::with_capacity(store.database.clone(), rows.len());
    let ends_us = match change {
        Change::Upsert(written) => written.expires_us,
        Change::Delete(deletion) => deletion.made_us,
    };
    for (key, row) in rows {
        if ends_us != NEVER {
            transaction.insert(&store.graves, graves::key(table.stored.number, ends_us, &key), b"");
        }
        transaction.insert(&table.rows, key, row);
    }
    transaction.commit().map_err(|error| store.error(error))?;
    Ok(outcome)
}

/// Turns rows of one batch into keys and values.
struct RowEncoder<'a> {
    table: &'a Table,
    readers: Vec<ColumnReader>,
    /// By key column: index into `readers`.
    key: Vec<usize>,
    /// By cell: index into `readers`, where the column is written.
    cells: Vec<Option<usize>>,
}

impl<'a> RowEncoder<'a> {
    fn new(table: &'a Table, columns: &[usize], arrays: &[ArrayRef]) -> Result<Self, TableError> {
        let stored = &table.stored;
        let readers = arrays.iter().map(ColumnReader::new).collect::<Option<Vec<_>>>();
        let reader_of = |position: usize| columns.iter().position(|column| *column == position);
        Ok(Self {
            table,
            readers: readers.ok_or_else(|| TableError::Bug(format!("table {} has a type without layout", stored.schema.name)))?,
            key: stored.key.iter().filter_map(|(position, _)| reader_of(*position)).collect(),
            cells: stored.cells.iter().map(|position| reader_of(*position)).collect(),
        })
    }

    /// Replaces `key` and `row`; or says why the store will never take the row.
    fn encode(&self, index: usize, change: Change, key: &mut Vec<u8>, row: &mut Vec<u8>) -> Result<(), String> {
        self.encode_key(index, key)?;
        row.clear();
        let written = match change {
            Change::Upsert(written) => written,
            Change::Delete(deletion) => {
                cells::encode_deletion(deletion, row);
                return Ok(());
            }
        };
        let readers: Vec<_> = self.cells.iter().map(|reader| reader.map(|reader| &self.readers[reader])).collect();
        cells::encode(&self.table.stored.cell_layouts, &readers, index, written, row);
        if row.len() > ROW_BYTES_MAX {
            return Err(format!("the row has {} bytes, more than the {ROW_BYTES_MAX} that a row may have", row.len()));
        }
        Ok(())
    }

    fn encode_key(&self, index: usize, key: &mut Vec<u8>) -> Result<(), String> {
        let stored = &self.table.stored;
        key.clear();
        key.resize(key::TOKEN_BYTES, 0);
        for (component, reader) in self.key.iter().enumerate() {
            let reader = &self.readers[*reader];
            if reader.is_null(index) {
                return Err(format!("key column {} is null", self.key_name(component)));
            }
            if stored.partition_columns == 1 && component == 0 && reader.is_empty(index) {
                return Err(format!("key column {} is empty", self.key_name(component)));
            }
            reader.put_key(index, key);
            if component + 1 == stored.partition_columns {
                let token = key::token(&key[key::TOKEN_BYTES..]);
                key[..key::TOKEN_BYTES].copy_from_slice(&token);
            }
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(format!("the primary key has {} bytes, more than the {KEY_BYTES_MAX} that a key may have", key.len()));
        }
        Ok(())
    }

    fn key_name(&self, component: usize) -> &str {
        let stored = &self.table.stored;
        &stored.schema.columns[stored.key[component].0].name
    }
}
