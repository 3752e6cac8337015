//! Rows that come at the end of a partition, the short way and the whole way.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use arrow::{
    array::{Float64Array, Int32Array},
    datatypes::{Field, Schema},
};
use datafusion::{
    datasource::MemTable,
    execution::SessionStateBuilder,
    physical_expr::expressions::Column,
    physical_plan::PhysicalExpr,
    prelude::{SessionConfig, SessionContext},
};
use polybolos_sql::{functions::register, planner::job_config};
use polybolos_state::{JobState, Passed, TableSpec};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{graph::windows_of, planning};

/// Partition, order, and two values.
type Row = (i32, Option<i64>, Option<i64>, f64);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int32, false),
        Field::new("ts", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
        Field::new("f", DataType::Float64, false),
    ]))
}

/// The operator of windows over the table, each with what follows its order: a frame.
fn window(functions: &[(&str, &str)], direction: &str) -> Window {
    let windows: Vec<String> = functions
        .iter()
        .map(|(function, frame)| format!("{function} OVER (PARTITION BY k ORDER BY ts {direction} {frame})"))
        .collect();
    let sql = format!("SELECT *, {} FROM t", windows.join(", "));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let plan = runtime.block_on(async {
        let config = job_config(SessionConfig::new(), 1);
        let mut session = SessionStateBuilder::new().with_config(config).with_default_features().build();
        register(&mut session).unwrap();
        let context = SessionContext::new_with_state(session);
        context.register_table("t", Arc::new(MemTable::try_new(schema(), vec![vec![]]).unwrap())).unwrap();
        let logical = context.sql(&sql).await.unwrap().into_optimized_plan().unwrap();
        planning::plan(&context.state(), &logical).await.unwrap()
    });
    let mut node = plan;
    while windows_of(&node).is_none() {
        let child = node.children()[0].clone();
        node = child;
    }
    let (input, expressions) = windows_of(&node).unwrap();
    assert_eq!((expressions.len(), input.schema().fields().len()), (functions.len(), 4), "one operator has all of {sql}");
    let column = |expression: &Arc<dyn PhysicalExpr>| expression.downcast_ref::<Column>().unwrap().index();
    let rows = SortedRows {
        schema: input.schema(),
        columns: 4,
        partition: expressions[0].partition_by().iter().map(column).collect(),
        order: expressions[0].order_by().iter().map(|sort| (column(&sort.expr), sort.options)).collect(),
        times: vec![],
    };
    let resuming = Resuming::of(expressions, &rows);
    let appends = if resuming.is_some() { None } else { Appends::of(expressions, &rows.schema) };
    Window { rows, expressions: expressions.to_vec(), session: None, appends, resuming, output: node.schema() }
}

fn delta(rows: &[(Row, i64)]) -> Delta {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|(row, _)| row.0).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|(row, _)| row.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|(row, _)| row.2).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|(row, _)| row.3).collect::<Float64Array>()),
    ];
    let weights = rows.iter().map(|(_, weight)| *weight).collect::<Int64Array>();
    Delta::weighted(RecordBatch::try_new(schema(), columns).unwrap(), weights)
}

/// An operator with its state, and all that came out of it.
struct Running {
    window: Window,
    state: JobState,
    answer: BTreeMap<Vec<u8>, i64>,
}

impl Running {
    fn new(window: Window) -> Self {
        let tables: Vec<TableSpec> = window.tables().into_iter().map(TableSpec::from).collect();
        Self { window, state: JobState::new(&tables, 1), answer: BTreeMap::new() }
    }

    /// With a TTL, of microseconds by the clock.
    fn with_ttl(window: Window) -> Self {
        let tables: Vec<TableSpec> = window.tables().into_iter().map(|kind| TableSpec { kind, has_ttl: true }).collect();
        Self { window, state: JobState::new(&tables, 1), answer: BTreeMap::new() }
    }

    fn begin(&mut self, clock_us: i64, ttl_us: i64) {
        self.state.begin(Passed { watermark_us: None, clock_us: Some(clock_us) }, Some(ttl_us)).unwrap();
    }

