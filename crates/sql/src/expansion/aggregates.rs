//! Users' functions whose expressions have aggregates: what a call says of its rows (`DISTINCT`, `FILTER`, `OVER`) each of these says once the call is
//! written out. A function without any is computed row by row, and takes none of it.
use std::{convert::Infallible, ops::ControlFlow};

use datafusion::{
    execution::SessionState,
    sql::sqlparser::ast::{DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, WindowType},
};

use super::{name_of, volatile_of};
use crate::{
    error::SqlError,
    names::quoted,
    parser::{clause_beside_rows, clause_of, folded, is_distinct, only, takes_no},
    statement::{CreateFunction, Parameter},
    walk::visit_expressions,
};

/// What a function's expression has of them, once the calls in it are written out.
pub(super) struct Aggregates {
    pub count: usize,
    /// Whether each is of the function's only parameter and of nothing else: different values of it are then different ones of each.
    are_of_parameter: bool,
}

impl Aggregates {
    pub(super) fn of(function: &CreateFunction, state: &SessionState) -> Self {
        let only_parameter = match function.parameters.as_slice() {
            [parameter] => Some(parameter),
            _ => None,
        };
        let mut found = Self { count: 0, are_of_parameter: true };
        let _: ControlFlow<Infallible> = visit_expressions(&*function.body, |part| {
            if let Expr::Function(call) = part
                && is_aggregate(call, state)
            {
                found.count += 1;
                found.are_of_parameter &= only_parameter.is_some_and(|parameter| is_of(call, parameter));
            }
            ControlFlow::Continue(())
        });
        found
    }
}

/// Whether it is a call of an aggregate that `state` has, of the rows of a group.
pub(super) fn is_aggregate(call: &Function, state: &SessionState) -> bool {
    call.over.is_none() && name_of(call).is_some_and(|name| state.aggregate_functions().contains_key(&name))
}

fn is_of(call: &Function, parameter: &Parameter) -> bool {
    let FunctionArguments::List(list) = &call.args else { return false };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(name)))] = list.args.as_slice() else { return false };
    folded(name) == parameter.name && list.clauses.is_empty() && call.within_group.is_empty() && call.filter.is_none()
}

/// What a call says of the rows that it is of.
pub(super) struct Rows<'a> {
    is_distinct: bool,
    filter: Option<&'a Expr>,
    over: Option<&'a WindowType>,
}

impl<'a> Rows<'a> {
    /// # Errors
    /// When the function's aggregates cannot say it for the call.
    pub(super) fn of(
        call: &'a Function,
        function: &CreateFunction,
        aggregates: &Aggregates,
        state: &SessionState,
    ) -> Result<Self, SqlError> {
        let name = &function.name;
        if aggregates.count == 0 {
            return match clause_of(call) {
                Some(clause) => Err(SqlError::unsupported(takes_no(name, clause))),
                None => Ok(Self { is_distinct: false, filter: None, over: None }),
            };
        }
        let is_distinct = matches!(&call.args, FunctionArguments::List(list) if is_distinct(list));
        if is_distinct && !aggregates.are_of_parameter {
            return Err(SqlError::unsupported(format!(
                "function {name} takes no DISTINCT, which is for one whose aggregates are all of a single parameter itself; call it over rows that differ: SELECT {}(…) FROM (SELECT DISTINCT … FROM …)",
                quoted(name)
            )));
        }
        if let Some(clause) = clause_beside_rows(call) {
            return Err(SqlError::unsupported(format!(
                "function {name} takes no {clause}; write it at the aggregates in the function that are to have it"
            )));
        }
        let rows = Self { is_distinct, filter: call.filter.as_deref(), over: call.over.as_ref() };
        if aggregates.count > 1
            && let Some((clause, volatile)) = rows.volatile(state)
        {
            return Err(SqlError::unsupported(format!(
                "function {name} has several aggregates, and {volatile}() in its {clause} gives each other rows; compute it in a subquery of FROM"
            )));
        }
        Ok(rows)
    }

    /// How long it is where it is written out.
    pub(super) fn bytes(&self) -> usize {
        self.filter.map_or(0, |filter| filter.to_string().len()) + self.over.map_or(0, |over| over.to_string().len())
    }

    /// Has an aggregate of the function say it.
    pub(super) fn put_on(&self, aggregate: &mut Function) {
        if self.is_distinct
            && let FunctionArguments::List(list) = &mut aggregate.args
        {
            list.duplicate_treatment = Some(DuplicateTreatment::Distinct);
        }
        if let Some(filter) = self.filter {
            only(aggregate, filter.clone());
        }
        aggregate.over = self.over.cloned();
    }

    /// A function that answers differently each time, and where it stands.
    fn volatile(&self, state: &SessionState) -> Option<(&'static str, String)> {
        let filter = self.filter.and_then(|filter| volatile_of(filter, state));
        let over = || self.over.and_then(|over| volatile_of(over, state));
        filter.map(|volatile| ("FILTER", volatile)).or_else(|| over().map(|volatile| ("OVER", volatile)))
    }
}
