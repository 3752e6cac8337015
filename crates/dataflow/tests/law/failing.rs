//! An expression that fails above a join or an aggregate takes away the row that it fails on, and nothing else.
use datafusion::arrow::{array::AsArray, datatypes::Int64Type};

use super::{
    bounded::long_case,
    cases::{Arrival, Epoch},
    changes::Answer,
    dataflow,
    engine::Feed,
};

/// What comes out of a table's first rows, a few per epoch, and what fails meanwhile.
fn run(sql: &str, keys: &[i32]) -> (Answer, Vec<String>, Vec<(i64, i64)>) {
    let mut case = long_case(sql, 0, false);
    case.arrivals = (0..keys.len()).map(|row| Arrival { table: 0, row, partition: 0, epoch: row / 2 }).collect();
    case.epochs = vec![Epoch::default(); keys.len().div_ceil(2)];
    for (row, key) in keys.iter().enumerate() {
        case.tables[0].rows[row][1] = super::tables::Value::Int(*key);
    }
    let mut engine = dataflow::start(&case).expect("the query is supported");
    let (mut answer, mut failed, mut changes) = (Answer::default(), vec![], vec![]);
    for epoch in 0..case.epochs.len() {
        let ran = engine.run(&Feed::of(&case, epoch)).expect("a row that fails stops nothing");
        engine.record().expect("records");
        for (batch, weights) in ran.deltas.iter().flatten() {
            answer.add(batch, weights).expect("one query has one schema");
            changes.extend(batch.column(0).as_primitive::<Int64Type>().values().iter().copied().zip(weights.iter().copied()));
        }
        failed.extend(ran.failed);
    }
    (answer, failed, changes)
}

/// What would fail in every epoch is told when the job is made.
#[test]
fn what_nothing_can_evaluate_is_refused() {
    for (sql, reason) in [
        ("SELECT k, approx_percentile_cont(id, 1.5) AS p FROM t0 GROUP BY k", "between 0.0 and 1.0"),
        ("SELECT k, approx_percentile_cont(id, 1.5) AS p FROM (SELECT DISTINCT k, id FROM t0) GROUP BY k", "between 0.0 and 1.0"),
        ("SELECT k, min(map(['a'], [id])) AS m FROM t0 GROUP BY k", "maps have no order"),
        ("SELECT k, max(map(['a'], [id])) OVER (PARTITION BY k) AS m FROM t0", "maps have no order"),
    ] {
        let error = dataflow::start(&long_case(sql, 0, false)).err().unwrap_or_default();
        assert!(error.contains(reason), "{sql}: {error:?}");
    }
    assert!(dataflow::start(&long_case("SELECT k, approx_percentile_cont(id, 0.5) AS p FROM t0 GROUP BY k", 0, false)).is_ok());
}

/// The row is there before its divisor is zero, and after.
#[test]
fn what_fails_above_an_aggregate_is_set_aside_and_comes_back() {
    let (answer, failed, changes) = run("SELECT 100 / (count(*) - 3) AS x FROM t0 GROUP BY k", &[1, 1, 1, 7, 1, 7]);
    // Of key 1 there are 2, 3 and 4 rows; of key 7 one and two.
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].contains("by zero"), "{failed:?}");
    assert!(changes.contains(&(-100, 1)) && changes.contains(&(-100, -1)), "{changes:?}");
    assert_eq!(answer.len(), 2);
    let last: i64 = changes.iter().map(|(x, weight)| x * weight).sum();
    assert_eq!(last, 100 - 100);
}

#[test]
fn what_an_aggregate_would_fail_on_is_set_aside_in_front_of_it() {
    let (_, failed, changes) = run("SELECT sum(10 / k) AS x FROM (SELECT DISTINCT k FROM t0)", &[1, 0, 2, 0, 5, 10]);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(changes.iter().map(|(x, weight)| x * weight).sum::<i64>(), 10 + 5 + 2 + 1, "{changes:?}");
}

/// Keys of grouping sets, times beyond all years and patterns that are none, too.
#[test]
fn what_an_aggregate_or_a_window_would_fail_on_is_set_aside_whatever_it_is() {
    let time = "arrow_cast(id * 9000000000000000, 'Timestamp(Millisecond, None)')";
    let rows = format!("SELECT id, k, {time} AS t, CASE WHEN k = 0 THEN '(' ELSE 'x' END AS p FROM t0");
    for (sql, reason) in [
        ("SELECT count(*) AS n FROM t0 GROUP BY ROLLUP (10 / k)".to_owned(), "by zero"),
        (format!("SELECT count(*) AS n, max(t + INTERVAL '1' DAY) AS x FROM ({rows})"), "out of range"),
        (format!("SELECT count(*) FILTER (WHERE 'x' ~ p) AS n FROM ({rows})"), "Regular expression did not compile"),
        (format!("SELECT count('x' ~ p) OVER () AS n FROM ({rows})"), "Regular expression did not compile"),
    ] {
        let (answer, failed, _) = run(&sql, &[0, 5]);
        assert!(failed.len() == 1 && failed[0].contains(reason), "{sql}: {failed:?}");
        assert!(answer.len() > 0, "{sql}");
    }
}

