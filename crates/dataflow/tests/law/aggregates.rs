//! Every aggregate that a query can name: DataFusion's, ours, and one as users register. Each is refused by name, or keeps the
//! law over rows that are only added and over rows that change, whatever the cuts and crashes.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray},
        datatypes::{DataType, Int64Type},
    },
    common::{Result as DataFusionResult, ScalarValue},
    logical_expr::{Accumulator, AggregateUDF, Volatility, create_udaf},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    bounded::long_case,
    cases::{Case, Crash, Epoch},
    dataflow,
    judge::judge,
    oracle,
};

/// Of each aggregate, calls that have one answer in whichever order rows come. Those of distinct values are beside another
/// DISTINCT where DataFusion would otherwise make groups of the values first.
const CALLS: &[(&str, &[&str])] = &[
    ("any_value", &["any_value(g * 2)", "any_value(CASE WHEN s = 'a' THEN g END)"]),
    ("approx_distinct", &["approx_distinct(b)", "approx_distinct(s)", "approx_distinct(f)"]),
    // Of less than some fifty values these know each; of more their answer depends on how they came.
    ("approx_median", &["approx_median(b)"]),
    ("approx_percentile_cont", &["approx_percentile_cont(0.25) WITHIN GROUP (ORDER BY b)"]),
    ("approx_percentile_cont_with_weight", &["approx_percentile_cont_with_weight(1 + id / 12 % 2, 0.5) WITHIN GROUP (ORDER BY b)"]),
    (
        "array_agg",
        &[
            "array_sort(array_agg(b))",
            "array_agg(s ORDER BY id DESC)",
            "array_sort(array_agg(DISTINCT b % 5)) AS y, sum(DISTINCT d)",
        ],
    ),
    ("avg", &["avg(b)", "avg(d)", "avg(DISTINCT b)"]),
    ("bit_and", &["bit_and(b)", "bit_and(CAST(d AS INT) - 1)"]),
    ("bit_or", &["bit_or(b)", "bit_or(CAST(d AS INT))"]),
    ("bit_xor", &["bit_xor(b)", "bit_xor(CAST(b AS SMALLINT))", "bit_xor(DISTINCT b % 5) AS y, sum(DISTINCT d)"]),
    ("bool_and", &["bool_and(f)"]),
    ("bool_or", &["bool_or(f)"]),
    ("corr", &["corr(d, b)"]),
    ("count", &["count(*)", "count(b)", "count(DISTINCT s)"]),
    ("covar_pop", &["covar_pop(d, b)"]),
    ("covar_samp", &["covar_samp(d, b)"]),
    ("first_value", &["first_value(b ORDER BY id)", "first_value(s ORDER BY d, id)", "first_value(b ORDER BY id) IGNORE NULLS"]),
    ("grouping", &["CAST(grouping(g) AS BIGINT)"]),
    ("last_value", &["last_value(b ORDER BY id)", "last_value(s ORDER BY d, id)", "last_value(s ORDER BY b DESC NULLS LAST, id)"]),
    ("max", &["max(b)", "max(d)", "max(s)"]),
    ("median", &["median(b)", "median(d)", "median(DISTINCT d) AS y, count(DISTINCT s)"]),
    ("min", &["min(b)", "min(d)", "min(s)"]),
    ("percentile_cont", &["percentile_cont(0.3) WITHIN GROUP (ORDER BY d)"]),
    ("regr_avgx", &["regr_avgx(d, b)"]),
    ("regr_avgy", &["regr_avgy(d, b)"]),
    ("regr_count", &["regr_count(d, b)"]),
    ("regr_intercept", &["regr_intercept(d, b)"]),
    ("regr_r2", &["regr_r2(d, b)"]),
    ("regr_slope", &["regr_slope(d, b)"]),
    ("regr_sxx", &["regr_sxx(d, b)"]),
    ("regr_sxy", &["regr_sxy(d, b)"]),
    ("regr_syy", &["regr_syy(d, b)"]),
    ("spread", &["spread(b)", "spread(b) FILTER (WHERE f)"]),
    ("stddev", &["stddev(d)"]),
    ("stddev_pop", &["stddev_pop(d)"]),
    ("string_agg", &["string_agg(s, ',' ORDER BY id)", "string_agg(DISTINCT s, ',' ORDER BY s)"]),
    ("sum", &["sum(b)", "sum(d)", "sum(DISTINCT b)"]),
    ("var", &["var(d)"]),
    ("var_pop", &["var_pop(d)"]),
];

