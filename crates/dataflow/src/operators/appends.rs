//! Which window functions leave the rows of a partition as they are when others come behind them, and how many rows before the new
//! ones these need. Only functions that are known to do so count: what is taken back later is computed of all rows, and must be the
//! same to the bit; and a partition that fails with some rows must be seen to fail with more.
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::{
    common::{
        ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Operator, WindowFrame, WindowFrameBound, WindowFrameUnits},
    physical_expr::{
        aggregate::AggregateFunctionExpr,
        expressions::{BinaryExpr, CaseExpr, Column, IsNotNullExpr, IsNullExpr, Literal, NotExpr},
        window::{PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr},
    },
    physical_plan::{PhysicalExpr, windows::WindowUDFExpr},
};

use super::may_fail;

/// The rows before new ones of which those are computed: all.
pub(super) const ALL: usize = usize::MAX;

/// Windows in which rows keep their values when others come behind them.
#[derive(Debug)]
pub struct Appends {
    /// So many rows before the new ones are needed to compute these.
    pub(super) context: usize,
    /// The expressions that count rows from the partition's first on.
    pub(super) numbers: Vec<usize>,
}

impl Appends {
    /// `None`: rows may change when others come behind them. `input`: the columns of the rows.
    pub fn of(expressions: &[Arc<dyn WindowExpr>], input: &Schema) -> Option<Self> {
        let contexts: Option<Vec<usize>> = expressions.iter().map(|expression| context_of(expression.as_ref(), input)).collect();
        let context = contexts?.into_iter().max()?;
        let is_number = |expression: &Arc<dyn WindowExpr>| {
            expression.as_any().downcast_ref::<StandardWindowExpr>().and_then(name_of) == Some("row_number")
        };
        let numbers = (0..expressions.len()).filter(|&at| is_number(&expressions[at])).collect();
        Some(Self { context, numbers })
    }
}

/// So many rows before its own an expression needs; `None`: its value may change when rows come behind.
pub(super) fn context_of(expression: &dyn WindowExpr, input: &Schema) -> Option<usize> {
    let any = expression.as_any();
    let context = if let Some(standard) = any.downcast_ref::<StandardWindowExpr>() {
        of_standard(standard)?
    } else if let Some(sliding) = any.downcast_ref::<SlidingAggregateWindowExpr>() {
        of_aggregate(sliding.get_aggregate_expr(), expression.get_window_frame())?
    } else {
        let plain = any.downcast_ref::<PlainAggregateWindowExpr>()?;
        of_aggregate(plain.get_aggregate_expr(), expression.get_window_frame())?
    };
    expression.expressions().iter().all(|argument| is_sure(argument, input)).then_some(context)
}

pub(super) fn name_of(standard: &StandardWindowExpr) -> Option<&str> {
    Some(standard.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>()?.fun().name())
}

fn of_standard(standard: &StandardWindowExpr) -> Option<usize> {
    match name_of(standard)? {
        "row_number" => Some(0),
        "rank" | "dense_rank" => Some(ALL),
        "lag" | "lag_ignore_nulls" => {
            let evaluator = standard.get_standard_func_expr().create_evaluator().ok()?;
            // A row far from the first and the last one; with a negative offset it looks ahead.
            let (row, rows) = (ALL / 4, ALL / 2);
            let range = evaluator.get_range(row, rows).ok().filter(|_| evaluator.is_causal())?;
            Some(row - range.start)
        }
        "first_value" | "last_value" | "nth_value" => of_frame(standard.get_window_frame()),
        "first_value_ignore_nulls" | "last_value_ignore_nulls" | "nth_value_ignore_nulls" => of_frame(standard.get_window_frame()),
        _ => None,
    }
}

fn of_aggregate(function: &AggregateFunctionExpr, frame: &WindowFrame) -> Option<usize> {
    let context = of_frame(frame)?;
    let (name, field) = (function.fun().name(), function.field());
    let data_type = field.data_type();
    let is_extreme = matches!(name, "min" | "max");
    // Sums and averages of decimals may not fit.
    if data_type.is_decimal() && !is_extreme {
        return None;
    }
    // Others are what they are by all that the frame slid over: sums of floats are rounded.
    let is_of_frame = match name {
        "count" => true,
        "sum" => data_type.is_integer(),
        _ if is_extreme => {
            let is_plain = data_type.is_integer() || data_type.is_temporal() || data_type.is_decimal();
            is_plain || data_type.is_string() || *data_type == DataType::Boolean
        }
        _ => false,
    };
    Some(if is_of_frame && !function.is_distinct() { context } else { ALL })
}

/// How many rows before its row a frame of ROWS reaches, if it ends at that row or before. Peers share the other frames.
fn of_frame(frame: &WindowFrame) -> Option<usize> {
    if frame.units != WindowFrameUnits::Rows || !frame.is_causal() {
        return None;
    }
    match &frame.start_bound {
        WindowFrameBound::Preceding(ScalarValue::UInt64(None)) => Some(ALL),
        WindowFrameBound::Preceding(ScalarValue::UInt64(Some(rows))) => usize::try_from(*rows).ok(),
        WindowFrameBound::CurrentRow => Some(0),
        _ => None,
    }
}

/// Whether no row on which an argument fails comes to a window, whose partition it would make fail: nothing in it can fail, or a
/// guard in front has evaluated all of it.
pub(super) fn is_sure(argument: &Arc<dyn PhysicalExpr>, input: &Schema) -> bool {
    let is_guarded = may_fail(argument, input);
    let is_binary_sure = |binary: &BinaryExpr| match binary.op() {
        // A guard may not have evaluated the other side, by what other rows came with a row.
        Operator::And | Operator::Or => !is_guarded,
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => true,
        Operator::Plus | Operator::Minus | Operator::Multiply => {
            is_guarded || binary.data_type(input).is_ok_and(|data_type| data_type.is_integer())
        }
        _ => is_guarded,
    };
    let is_plain = |part: &Arc<dyn PhysicalExpr>| {
        part.is::<Column>()
            || part.is::<Literal>()
            || part.is::<CaseExpr>()
            || part.is::<NotExpr>()
            || part.is::<IsNullExpr>()
            || part.is::<IsNotNullExpr>()
    };
    let mut is_sure = true;
    let walked = argument.apply(|part| {
        is_sure &= match part.downcast_ref::<BinaryExpr>() {
            Some(binary) => is_binary_sure(binary),
            None => is_guarded || is_plain(part),
        };
        Ok(if is_sure { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    is_sure && walked.is_ok()
}
