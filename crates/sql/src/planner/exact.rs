//! What arrow computes otherwise than SQL, put right by what stands before it. A CAST of a time to fewer digits goes down, not
//! towards 1970. Both zeros of floats are one partition and peers `OVER`, as they are one group. A `RANGE` of times of day is one of times of one day.
//! A subquery that may have no row may be NULL, where DataFusion asks only whether its column may be.
//! And a backslash that a regular expression asks for is one: of `a ~ 'x\\'` DataFusion makes a LIKE, to which it escapes what follows.
use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    common::{
        Column, DFSchema, Result, ScalarValue,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        Aggregate, BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, WindowFrameBound,
        WindowFrameUnits, WindowFunctionDefinition,
        expr::{ScalarFunction, Sort, WindowFunction},
        expr_rewriter::NamePreserver,
        lit,
        utils::{grouping_set_to_exprlist, merge_schema},
    },
};

use super::{event_time::unaliased, one_group};
use crate::functions;

/// Functions OVER that give peers one answer, whatever the frame.
const OF_PEERS: [&str; 4] = ["rank", "dense_rank", "percent_rank", "cume_dist"];

/// Functions OVER that take a row of the frame, as aggregates take all of them.
const OF_FRAMES: [&str; 3] = ["first_value", "last_value", "nth_value"];

/// Operators whose right side is a regular expression.
const MATCHES: [Operator; 4] = [Operator::RegexMatch, Operator::RegexIMatch, Operator::RegexNotMatch, Operator::RegexNotIMatch];

/// Functions that are a CAST of their first argument.
const CASTS: [&str; 2] = ["arrow_cast", "arrow_try_cast"];

/// How a backslash may be asked for.
const BACKSLASHES: [&str; 4] = [r"\\", r"\x", r"\u", r"\U"];

/// The same plan, answering as SQL says.
pub(super) fn put_right(plan: LogicalPlan) -> Result<LogicalPlan> {
    let node = |plan: LogicalPlan| match plan {
        LogicalPlan::Aggregate(aggregate) if one_group::times(&aggregate) > 0 => {
            let times = one_group::times(&aggregate);
            let once = expressions_put_right(LogicalPlan::Aggregate(one_group::ungrouped(aggregate)?))?.data;
            Ok(Transformed::yes(one_group::repeated(once, times)?))
        }
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(is_grouping_set) => with_columns_grouped(aggregate),
        other => expressions_put_right(other),
    };
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

fn expressions_put_right(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&plan.inputs());
    // What is sorted once has one order.
    let order = match &plan {
        LogicalPlan::Window(window) => Order::of(&window.window_expr),
        _ => Order::default(),
    };
    let names = NamePreserver::new(&plan);
    let is_condition = matches!(plan, LogicalPlan::Filter(_));
    plan.map_expressions(|expression| {
        let name = names.save(&expression);
        let changed = expression.transform_up(|part| match part {
            Expr::WindowFunction(function) => Ok(order.put_right(function, &schema)),
            other => part_put_right(other, &schema),
        })?;
        Ok(changed.update_data(|changed| name.restore(if is_condition { compared(changed) } else { changed })))
    })
}

fn part_put_right(part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let part = with_backslashes(part).transform_data(|part| Ok(cast_down(part, schema)))?;
    part.transform_data(|part| Ok(with_null(part)))
}

/// A subquery in a view that stands beneath has it already.
fn with_null(part: Expr) -> Transformed<Expr> {
    match part {
        Expr::ScalarSubquery(subquery) => {
            let plan = &subquery.subquery;
            let is_known = plan.schema().fields().iter().all(|field| field.is_nullable()) || has_a_row(plan);
            let value = Expr::ScalarSubquery(subquery);
            if is_known { Transformed::no(value) } else { Transformed::yes(functions::or_null().call(vec![value])) }
        }
        Expr::ScalarFunction(mut function) if is_or_null(&function) => match function.args.pop() {
            Some(Expr::ScalarFunction(inner)) if is_or_null(&inner) => Transformed::yes(Expr::ScalarFunction(inner)),
            value => {
                function.args.extend(value);
                Transformed::no(Expr::ScalarFunction(function))
            }
        },
        other => Transformed::no(other),
    }
}

