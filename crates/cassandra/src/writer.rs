//! The sink: rows of a batch go out in unlogged batches whose rows share their replicas, a few in flight, each retried within a budget. A
//! batch that the server refuses is split until the rows at fault are alone. Deletes go the same way.
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, TimeUnit},
};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use polybolos_tables::{Column, Grant, Refused, TableError, TableSchema, TableWriter, WriteOptions, WriteOutcome};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scylla::{
    client::session::Session,
    statement::{
        Consistency,
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
};

use crate::{
    catalog::{Catalog, prepared},
    encode::{Marks, Rows},
    errors::{About, STORE, is_of_another_statement, may_be_behind, of_execution, refusal},
    types::{native_name, quoted, typed_mark},
};

/// First pause before a retry; doubled each time, with jitter.
const BACKOFF: Duration = Duration::from_millis(50);

/// Cassandra's limit: 20 years.
const MAX_TTL_SECONDS: i32 = 20 * 365 * 24 * 3600;

pub(crate) struct CassandraWriter {
    session: Arc<Session>,
    insert: PreparedStatement,
    /// `options.batch_rows` times `insert`: what most groups are, made once.
    full: Batch,
    delete: PreparedStatement,
    /// The columns written, in the order in which batches have them.
    columns: Vec<String>,
    /// Where the key's columns are among those written, in the key's order.
    key: Vec<usize>,
    /// The table for which the statements were prepared.
    table: TableSchema,
    /// What it was asked for.
    declared: TableSchema,
    /// An answer said that the table, or what the server made of the statements, is another: they have to be prepared again.
    stale: AtomicBool,
    catalog: Arc<Catalog>,
    options: WriteOptions,
    consistency: Consistency,
    jitter: Mutex<ChaCha8Rng>,
}

impl fmt::Debug for CassandraWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CassandraWriter").field("table", &self.table.name).finish_non_exhaustive()
    }
}

fn consistency(name: &str) -> Result<Consistency, TableError> {
    Ok(match name.to_uppercase().as_str() {
        "ANY" => Consistency::Any,
        "ONE" => Consistency::One,
        "TWO" => Consistency::Two,
        "THREE" => Consistency::Three,
        "QUORUM" => Consistency::Quorum,
        "ALL" => Consistency::All,
        "LOCAL_QUORUM" => Consistency::LocalQuorum,
        "EACH_QUORUM" => Consistency::EachQuorum,
        "LOCAL_ONE" => Consistency::LocalOne,
        _ => {
            let message = format!("'sink.consistency' = '{name}' is no consistency level; write ONE, QUORUM, LOCAL_QUORUM, …");
            return Err(TableError::Unsupported { message });
        }
    })
}

async fn prepare(
    session: &Session,
    table: &TableSchema,
    what: &str,
    statement: String,
    consistency: Consistency,
) -> Result<PreparedStatement, TableError> {
    let doing = format!("preparing {what} {}", table.name);
    let mut prepared = prepared(session, &doing, statement).await?;
    prepared.set_is_idempotent(true);
    prepared.set_consistency(consistency);
    Ok(prepared)
}

/// Why a batch was not written.
enum Unsent {
    /// The table or its store: no row of it was taken.
    Failed(TableError),
    /// The answer to this batch is no.
    Refused(About, TableError),
}

/// One kind of change: its statement, and the rows it is bound to.
struct Changes<'a> {
    statement: &'a PreparedStatement,
    /// The columns that the rows have, of the types that they have.
    declared: TableSchema,
    rows: Rows<'a>,
    count: usize,
}

impl CassandraWriter {
    pub async fn prepare(
        session: Arc<Session>,
        catalog: Arc<Catalog>,
        declared: &TableSchema,
        columns: &[String],
        options: &WriteOptions,
    ) -> Result<Self, TableError> {
        let consistency = consistency(&options.consistency)?;
        let Some(table) = catalog.current(&declared.name).await? else {
            return Err(TableError::NoSuchTable { table: declared.name.to_string() });
        };
        let wanted = declared.columns.iter().filter(|column| columns.contains(&column.name)).cloned().collect();
        catalog.check(&TableSchema { columns: wanted, ..declared.clone() }, &table)?;
        let names: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
        let mark = |name: &str| typed_mark(native_type(&table, name));
        let marks = columns.iter().map(|name| mark(name)).collect::<Vec<_>>().join(", ");
        let name = format!("{}.{}", quoted(&table.name.keyspace), quoted(&table.name.table));
        let ttl = if options.ttl_ms.is_some() { " AND TTL ?" } else { "" };
        let insert = format!("INSERT INTO {name} ({}) VALUES ({marks}) USING TIMESTAMP ?{ttl}", names.join(", "));
        let keys: Vec<String> = table.primary_key().map(|key| format!("{} = {}", quoted(key), mark(key))).collect();
        let delete = format!("DELETE FROM {name} USING TIMESTAMP ? WHERE {}", keys.join(" AND "));
        let position = |key: &str| {
            let found = columns.iter().position(|column| column == key);
            found.ok_or_else(|| TableError::Bug(format!("key column {key} of {} is not written", table.name)))
        };
        let insert = prepare(&session, &table, "an INSERT into", insert, consistency).await?;
        if !is_bound_as(&insert, columns, &table) {
            return Err(changed(&table));
        }
        Ok(Self {
            full: batch_of(&insert, options.batch_rows, consistency),
            insert,
            delete: prepare(&session, &table, "a DELETE from", delete, consistency).await?,
            columns: columns.to_vec(),
            key: table.primary_key().map(position).collect::<Result<_, _>>()?,
            session,
            table,
            declared: declared.clone(),
            stale: AtomicBool::new(false),
            catalog,
            options: options.clone(),
            consistency,
            jitter: Mutex::new(ChaCha8Rng::from_os_rng()),
        })
    }

