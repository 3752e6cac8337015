//! State that grows for as long as a job runs: groups, joined rows and ranked rows that no watermark ever finishes. It is no error; whoever
//! creates the job is told which operator it is, why, and what to write instead.
use datafusion::{
    common::{
        Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan},
};

use super::event_time::{Lineage, Time};
use crate::names::RelationName;

const REMEDY: &str =
    "group or join by a window over a watermark's column, set 'state.ttl', or accept it with 'state.unbounded' = 'allow'";

/// One line per operator of an optimised plan whose state has no bound.
pub(super) fn notices(plan: &LogicalPlan, lineage: &Lineage<'_>) -> Result<Vec<String>> {
    let mut notices = Vec::new();
    plan.apply(|node| {
        if let Some(kept) = kept_for_ever(node, lineage) {
            let notice = format!("{kept}: its state grows for as long as the job runs; {REMEDY}");
            if !notices.contains(&notice) {
                notices.push(notice);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(notices)
}

fn kept_for_ever(node: &LogicalPlan, lineage: &Lineage<'_>) -> Option<String> {
    match node {
        LogicalPlan::Aggregate(aggregate) if !aggregate.group_expr.is_empty() && lineage.grouped(aggregate).is_empty() => {
            Some(format!("the aggregation by {} keeps every group", listed(&aggregate.group_expr)))
        }
        LogicalPlan::Join(join) if !lineage.joined(join).iter().any(|time| *time != Time::Raw) && !looks_up(&join.right) => {
            let on: Vec<String> = join.on.iter().map(|(left, right)| format!("{left} = {right}")).collect();
            let on = if on.is_empty() { "no key".to_owned() } else { on.join(", ") };
            Some(format!("the join on {on} keeps every row of both sides"))
        }
        LogicalPlan::Window(window) => {
            let unbounded = window.window_expr.iter().find_map(|expression| match expression {
                Expr::WindowFunction(function) => {
                    let keys = &function.params.partition_by;
                    let is_bounded = keys
                        .iter()
                        .chain([expression])
                        .any(|part| matches!(lineage.of(part, &window.input), Some(Time::Bin { .. } | Time::Session)));
                    (!is_bounded).then(|| (function.fun.name().to_owned(), listed(keys)))
                }
                _ => None,
            })?;
            let (name, keys) = unbounded;
            let keys = if keys.is_empty() { String::new() } else { format!(" per {keys}") };
            Some(format!("{name}() OVER keeps every row{keys}"))
        }
        _ => None,
    }
}

fn listed(expressions: &[Expr]) -> String {
    expressions.iter().map(|expression| expression.schema_name().to_string()).collect::<Vec<_>>().join(", ")
}

/// Looked-up rows are not kept.
fn looks_up(plan: &LogicalPlan) -> bool {
    let found = plan.exists(|node| {
        Ok(matches!(node, LogicalPlan::TableScan(scan) if RelationName::from(&scan.table_name).looked_up().is_some()))
    });
    found.unwrap_or(false)
}
