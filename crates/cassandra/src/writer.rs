//! The sink: rows of a batch go out in unlogged batches whose rows share their replicas, a few in flight, each retried within a budget. A
//! batch that the server refuses is split until the rows at fault are alone.
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use polybolos_tables::{Grant, Refused, TableError, TableSchema, TableWriter, WriteOptions, WriteOutcome};
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
    encode::Rows,
    errors::{of_execution, unavailable},
    types::quoted,
};

/// First pause before a retry; doubled each time, with jitter.
const BACKOFF: Duration = Duration::from_millis(50);

pub(crate) struct CassandraWriter {
    session: Arc<Session>,
    insert: PreparedStatement,
    /// `options.batch_rows` times `insert`: what most groups are, made once.
    full: Batch,
    table: TableSchema,
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

impl CassandraWriter {
    pub async fn prepare(
        session: Arc<Session>,
        table: &TableSchema,
        columns: &[String],
        options: &WriteOptions,
    ) -> Result<Self, TableError> {
        let consistency = consistency(&options.consistency)?;
        let names: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
        let marks = vec!["?"; columns.len()].join(", ");
        let statement = format!(
            "INSERT INTO {}.{} ({}) VALUES ({marks}) USING TIMESTAMP ?",
            quoted(&table.name.keyspace),
            quoted(&table.name.table),
            names.join(", ")
        );
        let doing = format!("preparing an INSERT into {}", table.name);
        let prepared = session.prepare(statement).await;
        let mut insert = prepared.map_err(|error| {
            let text = error.to_string();
            if text.contains("Database returned an error") && !text.contains("timeout") {
                TableError::Rejected { message: format!("{doing}: {text}"), source: Some(Box::new(error)) }
            } else {
                unavailable(format!("{doing}: {text}"), error)
            }
        })?;
        insert.set_is_idempotent(true);
        insert.set_consistency(consistency);
        let jitter = Mutex::new(ChaCha8Rng::from_os_rng());
        let full = batch_of(&insert, options.batch_rows, consistency);
        Ok(Self { session, insert, full, table: table.clone(), options: options.clone(), consistency, jitter })
    }

    /// Row numbers in driver batches: same replicas, bounded in rows and bytes.
    fn groups(&self, rows: &Rows<'_>, count: usize) -> Vec<Vec<usize>> {
        let state = self.session.get_cluster_state();
        let one_node = state.get_nodes_info().len() <= 1;
        let mut open: HashMap<Vec<uuid::Uuid>, (Vec<usize>, usize)> = HashMap::new();
        let mut full = vec![];
        for row in 0..count {
            let replicas = if one_node { vec![] } else { self.replicas(&state, rows, row) };
            let (members, bytes) = open.entry(replicas).or_default();
            let size = rows.size(row);
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

    fn replicas(&self, state: &scylla::cluster::ClusterState, rows: &Rows<'_>, row: usize) -> Vec<uuid::Uuid> {
        // Without a token (a null key, say) the row goes anywhere, and the server says what is wrong with it.
        let Ok(Some(token)) = self.insert.calculate_token(&rows.row(row)) else { return vec![] };
        let endpoints = state.get_token_endpoints(&self.table.name.keyspace, &self.table.name.table, token);
        let mut hosts: Vec<uuid::Uuid> = endpoints.iter().map(|(node, _)| node.host_id).collect();
        hosts.sort_unstable();
        hosts
    }

    /// One driver batch, with retries. `Rejected` is the server's no to its content.
    async fn send(&self, rows: &Rows<'_>, members: &[usize], grant: &dyn Grant, retries: &mut u64) -> Result<(), TableError> {
        let doing = format!("writing to {}", self.table.name);
        let mut pause = BACKOFF;
        for attempt in 0..=self.options.retries {
            if !grant.holds() {
                return Err(TableError::GrantExpired);
            }
            let outcome = if let [row] = members {
                self.session.execute_unpaged(&self.insert, rows.row(*row)).await.map(|_| ())
            } else {
                let values: Vec<_> = members.iter().map(|row| rows.row(*row)).collect();
                if members.len() == self.options.batch_rows {
                    self.session.batch(&self.full, values).await.map(|_| ())
                } else {
                    self.session.batch(&batch_of(&self.insert, members.len(), self.consistency), values).await.map(|_| ())
                }
            };
            let error = match outcome {
                Ok(()) => return Ok(()),
                Err(error) => of_execution(&doing, error),
            };
            if !error.is_retryable() || attempt == self.options.retries {
                return Err(error);
            }
            *retries += 1;
            let jitter = self.jitter.lock().random_range(0.5..=1.0);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        Err(TableError::Bug("the retry loop ended without an answer".into()))
    }

    /// Sends a group; rows that the server refuses come back, found by halving.
    async fn send_group(&self, rows: &Rows<'_>, members: Vec<usize>, grant: &dyn Grant) -> Result<(Vec<Refused>, u64), TableError> {
        let (mut refused, mut retries) = (vec![], 0);
        let mut pending = vec![members];
        while let Some(members) = pending.pop() {
            match self.send(rows, &members, grant, &mut retries).await {
                Ok(()) => {}
                Err(TableError::Rejected { message, source }) => match members.as_slice() {
                    // A missing table or a right that was taken away refuses every row alike: nobody's data is at fault.
                    _ if is_about_the_table(&message) => return Err(TableError::Rejected { message, source }),
                    [row] => refused.push(Refused { row: *row, error: message }),
                    more => {
                        let (left, right) = more.split_at(more.len() / 2);
                        pending.extend([left.to_vec(), right.to_vec()]);
                    }
                },
                Err(error) => return Err(error),
            }
        }
        Ok((refused, retries))
    }
}

fn batch_of(insert: &PreparedStatement, rows: usize, consistency: Consistency) -> Batch {
    let mut batch = Batch::new_with_statements(BatchType::Unlogged, vec![BatchStatement::PreparedStatement(insert.clone()); rows]);
    batch.set_is_idempotent(true);
    batch.set_consistency(consistency);
    batch
}

fn is_about_the_table(message: &str) -> bool {
    let message = message.to_lowercase();
    ["unconfigured table", "keyspace", "unauthorized", "no permission", "unprepared", "unknown identifier", "undefined column"]
        .iter()
        .any(|words| message.contains(words))
}

#[async_trait]
impl TableWriter for CassandraWriter {
    async fn write(&self, batch: &RecordBatch, timestamp_us: i64, grant: &dyn Grant) -> Result<WriteOutcome, TableError> {
        let rows = Rows::new(batch, timestamp_us)?;
        let groups = self.groups(&rows, batch.num_rows());
        let mut outcome =
            WriteOutcome { bytes: (0..batch.num_rows()).map(|row| rows.size(row) as u64).sum(), ..WriteOutcome::default() };
        let sends = groups.into_iter().map(|members| self.send_group(&rows, members, grant));
        let mut answers = stream::iter(sends).buffer_unordered(self.options.in_flight.max(1));
        while let Some(answer) = answers.next().await {
            let (refused, retries) = answer?;
            outcome.retries += retries;
            outcome.refused.extend(refused);
        }
        outcome.refused.sort_by_key(|refused| refused.row);
        outcome.rows = batch.num_rows() as u64 - outcome.refused.len() as u64;
        Ok(outcome)
    }
}
