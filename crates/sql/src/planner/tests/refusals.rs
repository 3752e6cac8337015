//! What cannot be planned, and what is said then.
use super::*;

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
        ("SELECT k FROM t WHERE v NOT IN (SELECT v FROM plain WHERE plain.k = t.k)", "takes every row back; write NOT EXISTS"),
        ("SELECT k FROM t WHERE v NOT IN (SELECT v FROM plain WHERE plain.ts > t.ts)", "takes every row back; write NOT EXISTS"),
        ("SELECT k FROM t WHERE (SELECT count(*) FROM u WHERE u.v > t.v) = 0", "this subquery cannot be written as a join"),
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
        ("other SELECT k, 1 / 0 FROM t", "would fail on every row, at 1 / 0: division by zero; write a / NULLIF(b, 0)"),
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
        ("other SELECT k, (SELECT v FROM u WHERE u.k = t.k) FROM t", "may have several rows for one of these; write max(c)"),
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
