//! Window functions and frames that the grammar does not write, set operations that keep duplicates, and grouping sets that are written twice, over rows
//! that come and rows that change.
use super::zeros::keeps_the_law;

/// Of each of 90 the newest row.
const CHANGING: &str =
    "(SELECT id, k FROM (SELECT id, k, row_number() OVER (PARTITION BY id % 90 ORDER BY id DESC) AS r FROM t0) WHERE r = 1)";

#[test]
fn what_counts_by_peers_and_places_keeps_the_law() {
    for call in [
        "nth_value(id, 2) OVER (PARTITION BY k ORDER BY id)",
        "nth_value(id, 2) OVER (PARTITION BY k ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)",
        "percent_rank() OVER (PARTITION BY id % 3 ORDER BY k)",
        "cume_dist() OVER (PARTITION BY id % 3 ORDER BY k DESC)",
        "sum(id) OVER (PARTITION BY id % 3 ORDER BY k GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING)",
        "min(id) OVER (PARTITION BY id % 3 ORDER BY k DESC GROUPS BETWEEN CURRENT ROW AND 1 FOLLOWING)",
    ] {
        for rows in ["t0", CHANGING] {
            keeps_the_law(&format!("SELECT id, k, {call} AS v FROM {rows} AS a"));
        }
    }
}

/// Rows come behind all others of their partition, beside the last of the same order, and late.
#[test]
fn totals_keep_the_law_wherever_rows_come() {
    const LATE: &str = "id - CASE WHEN id % 23 = 0 THEN 40 ELSE 0 END";
    for order in ["id / 2", "id / 30", "id / 30 DESC", LATE] {
        let peers = format!("OVER (PARTITION BY k ORDER BY {order})");
        let totals = format!(
            "sum(id) {peers} AS s, avg(id) {peers} AS m, count(*) {peers} AS n, max(id) {peers} AS g, CAST(rank() {peers} AS BIGINT) AS r, CAST(dense_rank() {peers} AS BIGINT) AS d"
        );
        let each = format!("OVER (PARTITION BY k ORDER BY {order}, id ROWS UNBOUNDED PRECEDING)");
        let numbers = format!(
            "sum(id) {each} AS s, min(id) {each} AS l, CAST(row_number() {each} AS BIGINT) AS n, lag(id, 2) OVER (PARTITION BY k ORDER BY {order}, id) AS p"
        );
        for rows in ["t0", CHANGING] {
            keeps_the_law(&format!("SELECT id, k, {totals} FROM {rows} AS a"));
            keeps_the_law(&format!("SELECT id, k, {numbers} FROM {rows} AS a"));
        }
    }
    keeps_the_law("SELECT id, sum(id) OVER (PARTITION BY k ORDER BY ts) AS s FROM t0");
}

#[test]
fn set_operations_that_keep_duplicates_keep_the_law() {
    for word in ["INTERSECT ALL", "EXCEPT ALL"] {
        for rows in ["t0", CHANGING] {
            keeps_the_law(&format!(
                "SELECT k, id % 40 AS m FROM {rows} AS a {word} SELECT k, id % 40 AS m FROM t1 WHERE id % 3 = 0"
            ));
        }
    }
}

#[test]
fn grouping_sets_that_are_written_twice_keep_the_law() {
    for rows in ["t0", CHANGING] {
        keeps_the_law(&format!("SELECT k, count(*) AS n, max(id) AS m FROM {rows} AS a GROUP BY GROUPING SETS ((k), (), (k), ())"));
    }
}
