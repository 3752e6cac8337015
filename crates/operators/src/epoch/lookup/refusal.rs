//! Rows that nothing can be looked up for, as they are made of several records or of none: what they are, and what to write instead.
use std::sync::Arc;

use datafusion::{
    common::{DataFusionError, JoinType},
    physical_plan::{
        ExecutionPlan,
        aggregates::AggregateExec,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec},
        limit::{GlobalLimitExec, LocalLimitExec},
        sorts::sort::SortExec,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};
use polybolos_tables::TableName;

use super::input_of_each_row;
use crate::file_scan::FileScanExec;

const BEFORE: &str = "and look-ups are made before, for each record by itself";
const FIRST: &str = "look it up first: FROM (SELECT … FROM stream AS s JOIN t FOR SYSTEM_TIME AS OF s.proc_time AS t ON …)";
const IN_ANOTHER_JOB: &str = "to a topic, and look it up for that topic's records in another job";

/// `table` is looked up for the rows of a plan, which has something else in it than [`super::stages`] takes.
pub(super) fn refusal(table: &TableName, plan: &Arc<dyn ExecutionPlan>) -> DataFusionError {
    let maker = maker(plan);
    let of_what = if maker.is::<AggregateExec>() {
        format!(
            "groups of rows (GROUP BY, DISTINCT or UNION), {BEFORE}; {FIRST}, or write groups that have closed (EMIT ON WINDOW CLOSE) {IN_ANOTHER_JOB}"
        )
    } else if let Some(kind) = join_type(maker) {
        let with = match kind {
            _ if maker.children().into_iter().any(is_of_files) => "a join with files",
            JoinType::Left | JoinType::Right | JoinType::Full => "an outer join",
            _ => "a join",
        };
        format!(
            "rows of {with}, {BEFORE}; {FIRST} and join its rows, or write the joined rows, if they are only added, {IN_ANOTHER_JOB}"
        )
    } else if maker.is::<WindowAggExec>() || maker.is::<BoundedWindowAggExec>() {
        format!("rows of OVER or of SESSION windows, {BEFORE}; {FIRST}")
    } else if maker.is::<GlobalLimitExec>() || maker.is::<LocalLimitExec>() || maker.is::<SortExec>() {
        format!("the first rows of an order (LIMIT), {BEFORE}; {FIRST}")
    } else if maker.children().is_empty() {
        let from = if maker.is::<FileScanExec>() { "rows of files" } else { "rows of no table" };
        format!("{from}, and look-ups are made for records of topics; write the rows {IN_ANOTHER_JOB}")
    } else {
        format!("rows of {}, {BEFORE}; {FIRST}", maker.name())
    };
    DataFusionError::Plan(format!("table {table} is looked up for {of_what}"))
}

/// The first node from above that makes a row of something else than one row.
fn maker(plan: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
    match input_of_each_row(plan) {
        Some(input) => maker(input),
        None => plan,
    }
}

fn is_of_files(plan: &Arc<dyn ExecutionPlan>) -> bool {
    maker(plan).is::<FileScanExec>()
}

fn join_type(plan: &Arc<dyn ExecutionPlan>) -> Option<JoinType> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return Some(*join.join_type());
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        return Some(*join.join_type());
    }
    if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
        return Some(join.join_type());
    }
    plan.is::<CrossJoinExec>().then_some(JoinType::Inner)
}

#[cfg(test)]
mod tests {
    use super::super::{of_plan, plans::planned};
    use super::*;

    /// Of the first look-up from above.
    fn refused(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
        match of_plan(plan) {
            Err(error) => Some(error.to_string()),
            Ok(Some(_)) => None,
            Ok(None) => plan.children().into_iter().find_map(refused),
        }
    }

    #[test]
    fn rows_of_several_records_or_of_none_are_named_with_what_to_write_instead() {
        for (rows, wanted) in [
            ("SELECT k, count(*) AS id FROM t GROUP BY k", ["groups of rows (GROUP BY", "EMIT ON WINDOW CLOSE"]),
            ("SELECT DISTINCT id, k FROM t", ["groups of rows (GROUP BY, DISTINCT", "look it up first"]),
            ("SELECT id, k FROM t UNION SELECT id, k FROM u", ["DISTINCT or UNION)", "look it up first"]),
            ("SELECT t.id, u.k FROM t JOIN u ON t.id = u.id", ["rows of a join, and look-ups are made before", "in another job"]),
            ("SELECT t.id, u.k FROM t JOIN u ON t.b < u.b", ["rows of a join, ", "and join its rows"]),
            ("SELECT u.id, t.k FROM t LEFT JOIN u ON t.id = u.id", ["rows of an outer join, ", "if they are only added"]),
            ("SELECT row_number() OVER (PARTITION BY s ORDER BY id) AS id, k FROM t", ["rows of OVER", "look it up first"]),
            ("SELECT id, k FROM t ORDER BY id LIMIT 3", ["the first rows of an order (LIMIT)", "look it up first"]),
            ("SELECT * FROM (VALUES (1, 2), (3, 4)) AS v (id, k)", ["rows of no table", "write the rows to a topic"]),
            (
                "SELECT id, k FROM t UNION ALL SELECT k, count(*) AS id FROM u GROUP BY k",
                ["groups of rows (GROUP BY", "to a topic, and look it up for that topic's records in another job"],
            ),
        ] {
            let plan = planned(&format!("SELECT a.id, c.name FROM ({rows}) AS a JOIN names AS c ON a.k = c.k"));
            let told = refused(&plan).unwrap_or_else(|| panic!("{rows} is let through"));
            let begins = "table ks.names is looked up for ";
            assert!(told.contains(begins) && wanted.iter().all(|wanted| told.contains(wanted)), "{rows}: {told}");
        }
    }
}