/// A comparison of WHERE that is NULL is as good as false: a subquery's value is left as it is there, so that rows are joined by
/// it.
fn compared(condition: Expr) -> Expr {
    use Operator::{And, Eq, Gt, GtEq, Lt, LtEq, NotEq};
    let (side, BinaryExpr { left, op, right }): (fn(Expr) -> Expr, _) = match condition {
        Expr::BinaryExpr(both) if both.op == And => (compared, both),
        Expr::BinaryExpr(both) if matches!(both.op, Eq | NotEq | Lt | LtEq | Gt | GtEq) => (without_null, both),
        other => return other,
    };
    Expr::BinaryExpr(BinaryExpr::new(Box::new(side(*left)), op, Box::new(side(*right))))
}

fn without_null(value: Expr) -> Expr {
    match value {
        Expr::ScalarFunction(mut function) if is_or_null(&function) && function.args.len() == 1 => function.args.remove(0),
        other => other,
    }
}

fn is_or_null(function: &ScalarFunction) -> bool {
    function.func.name() == functions::OR_NULL
}

/// Whether a plan gives a row whatever there is.
fn has_a_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(relation) => relation.produce_one_row,
        LogicalPlan::Values(_) => true,
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Subquery(_) => {
            plan.inputs().into_iter().all(has_a_row)
        }
        _ => false,
    }
}

