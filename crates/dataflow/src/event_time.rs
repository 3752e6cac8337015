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

/// Of a column: no row with value `v` comes or goes any more once the watermark is at or past `v`, rounded down to a multiple of `step_us`, plus
/// `closes_after_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeColumn {
    pub closes_after_us: i64,
    pub step_us: i64,
}

impl TimeColumn {
    /// Of `v + moved_us`, where this is of `v`.
    fn moved(self, moved_us: i64) -> Self {
        Self { closes_after_us: self.closes_after_us - moved_us, step_us: gcd(self.step_us, moved_us) }
    }

    /// Of `v` rounded down to multiples of `width_us`.
    fn rounded(self, width_us: i64) -> Option<Self> {
        if width_us <= 0 {
            return None;
        }
        if self.step_us % width_us == 0 {
            return Some(self);
        }
        // The last value in `[s, s + width)` is a step before its end; of other steps, it closes when all before the end have.
        let last_us = if width_us % self.step_us == 0 { width_us - self.step_us } else { width_us };
        Some(Self { closes_after_us: last_us + self.closes_after_us, step_us: width_us })
    }

    /// Of rows that are there when both are, where the other's value is at most `ahead_us` more than this one's.
    pub(crate) fn with_other(self, other: Self, ahead_us: i64) -> Self {
        Self {
            closes_after_us: self.closes_after_us.max(ahead_us.saturating_add(other.closes_after_us)),
            step_us: gcd(gcd(self.step_us, other.step_us), ahead_us),
        }
    }

    /// Of rows that come from either.
    pub(crate) fn or(self, other: Self) -> Self {
        self.with_other(other, 0)
    }
}

/// At least 1.
fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.saturating_abs(), b.saturating_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
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
        let DataType::Timestamp(unit, _) = cast.cast_type() else { return None };
        return of_expression(cast.expr(), input, granule_us)?.rounded(unit_us(*unit));
    }
    if let Some(function) = expression.downcast_ref::<ScalarFunctionExpr>() {
        return of_function(function, input, granule_us);
    }
    let binary = expression.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        BinaryOperator::Plus => match (literal_us(left), literal_us(right)) {
            (None, Some(moved_us)) => Some(of_expression(left, input, granule_us)?.moved(moved_us)),
            (Some(moved_us), None) => Some(of_expression(right, input, granule_us)?.moved(moved_us)),
            _ => None,
        },
        BinaryOperator::Minus => Some(of_expression(left, input, granule_us)?.moved(-literal_us(right)?)),
        _ => None,
    }
}

/// The column that an expression rounds down to multiples of a length.
pub(crate) fn rounded_column(expression: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    let function = expression.downcast_ref::<ScalarFunctionExpr>()?;
    let [width, time] = function.args() else { return None };
    let is_bin = function.name() == "date_bin" && literal_us(width).is_some_and(|width_us| width_us > 0);
    time.downcast_ref::<Column>().filter(|_| is_bin).map(Column::index)
}

/// How coarse timestamps of a unit are, in whole microseconds.
pub(crate) fn unit_us(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond | TimeUnit::Nanosecond => 1,
    }
}

/// Bins and windows hold whole steps of the times that they are made of, or close once nothing before their end comes any more. `event_time(x)` marks a
/// computed column that the watermark follows.
fn of_function(function: &ScalarFunctionExpr, input: &[Option<TimeColumn>], granule_us: Option<i64>) -> Option<TimeColumn> {
    let arguments = function.args();
    let time = |index: usize| of_expression(arguments.get(index)?, input, granule_us);
    let length = |index: usize| literal_us(arguments.get(index)?);
    // Where bins begin, as the time that they count from.
    let origin = |index: usize| arguments.get(index).map_or(Some(0), origin_us);
    match function.name() {
        "event_time" => granule_us.map(of_source),
        "date_bin" => {
            let (width_us, origin_us) = (length(0)?, origin(2)?);
            Some(time(1)?.moved(-origin_us).rounded(width_us)?.moved(origin_us))
        }
        "date_trunc" => time(1)?.rounded(truncation_us(arguments.first()?)?),
        // Starts of windows of the size that is the third argument.
        "hop_starts" => {
            let (slide_us, size_us, offset_us) = (length(1)?, length(2)?, length(3)?);
            Some(of_window(time(0)?, size_us, gcd(slide_us, offset_us)))
        }
        // Their ends.
        "cumulate_ends" => {
            let (step_us, size_us, offset_us) = (length(1)?, length(2)?, length(3)?);
            Some(of_window(time(0)?, 0, gcd(gcd(step_us, size_us), offset_us)))
        }
        _ => None,
    }
}