    /// Whether it does for who asks for a writer of this table now. A cluster that was away has what was prepared before.
    pub async fn serves(&self, declared: &TableSchema) -> bool {
        !self.stale.load(Ordering::Relaxed)
            && self.declared == *declared
            && matches!(self.catalog.current(&self.table.name).await, Ok(Some(table)) if table == self.table)
    }

    /// What a batch takes the table for.
    fn declared<'a>(&self, batch: &RecordBatch, names: impl Iterator<Item = &'a str>) -> TableSchema {
        let fields = batch.schema_ref().fields();
        let columns = names.zip(fields).map(|(name, field)| Column::new(name, stored_type(field.data_type()))).collect();
        TableSchema { columns, ..self.table.clone() }
    }

    /// That the table is the one for which the statements were prepared, and takes these rows.
    ///
    /// A table that was dropped and made again with another type is refused by the server itself, as statements name their types
    /// ([`typed_mark`]). What it does not see is another key of the same columns, and a type that takes the bytes of the one before
    /// (blob takes all, text takes ascii, varint takes int and bigint, timestamp and bigint each other): of those, rows may be written
    /// until the driver has read the schema, [`crate::connect::SCHEMA_REFRESH`] after the event at most.
    fn check(&self, declared: &TableSchema) -> Result<(), TableError> {
        // Without a table the server says why.
        let Some(stored) = self.catalog.known(&self.table.name) else { return Ok(()) };
        self.catalog.check(declared, &stored)?;
        let is_same = |name: &String| native_type(&self.table, name) == native_type(&stored, name);
        if self.columns.iter().all(is_same) { Ok(()) } else { Err(changed(&self.table)) }
    }

    /// What has become of a table that takes no rows, in the words of the check before a job; else the server's own.
    async fn explained(&self, declared: &TableSchema, error: TableError) -> TableError {
        match self.catalog.current(&self.table.name).await {
            Ok(Some(stored)) => match self.catalog.check(declared, &stored) {
                Ok(()) if may_be_behind(&error.to_string()) => changed(&self.table),
                Ok(()) => error,
                Err(mismatch) => mismatch,
            },
            Ok(None) => TableError::NoSuchTable { table: self.table.name.to_string() },
            Err(_) => error,
        }
    }

    /// Row numbers in driver batches: same replicas, bounded in rows and bytes.
    fn groups(&self, changes: &Changes<'_>) -> Vec<Vec<usize>> {
        let state = self.session.get_cluster_state();
        let one_node = state.get_nodes_info().len() <= 1;
        let mut open: HashMap<Vec<uuid::Uuid>, (Vec<usize>, usize)> = HashMap::new();
        let mut full = vec![];
        for row in 0..changes.count {
            let replicas = if one_node { vec![] } else { self.replicas(&state, changes, row) };
            let (members, bytes) = open.entry(replicas).or_default();
            let size = changes.rows.size(row);
            if !members.is_empty() && (members.len() >= self.options.batch_rows || *bytes + size > self.options.batch_bytes) {
                full.push(std::mem::take(members));
                *bytes = 0;
            }
            members.push(row);
            *bytes += size;
        }
        full.extend(open.into_values().map(|(members, _)| members).filter(|members| !members.is_empty()));
        full
    }

    fn replicas(&self, state: &scylla::cluster::ClusterState, changes: &Changes<'_>, row: usize) -> Vec<uuid::Uuid> {
        // Without a token (a null key, say) the row goes anywhere, and the server says what is wrong with it.
        let Ok(Some(token)) = changes.statement.calculate_token(&changes.rows.row(row)) else { return vec![] };
        let endpoints = state.get_token_endpoints(&self.table.name.keyspace, &self.table.name.table, token);
        let mut hosts: Vec<uuid::Uuid> = endpoints.iter().map(|(node, _)| node.host_id).collect();
        hosts.sort_unstable();
        hosts
    }

    /// One driver batch, with retries.
    async fn send(&self, changes: &Changes<'_>, members: &[usize], grant: &dyn Grant, retries: &mut u64) -> Result<(), Unsent> {
        let (statement, rows) = (changes.statement, &changes.rows);
        let doing = format!("writing to {}", self.table.name);
        let mut pause = BACKOFF;
        for attempt in 0..=self.options.retries {
            if !grant.holds() {
                return Err(Unsent::Failed(TableError::GrantExpired));
            }
            let outcome = if let [row] = members {
                self.session.execute_unpaged(statement, rows.row(*row)).await.map(|_| ())
            } else {
                let values: Vec<_> = members.iter().map(|row| rows.row(*row)).collect();
                if members.len() == self.options.batch_rows && std::ptr::eq(statement, &self.insert) {
                    self.session.batch(&self.full, values).await.map(|_| ())
                } else {
                    self.session.batch(&batch_of(statement, members.len(), self.consistency), values).await.map(|_| ())
                }
            };
            let error = match outcome {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if is_of_another_statement(&error) {
                self.stale.store(true, Ordering::Relaxed);
            }
            if let Some(refusal) = refusal(&error) {
                return Err(Unsent::Refused(refusal.about, of_execution(&doing, error)));
            }
            if attempt == self.options.retries {
                return Err(Unsent::Failed(of_execution(&doing, error)));
            }
            *retries += 1;
            let jitter = self.jitter.lock().random_range(0.5..=1.0);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        Err(Unsent::Failed(TableError::Bug("the retry loop ended without an answer".into())))
    }

    /// Sends a group; rows that the server refuses come back, found by halving.
    async fn send_group(
        &self,
        changes: &Changes<'_>,
        members: Vec<usize>,
        grant: &dyn Grant,
    ) -> Result<(Vec<Refused>, u64), TableError> {
        let (mut refused, mut retries) = (vec![], 0);
        let mut pending = vec![members];
        let mut is_sound = false;
        while let Some(members) = pending.pop() {
            let (about, error) = match self.send(changes, &members, grant, &mut retries).await {
                Ok(()) => continue,
                Err(Unsent::Failed(error)) => return Err(error),
                Err(Unsent::Refused(about, error)) => (about, error),
            };
            // A missing table or a right that was taken away refuses every row alike: nobody's data is at fault.
            if about == About::Table {
                self.stale.store(true, Ordering::Relaxed);
                return Err(self.explained(&changes.declared, error).await);
            }
            let [row] = members.as_slice() else {
                let (left, right) = members.split_at(members.len() / 2);
                pending.extend([left.to_vec(), right.to_vec()]);
                continue;
            };
            if about == About::Request && !is_sound {
                // What is wrong with a table is said in other words by every version: what counts is whether the statement still stands.
                if let Err(error) = self.still_stands(changes.statement).await {
                    self.stale.store(true, Ordering::Relaxed);
                    return Err(self.explained(&changes.declared, error).await);
                }
                is_sound = true;
                // The table may have come back since the row was refused.
                pending.push(members);
                continue;
            }
            refused.push(Refused { row: *row, error: error.to_string() });
        }
        Ok((refused, retries))
    }

    /// That the server takes a statement, and for the same types as when it was prepared.
    async fn still_stands(&self, statement: &PreparedStatement) -> Result<(), TableError> {
        let doing = format!("writing to {}", self.table.name);
        let again = prepared(&self.session, &doing, statement.get_statement()).await?;
        if again.get_variable_col_specs().as_slice() == statement.get_variable_col_specs().as_slice() {
            return Ok(());
        }
        Err(changed(&self.table))
    }
}

fn native_type<'a>(table: &'a TableSchema, column: &str) -> Option<&'a str> {
    table.column(column)?.native_type.as_deref()
}

