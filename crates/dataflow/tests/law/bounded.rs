//! Where event time bounds what must be remembered, so much is held and no more, however long a job runs.
use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::{array::AsArray, datatypes::Int64Type};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    cases::{Arrival, Case, Crash, EPOCH_US, Epoch},
    dataflow,
    engine::Feed,
    judge::judge,
    queries::Generated,
    tables::{Shape, Table},
};

const EPOCHS: usize = 60;
const EPOCH_MS: i64 = 5_000;
const ROWS: usize = 700;

/// A job that reads two tables of a row every half a second for long, of which each epoch brings five seconds.
pub fn long_case(sql: &str, every_us: i64, emits_on_close: bool) -> Case {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let rows = ROWS;
    let tables: Vec<Table> = ["t0", "t1"].iter().map(|name| Table::random(name, rows, Shape::steady(), &mut rng)).collect();
    // Both tables go on at the same pace.
    let begin_ms = tables.iter().filter_map(|table| table.event_time_ms(0)).min().unwrap_or_default();
    let epoch_of = |at_ms: i64| usize::try_from((at_ms - begin_ms) / EPOCH_MS).unwrap_or_default();
    let arrival = |table: usize, row: usize| {
        let epoch = tables[table].event_time_ms(row).map_or(0, epoch_of);
        (epoch < EPOCHS).then_some(Arrival { table, row, partition: 0, epoch })
    };
    let arrivals = (0..rows).flat_map(|row| [arrival(0, row), arrival(1, row)]).flatten().collect();
    let statement = Generated {
        sql: sql.to_owned(),
        ours: sql.to_owned(),
        columns: Vec::new(),
        constructs: BTreeSet::new(),
        ends: vec![(every_us.max(1), 0)],
        closing: emits_on_close.then(|| "0".to_owned()),
    };
    Case {
        seed: 7,
        tables,
        statements: vec![statement],
        arrivals,
        epochs: vec![Epoch::default(); EPOCHS],
        lanes: 2,
        delay_ms: Some(2_000),
        allowed_ms: 0,
        partitions: 1,
        ttl_us: None,
        whole: None,
    }
}

/// What is held after each epoch.
fn held(case: &Case) -> Vec<usize> {
    let mut engine = dataflow::start(case).expect("the query is supported");
    assert!(engine.growing().is_empty(), "{:?}\n{}", engine.growing(), engine.explain());
    let mut held = vec![];
    for epoch in 0..case.epochs.len() {
        engine.run(&Feed::of(case, epoch)).expect("runs");
        engine.record().expect("records");
        held.push(engine.held());
    }
    held
}

const SECOND_US: i64 = 1_000_000;