    /// How many of the partitions of a delta are computed the short way.
    fn short(&mut self, delta: &Delta) -> usize {
        self.looked_at(delta).into_iter().flatten().count()
    }

    /// Of each partition of a delta, how many rows that are there have to be computed again; `None`: all.
    fn looked_at(&mut self, delta: &Delta) -> Vec<Option<usize>> {
        let deltas = [delta.clone()];
        let encoded = self.window.rows.encode(&deltas).unwrap();
        let (rows, prefixes) = self.state.lanes_mut()[0].tables.split_at_mut(1);
        let (table, prefixes) = (buckets(&mut rows[0]), prefixes.first_mut().map(values));
        let looked_at = |partition: &Partition<'_>| {
            let tail = self.window.tail(table, prefixes.as_deref(), partition.key, &partition.rows).unwrap();
            let appended = || self.window.appended(table, partition.key, &partition.rows).map(|_| 0);
            tail.map(|tail| tail.rows.len()).or_else(appended)
        };
        encoded.partitions().iter().map(looked_at).collect()
    }

    /// The weights of what came out.
    fn run(&mut self, delta: Delta, is_recorded: bool) -> Vec<i64> {
        let failed = Mutex::default();
        let context = EpochContext { watermark_us: None, lane: 0, lanes: 1, node: 0, failed: &failed };
        let tables = &mut self.state.lanes_mut()[0].tables;
        let changes = self.window.step(&context, tables, vec![vec![delta]]).unwrap();
        assert_eq!(failed.lock().unwrap().len(), 0);
        if !is_recorded {
            self.state.discard();
            return vec![];
        }
        self.state.commit();
        let format = RowFormat::of(self.window.output.fields()).unwrap();
        let mut weights = vec![];
        for change in changes {
            let rows = format.encode(change.batch().columns()).unwrap();
            for row in 0..change.rows() {
                *self.answer.entry(rows.row(row).to_vec()).or_default() += change.weight(row);
                weights.push(change.weight(row));
            }
        }
        self.answer.retain(|_, weight| *weight != 0);
        weights
    }
}

/// Rows of an epoch, most of which come behind all others of their partition. `kept`: those that are there.
fn epoch(rng: &mut ChaCha8Rng, clock: i64, is_descending: bool, kept: &[Row]) -> Vec<(Row, i64)> {
    let later = |time: i64| if is_descending { -time } else { time };
    let mut rows = vec![];
    for _ in 0..rng.random_range(1..6) {
        let time = match rng.random_range(0..40) {
            0 => None,
            1 => Some(later(rng.random_range(0..=clock))),
            _ => Some(later(clock + rng.random_range(1..4))),
        };
        let value = Some(rng.random_range(-3..4)).filter(|value| *value != 0);
        let float = *[0.1, 0.7, -0.3, 1e16, -0.0, 5e-324].choose(rng).unwrap();
        let weight = if rng.random_range(0..10) == 0 { 2 } else { 1 };
        rows.push(((rng.random_range(0..3), time, value, float), weight));
    }
    if let Some(gone) = kept.choose(rng).filter(|_| rng.random_range(0..12) == 0) {
        rows.push((*gone, -1));
    }
    rows
}

