//! Zero has two signs and is one value: of groups, of what is counted once, and of keys of joins. NaN has two signs as well, and is
//! greater than all numbers.
use super::{
    bounded::long_case,
    cases::{Crash, Epoch},
    dataflow,
    judge::judge,
};

/// -0.0 comes from rounding; each sign alone in many an epoch.
const ZERO: &str = "CASE WHEN id % 3 = 0 THEN round(-0.4) WHEN id % 3 = 1 THEN 0e0 ELSE round(0.2) + id % 2 END";

#[test]
fn both_zeros_are_one_group_whatever_the_cuts_and_crashes() {
    let zero = ZERO;
    for sql in [
        format!("SELECT {zero} AS z, count(*) AS n FROM t0 GROUP BY {zero}"),
        format!("SELECT DISTINCT {zero} AS z FROM t0"),
        format!("SELECT {zero} AS z FROM t0 UNION SELECT {zero} FROM t1"),
        format!(
            "SELECT z, n, count(*) AS m FROM (SELECT {zero} AS z, k, count(*) AS n FROM t0 GROUP BY 1, 2) GROUP BY GROUPING SETS ((z), (n))"
        ),
        format!("SELECT count(DISTINCT z) AS n FROM (SELECT k, max(id) AS id, max({zero}) AS z FROM t0 GROUP BY k)"),
    ] {
        keeps_the_law(&sql);
    }
}

/// Rows keep the sign that they came with.
#[test]
fn both_zeros_are_one_key_of_joins() {
    let side = |table: &str, every: u32| format!("(SELECT id, {ZERO} AS z FROM {table} WHERE id % {every} = 0)");
    let (a, b) = (side("t0", 35), side("t1", 25));
    for sql in [
        format!("SELECT a.id AS l, b.id AS r, a.z AS x, b.z AS y FROM {a} AS a JOIN {b} AS b ON a.z = b.z"),
        format!(
            "SELECT a.id AS l, b.id AS r, a.z AS x, b.z AS y FROM {a} AS a LEFT JOIN (SELECT * FROM {b} WHERE z < 1) AS b ON a.z = b.z"
        ),
        format!("SELECT a.id AS l, a.z AS x FROM {a} AS a WHERE z IN (SELECT z FROM {b} WHERE z < 1)"),
        format!(
            "SELECT id AS l, z AS x FROM (SELECT id, nullif(z, 9) AS z FROM {a}) AS a WHERE z NOT IN (SELECT nullif(z, 9) AS y FROM {b} WHERE z < 1)"
        ),
    ] {
        keeps_the_law(&sql);
    }
}

/// What divides zero by zero has the one sign or the other, as the processor likes; here there are both, and each alone.
#[test]
fn not_a_number_is_the_greatest_of_what_changes_whatever_its_sign() {
    let (nan, value) = ("CAST('NaN' AS DOUBLE)", "CAST(id % 50 AS DOUBLE)");
    let below = format!("CASE WHEN id % 7 = 0 THEN -{nan} ELSE {value} END");
    let both = format!("CASE id % 7 WHEN 0 THEN -{nan} WHEN 1 THEN {nan} ELSE {value} END");
    let none = format!("CASE WHEN id % 2 = 0 THEN -{nan} END");
    let rows = format!(
        "SELECT *, {below} AS x1, {both} AS x2, {none} AS x3, row_number() OVER (PARTITION BY id % 60 ORDER BY id DESC) AS r FROM t0"
    );
    let calls = ["x1", "x2", "x3"].map(|column| format!("min({column}) AS l{column}, max({column}) AS g{column}")).join(", ");
    for group in ["k", "id % 60"] {
        keeps_the_law(&format!("SELECT {group} AS g, {calls} FROM ({rows}) WHERE r = 1 GROUP BY {group}"));
    }
}

pub fn keeps_the_law(sql: &str) {
    let mut case = long_case(sql, 0, false);
    let epoch = |number: usize| {
        let crash = number.is_multiple_of(4).then_some(Crash::ExecutorLate { lanes: 1 + number % 3 });
        Epoch { crash, is_checked: number.is_multiple_of(7) }
    };
    case.epochs = (0..case.epochs.len()).map(epoch).collect();
    let kept = judge(&case, &|case| dataflow::start(case)).unwrap_or_else(|failure| panic!("{sql}\n{failure}"));
    assert!(kept.rows > 0 && kept.crashes > 10, "{kept:?}");
}