/// Within grouping sets expressions have no name to keep, and `grouping()` finds its argument among them by what is written: those that are put right
/// become columns beneath, and have their names above.
fn with_columns_grouped(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let mut selected: Vec<Expr> = aggregate.input.schema().columns().into_iter().map(Expr::Column).collect();
    let mut beneath: Vec<(Expr, Expr)> = vec![];
    for group in grouping_set_to_exprlist(&aggregate.group_expr)? {
        let right = group.clone().transform_up(|part| part_put_right(part, aggregate.input.schema()))?;
        if right.transformed {
            let name = format!("__grouped_{}", beneath.len());
            selected.push(right.data.alias(&name));
            beneath.push((group.clone(), Expr::Column(Column::new_unqualified(name))));
        }
    }
    let input = match beneath.is_empty() {
        true => aggregate.input.clone(),
        false => Arc::new(LogicalPlanBuilder::from(aggregate.input.as_ref().clone()).project(selected)?.build()?),
    };
    let of_columns = |expression: Expr| {
        expression.transform_down(|part| {
            Ok(match beneath.iter().find(|(group, _)| *group == part) {
                Some((_, column)) => Transformed::new(column.clone(), true, TreeNodeRecursion::Jump),
                None => Transformed::no(part),
            })
        })
    };
    let mut transformed = !beneath.is_empty();
    let groups = aggregate.group_expr.iter().map(|group| Ok(of_columns(group.clone())?.data)).collect::<Result<Vec<_>>>()?;
    let mut aggregates = Vec::with_capacity(aggregate.aggr_expr.len());
    for call in &aggregate.aggr_expr {
        let right = of_columns(call.clone())?.data.transform_up(|part| part_put_right(part, input.schema()))?;
        transformed |= right.transformed;
        aggregates.push(right.data);
    }
    if !transformed {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let right = LogicalPlan::Aggregate(Aggregate::try_new(input, groups, aggregates)?);
    let named = aggregate.schema.iter().zip(right.schema().columns());
    let named = named
        .filter(|((_, field), _)| field.name() != Aggregate::INTERNAL_GROUPING_ID)
        .map(|((relation, field), column)| match (column.relation.as_ref(), &column.name) == (relation, field.name()) {
            true => Expr::Column(column),
            false => Expr::Column(column).alias_qualified(relation.cloned(), field.name()),
        })
        .collect::<Vec<_>>();
    Ok(Transformed::yes(LogicalPlanBuilder::from(right).project(named)?.build()?))
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

fn cast_down(mut expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let to = match &expression {
        Expr::Cast(cast) => cast.field.data_type().clone(),
        Expr::TryCast(cast) => cast.field.data_type().clone(),
        Expr::ScalarFunction(function) if CASTS.contains(&function.func.name()) => match expression.get_type(schema) {
            Ok(to) => to,
            Err(_) => return Transformed::no(expression),
        },
        _ => return Transformed::no(expression),
    };
    let time = match &mut expression {
        Expr::Cast(cast) => &mut *cast.expr,
        Expr::TryCast(cast) => &mut *cast.expr,
        Expr::ScalarFunction(function) if !function.args.is_empty() => &mut function.args[0],
        _ => return Transformed::no(expression),
    };
    // Of a view that stands beneath it was put right before.
    if !matches!(to, DataType::Timestamp(..)) || is_whole(time) {
        return Transformed::no(expression);
    }
    let Ok(from) = time.get_type(schema) else { return Transformed::no(expression) };
    let whole = whole_units(time.clone(), &from, &to);
    if whole == *time {
        return Transformed::no(expression);
    }
    *time = whole;
    Transformed::yes(expression)
}

/// A pattern that asks for a backslash as a group, of which no LIKE is made.
fn with_backslashes(mut expression: Expr) -> Transformed<Expr> {
    let pattern = match &mut expression {
        Expr::BinaryExpr(matching) if MATCHES.contains(&matching.op) => &mut *matching.right,
        Expr::ScalarFunction(function) if function.func.name() == "regexp_like" && function.args.len() > 1 => &mut function.args[1],
        _ => return Transformed::no(expression),
    };
    let written = match &*pattern {
        Expr::Literal(written, _) => {
            written.try_as_str().flatten().filter(|written| BACKSLASHES.iter().any(|asked| written.contains(asked)))
        }
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

/// What the functions of a node, which share their partitions and their order, need these to be.
#[derive(Clone, Copy, Default)]
struct Order {
    /// Rows that are equal by a key of the order are answered alike, or told apart by another key.
    has_equals: bool,
    /// Frames end so far from the row's own value.
    has_offsets: bool,
}

impl Order {
    fn of(calls: &[Expr]) -> Self {
        calls.iter().map(Self::of_call).fold(Self::default(), |all, each| Self {
            has_equals: all.has_equals || each.has_equals,
            has_offsets: all.has_offsets || each.has_offsets,
        })
    }

    fn of_call(call: &Expr) -> Self {
        let Expr::WindowFunction(function) = unaliased(call) else { return Self::default() };
        let (name, params) = (function.fun.name(), &function.params);
        let (frame, order) = (&params.window_frame, &params.order_by);
        let is_partition = |sort: &Sort| params.partition_by.contains(&sort.expr);
        let is_aggregate = matches!(function.fun, WindowFunctionDefinition::AggregateUDF(_));
        let by_value = frame.units != WindowFrameUnits::Rows && (is_aggregate || OF_FRAMES.contains(&name));
        let is_offset = |bound: &WindowFrameBound| !matches!(bound, WindowFrameBound::CurrentRow) && !bound.is_unbounded();
        Self {
            has_equals: by_value || OF_PEERS.contains(&name) || order.len() > 1 || order.iter().any(is_partition),
            has_offsets: frame.units == WindowFrameUnits::Range && (is_offset(&frame.start_bound) || is_offset(&frame.end_bound)),
        }
    }

    fn put_right(self, mut function: Box<WindowFunction>, schema: &DFSchema) -> Transformed<Expr> {
        // Keys of records are what they are as bytes.
        if function.fun.name() == functions::LAST_RECORD {
            return Transformed::no(Expr::WindowFunction(function));
        }
        let mut changed = false;
        for key in &mut function.params.partition_by {
            changed |= add_zero(key, schema);
        }
        for sort in &mut function.params.order_by {
            changed |= self.has_equals && add_zero(&mut sort.expr, schema);
            changed |= self.has_offsets && put_on_a_day(&mut sort.expr, schema);
        }
        let expression = Expr::WindowFunction(function);
        if changed { Transformed::yes(expression) } else { Transformed::no(expression) }
    }
}

/// Makes one of both zeros, where there are two.
fn add_zero(value: &mut Expr, schema: &DFSchema) -> bool {
    let Ok(data_type) = value.get_type(schema) else { return false };
    let Ok(zero) = ScalarValue::new_zero(&data_type) else { return false };
    if !data_type.is_floating() || adds(value, &zero) {
        return false;
    }
    *value = value.clone() + lit(zero);
    true
}

/// DataFusion has no frames around a time of day.
fn put_on_a_day(time: &mut Expr, schema: &DFSchema) -> bool {
    if !matches!(time.get_type(schema), Ok(DataType::Time32(_) | DataType::Time64(_))) {
        return false;
    }
    let steps = [DataType::Time64(TimeUnit::Nanosecond), DataType::Int64, DataType::Timestamp(TimeUnit::Nanosecond, None)];
    *time = steps.into_iter().fold(time.clone(), |value, step| Expr::Cast(Cast::new(Box::new(value), step)));
    true
}

fn adds(expression: &Expr, zero: &ScalarValue) -> bool {
    let Expr::BinaryExpr(BinaryExpr { op: Operator::Plus, right, .. }) = expression else { return false };
    matches!(right.as_ref(), Expr::Literal(added, _) if added == zero)
}