/// Those that are refused: a call, and the remedy that is told.
const REFUSED: &[(&str, &str, &str)] = &[("nth_value", "nth_value(b, 2 ORDER BY id)", "write array_agg(x ORDER BY y)[n]")];

/// What groups are of: values that repeat and some that do not, with NULLs, an empty text among them.
const ROWS: &str = "SELECT id, id % 12 AS g, nullif((id * 7) % 25, 3) AS b, CAST((id * 13) % 60 - 20 AS DOUBLE) / 4 AS d, \
    CASE id % 5 WHEN 0 THEN 'a' WHEN 1 THEN 'Zoë' WHEN 2 THEN '' WHEN 3 THEN 'b' END AS s, \
    CASE id / 12 % 3 WHEN 0 THEN TRUE WHEN 1 THEN FALSE END AS f FROM t0";

/// So many rows come.
const COUNT: usize = 240;

/// An aggregate as users write them: how far apart the least and the greatest value are. What it keeps is not what it answers,
/// and taking a value away needs all the others.
#[derive(Debug, Default)]
struct Spread(Option<(i64, i64)>);

impl Spread {
    fn take(&mut self, least: i64, greatest: i64) {
        let known = self.0.unwrap_or((least, greatest));
        self.0 = Some((known.0.min(least), known.1.max(greatest)));
    }
}

impl Accumulator for Spread {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        values[0].as_primitive::<Int64Type>().iter().flatten().for_each(|value| self.take(value, value));
        Ok(())
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        Ok(ScalarValue::Int64(self.0.map(|(least, greatest)| greatest - least)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(self.0.map(|(least, _)| least)), ScalarValue::Int64(self.0.map(|(_, greatest)| greatest))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        let (least, greatest) = (states[0].as_primitive::<Int64Type>(), states[1].as_primitive::<Int64Type>());
        let ends = least.iter().zip(greatest).filter_map(|(least, greatest)| Some((least?, greatest?)));
        ends.for_each(|(least, greatest)| self.take(least, greatest));
        Ok(())
    }
}

pub fn spread() -> AggregateUDF {
    create_udaf(
        "spread",
        vec![DataType::Int64],
        Arc::new(DataType::Int64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(Spread::default()))),
        Arc::new(vec![DataType::Int64, DataType::Int64]),
    )
}

/// Rows of one table, cut at random, with a crash now and then.
pub fn case(sql: &str, seed: u64) -> Case {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut case = long_case(sql, 0, false);
    (case.seed, case.delay_ms) = (seed, None);
    case.arrivals.retain(|arrival| arrival.table == 0 && arrival.row < COUNT);
    let mut last = 0;
    for arrival in &mut case.arrivals {
        arrival.epoch = last;
        last += usize::from(rng.random_bool(0.06));
    }
    let epoch = |number: usize| {
        let lanes = 1 + number % 3;
        let crash = match number % 6 {
            1 => Some(Crash::Attempt),
            3 => Some(Crash::ExecutorEarly { lanes }),
            5 => Some(Crash::ExecutorLate { lanes }),
            _ => None,
        };
        Epoch { crash, is_checked: number.is_multiple_of(4) }
    };
    case.epochs = (0..=last).map(epoch).collect();
    case
}

fn query(name: &str, call: &str, rows: &str) -> String {
    let group = if name == "grouping" { "ROLLUP (g)" } else { "g" };
    format!("SELECT g, {call} AS x FROM ({rows}) GROUP BY {group}")
}