/// The type of column that rows of a type go to: of times the store knows instants only.
fn stored_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(TimeUnit::Millisecond, _) => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        other => other.clone(),
    }
}

/// The next try prepares its statements for the table as it is then.
fn changed(table: &TableSchema) -> TableError {
    let message = format!("table {} was changed, and its statements have to be prepared again", table.name);
    TableError::Unavailable { store: STORE.into(), message, source: None }
}

/// Whether an INSERT of `columns` was prepared for the table that we looked at: it may have been made again in between.
fn is_bound_as(insert: &PreparedStatement, columns: &[String], table: &TableSchema) -> bool {
    let bound = insert.get_variable_col_specs();
    let are_types_as_known =
        columns.iter().zip(bound.iter()).all(|(name, spec)| native_type(table, name) == Some(native_name(spec.typ()).as_str()));
    let parts = insert.get_variable_pk_indexes().iter();
    let mut key: Vec<(u16, Option<&String>)> = parts.map(|part| (part.sequence, columns.get(usize::from(part.index)))).collect();
    key.sort_unstable();
    are_types_as_known && (key.is_empty() || key.into_iter().map(|(_, name)| name).eq(table.partition_key.iter().map(Some)))
}

fn batch_of(insert: &PreparedStatement, rows: usize, consistency: Consistency) -> Batch {
    let mut batch = Batch::new_with_statements(BatchType::Unlogged, vec![BatchStatement::PreparedStatement(insert.clone()); rows]);
    batch.set_is_idempotent(true);
    batch.set_consistency(consistency);
    batch
}

