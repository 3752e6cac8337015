//! What several read is there for each of them, whichever reads it last.
use super::{bounded::long_case, dataflow, judge::judge};

/// The union reads the table beside what stands above an exchange, and so does an exchange that the planner meets later.
#[test]
fn what_a_union_reads_is_there_beside_exchanges_of_the_same_rows() {
    let union = "SELECT id, k FROM t0 UNION ALL SELECT id, max(k) AS k FROM t0 GROUP BY id";
    let keys = "SELECT k, max(id) AS m FROM t0 GROUP BY k";
    let sql = format!("SELECT u.id, u.k, o.m FROM ({union}) AS u JOIN ({keys}) AS o ON u.k = o.k");
    let case = long_case(&sql, 0, false);
    let explained = dataflow::start(&case).expect("the query is supported").explain();
    let below = explained.lines().skip_while(|line| !line.contains("Union")).nth(1).unwrap_or_default();
    assert!(below.trim_start().starts_with("Source"), "it reads the table itself:\n{explained}");
    let kept = judge(&case, &|case| dataflow::start(case)).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(kept.rows > 0, "{kept:?}");
}
