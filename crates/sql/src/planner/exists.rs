//! EXISTS of what gives a row whatever there is.
use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    logical_expr::{Expr, LogicalPlan},
};

use crate::error::SqlError;

/// Refuses EXISTS of an aggregate without GROUP BY over columns of the outer query: DataFusion asks whether there is anything to aggregate.
pub(super) fn refuse_aggregates(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            found = found || expression.exists(|part| Ok(is_always_true(part)))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    if found {
        return Err(SqlError::unsupported(
            "EXISTS (SELECT count(*) …) is always true, as an aggregate without GROUP BY gives a row over nothing too; write EXISTS (SELECT 1 …), or compare the aggregate: (SELECT count(*) …) > 0",
        ));
    }
    Ok(())
}

fn is_always_true(expression: &Expr) -> bool {
    let Expr::Exists(exists) = expression else { return false };
    !exists.subquery.outer_ref_columns.is_empty() && gives_a_row(&exists.subquery.subquery)
}

fn gives_a_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(_) | LogicalPlan::Sort(_) | LogicalPlan::Distinct(_) | LogicalPlan::SubqueryAlias(_) => {
            plan.inputs().into_iter().all(gives_a_row)
        }
        _ => false,
    }
}