#[test]
fn what_is_held_does_not_grow_where_event_time_bounds_it() {
    let window = "date_bin(INTERVAL '10' SECOND, ts)";
    let windowed = |table: &str| format!("(SELECT {window} AS w, k, count(*) AS n FROM {table} GROUP BY {window}, k)");
    let session = |bound: &str| format!("{bound}(ts, 400000) OVER (PARTITION BY k ORDER BY ts)");
    let sessions = format!("(SELECT k, {} AS ss, {} AS se FROM t0)", session("session_start"), session("session_end"));
    let cases = [
        ("SELECT a.id, b.id AS other FROM t0 AS a JOIN t1 AS b ON a.k = b.k AND a.ts BETWEEN b.ts - INTERVAL '10' SECOND AND b.ts".to_owned(), 0, false),
        ("SELECT a.id, b.id AS other FROM t0 AS a LEFT JOIN t1 AS b ON a.k = b.k AND b.ts <= a.ts + INTERVAL '5' SECOND AND a.ts - b.ts < INTERVAL '5' SECOND".to_owned(), 0, false),
        ("SELECT a.id FROM t0 AS a WHERE EXISTS (SELECT 1 FROM t1 AS b WHERE a.k = b.k AND b.ts >= a.ts AND b.ts < a.ts + INTERVAL '5' SECOND)".to_owned(), 0, false),
        (format!("SELECT a.w, a.k, a.n, b.n AS m FROM {} AS a FULL JOIN {} AS b ON a.w = b.w AND a.k = b.k", windowed("t0"), windowed("t1")), 10 * SECOND_US, false),
        (format!("SELECT k, lag(id) OVER (PARTITION BY {window}, k ORDER BY id) AS before FROM t0"), 10 * SECOND_US, false),
        (format!("SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY {window} ORDER BY id DESC) AS r FROM t0) WHERE r <= 3"), 10 * SECOND_US, false),
        (format!("SELECT k, ss, se, count(*) AS n FROM {sessions} GROUP BY k, ss, se"), 0, false),
        (format!("SELECT k, ss, se, count(*) AS n FROM {sessions} GROUP BY k, ss, se"), 0, true),
        (format!("SELECT a.w, a.k, b.n FROM {0} AS a JOIN (SELECT w, max(n) AS n FROM {0} GROUP BY w) AS b ON a.w = b.w AND a.n >= b.n", windowed("t0")), 10 * SECOND_US, true),
        (format!("SELECT a.w, a.k, b.n FROM {} AS a LEFT JOIN {} AS b ON a.w = b.w AND a.k = b.k", windowed("t0"), windowed("t1")), 10 * SECOND_US, true),
        ("SELECT w, count(DISTINCT k) AS n FROM (SELECT k, unnest(hop_starts(ts, 5000000, 10000000, 0)) AS w FROM t0) GROUP BY w".to_owned(), 5 * SECOND_US, true),
        (format!("SELECT {window} AS w, array_agg(id) AS x FROM t0 GROUP BY {window}"), 10 * SECOND_US, false),
        (format!("SELECT {window} AS w, array_agg(id) AS x, median(k) AS m FROM t0 GROUP BY {window}"), 10 * SECOND_US, true),
        ("SELECT w, max(k) AS n FROM (SELECT k, unnest(cumulate_ends(ts, 5000000, 10000000, 0)) AS w FROM t0) GROUP BY w".to_owned(), 5 * SECOND_US, false),
    ];
    for (sql, every_us, emits_on_close) in cases {
        let held = held(&long_case(&sql, every_us, emits_on_close));
        // Half a minute of both tables at the most, of five minutes.
        let most = held.iter().max().copied().unwrap_or_default();
        assert!(most > 0 && most <= 120, "{most} entries are held of {sql}: {held:?}");
    }
}

/// With a TTL what was not touched for so long is gone, whatever the operator.
#[test]
fn what_is_held_does_not_grow_with_a_ttl() {
    for sql in [
        "SELECT id, count(*) AS n FROM t0 GROUP BY id",
        "SELECT DISTINCT id, k FROM t0",
        "SELECT count(DISTINCT id) AS n FROM t0",
        "SELECT median(id) AS x FROM t0",
        "SELECT k, array_agg(id) AS x FROM t0 GROUP BY k",
        "SELECT string_agg(CAST(k AS VARCHAR), ',') AS x FROM t0",
        "SELECT k, count(DISTINCT id) AS n, count(*) AS c FROM t0 GROUP BY ROLLUP (k)",
        "SELECT k, median(id) AS x FROM (SELECT id, max(k) AS k FROM t0 GROUP BY id) GROUP BY ROLLUP (k)",
        "SELECT k, max(n) AS n FROM (SELECT id, k, count(*) AS n FROM t0 GROUP BY id, k) GROUP BY k",
        "SELECT a.id, b.id AS other FROM t0 AS a LEFT JOIN t1 AS b ON a.k = b.k",
        "SELECT id FROM t0 WHERE NOT EXISTS (SELECT 1 FROM t1 WHERE t0.id = t1.id)",
        "SELECT id, lag(k) OVER (PARTITION BY id ORDER BY ts) AS before FROM t0",
        "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY id ORDER BY ts) AS r FROM t0) WHERE r = 1",
    ] {
        let mut case = long_case(sql, 0, false);
        case.ttl_us = Some(5 * EPOCH_US);
        let held = held(&case);
        let most = held.iter().max().copied().unwrap_or_default();
        assert!(most > 0 && most <= 250, "{most} entries are held of {sql}: {held:?}");
    }
}

