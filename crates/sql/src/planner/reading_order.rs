//! What of an answer depends on the order in which rows are read: what aggregates say that take rows as they come, and all that follows from it. Another query over
//! the same rows may say otherwise.
use datafusion::logical_expr::{Distinct, Expr, JoinType, LogicalPlan};

use super::{event_time::unaliased, insert::InsertPlan};

/// Functions that take rows in the order in which they come, unless they are told another one.
const AS_THEY_COME: [&str; 5] = ["array_agg", "first_value", "last_value", "nth_value", "string_agg"];

/// What of a plan's rows depends on the order in which others are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadingOrder {
    /// By column, whether its values do.
    pub columns: Vec<bool>,
    /// Whether it does which rows there are.
    pub rows: bool,
}

impl InsertPlan {
    pub fn reading_order(&self) -> ReadingOrder {
        of(&self.plan)
    }
}

fn of(plan: &LogicalPlan) -> ReadingOrder {
    let inputs = plan.inputs();
    let known: Vec<ReadingOrder> = inputs.iter().map(|input| of(input)).collect();
    let follows = |expression: &Expr| {
        expression.column_refs().into_iter().any(|column| {
            let mut sides = inputs.iter().zip(&known);
            sides.any(|(input, known)| input.schema().maybe_index_of_column(column).is_some_and(|index| known.columns[index]))
        })
    };
    let takes = |call: &Expr| takes_rows_as_they_come(call) || follows(call);
    let first = || known.first().map(|input| input.columns.clone()).unwrap_or_default();
    let last = || known.last().map(|input| input.columns.clone()).unwrap_or_default();
    let any = known.iter().any(|input| input.columns.contains(&true));
    let rows = known.iter().any(|input| input.rows);
    match plan {
        LogicalPlan::TableScan(_) | LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => {
            ReadingOrder { columns: vec![false; plan.schema().fields().len()], rows }
        }
        LogicalPlan::Projection(projection) => ReadingOrder { columns: projection.expr.iter().map(follows).collect(), rows },
        LogicalPlan::Filter(filter) => ReadingOrder { columns: first(), rows: rows || follows(&filter.predicate) },
        LogicalPlan::Sort(sort) => ReadingOrder { columns: first(), rows: rows || sort.expr.iter().any(|key| follows(&key.expr)) },
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Limit(_) | LogicalPlan::Repartition(_) => {
            ReadingOrder { columns: first(), rows }
        }
        LogicalPlan::Distinct(Distinct::All(_)) => ReadingOrder { columns: first(), rows: rows || any },
        LogicalPlan::Aggregate(aggregate) => {
            let of_groups = aggregate.group_expr.iter().any(follows);
            let groups = plan.schema().fields().len() - aggregate.aggr_expr.len();
            let calls = aggregate.aggr_expr.iter().map(takes);
            ReadingOrder { columns: std::iter::repeat_n(of_groups, groups).chain(calls).collect(), rows: rows || of_groups }
        }
        LogicalPlan::Window(window) => {
            ReadingOrder { columns: first().into_iter().chain(window.window_expr.iter().map(takes)).collect(), rows }
        }
        LogicalPlan::Join(join) => {
            let keys = join.on.iter().flat_map(|(left, right)| [left, right]);
            let of_condition = keys.chain(&join.filter).any(follows);
            let columns = match join.join_type {
                JoinType::LeftSemi | JoinType::LeftAnti => first(),
                JoinType::RightSemi | JoinType::RightAnti => last(),
                JoinType::LeftMark => [first(), vec![of_condition]].concat(),
                JoinType::RightMark => [last(), vec![of_condition]].concat(),
                JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => [first(), last()].concat(),
            };
            ReadingOrder { columns, rows: rows || of_condition }
        }
        LogicalPlan::Union(_) => {
            let of_column = |index: usize| known.iter().any(|input| input.columns[index]);
            ReadingOrder { columns: (0..plan.schema().fields().len()).map(of_column).collect(), rows }
        }
        _ => ReadingOrder { columns: vec![any; plan.schema().fields().len()], rows: rows || any },
    }
}

fn takes_rows_as_they_come(call: &Expr) -> bool {
    match unaliased(call) {
        Expr::AggregateFunction(function) => AS_THEY_COME.contains(&function.func.name()) && function.params.order_by.is_empty(),
        Expr::WindowFunction(function) => AS_THEY_COME.contains(&function.fun.name()) && function.params.order_by.is_empty(),
        _ => false,
    }
}
