//! `GROUP BY ()` and `GROUP BY GROUPING SETS ((), ())`: one group of all rows, in the answer as often as it is written. DataFusion tells such sets apart by a number,
//! a column of its own, and a plan that travels to executors forgets sets without columns. So the rows are aggregated without groups, and what that gives is
//! repeated.
use datafusion::{
    arrow::datatypes::DataType,
    common::{Result, ScalarValue},
    functions_aggregate::count::count,
    logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, LogicalPlanBuilder, lit},
};

/// A list that is unnested: a row for each item.
const TIMES: &str = "__times";

/// How often the group of all rows is asked for; 0: groups have columns, or there are none.
pub(super) fn times(aggregate: &Aggregate) -> usize {
    match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] if sets.iter().all(Vec::is_empty) => sets.len(),
        _ => 0,
    }
}

/// The aggregate without groups. Where nothing is computed of them it counts the rows: there is a row then, too.
pub(super) fn ungrouped(aggregate: Aggregate) -> Result<Aggregate> {
    let calls = if aggregate.aggr_expr.is_empty() { vec![count(lit(1))] } else { aggregate.aggr_expr };
    Aggregate::try_new(aggregate.input, vec![], calls)
}

/// Each row of a plan so many times.
pub(super) fn repeated(plan: LogicalPlan, times: usize) -> Result<LogicalPlan> {
    if times == 1 {
        return Ok(plan);
    }
    let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let items = ScalarValue::new_list_nullable(&vec![ScalarValue::Boolean(Some(true)); times], &DataType::Boolean);
    let with_items: Vec<Expr> = columns.iter().cloned().chain([lit(ScalarValue::List(items)).alias(TIMES)]).collect();
    LogicalPlanBuilder::from(plan).project(with_items)?.unnest_column(TIMES)?.project(columns)?.build()
}
