//! Plans of whole statements: Nexmark's queries, windows over rows, what is refused and what is said then.
use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray},
        datatypes::{DataType, TimeUnit},
        json::ReaderBuilder,
        util::pretty::pretty_format_batches,
    },
    catalog::TableProvider,
    common::Result as DataFusionResult,
    datasource::MemTable,
    execution::SessionStateBuilder,
    prelude::SessionContext,
};

use super::*;
use crate::{
    Change, StatementKind, TableDefinition, apply, parse,
    validate::{Declared, read_folder, validate},
};

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

#[tokio::test]
async fn every_nexmark_query_plans() {
    let files = read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jobs/nexmark")).unwrap();
    let validation = validate(&files).await;
    let problems: Vec<String> = validation.problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:#?}");
    let planner = planner(validation.catalog.clone());
    let mut found = Vec::new();
    for number in 0..=22 {
        let job = planner.plan_stored_job(validation.catalog.job(&format!("nexmark_q{number}")).unwrap(), 4).await.unwrap();
        if std::env::var_os("SHOW_PLANS").is_some() {
            println!("q{number}\n{}", job.inserts[0].plan.display_indent());
        }
        found.push((number, job.is_stateful, job.event_time.granule_us));
    }
    let stateless = [0, 1, 2, 10, 14, 21, 22];
    let windowed = |number| match number {
        5 => Some(2_000_000),
        7 | 8 => Some(10_000_000),
        11 => Some(0),
        _ => None,
    };
    for (number, is_stateful, granule_us) in found {
        assert_eq!(is_stateful, !stateless.contains(&number), "q{number}");
        assert_eq!(granule_us, windowed(number), "q{number}");
    }
}

#[tokio::test]
async fn values_go_to_columns_by_their_place_whatever_they_are_called() {
    for query in [
        "SELECT v, v FROM u",
        "SELECT v AS b, v AS a FROM u",
        "SELECT v, CAST(v AS INT) FROM u",
        "SELECT v AS x, v + 1 AS x FROM u",
        "SELECT abs(v), ABS(v) FROM u",
        "SELECT v, V FROM u",
        "SELECT v, u.v FROM u",
        "SELECT x.*, v FROM (SELECT v FROM u) AS x",
        "SELECT v, v FROM u UNION ALL SELECT v, v + 1 FROM t WHERE v > 0",
    ] {
        let job = plan(&format!("pair {query}")).await.unwrap();
        let names: Vec<_> = job.inserts[0].plan.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["a", "b"], "{query}");
    }
}

/// EPOCHS rule 11: two keys that differ by microseconds are one there, and have to be one here.
#[tokio::test]
async fn keys_are_as_their_table_stores_them() {
    let job = plan("sink SELECT k, v, CAST(ts AS TIMESTAMP(6)) FROM t").await.unwrap();
    let key = job.inserts[0].plan.schema().field(2).data_type().clone();
    assert_eq!(key, DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())));
}

#[tokio::test]
async fn what_a_query_selects_twice_has_two_names() {
    let planner = planner(Catalog::default());
    for (sql, names) in [
        ("SELECT a, a, b FROM (VALUES (1, 2)) AS t (a, b) ORDER BY a", ["a", "a (2)", "b"]),
        ("SELECT count(*), count(*), 1 AS one", ["count(*)", "count(*) (2)", "one"]),
        ("SELECT CAST(t.a AS STRING), (b::int), 3 AS c FROM (VALUES (1, 2)) AS t (a, b) ORDER BY a, b DESC", ["a", "b", "c"]),
        ("SELECT CAST(a AS STRING), a, b FROM (VALUES (1, 2)) AS t (a, b) ORDER BY b", ["a", "a (2)", "b"]),
        ("SELECT 1::int, 1::bigint, 2", ["1::INT", "1::BIGINT", "2"]),
        ("SELECT upper(a), UPPER(a), upper(t.a) FROM (VALUES ('x')) AS t (a) ORDER BY a", ["upper(a)", "UPPER(a)", "upper(t.a)"]),
        ("SELECT count(*), COUNT(*), a FROM (VALUES (1)) AS t (a) GROUP BY a", ["count(*)", "COUNT(*)", "a"]),
        ("SELECT a, A, \"a\" FROM (VALUES (1)) AS t (a) ORDER BY a", ["a", "A", "\"a\""]),
        ("SELECT a, t.a, a + 1 FROM (VALUES (1)) AS t (a) ORDER BY t.a", ["a", "t.a (2)", "a + 1"]),
        ("SELECT DISTINCT *, b FROM (VALUES (1, 2)) AS t (a, b) ORDER BY b", ["a", "b", "b (3)"]),
        ("SELECT t.*, T.a FROM (VALUES (1, 2)) AS t (a, b) ORDER BY a", ["a", "b", "T.a"]),
        ("SELECT b, * FROM (VALUES (1, 2)) AS t (a, b) ORDER BY b", ["b (1)", "a", "b"]),
        ("SELECT DISTINCT a + 1, upper(b) AS x, b FROM (VALUES (1, 'x')) AS t (a, b) ORDER BY a+1, upper(b)", ["a + 1", "x", "b"]),
        ("SELECT t.a, s.a, T.A FROM (VALUES (1)) AS t (a), (VALUES (2)) AS s (a)", ["a", "a", "T.A"]),
    ] {
        let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
        let plan = planner.plan_query(&query).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let found: Vec<_> = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(found, names, "{sql}");
    }
}

#[tokio::test]
async fn expressions_are_called_as_they_are_written_and_nothing_means_them_by_that() {
    const ROWS: &str = "(VALUES (2, 'b'), (1, 'a'), (2, 'c')) AS t (n, s)";
    let planner = planner(Catalog::default());
    for (sql, names, found) in [
        (
            "SELECT 1+2, mode() WITHIN GROUP (ORDER BY n), upper('a'), COUNT(*) FROM ROWS",
            vec!["1 + 2", "mode() WITHIN GROUP (ORDER BY n)", "upper('a')", "COUNT(*)"],
            "3 2 A 3",
        ),
        ("SELECT n + 1 FROM ROWS ORDER BY n + 1 DESC LIMIT 2", vec!["n + 1"], "3\n3"),
        (
            "SELECT upper(s), count(*) FROM ROWS GROUP BY upper(s) HAVING count(*) > 0 ORDER BY 1",
            vec!["upper(s)", "count(*)"],
            "A 1\nB 1\nC 1",
        ),
        ("SELECT DISTINCT n * 2 FROM ROWS ORDER BY n * 2", vec!["n * 2"], "2\n4"),
        ("SELECT DISTINCT ON (n) n, upper(s) FROM ROWS ORDER BY n, s", vec!["n", "upper(s)"], "1 A\n2 B"),
        ("SELECT row_number() OVER (ORDER BY s) FROM ROWS ORDER BY 1", vec!["row_number() OVER (ORDER BY s)"], "1\n2\n3"),
        ("SELECT n + 1 FROM ROWS UNION SELECT 10 * n FROM ROWS ORDER BY 1", vec!["n + 1"], "2\n3\n10\n20"),
        ("SELECT n FROM ROWS UNION SELECT -n FROM ROWS ORDER BY abs(n), n + 1", vec!["n"], "-1\n1\n-2\n2"),
        ("SELECT n + 1 FROM ROWS UNION SELECT n FROM ROWS ORDER BY n + 1 DESC", vec!["n + 1"], "3\n2\n1"),
        ("SELECT n * 2 FROM ROWS EXCEPT (SELECT 2) ORDER BY n * 2", vec!["n * 2"], "4"),
        ("SELECT * FROM (SELECT sum(n) FROM ROWS)", vec!["sum(n)"], "5"),
        (
            "WITH c AS (SELECT s, count(*) FILTER (WHERE n > 1) FROM ROWS GROUP BY s) SELECT *, s || s FROM c ORDER BY s LIMIT 1",
            vec!["s", "count(*) FILTER (WHERE n > 1)", "s || s"],
            "a 0 aa",
        ),
        ("SELECT *, n - 1 FROM ROWS ORDER BY s", vec!["n", "s", "n - 1"], "1 a 0\n2 b 1\n2 c 1"),
        (
            "SELECT \"n + 1\", n + 1 FROM (SELECT n, s AS \"n + 1\" FROM ROWS) ORDER BY \"n + 1\"",
            vec!["n + 1", "n + 1 (2)"],
            "a 2\nb 3\nc 3",
        ),
        ("WITH c AS (SELECT count(*) FROM ROWS) SELECT \"count(*)\" * 2 FROM c", vec!["\"count(*)\" * 2"], "6"),
        (
            "SELECT t.n, u.n, u.n, t.n + u.n FROM ROWS JOIN (SELECT 1 AS n) AS u ON t.n = u.n",
            vec!["n", "n", "u.n (3)", "t.n + u.n"],
            "1 1 1 2",
        ),
        (
            "SELECT r.a, r.a + 1 FROM (SELECT named_struct('a', n) AS r FROM ROWS) AS q ORDER BY 1 LIMIT 1",
            vec!["a", "r.a + 1"],
            "1 2",
        ),
    ] {
        let sql = sql.replace("ROWS", ROWS);
        let StatementKind::Query(query) = parse(&sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
        let plan = planner.plan_query(&query).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let called: Vec<_> = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(called, names, "{sql}");
        assert_eq!(rows(&sql).await, found, "{sql}");
    }
    let StatementKind::Explain(explain) = parse("EXPLAIN SELECT 1 + 2").unwrap().remove(0).kind else { panic!("no EXPLAIN") };
    let Explained::Plan(plan) = planner.explain(&explain, 1).await.unwrap() else { panic!("a query has a plan") };
    let shown = plan.display_indent().to_string();
    assert!(shown.contains("Int64(1) + Int64(2)") && !shown.contains(" AS "), "{shown}");
}

#[tokio::test]
async fn casts_know_the_types_of_columns() {
    let planner = planner(Catalog::default());
    let query = async |sql: &str| {
        let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
        planner.plan_query(&query).await
    };
    for (kind, arrow) in [
        ("TIMESTAMP_LTZ(3)", "Timestamp(ms, \"UTC\")"),
        ("TIMESTAMPTZ", "Timestamp(µs, \"UTC\")"),
        ("TIMESTAMPTZ(3)", "Timestamp(ms, \"UTC\")"),
        ("BYTES", "Binary"),
        ("UUID", "Utf8"),
        ("VARBINARY", "Binary"),
        ("BINARY(3)", "Binary"),
        ("TIME(3)", "Time32(ms)"),
        ("TIMESTAMP(2)", "Timestamp(ms)"),
        ("TIMESTAMP(6)", "Timestamp(µs)"),
        ("STRING", "Utf8View"),
        ("TIMESTAMP(3)", "Timestamp(ms)"),
    ] {
        let plan = query(&format!("SELECT CAST(NULL AS {kind}) AS c, TRY_CAST(NULL AS {kind}) AS d")).await.unwrap();
        for column in ["c", "d"] {
            let field = plan.schema().field_with_unqualified_name(column).unwrap();
            assert_eq!(field.data_type().to_string(), arrow, "{kind}");
        }
    }
    let error = query("SELECT CAST('2024-01-01' AS TIMESTAMP(3) WITH TIME ZONE)").await.unwrap_err().to_string();
    assert!(error.contains("write TIMESTAMP_LTZ(3), an instant"), "{error}");
    let error = query("SELECT CAST('x' AS TIMESTAMP_LTX(3))").await.unwrap_err().to_string();
    assert!(error.contains("unknown type \"TIMESTAMP_LTX\"; did you mean TIMESTAMP_LTZ?"), "{error}");
}

#[tokio::test]
async fn casts_to_a_length_keep_so_many_characters() {
    for (query, answer) in [
        (
            "SELECT CAST('äöüß' AS VARCHAR(3)), 'abc'::char(2) || '.', CAST('ab' AS CHAR(5)) || '.', CAST('abc' AS CHAR)",
            "äöü ab. ab. a",
        ),
        (
            "SELECT CAST(NULL AS VARCHAR(3)) IS NULL, CAST(12345 AS VARCHAR(2)), TRY_CAST(true AS CHARACTER VARYING(2))",
            "true 12 tr",
        ),
        ("SELECT CAST(k AS VARCHAR(1)) FROM (VALUES ('bx'), ('ay')) AS t (k) ORDER BY k", "a\nb"),
        ("SELECT CAST(k AS VARCHAR(1)) AS c, count(*) FROM (VALUES ('ax'), ('ay')) AS t (k) GROUP BY CAST(k AS VARCHAR(1))", "a 2"),
        ("SELECT CAST(k AS VARCHAR(1)), CAST(k AS VARCHAR(2)), k FROM (VALUES ('abc')) AS t (k)", "a ab abc"),
    ] {
        assert_eq!(rows(query).await, answer, "{query}");
    }
    let job = plan("other SELECT CAST(k AS VARCHAR(1)), v FROM big").await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("left(") && shown.contains("Int64(1)"), "{shown}");
    let table =
        "CREATE TABLE c (a STRING, b AS CAST(a AS VARCHAR(3))) WITH ('connector' = 'kafka', 'topic' = 'c', 'format' = 'json')";
    let catalog = declared(table);
    assert!(crate::show::create_table(catalog.table(&"c".into()).unwrap()).contains("b AS left(CAST(a AS VARCHAR), 3)"));
}

#[tokio::test]
async fn a_kind_of_record_reads_its_own_fields() {
    let files = read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jobs/nexmark")).unwrap();
    let validation = validate(&files).await;
    let planner = planner(validation.catalog.clone());
    let job = planner.plan_stored_job(validation.catalog.job("nexmark_q0").unwrap(), 4).await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("TableScan: public.nexmark projection=[event_type, bid]"), "{shown}");
    assert!(!shown.contains("CASE"), "{shown}");
    // Windows ask whether there is a time.
    let job = planner.plan_stored_job(validation.catalog.job("nexmark_q7").unwrap(), 4).await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    let filters: Vec<&str> = shown.lines().map(str::trim).filter(|line| line.starts_with("Filter:")).collect();
    assert!(filters.iter().any(|filter| filter.contains("IS NOT NULL")), "{shown}");
    assert!(filters.iter().all(|filter| !filter.contains("CASE")), "{shown}");
}

/// Of an upsert topic.
const RECORDS: &str = r#"
    {"k": "a", "v": 1, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}
    {"k": "b", "v": 2, "record:partition": 1, "record:offset": 0, "record:is_tombstone": false}
    {"k": "a", "v": 3, "record:partition": 0, "record:offset": 5, "record:is_tombstone": false}
    {"k": "b", "record:partition": 1, "record:offset": 1, "record:is_tombstone": true}
    {"k": "c", "record:partition": 1, "record:offset": 2, "record:is_tombstone": true}
    {"k": "c", "v": 4, "record:partition": 1, "record:offset": 3, "record:is_tombstone": false}"#;

/// Of a topic of changes.
const CHANGES: &str = r#"
    {"record:op": "r", "record:after": {"k": "a", "v": 1, "note": "x"}, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}
    {"record:op": "c", "record:after": {"k": "b", "v": 2}, "record:partition": 0, "record:offset": 1, "record:is_tombstone": false}
    {"record:op": "u", "record:before": {"k": "a", "v": 1}, "record:after": {"k": "a", "v": 3, "note": "y"}, "record:partition": 0, "record:offset": 2, "record:is_tombstone": false}
    {"record:op": "d", "record:before": {"k": "b"}, "record:partition": 0, "record:offset": 3, "record:is_tombstone": false}
    {"record:partition": 0, "record:offset": 4, "record:is_tombstone": true}"#;

