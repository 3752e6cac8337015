//! What the columns of a query are called.
use super::{contents::rows, *};

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
