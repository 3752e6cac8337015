//! What `CREATE JOB` would refuse of a catalog's job, found by the same planning and lowering without a platform: no Kafka and no store is asked. What only they and
//! the scheduler's configuration know (stored columns, secrets, allowed locations) is left to `CREATE JOB`.
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use futures::{StreamExt, stream::BoxStream};
use polybolos_kafka::connection::Connection;
use polybolos_persist::{Place, Places};
use polybolos_sql::{
    catalog::{Catalog, Connector, JobDefinition},
    planner::Planner,
};
use polybolos_tables::{
    CreateOptions, KeyPredicate, ScanRequest, ScanSlice, TableBackend, TableError, TableName, TableSchema, TableWriter,
    WriteOptions,
};

use super::planning;
use crate::{ballista, providers::PlatformTables, system::SystemTables};

/// # Errors
/// Why the job would be refused.
pub async fn rehearse(catalog: &Catalog, job: &JobDefinition) -> anyhow::Result<()> {
    let platform = platform(catalog);
    let session = ballista::planning_session()?;
    let planner = Planner::new(&session, Arc::new(with_secrets_unread(catalog)), Arc::new(platform.clone()));
    let plan = planner.plan_stored_job(job, 1).await?;
    let spec = planning::job_spec(&platform, &session, job, &plan).await?;
    planning::notices(&plan, &spec.template)?;
    Ok(())
}

fn platform(catalog: &Catalog) -> PlatformTables {
    let places = catalog.tables.iter().filter_map(|table| match &table.connector {
        Connector::Filesystem(options) => Place::parse(&options.path).ok(),
        _ => None,
    });
    PlatformTables {
        kafka: Connection::new("nowhere:0"),
        tables: Arc::new(Nowhere),
        system: Arc::new(SystemTables::default()),
        allowed_locations: places.collect(),
        places: Arc::new(Places::default()),
    }
}

/// References to secrets as they are written: who checks a pipeline need not have them.
fn with_secrets_unread(catalog: &Catalog) -> Catalog {
    let mut catalog = catalog.clone();
    for table in &mut catalog.tables {
        let properties = match &mut table.connector {
            Connector::Kafka(options) => Some(&mut options.properties),
            Connector::UpsertKafka(options) => Some(&mut options.properties),
            _ => None,
        };
        let written = table.options.iter_mut().map(|(_, value)| value);
        for value in properties.into_iter().flat_map(|properties| properties.values_mut()).chain(written) {
            if let Some(reference) = value.strip_prefix("${") {
                *value = reference.to_owned();
            }
        }
    }
    catalog
}

/// The store of tables that nobody has made.
#[derive(Debug)]
struct Nowhere;

impl Nowhere {
    fn refuse<T>() -> Result<T, TableError> {
        Err(TableError::Bug("a store was asked while a job was planned".into()))
    }
}

#[async_trait]
impl TableBackend for Nowhere {
    fn store(&self) -> &str {
        "nowhere"
    }

    async fn describe(&self, _: &TableName) -> Result<Option<TableSchema>, TableError> {
        Self::refuse()
    }

    async fn create(&self, _: &TableSchema, _: &CreateOptions) -> Result<(), TableError> {
        Self::refuse()
    }

    async fn gc_grace_seconds(&self, _: &TableName) -> Result<Option<u64>, TableError> {
        Self::refuse()
    }

    async fn list(&self) -> Result<Vec<TableName>, TableError> {
        Self::refuse()
    }

    async fn clock_us(&self) -> Result<i64, TableError> {
        Self::refuse()
    }

    async fn writer(&self, _: &TableSchema, _: &[String], _: &WriteOptions) -> Result<Arc<dyn TableWriter>, TableError> {
        Self::refuse()
    }

    /// By which types rows are looked up is the store's own.
    fn supports(&self, _: &TableSchema, predicates: &[KeyPredicate]) -> Vec<bool> {
        vec![true; predicates.len()]
    }

    async fn slices(&self, _: &ScanRequest, _: usize) -> Result<Vec<ScanSlice>, TableError> {
        Self::refuse()
    }

    fn scan(&self, _: &ScanRequest, _: &ScanSlice) -> BoxStream<'static, Result<RecordBatch, TableError>> {
        futures::stream::iter([Self::refuse()]).boxed()
    }
}

#[cfg(test)]
mod tests {
    use polybolos_sql::{
        catalog::{Change, apply},
        parser::parse,
    };
    use polybolos_tables::plain::plain_chain;

    use super::*;

    const TABLES: &str = "
        CREATE TABLE t (k STRING, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'topic' = 't',
          'format' = 'json', 'properties.sasl.password' = '${env:POLYBOLOS_NOBODY_HAS_SET_THIS}');
        CREATE TABLE side (k STRING, name STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
        CREATE TABLE named (k STRING, name STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
        CREATE TABLE s (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
        CREATE TABLE files (k STRING, v BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file:///nowhere/f', 'format' = 'json');
        CREATE TABLE topic (k STRING, at TIMESTAMP(3), n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'u', 'format' = 'json');";

    async fn rehearsed(job: &str) -> Result<(), String> {
        let change = Change { now_us: 0, incarnation: "a1".into() };
        let statements = parse(&format!("{TABLES} CREATE JOB j {job};")).expect("read");
        let applied = |catalog: Catalog, statement| apply(&catalog, statement, &change).expect("applied");
        let catalog = statements.iter().fold(Catalog::default(), applied);
        rehearse(&catalog, catalog.job("j").expect("declared")).await.map_err(|error| plain_chain(&*error))
    }

    #[tokio::test]
    async fn sound_jobs_need_no_platform() {
        for job in [
            "AS INSERT INTO files SELECT k, v FROM t",
            "AS INSERT INTO s SELECT k, count(*) FROM t GROUP BY k",
            "AS INSERT INTO s SELECT t.k, f.v FROM t JOIN files AS f ON t.k = f.k",
            "AS INSERT INTO named SELECT t.k, d.name FROM t LEFT JOIN side FOR SYSTEM_TIME AS OF PROCTIME() AS d ON t.k = d.k",
            "AS INSERT INTO topic SELECT k, window_start, count(*) FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY k, window_start, window_end EMIT ON WINDOW CLOSE",
        ] {
            assert_eq!(rehearsed(job).await, Ok(()), "{job}");
        }
    }

    #[tokio::test]
    async fn what_the_engine_has_no_operator_for_is_refused() {
        for (job, said) in [
            (
                "AS INSERT INTO s SELECT k, nth_value(v, 2 ORDER BY ts) FROM t GROUP BY k",
                "nth_value(…) of a group is not supported",
            ),
            ("AS INSERT INTO topic SELECT k, max(ts), count(*) FROM t GROUP BY k", "takes rows back"),
            ("WITH ('state.unbounded' = 'refuse') AS INSERT INTO s SELECT k, count(*) FROM t GROUP BY k", "is never dropped"),
        ] {
            let message = rehearsed(job).await.expect_err(job);
            assert!(message.contains(said), "{job}: {message}");
        }
    }
}
