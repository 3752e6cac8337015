//! Distinct values of several expressions, counted together.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, VisitMut};

use super::{
    building::{call, only, plain, set_arguments, text},
    calls::is_distinct,
};
use crate::walk::visit_expressions_mut;

/// `count(DISTINCT a, b)` counts the rows of both, of which neither is NULL: DataFusion counts distinct values of one expression alone.
pub(super) fn count_together(node: &mut impl VisitMut) {
    let done: ControlFlow<()> = visit_expressions_mut(node, |expression| {
        if let Expr::Function(function) = expression
            && let Some(arguments) = counted_together(function)
        {
            let fields = arguments.iter().enumerate().flat_map(|(index, value)| [text(&format!("c{index}")), value.clone()]);
            set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(call("named_struct", fields)))]);
            let are_there = arguments.into_iter().map(|value| Expr::IsNotNull(Box::new(Expr::Nested(Box::new(value)))));
            let and = |left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) };
            if let Some(condition) = are_there.reduce(and) {
                only(function, condition);
            }
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
}

fn counted_together(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let is_count = function.name.to_string().eq_ignore_ascii_case("count");
    plain(&list.args).filter(|arguments| is_count && is_distinct(list) && arguments.len() > 1)
}