/// Of topics of changes where a delete tells its row by the record's key, by nothing, and where an update gives a row another key.
const KEYED: &str = r#"
    {"record:op": "c", "record:after": {"k": "a", "v": 1}, "record:key:k": "a", "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}
    {"record:op": "c", "record:after": {"k": "b", "v": 2}, "record:key:k": "b", "record:partition": 0, "record:offset": 1, "record:is_tombstone": false}
    {"record:op": "c", "record:after": {"k": "c", "v": 3}, "record:key:k": "c", "record:partition": 0, "record:offset": 2, "record:is_tombstone": false}
    {"record:op": "d", "record:key:k": "a", "record:partition": 0, "record:offset": 3, "record:is_tombstone": false}
    {"record:op": "d", "record:before": {"k": "c"}, "record:key:k": "other", "record:partition": 0, "record:offset": 4, "record:is_tombstone": false}
    {"record:op": "d", "record:before": {"v": 2}, "record:partition": 0, "record:offset": 5, "record:is_tombstone": false}"#;
const MOVED: &str = r#"
    {"record:op": "u", "record:before": {"k": "a", "v": 1}, "record:after": {"k": "b", "v": 1}, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}"#;
const UNNAMED: &str = r#"
    {"record:payload": {"op": "d"}, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}"#;

/// Keys in letters of either case.
const CASES: &str = r#"
    {"k": "ab", "v": 1, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}
    {"k": "AB", "record:partition": 0, "record:offset": 1, "record:is_tombstone": true}
    {"k": "cD", "v": 2, "record:partition": 0, "record:offset": 2, "record:is_tombstone": false}
    {"k": "CD", "v": 3, "record:partition": 0, "record:offset": 3, "record:is_tombstone": false}"#;

/// Three keys' rows, in milliseconds.
#[derive(Debug)]
struct Rows;

#[async_trait]
impl Providers for Rows {
    async fn provider(&self, table: &TableDefinition, _: Use) -> DataFusionResult<Arc<dyn TableProvider>> {
        if table.keeps_last_record() {
            let records = match table.name.name.as_str() {
                "keyed" => KEYED,
                "moved" => MOVED,
                "unnamed" => UNNAMED,
                "uuids" | "texts" => CASES,
                "changed" => CHANGES,
                _ => RECORDS,
            };
            let mut reader = ReaderBuilder::new(table.read_schema()).build(records.as_bytes())?;
            let batch = reader.next().expect("a batch")?;
            return Ok(Arc::new(MemTable::try_new(table.read_schema(), vec![vec![batch]])?));
        }
        let batch = RecordBatch::try_new(
            table.arrow_schema(),
            vec![
                Arc::new(StringArray::from(vec!["a", "a", "a", "b", "a"])),
                Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5])),
                Arc::new(TimestampMillisecondArray::from(vec![0, 5_000, 15_000, 16_000, 26_000])),
            ],
        )?;
        Ok(Arc::new(MemTable::try_new(table.arrow_schema(), vec![vec![batch]])?))
    }

    fn system(&self, _: &str) -> Option<Arc<dyn TableProvider>> {
        None
    }
}

async fn rows(query: &str) -> String {
    let state = SessionStateBuilder::new().with_default_features().build();
    let planner = Planner::new(&state, Arc::new(declared(TABLES)), Arc::new(Rows));
    let StatementKind::Query(query) = parse(query).unwrap().remove(0).kind else { panic!("not a query") };
    let plan = planner.plan_query(&query).await.unwrap();
    let context = SessionContext::new_with_state(state);
    let frame = context.execute_logical_plan(plan).await.unwrap();
    let batches = frame.collect().await.unwrap();
    let text = pretty_format_batches(&batches).unwrap().to_string();
    let cells = |line: &str| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace("1970-01-01T00:", "")).collect::<Vec<_>>().join(" ")
    };
    text.lines().filter(|line| line.starts_with('|')).skip(1).map(cells).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_window_made_of_another_is_partitioned_alike() {
    for over in ["(w ORDER BY b)", "w2"] {
        let sql = format!(
            "SELECT a, sum(b) OVER {over} AS s FROM (VALUES (1, 10), (2, 20), (1, 30)) AS t (a, b) WINDOW w AS (PARTITION BY a), w2 AS (w ORDER BY b) ORDER BY b"
        );
        assert_eq!(rows(&sql).await, "1 10\n2 20\n1 40", "{over}");
    }
}

#[tokio::test]
async fn what_is_written_otherwise_is_answered_alike() {
    for (query, answer) in [
        ("SELECT bool_or(v > 4) OVER (ORDER BY v ROWS 1 PRECEDING) FROM t ORDER BY v LIMIT 5", "false\nfalse\nfalse\nfalse\ntrue"),
        ("SELECT bool_and(v < 3) OVER (ORDER BY v ROWS 1 PRECEDING) FROM t ORDER BY v LIMIT 3", "true\ntrue\nfalse"),
        ("SELECT v FROM t ORDER BY v OFFSET 1 ROW FETCH NEXT 2 ROWS ONLY", "2\n3"),
        ("SELECT TRIM(LEADING FROM ' a') || '.', TRIM(BOTH FROM ' b ') || '.'", "a. b."),
        ("SELECT a FROM (VALUES ('5%'), ('5x'), ('5\\')) AS t (a) WHERE a LIKE '5!%' ESCAPE '!'", "5%"),
        ("SELECT a FROM (VALUES ('5%'), ('5x'), ('5\\')) AS t (a) WHERE a LIKE '5\\' ESCAPE '!'", "5\\"),
        ("SELECT a FROM (VALUES ('ab'), ('abc'), ('xab')) AS t (a) WHERE a SIMILAR TO '(a|x)_'", "ab"),
        ("SELECT a FROM (VALUES ('x\\y'), ('x%'), ('xy')) AS t (a) WHERE a ~ 'x\\\\'", "x\\y"),
        ("SELECT a FROM (VALUES ('x\\y'), ('x%'), ('xy')) AS t (a) WHERE a ~* '^X\\\\Y$'", "x\\y"),
        ("SELECT a FROM (VALUES ('x\\y'), ('x%'), ('xy')) AS t (a) WHERE a ~ '\\x5C'", "x\\y"),
        ("SELECT a FROM (VALUES ('x\\y'), ('x%'), ('xy')) AS t (a) WHERE regexp_like(a, 'x[\\u005c]')", "x\\y"),
        ("SELECT a FROM (VALUES ('a1'), ('ad')) AS t (a) WHERE a SIMILAR TO '_\\d'", "a1"),
        ("SELECT arg_max(v, 2) FROM (VALUES (7, 2)) AS t (v, w)", "7"),
        ("SELECT argmin(1, 2)", "1"),
        ("SELECT a FROM (VALUES ('x\\y'), ('x%'), ('xy')) AS t (a) WHERE NOT regexp_like(a, '\\\\') ORDER BY a", "x%\nxy"),
        ("SELECT TIMESTAMP '2026-01-02 00:00:00' - INTERVAL '1 02:03:04' DAY TO SECOND", "2025-12-31T21:56:56"),
        ("SELECT TIMESTAMP '2026-01-02 00:00:00' + INTERVAL '-1-2' YEAR TO MONTH", "2024-11-02T00:00:00"),
        (
            "SELECT extract(decade FROM d), extract(century FROM d), extract(millennium FROM d) FROM (SELECT DATE '2000-12-31' AS d)",
            "200 20 2",
        ),
        ("SELECT date_part('century', DATE '2001-01-01'), date_part('MILLENNIUM', DATE '2001-01-01')", "21 3"),
        ("SELECT k, grouping_id(k, v), sum(v) FROM t WHERE v > 3 GROUP BY ROLLUP ((k, v)) ORDER BY 3", "b 0 4\na 0 5\n 3 9"),
        ("SELECT array_agg(v ORDER BY v DESC)[2] FROM t", "4"),
        ("SELECT sum(v) FROM t WHERE v > 3 GROUP BY ()", "9"),
        ("SELECT sum(v) IS NULL FROM t WHERE v > 9 GROUP BY ()", "true"),
        ("SELECT sum(v), rank() OVER (ORDER BY sum(v)) FROM t WHERE v > 3 GROUP BY () HAVING sum(v) > 8", "9 1"),
        ("SELECT k, sum(v) FROM t WHERE v > 3 GROUP BY k, () ORDER BY k", "a 5\nb 4"),
        ("SELECT sum(v), count(*) FROM t WHERE v > 3 GROUP BY GROUPING SETS ((), ())", "9 2\n9 2"),
        ("SELECT count(*) FROM t WHERE v > 9 GROUP BY GROUPING SETS ((), (), ())", "0\n0\n0"),
        ("SELECT sum(v) FROM t GROUP BY CUBE (()) HAVING sum(v) > 3", "15\n15"),
        ("SELECT 1 AS one FROM t GROUP BY GROUPING SETS ((), ())", "1\n1"),
        (
            "SELECT k, sum(v), grouping(k) FROM t WHERE v > 3 GROUP BY GROUPING SETS ((k), (), (k), ()) ORDER BY k",
            "a 5 0\na 5 0\nb 4 0\nb 4 0\n 9 1\n 9 1",
        ),
        ("SELECT k, count(*) FROM t GROUP BY ROLLUP (k, k) ORDER BY k", "a 4\na 4\nb 1\nb 1\n 5"),
        ("SELECT v, x FROM t, LATERAL UNNEST(make_array(v, -v)) AS u (x) WHERE v = 5 ORDER BY x", "5 -5\n5 5"),
        ("SELECT x FROM t CROSS JOIN LATERAL UNNEST(make_array(v)) AS u (x) WHERE v > 3 ORDER BY x", "4\n5"),
        ("SELECT sum(v) OVER (ORDER BY ts RANGE INTERVAL 6 SECOND PRECEDING) FROM t ORDER BY ts", "1\n3\n3\n7\n5"),
        ("SELECT sum(v) OVER (ORDER BY ts RANGE INTERVAL '1 minute -54 seconds' PRECEDING) FROM t ORDER BY ts", "1\n3\n3\n7\n5"),
        ("SELECT TIMESTAMP '2024-01-01 00:00:00' + INTERVAL '1' DAY / 4 = TIMESTAMP '2024-01-01 06:00:00'", "true"),
    ] {
        assert_eq!(rows(query).await, answer, "{query}");
    }
    for groups in ["()", "GROUPING SETS (())"] {
        let job = plan(&format!("other SELECT 'a', sum(v) FROM u GROUP BY {groups}")).await.unwrap();
        let shown = job.inserts[0].plan.display_indent().to_string();
        assert!(shown.contains("Aggregate: groupBy=[[]]"), "{shown}");
    }
    let number = refused("other SELECT k, bool_or(v) OVER (PARTITION BY k ORDER BY ts ROWS 2 PRECEDING) FROM t").await;
    assert!(number.contains("logical boolean operation"), "{number}");
}

#[tokio::test]
async fn a_subquery_without_a_row_is_null() {
    for (query, answer) in [
        ("SELECT (SELECT 1 WHERE 1 > 2) IS NULL", "true"),
        ("SELECT (SELECT v FROM newest WHERE v > 99) IS NULL, (SELECT v FROM newest WHERE v = 3) IS NULL", "true false"),
        ("SELECT coalesce((SELECT v FROM newest WHERE v > 99), 7)", "7"),
        ("SELECT (SELECT v FROM newest WHERE v > 99)", ""),
        ("SELECT v FROM newest WHERE coalesce((SELECT v FROM newest WHERE v > 99), 4) = v", "4"),
        ("SELECT v FROM newest WHERE v > (SELECT count(*) + 3 FROM newest WHERE v > 99)", "4"),
        ("SELECT (SELECT count(*) FROM newest WHERE v > 99 HAVING count(*) > 0) IS NULL", "true"),
        ("WITH w AS (SELECT (SELECT 1 WHERE 1 > 2) AS x) SELECT x IS NULL FROM w", "true"),
    ] {
        assert_eq!(rows(query).await, answer, "{query}");
    }
    let job =
        plan("other SELECT k, coalesce((SELECT count(*) FROM u WHERE u.k = t.k HAVING count(*) > 1), 0) FROM t").await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("or_null("), "{shown}");
    let job = plan("other SELECT k, v FROM u WHERE v > 1 AND v = (SELECT v FROM u ORDER BY ts LIMIT 1)").await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(!shown.contains("or_null(") && shown.contains("Inner Join"), "{shown}");
}

#[tokio::test]
async fn groups_may_be_a_column_and_casts_of_it() {
    let sql = "SELECT a, CAST(a AS STRING) AS s, count(*) AS n FROM (VALUES (1), (2), (1)) AS t (a) GROUP BY a, CAST(a AS STRING) ORDER BY a";
    assert_eq!(rows(sql).await, "1 1 2\n2 2 1");
    plan("other SELECT CAST(v AS STRING) AS s, count(*) AS n FROM u GROUP BY v, CAST(v AS STRING)").await.unwrap();
}

#[tokio::test]
async fn rows_of_an_upsert_topic_are_the_last_records_of_their_keys() {
    assert_eq!(rows("SELECT * FROM newest ORDER BY k").await, "a 3 6\nc 4 8");
    assert_eq!(rows("SELECT count(*) FROM newest AS n JOIN newest AS m ON n.v < m.v").await, "1");
    let job = plan("other SELECT k, twice FROM newest WHERE v > 3").await.unwrap();
    assert!(job.is_stateful && job.watermarks.is_empty());
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(
        shown.contains("last_record(public.newest.record:is_tombstone") && shown.contains("PARTITION BY [public.newest.k]"),
        "{shown}"
    );
    let explained = crate::explain::job(&job, false);
    for line in
        ["reads       2 of 3 columns: k, v", "rows        by key (k), the last record of each", "keeps rows  where v > Int64(3)"]
    {
        assert!(explained.contains(line), "{line}: {explained}");
    }
    assert!(!explained.contains("last_record") && !explained.contains("record:"), "{explained}");
    let StatementKind::Explain(explain) = parse("EXPLAIN SELECT k FROM newest").unwrap().remove(0).kind else {
        panic!("no EXPLAIN")
    };
    let state = SessionStateBuilder::new().with_default_features().build();
    let planner = Planner::new(&state, Arc::new(declared(TABLES)), Arc::new(Rows));
    let Explained::Plan(plan) = planner.explain(&explain, 1).await.unwrap() else { panic!("a query has a plan") };
    let plans = SessionContext::new_with_state(state).execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
    let shown: String = plans[0].column(1).as_string::<i32>().iter().flatten().map(crate::explain::in_words).collect();
    assert!(shown.contains("number of the key's record = UInt64(1)") && !shown.contains("last_record("), "{shown}");
}

#[tokio::test]
async fn a_uuid_is_one_key_in_letters_of_either_case_and_a_text_is_not() {
    assert_eq!(rows("SELECT * FROM uuids ORDER BY k").await, "CD 3");
    assert_eq!(rows("SELECT * FROM texts ORDER BY v").await, "ab 1\ncD 2\nCD 3");
}

