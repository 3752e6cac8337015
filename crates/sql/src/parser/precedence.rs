//! `a IS DISTINCT FROM b AND c` is `(a IS DISTINCT FROM b) AND c`, where sqlparser takes all that follows for the right side. Its tree is turned to what was meant: what
//! binds less tightly than its parent, and stands in no parentheses, comes from there.
use std::{mem, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value, VisitMut};

use crate::walk::visit_expressions_mut;

pub(super) fn mend<T: VisitMut>(node: &mut T) {
    // Those inside come first.
    let done: ControlFlow<()> = visit_expressions_mut(node, |expression| {
        turn(expression);
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
}

/// Lifts an AND or OR from the right side of what binds more tightly.
fn turn(expression: &mut Expr) {
    let (tightness, right) = match expression {
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => (3, right),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => (3, expr),
        Expr::BinaryOp { op: BinaryOperator::And, right, .. } => (2, right),
        _ => return,
    };
    let looser = match right.as_ref() {
        Expr::BinaryOp { op: BinaryOperator::And, .. } => 2,
        Expr::BinaryOp { op: BinaryOperator::Or, .. } => 1,
        _ => return,
    };
    if looser >= tightness {
        return;
    }
    let Expr::BinaryOp { left, op, right: rest } = mem::replace(right.as_mut(), Expr::Value(Value::Null.into())) else { return };
    **right = *left;
    turn(expression);
    let left = mem::replace(expression, Expr::Value(Value::Null.into()));
    *expression = Expr::BinaryOp { left: Box::new(left), op, right: rest };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::parse;

    #[test]
    fn what_follows_is_no_part_of_the_right_side() {
        for (written, meant) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            ("a IS NOT DISTINCT FROM b OR c", "(a IS NOT DISTINCT FROM b) OR c"),
            ("a IS DISTINCT FROM b AND c OR d", "((a IS DISTINCT FROM b) AND c) OR d"),
            ("e AND a IS DISTINCT FROM b OR c AND d", "(e AND (a IS DISTINCT FROM b)) OR (c AND d)"),
            ("e OR a IS DISTINCT FROM b AND c", "e OR ((a IS DISTINCT FROM b) AND c)"),
            ("NOT a IS DISTINCT FROM b AND c", "(NOT (a IS DISTINCT FROM b)) AND c"),
            ("a IS DISTINCT FROM b AND c IS DISTINCT FROM d OR e", "((a IS DISTINCT FROM b) AND (c IS DISTINCT FROM d)) OR e"),
            ("a IS DISTINCT FROM (b AND c)", "a IS DISTINCT FROM (b AND c)"),
            ("NOT (a AND b)", "NOT (a AND b)"),
        ] {
            // Told apart by how they nest, not by how they are written.
            let tree = |condition: &str| {
                let statement = parse(&format!("SELECT 1 FROM t WHERE {condition}")).unwrap().remove(0);
                let crate::statement::StatementKind::Query(query) = statement.kind else { panic!("{condition} is a query") };
                bracketed(query.ast.body.as_select().unwrap().selection.as_ref().unwrap())
            };
            assert_eq!(tree(written), tree(meant), "{written}");
        }
    }

    /// With a pair of brackets around every operation.
    fn bracketed(expression: &Expr) -> String {
        match expression {
            Expr::Nested(inner) => bracketed(inner),
            Expr::BinaryOp { left, op, right } => format!("[{} {op} {}]", bracketed(left), bracketed(right)),
            Expr::UnaryOp { op, expr } => format!("[{op} {}]", bracketed(expr)),
            Expr::IsDistinctFrom(left, right) => format!("[{} <> {}]", bracketed(left), bracketed(right)),
            Expr::IsNotDistinctFrom(left, right) => format!("[{} == {}]", bracketed(left), bracketed(right)),
            other => other.to_string(),
        }
    }
}
