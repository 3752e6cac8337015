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
