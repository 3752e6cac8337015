//! What sqlparser reads and DataFusion passes over, answers wrongly, or would change something by: refused by name, with what to write instead.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, GroupByExpr, Query, Select, Statement, TableFactor, Visit, Visitor};

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
        if query.locks.is_empty() {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break("FOR UPDATE and FOR SHARE do not exist, as there are no locks; leave them out".into())
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
        if select.prewhere.is_some() {
            return ControlFlow::Break("PREWHERE is not supported; write WHERE".into());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<String> {
        let (TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. }) = table else {
            return ControlFlow::Continue(());
        };
        ControlFlow::Break("TABLESAMPLE is not supported; choose rows by a column: WHERE id % 10 = 0".into())
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
            _ => ControlFlow::Continue(()),
        }
    }
}
