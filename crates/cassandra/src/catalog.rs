//! The tables that the driver knows, as we see them. What it knows may be late by a moment; [`Catalog::current`] is not.
use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use polybolos_tables::{Column, TableError, TableName, TableSchema, check};
use scylla::{
    client::session::Session,
    cluster::{
        ClusterState,
        metadata::{ColumnKind, ColumnType, Table},
    },
    statement::{Statement, prepared::PreparedStatement},
};
use uuid::Uuid;

use crate::{
    errors::{of_preparing, unavailable},
    types::{native_name, to_arrow},
};

/// How long nodes may take to tell which schema they have, and to tell or change the schema: the driver would wait for a cluster that
/// is away.
const VERSION_TIMEOUT: Duration = Duration::from_secs(2);
pub(crate) const SCHEMA_TIMEOUT: Duration = Duration::from_secs(30);

/// A table that is made while the schema is read needs one more.
const MAX_REFRESHES: usize = 3;

/// The driver asks all nodes and waits for the last of them.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(10);

/// Has a statement prepared; a no to it is about its table.
pub(crate) async fn prepared(
    session: &Session,
    doing: &str,
    statement: impl Into<Statement>,
) -> Result<PreparedStatement, TableError> {
    match tokio::time::timeout(PREPARE_TIMEOUT, session.prepare(statement)).await {
        Ok(prepared) => prepared.map_err(|error| of_preparing(doing, error)),
        Err(error) => Err(unavailable(format!("{doing}: a node does not answer"), error)),
    }
}

pub(crate) struct Catalog {
    session: Arc<Session>,
    /// The version of the schema that the driver knows, or an older one.
    seen: Mutex<Option<Uuid>>,
    /// Columns that exist and cannot be written or read, by table: named when somebody wants them.
    unsupported: Mutex<HashMap<TableName, Vec<String>>>,
}

impl Catalog {
    pub fn new(session: Arc<Session>) -> Self {
        Self { session, seen: Mutex::default(), unsupported: Mutex::default() }
    }

    pub async fn refresh(&self) -> Result<(), TableError> {
        match tokio::time::timeout(SCHEMA_TIMEOUT, self.session.refresh_metadata()).await {
            Ok(read) => read.map_err(|error| unavailable("reading the schema", error)),
            Err(error) => Err(unavailable("reading the schema", error)),
        }
    }

    /// A table as the driver last heard of it: at most [`crate::connect::SCHEMA_REFRESH`] and an event's way ago.
    pub fn known(&self, table: &TableName) -> Option<TableSchema> {
        let state = self.session.get_cluster_state();
        let (schema, unsupported) = schema(table, whole(&state, table)?);
        self.unsupported.lock().insert(table.clone(), unsupported);
        Some(schema)
    }

    /// The first clustering column of a table as the driver last heard of it: `Some(None)` where it has none.
    pub fn first_clustering_column(&self, table: &TableName) -> Option<Option<String>> {
        let state = self.session.get_cluster_state();
        Some(whole(&state, table)?.clustering_key.first().cloned())
    }

    /// A table as it is. The schema is read again only when its version is another than when it was read last. Of a cluster that is away:
    /// the table as it was.
    pub async fn current(&self, table: &TableName) -> Result<Option<TableSchema>, TableError> {
        // Asked before the schema is read: what changes in between has another version, and is read once more.
        let asked = tokio::time::timeout(VERSION_TIMEOUT, self.session.check_schema_agreement()).await;
        let version = asked.ok().and_then(Result::ok);
        let is_current = match version {
            // Nodes that do not answer cannot tell what changed, and whoever wants the table will hear the same from them.
            None => true,
            Some(agreed) => agreed.is_some() && *self.seen.lock() == agreed,
        };
        if let (true, Some(known)) = (is_current, self.known(table)) {
            return Ok(Some(known));
        }
        for _ in 0..MAX_REFRESHES {
            self.refresh().await?;
            let state = self.session.get_cluster_state();
            if heard_of(&state, table).is_none() || whole(&state, table).is_some() {
                break;
            }
        }
        *self.seen.lock() = version.flatten();
        Ok(self.known(table))
    }

    /// Of a column that a known table has and that cannot be used: why not.
    pub fn unusable(&self, table: &TableName, column: &str) -> Option<String> {
        let start = format!("column {column:?}:");
        self.unsupported.lock().get(table)?.iter().find(|line| line.starts_with(&start)).cloned()
    }

    /// Refuses a stored table that is not as declared, in the words of the check before a job.
    pub fn check(&self, declared: &TableSchema, stored: &TableSchema) -> Result<(), TableError> {
        check::fits(declared, stored, |column| self.unusable(&declared.name, column))
    }
}

fn heard_of<'state>(state: &'state ClusterState, table: &TableName) -> Option<&'state Table> {
    state.get_keyspace(&table.keyspace)?.tables.get(&table.table)
}

/// The driver reads columns first and tables then: of a table that was made in between it has heard, and knows no column. Every table has
/// a key.
fn whole<'state>(state: &'state ClusterState, table: &TableName) -> Option<&'state Table> {
    heard_of(state, table).filter(|table| !table.partition_key.is_empty())
}

/// Supported columns (key columns first, others by name), and what cannot be used, each with its reason.
fn schema(name: &TableName, table: &Table) -> (TableSchema, Vec<String>) {
    let (mut columns, mut unsupported) = (vec![], vec![]);
    let mut others: Vec<&String> = table.columns.keys().collect();
    others.sort();
    let keys: Vec<&String> = table.partition_key.iter().chain(&table.clustering_key).collect();
    others.retain(|column| !keys.contains(column));
    for column_name in keys.into_iter().chain(others) {
        let Some(column) = table.columns.get(column_name) else { continue };
        let reason = match (&column.kind, &column.typ) {
            (ColumnKind::Static, _) => Some("static columns are shared by rows, so a row cannot be written twice safely"),
            (_, ColumnType::Collection { frozen: false, .. }) => Some("collections that are not frozen grow when written twice"),
            (_, typ) if to_arrow(typ).is_none() => Some("its type is not supported"),
            _ => None,
        };
        match (reason, to_arrow(&column.typ)) {
            (None, Some(data_type)) => {
                columns.push(Column { name: column_name.clone(), data_type, native_type: Some(native_name(&column.typ)) });
            }
            (reason, _) => unsupported.push(format!("column {column_name:?}: {}", reason.unwrap_or("its type is not supported"))),
        }
    }
    let schema = TableSchema {
        name: name.clone(),
        columns,
        partition_key: table.partition_key.clone(),
        clustering_key: table.clustering_key.clone(),
    };
    (schema, unsupported)
}
