//! VALUES in a job's query, as rows that are selected: `SELECT 'a', 1 UNION ALL SELECT 'b', 2`.
use std::sync::Arc;

use datafusion::{
    common::{Result, tree_node::Transformed},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Union, Values},
};

pub(super) fn as_selects(plan: LogicalPlan) -> Result<LogicalPlan> {
    let node = |plan: LogicalPlan| match plan {
        LogicalPlan::Values(values) => Ok(Transformed::yes(selected(&values)?)),
        other => Ok(Transformed::no(other)),
    };
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

fn selected(values: &Values) -> Result<LogicalPlan> {
    let select = |row: &Vec<Expr>| {
        let named = row.iter().zip(values.schema.fields()).map(|(value, field)| value.clone().alias(field.name()));
        LogicalPlanBuilder::empty(true).project(named)?.build()
    };
    let mut rows = values.values.iter().map(select).collect::<Result<Vec<_>>>()?;
    match rows.len() {
        1 => Ok(rows.remove(0)),
        _ => Ok(LogicalPlan::Union(Union::try_new(rows.into_iter().map(Arc::new).collect())?)),
    }
}
