//! What arrow computes otherwise than SQL, put right by what stands before it. A CAST of a time to fewer digits goes down, not
//! towards 1970. `rank()` and its like over floats take both zeros for peers, as groups do. And a backslash that a regular expression
//! asks for is one: of `a ~ 'x\\'` DataFusion makes a LIKE, to which it escapes what follows.
use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    common::{
        DFSchema, Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, expr::WindowFunction, expr_rewriter::NamePreserver, lit,
        utils::merge_schema,
    },
};

use crate::functions;

/// Functions OVER that give peers one answer.
const OF_PEERS: [&str; 4] = ["rank", "dense_rank", "percent_rank", "cume_dist"];

/// Operators whose right side is a regular expression.
const MATCHES: [Operator; 4] = [Operator::RegexMatch, Operator::RegexIMatch, Operator::RegexNotMatch, Operator::RegexNotIMatch];

/// The same plan, answering as SQL says.
pub(super) fn put_right(plan: LogicalPlan) -> Result<LogicalPlan> {
    let node = |plan: LogicalPlan| {
        // Grouping sets have no name to keep, and grouping() finds its argument among them by what is written.
        if matches!(&plan, LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(is_grouping_set)) {
            return Ok(Transformed::no(plan));
        }
        let schema = merge_schema(&plan.inputs());
        // What is sorted once has one order.
        let has_peers = matches!(&plan, LogicalPlan::Window(window) if window.window_expr.iter().any(is_of_peers));
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expression| {
            let name = names.save(&expression);
            let changed = expression.transform_up(|expression| {
                Ok(match expression {
                    Expr::WindowFunction(function) if has_peers => ordered_with_one_zero(function, &schema),
                    other => with_backslashes(other).transform_data(|other| Ok(cast_down(other, &schema)))?,
                })
            })?;
            Ok(changed.update_data(|changed| name.restore(changed)))
        })
    };
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

/// The time without the digits that a cast between these types takes.
pub(super) fn whole_units(time: Expr, from: &DataType, to: &DataType) -> Expr {
    let (DataType::Timestamp(from, _), DataType::Timestamp(to, _)) = (from, to) else { return time };
    let unit = match to {
        _ if from <= to => return time,
        TimeUnit::Second => "second",
        TimeUnit::Millisecond => "millisecond",
        TimeUnit::Microsecond => "microsecond",
        TimeUnit::Nanosecond => return time,
    };
    functions::whole_units().call(vec![lit(unit), time])
}

fn cast_down(expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let (time, to) = match &expression {
        Expr::Cast(cast) => (&cast.expr, cast.field.data_type()),
        Expr::TryCast(cast) => (&cast.expr, cast.field.data_type()),
        _ => return Transformed::no(expression),
    };
    // Of a view that stands beneath it was put right before.
    if !matches!(to, DataType::Timestamp(..)) || is_whole(time) {
        return Transformed::no(expression);
    }
    let Ok(from) = time.get_type(schema) else { return Transformed::no(expression) };
    let whole = whole_units(time.as_ref().clone(), &from, to);
    if whole == **time {
        return Transformed::no(expression);
    }
    Transformed::yes(match expression {
        Expr::Cast(mut cast) => {
            *cast.expr = whole;
            Expr::Cast(cast)
        }
        Expr::TryCast(mut cast) => {
            *cast.expr = whole;
            Expr::TryCast(cast)
        }
        other => other,
    })
}

/// A pattern that asks for a backslash as a group, of which no LIKE is made.
fn with_backslashes(mut expression: Expr) -> Transformed<Expr> {
    let pattern = match &mut expression {
        Expr::BinaryExpr(matching) if MATCHES.contains(&matching.op) => &mut *matching.right,
        Expr::ScalarFunction(function) if function.func.name() == "regexp_like" && function.args.len() > 1 => &mut function.args[1],
        _ => return Transformed::no(expression),
    };
    let written = match &*pattern {
        Expr::Literal(written, _) => written.try_as_str().flatten().filter(|written| written.contains(r"\\")),
        _ => None,
    };
    let Some(group) = written.map(|written| format!("({written})")) else { return Transformed::no(expression) };
    *pattern = lit(group);
    Transformed::yes(expression)
}

fn is_grouping_set(group: &Expr) -> bool {
    matches!(group, Expr::GroupingSet(_))
}

fn is_whole(time: &Expr) -> bool {
    matches!(time, Expr::ScalarFunction(function) if function.func.name() == functions::WHOLE_UNITS)
}

fn is_of_peers(expression: &Expr) -> bool {
    match expression {
        Expr::Alias(alias) => is_of_peers(&alias.expr),
        Expr::WindowFunction(function) => OF_PEERS.contains(&function.fun.name()),
        _ => false,
    }
}

fn ordered_with_one_zero(mut function: Box<WindowFunction>, schema: &DFSchema) -> Transformed<Expr> {
    let mut changed = false;
    for sort in &mut function.params.order_by {
        let Ok(data_type) = sort.expr.get_type(schema) else { continue };
        let Ok(zero) = ScalarValue::new_zero(&data_type) else { continue };
        if data_type.is_floating() && !adds(&sort.expr, &zero) {
            sort.expr = sort.expr.clone() + lit(zero);
            changed = true;
        }
    }
    let expression = Expr::WindowFunction(function);
    if changed { Transformed::yes(expression) } else { Transformed::no(expression) }
}

fn adds(expression: &Expr, zero: &ScalarValue) -> bool {
    let Expr::BinaryExpr(BinaryExpr { op: Operator::Plus, right, .. }) = expression else { return false };
    matches!(right.as_ref(), Expr::Literal(added, _) if added == zero)
}