/// Of a key whose last record deletes it nothing is held, and it may come again.
#[test]
fn deleted_keys_are_not_held() {
    let of = |key: &str, gone: &str| {
        format!(
            "SELECT id, k FROM (SELECT *, last_record(gone, 'people') OVER (PARTITION BY {key} ORDER BY id DESC) AS r FROM (SELECT *, {gone} AS gone FROM t0)) WHERE r = 1 AND NOT gone"
        )
    };
    let held_at_last = |sql: &str| {
        let case = long_case(sql, 0, false);
        let mut engine = dataflow::start(&case).expect("the query is supported");
        for epoch in 0..case.epochs.len() {
            engine.run(&Feed::of(&case, epoch)).expect("runs");
            engine.record().expect("records");
        }
        engine.held()
    };
    let explained = dataflow::start(&long_case(&of("id", "id >= 0"), 0, false)).expect("the query is supported").explain();
    assert!(explained.contains("ChangelogNormalize: the rows of people by key (id)"), "{explained}");
    assert!(!explained.contains("last_record") && !explained.contains("Filter"), "{explained}");
    let chosen = of("id", "id >= 0") + " AND k > 1";
    let explained = dataflow::start(&long_case(&chosen, 0, false)).expect("the query is supported").explain();
    assert!(explained.contains("Filter: ") && !explained.contains("NOT gone"), "{explained}");
    assert_eq!(held_at_last(&of("id", "id >= 0")), 0);
    assert!(held_at_last(&of("id", "id < 0")) > 500);
    let mut case = long_case(&of("id % 40", "(id / 40) % 2 = 0"), 0, false);
    for (number, epoch) in case.epochs.iter_mut().enumerate() {
        *epoch =
            Epoch { crash: number.is_multiple_of(5).then_some(Crash::ExecutorLate { lanes: 1 + number % 3 }), is_checked: true };
    }
    let kept = judge(&case, &|case| dataflow::start(case)).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(kept.rows > 0, "{kept:?}");
}

/// A stream's rows that met a whole table are done; the table's stay, whatever the TTL.
#[test]
fn what_is_joined_with_a_whole_table_is_not_held() {
    for sql in [
        "SELECT a.id, b.id AS other FROM t0 AS a JOIN t1 AS b ON a.k = b.k",
        "SELECT a.id, b.id AS other FROM t1 AS b RIGHT JOIN t0 AS a ON a.k = b.k AND a.id < b.id",
        "SELECT id FROM t0 WHERE k NOT IN (SELECT k FROM t1 WHERE id > 5)",
        "SELECT id FROM t0 WHERE EXISTS (SELECT 1 FROM (SELECT k, count(*) AS n FROM t1 GROUP BY k) AS c WHERE c.k = t0.k AND c.n > t0.id)",
    ] {
        for ttl_us in [None, Some(5 * EPOCH_US)] {
            let mut case = long_case(sql, 0, false);
            (case.whole, case.ttl_us) = (Some(1), ttl_us);
            case.arrivals.iter_mut().filter(|arrival| arrival.table == 1).for_each(|arrival| arrival.epoch = 0);
            let held = held(&case);
            assert!(held[0] > 0 && held.iter().all(|now| *now == held[0]), "{sql}: {held:?}");
        }
    }
}

