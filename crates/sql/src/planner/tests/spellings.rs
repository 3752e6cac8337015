//! What can be written in several ways, and is answered alike.
use super::{contents::rows, *};

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
async fn groups_may_be_a_column_and_casts_of_it() {
    let sql = "SELECT a, CAST(a AS STRING) AS s, count(*) AS n FROM (VALUES (1), (2), (1)) AS t (a) GROUP BY a, CAST(a AS STRING) ORDER BY a";
    assert_eq!(rows(sql).await, "1 1 2\n2 2 1");
    plan("other SELECT CAST(v AS STRING) AS s, count(*) AS n FROM u GROUP BY v, CAST(v AS STRING)").await.unwrap();
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
