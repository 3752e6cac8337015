//! What sqlparser reads and DataFusion passes over, answers wrongly, or would change something by: refused by name, with what to write instead.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Join, JoinConstraint, JoinOperator, Query, Select, SetExpr, SetOperator, SetQuantifier,
    Statement, TableFactor, UnaryOperator, Visit, Visitor, visit_expressions,
};

use crate::{error::SqlError, location::Location};

/// Refuses what queries cannot say.
pub(super) fn refuse(query: &Query, at: Location) -> Result<(), SqlError> {
    match query.visit(&mut Clauses) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(SqlError::unsupported_at(at, message)),
    }
}

struct Clauses;

impl Visitor for Clauses {
    type Break = String;

    fn pre_visit_statement(&mut self, _: &Statement) -> ControlFlow<String> {
        ControlFlow::Break("a query only reads; write INSERT INTO t SELECT … as a statement of its own".into())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        if !query.locks.is_empty() {
            return ControlFlow::Break("FOR UPDATE and FOR SHARE do not exist, as there are no locks; leave them out".into());
        }
        if query.fetch.is_some() {
            return ControlFlow::Break("FETCH FIRST n ROWS is not supported; write LIMIT n".into());
        }
        if asks_in_values(&query.body) {
            return ControlFlow::Break(
                "VALUES with a subquery is not supported; write INSERT INTO … SELECT 'a', (SELECT max(x) FROM u), and UNION ALL between several rows"
                    .into(),
            );
        }
        let Some(operator) = counted(&query.body) else { return ControlFlow::Continue(()) };
        ControlFlow::Break(format!(
            "{operator} ALL is not supported; write {operator} for rows that differ, or number equal ones: ROW_NUMBER() OVER (PARTITION BY every column)"
        ))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = &select.group_by;
        if let Some(modifier) = modifiers.first() {
            let message =
                format!("GROUP BY … {modifier} is not supported; write GROUP BY ROLLUP (…), CUBE (…) or GROUPING SETS (…)");
            return ControlFlow::Break(message);
        }
        if select.into.is_some() {
            return ControlFlow::Break("SELECT … INTO does not exist; write CREATE TABLE and INSERT INTO t SELECT …".into());
        }
        if !select.lateral_views.is_empty() {
            return ControlFlow::Break(
                "LATERAL VIEW is not supported; write FROM t CROSS JOIN UNNEST(array) AS x (item) for explode(array)".into(),
            );
        }
        if select.prewhere.is_some() {
            return ControlFlow::Break("PREWHERE is not supported; write WHERE".into());
        }
        select.from.iter().try_for_each(|table| refuse_joins(&table.joins))
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<String> {
        match table {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                ControlFlow::Break("TABLESAMPLE is not supported; choose rows by a column: WHERE id % 10 = 0".into())
            }
            TableFactor::Pivot { .. } | TableFactor::Unpivot { .. } => ControlFlow::Break(
                "PIVOT and UNPIVOT are not supported; write sum(v) FILTER (WHERE k = 'a') AS a, or UNION ALL".into(),
            ),
            TableFactor::NestedJoin { table_with_joins, .. } => refuse_joins(&table_with_joins.joins),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<String> {
        match expression {
            Expr::SimilarTo { .. } => {
                ControlFlow::Break("SIMILAR TO is not supported; write LIKE, or a regular expression: text ~ '^f.*$'".into())
            }
            Expr::AnyOp { compare_op, right, .. } if matches!(right.as_ref(), Expr::Subquery(_)) => {
                let remedy = match compare_op {
                    BinaryOperator::Eq => "write IN (SELECT …)",
                    BinaryOperator::Lt | BinaryOperator::LtEq => "compare with (SELECT max(…) …)",
                    BinaryOperator::Gt | BinaryOperator::GtEq => "compare with (SELECT min(…) …)",
                    _ => "write EXISTS (SELECT 1 … WHERE …)",
                };
                ControlFlow::Break(format!("{compare_op} ANY (SELECT …) is not supported; {remedy}"))
            }
            Expr::AllOp { compare_op, right, .. } if matches!(right.as_ref(), Expr::Subquery(_)) => {
                let remedy = match compare_op {
                    BinaryOperator::NotEq => "write NOT IN (SELECT …)",
                    BinaryOperator::Lt | BinaryOperator::LtEq => "compare with (SELECT min(…) …)",
                    BinaryOperator::Gt | BinaryOperator::GtEq => "compare with (SELECT max(…) …)",
                    _ => "write NOT EXISTS (SELECT 1 … WHERE …)",
                };
                ControlFlow::Break(format!("{compare_op} ALL (SELECT …) is not supported; {remedy}"))
            }
            Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner)
            | Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
                if in_subquery(inner).is_some() =>
            {
                ControlFlow::Break(KNOWN.into())
            }
            Expr::IsTrue(inner) | Expr::IsNotTrue(inner) if in_subquery(inner) == Some(true) => ControlFlow::Break(KNOWN.into()),
            // NOT (… AND …) is the OR of what it denies.
            Expr::BinaryOp { op: BinaryOperator::Or, .. } | Expr::UnaryOp { op: UnaryOperator::Not, .. } if is_or_of_not_in(expression) => {
                ControlFlow::Break(
                    "NOT IN (SELECT …) beside OR is not supported, as a NULL would count as true; write NOT EXISTS (SELECT 1 … WHERE …), or two queries with UNION"
                        .into(),
                )
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

const KNOWN: &str = "whether IN (SELECT …) is NULL, false or not true cannot be asked, as a NULL would count as false; write NOT EXISTS (SELECT 1 … WHERE …), or EXISTS";

/// Whether IN of a subquery, in brackets too, is negated.
fn in_subquery(expression: &Expr) -> Option<bool> {
    match expression {
        Expr::Nested(inner) => in_subquery(inner),
        Expr::InSubquery { negated, .. } => Some(*negated),
        _ => None,
    }
}

/// Whether VALUES has a subquery, of which DataFusion makes no plan.
fn asks_in_values(body: &SetExpr) -> bool {
    match body {
        SetExpr::Values(values) => has_query(values),
        SetExpr::SetOperation { left, right, .. } => asks_in_values(left) || asks_in_values(right),
        _ => false,
    }
}

/// Whether one of its expressions asks a query.
pub(super) fn has_query<T: Visit>(node: &T) -> bool {
    let found = visit_expressions(node, |expression| match expression {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// EXCEPT or INTERSECT that counts how often a row is there.
fn counted(body: &SetExpr) -> Option<SetOperator> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return None };
    let counts = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName) && *op != SetOperator::Union;
    if counts { Some(*op) } else { counted(left).or_else(|| counted(right)) }
}

/// Joins that DataFusion does not know, and those by columns of the same name where the left side may lack a row: such a column is the left one's
/// alone to DataFusion, and NULL there.
fn refuse_joins(joins: &[Join]) -> ControlFlow<String> {
    if joins.iter().any(|join| matches!(join.join_operator, JoinOperator::AsOf { .. })) {
        return ControlFlow::Break(
            "ASOF JOIN is not supported; write JOIN … ON a.k = b.k AND b.ts <= a.ts, and keep the newest: ROW_NUMBER() OVER (PARTITION BY a.id ORDER BY b.ts DESC) = 1"
                .into(),
        );
    }
    let refused = joins.iter().find_map(|join| match &join.join_operator {
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => Some(("RIGHT", constraint)),
        JoinOperator::FullOuter(constraint) => Some(("FULL", constraint)),
        _ => None,
    });
    match refused.filter(|(_, constraint)| matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural)) {
        Some((words, _)) => ControlFlow::Break(format!(
            "{words} JOIN by columns of the same name (USING, NATURAL) is not supported; write {words} JOIN … ON a.k = b.k, and select coalesce(a.k, b.k) AS k"
        )),
        None => ControlFlow::Continue(()),
    }
}

fn is_or_of_not_in(condition: &Expr) -> bool {
    match condition {
        Expr::BinaryOp { op: BinaryOperator::Or, .. } => has_not_in(condition, false),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            let mut denied = expr.as_ref();
            while let Expr::Nested(inner) = denied {
                denied = inner;
            }
            matches!(denied, Expr::BinaryOp { op: BinaryOperator::And, .. }) && has_not_in(denied, true)
        }
        _ => false,
    }
}

/// Whether a condition, or its contrary, says of a subquery what it has not.
fn has_not_in(condition: &Expr, is_contrary: bool) -> bool {
    match condition {
        // Of several columns EXISTS is made, to which a NULL is false.
        Expr::InSubquery { expr, .. } if matches!(expr.as_ref(), Expr::Tuple(_)) => false,
        Expr::InSubquery { negated, .. } => *negated != is_contrary,
        Expr::Nested(inner) => has_not_in(inner, is_contrary),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => has_not_in(expr, !is_contrary),
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            has_not_in(left, is_contrary) || has_not_in(right, is_contrary)
        }
        _ => false,
    }
}