impl CassandraWriter {
    async fn send_all(&self, changes: Changes<'_>, grant: &dyn Grant) -> Result<WriteOutcome, TableError> {
        self.check(&changes.declared).inspect_err(|_| self.stale.store(true, Ordering::Relaxed))?;
        let groups = self.groups(&changes);
        let bytes = (0..changes.count).map(|row| changes.rows.size(row) as u64).sum();
        let mut outcome = WriteOutcome { bytes, ..WriteOutcome::default() };
        let sends = groups.into_iter().map(|members| self.send_group(&changes, members, grant));
        let mut answers = stream::iter(sends).buffer_unordered(self.options.in_flight.max(1));
        while let Some(answer) = answers.next().await {
            let (refused, retries) = answer?;
            outcome.retries += retries;
            outcome.refused.extend(refused);
        }
        outcome.refused.sort_by_key(|refused| refused.row);
        outcome.rows = changes.count as u64 - outcome.refused.len() as u64;
        Ok(outcome)
    }
}

/// Whole seconds until a row written at `timestamp_us` ends, rounded up, as Cassandra counts; `None` when it has ended.
fn seconds_left(timestamp_us: i64, ttl_ms: u64, now_us: i64) -> Option<i32> {
    let ttl_us = i64::try_from(ttl_ms).unwrap_or(i64::MAX).saturating_mul(1000);
    let left_us = timestamp_us.saturating_add(ttl_us).saturating_sub(now_us);
    if left_us <= 0 {
        return None;
    }
    Some(i32::try_from(left_us.saturating_add(999_999) / 1_000_000).unwrap_or(i32::MAX).min(MAX_TTL_SECONDS))
}

fn system_clock_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    since_1970.and_then(|age| i64::try_from(age.as_micros()).ok()).unwrap_or(0)
}

#[async_trait]
impl TableWriter for CassandraWriter {
    async fn write(&self, batch: &RecordBatch, timestamp_us: i64, grant: &dyn Grant) -> Result<WriteOutcome, TableError> {
        let ttl_seconds = match self.options.ttl_ms {
            None => None,
            Some(ttl_ms) => match seconds_left(timestamp_us, ttl_ms, system_clock_us()) {
                None => {
                    let keys = batch.project(&self.key).map_err(|error| TableError::Bug(error.to_string()))?;
                    return self.delete(&keys, timestamp_us, grant).await;
                }
                left => left,
            },
        };
        let rows = Rows::new(batch, Marks::Insert { timestamp_us, ttl_seconds })?;
        let declared = self.declared(batch, self.columns.iter().map(String::as_str));
        self.send_all(Changes { statement: &self.insert, declared, rows, count: batch.num_rows() }, grant).await
    }

    async fn delete(&self, keys: &RecordBatch, timestamp_us: i64, grant: &dyn Grant) -> Result<WriteOutcome, TableError> {
        if keys.num_columns() != self.key.len() {
            let (got, want) = (keys.num_columns(), self.key.len());
            return Err(TableError::Bug(format!("a batch of deletes for {} has {got} columns, its key {want}", self.table.name)));
        }
        let rows = Rows::new(keys, Marks::Delete { timestamp_us })?;
        let declared = self.declared(keys, self.table.primary_key());
        self.send_all(Changes { statement: &self.delete, declared, rows, count: keys.num_rows() }, grant).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_ttl_is_rounded_up_and_ends() {
        assert_eq!(seconds_left(1_000_000, 10_000, 1_000_000), Some(10));
        assert_eq!(seconds_left(1_000_000, 10_000, 10_999_999), Some(1));
        assert_eq!(seconds_left(1_000_000, 10_000, 11_000_000), None);
        assert_eq!(seconds_left(0, u64::MAX, 0), Some(MAX_TTL_SECONDS));
    }
}
