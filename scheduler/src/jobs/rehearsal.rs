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
    planner::{JobPlan, Planner},
};
use polybolos_tables::{
    CreateOptions, KeyPredicate, ScanRequest, ScanSlice, TableBackend, TableError, TableName, TableSchema, TableWriter,
    WriteOptions,
};

use super::{planning, spec::JobSpec};
use crate::{ballista, providers::PlatformTables, system::SystemTables};

/// # Errors
/// Why the job would be refused.
pub async fn rehearse(catalog: &Catalog, job: &JobDefinition) -> anyhow::Result<()> {
    let (plan, spec) = planned(catalog, job).await?;
    planning::notices(&plan, &spec.template)?;
    Ok(())
}

async fn planned(catalog: &Catalog, job: &JobDefinition) -> anyhow::Result<(JobPlan, JobSpec)> {
    let platform = platform(catalog);
    let session = ballista::planning_session()?;
    let planner = Planner::new(&session, Arc::new(with_secrets_unread(catalog)), Arc::new(platform.clone()));
    let plan = planner.plan_stored_job(job, 1).await?;
    let spec = planning::job_spec(&platform, &session, job, &plan).await?;
    Ok((plan, spec))
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
    use polybolos_operators::template::JobTemplate;
    use polybolos_sql::{
        catalog::{Change, apply},
        parser::parse,
    };
    use polybolos_tables::plain::plain_chain;

    use super::*;
    use crate::jobs::upgrade::difference;

    const TABLES: &str = "
        CREATE TABLE t (k STRING, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'topic' = 't',
          'format' = 'json', 'properties.sasl.password' = '${env:POLYBOLOS_NOBODY_HAS_SET_THIS}');
        CREATE TABLE side (k STRING, name STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
        CREATE TABLE named (k STRING, name STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
        CREATE TABLE minutes (k STRING, at TIMESTAMP(3), n BIGINT, PRIMARY KEY (k, at) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
        CREATE TABLE s (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
        CREATE TABLE files (k STRING, v BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file:///nowhere/f', 'format' = 'json');
        CREATE TABLE topic (k STRING, at TIMESTAMP(3), n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'u', 'format' = 'json');";

    /// Counts by the minute.
    const MINUTES: &str = "SELECT k, window_start, count(*) \
                           FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY k, window_start, window_end";

    fn declared(job: &str) -> Catalog {
        let change = Change { now_us: 0, incarnation: "a1".into() };
        let statements = parse(&format!("{TABLES} CREATE JOB j {job};")).expect("read");
        let applied = |catalog: Catalog, statement| apply(&catalog, statement, &change).expect("applied");
        statements.iter().fold(Catalog::default(), applied)
    }

    async fn rehearsed(job: &str) -> Result<(), String> {
        let catalog = declared(job);
        rehearse(&catalog, catalog.job("j").expect("declared")).await.map_err(|error| plain_chain(&*error))
    }

    #[tokio::test]
    async fn sound_jobs_need_no_platform() {
        for job in [
            "AS INSERT INTO files SELECT k, v FROM t",
            "AS INSERT INTO s SELECT k, count(*) FROM t GROUP BY k",
            "AS INSERT INTO s SELECT k, nth_value(v, 2 ORDER BY ts) FROM t GROUP BY k",
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
                "AS INSERT INTO s SELECT k, approx_distinct(v) OVER (PARTITION BY k ORDER BY ts ROWS 1 PRECEDING) FROM t",
                "let the frame begin with UNBOUNDED PRECEDING",
            ),
            ("AS INSERT INTO topic SELECT k, max(ts), count(*) FROM t GROUP BY k", "takes rows back"),
            (
                "WITH ('state.unbounded' = 'refuse') AS INSERT INTO s SELECT k, count(*) FROM t GROUP BY k",
                "]; group or join by windows",
            ),
            (
                "WITH ('state.unbounded' = 'refuse') AS INSERT INTO s SELECT 'all', CAST(median(v) AS BIGINT) FROM t",
                "]; group or join by windows",
            ),
            (
                "WITH ('state.unbounded' = 'refuse') AS INSERT INTO minutes SELECT k, window_start, count(*) \
                 FROM TABLE(TUMBLE(TABLE topic, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY k, window_start, window_end",
                "; declare WATERMARK FOR column AS column - INTERVAL '5' SECOND in topic, and group or join by windows",
            ),
        ] {
            let message = rehearsed(job).await.expect_err(job);
            assert!(message.contains(said), "{job}: {message}");
        }
    }

    #[tokio::test]
    async fn lateness_that_is_allowed_is_kept_right_or_refused() {
        let with = "WITH ('allowed_lateness' = '1 minute') AS";
        for job in [
            format!("{with} INSERT INTO minutes {MINUTES}"),
            format!("{with} INSERT INTO minutes {MINUTES} EMIT ON WINDOW CLOSE"),
            format!("{with} INSERT INTO topic SELECT t.k, t.ts, o.v FROM t JOIN t AS o ON t.k = o.k AND t.ts = o.ts"),
        ] {
            assert_eq!(rehearsed(&job).await, Ok(()), "{job}");
        }
        let beside_files = "INSERT INTO minutes SELECT c.k, c.at, f.v FROM (SELECT k, window_start AS at, count(*) AS n \
                            FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY k, window_start, window_end) AS c \
                            JOIN files AS f ON c.k = f.k AND c.n > f.v EMIT ON WINDOW CLOSE";
        for (job, said) in [
            (format!("{with} INSERT INTO topic {MINUTES} EMIT ON WINDOW CLOSE"), "leave 'allowed_lateness' out"),
            (format!("{with} INSERT INTO topic {MINUTES}"), "use EMIT ON WINDOW CLOSE"),
            (format!("{with} {beside_files}"), "leave EMIT or 'allowed_lateness' out"),
        ] {
            let message = rehearsed(&job).await.expect_err(&job);
            assert!(message.contains(said), "{job}: {message}");
        }
        let catalog = declared("WITH ('allowed_lateness' = '1 minute') AS INSERT INTO files SELECT k, v FROM t");
        let (plan, spec) = planned(&catalog, catalog.job("j").expect("declared")).await.expect("planned");
        let notices = planning::notices(&plan, &spec.template).expect("not refused");
        assert!(notices.iter().any(|notice| notice.contains("'allowed_lateness' of job j does nothing")), "{notices:?}");
    }

    #[tokio::test]
    async fn timers_are_due_where_windows_come_out_and_where_they_are_dropped() {
        for (option, granule_us) in [("", 60_000_000), (" WITH ('allowed_lateness' = '90 s')", 30_000_000)] {
            let catalog = declared(&format!("{option} AS INSERT INTO minutes {MINUTES} EMIT ON WINDOW CLOSE"));
            let (_, spec) = planned(&catalog, catalog.job("j").expect("declared")).await.expect("planned");
            assert_eq!((spec.config.has_timers, spec.config.timer_granule_us), (true, granule_us));
        }
    }

    #[tokio::test]
    async fn another_lateness_is_allowed_by_an_upgrade_where_nothing_is_held_back_by_it() {
        let upgraded = async |before: &str, after: &str, emit: &str| {
            let mut specs = vec![];
            for option in [before, after] {
                let catalog = declared(&format!("{option} AS INSERT INTO minutes {MINUTES}{emit}"));
                let (_, spec) = planned(&catalog, catalog.job("j").expect("declared")).await.expect("planned");
                specs.push(spec);
            }
            let flow = |spec: &JobSpec| match &*spec.template {
                JobTemplate::Stateful(template) => Some(template.flow().spec.clone()),
                JobTemplate::Stateless(_) => None,
            };
            assert_eq!(before == after, flow(&specs[0]) == flow(&specs[1]), "executors tell them apart");
            difference(&specs[0], &specs[1])
        };
        let (none, minute, hour) = ("", "WITH ('allowed_lateness' = '1 m')", "WITH ('allowed_lateness' = '1 h')");
        for (before, after) in [(none, minute), (minute, hour), (hour, none), (minute, minute)] {
            assert_eq!(upgraded(before, after, "").await, None, "{before} {after}");
        }
        let on_close = " EMIT ON WINDOW CLOSE";
        assert_eq!(upgraded(minute, minute, on_close).await, None);
        for (before, after) in [(none, minute), (minute, hour), (hour, none)] {
            let why = upgraded(before, after, on_close).await.expect("refused");
            assert!(why.contains("'allowed_lateness' is another"), "{why}");
        }
    }
}
