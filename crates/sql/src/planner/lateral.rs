//! The first rows for each row of another table, `FROM a, LATERAL (SELECT … FROM b WHERE b.k = a.k ORDER BY … LIMIT n)`, as rows that are numbered within their
//! key: DataFusion makes a join of that. Rows that meet one row of `a` are all those of one key where the columns are compared by `=`, and by nothing else.
use std::sync::Arc;

use datafusion::{
    common::{
        Column, ExprSchema, Result,
        tree_node::{Transformed, TreeNode},
    },
    functions_window::expr_fn::row_number,
    logical_expr::{
        BinaryExpr, Expr, ExprFunctionExt, FetchType, LogicalPlan, LogicalPlanBuilder, Operator, SkipType, lit,
        utils::split_conjunction,
    },
};

/// The plan with ROW_NUMBER() in the place of LIMIT wherever a LATERAL subquery allows it.
pub(super) fn numbered(plan: LogicalPlan) -> Result<LogicalPlan> {
    let node = |plan: LogicalPlan| {
        let LogicalPlan::Subquery(mut lateral) = plan else { return Ok(Transformed::no(plan)) };
        match first_of_each_key(&lateral.subquery)? {
            Some(numbered) => {
                lateral.subquery = Arc::new(numbered);
                Ok(Transformed::yes(LogicalPlan::Subquery(lateral)))
            }
            None => Ok(Transformed::no(LogicalPlan::Subquery(lateral))),
        }
    };
    Ok(plan.transform_up(node)?.data)
}

fn first_of_each_key(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Limit(limit) = plan else { return Ok(None) };
    let (SkipType::Literal(0), FetchType::Literal(Some(fetch))) = (limit.get_skip_type()?, limit.get_fetch_type()?) else {
        return Ok(None);
    };
    // Where rows are sorted by what is not selected, that is left out above.
    let (above, sort) = match limit.input.as_ref() {
        LogicalPlan::Projection(projection) => (Some(projection), projection.input.as_ref()),
        sort => (None, sort),
    };
    let LogicalPlan::Sort(sort) = sort else { return Ok(None) };
    let LogicalPlan::Projection(selected) = sort.input.as_ref() else { return Ok(None) };
    let Some(keys) = compared(&selected.input) else { return Ok(None) };
    let is_taken = |key: &Column| !selected.schema.has_column(key) && selected.schema.has_column_with_unqualified_name(&key.name);
    if keys.iter().any(is_taken) {
        return Ok(None);
    }
    let mut columns = selected.expr.clone();
    columns.extend(keys.iter().filter(|key| !selected.schema.has_column(key)).cloned().map(Expr::Column));
    let keys = keys.into_iter().map(Expr::Column).collect();
    let number = row_number().partition_by(keys).order_by(sort.expr.clone()).build()?;
    let rows = LogicalPlanBuilder::from(selected.input.as_ref().clone()).project(columns)?.window([number])?.build()?;
    let (qualifier, field) = rows.schema().qualified_field(rows.schema().fields().len() - 1);
    let is_first = Expr::Column(Column::from((qualifier, field))).lt_eq(lit(fetch as u64));
    let shown: Vec<Expr> = match above {
        Some(projection) => projection.expr.clone(),
        None => selected.schema.columns().into_iter().map(Expr::Column).collect(),
    };
    Ok(Some(LogicalPlanBuilder::from(rows).filter(is_first)?.project(shown)?.build()?))
}

/// The columns that conditions compare with the other table's, if nothing else looks there.
fn compared(input: &LogicalPlan) -> Option<Vec<Column>> {
    let mut keys: Vec<Column> = vec![];
    let mut plan = input;
    while let LogicalPlan::Filter(filter) = plan {
        for condition in split_conjunction(&filter.predicate) {
            let is_subquery = |part: &Expr| matches!(part, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_));
            if condition.exists(|part| Ok(is_subquery(part))).ok()? {
                return None;
            }
            if condition.contains_outer() {
                let key = equal(condition, &filter.input)?;
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        plan = &filter.input;
    }
    (!keys.is_empty() && plan.all_out_ref_exprs().is_empty()).then_some(keys)
}

/// The column of `input` that is compared with one of the other table. A float, or what is neither of the same type nor a whole number as the other one is, might
/// be equal to what it is not the same as.
fn equal(condition: &Expr, input: &LogicalPlan) -> Option<Column> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return None };
    let (column, outer) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::OuterReferenceColumn(outer, _)) => (column, outer),
        (Expr::OuterReferenceColumn(outer, _), Expr::Column(column)) => (column, outer),
        _ => return None,
    };
    let (own, other) = (input.schema().field_from_column(column).ok()?.data_type(), outer.data_type());
    let is_same = own == other || (own.is_signed_integer() && other.is_signed_integer());
    (is_same && !own.is_floating()).then(|| column.clone())
}
