//! Sums of rows that change, some of which are infinite, no number, or too large for others to be seen beside them: once such a row is taken
//! back, the answer is that of the others. Of queries and cuts at random: the grammar has no such values, as it casts doubles to what has none.
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{aggregates::case, dataflow, judge::judge};

const CASES: u64 = 24;

/// Of rows that come and go, which are left.
const ROWS: [&str; 3] = [
    // The last so many.
    "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY id % 60 ORDER BY id DESC) AS r FROM t0) WHERE r = 1",
    "SELECT max(id) AS id FROM t0 GROUP BY id % 45",
    // Each row until another comes with the same number.
    "SELECT a.id AS id FROM t0 AS a LEFT JOIN t0 AS b ON b.id = a.id + 30 WHERE b.id IS NULL",
];

/// Sums in any order are the same: numbers are quarters, and what is large is positive, and of one size: a sum has some 32 digits.
fn query(rng: &mut ChaCha8Rng) -> String {
    let every = rng.random_range(4..60);
    let double = |text: &str| format!("CAST('{text}' AS DOUBLE)");
    let (nan, infinite, below) = (double("NaN"), double("Infinity"), double("-Infinity"));
    let number = "CAST((id * 13) % 60 - 20 AS DOUBLE) / 4";
    let apart = format!("CASE id % {every} WHEN 0 THEN {nan} WHEN 1 THEN {infinite} WHEN 2 THEN {below} ELSE {number} END");
    let large = format!("CASE id % {every} WHEN 0 THEN 1e308 ELSE {number} END");
    let rows = ROWS.choose(rng).expect("rows");
    let groups = rng.random_range(2..8);
    let calls = "sum(x) AS a, avg(x) AS b, sum(x) FILTER (WHERE id % 2 = 0) AS c, sum(r) AS d, stddev(x) AS e, \
        sum(y) AS f, avg(y) AS h";
    let distinct = "sum(DISTINCT x) AS a, count(DISTINCT id) AS b, sum(DISTINCT y) AS c";
    let calls = if rng.random_bool(0.7) { calls } else { distinct };
    // A cast has the name of what it casts, so that DataFusion takes sum(x) and sum(CAST(x AS REAL)) for twins.
    let reals = format!("CAST({apart} AS REAL) AS r");
    format!(
        "SELECT id % {groups} AS g, {calls} FROM (SELECT id, {apart} AS x, {large} AS y, {reals} FROM ({rows})) GROUP BY id % {groups}"
    )
}

#[test]
fn what_is_not_finite_goes_with_its_row() {
    for seed in 0..CASES {
        let sql = query(&mut ChaCha8Rng::seed_from_u64(seed));
        let kept = judge(&case(&sql, seed), &dataflow::start).unwrap_or_else(|failure| panic!("seed {seed}: {sql}\n{failure}"));
        assert!(kept.rows > 0 && kept.crashes > 0 && kept.without_answer == 0 && kept.oracle_wrong == 0, "{sql}: {kept:?}");
    }
}