fn all_keep_the_law(rows: &str) {
    let calls = CALLS.iter().flat_map(|(name, calls)| calls.iter().map(move |call| (name, call)));
    let mut wrong = vec![];
    for (number, (name, call)) in calls.enumerate() {
        let case = case(&query(name, call, rows), number as u64);
        match judge(&case, &dataflow::start) {
            Ok(kept) if kept.without_answer > 0 => wrong.push(format!("{call}: plain DataFusion refuses it")),
            Ok(kept) => assert!(kept.rows >= 12 && kept.crashes > 0 && kept.oracle_wrong == 0, "{call}: {kept:?}"),
            Err(failure) => wrong.push(format!("{call}: {failure}")),
        }
    }
    assert!(wrong.is_empty(), "{} calls:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn each_aggregate_of_rows_that_are_only_added_keeps_the_law() {
    all_keep_the_law(ROWS);
}

/// The last hundred rows are there.
#[test]
fn each_aggregate_of_changing_rows_keeps_the_law() {
    let numbered = format!("SELECT *, row_number() OVER (PARTITION BY id % 100 ORDER BY id DESC) AS r FROM ({ROWS})");
    all_keep_the_law(&format!("SELECT id, g, b, d, s, f FROM ({numbered}) WHERE r = 1"));
}

#[test]
fn orders_that_differ_items_and_groups_that_are_never_null_keep_the_law() {
    for sql in [
        format!(
            "SELECT g, string_agg(s, ',' ORDER BY id) AS x, string_agg(s, ',' ORDER BY b DESC, id) AS y FROM ({ROWS}) GROUP BY g"
        ),
        format!("SELECT g, array_element(array_agg(s ORDER BY id), 2) AS x FROM ({ROWS}) GROUP BY g"),
        format!(
            "SELECT x, count(*) AS n FROM (SELECT CASE WHEN f IS NOT FALSE THEN 'a' ELSE 'b' END AS x FROM ({ROWS})) GROUP BY x"
        ),
        format!("SELECT x, count(*) AS n FROM (SELECT f IS NOT TRUE AS x FROM ({ROWS})) GROUP BY x"),
    ] {
        let kept = judge(&case(&sql, 3), &dataflow::start).unwrap_or_else(|failure| panic!("{sql}\n{failure}"));
        assert!(kept.rows > 0 && kept.crashes > 0 && kept.without_answer == 0 && kept.oracle_wrong == 0, "{sql}: {kept:?}");
    }
}

#[test]
fn what_is_refused_is_refused_by_name() {
    for (name, call, remedy) in REFUSED {
        let error = dataflow::start(&case(&query(name, call, ROWS), 0)).err().unwrap_or_default();
        assert!(error.contains(name) && error.contains(remedy), "{call}: {error:?}");
    }
}

#[test]
fn an_aggregate_that_takes_nothing_back_is_refused_over_a_frame_that_slides() {
    let sql = format!("SELECT id, approx_distinct(b) OVER (ORDER BY id ROWS 1 PRECEDING) AS x FROM ({ROWS})");
    let error = dataflow::start(&case(&sql, 0)).err().unwrap_or_default();
    assert!(error.contains("approx_distinct") && error.contains("begin with UNBOUNDED PRECEDING"), "{error:?}");
}

/// So that one which comes with another version of DataFusion, or of ours, is not taken untried.
#[test]
fn every_registered_aggregate_is_listed() {
    let session = oracle::session();
    let registered: BTreeSet<&str> = session.aggregate_functions().values().map(|function| function.name()).collect();
    let mut listed: BTreeMap<&str, usize> = BTreeMap::new();
    let names = CALLS.iter().map(|(name, _)| *name).chain(REFUSED.iter().map(|(name, ..)| *name));
    names.for_each(|name| *listed.entry(name).or_default() += 1);
    assert!(listed.values().all(|times| *times == 1), "listed twice: {listed:?}");
    assert_eq!(listed.into_keys().collect::<BTreeSet<_>>(), registered);
}