/// Answers how many partitions were computed the short way, and how many in all.
fn compare(functions: &[(&str, &str)], direction: &str, seed: u64) -> (usize, usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut short = Running::new(window(functions, direction));
    let mut whole = Running::new(Window { appends: None, resuming: None, ..window(functions, direction) });
    let mut kept: Vec<Row> = vec![];
    let (mut found, mut of) = (0, 0);
    for number in 0..60 {
        // Those of one epoch may have the time of the last ones before it.
        let rows = epoch(&mut rng, number * 2, direction == "DESC", &kept);
        let is_recorded = rng.random_range(0..8) > 0;
        let partitions = rows.iter().map(|(row, _)| row.0).collect::<BTreeSet<_>>().len();
        let shorts = short.short(&delta(&rows));
        let weights = short.run(delta(&rows), is_recorded);
        whole.run(delta(&rows), is_recorded);
        assert_eq!(short.answer, whole.answer, "seed {seed}, epoch {number}, {functions:?}");
        (found, of) = (found + shorts, of + partitions);
        if !is_recorded {
            continue;
        }
        if shorts == partitions && short.window.appends.is_some() {
            let added: i64 = rows.iter().map(|(_, weight)| weight).sum();
            assert_eq!(weights, vec![1; added as usize], "only the new rows come out");
        }
        for (row, weight) in rows {
            match usize::try_from(weight) {
                Ok(times) => kept.extend(std::iter::repeat_n(row, times)),
                Err(_) => _ = kept.swap_remove(kept.iter().position(|known| *known == row).unwrap()),
            }
        }
    }
    (found, of)
}

const LAST_THREE: &str = "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW";

#[test]
fn rows_behind_all_others_are_computed_alone_and_the_answer_is_the_same() {
    let of_some_rows = [
        ("row_number()", ""),
        ("lag(v, 2, 7)", ""),
        ("lag(v + 1)", ""),
        ("sum(v)", LAST_THREE),
        ("count(v)", "ROWS 1 PRECEDING"),
        ("max(v)", "ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING"),
        ("first_value(f)", LAST_THREE),
    ];
    let of_all_rows = [
        ("row_number()", ""),
        ("rank()", ""),
        ("dense_rank()", ""),
        ("lag_ignore_nulls(v, 1)", ""),
        ("sum(f)", LAST_THREE),
        ("sum(f)", "ROWS UNBOUNDED PRECEDING"),
        ("avg(v)", LAST_THREE),
    ];
    let of_totals = [
        ("sum(v)", ""),
        ("sum(f)", ""),
        ("avg(f)", ""),
        ("count(*)", ""),
        ("min(f)", ""),
        ("max(v)", "GROUPS UNBOUNDED PRECEDING"),
        ("sum(f)", "ROWS UNBOUNDED PRECEDING"),
        ("min(v)", "ROWS UNBOUNDED PRECEDING"),
        ("rank()", ""),
        ("dense_rank()", ""),
        ("lag(v, 2)", ""),
        ("max(v)", "ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING"),
    ];
    for functions in
        [&of_some_rows[..], &of_some_rows[1..], &of_all_rows[..], &of_totals[..], &of_totals[..1], &[("row_number()", "")]]
    {
        for direction in ["", "DESC"] {
            let (mut short, mut all) = (0, 0);
            for seed in 0..12 {
                let (found, of) = compare(functions, direction, seed);
                (short, all) = (short + found, all + of);
            }
            assert!(short > all / 4 && short < all, "{short} of {all} partitions, {functions:?} {direction}");
        }
    }
}

