//! Aggregates that are of an order: `max_by(a, b)` is `last_value(a ORDER BY b)`, and `percentile_disc`, `mode` and `nth_value` of a group are items of the
//! array of its values in their order.
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments, OrderByExpr,
    OrderByOptions,
};

use super::building::{MAX_REPEATED, call, number, only, rename, set_arguments, text};

/// The value in the row with the least or the greatest `order`, which is not NULL.
pub(super) fn by_order(name: &str, value: Expr, order: Expr, function: &mut Function) {
    rename(function, name);
    // A number by itself would be the place of a column.
    let order = if matches!(order, Expr::Value(_)) { Expr::Nested(Box::new(order)) } else { order };
    let ascending =
        OrderByExpr { expr: order.clone(), options: OrderByOptions { asc: Some(true), nulls_first: None }, with_fill: None };
    set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value))]);
    if let FunctionArguments::List(list) = &mut function.args {
        list.clauses.push(FunctionArgumentClause::OrderBy(vec![ascending]));
    }
    only(function, Expr::IsNotNull(Box::new(order)));
}

/// `percentile_disc(share) WITHIN GROUP (ORDER BY value)`: the first value, in their order, up to which there is so large a share of them. PostgreSQL
/// reckons its number in floats, too.
pub(super) fn in_order(function: &Function, share: &Expr) -> Result<Expr, String> {
    let is_share = share.to_string().parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share));
    let ([order], true, None) = (function.within_group.as_slice(), is_share, &function.over) else {
        return Err(
            "percentile_disc takes a share between 0 and 1 and one order, and no OVER: percentile_disc(0.5) WITHIN GROUP (ORDER BY x)".into(),
        );
    };
    let values = sorted(function, order)?;
    let count = Box::new(Expr::Function(over_order("count", function, order)));
    let rows = Expr::BinaryOp { left: Box::new(share.clone()), op: BinaryOperator::Multiply, right: count };
    let place = call("arrow_cast", [call("greatest", [call("ceil", [rows]), number(1)]), text("Int64")]);
    Ok(call("array_element", [values, place]))
}

/// `mode() WITHIN GROUP (ORDER BY value)`: the value that comes most often, the first in their order of those that do.
pub(super) fn most_frequent(function: &Function, arguments: &[Expr]) -> Result<Expr, String> {
    match (function.within_group.as_slice(), &function.over, arguments) {
        ([order], None, []) => Ok(call("longest_run", [sorted(function, order)?])),
        _ => Err("mode takes one order, nothing else, and no OVER: mode() WITHIN GROUP (ORDER BY x)".into()),
    }
}

/// `nth_value(value, n ORDER BY other)` of a group: an item of the array of its values, as jobs keep these.
pub(super) fn nth(function: &Function, value: &Expr, place: &Expr) -> Expr {
    let mut values = function.clone();
    rename(&mut values, "array_agg");
    set_arguments(&mut values, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value.clone()))]);
    call("array_element", [Expr::Function(values), place.clone()])
}

/// The array of what is there of an aggregate's order, in that order.
fn sorted(function: &Function, order: &OrderByExpr) -> Result<Expr, String> {
    // It stands there several times.
    if order.expr.to_string().len() > MAX_REPEATED {
        return Err(format!("the order of {} is longer than {MAX_REPEATED} bytes; compute it in a subquery", function.name));
    }
    let mut values = over_order("array_agg", function, order);
    if let FunctionArguments::List(list) = &mut values.args {
        list.clauses.push(FunctionArgumentClause::OrderBy(vec![order.clone()]));
    }
    only(&mut values, Expr::IsNotNull(Box::new(Expr::Nested(Box::new(order.expr.clone())))));
    Ok(Expr::Function(values))
}

/// Another aggregate, of what is ordered by.
fn over_order(name: &str, function: &Function, order: &OrderByExpr) -> Function {
    let mut aggregate = function.clone();
    aggregate.within_group.clear();
    rename(&mut aggregate, name);
    set_arguments(&mut aggregate, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(order.expr.clone()))]);
    aggregate
}