/// Of bounds of windows, multiples of `step_us`, that end `ends_after_us` after the bound.
fn of_window(time: TimeColumn, ends_after_us: i64, step_us: i64) -> TimeColumn {
    let is_whole = ends_after_us % time.step_us == 0 && step_us % time.step_us == 0;
    let last_us = if is_whole { ends_after_us - time.step_us } else { ends_after_us };
    TimeColumn { closes_after_us: last_us + time.closes_after_us, step_us }
}

/// Of a table's own event time: a row is late once its granule's end is reached; without granules, once the watermark has passed it.
pub fn of_source(granule_us: i64) -> TimeColumn {
    TimeColumn { closes_after_us: granule_us.max(1), step_us: granule_us.max(1) }
}

/// The length of what `date_trunc` truncates to, where it has one.
fn truncation_us(expression: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    let literal = expression.downcast_ref::<Literal>()?.value().try_as_str()??.to_ascii_lowercase();
    Some(match literal.as_str() {
        "microsecond" => 1,
        "millisecond" => 1_000,
        "second" => 1_000_000,
        "minute" => 60_000_000,
        "hour" => 3_600_000_000,
        "day" => 86_400_000_000,
        _ => return None,
    })
}

fn origin_us(expression: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    match expression.downcast_ref::<Literal>()?.value() {
        ScalarValue::TimestampSecond(Some(at), _) => at.checked_mul(1_000_000),
        ScalarValue::TimestampMillisecond(Some(at), _) => at.checked_mul(1_000),
        ScalarValue::TimestampMicrosecond(Some(at), _) => Some(*at),
        ScalarValue::TimestampNanosecond(Some(at), _) => (at % 1_000 == 0).then_some(at / 1_000),
        _ => None,
    }
}

/// A literal interval of fixed length.
pub(crate) fn literal_us(expression: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    let literal = expression.downcast_ref::<Literal>()?;
    match literal.value() {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 && interval.nanoseconds % 1_000 == 0 => {
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
        ScalarValue::DurationNanosecond(Some(nanos)) => (nanos % 1_000 == 0).then_some(nanos / 1_000),
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
            let value = micros.value(row);
            let at = (value - value.rem_euclid(time.step_us)).saturating_add(time.closes_after_us);
            *expiry = Some(expiry.map_or(at, |known: i64| known.min(at)));
        }
    }
    Ok(expiries)
}

/// When rows with these columns are dropped, for EXPLAIN.
pub(crate) fn dropped(times: &[(String, TimeColumn)]) -> String {
    let bound = |(name, time): &(String, TimeColumn)| match time.closes_after_us {
        0 | 1 => name.clone(),
        after if after < 0 => format!("{name} - {}", length(-after)),
        after => format!("{name} + {}", length(after)),
    };
    match times {
        [] => "never dropped".into(),
        times => format!("dropped once the watermark passes {}", times.iter().map(bound).collect::<Vec<_>>().join(" or ")),
    }
}

pub(crate) fn length(us: i64) -> String {
    match us {
        // Of times without granules, which are late only behind the watermark.
        _ if us % 1_000_000 == 1 => length(us - 1),
        _ if us % 1_000_000 == 0 => format!("{} s", us / 1_000_000),
        _ if us % 1_000 == 0 => format!("{} ms", us / 1_000),
        _ => format!("{us} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(closes_after_us: i64, step_us: i64) -> TimeColumn {
        TimeColumn { closes_after_us, step_us }
    }

    #[test]
    fn bins_close_with_their_last_granule() {
        assert_eq!(of_source(2).rounded(10), Some(time(10, 10)));
        assert_eq!(of_source(0).rounded(10), Some(time(10, 10)));
        // A bin of bins, and one that cuts them.
        assert_eq!(time(10, 10).rounded(30), Some(time(30, 30)));
        assert_eq!(time(10, 10).rounded(15), Some(time(25, 15)));
        // The end of a bin, and the last millisecond of it.
        assert_eq!(time(10, 10).moved(10), time(0, 10));
        assert_eq!(time(10_000, 10_000).moved(9_000).rounded(20_000), Some(time(20_000, 20_000)));
        assert_eq!(of_source(10).rounded(0), None);
    }

    #[test]
    fn hops_over_hops_close_with_the_last_that_begins_in_them() {
        let starts = of_window(of_source(2), 4, 2);
        assert_eq!(starts, time(4, 2));
        assert_eq!(starts.rounded(4), Some(time(6, 4)));
    }

    #[test]
    fn what_needs_two_closes_with_the_later() {
        assert_eq!(time(1, 1).with_other(time(1, 1), 10), time(11, 1));
        assert_eq!(time(10, 10).with_other(time(10, 10), 0), time(10, 10));
        assert_eq!(time(10, 10).with_other(time(1, 1), -20), time(10, 1));
    }

    #[test]
    fn explain_says_when() {
        assert_eq!(dropped(&[]), "never dropped");
        assert_eq!(dropped(&[("ts".into(), time(10_000_001, 1))]), "dropped once the watermark passes ts + 10 s");
    }
}