#[test]
fn so_many_rows_before_new_ones_are_looked_at() {
    let all = usize::MAX;
    let appends = |functions: &[(&str, &str)]| {
        let window = window(functions, "");
        Appends::of(&window.expressions, &window.rows.schema)
    };
    let rows = |function: &str, frame: &str| appends(&[(function, frame)]).map(|appends| appends.context);
    for (function, frame, expected) in [
        ("row_number()", "", Some(0)),
        ("lag(v)", "", Some(1)),
        ("lag(f, 3, 0.5)", "", Some(3)),
        ("lag(v * 2 + 1, 2)", "", Some(2)),
        ("lag(CASE WHEN v > 1 AND f < 3 THEN v END)", "", Some(1)),
        ("lag(10 / v)", "", Some(1)),
        ("lag(v > 0 AND 10 / v > 1)", "", None),
        ("lag(v, -1)", "", None),
        ("lead(v)", "", None),
        ("rank()", "", Some(all)),
        ("percent_rank()", "", None),
        ("ntile(2)", "", None),
        ("sum(v)", LAST_THREE, Some(2)),
        ("count(*)", "ROWS 1 PRECEDING", Some(1)),
        ("min(v)", "ROWS BETWEEN 4 PRECEDING AND 2 PRECEDING", Some(4)),
        ("last_value(v)", "ROWS BETWEEN CURRENT ROW AND CURRENT ROW", Some(0)),
        ("sum(f)", LAST_THREE, Some(all)),
        ("max(f)", LAST_THREE, Some(all)),
        ("sum(v)", "ROWS UNBOUNDED PRECEDING", Some(all)),
        ("sum(v)", "", None),
        ("sum(v)", "RANGE BETWEEN 5 PRECEDING AND CURRENT ROW", None),
        ("sum(v)", "ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING", None),
        ("sum(CAST(v AS DECIMAL(38, 0)))", LAST_THREE, None),
        ("max(CAST(v AS DECIMAL(38, 0)))", LAST_THREE, Some(2)),
    ] {
        assert_eq!(rows(function, frame), expected, "{function} {frame}");
    }
    let both = appends(&[("lag(v, 4)", ""), ("count(v)", LAST_THREE), ("row_number()", "")]).unwrap();
    assert_eq!((both.context, both.numbers), (4, vec![2]));
    assert!(appends(&[("lag(v)", ""), ("lead(v)", "")]).is_none());
}

#[test]
fn what_rows_in_front_add_up_to_is_kept_where_it_can_be_gone_on_with() {
    for (functions, expected) in [
        (&[("sum(v)", "")][..], Some(0)),
        (&[("avg(f)", ""), ("lag(v, 3)", "")][..], Some(3)),
        (&[("rank()", ""), ("count(v)", LAST_THREE)][..], Some(2)),
        (&[("sum(v * 2)", "ROWS UNBOUNDED PRECEDING")][..], Some(0)),
        (&[("min(ts)", "GROUPS UNBOUNDED PRECEDING"), ("row_number()", "")][..], Some(0)),
        // Nothing is to be kept.
        (&[("lag(v)", "")][..], None),
        // Not known to go on as if nothing had been cut.
        (&[("stddev(f)", "")][..], None),
        (&[("sum(CAST(v AS DECIMAL(38, 0)))", "")][..], None),
        (&[("count(DISTINCT v)", "")][..], None),
        (&[("sum(v) FILTER (WHERE v > 1)", "")][..], None),
        (&[("sum(v)", ""), ("sum(f)", LAST_THREE)][..], None),
        // What comes behind changes them.
        (&[("sum(v)", "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING")][..], None),
        (&[("sum(v)", ""), ("lead(v)", "")][..], None),
        (&[("rank()", ""), ("ntile(2)", "")][..], None),
    ] {
        let resuming = window(functions, "").resuming;
        assert_eq!(resuming.map(|resuming| resuming.context), expected, "{functions:?}");
    }
}

