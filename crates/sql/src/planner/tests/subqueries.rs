//! Subqueries: as values, behind EXISTS and IN, with several columns, and the first rows for each row.
use super::{contents::rows, *};

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

/// `x` of the outermost query, compared in the innermost one.
#[tokio::test]
async fn a_subquery_compares_what_is_further_out() {
    let every = "SELECT 1 FROM u WHERE u.v < 3 AND NOT EXISTS (SELECT 1 FROM plain AS p WHERE p.k = x.k AND p.v = u.v)";
    let of_four = "SELECT 1 FROM u WHERE u.v = 4 AND NOT EXISTS (SELECT 1 FROM plain AS p WHERE p.k = x.k AND p.v = u.v)";
    for (query, answer) in [
        (format!("SELECT DISTINCT k FROM t AS x WHERE NOT EXISTS ({every})"), "a"),
        (format!("SELECT v FROM t AS x WHERE x.v = 4 OR NOT EXISTS ({every}) ORDER BY v"), "1\n2\n3\n4\n5"),
        (format!("SELECT x.v FROM t AS x JOIN newest AS n ON x.k = n.k WHERE NOT EXISTS ({every}) AND x.v > 2 ORDER BY 1"), "3\n5"),
        (
            "SELECT v FROM t AS x WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.v = 9 OR (u.v < 3 AND NOT EXISTS (SELECT 1 FROM plain AS p WHERE p.k = x.k AND p.v = u.v))) ORDER BY v".to_owned(),
            "1\n2\n3\n5",
        ),
        (
            "SELECT v FROM t AS x WHERE EXISTS (SELECT 1 FROM u WHERE EXISTS (SELECT 1 FROM plain AS p WHERE p.k = x.k AND p.v > x.v AND p.v = u.v)) ORDER BY v".to_owned(),
            "1\n2\n3",
        ),
        (
            "SELECT v FROM t AS x WHERE v IN (SELECT u.v FROM u WHERE NOT EXISTS (SELECT 1 FROM plain AS p WHERE p.k = x.k AND p.v = u.v + 1)) ORDER BY v".to_owned(),
            "3\n4\n5",
        ),
        (
            "SELECT v FROM t AS x WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.v < 3 AND (x.k, u.v) NOT IN (SELECT p.k, p.v FROM plain AS p)) ORDER BY v".to_owned(),
            "1\n2\n3\n5",
        ),
        (
            "SELECT v FROM t AS x WHERE EXISTS (SELECT 1 FROM u WHERE u.v = (SELECT max(p.v) FROM plain AS p WHERE p.k = x.k) AND u.k = x.k AND x.v < u.v) ORDER BY v".to_owned(),
            "1\n2\n3",
        ),
        (
            "SELECT k FROM t GROUP BY k HAVING NOT EXISTS (SELECT 1 FROM u WHERE u.v < 3 AND NOT EXISTS (SELECT 1 FROM plain AS p WHERE p.k = t.k AND p.v = u.v))".to_owned(),
            "a",
        ),
        // Of NULL nothing is found.
        (format!("SELECT v FROM (SELECT nullif(k, 'a') AS k, v FROM t) AS x WHERE NOT EXISTS ({of_four})"), "4"),
        (format!("SELECT v FROM (SELECT nullif(k, 'a') AS k, v FROM t) AS x WHERE EXISTS ({of_four}) ORDER BY v"), "1\n2\n3\n5"),
        (
            "SELECT u.v, (SELECT count(*) FROM t WHERE EXISTS (SELECT 1 FROM plain AS p WHERE p.v = t.v AND p.v > u.v)) AS n FROM u ORDER BY 1".to_owned(),
            "1 4\n2 3\n3 2\n4 1\n5 0",
        ),
        (
            "SELECT v FROM t AS x WHERE EXISTS (SELECT 1 FROM u WHERE u.v = x.v AND EXISTS (SELECT 1 FROM plain AS p WHERE p.v = u.v AND NOT EXISTS (SELECT 1 FROM newest AS n WHERE n.k = x.k AND n.v = u.v))) ORDER BY v".to_owned(),
            "1\n2\n4\n5",
        ),
    ] {
        assert_eq!(rows(&query).await, answer, "{query}");
    }
    let job = plan(&format!("other SELECT DISTINCT k, 1 FROM t AS x WHERE NOT EXISTS ({every})")).await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(shown.matches("LeftAnti").count() == 2 && shown.contains("__outer_1"), "{shown}");
}

#[tokio::test]
async fn what_cannot_be_brought_near_is_refused() {
    let p = "EXISTS (SELECT 1 FROM plain AS p WHERE p.k = x.k AND p.v = u.v)";
    for job in [
        // Rows of a group are not told by a key that may be NULL.
        format!("other SELECT k, (SELECT count(*) FROM u WHERE {p}) FROM t AS x"),
        format!("other SELECT k, v FROM t AS x WHERE EXISTS (SELECT 1 FROM (SELECT v FROM u WHERE {p}) AS y)"),
        format!("other SELECT k, v FROM t AS x WHERE EXISTS (SELECT v FROM u WHERE {p} UNION ALL SELECT v FROM u)"),
        format!("other SELECT k, v FROM t AS x WHERE v = (SELECT max(u.v) FROM u WHERE {p})"),
        // Asked twice, it would answer otherwise.
        format!(
            "other SELECT x.k, x.v FROM (SELECT k, v, CAST(random() * 10 AS BIGINT) AS r FROM t) AS x WHERE EXISTS (SELECT 1 FROM u WHERE {p} AND EXISTS (SELECT 1 FROM plain AS q WHERE q.v = x.r))"
        ),
        "other SELECT x.k, x.d FROM (SELECT k, v, CAST(v AS DOUBLE) AS d FROM t) AS x WHERE EXISTS (SELECT 1 FROM u WHERE EXISTS (SELECT 1 FROM plain AS p WHERE p.v = x.d))".to_owned(),
    ] {
        let message = refused(&job).await;
        assert!(message.contains("join that table in the query between, too"), "{job}: {message}");
    }
}
