//! Clauses of aggregates and of window functions after functions that are neither, refused by the functions that a state knows.
use std::ops::ControlFlow;

use datafusion::{
    execution::SessionState,
    sql::sqlparser::ast::{Expr, Function, Visit},
};

use crate::{
    error::SqlError,
    parser::{clause_of, folded, takes_no},
    walk::visit_expressions,
};

/// Refuses what DataFusion would pass over: `abs(x) FILTER (WHERE …)`, `lag(DISTINCT x) OVER (…)`.
pub(crate) fn refuse_misplaced(node: &impl Visit, state: &SessionState) -> Result<(), SqlError> {
    let found = visit_expressions(node, |expression| match expression {
        Expr::Function(function) => refusal(function, state).map_or(ControlFlow::Continue(()), ControlFlow::Break),
        _ => ControlFlow::Continue(()),
    });
    match found {
        ControlFlow::Break(message) => Err(SqlError::unsupported(message)),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn refusal(function: &Function, state: &SessionState) -> Option<String> {
    let clause = clause_of(function)?;
    let [name] = function.name.0.as_slice() else { return None };
    let name = folded(name.as_ident()?);
    if state.scalar_functions().contains_key(&name) {
        return Some(takes_no(&name, clause));
    }
    let is_window = state.window_functions().contains_key(&name) && !state.aggregate_functions().contains_key(&name);
    (is_window && clause == "DISTINCT").then(|| format!("{name} takes no DISTINCT, which is for aggregates; leave it out"))
}