#[tokio::test]
async fn what_a_query_alone_may_say() {
    assert_eq!(rows("SELECT * FROM generate_series(1, 5, 2)").await, "1\n3\n5");
    assert_eq!(rows("SELECT count(*) FROM t WHERE ts < TIMESTAMP '9999-12-31 23:59:59.999'").await, "5");
    let planner = planner(declared(TABLES));
    for subquery in [
        "SELECT max(v) FROM u WHERE v > 9",
        "SELECT max(v) FROM u WHERE u.k = t.k GROUP BY u.v",
        "SELECT 1 FROM u WHERE u.k = t.k HAVING count(*) > 1",
        "SELECT count(*) FROM u WHERE u.k = t.k HAVING max(v) < 9 OR count(*) > 1.5",
        "SELECT 1 FROM u WHERE u.k = t.k GROUP BY u.k HAVING count(*) < 3",
    ] {
        let sql = format!("SELECT k FROM t WHERE EXISTS ({subquery})");
        let StatementKind::Query(query) = parse(&sql).unwrap().remove(0).kind else { panic!("not a query") };
        assert!(planner.plan_query(&query).await.is_ok(), "{subquery}");
    }
    let maximum = "v IN (SELECT max(v) FROM u WHERE u.k = t.k)";
    for condition in [
        maximum.to_owned(),
        format!("v > 1 AND {maximum}"),
        format!("v > 1 AND (v > 9 OR {maximum})"),
        "v > 9 OR v IN (SELECT max(v) FROM u GROUP BY k)".to_owned(),
    ] {
        assert_eq!(rows(&format!("SELECT v FROM t WHERE {condition} ORDER BY v")).await, "4\n5", "{condition}");
    }
}

#[tokio::test]
async fn several_columns_may_be_in_no_row_beside_or() {
    let unknown = "SELECT k, CASE WHEN v > 1 THEN v END FROM u WHERE v < 4";
    for (or, answer) in [("v > 9", "4"), ("v > 4", "4\n5"), ("(k, v) IN (SELECT k, v FROM u WHERE v < 3)", "1\n2\n4")] {
        let sql = format!("SELECT v FROM t WHERE {or} OR (k, v) NOT IN ({unknown}) ORDER BY v");
        assert_eq!(rows(&sql).await, answer, "{or}");
    }
    for (columns, subquery, answer) in [
        ("v, v", "SELECT v, v FROM u WHERE v < 3", "1\n2"),
        ("v, k", "SELECT v, k FROM t WHERE k = 'b'", "4"),
        ("v, v", "SELECT v, v AS v FROM u WHERE v = 2 UNION SELECT v, v FROM u WHERE v = 3", "2\n3"),
    ] {
        let sql = format!("SELECT v FROM t WHERE ({columns}) IN ({subquery}) ORDER BY v");
        assert_eq!(rows(&sql).await, answer, "{subquery}");
    }
}

#[tokio::test]
async fn groups_are_sorted_by_the_places_of_windows_and_items() {
    let starts =
        "SELECT TUMBLE_START(ts, INTERVAL '10' SECOND), count(*) FROM t GROUP BY TUMBLE(ts, INTERVAL '10' SECOND) ORDER BY 1 DESC";
    assert_eq!(rows(starts).await, "00:20 1\n00:10 2\n00:00 2");
    let items = "SELECT x.item, count(*) FROM t CROSS JOIN UNNEST(make_array(k, 'z')) AS x (item) GROUP BY x.item ORDER BY 1 DESC";
    assert_eq!(rows(items).await, "z 5\nb 1\na 4");
    assert_eq!(rows("SELECT upper(k), sum(v) FROM t GROUP BY k ORDER BY 1 DESC").await, "B 4\nA 11");
}

#[tokio::test]
async fn rows_without_items_stay_in_an_outer_join_with_their_array() {
    let array = "CASE WHEN v < 5 THEN array_remove_all(make_array(k), 'b') END";
    for (join, answer) in [
        (format!("LEFT JOIN UNNEST({array}) AS x (item) ON TRUE"), "1 a\n2 a\n3 a\n4 -\n5 -"),
        (format!("CROSS JOIN UNNEST({array}) AS x (item)"), "1 a\n2 a\n3 a"),
        (format!("JOIN UNNEST({array}) AS x (item) ON TRUE"), "1 a\n2 a\n3 a"),
    ] {
        assert_eq!(rows(&format!("SELECT v, coalesce(x.item, '-') FROM t {join} ORDER BY v")).await, answer, "{join}");
    }
    let fields = "SELECT v, coalesce(i.b, '-') FROM t LEFT JOIN UNNEST(CASE WHEN v < 3 THEN make_array(named_struct('a', v, 'b', k)) END) AS i (a, b) ON TRUE WHERE v > 1 ORDER BY v";
    assert_eq!(rows(fields).await, "2 a\n3 -\n4 -\n5 -");
    let error = parse("SELECT 1 FROM t LEFT JOIN UNNEST(a) AS x (item) ON x.item > 1").unwrap_err().to_string();
    assert!(error.contains("LEFT JOIN UNNEST(…) AS x (item) ON TRUE"), "{error}");
}

#[tokio::test]
async fn entries_of_maps_and_places_of_items_are_rows() {
    let some = "CASE WHEN v < 2 THEN make_array(k, 'z') END";
    for (query, answer) in [
        ("SELECT v, x.a, n FROM t CROSS JOIN UNNEST(MAP['p', v, 'q', -v]) AS x (a, n) WHERE v > 4 ORDER BY a", "5 p 5\n5 q -5"),
        ("SELECT v, a FROM t, LATERAL UNNEST(map(make_array('p'), make_array(v))) AS x (a, n) WHERE n > 3 ORDER BY v", "4 p\n5 p"),
        (
            "SELECT v, coalesce(x.a, '-') FROM t LEFT JOIN UNNEST(str_to_map(CASE WHEN v < 2 THEN 'p=1' END)) AS x (a, n) ON TRUE WHERE v < 3 ORDER BY v",
            "1 p\n2 -",
        ),
        ("SELECT a, n FROM UNNEST(MAP['p', 1, 'q', 2]) AS x (a, n) ORDER BY a", "p 1\nq 2"),
        ("SELECT a, i FROM UNNEST(MAP['p', 1, 'q', 2]) WITH ORDINALITY AS x (a, n, i) ORDER BY i", "p 1\nq 2"),
        (
            "SELECT v, x.item, x.n FROM t CROSS JOIN UNNEST(make_array(v, -v)) WITH ORDINALITY AS x (item, n) WHERE v > 4 ORDER BY n",
            "5 5 1\n5 -5 2",
        ),
        (
            "SELECT item, ordinality FROM t, LATERAL UNNEST(make_array('p', 'q')) WITH ORDINALITY AS x (item) WHERE v = 1 ORDER BY 2",
            "p 1\nq 2",
        ),
        ("SELECT * FROM UNNEST(make_array('p', 'q')) WITH ORDINALITY AS x (item, n) ORDER BY n DESC", "q 2\np 1"),
        (
            "SELECT a, b, n FROM t CROSS JOIN UNNEST(make_array(named_struct('a', v, 'b', k))) WITH ORDINALITY AS x (a, b, n) WHERE v = 4",
            "4 b 1",
        ),
        (
            &format!(
                "SELECT v, coalesce(x.i, '-'), coalesce(x.n, 0) FROM t LEFT JOIN UNNEST({some}) WITH ORDINALITY AS x (i, n) ON TRUE WHERE v < 3 ORDER BY v, 3"
            ),
            "1 a 1\n1 z 2\n2 - 0",
        ),
    ] {
        assert_eq!(rows(query).await, answer, "{query}");
    }
    for (query, said) in [
        ("SELECT a FROM t CROSS JOIN UNNEST(MAP['p', v]) AS x (a)", "of a MAP write FROM t CROSS JOIN UNNEST(map) AS x (k, v)"),
        ("SELECT a FROM t LEFT JOIN UNNEST(MAP['p', v]) AS x (a) ON TRUE", "of a MAP write CROSS JOIN UNNEST(map) AS x (k, v)"),
        ("SELECT a FROM t CROSS JOIN UNNEST(MAP['p', v]) AS x (a, b, c)", "name both: UNNEST(map) AS x (k, v)"),
        ("SELECT a FROM t CROSS JOIN UNNEST(v) AS x (a, b)", "UNNEST takes an array or a MAP"),
    ] {
        let StatementKind::Query(parsed) = parse(query).unwrap().remove(0).kind else { panic!("not a query: {query}") };
        let message = planner(declared(TABLES)).plan_query(&parsed).await.expect_err(query).to_string();
        assert!(message.contains(said), "{query}: {message}");
    }
    let rows_of_arrays = "other SELECT x.b, x.a FROM t CROSS JOIN UNNEST(make_array(named_struct('a', v, 'b', k))) AS x (a, b)";
    let shown = plan(rows_of_arrays).await.unwrap().inserts[0].plan.display_indent().to_string();
    assert!(!shown.contains("Utf8(\"b\")) AS __unnest"), "an array stays as it is: {shown}");
}

#[tokio::test]
async fn rows_of_a_topic_of_changes_are_those_of_the_database() {
    assert_eq!(rows("SELECT * FROM changed WHERE k >= 'a' ORDER BY k").await, "a 3 y");
    assert_eq!(rows("SELECT sum(v) FROM changed").await, "3");
    let job = plan("other SELECT k, v FROM changed").await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(!shown.contains("note"), "only what is read is decoded: {shown}");
    assert!(refused("changed SELECT k, v, 'n' FROM t").await.contains("only read"));
    let explained = crate::explain::job(&job, false);
    assert!(!explained.contains("record:") && !explained.contains("CASE"), "{explained}");
    let without_key = "CREATE TABLE c (k STRING) WITH ('connector' = 'kafka', 'topic' = 'c', 'format' = 'debezium-json')";
    let change = Change { now_us: 0, incarnation: "a1".into() };
    let error = apply(&Catalog::default(), &parse(without_key).unwrap()[0], &change).unwrap_err().to_string();
    assert!(error.contains("primary key of the database's table"), "{error}");
}

#[tokio::test]
async fn a_delete_tells_its_row_before_or_by_its_key_and_an_update_leaves_the_key_alone() {
    assert_eq!(rows("SELECT * FROM keyed").await, "b 2");
    assert_eq!(rows("SELECT * FROM moved").await, "", "queries leave out what is a dead letter of jobs");
    let state = SessionStateBuilder::new().with_default_features().build();
    let planner = Planner::new(&state, Arc::new(declared(TABLES)), Arc::new(Rows));
    for (table, said) in [
        ("keyed", "deletes a row of keyed and its primary key (k) is neither in before nor in the record's key"),
        (
            "unnamed",
            "deletes a row of unnamed and its primary key (k) is missing in before; have it sent (PostgreSQL: REPLICA IDENTITY FULL)",
        ),
        ("moved", "gives a row of moved another primary key (k) in after than in before; send a delete"),
    ] {
        let create = parse(&format!("CREATE JOB j AS INSERT INTO other SELECT k, v FROM {table}")).unwrap().remove(0);
        let StatementKind::CreateJob(create) = create.kind else { panic!("not a job") };
        let job = planner.plan_job(&create, 4).await.unwrap();
        let frame = SessionContext::new_with_state(state.clone()).execute_logical_plan(job.inserts[0].plan.clone()).await.unwrap();
        let error = frame.collect().await.unwrap_err().to_string();
        assert!(error.contains(said), "{table}: {error}");
    }
}

#[tokio::test]
async fn windows_are_flinks() {
    let tumble = "SELECT k, v, window_start, window_end, window_time FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) ORDER BY v";
    assert_eq!(
        rows(tumble).await,
        "a 1 00:00 00:10 00:09.999\na 2 00:00 00:10 00:09.999\na 3 00:10 00:20 00:19.999\nb 4 00:10 00:20 00:19.999\na 5 00:20 00:30 00:29.999"
    );
    let grouped = |table: &str| {
        format!("SELECT window_start, window_end, count(*) FROM {table} GROUP BY window_start, window_end ORDER BY 1, 2")
    };
    let offset =
        grouped("TUMBLE(DATA => TABLE t, TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL '10' SECONDS, OFFSET => INTERVAL '5' SECOND)");
    assert_eq!(rows(&offset).await, "1969-12-31T23:59:55 00:05 1\n00:05 00:15 1\n00:15 00:25 2\n00:25 00:35 1");
    let hop = grouped("TABLE(HOP(TABLE big, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND))");
    assert_eq!(rows(&hop).await, "00:00 00:10 1\n00:05 00:15 1\n00:10 00:20 2\n00:15 00:25 2\n00:20 00:30 1\n00:25 00:35 1");
    let cumulate = grouped(
        "TABLE(CUMULATE((SELECT * FROM t WHERE k = 'a'), DESCRIPTOR(ts), INTERVAL '10' SECOND, INTERVAL '20' SECOND)) AS w",
    );
    assert_eq!(rows(&cumulate).await, "00:00 00:10 2\n00:00 00:20 3\n00:20 00:30 1\n00:20 00:40 1");
    let session = "SELECT k, window_start, window_end, window_time, sum(v) FROM SESSION(TABLE t PARTITION BY (k), DESCRIPTOR(ts), INTERVAL '10' SECOND) GROUP BY k, window_start, window_end, window_time ORDER BY 1, 2";
    let sessions = "a 00:00 00:25 00:24.999 6\na 00:26 00:36 00:35.999 5\nb 00:16 00:26 00:25.999 4";
    assert_eq!(rows(session).await, sessions);
    let older = "SELECT k, SESSION_START(ts, INTERVAL '10' SECOND) AS s, SESSION_END(ts, INTERVAL '10' SECOND), SESSION_ROWTIME(ts, INTERVAL '10' SECOND), sum(v) FROM t AS x WHERE x.v > 0 GROUP BY x.k, SESSION(x.ts, INTERVAL '10' SECOND) ORDER BY 1, 2";
    assert_eq!(rows(older).await, sessions);
}

#[tokio::test]
async fn a_row_without_a_time_is_in_no_window() {
    let rows_of = "TABLE (SELECT * FROM (VALUES (1, TIMESTAMP '1970-01-01 00:00:01'), (2, NULL)) AS x (v, ts)), DESCRIPTOR(ts)";
    for windows in [
        format!("TUMBLE({rows_of}, INTERVAL '10' SECOND)"),
        format!("HOP({rows_of}, INTERVAL '10' SECOND, INTERVAL '10' SECOND)"),
        format!("CUMULATE({rows_of}, INTERVAL '10' SECOND, INTERVAL '10' SECOND)"),
        format!("SESSION({rows_of}, INTERVAL '9' SECOND)"),
    ] {
        let counted = format!("SELECT window_end, count(*), sum(v) FROM {windows} GROUP BY window_end");
        assert_eq!(rows(&counted).await, "00:10 1 1", "{windows}");
    }
    let planned =
        plan("sink SELECT k, count(*), TUMBLE_START(ts, INTERVAL '1' MINUTE) FROM t GROUP BY k, TUMBLE(ts, INTERVAL '1' MINUTE)");
    let shown = planned.await.unwrap().inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("t.ts IS NOT NULL"), "{shown}");
}