/// Whatever the length of their partition.
#[test]
fn at_the_end_of_a_partition_rows_take_the_last_peers_and_those_in_front_that_they_need() {
    let row = |time: i64, value: i64| (1, Some(time), Some(value), 0.5);
    let long: Vec<(Row, i64)> = (0..2_000).map(|time| (row(time, 1), 1)).collect();
    for (functions, context) in [
        (&[("sum(v)", "")][..], 0),
        (&[("sum(f)", "ROWS UNBOUNDED PRECEDING"), ("rank()", ""), ("row_number()", ""), ("lag(v, 2)", "")][..], 2),
    ] {
        let mut running = Running::new(window(functions, ""));
        let mut whole = Running::new(Window { appends: None, resuming: None, ..window(functions, "") });
        running.run(delta(&long), true);
        whole.run(delta(&long), true);
        for (rows, peers) in [
            (vec![(row(3_000, 2), 1)], Some(1)),
            (vec![(row(4_001, 2), 1), (row(4_000, 2), 1)], Some(1)),
            // Another of the last peers, and one more beside rows behind them.
            (vec![(row(4_001, 3), 1)], Some(1)),
            (vec![(row(4_001, 1), 1), (row(4_002, 1), 2)], Some(2)),
            // The last peers change, and go.
            (vec![(row(4_002, 1), -1), (row(4_002, 7), 1)], Some(2)),
            (vec![(row(4_002, 1), -1), (row(4_002, 7), -1)], Some(2)),
            (vec![(row(4_003, 1), 1)], Some(0)),
            // Late rows, and what goes before the end.
            (vec![(row(500, 9), 1)], None),
            (vec![(row(4_004, 1), 1)], Some(1)),
            (vec![(row(4_000, 2), -1), (row(4_005, 1), 1)], None),
            (vec![(row(4_006, 1), 1)], Some(1)),
        ] {
            let expected: Option<usize> = peers.map(|peers: usize| peers + context);
            assert_eq!(running.looked_at(&delta(&rows)), vec![expected], "{functions:?} {rows:?}");
            running.run(delta(&rows), true);
            whole.run(delta(&rows), true);
            assert_eq!(running.answer, whole.answer, "{functions:?} {rows:?}");
        }
    }
    let mut running = Running::new(window(&[("sum(v)", "")], ""));
    running.run(delta(&long), true);
    assert_eq!(running.run(delta(&[(row(3_000, 2), 1)]), true), [1], "nothing else comes out");
    let mut weights = running.run(delta(&[(row(3_000, 5), 1)]), true);
    weights.sort_unstable();
    assert_eq!(weights, [-1, 1, 1], "nor does but for a peer whose sum changes");
    running.run(delta(&[(row(3_000, 2), -1), (row(3_000, 5), -1)]), true);
    let all: Vec<(Row, i64)> = long.iter().map(|(row, _)| (*row, -1)).collect();
    running.run(delta(&all), true);
    assert!(running.answer.is_empty() && running.state.entries() == 0, "of a partition without rows nothing is kept");
}

/// With a TTL all rows of a partition end together, at one of a few times.
#[test]
fn with_a_ttl_a_partition_is_computed_whole_only_when_its_end_moves_on() {
    for functions in [&[("lag(v)", "")][..], &[("sum(v)", "")]] {
        let mut running = Running::with_ttl(window(functions, ""));
        let row = |time: i64| delta(&[((1, Some(time), Some(1), 0.0), 1)]);
        for (clock_us, is_short) in [(1, None), (5, Some(true)), (11, Some(false)), (20, Some(true)), (300, Some(false))] {
            running.begin(clock_us, 640);
            if let Some(is_short) = is_short {
                assert_eq!(running.short(&row(clock_us)), usize::from(is_short), "{functions:?} at {clock_us}");
            }
            running.run(row(clock_us), true);
        }
        let prefixes = running.window.tables().len() - 1;
        for (clock_us, entries) in [(900, 5 + prefixes), (940, 0)] {
            running.begin(clock_us, 640);
            running.state.commit();
            assert_eq!(running.state.entries(), entries, "all stay as long, {functions:?} at {clock_us}");
        }
    }
}

/// What is not at the end of its partition, or not only added, changes rows that are there.
#[test]
fn other_rows_go_the_whole_way() {
    let mut running = Running::new(window(&[("lag(v)", "")], ""));
    let row = |time: i64, value: i64| (1, Some(time), Some(value), 0.0);
    running.run(delta(&[(row(10, 1), 1), (row(20, 2), 1)]), true);
    for (rows, expected) in [
        (vec![(row(30, 1), 1)], 1),
        (vec![(row(40, 1), 1), (row(30, 1), 2)], 1),
        (vec![((2, Some(0), None, 0.0), 1)], 1),
        (vec![(row(15, 1), 1)], 0),
        (vec![(row(20, 1), 1)], 0),
        (vec![(row(20, 2), 1)], 0),
        (vec![(row(30, 1), 1), (row(20, 2), -1)], 0),
        (vec![(row(30, 1), 1), (row(30, 1), -1)], 0),
    ] {
        assert_eq!(running.short(&delta(&rows)), expected, "{rows:?}");
    }
}
