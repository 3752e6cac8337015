//! Windows of time, and event time on its way through a plan.
use super::{contents::rows, *};

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