#[tokio::test]
async fn rows_are_in_what_a_subquery_gives() {
    for (query, answer) in [
        ("SELECT v FROM t WHERE (k, v) IN (SELECT k, max(v) FROM t GROUP BY k) ORDER BY v", "4\n5"),
        ("SELECT v FROM t WHERE v = 1 OR ((k, v) IN (SELECT x.k, x.v + 1 FROM t AS x WHERE x.v = 3)) ORDER BY v", "1"),
        (
            "SELECT v FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) WHERE window_start IN (SELECT window_start FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start HAVING count(*) > 1) ORDER BY v",
            "1\n2\n3\n4",
        ),
        ("SELECT n FROM (SELECT count(*) AS n FROM t GROUP BY k) WHERE n NOT IN (SELECT count(*) AS n FROM t GROUP BY v)", "4"),
        ("SELECT v FROM t WHERE (k, v) NOT IN (SELECT k, max(v) FROM t GROUP BY k) AND v > 1 ORDER BY v", "2\n3"),
        ("SELECT v FROM t WHERE (k, v) NOT IN (SELECT k, v FROM t WHERE v > 9) AND v < 2", "1"),
        // Of k = 'a' nothing is known beside a NULL for v.
        ("SELECT v FROM t WHERE (k, v) NOT IN (VALUES ('a', NULL), ('c', 1)) ORDER BY v", "4"),
        ("SELECT v FROM t WHERE (nullif(k, 'a'), v) NOT IN (VALUES ('b', 1), ('c', 5)) ORDER BY v", "2\n3\n4"),
    ] {
        assert_eq!(rows(query).await, answer, "{query}");
    }
    for job in [
        "other SELECT k, v FROM t WHERE (k, v) IN (SELECT k, v FROM u)",
        "other SELECT k, v FROM t WHERE (k, v) IN (SELECT k, v FROM u WHERE v > 0) AND v > 1",
        "sink SELECT k, v, ts FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR)) WHERE window_start IN (SELECT window_start FROM TABLE(TUMBLE(TABLE u, DESCRIPTOR(ts), INTERVAL '1' HOUR)))",
    ] {
        let planned = plan(job).await.unwrap_or_else(|error| panic!("{job}: {error}"));
        let shown = planned.inserts[0].plan.display_indent().to_string();
        assert!(shown.contains("LeftSemi"), "{job}: {shown}");
    }
}

#[tokio::test]
async fn rows_with_nulls_are_neither_equal_nor_different() {
    let e = "(VALUES (1, 1), (1, 2), (3, 4), (5, 5), (NULL, NULL), (NULL, 1)) AS e (a, b)";
    for (condition, answer) in [
        ("(a, b) = (1, 1)", "11"),
        ("(a, b) <> (1, 1)", "12\n34\n55"),
        // Whatever a is, b differs.
        ("(a, b) <> (1, 2)", "1\n11\n34\n55"),
        ("(a, b) < (3, 4)", "11\n12"),
        ("(a, b) <= (3, 4)", "11\n12\n34"),
        ("(a, b) > (1, 1)", "12\n34\n55"),
        ("(a, b) >= (1, 2)", "12\n34\n55"),
        ("(a, b) IN ((1, 1), (NULL, 4))", "11"),
        ("(a, b) NOT IN ((1, 1), (3, 4))", "12\n55"),
        ("(a, b) NOT IN ((1, NULL))", "34\n55"),
        ("NOT (a, b) IN ((1, 1), (3, 4)) OR b = 4", "12\n34\n55"),
        ("(a, b) BETWEEN (1, 2) AND (5, 4)", "12\n34"),
    ] {
        let query = format!("SELECT coalesce(a, 0) * 10 + coalesce(b, 0) AS n FROM {e} WHERE {condition} ORDER BY n");
        assert_eq!(rows(&query).await, answer, "{condition}");
    }
    let joined = format!("WITH w AS (SELECT * FROM {e}) SELECT count(*) FROM w AS x JOIN w AS y ON (x.a, x.b) = (y.a, y.b)");
    assert_eq!(rows(&joined).await, "4");
    let job = plan("other SELECT k, v FROM t WHERE (k, v) NOT IN (('a', 1), ('b', 4))").await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(!shown.contains("struct"), "{shown}");
}

#[tokio::test]
async fn what_counts_is_negated() {
    for (query, answer) in [
        ("SELECT -row_number() OVER (ORDER BY a) AS n FROM (VALUES (1), (2)) AS t (a) ORDER BY n", "-2\n-1"),
        // Beside it zero has its sign.
        ("SELECT -n AS m, -x AS y FROM (SELECT rank() OVER (ORDER BY x) AS n, x FROM (VALUES (0e0)) AS t (x))", "-1 -0.0"),
    ] {
        assert_eq!(rows(query).await, answer, "{query}");
    }
    let texts = refused("other SELECT -k, v FROM t").await;
    assert!(texts.contains("Unary operator '-'"), "{texts}");
}

#[tokio::test]
async fn times_lose_digits_downwards() {
    for (query, answer) in [
        ("SELECT CAST(TIMESTAMP '1969-12-31 23:59:59.9999' AS TIMESTAMP(3))", "1969-12-31T23:59:59.999"),
        (
            "SELECT CAST(a AS TIMESTAMP(0)) AS x, TRY_CAST(a AS TIMESTAMP(6)) AS y FROM (VALUES (TIMESTAMP '1969-12-31 23:59:58.000000001')) AS t (a)",
            "1969-12-31T23:59:58 1969-12-31T23:59:58",
        ),
        (
            "SELECT CAST(a AS TIMESTAMP(6)) FROM (VALUES (CAST('1969-12-31 23:59:59.999' AS TIMESTAMP(3)))) AS t (a)",
            "1969-12-31T23:59:59.999",
        ),
        (
            "SELECT arrow_cast(a, 'Timestamp(Second, None)'), arrow_try_cast(a, 'Timestamp(Second, None)') FROM (VALUES (TIMESTAMP '1969-12-31 23:59:58.5')) AS t (a)",
            "1969-12-31T23:59:58 1969-12-31T23:59:58",
        ),
        (
            "SELECT CAST(a AS TIMESTAMP(0)) AS s, grouping(CAST(a AS TIMESTAMP(0))) AS g, count(*), max(CAST(a AS TIMESTAMP(3))) FROM (VALUES (TIMESTAMP '1969-12-31 23:59:58.9996')) AS t (a) GROUP BY ROLLUP (CAST(a AS TIMESTAMP(0))) ORDER BY g",
            "1969-12-31T23:59:58 0 1 1969-12-31T23:59:58.999\n 1 1 1969-12-31T23:59:58.999",
        ),
        (
            "SELECT CAST(a AS TIMESTAMP(0)) AS s, a, count(*) AS n FROM (VALUES (TIMESTAMP '1969-12-31 23:59:58.9996')) AS t (a) GROUP BY ROLLUP (CAST(a AS TIMESTAMP(0)), a) ORDER BY s, a",
            "1969-12-31T23:59:58 1969-12-31T23:59:58.999600 1\n1969-12-31T23:59:58  1\n  1",
        ),
        (
            "SELECT k, CAST(ts AS TIMESTAMP(0)) AS s, sum(v) FROM t WHERE v < 3 GROUP BY GROUPING SETS ((k, CAST(ts AS TIMESTAMP(0))), (k)) HAVING sum(v) > 1 ORDER BY 3",
            "a 00:05 2\na  3",
        ),
    ] {
        assert_eq!(rows(query).await, answer, "{query}");
    }
    let sets = "other SELECT k, count(*) FROM t GROUP BY GROUPING SETS ((k, CAST(ts AS TIMESTAMP(0))), (k))";
    let shown = plan(sets).await.unwrap().inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("whole_units(Utf8(\"second\")") && shown.contains("GROUPING SETS"), "{shown}");
    let job = plan("sink SELECT k, v, to_timestamp_micros(v) FROM t").await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("whole_units(Utf8(\"millisecond\")"), "{shown}");
}

#[tokio::test]
async fn both_zeros_are_peers() {
    let ranked = "SELECT rank() OVER (ORDER BY z) AS r, dense_rank() OVER (ORDER BY z) AS d, row_number() OVER (ORDER BY z) AS n FROM (VALUES (1e0), (0e0), (round(-0.4))) AS t (z) ORDER BY n";
    assert_eq!(rows(ranked).await, "1 1 1\n1 1 2\n3 2 3");
    let job = plan("other SELECT k, r FROM (SELECT k, rank() OVER (PARTITION BY k ORDER BY CAST(v AS DOUBLE)) AS r FROM t)");
    let shown = job.await.unwrap().inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("+ Float64(0)"), "{shown}");
    let zeros = "(VALUES (0e0, 1), (round(-0.4), 2), (1e0, 3)) AS t (z, n)";
    for (over, answer) in [
        ("sum(n) OVER (PARTITION BY z)", "3\n3\n3"),
        ("row_number() OVER (PARTITION BY z ORDER BY n)", "1\n2\n1"),
        ("row_number() OVER (PARTITION BY z ORDER BY z, n)", "1\n2\n1"),
        ("row_number() OVER (ORDER BY z, n)", "1\n2\n3"),
        (
            "10 * row_number() OVER (PARTITION BY z ORDER BY z DESC, n) + row_number() OVER (PARTITION BY z ORDER BY n)",
            "11\n22\n11",
        ),
        ("sum(n) OVER (ORDER BY z)", "3\n3\n6"),
        ("count(*) OVER (ORDER BY z RANGE BETWEEN 0 PRECEDING AND CURRENT ROW)", "2\n2\n1"),
        ("count(*) OVER (ORDER BY z GROUPS CURRENT ROW)", "2\n2\n1"),
        ("count(*) OVER (ORDER BY z DESC RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)", "3\n3\n1"),
    ] {
        assert_eq!(rows(&format!("SELECT a FROM (SELECT n, {over} AS a FROM {zeros}) ORDER BY n")).await, answer, "{over}");
    }
    let job = plan("other SELECT k, sum(v) OVER (PARTITION BY CAST(v AS DOUBLE) ORDER BY ts ROWS 1 PRECEDING) FROM t");
    let shown = job.await.unwrap().inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("+ Float64(0)"), "{shown}");
    // Rows that are counted one by one have no peers.
    let job = plan("other SELECT k, row_number() OVER (PARTITION BY k ORDER BY CAST(v AS DOUBLE)) FROM t");
    let shown = job.await.unwrap().inserts[0].plan.display_indent().to_string();
    assert!(!shown.contains("+ Float64(0)"), "{shown}");
}

#[tokio::test]
async fn frames_reach_so_far_from_a_time_of_day() {
    let times = "(VALUES (TIME '00:30:00', 1), (TIME '01:15:00', 2), (TIME '23:50:00', 4)) AS t (d, n)";
    let hour = "RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW";
    for (time, answer) in [("d", "1\n3\n4"), ("d DESC", "3\n2\n4"), ("CAST(d AS TIME(3))", "1\n3\n4")] {
        let query = format!("SELECT a FROM (SELECT n, sum(n) OVER (ORDER BY {time} {hour}) AS a FROM {times}) ORDER BY n");
        assert_eq!(rows(&query).await, answer, "{time}");
    }
    plan(&format!("other SELECT k, count(*) OVER (PARTITION BY k ORDER BY CAST(ts AS TIME) {hour}) FROM t")).await.unwrap();
}

#[tokio::test]
async fn whole_numbers_keep_their_digits() {
    for (query, answer) in [
        ("VALUES (1), (12345678901234567890123)", "1\n12345678901234567890123"),
        ("SELECT -12345678901234567890123, -9223372036854775809", "-12345678901234567890123 -9223372036854775809"),
        ("SELECT 12345678901234567890123 - 12345678901234567890122", "1"),
        ("SELECT CAST(99999999999999999999999999999999999999 AS DECIMAL(38, 0))", "99999999999999999999999999999999999999"),
    ] {
        assert_eq!(rows(query).await, answer, "{query}");
    }
}

#[tokio::test]
async fn the_first_rows_for_each_row_are_numbered_within_their_key() {
    let of_each = "(SELECT DISTINCT k FROM t) AS x";
    for (query, answer) in [
        (
            format!(
                "SELECT x.k, l.v FROM {of_each}, LATERAL (SELECT v FROM t AS y WHERE y.k = x.k ORDER BY v DESC LIMIT 2) AS l ORDER BY 1, 2"
            ),
            "a 3\na 5\nb 4",
        ),
        (
            format!(
                "SELECT x.k, l.v FROM {of_each} CROSS JOIN LATERAL (SELECT y.v * 10 AS v FROM t AS y WHERE y.k = x.k AND y.v < 4 ORDER BY y.ts DESC LIMIT 1) AS l"
            ),
            "a 30",
        ),
        (
            format!(
                "SELECT x.k, l.v FROM {of_each} LEFT JOIN LATERAL (SELECT v FROM t AS y WHERE x.k = y.k AND v > 4 ORDER BY ts LIMIT 1) AS l ON TRUE ORDER BY 1"
            ),
            "a 5\nb",
        ),
        (
            "SELECT x.v, l.k FROM (SELECT DISTINCT CAST(v AS INT) AS v FROM t WHERE v > 3) AS x, LATERAL (SELECT y.k FROM t AS y WHERE y.v = x.v ORDER BY y.ts LIMIT 1) AS l ORDER BY 1".to_owned(),
            "4 b\n5 a",
        ),
    ] {
        assert_eq!(rows(&query).await.trim_end(), answer, "{query}");
    }
    let planned = plan("other SELECT u.k, l.v FROM u, LATERAL (SELECT v FROM t WHERE t.k = u.k ORDER BY ts DESC LIMIT 2) AS l");
    let shown = planned.await.unwrap().inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("row_number() PARTITION BY [t.k] ORDER BY [t.ts DESC"), "{shown}");
    let narrower = "other SELECT x.k, l.v FROM (SELECT k, CAST(v AS INT) AS w FROM u) AS x, LATERAL (SELECT v FROM t WHERE t.v = x.w ORDER BY ts LIMIT 2) AS l";
    let shown = plan(narrower).await.unwrap().inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("row_number() PARTITION BY [t.v] ORDER BY [t.ts ASC"), "{shown}");
    let message =
        refused("other SELECT u.k, l.v FROM u, LATERAL (SELECT v FROM t WHERE t.v < u.v ORDER BY ts DESC LIMIT 2) AS l").await;
    assert!(message.contains("ROW_NUMBER()"), "{message}");
}

