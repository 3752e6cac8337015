//! Expressions of a whole query that are marked for DataFusion, which would take them for others.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, UnaryOperator};

use super::building::{call, text};
use crate::{
    functions::{NAMED_CAST, NEGATIVE},
    walk::visit_expressions_mut,
};

/// A query in which each CAST has a name of its own: to DataFusion a cast is called as what is cast, so that `sum(a)` and `sum(CAST(a AS DOUBLE))` could
/// not stand in one query.
pub(crate) fn with_named_casts(query: &Query) -> Query {
    let mut query = query.clone();
    let done: ControlFlow<()> = visit_expressions_mut(&mut query, |expression| {
        if let Expr::Cast { data_type, .. } = expression {
            let words = text(&data_type.to_string());
            *expression = call(NAMED_CAST, [expression.clone(), words]);
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
    query
}

/// A query whose `-x` are functions that take what is counted without a sign, too. Numbers as they are written stay.
pub(crate) fn with_negatives(query: &Query) -> Query {
    let mut query = query.clone();
    let done: ControlFlow<()> = visit_expressions_mut(&mut query, |expression| {
        if let Expr::UnaryOp { op: UnaryOperator::Minus, expr } = expression
            && !matches!(expr.as_ref(), Expr::Value(_) | Expr::Interval(_))
        {
            *expression = call(NEGATIVE, [(**expr).clone()]);
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
    query
}
