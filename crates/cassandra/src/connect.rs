//! A session with a cluster, and the tables there.
use std::{collections::HashMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use polybolos_tables::{
    CreateOptions, KeyPredicate, NodeTime, ScanRequest, ScanSlice, TableBackend, TableError, TableName, TableSchema, TableWriter,
    WriteOptions,
};
use scylla::{
    client::{PoolSize, execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder},
    statement::{Consistency, Statement},
};

use crate::{
    catalog::{Catalog, SCHEMA_TIMEOUT},
    errors::{of_execution, unavailable},
    pushdown, scan, tls,
    types::{quoted, to_cql},
    writer::CassandraWriter,
};

/// How to reach a cluster. The password never shows.
#[derive(Clone)]
pub struct CassandraConfig {
    pub contact_points: Vec<String>,
    pub username: String,
    pub password: String,
    /// Authorities whose certificates nodes have: connections are TLS then.
    pub ca_file: Option<PathBuf>,
    pub connections_per_host: usize,
    pub request_timeout: Duration,
}

impl Default for CassandraConfig {
    fn default() -> Self {
        Self {
            contact_points: vec!["127.0.0.1:9042".into()],
            username: String::new(),
            password: String::new(),
            ca_file: None,
            connections_per_host: 4,
            request_timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for CassandraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CassandraConfig")
            .field("contact_points", &self.contact_points)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Keyspaces that are Cassandra's own.
const OWN_KEYSPACES: [&str; 8] = [
    "system",
    "system_schema",
    "system_auth",
    "system_distributed",
    "system_traces",
    "system_views",
    "system_virtual_schema",
    "system_metrics",
];

/// How long the driver may take to read the schema of a keyspace in which something changed. It reads nothing where nothing changed.
pub(crate) const SCHEMA_REFRESH: Duration = Duration::from_secs(1);

/// Of the tables that we create: Cassandra's own default, whatever the cluster's guardrails say (EPOCHS rule 14).
const GC_GRACE_SECONDS: u64 = 864_000;

pub struct CassandraBackend {
    session: Arc<Session>,
    request_timeout: Duration,
    catalog: Arc<Catalog>,
    reads: Arc<scan::PreparedReads>,
    /// By what was asked for. Publishers give theirs up at every error, an outage too, and find them here, instead of having a busy cluster prepare
    /// them again; those that an answer proved stale are not given out any more.
    writers: Mutex<HashMap<String, Arc<CassandraWriter>>>,
}

/// Where there are more different writers than that, some are prepared again.
const MAX_WRITERS: usize = 1_024;

impl fmt::Debug for CassandraBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CassandraBackend").finish_non_exhaustive()
    }
}

impl CassandraBackend {
    /// Connects; a wrong password is a refusal, a cluster that does not answer is `Unavailable`.
    pub async fn connect(config: &CassandraConfig) -> Result<Self, TableError> {
        let connections = std::num::NonZeroUsize::new(config.connections_per_host.max(1)).unwrap_or(std::num::NonZeroUsize::MIN);
        let profile =
            ExecutionProfile::builder().consistency(Consistency::LocalQuorum).request_timeout(Some(config.request_timeout)).build();
        let mut builder = SessionBuilder::new()
            .known_nodes(&config.contact_points)
            .pool_size(PoolSize::PerHost(connections))
            .cluster_metadata_refresh_interval(SCHEMA_REFRESH)
            .default_execution_profile_handle(profile.into_handle());
        if !config.username.is_empty() {
            builder = builder.user(&config.username, &config.password);
        }
        if let Some(ca_file) = &config.ca_file {
            builder = builder.tls_context(Some(tls::trusting(ca_file)?));
        }
        match builder.build().await {
            Ok(session) => {
                let session = Arc::new(session);
                let catalog = Arc::new(Catalog::new(session.clone()));
                let request_timeout = config.request_timeout;
                Ok(Self { catalog, request_timeout, reads: Arc::default(), writers: Mutex::default(), session })
            }
            Err(error) => {
                let text = error.to_string();
                let at = config.contact_points.join(",");
                if text.contains("certificate") {
                    let message = format!("the certificate of Cassandra at {at} is not trusted: {text}; correct cassandra.ca_file");
                    return Err(TableError::Rejected { message, source: Some(Box::new(error)) });
                }
                if text.contains("uthentication") || text.contains("incorrect") {
                    let message = format!(
                        "Cassandra at {at} refuses user {:?}; correct cassandra.username and cassandra.password",
                        config.username
                    );
                    return Err(TableError::Rejected { message, source: Some(Box::new(error)) });
                }
                Err(unavailable(format!("connecting to {at}: {text}"), error))
            }
        }
    }

    /// Changes the schema, for which a cluster that has only just started takes longer than for rows.
    async fn run(&self, doing: &str, statement: String) -> Result<(), TableError> {
        let mut statement = Statement::new(statement);
        statement.set_request_timeout(Some(SCHEMA_TIMEOUT));
        self.session.query_unpaged(statement, ()).await.map(|_| ()).map_err(|error| of_execution(doing, error))
    }
}

/// For one more under `key`, some other goes where there are too many: all at once would all be prepared again.
fn make_room<T>(kept: &mut HashMap<String, T>, key: &str, most: usize) {
    if kept.len() < most || kept.contains_key(key) {
        return;
    }
    if let Some(other) = kept.keys().next().cloned() {
        kept.remove(&other);
    }
}

#[async_trait]
impl TableBackend for CassandraBackend {
    fn store(&self) -> &str {
        "cassandra"
    }

    async fn describe(&self, table: &TableName) -> Result<Option<TableSchema>, TableError> {
        self.catalog.current(table).await
    }

    fn unusable(&self, table: &TableName, column: &str) -> Option<String> {
        self.catalog.unusable(table, column)
    }

    async fn create(&self, schema: &TableSchema, options: &CreateOptions) -> Result<(), TableError> {
        let name = &schema.name;
        // `IF NOT EXISTS` asks for the right to make what is there, and not every user has it.
        if self.catalog.current(name).await?.is_some() {
            return Ok(());
        }
        let keyspace = quoted(&name.keyspace);
        if self.session.get_cluster_state().get_keyspace(&name.keyspace).is_none() {
            let factor = options.replication_factor.unwrap_or(1);
            let replication = format!("{{'class': 'SimpleStrategy', 'replication_factor': {factor}}}");
            let statement = format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}");
            self.run(&format!("creating keyspace {}", name.keyspace), statement).await?;
        }
        let mut parts = vec![];
        for column in &schema.columns {
            let native = match &column.native_type {
                Some(native) if native == "uuid" => "uuid",
                _ => to_cql(&column.data_type).ok_or_else(|| TableError::Unsupported {
                    message: format!("column {:?} of {name} is {}, which Cassandra has no type for", column.name, column.data_type),
                })?,
            };
            parts.push(format!("{} {native}", quoted(&column.name)));
        }
        let list = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let clustering =
            if schema.clustering_key.is_empty() { String::new() } else { format!(", {}", list(&schema.clustering_key)) };
        parts.push(format!("PRIMARY KEY (({}){clustering})", list(&schema.partition_key)));
        let statement = format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.{} ({}) WITH gc_grace_seconds = {GC_GRACE_SECONDS}",
            quoted(&name.table),
            parts.join(", ")
        );
        self.run(&format!("creating table {name}"), statement).await?;
        let agreed = self.session.await_schema_agreement().await;
        agreed.map_err(|error| unavailable(format!("waiting until all nodes know table {name}"), error))?;
        self.catalog.refresh().await
    }

    async fn gc_grace_seconds(&self, table: &TableName) -> Result<Option<u64>, TableError> {
        let doing = format!("reading the options of table {table}");
        let statement = "SELECT gc_grace_seconds FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
        let answer = self.session.query_unpaged(statement, (&table.keyspace, &table.table)).await;
        let rows = answer.map_err(|error| of_execution(&doing, error))?.into_rows_result();
        let rows = rows.map_err(|error| unavailable(&doing, error))?;
        let row: Option<(i32,)> = rows.maybe_first_row().map_err(|error| unavailable(&doing, error))?;
        Ok(row.map(|(seconds,)| u64::try_from(seconds).unwrap_or(0)))
    }

    async fn list(&self) -> Result<Vec<TableName>, TableError> {
        self.catalog.refresh().await?;
        let state = self.session.get_cluster_state();
        let mut tables = vec![];
        for (keyspace, content) in state.keyspaces_iter().filter(|(name, _)| !OWN_KEYSPACES.contains(name)) {
            tables.extend(content.tables.keys().map(|table| TableName::new(keyspace, table)));
        }
        tables.sort();
        Ok(tables)
    }

    async fn clock_us(&self) -> Result<i64, TableError> {
        Ok(self.node_time().await?.at_us)
    }

    /// Of any node: whichever the driver sends the question to has the answer.
    async fn node_time(&self) -> Result<NodeTime, TableError> {
        let doing = "reading the clock";
        let answer = self.session.query_unpaged("SELECT toUnixTimestamp(now()) FROM system.local", ()).await;
        let answer = answer.map_err(|error| of_execution(doing, error))?;
        let node = answer.request_coordinator().node().address.to_string();
        let rows = answer.into_rows_result().map_err(|error| unavailable(doing, error))?;
        let (millis,): (i64,) = rows.single_row().map_err(|error| unavailable(doing, error))?;
        Ok(NodeTime { node, at_us: millis * 1_000 })
    }

    /// Until the driver would have given it up.
    fn writes_linger(&self) -> Duration {
        self.request_timeout
    }

    async fn writer(
        &self,
        table: &TableSchema,
        columns: &[String],
        options: &WriteOptions,
    ) -> Result<Arc<dyn TableWriter>, TableError> {
        for column in columns {
            if table.column(column).is_none() {
                let message = match self.unusable(&table.name, column) {
                    Some(reason) => format!("table {} cannot be written: {reason}; leave the column out", table.name),
                    None => format!("table {} has no column {column:?}", table.name),
                };
                return Err(TableError::Unsupported { message });
            }
        }
        let key = format!("{} {columns:?} {options:?}", table.name);
        let kept = self.writers.lock().get(&key).cloned();
        if let Some(kept) = kept
            && kept.serves(table).await
        {
            return Ok(kept);
        }
        let writer = CassandraWriter::prepare(self.session.clone(), self.catalog.clone(), table, columns, options).await?;
        let writer = Arc::new(writer);
        let mut writers = self.writers.lock();
        make_room(&mut writers, &key, MAX_WRITERS);
        writers.insert(key, writer.clone());
        Ok(writer)
    }

    fn supports(&self, table: &TableSchema, predicates: &[KeyPredicate]) -> Vec<bool> {
        let stored = self.catalog.known(&table.name);
        pushdown::pushed(table, predicates, |predicate| {
            let native = stored.as_ref().and_then(|stored| stored.column(&predicate.column)?.native_type.as_deref());
            native.is_some_and(|native| pushdown::is_alike(native, predicate.values.data_type()))
        })
    }

    async fn slices(&self, request: &ScanRequest, wanted: usize) -> Result<Vec<ScanSlice>, TableError> {
        Ok(scan::slices(request, wanted))
    }

    fn scan(&self, request: &ScanRequest, slice: &ScanSlice) -> BoxStream<'static, Result<arrow::array::RecordBatch, TableError>> {
        scan::scan(self.session.clone(), self.catalog.clone(), self.reads.clone(), request.clone(), slice.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_for_one_that_comes() {
        let mut kept: HashMap<String, u8> = (0..3).map(|number| (number.to_string(), number)).collect();
        make_room(&mut kept, "3", 4);
        make_room(&mut kept, "1", 3);
        assert_eq!(kept.len(), 3);
        make_room(&mut kept, "3", 3);
        assert_eq!(kept.len(), 2);
    }
}
