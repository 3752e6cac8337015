//! Casts, and values that keep their digits, their sign and their place among others.
use super::{contents::rows, *};

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
async fn rounded_decimals_fit_columns_with_more_places() {
    let precise = "CREATE TABLE precise (k STRING, d DECIMAL(21, 4), PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's')";
    let job = "CREATE JOB j AS INSERT INTO precise SELECT k, round(CAST(v AS DECIMAL(20, 4)), 2) FROM t";
    let StatementKind::CreateJob(create) = parse(job).unwrap().remove(0).kind else { panic!("not a job: {job}") };
    planner(declared(&format!("{TABLES}{precise}"))).plan_job(&create, 4).await.unwrap();
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
