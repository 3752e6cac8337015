//! Zero has two signs and is one value: of groups, and of what is counted once.
use super::{
    bounded::long_case,
    cases::{Crash, Epoch},
    dataflow,
    judge::judge,
};

#[test]
fn both_zeros_are_one_group_whatever_the_cuts_and_crashes() {
    // -0.0 comes from rounding; each sign alone in many an epoch.
    let zero = "CASE WHEN id % 3 = 0 THEN round(-0.4) WHEN id % 3 = 1 THEN 0e0 ELSE round(0.2) + id % 2 END";
    for sql in [
        format!("SELECT {zero} AS z, count(*) AS n FROM t0 GROUP BY {zero}"),
        format!("SELECT DISTINCT {zero} AS z FROM t0"),
        format!("SELECT {zero} AS z FROM t0 UNION SELECT {zero} FROM t1"),
        format!(
            "SELECT z, n, count(*) AS m FROM (SELECT {zero} AS z, k, count(*) AS n FROM t0 GROUP BY 1, 2) GROUP BY GROUPING SETS ((z), (n))"
        ),
        format!("SELECT count(DISTINCT z) AS n FROM (SELECT k, max(id) AS id, max({zero}) AS z FROM t0 GROUP BY k)"),
    ] {
        let mut case = long_case(&sql, 0, false);
        let epoch = |number: usize| {
            let crash = number.is_multiple_of(4).then_some(Crash::ExecutorLate { lanes: 1 + number % 3 });
            Epoch { crash, is_checked: number.is_multiple_of(7) }
        };
        case.epochs = (0..case.epochs.len()).map(epoch).collect();
        let kept = judge(&case, &|case| dataflow::start(case)).unwrap_or_else(|failure| panic!("{sql}\n{failure}"));
        assert!(kept.rows > 0 && kept.crashes > 10, "{kept:?}");
    }
}
