//! Which columns tell that rows with their value can come no more.
//!
//! A window `[s, e)` is closed once the watermark is at or past `e`, and rows of closed windows are late and never reach the dataflow. So a column that
//! is derived from a table's event time tells, by its value alone, when the groups and rows that hold it are finished.
use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Int64Type, TimeUnit},
};
use datafusion::{
    common::{Result, ScalarValue},
    logical_expr::Operator as BinaryOperator,
    physical_expr::{
        ScalarFunctionExpr,
        expressions::{BinaryExpr, CastExpr, Column, Literal},
    },
    physical_plan::PhysicalExpr,
};

/// Of a column: no row with value `v` comes any more once the watermark is at or past `v + closes_after_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeColumn {
    pub closes_after_us: i64,
}

/// Per column of an operator's output.
pub type TimeColumns = Vec<Option<TimeColumn>>;

/// What an expression over columns of event time says.
pub fn of_expression(
    expression: &Arc<dyn PhysicalExpr>,
    input: &[Option<TimeColumn>],
    granule_us: Option<i64>,
) -> Option<TimeColumn> {
    if let Some(column) = expression.downcast_ref::<Column>() {
        return input.get(column.index()).copied().flatten();
    }
    if let Some(cast) = expression.downcast_ref::<CastExpr>() {
        let to = cast.cast_type();
        return matches!(to, DataType::Timestamp(_, _)).then(|| of_expression(cast.expr(), input, granule_us)).flatten();
    }
    if let Some(function) = expression.downcast_ref::<ScalarFunctionExpr>() {
        return of_function(function, input, granule_us);
    }
    let binary = expression.downcast_ref::<BinaryExpr>()?;
    let moved_us = literal_us(binary.right())?;
    let time = of_expression(binary.left(), input, granule_us)?;
    match binary.op() {
        BinaryOperator::Plus if moved_us >= 0 => Some(TimeColumn { closes_after_us: time.closes_after_us - moved_us }),
        // A microsecond more, so that no width is a multiple of it: windows over earlier times close later than those that the late filter knows.
        BinaryOperator::Minus if moved_us >= 0 => Some(TimeColumn { closes_after_us: time.closes_after_us + moved_us + 1 }),
        _ => None,
    }
}

/// `date_bin(width, time)` closes with its bin: rows are late only when the first window that closes with them is closed. `event_time(x)` marks a computed
/// column that the watermark follows.
fn of_function(function: &ScalarFunctionExpr, input: &[Option<TimeColumn>], granule_us: Option<i64>) -> Option<TimeColumn> {
    let arguments = function.args();
    let argument = |index: usize| arguments.get(index);
    let (time, closes_after_us) = match function.name() {
        "event_time" => return granule_us.map(of_source),
        "date_bin" => (argument(1)?, literal_us(argument(0)?)?),
        // Starts of windows of the size that is the third argument.
        "hop_starts" => (argument(0)?, literal_us(argument(2)?)?),
        "cumulate_ends" => (argument(0)?, 0),
        _ => return None,
    };
    let behind_us = of_expression(time, input, granule_us)?.closes_after_us;
    // Windows that hold whole granules, or whole smaller windows, close with the last of them; others once nothing up to their end comes any more.
    let is_aligned =
        behind_us > 0 && (Some(behind_us) == granule_us.map(|granule_us| granule_us.max(1)) || closes_after_us % behind_us == 0);
    Some(TimeColumn { closes_after_us: if is_aligned { closes_after_us } else { closes_after_us + behind_us.max(0) } })
}

/// Of a table's own event time: a row is late once its granule's end is reached; without granules, once the watermark has passed it.
pub fn of_source(granule_us: i64) -> TimeColumn {
    TimeColumn { closes_after_us: granule_us.max(1) }
}

/// A literal interval of fixed length.
fn literal_us(expression: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    let literal = expression.downcast_ref::<Literal>()?;
    match literal.value() {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 => {
            Some(i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1_000)
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            Some(i64::from(interval.days) * 86_400_000_000 + i64::from(interval.milliseconds) * 1_000)
        }
        // Lengths of our own functions are in microseconds.
        ScalarValue::Int64(Some(micros)) => Some(*micros),
        ScalarValue::DurationSecond(Some(seconds)) => Some(seconds * 1_000_000),
        ScalarValue::DurationMillisecond(Some(millis)) => Some(millis * 1_000),
        ScalarValue::DurationMicrosecond(Some(micros)) => Some(*micros),
        ScalarValue::DurationNanosecond(Some(nanos)) => Some(nanos / 1_000),
        _ => None,
    }
}

/// A timestamp column in microseconds.
pub fn microseconds(column: &ArrayRef) -> Result<ArrayRef> {
    let data_type = DataType::Timestamp(TimeUnit::Microsecond, None);
    Ok(match column.data_type() {
        DataType::Int64 => column.clone(),
        _ => cast(&cast(column, &data_type)?, &DataType::Int64)?,
    })
}

/// When each row closes, by the column that closes it first. `None` in a row: never.
pub(crate) fn expiries(columns: &[(ArrayRef, TimeColumn)]) -> Result<Vec<Option<i64>>> {
    let mut expiries = vec![];
    for (column, time) in columns {
        let micros = microseconds(column)?;
        let micros = micros.as_primitive::<Int64Type>();
        expiries.resize(micros.len(), None);
        for (row, expiry) in expiries.iter_mut().enumerate().filter(|(row, _)| micros.is_valid(*row)) {
            let at = micros.value(row).saturating_add(time.closes_after_us);
            *expiry = Some(expiry.map_or(at, |known: i64| known.min(at)));
        }
    }
    Ok(expiries)
}