/// The sum fits, and the average with its four places more does not, until another row makes it small.
#[test]
fn a_group_whose_result_does_not_fit_is_set_aside_and_comes_back() {
    let sql = "SELECT count(*) AS n, avg(CAST(k AS DECIMAL(38, 10)) * CAST('100000000000000000000' AS DECIMAL(21, 0))) AS x FROM t0 GROUP BY k % 2";
    let (answer, failed, _) = run(sql, &[70_000, 1]);
    assert_eq!((failed.len(), answer.len()), (1, 1), "{failed:?}");
    assert!(failed[0].contains("does not fit into DECIMAL"), "{failed:?}");
    let (answer, failed, _) = run(sql, &[70_000, 1, -69_998, 3]);
    assert_eq!((failed.len(), answer.len()), (1, 2), "{failed:?}");
}

/// The same of rows that change: twice 6e37 is too much for the type until another row makes it small, and twice 9e37 for what is kept,
/// for good. Other groups go on.
#[test]
fn a_group_of_changing_rows_whose_sum_does_not_fit_is_set_aside() {
    let large = "CAST(k AS DECIMAL(38, 10)) * CAST('100000000000000000000' AS DECIMAL(21, 0))";
    let sql = format!("SELECT count(*) AS n, sum({large}) AS x FROM (SELECT DISTINCT id, k FROM t0) GROUP BY k % 2");
    for (key, rows, said, (failures, expected)) in [
        (60_000_000, 4, "does not fit into DECIMAL(38, 10)", (1, 1)),
        (60_000_000, 6, "does not fit into DECIMAL(38, 10)", (1, 2)),
        (90_000_000, 4, "more than 38 digits", (1, 1)),
        (90_000_000, 6, "more than 38 digits", (2, 1)),
    ] {
        let (answer, failed, _) = run(&sql, &[key, 1, key, 3, -key, 5][..rows]);
        assert_eq!((failed.len(), answer.len()), (failures, expected), "{rows} rows of {key}: {failed:?}");
        assert!(failed[0].contains(said), "{failed:?}");
    }
}

/// Two times 9e37 are too much for a partition, until a third row makes it less.
#[test]
fn a_partition_whose_window_does_not_fit_is_set_aside_and_comes_back() {
    let large = "CAST(k AS DECIMAL(38, 10)) * CAST('100000000000000000000' AS DECIMAL(21, 0))";
    let of = |frame: &str| format!("SELECT id, sum({large}) OVER (PARTITION BY k % 2 {frame}) AS x FROM t0");
    let keys = [90_000_000, 1, 90_000_000, 3, -90_000_000, 5];
    for (frame, rows, expected) in [("", 4, 2), ("", 6, 6), ("ORDER BY k DESC ROWS 1 PRECEDING", 4, 2)] {
        let (answer, failed, _) = run(&of(frame), &keys[..rows]);
        assert_eq!((failed.len(), answer.len()), (1, expected), "{rows} rows, {frame}: {failed:?}");
        assert!(failed[0].contains("does not fit into DECIMAL(38, 10)"), "{failed:?}");
    }
}

/// A pair of rows on which the condition fails is no match, and told once; its rows match others.
#[test]
fn what_a_join_s_condition_fails_on_is_set_aside() {
    let sql = "SELECT count(*) AS x FROM (SELECT DISTINCT k FROM t0) AS a JOIN (SELECT DISTINCT k + 0 AS k FROM t0) AS b ON 10 / (a.k + b.k - 3) > 0";
    let (_, failed, changes) = run(sql, &[1, 5, 2, 6]);
    assert_eq!(failed.len(), 2, "of 1 and 2, and of 2 and 1: {failed:?}");
    assert!(failed.iter().all(|error| error.contains("by zero")), "{failed:?}");
    // Of the sixteen pairs, those whose sum is more than 3 and at most 13.
    assert_eq!(changes.iter().map(|(x, weight)| x * weight).sum::<i64>(), 13, "{changes:?}");
}