#[tokio::test]
async fn event_time_is_followed_through_the_plan() {
    for (job, granule_us) in [
        (
            "sink SELECT k, count(*), window_start FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY k, window_start",
            Some(10_000_000),
        ),
        (
            "sink SELECT k, count(*), window_end FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND, INTERVAL '4' SECOND)) GROUP BY k, window_end",
            Some(2_000_000),
        ),
        (
            "sink SELECT k, count(*), window_time FROM TABLE(HOP(TABLE big, DESCRIPTOR(ts), INTERVAL '4' SECOND, INTERVAL '10' SECOND)) GROUP BY k, window_time",
            Some(2_000_000),
        ),
        (
            "sink SELECT k, count(*), date_bin(INTERVAL '10 seconds', CAST(ts AS TIMESTAMP(0))) FROM t GROUP BY k, date_bin(INTERVAL '10 seconds', CAST(ts AS TIMESTAMP(0)))",
            Some(10_000_000),
        ),
        (
            "sink SELECT k, count(*), date_bin(INTERVAL '1 minute', ts) FROM t GROUP BY k, date_bin(INTERVAL '1 minute', ts)",
            Some(60_000_000),
        ),
        ("sink SELECT k, count(*), date_trunc('hour', ts) FROM t GROUP BY k, date_trunc('hour', ts)", Some(3_600_000_000)),
        (
            "sink SELECT k, count(*), window_start FROM TABLE(SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY k, window_start",
            Some(0),
        ),
        (
            "sink SELECT k, count(*), window_start FROM TABLE(TUMBLE(TABLE plain, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY k, window_start",
            None,
        ),
        ("sink SELECT k, v, window_start FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND))", None),
        ("sink SELECT t.k, u.v, u.ts FROM t JOIN u ON t.k = u.k", None),
        ("sink SELECT t.k, u.v, u.ts FROM t JOIN u ON t.k = u.k AND u.ts BETWEEN t.ts - INTERVAL '1' MINUTE AND t.ts", Some(0)),
        (
            "sink SELECT a.k, a.v, a.window_start FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) a JOIN TABLE(TUMBLE(TABLE u, DESCRIPTOR(ts), INTERVAL '15' SECOND)) b ON a.k = b.k AND a.window_start = b.window_start",
            Some(5_000_000),
        ),
    ] {
        let planned = plan(job).await.unwrap_or_else(|error| panic!("{job}: {error}"));
        assert_eq!(planned.event_time.granule_us, granule_us, "{job}\n{}", planned.inserts[0].plan.display_indent());
        assert_eq!(planned.watermarks.is_empty(), granule_us.is_none(), "{job}");
    }
    let grouped = |windows: &str| format!("sink SELECT k, count(*), window_end FROM TABLE({windows}) GROUP BY k, window_end");
    let joined = "sink SELECT a.k, a.v, a.window_start FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) a JOIN TABLE(TUMBLE(TABLE u, DESCRIPTOR(ts), INTERVAL '15' SECOND)) b ON a.k = b.k AND a.window_start = b.window_start".to_owned();
    for (job, ends) in [
        (grouped("TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '60' SECOND, INTERVAL '1' SECOND)"), vec![(60, 1)]),
        (grouped("TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '60' SECOND, INTERVAL '-1' SECOND)"), vec![(60, 59)]),
        (grouped("HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '4' SECOND, INTERVAL '10' SECOND)"), vec![(4, 2)]),
        (grouped("CUMULATE(TABLE t, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '20' SECOND)"), vec![(5, 0)]),
        (joined, vec![(10, 0), (15, 0)]),
    ] {
        let planned = plan(&job).await.unwrap_or_else(|error| panic!("{job}: {error}"));
        let found: Vec<(i64, i64)> =
            planned.event_time.ends.iter().map(|ends| (ends.every_us / 1_000_000, ends.offset_us / 1_000_000)).collect();
        assert_eq!(found, ends, "{job}");
    }
    let planned = plan("sink SELECT k, count(*), window_start FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY k, window_start EMIT ON WINDOW CLOSE").await.unwrap();
    assert_eq!(planned.inserts[0].emit, Emit::OnWindowClose);
    let first = "sink SELECT k, v, ts FROM (SELECT *, row_number() OVER (PARTITION BY window_start, k ORDER BY v DESC, ts) AS n FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND))) WHERE n = 1 EMIT ON WINDOW CLOSE";
    assert_eq!(plan(first).await.unwrap().inserts[0].emit, Emit::OnWindowClose);
    let of_floats = first.replace("BY window_start, k ", "BY window_start, CAST(v AS DOUBLE) ");
    assert_eq!(plan(&of_floats).await.unwrap().inserts[0].emit, Emit::OnWindowClose);
    let outer = "sink SELECT a.k, b.v, a.window_start FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) a LEFT JOIN TABLE(TUMBLE(TABLE u, DESCRIPTOR(ts), INTERVAL '10' SECOND)) b ON a.k = b.k AND a.window_start = b.window_start EMIT ON WINDOW CLOSE";
    assert_eq!(plan(outer).await.unwrap().inserts[0].emit, Emit::OnWindowClose);
    let [watermark] = planned.watermarks.as_slice() else { panic!("one table has a watermark") };
    assert_eq!((watermark.column.as_str(), watermark.delay_us, watermark.idle_timeout_us), ("ts", 5_000_000, Some(30_000_000)));
}

#[tokio::test]
async fn what_the_engine_keeps_right_is_planned() {
    for job in [
        "other SELECT k, count(DISTINCT v) FILTER (WHERE v > 1) FROM t GROUP BY k HAVING count(*) > 1",
        "other SELECT coalesce(k, ''), sum(v) FROM t GROUP BY GROUPING SETS ((k), ())",
        "other SELECT coalesce(k, ''), sum(v) FROM t GROUP BY GROUPING SETS ((k), (), (k), ())",
        "other SELECT 'a', sum(v) FROM t GROUP BY GROUPING SETS ((), ())",
        "other SELECT DISTINCT k, v FROM t",
        "other SELECT k, v FROM t UNION ALL SELECT k, v FROM u",
        "pair SELECT x, count(*) FROM (SELECT v AS x FROM t UNION ALL SELECT CAST(v AS DOUBLE) / 2 FROM u) GROUP BY x",
        "other SELECT k, v FROM t UNION SELECT k, v FROM big",
        "other SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts DESC) AS n FROM t) WHERE n = 1",
        "other SELECT k, v FROM t ORDER BY v DESC LIMIT 10",
        "other SELECT t.k, u.v FROM t FULL JOIN u ON t.k = u.k",
        "other SELECT k, v FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k)",
        "other SELECT k, v FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k)",
        "other SELECT k, v FROM t WHERE v = (SELECT max(v) FROM u)",
        "other SELECT k, v FROM u WHERE v NOT IN (SELECT v FROM u WHERE k = 'a')",
        "other SELECT k, v FROM t WHERE v NOT IN (SELECT v FROM t WHERE k = 'a')",
        "other SELECT k, v FROM t WHERE (k, v) NOT IN (SELECT k, v FROM u) AND v > 1",
        "other SELECT k, v FROM t WHERE (k, v) NOT IN (SELECT k, v FROM u) OR v > 1",
        "other SELECT k, v FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k HAVING count(*) > 2)",
        "other SELECT k, sum(v) FROM t WHERE CASE WHEN v = 0 THEN true ELSE 1 / 0 > v END GROUP BY k",
        "other SELECT k, sum(v) FROM t WHERE k = 'a' OR CASE WHEN v > 1 THEN 1 / 0 > v ELSE false END GROUP BY k",
        "other SELECT t.k, x.item FROM t LEFT JOIN UNNEST(make_array(v)) AS x (item) ON TRUE GROUP BY 1, 2",
        "other SELECT x.a, x.n FROM t CROSS JOIN UNNEST(MAP['p', v, 'q', -v]) AS x (a, n)",
        "other SELECT x.item, x.n FROM t LEFT JOIN UNNEST(make_array(k, 'z')) WITH ORDINALITY AS x (item, n) ON TRUE",
        "other SELECT k, v FROM t UNION ALL SELECT 'a', 1",
        "other SELECT k, v FROM t UNION ALL VALUES ('a', 1), ('b', 2)",
        "other SELECT t.k, x.n FROM t JOIN (VALUES ('a', 1), ('b', NULL)) AS x (k, n) ON t.k = x.k",
        "other SELECT t.k, x.n FROM t JOIN (VALUES ('a', 1)) AS x (k, n) ON t.k = x.k",
        "other SELECT k, v FROM t WHERE (v, v) IN (SELECT v, v FROM u)",
        "other SELECT k, sum(v) FROM t GROUP BY ROLLUP ((k, v), ts)",
        "other SELECT k, grouping_id(k, v) FROM t GROUP BY CUBE (k, v)",
        "other SELECT k, array_agg(v ORDER BY ts)[1] FROM t GROUP BY k",
        "other SELECT k, v FROM t ORDER BY v FETCH FIRST 3 ROWS ONLY",
        "other SELECT CASE WHEN (v > 1) IS NOT FALSE THEN 'a' ELSE 'b' END, count(*) FROM t GROUP BY 1",
        "other SELECT k, count(*) FROM t WHERE k LIKE 'a!_%' ESCAPE '!' AND k SIMILAR TO '(a|b)%' GROUP BY k",
        "other SELECT k, CAST(bool_or(v > 1) OVER (PARTITION BY k ORDER BY ts ROWS 2 PRECEDING) AS BIGINT) FROM t",
        "other SELECT k, v FROM t ORDER BY v LIMIT 5 OFFSET 2",
        "other SELECT k, count(*) FROM (SELECT k, now() AS at FROM t) GROUP BY k, date_bin(INTERVAL '1 minute', at)",
        "other SELECT t.k, length(s.name) FROM t LEFT JOIN side FOR SYSTEM_TIME AS OF PROCTIME() AS s ON t.k = s.k",
        "other SELECT date_trunc('HOUR', ts), max(date_part('hour', ts)) FROM t WHERE regexp_like(k, '^a.*$') GROUP BY 1",
        "other SELECT regexp_replace(k, '(a)', '\\1', 'g'), count(*) FROM t WHERE k ~ '[ab]' AND regexp_count(k, 'a', 1) > 0 GROUP BY 1",
        "other SELECT to_char(ts, '%Y-%m'), count(*) FROM t WHERE regexp_extract(k, '(a)', 1) = 'a' GROUP BY 1",
        "other SELECT encode(decode(k, 'hex'), 'base64'), sum(v / 2) FROM t WHERE CASE WHEN v = 0 THEN 1 / 0 END IS NULL GROUP BY 1",
        "other SELECT k, percentile_disc(0.5) WITHIN GROUP (ORDER BY v) FROM t GROUP BY k",
        "other SELECT k, mode() WITHIN GROUP (ORDER BY v DESC) FROM t GROUP BY k",
        "other SELECT k, nth_value(v, 2 ORDER BY ts) FROM t GROUP BY k",
        "other SELECT k, n FROM t CROSS JOIN UNNEST(generate_series(1, 3)) AS s (n) GROUP BY 1, 2",
        "other SELECT k, v FROM t WHERE (SELECT count(*) FROM u WHERE u.k = t.k) > 0",
        "other SELECT k, v FROM t WHERE ts < TIMESTAMP '9999-12-31 00:00:00' ORDER BY v LIMIT 3",
    ] {
        let planned = plan(job).await.unwrap_or_else(|error| panic!("{job}: {error}"));
        assert!(planned.is_stateful, "{job}");
    }
}

#[tokio::test]
async fn look_ups_are_marked_in_the_plan() {
    let planned = plan("other SELECT t.k, length(side.name) FROM t JOIN side FOR SYSTEM_TIME AS OF PROCTIME() ON t.k = side.k")
        .await
        .unwrap();
    let shown = planned.inserts[0].plan.display_indent().to_string();
    assert!(shown.contains("TableScan: lookup:public.side"), "{shown}");
    assert_eq!(planned.inserts[0].lookups.len(), 1);
    assert_eq!(planned.inserts[0].sources.len(), 1);
}

#[tokio::test]
async fn a_query_says_itself_where_a_topic_begins_and_ends() {
    let latest = "/*+ OPTIONS('scan.startup.mode' = 'latest-offset') */";
    let job = format!("other SELECT t.k, v FROM t {latest} WHERE t.v > 1");
    let statement = format!("CREATE JOB j AS INSERT INTO {job}");
    let catalog = declared(&format!("{TABLES}{statement}"));
    let stored = catalog.job("j").unwrap().clone();
    assert_eq!((stored.sql.as_str(), stored.sources[0].to_string().as_str()), (statement.as_str(), "t"));
    let again = planner(catalog).plan_stored_job(&stored, 4).await.unwrap();
    for planned in [plan(&job).await.unwrap(), again] {
        let [source] = planned.inserts[0].sources.as_slice() else { panic!("it reads one table") };
        assert_eq!((source.name.to_string(), &source.topic().unwrap().startup), (format!("t {latest}"), &StartupMode::Latest));
        let explained = crate::explain::job(&planned, false);
        assert!(explained.contains("2 of 3 columns: k, v"), "{explained}");
    }
    let windows = format!(
        "sink SELECT k, count(*), window_end FROM TABLE(TUMBLE(TABLE t {latest}, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY k, window_end EMIT ON WINDOW CLOSE"
    );
    assert_eq!(plan(&windows).await.unwrap().watermarks.len(), 1);
    let places: Vec<String> = (0..20).map(|partition| format!("partition:{partition},offset:100")).collect();
    let places = format!("'scan.startup.mode' = 'specific-offsets', 'scan.startup.specific-offsets' = '{}'", places.join(";"));
    let planned = plan(&windows.replace("'scan.startup.mode' = 'latest-offset'", &places)).await.unwrap();
    let startup = planned.inserts[0].sources[0].topic().unwrap().startup.clone();
    assert!(matches!(startup, StartupMode::SpecificOffsets { offsets } if offsets.len() == 20));

    let bounded = "/*+ OPTIONS('scan.bounded.mode' = 'latest-offset') */";
    let sql = format!("INSERT INTO other SELECT k, v FROM t {bounded}");
    let StatementKind::Insert(insert) = parse(&sql).unwrap().remove(0).kind else { panic!("not an INSERT") };
    let planner = planner(declared(TABLES));
    assert!(!planner.is_unbounded(&insert).unwrap());
    planner.plan_bounded_insert(&insert).await.unwrap();
    assert_eq!(rows(&format!("SELECT t.v + 1, t.* FROM t {bounded} WHERE t.v = 4")).await, "5 b 4 00:16");
    assert_eq!(rows(&format!("SELECT * FROM newest {bounded} ORDER BY k")).await, "a 3 6\nc 4 8");
}

#[tokio::test]
async fn explain_says_whether_executors_exchange_rows() {
    let alone = "stages      1: no exchange between executors";
    let shared = "stages      1: up to 3 executors share it and exchange rows wherever the key changes";
    for (query, parallelism, stages) in [
        ("SELECT k, count(*) FROM t GROUP BY k", 1, alone),
        ("SELECT k, count(*) FROM t GROUP BY k", 3, shared),
        ("SELECT k, v FROM t", 3, alone),
    ] {
        let mut job = plan(&format!("other {query}")).await.unwrap();
        job.options.parallelism = parallelism;
        let explained = crate::explain::job(&job, false);
        assert!(explained.contains(stages), "{query}, {parallelism}: {explained}");
    }
}

#[tokio::test]
async fn several_inserts_are_one_job() {
    let planned =
        plan("BEGIN INSERT INTO other SELECT k, CASE WHEN v > 1 THEN 1 END FROM t; INSERT INTO sink SELECT k, v, ts FROM t; END")
            .await
            .unwrap();
    assert_eq!(planned.inserts.len(), 2);
    assert!(planned.is_stateful && planned.inserts.iter().all(|insert| !insert.is_stateful));
    let script = "CREATE JOB j AS BEGIN INSERT INTO other SELECT k, v FROM t WHERE CASE WHEN v > 1 THEN true END END; SELECT 1; BEGIN; COMMIT;";
    assert!(crate::parser::is_complete(script));
    for (open, complete) in [
        ("SELECT 1", false),
        ("SELECT 1;", true),
        ("SELECT ';", false),
        ("CREATE JOB j AS BEGIN INSERT INTO t SELECT 1;", false),
        ("SELECT 1; -- done", true),
    ] {
        assert_eq!(crate::parser::is_complete(open), complete, "{open}");
    }
    let tags: Vec<&str> = parse(script).unwrap().iter().map(|statement| statement.kind.tag()).collect();
    assert_eq!(tags, ["CREATE JOB", "SELECT", "BEGIN", "COMMIT"]);
}

#[tokio::test]
async fn an_upgrade_may_write_the_inserts_in_another_order() {
    let job = "CREATE JOB j AS BEGIN INSERT INTO other SELECT k, v FROM t; INSERT INTO sink SELECT k, v, ts FROM t; END";
    let upgrade =
        "UPGRADE JOB j AS BEGIN INSERT INTO sink SELECT k, v, ts FROM t WHERE v > 1; INSERT INTO other SELECT k, v FROM t; END";
    let catalog = declared(&format!("{TABLES}{job}; {upgrade}"));
    let planner = planner(catalog.clone());
    let planned = planner.plan_stored_job(catalog.job("j").unwrap(), 4).await.unwrap();
    let filled: Vec<String> = planned.inserts.iter().map(|insert| insert.target.name.to_string()).collect();
    assert_eq!(filled, ["other", "sink"]);
    assert!(planned.inserts[1].plan.display_indent().to_string().contains("t.v > Int64(1)"));
}

fn error(statement: &str) -> String {
    let change = Change { now_us: 0, incarnation: "a2".into() };
    let tried = parse(statement).and_then(|statements| {
        let catalog = declared(TABLES);
        statements.iter().try_fold(catalog, |catalog, statement| apply(&catalog, statement, &change))
    });
    tried.expect_err(statement).to_string()
}

