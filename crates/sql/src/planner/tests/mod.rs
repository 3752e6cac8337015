//! Plans of whole statements over one set of tables, file by file what is planned; what is refused and what is said then.
mod contents;
mod declarations;
mod examples;
mod functions;
mod headings;
mod jobs;
mod numbers;
mod over;
mod refusals;
mod relations;
mod spellings;
mod subqueries;
mod topics;
mod unnest;
mod windows;

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;

use super::*;
use crate::{Change, StatementKind, apply, parse, validate::Declared};

const TABLES: &str = "
    CREATE TABLE t (k STRING, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
    WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json', 'scan.watermark.idle-timeout' = '30 s');
    CREATE TABLE u (k STRING, v BIGINT NOT NULL, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
    WITH ('connector' = 'kafka', 'topic' = 'u', 'format' = 'json');
    CREATE TABLE plain (k STRING, v BIGINT, ts TIMESTAMP(3)) WITH ('connector' = 'kafka', 'topic' = 'p', 'format' = 'json');
    CREATE TABLE side (k STRING, name STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
    CREATE TABLE sink (k STRING, n BIGINT, at TIMESTAMP(3), PRIMARY KEY (k, at) NOT ENFORCED)
    WITH ('connector' = 'cassandra', 'keyspace' = 's');
    CREATE TABLE other (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
    CREATE TABLE pair (a BIGINT, b BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
    CREATE TABLE newest (k STRING, v BIGINT NOT NULL, twice AS v * 2, PRIMARY KEY (k) NOT ENFORCED)
    WITH ('connector' = 'upsert-kafka', 'topic' = 'n', 'key.format' = 'json', 'value.format' = 'json');
    CREATE TABLE changed (k STRING, v BIGINT NOT NULL, note STRING, PRIMARY KEY (k) NOT ENFORCED)
    WITH ('connector' = 'kafka', 'topic' = 'c', 'format' = 'debezium-json');
    CREATE TABLE keyed (k STRING, v BIGINT NOT NULL, PRIMARY KEY (k) NOT ENFORCED)
    WITH ('connector' = 'kafka', 'topic' = 'd', 'format' = 'debezium-json', 'key.format' = 'json');
    CREATE TABLE moved (k STRING, v BIGINT NOT NULL, PRIMARY KEY (k) NOT ENFORCED)
    WITH ('connector' = 'kafka', 'topic' = 'm', 'format' = 'debezium-json');
    CREATE TABLE unnamed (k STRING, v BIGINT NOT NULL, PRIMARY KEY (k) NOT ENFORCED)
    WITH ('connector' = 'kafka', 'topic' = 'w', 'format' = 'debezium-json', 'debezium-json.schema-include' = 'true');
    CREATE TABLE uuids (k UUID, v BIGINT NOT NULL, PRIMARY KEY (k) NOT ENFORCED)
    WITH ('connector' = 'upsert-kafka', 'topic' = 'ids', 'key.format' = 'json', 'value.format' = 'json');
    CREATE TABLE texts (k STRING, v BIGINT NOT NULL, PRIMARY KEY (k) NOT ENFORCED)
    WITH ('connector' = 'upsert-kafka', 'topic' = 'ids', 'key.format' = 'json', 'value.format' = 'json');
    CREATE VIEW big (k, v, ts) AS SELECT k, v, ts FROM t WHERE v > 1;
";

fn declared(script: &str) -> Catalog {
    let change = Change { now_us: 0, incarnation: "a1".into() };
    let statements = parse(script).unwrap();
    statements.iter().fold(Catalog::default(), |catalog, statement| apply(&catalog, statement, &change).unwrap())
}

fn planner(catalog: Catalog) -> Planner {
    let state = SessionStateBuilder::new().with_default_features().build();
    Planner::new(&state, Arc::new(catalog), Arc::new(Declared))
}

async fn plan(job: &str) -> Result<JobPlan, SqlError> {
    let sql =
        if job.starts_with("BEGIN") { format!("CREATE JOB j AS {job}") } else { format!("CREATE JOB j AS INSERT INTO {job}") };
    let mut statements = parse(&sql)?;
    let StatementKind::CreateJob(create) = statements.remove(0).kind else { panic!("not a job: {sql}") };
    planner(declared(TABLES)).plan_job(&create, 4).await
}

async fn refused(job: &str) -> String {
    plan(job).await.expect_err(job).to_string()
}
