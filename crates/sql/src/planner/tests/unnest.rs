//! Rows of arrays and maps.
use super::{contents::rows, *};

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
        ("SELECT v, a FROM t, LATERAL TABLE(UNNEST(MAP['p', v])) AS x (a, n) WHERE n > 3 ORDER BY v", "4 p\n5 p"),
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
