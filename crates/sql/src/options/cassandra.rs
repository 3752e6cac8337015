//! Options of `'connector' = 'cassandra'`.
//!
//! | key | value | default |
//! |---|---|---|
//! | `keyspace` | a keyspace | the schema of the table's name, if it has one |
//! | `table` | a table | the table's name |
//! | `table.create` | `true`: keyspace and table are created where missing | `false` |
//! | `table.replication` | replication factor of a keyspace created so | `1` |
//! | `sink.batch.rows`, `sink.batch.bytes` | most rows and bytes of one batch | `16`, `16384` |
//! | `sink.in-flight` | batches under way at once | `32` |
//! | `sink.consistency` | `ONE`, `LOCAL_QUORUM`, … | `LOCAL_QUORUM` |
//! | `sink.retries` | retries of one batch before the job waits | `5` |
//! | `lookup.in-flight` | keys that a job's look-up asks for at once | `64` |
//! | `lookup.cache.ttl` | for so long a job takes what it looked up for what is there: `'10 s'` | each epoch asks again |
//! | `lookup.cache.max-rows` | most rows kept so, per job | `10000` |
//! | `sink.ttl` | rows end this long after they were written: `'30 s'`, `'12 h'`, `'7 days'` | never |
use polybolos_tables::{CreateOptions, LookupOptions, TableName, WriteOptions};
use serde::{Deserialize, Serialize};

use super::{OptionReader, duration_ms};
use crate::{error::SqlError, names::RelationName};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CassandraOptions {
    pub keyspace: String,
    pub table: String,
    pub create: bool,
    pub replication: Option<u32>,
    pub write: WriteOptions,
    #[serde(default)]
    pub lookup: LookupOptions,
}