#[tokio::test]
async fn views_and_jobs_hold_what_they_stand_on() {
    let job = "CREATE JOB j AS BEGIN INSERT INTO other SELECT k, v FROM big; INSERT INTO sink SELECT k, v, ts FROM t; END";
    for (statements, said) in [
        ("DROP TABLE t", "table t is used by view big; drop the view first: DROP VIEW big"),
        ("CREATE TABLE big (k STRING) WITH ('connector' = 'blackhole')", "view big exists already"),
        ("CREATE VIEW t AS SELECT 1", "table t exists already"),
        ("CREATE VIEW w AS SELECT * FROM nowhere", "table nowhere does not exist"),
        ("CREATE VIEW w AS SELECT k FROM t EMIT ON UPDATE", "leave it out here"),
        ("SELECT k FROM t EMIT ON WINDOW CLOSE", "EMIT ON … belongs to a job's INSERT"),
        ("SELECT k, count(*) FROM t GROUP BY k WITH ROLLUP", "write GROUP BY ROLLUP"),
        ("SELECT k FROM t TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE is not supported"),
        ("CREATE VIEW w AS SELECT k FROM t PREWHERE v = 1", "write WHERE"),
        ("SELECT k FROM t CONNECT BY v = 1", "CONNECT BY is not supported"),
        ("SELECT k FROM t FORMAT JSON", "--output json"),
        ("SELECT k FROM t FOR JSON AUTO", "--output json"),
        ("SELECT k FROM t SETTINGS a = 1", "SETTINGS is not supported"),
        ("SELECT k FROM (SELECT k, v FROM t LIMIT 1 BY k)", "LIMIT n BY is not supported"),
        ("SELECT TOP 3 k FROM t", "write LIMIT n"),
        ("SELECT k FROM t SORT BY v", "write ORDER BY"),
        ("SELECT k FROM t DISTRIBUTE BY v", "write ORDER BY"),
        ("SELECT * ILIKE 'k%' FROM t", "name the columns"),
        ("FROM t", "write SELECT * FROM t"),
        ("SELECT k FROM t WITH (NOLOCK)", "table t takes no WITH (…)"),
        ("SELECT k FROM t PARTITION (p0)", "table t takes no WITH (…)"),
        ("SELECT * FROM generate_series(1, 3) WITH ORDINALITY", "ROW_NUMBER() OVER (ORDER BY …)"),
        ("SELECT t.k FROM t SEMI JOIN u ON t.k = u.k", "write LEFT SEMI JOIN"),
        ("SELECT t.k FROM t ANTI JOIN u ON t.k = u.k", "write LEFT ANTI JOIN"),
        ("SELECT t.k FROM t CROSS APPLY (SELECT k FROM u) AS x", "LATERAL"),
        ("SELECT k FROM t WHERE k SIMILAR TO k", "takes a pattern in quotes"),
        ("SELECT k INTO x FROM t", "write CREATE TABLE"),
        ("SELECT k FROM t EXCEPT ALL SELECT k FROM u", "EXCEPT ALL is not supported"),
        ("SELECT k FROM (SELECT k FROM t UNION (SELECT k FROM u INTERSECT ALL SELECT k FROM t))", "INTERSECT ALL is not supported"),
        ("SELECT k FROM t FULL JOIN u USING (k)", "coalesce(a.k, b.k)"),
        ("SELECT k FROM t NATURAL RIGHT JOIN u", "coalesce(a.k, b.k)"),
        ("SELECT k FROM t WHERE v > 1 OR k NOT IN (SELECT k FROM u)", "NOT IN (SELECT …) beside OR"),
        ("SELECT k FROM t WHERE NOT (v > 1 AND (k IN (SELECT k FROM u)))", "NOT IN (SELECT …) beside OR"),
        ("SELECT k FROM t WHERE NOT (v > 1 AND v IN (SELECT max(v) FROM u WHERE u.k = t.k))", "NOT IN (SELECT …) beside OR"),
        ("SELECT t.k FROM t JOIN u ON t.k = u.k AND (t.v > 1 OR t.k NOT IN (SELECT k FROM plain))", "NOT IN (SELECT …) beside OR"),
        ("SELECT k FROM (SELECT k FROM t FOR UPDATE)", "there are no locks"),
        ("WITH x AS (INSERT INTO other SELECT k, v FROM t) SELECT 1", "a query only reads"),
        ("SELECT k FROM t WHERE k IN (WITH x AS (DELETE FROM t) SELECT 1)", "a query only reads"),
        ("SELECT k FROM t LEFT JOIN UNNEST(make_array(k)) AS x (i) ON x.i = k", "write CROSS JOIN UNNEST"),
        ("SELECT k FROM t CROSS JOIN UNNEST(make_array(k)) AS x WITH OFFSET AS n", "write WITH ORDINALITY AS x (item, place)"),
        ("SELECT k FROM t CROSS JOIN UNNEST(make_array(k), make_array(v)) WITH ORDINALITY AS x (i, n)", "of several arrays"),
        ("SELECT k FROM t WHERE v = SOME (SELECT v FROM u)", "write IN (SELECT …)"),
        ("SELECT k FROM t WHERE v >= ALL (SELECT v FROM u)", "compare with (SELECT max(…) …)"),
        ("CREATE JOB j WITH ('parallelism' = '0') AS INSERT INTO other SELECT k, v FROM t", "a number from 1 to 64"),
        (&format!("{job}; DROP VIEW big"), "view big is used by job j"),
        (&format!("{job}; CREATE JOB i AS INSERT INTO sink SELECT k, v, ts FROM t"), "filled by job j already"),
        ("CREATE JOB j AS BEGIN INSERT INTO other SELECT k, v FROM t; INSERT INTO other SELECT k, v FROM u; END", "UNION ALL"),
        ("CREATE JOB j AS BEGIN END", "no INSERT between BEGIN and END"),
        ("CREATE JOB j AS BEGIN SELECT 1; END", "expected INSERT INTO or END"),
        ("CREATE JOB j WITH ('state.partitions' = '65') AS INSERT INTO other SELECT k, v FROM t", "a number from 1 to 64"),
        ("CREATE JOB j WITH ('state.ttl' = 'soon') AS INSERT INTO other SELECT k, v FROM t", "a length of time"),
        ("CREATE JOB j WITH ('allowed_lateness' = '-1 s') AS INSERT INTO other SELECT k, v FROM t", "a length of time"),
        (
            "CREATE JOB j WITH ('allowed.lateness' = '1 s') AS INSERT INTO other SELECT k, v FROM t",
            "did you mean 'allowed_lateness'?",
        ),
        ("CREATE JOB j WITH ('state.unbounded' = 'alow') AS INSERT INTO other SELECT k, v FROM t", "did you mean 'allow'?"),
        ("CREATE JOB j WITH ('late.rows' = 't') AS INSERT INTO other SELECT k, v FROM t", "unknown option 'late.rows'"),
        (
            "CREATE TABLE w (ts TIMESTAMP(3), WATERMARK FOR ts AS ts + INTERVAL '1' SECOND) WITH ('connector' = 'kafka', 'topic' = 'w', 'format' = 'json')",
            "only the column itself or a fixed delay",
        ),
        (
            "CREATE TABLE w (a INT, b AS a + 1, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's')",
            "only columns of Kafka tables",
        ),
        (
            "CREATE TABLE w (a INT, b AS sum(a)) WITH ('connector' = 'kafka', 'topic' = 'w', 'format' = 'json')",
            "more than its record",
        ),
        (
            "CREATE TABLE w (a INT, b AS (SELECT 1)) WITH ('connector' = 'kafka', 'topic' = 'w', 'format' = 'json')",
            "more than its record",
        ),
        (
            "CREATE TABLE w (a INT, b AS row_number() OVER ()) WITH ('connector' = 'kafka', 'topic' = 'w', 'format' = 'json')",
            "more than its record",
        ),
        (
            "CREATE TABLE w (a INT, b AS unnest(make_array(a))) WITH ('connector' = 'kafka', 'topic' = 'w', 'format' = 'json')",
            "more than its record",
        ),
        (
            "CREATE TABLE w (a INT, b AS abs(a) FILTER (WHERE a > 1)) WITH ('connector' = 'kafka', 'topic' = 'w', 'format' = 'json')",
            "abs is computed row by row and takes no FILTER",
        ),
        ("CREATE TABLE w (a INT, b AS nowhere + 1) WITH ('connector' = 'kafka', 'topic' = 'w', 'format' = 'json')", "nowhere"),
    ] {
        let message = error(statements);
        assert!(message.contains(said), "{statements}: {message}");
    }
    let catalog = declared(&format!("{TABLES}{job}; DROP JOB j; DROP VIEW big; DROP VIEW IF EXISTS big; DROP TABLE t"));
    assert!(catalog.views.is_empty() && catalog.jobs.is_empty() && catalog.find_table(&"t".into()).is_none());
}

#[test]
fn what_is_declared_is_stored_and_shown() {
    let script = "
        CREATE TABLE c (a INT, b AS upper(CAST(a AS VARCHAR)), ts TIMESTAMP(3), late AS ts + INTERVAL '1' SECOND, WATERMARK FOR late AS late - INTERVAL '5' SECOND)
        WITH ('connector' = 'kafka', 'topic' = 'c', 'format' = 'json');
        CREATE TEMPORARY VIEW w AS SELECT b FROM c;";
    let catalog = declared(&format!("{TABLES}{script}"));
    let shown = crate::show::create_table(catalog.table(&"c".into()).unwrap());
    assert!(shown.contains("b AS upper(CAST(a AS VARCHAR)),\n  ts TIMESTAMP(3),\n  late AS ts + INTERVAL '1' SECOND,\n  WATERMARK FOR late AS late - INTERVAL '5' SECOND"), "{shown}");
    let again = parse(&shown).unwrap();
    let StatementKind::CreateTable(create) = &again[0].kind else { panic!("not a table") };
    assert_eq!(create.columns[1].computed.as_deref(), Some("upper(CAST(a AS VARCHAR))"));
    let table = catalog.table(&"c".into()).unwrap();
    assert_eq!(table.columns[1].sql_type, crate::SqlType::String);
    assert_eq!(table.columns[3].sql_type, crate::SqlType::Timestamp { precision: 3 });
    assert_eq!(crate::show::create_view(catalog.view(&"w".into()).unwrap()), "CREATE TEMPORARY VIEW w AS SELECT b FROM c");
    let stored: Catalog = serde_json::from_str(&serde_json::to_string(&catalog).unwrap()).unwrap();
    assert_eq!(stored, catalog);
    // As version 0.1 stored it.
    let job = r#"{"name":"j","sql":"","options":{"on_error":"dead_letter","on_data_loss":null,"start":null},"target":{"schema":"public","name":"other"},"sources":[],"incarnation":"a","created_at_us":0}"#;
    let job: JobDefinition = serde_json::from_str(job).unwrap();
    assert_eq!((job.targets.as_slice(), job.options.state_partitions), (["other".into()].as_slice(), 4));
}

