//! Plans of jobs: what can be kept right, the columns that an INSERT fills, several INSERTs, and what EXPLAIN says of them.
use datafusion::arrow::datatypes::{DataType, TimeUnit};

use super::*;

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

#[tokio::test]
async fn what_depends_on_the_order_in_which_rows_are_read_is_told() {
    for (job, columns, rows) in [
        ("other SELECT k, max(v) FROM t GROUP BY k", [false, false], false),
        ("other SELECT k, last_value(v) FROM t GROUP BY k", [false, true], false),
        ("other SELECT k, last_value(v ORDER BY ts) FROM t GROUP BY k", [false, false], false),
        ("other SELECT k, length(string_agg(k, ',')) + 1 FROM t GROUP BY k", [false, true], false),
        ("other SELECT k, max(n) FROM (SELECT k, first_value(v) AS n FROM t GROUP BY k, ts) GROUP BY k", [false, true], false),
        ("other SELECT k, n FROM (SELECT k, first_value(v) AS n FROM t GROUP BY k) WHERE n > 1", [false, true], true),
        (
            "other SELECT x.k, x.n FROM (SELECT k, first_value(v) AS n FROM t GROUP BY k) AS x JOIN u ON x.k = u.k",
            [false, true],
            false,
        ),
        (
            "other SELECT u.k, u.v FROM (SELECT k, first_value(v) AS n FROM t GROUP BY k) AS x JOIN u ON x.n = u.v",
            [false, false],
            true,
        ),
        ("pair SELECT first_value(v), count(*) FROM t GROUP BY k", [true, false], false),
        ("other SELECT k, v FROM newest", [false, false], false),
    ] {
        let planned = plan(job).await.unwrap_or_else(|error| panic!("{job}: {error}"));
        assert_eq!(planned.inserts[0].reading_order(), ReadingOrder { columns: columns.to_vec(), rows }, "{job}");
    }
}