const CONSISTENCIES: [&str; 8] = ["ANY", "ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "LOCAL_ONE"];
const MAX_BATCH_ROWS: usize = 10_000;
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;
const MAX_IN_FLIGHT: usize = 4_096;
const MAX_CACHED_ROWS: usize = 100_000_000;
const MAX_RETRIES: u32 = 1_000;
/// Cassandra's limit.
const MAX_TTL_MS: u64 = 20 * 365 * 24 * 3600 * 1000;

impl CassandraOptions {
    pub(crate) fn read(reader: &mut OptionReader<'_>, name: &RelationName) -> Result<Self, SqlError> {
        let keyspace = match reader.text("keyspace")? {
            Some(keyspace) => keyspace,
            None if !name.is_public() => name.schema.clone(),
            None => reader.required("keyspace", "spark_streams")?,
        };
        let table = reader.text("table")?.unwrap_or_else(|| name.name.clone());
        for (key, value) in [("keyspace", &keyspace), ("table", &table)] {
            check_name(reader, key, value)?;
        }
        refuse_other_clusters(reader)?;
        let create = reader.boolean("table.create")?.unwrap_or_default();
        let replication =
            reader.parsed("table.replication", "a number of replicas from 1 on", |count: &u32| (1..=100).contains(count))?;
        Ok(Self { keyspace, table, create, replication, write: write_options(reader)?, lookup: lookup_options(reader)? })
    }

    pub fn table_name(&self) -> TableName {
        TableName::new(&self.keyspace, &self.table)
    }

    pub fn create_options(&self) -> CreateOptions {
        CreateOptions { replication_factor: self.replication }
    }
}

/// Cassandra's own rule: letters, digits, `_`, at most 48.
fn check_name(reader: &OptionReader<'_>, key: &str, value: &str) -> Result<(), SqlError> {
    let plain = !value.is_empty() && value.len() <= 48 && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain {
        return Ok(());
    }
    let message = format!("{key} {value:?} of {} is no name in Cassandra; use up to 48 letters, digits and \"_\"", reader.object());
    Err(SqlError::invalid(message))
}

/// Tables are in the platform's Cassandra: write times of a job come from that cluster's clock, and one session serves all jobs.
fn refuse_other_clusters(reader: &mut OptionReader<'_>) -> Result<(), SqlError> {
    for key in ["contact-points", "username", "password"] {
        if let Some(entry) = reader.entry(key) {
            let message = format!(
                "option '{key}' of {} cannot be set: tables are in the platform's Cassandra, which is named under [cassandra] in its configuration; leave it out",
                reader.object()
            );
            return Err(SqlError::invalid_at(entry.at, message));
        }
    }
    Ok(())
}

fn lookup_options(reader: &mut OptionReader<'_>) -> Result<LookupOptions, SqlError> {
    let in_flight =
        reader.parsed("lookup.in-flight", "a number of keys from 1 to 4096", |keys: &usize| (1..=MAX_IN_FLIGHT).contains(keys))?;
    let cache_ttl_ms = match reader.entry("lookup.cache.ttl") {
        None => None,
        Some(entry) => match duration_ms(&entry.value).filter(|ttl_ms| (1..=MAX_TTL_MS).contains(ttl_ms)) {
            Some(ttl_ms) => Some(ttl_ms),
            None => return Err(reader.wrong(entry, "a length of time, for example '10 s' or '5 min'")),
        },
    };
    let rows = |rows: &usize| (1..=MAX_CACHED_ROWS).contains(rows);
    let cache_max_rows = reader.parsed("lookup.cache.max-rows", "a number of rows from 1 to 100000000", rows)?;
    if let (Some(_), None, Some(entry)) = (cache_max_rows, cache_ttl_ms, reader.entry("lookup.cache.max-rows")) {
        let message = format!(
            "option 'lookup.cache.max-rows' of {} bounds a cache that 'lookup.cache.ttl' makes; set that too, for example to '10 s'",
            reader.object()
        );
        return Err(SqlError::invalid_at(entry.at, message));
    }
    Ok(LookupOptions { in_flight: in_flight.unwrap_or(LookupOptions::default().in_flight), cache_ttl_ms, cache_max_rows })
}

fn write_options(reader: &mut OptionReader<'_>) -> Result<WriteOptions, SqlError> {
    let default = WriteOptions::default();
    let at_most = |most: usize| move |value: &usize| (1..=most).contains(value);
    let batch_rows = reader.parsed("sink.batch.rows", "a number of rows from 1 to 10000", at_most(MAX_BATCH_ROWS))?;
    let batch_bytes = reader.parsed("sink.batch.bytes", "a number of bytes from 1 to 16777216", at_most(MAX_BATCH_BYTES))?;
    let in_flight = reader.parsed("sink.in-flight", "a number of batches from 1 to 4096", at_most(MAX_IN_FLIGHT))?;
    let retries = reader.parsed("sink.retries", "a number of retries from 0 to 1000", |retries: &u32| *retries <= MAX_RETRIES)?;
    let ttl_ms = match reader.entry("sink.ttl") {
        None => None,
        Some(entry) => match duration_ms(&entry.value).filter(|ttl_ms| (1_000..=MAX_TTL_MS).contains(ttl_ms)) {
            Some(ttl_ms) => Some(ttl_ms),
            None => return Err(reader.wrong(entry, "a time from one second to 20 years, for example '7 days' or '12 h'")),
        },
    };
    let choices: Vec<(&str, &str)> = CONSISTENCIES.iter().map(|level| (*level, *level)).collect();
    let consistency = reader.choice("sink.consistency", &choices)?;
    Ok(WriteOptions {
        in_flight: in_flight.unwrap_or(default.in_flight),
        batch_rows: batch_rows.unwrap_or(default.batch_rows),
        batch_bytes: batch_bytes.unwrap_or(default.batch_bytes),
        consistency: consistency.map_or(default.consistency, str::to_owned),
        retries: retries.unwrap_or(default.retries),
        ttl_ms,
    })
}