#[tokio::test]
async fn the_reference_is_planned() {
    for page in ["sql.md", "kafka.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(page)).unwrap();
        let examples: Vec<&str> = text.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let file = crate::validate::SourceFile { name: page.to_owned(), text: examples.join("\n") };
        let problems: Vec<String> = validate(&[file]).await.problems.iter().map(ToString::to_string).collect();
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

#[tokio::test]
async fn a_table_that_is_not_there_is_told_from_one_that_is_near() {
    let state = SessionStateBuilder::new().with_default_features().build();
    let planner = Planner::new(&state, Arc::new(declared(TABLES)), Arc::new(Rows));
    for (query, said) in [
        ("SELECT * FROM sidee", "table sidee does not exist; did you mean side?"),
        ("SELECT * FROM polybolos.jbs", "table polybolos.jbs does not exist; did you mean polybolos.jobs?"),
        (
            "SELECT * FROM polybolos.nothing_like_it",
            "table polybolos.nothing_like_it does not exist; SELECT table_name FROM information_schema",
        ),
        ("SELECT * FROM far.off", "table far.off does not exist; SHOW TABLES"),
    ] {
        let StatementKind::Query(query) = parse(query).unwrap().remove(0).kind else { panic!("not a query") };
        let message = planner.plan_query(&query).await.unwrap_err().to_string();
        assert!(message.starts_with(said), "{message}");
    }
    let message = planner.catalog().table(&"big".into()).unwrap_err().to_string();
    assert_eq!(message, "table big does not exist; it is a view; SHOW CREATE VIEW shows it");
}

#[tokio::test]
async fn whether_there_is_something_is_asked_in_conditions_alone() {
    let planner = planner(declared(TABLES));
    for (sql, is_planned) in [
        ("SELECT EXISTS (SELECT 1 FROM t)", false),
        ("SELECT k, v IN (SELECT v FROM u) FROM t", false),
        ("SELECT CASE WHEN EXISTS (SELECT 1 FROM u WHERE u.k = t.k) THEN 1 END FROM t", false),
        ("SELECT k FROM (SELECT k, v NOT IN (SELECT v FROM u) AS is_new FROM t) ORDER BY is_new", false),
        ("SELECT k FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k)", true),
        ("SELECT k, (SELECT max(v) FROM u) FROM t WHERE v IN (SELECT v FROM u) OR k = 'a'", true),
        ("SELECT k FROM t WHERE v IN (SELECT max(v) FROM u) OR k = 'a'", true),
    ] {
        let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
        match planner.plan_query(&query).await {
            Ok(_) => assert!(is_planned, "{sql}"),
            Err(error) => assert!(!is_planned && error.to_string().contains("LEFT JOIN (SELECT DISTINCT"), "{sql}: {error}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_where_it_stands() {
    let planner = planner(declared(TABLES));
    for (sql, said) in [
        ("SELECT v FROM t UNION SELECT v FROM u ORDER BY k", "k is not; select it too"),
        ("SELECT t.k FROM t LEFT JOIN u ON t.k = u.k AND t.v + u.v IN (SELECT v FROM plain)", "not supported in the ON of a join"),
        (
            "SELECT k FROM t WHERE v = 1 OR EXISTS (SELECT count(*) FROM u WHERE u.v < t.v GROUP BY u.k)",
            "compare columns of the outer query by = alone",
        ),
    ] {
        let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
        let error = planner.plan_query(&query).await.unwrap_err().to_string();
        assert!(error.contains(said), "{sql}: {error}");
    }
    for condition in [
        "(v IN (SELECT v FROM u)) IS NULL",
        "(v NOT IN (SELECT v FROM u)) IS TRUE",
        "(k = 'a' AND v IN (SELECT v FROM u)) IS FALSE",
        "(v IN (SELECT v FROM u)) = false",
        "coalesce(v IN (SELECT v FROM u), true)",
        "CASE WHEN v NOT IN (SELECT v FROM u) THEN true ELSE false END",
    ] {
        let error = parse(&format!("SELECT k FROM t WHERE {condition}")).unwrap_err().to_string();
        assert!(error.contains("write NOT EXISTS"), "{condition}: {error}");
    }
    for condition in [
        "v > 1 AND NOT (k = 'a' OR v IN (SELECT v FROM u))",
        "(v IN (SELECT v FROM u) OR k = 'a') IS NOT TRUE",
        "CASE WHEN v IN (SELECT v FROM u) THEN k = 'a' ELSE v > 1 END",
        "v > (SELECT max(v) FROM u WHERE v NOT IN (SELECT v FROM plain))",
    ] {
        parse(&format!("SELECT k FROM t WHERE {condition}")).unwrap_or_else(|error| panic!("{condition}: {error}"));
    }
}

#[tokio::test]
async fn refusals_say_what_to_write() {
    for (job, said) in [
        ("other SELECT k, v FROM t WHERE row_number() OVER (PARTITION BY k ORDER BY ts) = 1", "write QUALIFY ROW_NUMBER() OVER"),
        ("other SELECT k, max(v) FROM t GROUP BY k HAVING rank() OVER (ORDER BY k) = 1", "write QUALIFY"),
        ("other SELECT t.k, t.v FROM t JOIN u ON row_number() OVER (ORDER BY t.k) = u.v", "write QUALIFY"),
        ("other SELECT k, v FROM t GROUP BY k, v, rank() OVER (ORDER BY k)", "write QUALIFY"),
        (
            "other SELECT k, sum(v) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN 5 PRECEDING AND CURRENT ROW) FROM t",
            "says no unit; write INTERVAL '5' SECOND PRECEDING",
        ),
        (
            "other SELECT k, sum(v) OVER (PARTITION BY k ORDER BY ts RANGE INTERVAL '-1' HOUR PRECEDING) FROM t",
            "write FOLLOWING for PRECEDING",
        ),
        (
            "other SELECT k, sum(v) OVER (ORDER BY ts RANGE INTERVAL '1 hour -1 day' PRECEDING) FROM t",
            "write FOLLOWING for PRECEDING",
        ),
        (
            "other SELECT k, sum(v) OVER (ORDER BY v RANGE INTERVAL '1' HOUR PRECEDING) FROM t",
            "t.v, which is a number; write a number",
        ),
        ("other SELECT k, sum(v) OVER (ORDER BY k RANGE INTERVAL '1' HOUR PRECEDING) FROM t", "t.k is neither; write ROWS"),
        ("other SELECT substring(k, 2, -1), v FROM t", "would fail on every row, at substr("),
        ("other SELECT overlay(k PLACING 'x' FROM 0), v FROM t", "would fail on every row, at overlay("),
        ("other SELECT k, max_by(v, ts) OVER (PARTITION BY k) FROM t", "write last_value(x) OVER (ORDER BY y"),
        ("other SELECT k, abs(v) FILTER (WHERE v > 5) FROM t", "abs is computed row by row and takes no FILTER"),
        ("other SELECT k, abs(DISTINCT v) FROM t", "abs is computed row by row and takes no DISTINCT"),
        ("other SELECT upper(k) OVER (PARTITION BY k), v FROM t", "takes no OVER"),
        ("other SELECT k, ABS(v ORDER BY v) FROM t", "takes no ORDER BY"),
        ("other SELECT k, abs(v) WITHIN GROUP (ORDER BY v) FROM t", "takes no WITHIN GROUP"),
        ("other SELECT coalesce(k) IGNORE NULLS, v FROM t", "takes no IGNORE NULLS"),
        ("other SELECT k, abs(v NULL ON NULL) FROM t", "takes no NULL ON NULL"),
        ("other SELECT k, abs(2)(v) FROM t", "takes no second list of arguments"),
        ("other SELECT k, lag(DISTINCT v) OVER (PARTITION BY k ORDER BY ts) FROM t", "lag takes no DISTINCT"),
        ("other SELECT k, lag(DISTINCT v IGNORE NULLS) OVER (PARTITION BY k ORDER BY ts) FROM t", "lag takes no DISTINCT"),
        ("other SELECT s.k, 1 FROM side s", "which ends"),
        ("other SELECT t.k, 1 FROM t JOIN side s ON t.k = s.k", "look it up: JOIN side FOR SYSTEM_TIME AS OF"),
        ("other SELECT k, v FROM t ORDER BY v", "add LIMIT n"),
        ("other SELECT k, v FROM t LIMIT 5", "add ORDER BY"),
        ("other SELECT k, v FROM t ORDER BY v OFFSET 2", "ROW_NUMBER()"),
        ("other SELECT DISTINCT ON (k) k, v FROM t ORDER BY k, v", "DISTINCT ON"),
        ("other SELECT k, v FROM t WHERE v NOT IN (SELECT v FROM big WHERE big.k = t.k)", "write NOT EXISTS"),
        ("other SELECT k, count(*) + random() FROM t GROUP BY k", "asks random()"),
        ("other VALUES ('a', 1)", "reads no stream"),
        ("other SELECT k, v FROM t WHERE v > 1 AND false", "can never give a row"),
        ("other SELECT k, count(*) FROM t WHERE false GROUP BY k", "can never give a row"),
        ("other SELECT k, v FROM t ORDER BY v LIMIT 0", "its LIMIT is 0"),
        ("other SELECT 'a', 5 FROM (SELECT count(*) FROM t)", "the same rows whatever its streams bring"),
        ("other SELECT 'a', count(*) FROM t WHERE false", "write these rows once: INSERT INTO other VALUES (…)"),
        ("other WITH RECURSIVE r AS (SELECT k, v FROM t UNION ALL SELECT k, v FROM r) SELECT * FROM r", "WITH RECURSIVE"),
        ("other SELECT k, count(*) FROM t GROUP BY k EMIT ON WINDOW CLOSE", "or leave EMIT out"),
        (
            "other SELECT a.k, b.v FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR)) a LEFT JOIN TABLE(TUMBLE(TABLE u, DESCRIPTOR(ts), INTERVAL '1' HOUR)) b ON a.k = b.k EMIT ON WINDOW CLOSE",
            "in the ON of an outer join",
        ),
        (
            "other SELECT a.k, b.v FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR)) a JOIN TABLE(TUMBLE(TABLE u, DESCRIPTOR(ts), INTERVAL '1' HOUR)) b ON a.k = b.k AND a.window_start = b.window_start EMIT ON WINDOW CLOSE",
            "never changes",
        ),
        (
            "other SELECT a.k, b.v FROM t AS a LEFT JOIN u AS b ON a.k = b.k AND a.ts BETWEEN b.ts - INTERVAL '5' SECOND AND b.ts EMIT ON WINDOW CLOSE",
            "within an interval",
        ),
        (
            "other SELECT k, count(*) FROM TABLE(TUMBLE(TABLE plain, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY k, window_end EMIT ON WINDOW CLOSE",
            "declare WATERMARK FOR",
        ),
        ("other SELECT k, v FROM t MATCH_RECOGNIZE (PARTITION BY k)", "MATCH_RECOGNIZE"),
        ("other SELECT k, 1 FROM TABLE(TUMBEL(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR))", "did you mean TUMBLE?"),
        ("other SELECT k, 1 FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts)))", "lacks an argument"),
        ("other SELECT k, 1 FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MONTH))", "GROUP BY date_trunc('month', ts)"),
        ("other SELECT k, count(*) FROM t GROUP BY k, TUMBLE(ts, INTERVAL '1 year')", "GROUP BY date_trunc('month', ts)"),
        ("other SELECT k, 1 FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL 'soon'))", "write for example INTERVAL"),
        ("other SELECT k, COLLECT(v) FROM t GROUP BY k", "a MULTISET does not exist; write array_agg(x)"),
        ("other SELECT k, 1 FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(v), INTERVAL '1' HOUR))", "date_bin"),
        ("other SELECT k, 1 FROM TABLE(HOP(TABLE t, DESCRIPTOR(v), INTERVAL '1' HOUR, INTERVAL '2' HOUR))", "TIMESTAMP"),
        (
            "other SELECT k, 1 FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(k), INTERVAL '1' HOUR))",
            "column k, which is STRING and no time",
        ),
        ("other SELECT k, count(*) FROM t GROUP BY k, TUMBLE(v, INTERVAL '1' HOUR)", "declare a computed column"),
        ("other SELECT date_trunc('hours', ts), v FROM t", "would fail on every row, at date_trunc"),
        ("other SELECT k, sum(v) FROM t GROUP BY k, date_trunc('hours', ts)", "correct the constant"),
        ("other SELECT regexp_replace(k, '(', 'x'), v FROM t", "would fail on every row"),
        ("other SELECT k, v FROM t WHERE k ~ 'a('", "regex parse error"),
        ("other SELECT regexp_extract(k, '[', 1), v FROM t", "would fail on every row"),
        ("other SELECT k, date_part('fortnight', ts) FROM t", "would fail on every row"),
        ("other SELECT k, 1 / 0 FROM t", "would fail on every row"),
        ("other SELECT k, sum(v % 0) FROM t GROUP BY k", "would fail on every row"),
        ("other SELECT k, v FROM t WHERE ts > to_timestamp('never')", "would fail on every row"),
        ("other SELECT encode(k, 'foo'), v FROM t", "no built-in encoding named 'foo'"),
        ("other SELECT k, v FROM t WHERE decode(k, 'foo') IS NOT NULL", "no built-in encoding named 'foo'"),
        ("sink SELECT k, v, date_bin(INTERVAL '0 seconds', ts) FROM t", "stride must be non-zero"),
        ("other VALUES ('a', (SELECT max(v) FROM t))", "write INSERT INTO … SELECT"),
        ("other SELECT k, 1 FROM t UNION ALL VALUES ('a', (SELECT 1))", "write INSERT INTO … SELECT"),
        ("other SELECT k, CAST(v AS ROW<a INT>).a FROM t", "build it of casts"),
        ("other SELECT k, CAST(v AS ROW(a INT, b STRING)).a FROM t", "build it of casts"),
        ("other SELECT k, cardinality(CAST(k AS ARRAY<ROW<a INT>>)) FROM t", "build it of casts"),
        ("other SELECT k, cardinality(k::MAP<STRING, INT>) FROM t", "build it of casts"),
        ("other SELECT k, percentile_disc(1.5) WITHIN GROUP (ORDER BY v) FROM t GROUP BY k", "a share between 0 and 1"),
        ("other SELECT k, CASE WHEN (k, v) NOT IN (SELECT k, v FROM u) THEN 1 END FROM t", "write NOT EXISTS"),
        ("other SELECT k, v FROM t WHERE (k, v) NOT IN (SELECT k, v FROM u ORDER BY v LIMIT 3)", "LIMIT n) is not supported"),
        ("other SELECT k, v FROM t WHERE NOT ((k, v) IN (SELECT k, v FROM u))", "write EXISTS"),
        (
            "other SELECT k, 1 FROM TABLE(CUMULATE(TABLE t, DESCRIPTOR(ts), INTERVAL '7' SECOND, INTERVAL '10' SECOND))",
            "multiple of its step",
        ),
        ("other SELECT k, 1 FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), SIZZE => INTERVAL '7' SECOND))", "did you mean SIZE?"),
        ("big SELECT k, v, ts FROM t", "is a view"),
        ("other SELECT v, k FROM t", "write CAST(k AS BIGINT)"),
        (
            "other SELECT k, k FROM t",
            "the SELECT gives k (STRING) for it; values go to columns by their position: name the columns in that order, or write CAST(k AS BIGINT)",
        ),
        ("other SELECT k, 'x' FROM t", "the SELECT gives 'x' (STRING) for it; values go to columns by their position"),
        ("other SELECT k, k || '!' AS v FROM t", "the SELECT gives v (STRING) for it"),
        ("other SELECT k, ts FROM t", "values go to columns by their position"),
        ("other SELECT k, array_agg(v) FROM t GROUP BY k", "cannot be cast"),
        ("other SELECT k, v + k FROM t", "BIGINT + STRING cannot be computed; CAST one side"),
        ("other SELECT k, sum(k) FROM t GROUP BY k", "function sum takes no arguments of these types; CAST them"),
        ("other SELECT explode(k), 1 FROM t", "write FROM t CROSS JOIN UNNEST(array) AS x (item)"),
        ("other SELECT k, count(*) FROM t GROUP BY k, window(ts, INTERVAL '5' MINUTE)", "write FROM TABLE(TUMBLE(TABLE t"),
        ("other SELECT k, count(*) FROM t GROUP BY k, session_window(ts, '5 minutes')", "write FROM TABLE(SESSION(TABLE t"),
        ("other SELECT tumble_start(ts, INTERVAL '1' HOUR), v FROM t", "write FROM TABLE(TUMBLE(TABLE t"),
        ("other SELECT max_by(k), 1 FROM t", "write max_by(value, order)"),
        ("other SELECT json_extract(k, '$.a'), 1 FROM t", "json_value("),
        ("other SELECT k, datediff(ts) FROM t", "write datediff(end, start)"),
        ("other SELECT k, timestampdiff(FORTNIGHT, ts, ts) FROM t", "begins with a unit"),
        ("other SELECT a.k, b.v FROM t a ASOF JOIN u b MATCH_CONDITION (a.ts >= b.ts) ON a.k = b.k", "ASOF JOIN is not supported"),
        (
            "other SELECT 'x', a FROM (SELECT k, v FROM t) PIVOT(sum(v) FOR k IN ('a' AS a)) AS p",
            "sum(v) FILTER (WHERE k = 'a') AS a",
        ),
        ("other SELECT t.k, u.v FROM t JOIN u FOR SYSTEM_TIME AS OF t.ts ON t.k = u.k", "ROW_NUMBER() OVER"),
        (
            "other SELECT t.k, n.v FROM t JOIN newest FOR SYSTEM_TIME AS OF t.ts AS n ON t.k = n.k",
            "looks up newest, whose rows are followed as they change; leave FOR SYSTEM_TIME AS OF out: JOIN newest AS r",
        ),
        (
            "other SELECT n.k, length(s.name) FROM newest AS n JOIN side FOR SYSTEM_TIME AS OF PROCTIME() AS s ON n.k = s.k",
            "looks up side for rows of newest, which change and go",
        ),
        ("other SELECT k, v, count(*) FROM t GROUP BY k", "column t.v in SELECT is neither grouped nor aggregated"),
        (
            "other SELECT k, v FROM t WHERE k = \"buy\"",
            "there is no column buy (a text takes single quotes); there are t.k, t.v, t.ts",
        ),
        ("other SELECT \"K\", v FROM t", "did you mean k? A name in double quotes keeps its case"),
        ("other SELECT window_start, 1 FROM TUMBLE(t, ts, INTERVAL '1 minute')", "write FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts)"),
        ("other SELECT geohash(v), v FROM t", "there is no function geohash; SELECT DISTINCT routine_name"),
        ("other SELECT uper(k), v FROM t", "there is no function uper; did you mean upper?"),
        ("other SELECT CAST(ts AT TIME ZONE 'Nowhere/X' AS STRING), v FROM t", "there is no time zone \"Nowhere/X\""),
        ("other SELECT map_entries(MAP {k: v})[1], v FROM t", "map_keys(m)"),
        ("other SELECT 'a', value FROM generate_series(1, 3)", "write CROSS JOIN UNNEST(generate_series(1, 10)) AS s (n)"),
        ("other SELECT k, v FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.k)", "is always true"),
        ("other SELECT k, v FROM t WHERE v > 1 AND NOT EXISTS (SELECT max(v) + 1 FROM u WHERE u.k = t.k)", "is always true"),
        (
            "other SELECT k, v FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k HAVING count(*) < 3)",
            "where HAVING may be true of no rows",
        ),
        (
            "other SELECT k, v FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k HAVING coalesce(sum(v), 0) < 9)",
            "where HAVING may be true of no rows",
        ),
        ("other SELECT k, v FROM t WHERE v IN (SELECT count(*) FROM u WHERE u.k = t.k)", "compare it: x = (SELECT max(v) …)"),
        ("other SELECT k, v FROM t WHERE v NOT IN (SELECT max(v) FROM u WHERE u.k = t.k)", "compare it: x = (SELECT max(v) …)"),
        (
            "other SELECT k, v FROM t WHERE NOT (v IN (SELECT max(v) FROM u WHERE u.k = t.k AND u.v > 9))",
            "compare it: x = (SELECT max(v) …)",
        ),
        (
            "other SELECT k, v FROM t WHERE v > 1 OR (v IN (SELECT max(v) FROM u WHERE u.k = t.k)) IS NULL",
            "a NULL would count as false",
        ),
        ("other SELECT k, v FROM t WHERE (v IN (SELECT max(v) FROM u WHERE u.k = t.k)) IS FALSE", "a NULL would count as false"),
        (
            "other SELECT k, CASE WHEN v IN (SELECT max(v) FROM u WHERE u.k = t.k) THEN 1 END FROM t",
            "compare it: x = (SELECT max(v) …)",
        ),
        ("other SELECT k, v FROM t /*+ OPTIONS('scan.startup.mode' = 'latest') */", "it takes 'earliest-offset', 'latest-offset'"),
        ("other SELECT k, v FROM t /*+ OPTIONS('topic' = 'x') */", "declare another table over the topic"),
        ("other SELECT k, v FROM t /*+ OPTIONS('scan.startup.modes' = 'x') */", "did you mean 'scan.startup.mode'?"),
        ("other SELECT k, v FROM t /*+ OPTIONS('scan.bounded.mode' = 'latest-offset') */", "which ends (kafka)"),
        ("other SELECT k, v FROM big /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */", "big is a view"),
        ("other SELECT k, 1 FROM side /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */", "side (cassandra) takes no OPTIONS"),
        (
            "other SELECT k, v FROM newest /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */",
            "not for a table that keeps a row per key",
        ),
    ] {
        let message = refused(job).await;
        assert!(message.contains(said), "{job}: {message}");
        // DataFusion's own guess, by spelling alone.
        assert!(!message.contains("Did you mean"), "{job}: {message}");
    }
}

#[tokio::test]
async fn views_and_tables_of_the_system_are_described_by_their_plans() {
    let planner = planner(declared(TABLES));
    let columns = async |schema: &str, name: &str| {
        let plan = planner.plan_described(&RelationName::new(schema, name)).await?;
        let names =
            |plan: LogicalPlan| plan.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>().join(" ");
        Ok::<_, SqlError>(plan.map(names))
    };
    assert_eq!(columns("public", "big").await.unwrap().as_deref(), Some("k v ts"));
    assert!(columns("information_schema", "columns").await.unwrap().is_some_and(|names| names.contains("column_name")));
    assert_eq!(columns("public", "t").await.unwrap(), None);
    let missing = columns("polybolos", "job").await.unwrap_err().to_string();
    assert!(missing.contains("table polybolos.job does not exist"), "{missing}");
}

#[tokio::test]
async fn columns_of_a_view_have_names_and_values() {
    let planner = planner(declared(TABLES));
    for (sql, said) in [
        ("CREATE VIEW w (a, b) AS SELECT k, k FROM t", None),
        ("CREATE VIEW w AS SELECT k, k FROM t", Some("two columns of one name; name them apart with AS")),
        ("CREATE VIEW w AS SELECT k, t.k FROM t", Some("name them apart with AS")),
        ("CREATE VIEW w AS SELECT $1 AS x FROM t", Some("has the parameter $1 in it")),
    ] {
        let StatementKind::CreateView(view) = parse(sql).unwrap().remove(0).kind else { panic!("no view: {sql}") };
        match (planner.plan_view(&view).await, said) {
            (Ok(plan), None) => assert_eq!(plan.schema().field_names().len(), 2, "{sql}"),
            (Err(error), Some(said)) => assert!(error.to_string().contains(said), "{sql}: {error}"),
            (planned, _) => panic!("{sql}: {planned:?}"),
        }
    }
}

#[tokio::test]
async fn views_are_described_by_the_types_of_their_rows() {
    let views = "
        CREATE VIEW mixed AS SELECT v AS n, CASE WHEN v > 1 THEN 1 ELSE 1.5e0 END AS m FROM t UNION ALL SELECT CAST(v AS DOUBLE), 2 FROM t;";
    let planner = planner(declared(&format!("{TABLES}{views}")));
    let plan = planner.plan_described(&RelationName::new("public", "mixed")).await.unwrap().unwrap();
    let types: Vec<_> = plan.schema().fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Float64, DataType::Float64]);
}

#[tokio::test]
async fn what_has_a_plan_of_its_own_is_a_table_unless_it_is_a_view() {
    let sql = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public'";
    let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query") };
    let plan = planner(declared(TABLES)).plan_query(&query).await.unwrap();
    let rows = SessionContext::new().execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
    let shown = pretty_format_batches(&rows).unwrap().to_string();
    for (name, kind) in [("t", "BASE TABLE"), ("newest", "BASE TABLE"), ("changed", "BASE TABLE"), ("big", "VIEW")] {
        let is_it = |line: &str| line.split('|').map(str::trim).filter(|word| !word.is_empty()).eq([name, kind]);
        assert!(shown.lines().any(is_it), "{name}: {shown}");
    }
}

/// The text of an expression over nothing.
async fn answer(planner: &Planner, expression: &str) -> Option<String> {
    let mut statements = parse(&format!("SELECT CAST({expression} AS STRING)")).unwrap();
    let StatementKind::Query(query) = statements.remove(0).kind else { panic!("not a query: {expression}") };
    let plan = planner.plan_query(&query).await.unwrap_or_else(|error| panic!("{expression}: {error}"));
    let rows = SessionContext::new().execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
    rows[0].column(0).as_string_view().iter().next().unwrap().map(str::to_owned)
}

#[tokio::test]
async fn a_cast_stands_beside_what_is_cast() {
    for job in [
        "other SELECT 'x', sum(a) FROM (SELECT sum(v) AS a, sum(CAST(v AS DOUBLE)) AS b FROM t)",
        "other SELECT k, b FROM (SELECT k, lag(v) OVER w AS a, lag(CAST(v AS INT)) OVER w AS b FROM t WINDOW w AS (PARTITION BY k ORDER BY ts))",
        "other SELECT k, v FROM (SELECT k, v, CAST(v AS STRING) FROM t)",
    ] {
        let planned = plan(job).await.unwrap_or_else(|error| panic!("{job}: {error}"));
        assert!(
            !planned.inserts[0].plan.display_indent().to_string().contains("named_cast(CAST"),
            "{}",
            planned.inserts[0].plan.display_indent()
        );
    }
}

#[tokio::test]
async fn functions_of_flink_answer_as_there() {
    let planner = planner(declared(TABLES));
    let at = "TIMESTAMP '2026-01-31 10:40:30.5'";
    for (expression, expected) in [
        ("IF(1 > 2, 'a', 'b')".to_owned(), Some("b")),
        (format!("TIMESTAMPDIFF(MINUTE, {at}, TIMESTAMP '2026-01-31 10:42:30')"), Some("1")),
        (format!("TIMESTAMPADD(MONTH, 1, {at})"), Some("2026-02-28T10:40:30.500")),
        (format!("TIMESTAMPADD(DAY, -31, CAST({at} AS TIMESTAMP(0)))"), Some("2025-12-31T10:40:30")),
        (
            "TIMESTAMPADD(HOUR, 1, arrow_cast('2026-01-01T00:00:00.000000001', 'Timestamp(Nanosecond, None)'))".to_owned(),
            Some("2026-01-01T01:00:00.000000001"),
        ),
        (
            "TIMESTAMPADD(HOUR, 1, arrow_cast('1969-12-31T23:00:00.000000001', 'Timestamp(Nanosecond, None)'))".to_owned(),
            Some("1970-01-01T00:00:00.000000001"),
        ),
        ("TIMESTAMPADD(DAY, NULL, now())".to_owned(), None),
        ("TO_TIMESTAMP_LTZ(1500, 3)".to_owned(), Some("1970-01-01T00:00:01.500Z")),
        (format!("UNIX_TIMESTAMP({at})"), Some("1769856030")),
        ("UNIX_TIMESTAMP('31.01.2026', 'dd.MM.yyyy')".to_owned(), Some("1769817600")),
        ("TO_TIMESTAMP('Jan 31 2026 01:02 PM', 'MMM dd yyyy hh:mm a')".to_owned(), Some("2026-01-31T13:02:00")),
        ("TO_DATE('31/01/26', 'dd/MM/yy')".to_owned(), Some("2026-01-31")),
        (format!("DATE_FORMAT({at}, 'EEE d MMMM')"), Some("Sat 31 January")),
        (format!("FLOOR({at} TO HOUR)"), Some("2026-01-31T10:00:00")),
        ("JSON_ARRAY(1, 'a', 2.5, NULL, JSON_OBJECT())".to_owned(), Some(r#"[1,"a",2.5,null,{}]"#)),
        ("JSON_ARRAYAGG(JSON_OBJECT('a' VALUE 1))".to_owned(), Some(r#"[{"a":1}]"#)),
        ("JSON_OBJECT('a' VALUE ('[' || 'x' || ']'))".to_owned(), Some(r#"{"a":"[x]"}"#)),
        ("TIMESTAMP '2024-07-01 12:00:00' AT TIME ZONE 'UTC'".to_owned(), Some("2024-07-01T12:00:00Z")),
        (
            "CAST(TIMESTAMP '2024-07-01 12:00:00' AT TIME ZONE 'Europe/Paris' < TIMESTAMP '2024-07-01 10:30:00' AS STRING)"
                .to_owned(),
            Some("true"),
        ),
        ("TIMESTAMPTZ '2024-01-01 00:00:00+02'".to_owned(), Some("2023-12-31T22:00:00Z")),
        ("TIMESTAMPTZ '2024-01-01 00:00:00+02' AT TIME ZONE 'UTC'".to_owned(), Some("2023-12-31T22:00:00")),
        ("'2024-07-01 12:00:00+02'::timestamptz AT TIME ZONE 'America/New_York'".to_owned(), Some("2024-07-01T06:00:00")),
        ("sign(-3)".to_owned(), Some("-1.0")),
        // New York's summer time began at 07:00 UTC on that day.
        ("TO_TIMESTAMP_LTZ(1710030600500, 3) AT TIME ZONE 'America/New_York'".to_owned(), Some("2024-03-09T19:30:00.500")),
        ("date_format(TO_TIMESTAMP_LTZ(1710054000, 0) AT TIME ZONE 'America/New_York', 'HH:mm')".to_owned(), Some("03:00")),
        ("TIMESTAMP '2024-07-01 12:00:00' AT TIME ZONE 'Europe/Paris'".to_owned(), Some("2024-07-01T10:00:00Z")),
        ("date_trunc('day', TO_TIMESTAMP_LTZ(1710030600500, 3) AT TIME ZONE '+09:00')".to_owned(), Some("2024-03-10T00:00:00")),
        ("(named_struct('a', make_array(named_struct('sku', 'x')))).a[1].sku".to_owned(), Some("x")),
        (
            format!(
                "JSON_OBJECT('n' VALUE 1, KEY 't' VALUE {at}, 'x' VALUE NULL, 'a' VALUE JSON_ARRAY('q\"', 'z'), 'd' VALUE CAST(1.50 AS DECIMAL(5, 2)))"
            ),
            Some(r#"{"n":1,"t":"2026-01-31 10:40:30.500","x":null,"a":["q\"","z"],"d":1.50}"#),
        ),
        ("to_json(CAST(NULL AS INT))".to_owned(), None),
    ] {
        assert_eq!(answer(&planner, &expression).await.as_deref(), expected, "{expression}");
    }
}

#[tokio::test]
async fn json_in_text_is_read() {
    let planner = planner(declared(TABLES));
    let json = r#"'{"a": {"b": [1, "x", {"c": null}]}, "t": "42", "f": true}'"#;
    let cases = [
        (format!("json_value({json}, '$.a.b[0]')"), Some("1")),
        (format!("json_value({json}, '$.a.b[1]')"), Some("x")),
        (format!("json_value({json}, '$.a.b')"), None),
        (format!("json_value({json}, '$.a.b[2].c')"), None),
        (format!("json_value({json}, '$.f')"), Some("true")),
        (r#"json_value('{"a": "x\u00e9\n\"y"}', '$.a')"#.to_owned(), Some("xé\n\"y")),
        (format!("json_query({json}, '$.a.b[2]')"), Some(r#"{"c": null}"#)),
        (format!("json_query({json}, '$.t')"), None),
        (format!("get_json_object({json}, '$.a.b')"), Some(r#"[1, "x", {"c": null}]"#)),
        (format!("CAST(json_exists({json}, '$.a.b[2].c') AS STRING)"), Some("true")),
        (format!("CAST(json_exists({json}, '$.z') AS STRING)"), Some("false")),
        (format!("{json} -> 'a' -> 'b' ->> 1"), Some("x")),
        (format!("{json} -> 't'"), Some("\"42\"")),
        (format!("CAST(CAST({json} ->> 't' AS INT) + 1 AS STRING)"), Some("43")),
        ("json_value('no JSON', '$.a')".to_owned(), None),
        ("CAST(json_exists('no JSON', '$') AS STRING)".to_owned(), Some("false")),
        (format!("CAST(json_exists({json}, '$') AS STRING)"), Some("true")),
        (format!("CAST(json_length({json}, 'a', 'b') - CAST(1 AS INT) AS STRING)"), Some("2")),
        (format!("json_get({json} -> 'a', 'b', CAST(1 AS INT))"), Some("\"x\"")),
        (format!("'t:' || {json} ->> 't' || '!'"), Some("t:42!")),
        (format!("CAST({json} ->> 't' = '42' AS STRING)"), Some("true")),
        ("json_value(CAST(NULL AS STRING), '$.a')".to_owned(), None),
        (format!("CAST({json} IS JSON AS STRING)"), Some("true")),
        (format!("CAST({json} IS JSON OBJECT AS STRING)"), Some("true")),
        (format!("CAST({json} IS NOT JSON ARRAY AS STRING)"), Some("true")),
        ("CAST(' [1, {}]' IS JSON ARRAY AS STRING)".to_owned(), Some("true")),
        ("CAST('\"x\"' IS JSON SCALAR AS STRING)".to_owned(), Some("true")),
        ("CAST('null' IS JSON VALUE AS STRING)".to_owned(), Some("true")),
        ("CAST('{\"a\": 1' IS JSON AS STRING)".to_owned(), Some("false")),
        ("CAST('1 2' IS JSON AS STRING)".to_owned(), Some("false")),
        ("CAST('' IS JSON AS STRING)".to_owned(), Some("false")),
        ("CAST('x' IS NOT JSON AS STRING)".to_owned(), Some("true")),
        ("CAST(CAST(NULL AS STRING) IS JSON AS STRING)".to_owned(), None),
        ("CAST(2 BETWEEN SYMMETRIC 3 AND 1 AS STRING)".to_owned(), Some("true")),
        ("CAST(2 NOT BETWEEN SYMMETRIC 3 AND 1 AS STRING)".to_owned(), Some("false")),
        ("CAST(4 BETWEEN SYMMETRIC 3 AND NULL AS STRING)".to_owned(), None),
        ("CAST(MAP['a', 1, 'b', 2]['b'] AS STRING)".to_owned(), Some("2")),
    ];
    for (expression, expected) in cases {
        assert_eq!(answer(&planner, &expression).await.as_deref(), expected, "{expression}");
    }
    let error = refused("other SELECT json_value(k, '$..a'), v FROM t").await;
    assert!(error.contains("for example $.a.b[0]"), "{error}");
    let error = refused("other SELECT json_value(k, k), v FROM t").await;
    assert!(error.contains("json_value takes the same path for all rows"), "{error}");
    let error = refused("other SELECT k -> 1.5, v FROM t").await;
    assert!(error.contains("steps: names as text"), "{error}");
}
