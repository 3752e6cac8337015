//! Functions over rows: their partitions, orders and frames.
use super::{contents::rows, *};

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
