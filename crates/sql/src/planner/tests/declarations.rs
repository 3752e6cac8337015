//! What stands on what: declarations that are refused, stored, shown and dropped.
use super::*;

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