/// A group that is gone begins anew; one that was touched within the TTL goes on. Also after a reload.
#[test]
fn a_group_ends_so_long_after_its_last_change() {
    let mut case = long_case("SELECT k, count(*) AS n FROM t0 GROUP BY k", 0, false);
    case.arrivals.retain(|arrival| arrival.table == 0);
    let row = case.arrivals[0].row;
    // One key: in these epochs.
    case.arrivals = [0, 4, 8, 20].map(|epoch| Arrival { table: 0, row, partition: 0, epoch }).to_vec();
    case.ttl_us = Some(5 * EPOCH_US);
    for reloads in [false, true] {
        let mut engine = dataflow::start(&case).expect("the query is supported");
        let mut answers = vec![];
        for epoch in 0..=20 {
            let ran = engine.run(&Feed::of(&case, epoch)).expect("runs");
            engine.record().expect("records");
            if reloads {
                engine.reload(1 + epoch % 3).expect("reloads");
            }
            for (batch, weights) in ran.deltas.into_iter().flatten() {
                let counts = batch.column(1).as_primitive::<Int64Type>().values().to_vec();
                answers.extend(counts.into_iter().zip(weights).map(|(count, weight)| (epoch, count, weight)));
            }
        }
        assert_eq!(answers, [(0, 1, 1), (4, 1, -1), (4, 2, 1), (8, 2, -1), (8, 3, 1), (20, 1, 1)]);
        assert_eq!(engine.held(), 1);
    }
}

/// Values that are remembered end one by one with a TTL, and what came out of them before is taken back as it was. Also after a reload.
#[test]
fn answers_over_values_that_end_are_taken_back_as_they_came_out() {
    for sql in [
        "SELECT max(id) AS n, median(id) AS x FROM t0",
        "SELECT max(id) AS n, array_agg(id) AS x FROM t0",
        "SELECT k, max(id) AS n, array_agg(id) AS x FROM t0 GROUP BY k",
        "SELECT k, max(id) AS n, string_agg(CAST(k AS VARCHAR), ',') AS x FROM t0 GROUP BY ROLLUP (k)",
        "SELECT max(id) AS n, min(id) AS x FROM (SELECT id, max(k) AS k FROM t0 GROUP BY id)",
        "SELECT k, count(*) AS n, median(id) AS x FROM (SELECT id, max(k) AS k FROM t0 GROUP BY id) GROUP BY k",
        "SELECT k, first_value(id ORDER BY id) AS n FROM (SELECT id, max(k) AS k FROM t0 GROUP BY id) GROUP BY ROLLUP (k)",
    ] {
        for reloads in [false, true] {
            let mut case = long_case(sql, 0, false);
            case.ttl_us = Some(5 * EPOCH_US);
            let mut engine = dataflow::start(&case).expect("the query is supported");
            let mut rows: BTreeMap<String, i64> = BTreeMap::new();
            for epoch in 0..case.epochs.len() {
                let ran = engine.run(&Feed::of(&case, epoch)).expect("runs");
                engine.record().expect("records");
                if reloads {
                    engine.reload(1 + epoch % 3).expect("reloads");
                }
                for (batch, weights) in ran.deltas.into_iter().flatten() {
                    for (row, weight) in weights.into_iter().enumerate() {
                        *rows.entry(format!("{:?}", batch.slice(row, 1).columns())).or_default() += weight;
                    }
                }
                assert!(rows.values().all(|weight| *weight >= 0), "{sql}: {rows:?}");
                rows.retain(|_, weight| *weight > 0);
            }
            assert!(!rows.is_empty(), "{sql}");
        }
    }
}

/// So that the tests above can fail: what nothing bounds is held.
#[test]
fn what_nothing_bounds_is_said_to_grow() {
    for sql in [
        "SELECT a.id, b.id AS other FROM t0 AS a JOIN t1 AS b ON a.k = b.k AND a.ts >= b.ts - INTERVAL '10' SECOND",
        "SELECT a.id, b.id AS other FROM t0 AS a JOIN t1 AS b ON a.k = b.k",
        "SELECT k, lag(id) OVER (PARTITION BY k ORDER BY id) AS before FROM t0",
        "SELECT median(id) AS x FROM t0",
        "SELECT array_agg(id) AS x FROM t0",
        "SELECT string_agg(CAST(k AS VARCHAR), ',' ORDER BY id) AS x FROM t0",
        "SELECT count(DISTINCT id) AS x FROM t0",
    ] {
        let case = long_case(sql, 0, false);
        let engine = dataflow::start(&case).expect("the query is supported");
        assert_eq!(engine.growing().len(), 1, "{sql}");
    }
}
