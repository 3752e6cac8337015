//! What DataFusion does not plan of `x IN (SELECT …)`: several columns at once, and a column that is called as the subquery's.
use std::ops::ControlFlow;

use datafusion::{
    common::{
        Column, Result,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        Expr, Filter, LogicalPlan, LogicalPlanBuilder,
        utils::{conjunction, split_conjunction_owned},
    },
    sql::sqlparser::ast::{self, BinaryOperator, Select, VisitorMut},
};

use super::insert::{Named, with_names};
use crate::{
    error::SqlError,
    parser,
    walk::{visit_expressions, visit_mut},
};

/// The query with `(a, b) IN (SELECT x, y …)` as `EXISTS (SELECT 1 FROM (SELECT x, y …) AS t (x, y) WHERE x = a AND y = b)`, where it is a condition of WHERE:
/// there a NULL counts as false, as it does to EXISTS. NOT IN is true where each comparison is false: `NOT EXISTS (… WHERE (x = a AND y = b) IS NOT FALSE)`.
///
/// # Errors
/// When it stands elsewhere.
pub(super) fn of_several_columns(query: &ast::Query) -> Result<ast::Query, SqlError> {
    let mut query = query.clone();
    if let ControlFlow::Break(error) = visit_mut(&mut query, &mut Tuples) {
        return Err(*error);
    }
    let left = visit_expressions(&query, |expression| match tuple_in(expression) {
        Some((_, _, negated)) => ControlFlow::Break(negated),
        None => ControlFlow::Continue(()),
    });
    match left {
        ControlFlow::Continue(()) => Ok(query),
        ControlFlow::Break(negated) => {
            let not = if negated { "NOT " } else { "" };
            Err(SqlError::unsupported(format!(
                "(a, b) {not}IN (SELECT x, y …) is supported as a condition of WHERE, by itself or beside AND and OR; write {not}EXISTS (SELECT 1 FROM … WHERE x = a AND y = b)"
            )))
        }
    }
}

struct Tuples;

impl VisitorMut for Tuples {
    type Break = Box<SqlError>;

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        match select.selection.as_mut().map_or(Ok(()), rewrite) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

/// Several columns, the subquery, and whether they shall not be in it.
fn tuple_in(expression: &ast::Expr) -> Option<(&[ast::Expr], &ast::Query, bool)> {
    let ast::Expr::InSubquery { expr, subquery, negated } = expression else { return None };
    match expr.as_ref() {
        ast::Expr::Tuple(columns) => Some((columns.as_slice(), subquery.as_ref(), *negated)),
        _ => None,
    }
}

/// Rewrites what a condition says when it is true.
fn rewrite(condition: &mut ast::Expr) -> Result<(), SqlError> {
    match condition {
        ast::Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            rewrite(left)?;
            rewrite(right)
        }
        ast::Expr::Nested(inner) => rewrite(inner),
        _ => {
            let Some((columns, subquery, negated)) = tuple_in(condition) else { return Ok(()) };
            // EXISTS does not ask which rows there are, and DataFusion may leave their number out.
            if subquery.limit_clause.is_some() {
                return Err(SqlError::unsupported(
                    "(a, b) IN (SELECT … LIMIT n) is not supported; write the first rows as WITH first AS (SELECT … ORDER BY … LIMIT n) and join it",
                ));
            }
            let subquery = with_names(subquery, Named::Twins);
            let names: Vec<String> = (1..=columns.len()).map(|number| format!("\"value {number}\"")).collect();
            let equal = |(name, column): (&String, &ast::Expr)| format!("\"values\".{name} = ({column})");
            let equals: Vec<String> = names.iter().zip(columns).map(equal).collect();
            let (not, of_null) = if negated { ("NOT ", " IS NOT FALSE") } else { ("", "") };
            *condition = parser::expression(&format!(
                "{not}EXISTS (SELECT 1 FROM ({subquery}) AS \"values\" ({}) WHERE ({}){of_null})",
                names.join(", "),
                equals.join(" AND ")
            ))?;
            Ok(())
        }
    }
}

/// The plan with another name for what a subquery of IN gives, where in the join that DataFusion makes of it that could not be told apart: from what it is
/// compared with, as in `window_start IN (SELECT window_start …)`, if neither belongs to a table; or, in a condition that says more, as
/// `a IN (SELECT max(b) …) OR c`, from the subquery's own column.
pub(super) fn told_apart(plan: LogicalPlan) -> Result<LogicalPlan> {
    let node = |plan: LogicalPlan| -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Filter(filter) => {
                let terms = split_conjunction_owned(filter.predicate.clone()).into_iter().map(|term| {
                    let is_part = !is_in_subquery(&term);
                    term.transform_up(|expression| renamed(expression, is_part))
                });
                let terms = terms.collect::<Result<Vec<_>>>()?;
                if !terms.iter().any(|term| term.transformed) {
                    return Ok(Transformed::no(LogicalPlan::Filter(filter)));
                }
                let predicate = conjunction(terms.into_iter().map(|term| term.data)).unwrap_or(filter.predicate);
                Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
            }
            _ => Ok(Transformed::no(plan)),
        }
    };
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

fn is_in_subquery(condition: &Expr) -> bool {
    match condition {
        Expr::Not(denied) => matches!(denied.as_ref(), Expr::InSubquery(_)),
        other => matches!(other, Expr::InSubquery(_)),
    }
}

/// `is_part`: of a condition that says more.
fn renamed(expression: Expr, is_part: bool) -> Result<Transformed<Expr>> {
    let Expr::InSubquery(mut within) = expression else { return Ok(Transformed::no(expression)) };
    let query = within.subquery.subquery.as_ref();
    let (qualifier, field) = query.schema().qualified_field(0);
    let is_twin = within.expr.column_refs().into_iter().any(|column| column.relation.is_none() && column.name == *field.name());
    let is_bare = |given: Option<Expr>| matches!(given, Some(Expr::Column(column)) if column.relation.is_none());
    if !(is_twin || is_part && is_bare(query.head_output_expr()?)) {
        return Ok(Transformed::no(Expr::InSubquery(within)));
    }
    let other = Expr::Column(Column::from((qualifier, field))).alias(format!("{} of subquery", field.name()));
    within.subquery.subquery = LogicalPlanBuilder::from(query.clone()).project([other])?.build()?.into();
    Ok(Transformed::yes(Expr::InSubquery(within)))
}
