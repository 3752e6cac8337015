//! What a job cannot do yet, found when it is created, by name and with what to write instead. A job is stateless: every record gives
//! at most one row, whatever came before it.
use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    logical_expr::{Aggregate, Distinct, Expr, JoinType, LogicalPlan},
};

use crate::error::SqlError;

/// Checks a plan before it is optimised, as it was written.
pub(super) fn check_stateless(subject: &str, plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut refused = None;
    plan.apply(|node| {
        refused = refuse_node(node).or_else(|| refuse_expressions(node));
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    match refused {
        Some(why) => Err(SqlError::unsupported(format!("{subject} {why}"))),
        None => Ok(()),
    }
}

fn refuse_node(node: &LogicalPlan) -> Option<String> {
    let why = match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::Repartition(_) => return None,
        LogicalPlan::Aggregate(aggregate) => aggregation(aggregate),
        LogicalPlan::Window(_) => {
            "uses window functions (OVER): they are not supported over a stream yet; write the rows and use OVER in a query over the table"
                .to_owned()
        }
        LogicalPlan::Join(join) => {
            let kind = if join.join_type == JoinType::Inner && join.on.is_empty() && join.filter.is_none() {
                "a cross join".to_owned()
            } else {
                format!("a join ({})", join.join_type.to_string().to_uppercase())
            };
            format!("has {kind}: joins in a stream are not supported yet; write a job per Kafka table and join in a query over the tables")
        }
        LogicalPlan::Distinct(Distinct::All(_)) => {
            "selects DISTINCT rows: duplicates in a stream cannot be told apart yet; leave DISTINCT out and give the table a PRIMARY KEY, which keeps one row per key"
                .to_owned()
        }
        LogicalPlan::Distinct(Distinct::On(_)) => {
            "selects DISTINCT ON: it is not supported over a stream; give the table that PRIMARY KEY, which keeps the last row per key"
                .to_owned()
        }
        LogicalPlan::Sort(_) => "sorts (ORDER BY): a stream has no end to sort at; leave ORDER BY out and sort in a query over the table".to_owned(),
        LogicalPlan::Limit(_) => "limits its rows (LIMIT, OFFSET, FETCH): a job runs for ever; leave it out and use LIMIT in a query over the table".to_owned(),
        LogicalPlan::Union(_) => {
            "combines queries (UNION): it is not supported in a stream yet; write a job per query, each filling a table of its own, and combine in a query"
                .to_owned()
        }
        LogicalPlan::Unnest(_) => "unnests arrays: one record giving several rows is not supported yet; write the array as it is and unnest in a query".to_owned(),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
            "reads rows that are written in it (VALUES, SELECT without FROM); read a Kafka table, or INSERT them without CREATE JOB".to_owned()
        }
        LogicalPlan::RecursiveQuery(_) => "is a recursive query (WITH RECURSIVE): it is not supported over a stream".to_owned(),
        LogicalPlan::Subquery(_) => subquery(),
        other => format!("uses {}, which is not supported in a stream; leave it out", other.display()),
    };
    Some(why)
}

fn aggregation(aggregate: &Aggregate) -> String {
    let shown = |expressions: &[Expr]| expressions.iter().map(name).collect::<Vec<_>>().join(", ");
    let what = if aggregate.group_expr.is_empty() {
        format!("aggregates ({})", shown(&aggregate.aggr_expr))
    } else {
        format!("groups by {}", shown(&aggregate.group_expr))
    };
    format!("{what}: aggregation over a stream is not supported yet; write the rows and aggregate in a query over the table")
}

/// An expression as written, columns without their table.
fn name(expression: &Expr) -> String {
    match expression {
        Expr::Column(column) => column.name.clone(),
        Expr::Alias(alias) => name(&alias.expr),
        other => other.schema_name().to_string(),
    }
}

fn refuse_expressions(node: &LogicalPlan) -> Option<String> {
    let mut found = false;
    let walked = node.apply_expressions(|expression| {
        found = found || expression.exists(|part| Ok(is_subquery(part)))?;
        Ok(TreeNodeRecursion::Continue)
    });
    (found && walked.is_ok()).then(subquery)
}

fn is_subquery(expression: &Expr) -> bool {
    matches!(expression, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_))
}

fn subquery() -> String {
    "has a subquery in an expression: looking something up from a stream is not supported yet; write the rows and look up in a query over the table"
        .to_owned()
}
