//! Which columns tell that rows with their value can come no more.
//!
//! A window `[s, e)` is closed once the watermark is at or past `e`, and rows of closed windows are late and never reach the dataflow. So a column that
//! is derived from a table's event time tells, by its value alone, when the groups and rows that hold it are finished.
//!
//! Where late rows are allowed the watermark here is so much behind the one that the tables tell of, and all of this holds as it stands.
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

mod closed;

pub(crate) use closed::has_closed;

/// When a job's windows end, by which its rows are late: a row is on time as long as none of the windows that it falls into has ended, and these have not
/// while the watermark is below the first end above the row's time. So rows below the last end that the watermark has passed are late, and no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lateness {
    /// Ends lie so far apart, and so far after the multiples of that.
    ends: Vec<(i64, i64)>,
}

impl Lateness {
    /// Of windows that end every so many microseconds, so many after the multiples of that; where there are any. What ends with every microsecond makes rows
    /// late as soon as their time is below the watermark.
    pub fn of(ends: impl IntoIterator<Item = (i64, i64)>) -> Option<Self> {
        let within = |(every_us, offset_us): (i64, i64)| (every_us.max(1), offset_us.rem_euclid(every_us.max(1)));
        let mut ends: Vec<(i64, i64)> = ends.into_iter().map(within).collect();
        ends.sort_unstable();
        ends.dedup();
        (!ends.is_empty()).then_some(Self { ends })
    }

    /// Rows whose time is below this are late: the last end of a window that is not above the watermark.
    pub fn late_before_us(&self, watermark_us: i64) -> i64 {
        let last_end = |&(every_us, offset_us): &(i64, i64)| {
            let past_us = (watermark_us.rem_euclid(every_us) - offset_us).rem_euclid(every_us);
            watermark_us.saturating_sub(past_us)
        };
        self.ends.iter().map(last_end).max().unwrap_or(i64::MIN)
    }

    /// Whether rows are late by each of these ends.
    fn has(&self, every_us: i64, offset_us: i64) -> bool {
        every_us > 0 && self.ends.iter().any(|(known_us, at_us)| every_us % known_us == 0 && (offset_us - at_us) % known_us == 0)
    }

    /// Whether all ends are multiples of a length.
    fn is_in_steps_of(&self, length_us: i64) -> bool {
        self.ends.iter().all(|(every_us, offset_us)| every_us % length_us == 0 && offset_us % length_us == 0)
    }
}

/// Of a column: no row with value `v` comes or goes any more once the watermark is at or past `v`, rounded down to a multiple of `step_us`, plus
/// `closes_after_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeColumn {
    pub closes_after_us: i64,
    pub step_us: i64,
    /// It is a table's own event time, whose rows come no more as soon as they are late: windows over it close at their ends, however the job's other
    /// windows lie.
    pub is_source: bool,
}

impl TimeColumn {
    /// Of `v + moved_us`, where this is of `v`.
    fn moved(self, moved_us: i64) -> Self {
        Self {
            closes_after_us: self.closes_after_us.saturating_sub(moved_us),
            step_us: gcd(self.step_us, moved_us),
            is_source: self.is_source && moved_us == 0,
        }
    }

    /// So much before the watermark closes it.
    pub(crate) fn earlier(self, by_us: i64) -> Self {
        Self { closes_after_us: self.closes_after_us.saturating_sub(by_us), ..self }
    }

    /// Of `v` rounded down to multiples of `width_us`.
    fn rounded(self, width_us: i64) -> Option<Self> {
        if width_us <= 0 {
            return None;
        }
        if self.step_us % width_us == 0 {
            return Some(Self { is_source: self.is_source && width_us == 1, ..self });
        }
        // The last value in `[s, s + width)` is a step before its end; of other steps, it closes when all before the end have.
        let last_us = if width_us % self.step_us == 0 { width_us - self.step_us } else { width_us };
        Some(Self { closes_after_us: last_us + self.closes_after_us, step_us: width_us, is_source: false })
    }

    /// Of rows that are there when both are, where the other's value is at most `ahead_us` more than this one's.
    pub(crate) fn with_other(self, other: Self, ahead_us: i64) -> Self {
        Self {
            closes_after_us: self.closes_after_us.max(ahead_us.saturating_add(other.closes_after_us)),
            step_us: gcd(gcd(self.step_us, other.step_us), ahead_us),
            is_source: self.is_source && other.is_source && ahead_us == 0,
        }
    }

    /// Of rows that come only when a timer fires, which may be later than the last of what they are made of.
    pub(crate) fn delayed(self) -> Self {
        Self { is_source: false, ..self }
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
    lateness: Option<&Lateness>,
) -> Option<TimeColumn> {
    if let Some(column) = expression.downcast_ref::<Column>() {
        return input.get(column.index()).copied().flatten();
    }
    if let Some(cast) = expression.downcast_ref::<CastExpr>() {
        let DataType::Timestamp(unit, zone) = cast.cast_type() else { return None };
        // A cast to another zone moves what has none.
        if zone.as_ref().is_some_and(|zone| !is_utc(zone)) {
            return None;
        }
        let time = of_expression(cast.expr(), input, lateness)?;
        // What is rounded to whole units is late when it was before.
        let is_source = time.is_source && lateness.is_some_and(|lateness| lateness.is_in_steps_of(unit_us(*unit)));
        return time.rounded(unit_us(*unit)).map(|rounded| TimeColumn { is_source, ..rounded });
    }
    if let Some(function) = expression.downcast_ref::<ScalarFunctionExpr>() {
        return of_function(function, input, lateness);
    }
    let binary = expression.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        BinaryOperator::Plus => match (literal_us(left), literal_us(right)) {
            (None, Some(moved_us)) => Some(of_expression(left, input, lateness)?.moved(moved_us)),
            (Some(moved_us), None) => Some(of_expression(right, input, lateness)?.moved(moved_us)),
            _ => None,
        },
        BinaryOperator::Minus => Some(of_expression(left, input, lateness)?.moved(literal_us(right)?.checked_neg()?)),
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
fn of_function(function: &ScalarFunctionExpr, input: &[Option<TimeColumn>], lateness: Option<&Lateness>) -> Option<TimeColumn> {
    let arguments = function.args();
    let time = |index: usize| of_expression(arguments.get(index)?, input, lateness);
    let length = |index: usize| literal_us(arguments.get(index)?);
    // Where bins begin, as the time that they count from.
    let origin = |index: usize| arguments.get(index).map_or(Some(0), origin_us);
    // Windows by whose ends rows are late close at their ends.
    let ends = |time: TimeColumn, every_us: i64, offset_us: i64| {
        time.is_source && lateness.is_some_and(|lateness| lateness.has(every_us, offset_us))
    };
    let closing = |closes_after_us: i64, step_us: i64| TimeColumn { closes_after_us, step_us, is_source: false };
    match function.name() {
        "event_time" => lateness.map(of_source),
        // The cast above it says what is left of the time.
        "whole_units" => time(1),
        "date_bin" => {
            let (time, width_us, origin_us) = (time(1)?, length(0)?, origin(2)?);
            if ends(time, width_us, origin_us) {
                return Some(closing(width_us, gcd(width_us, origin_us)));
            }
            Some(time.moved(-origin_us).rounded(width_us)?.moved(origin_us))
        }
        "date_trunc" => {
            let (time, (width_us, offset_us)) = (time(1)?, truncation_us(arguments.first()?)?);
            if ends(time, width_us, offset_us) {
                return Some(closing(width_us, gcd(width_us, offset_us)));
            }
            Some(time.moved(-offset_us).rounded(width_us)?.moved(offset_us))
        }
        // Starts of windows of the size that is the third argument.
        "hop_starts" => {
            let (slide_us, size_us, offset_us) = (length(1)?, length(2)?, length(3)?);
            let (time, step_us) = (time(0)?, gcd(slide_us, offset_us));
            if ends(time, slide_us, offset_us.saturating_add(size_us)) {
                return Some(closing(size_us, step_us));
            }
            Some(of_window(time, size_us, step_us))
        }
        // Their ends.
        "cumulate_ends" => {
            let (every_us, size_us, offset_us) = (length(1)?, length(2)?, length(3)?);
            let (time, step_us) = (time(0)?, gcd(gcd(every_us, size_us), offset_us));
            if ends(time, every_us, offset_us) { Some(closing(0, step_us)) } else { Some(of_window(time, 0, step_us)) }
        }
        _ => None,
    }
}

/// Of bounds of windows, multiples of `step_us`, that end `ends_after_us` after the bound.
fn of_window(time: TimeColumn, ends_after_us: i64, step_us: i64) -> TimeColumn {
    let is_whole = ends_after_us % time.step_us == 0 && step_us % time.step_us == 0;
    let last_us = if is_whole { ends_after_us - time.step_us } else { ends_after_us };
    TimeColumn { closes_after_us: last_us + time.closes_after_us, step_us, is_source: false }
}

/// Of a table's own event time: of the windows that end most often, one has ended so long after a row at the latest.
pub fn of_source(lateness: &Lateness) -> TimeColumn {
    let (every_us, offset_us) = lateness.ends.first().copied().unwrap_or((1, 0));
    TimeColumn { closes_after_us: every_us, step_us: gcd(every_us, offset_us), is_source: true }
}

pub(crate) fn is_utc(zone: &str) -> bool {
    zone.eq_ignore_ascii_case("utc") || zone == "+00:00"
}

/// The length of what `date_trunc` truncates to, where it has one, and where it begins: weeks on Mondays, and 1970 on a Thursday.
fn truncation_us(expression: &Arc<dyn PhysicalExpr>) -> Option<(i64, i64)> {
    const DAY_US: i64 = 86_400_000_000;
    let literal = expression.downcast_ref::<Literal>()?.value().try_as_str()??.to_ascii_lowercase();
    Some(match literal.as_str() {
        "microsecond" => (1, 0),
        "millisecond" => (1_000, 0),
        "second" => (1_000_000, 0),
        "minute" => (60_000_000, 0),
        "hour" => (3_600_000_000, 0),
        "day" => (DAY_US, 0),
        "week" => (7 * DAY_US, 4 * DAY_US),
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

/// `None`: more than there is room for.
fn days_us(days: i32) -> Option<i64> {
    i64::from(days).checked_mul(86_400_000_000)
}

/// A literal interval of fixed length.
pub(crate) fn literal_us(expression: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    let literal = expression.downcast_ref::<Literal>()?;
    match literal.value() {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 && interval.nanoseconds % 1_000 == 0 => {
            days_us(interval.days)?.checked_add(interval.nanoseconds / 1_000)
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            days_us(interval.days)?.checked_add(i64::from(interval.milliseconds) * 1_000)
        }
        // Lengths of our own functions are in microseconds.
        ScalarValue::Int64(Some(micros)) => Some(*micros),
        ScalarValue::DurationSecond(Some(seconds)) => seconds.checked_mul(1_000_000),
        ScalarValue::DurationMillisecond(Some(millis)) => millis.checked_mul(1_000),
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
            let at = value.saturating_sub(value.rem_euclid(time.step_us)).saturating_add(time.closes_after_us);
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

/// In words.
pub fn length(us: i64) -> String {
    match us {
        // Of times that are late only behind the watermark.
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
        TimeColumn { closes_after_us, step_us, is_source: false }
    }

    fn source(ends: &[(i64, i64)]) -> TimeColumn {
        of_source(&Lateness::of(ends.iter().copied()).unwrap())
    }

    const SECOND_US: i64 = 1_000_000;

    #[test]
    fn a_row_is_on_time_while_all_its_windows_are_open() {
        let late_before = |ends: &[(i64, i64)], watermark_us: i64| {
            let seconds = |us: &(i64, i64)| (us.0 * SECOND_US, us.1 * SECOND_US);
            Lateness::of(ends.iter().map(seconds)).unwrap().late_before_us(watermark_us)
        };
        // Minutes that begin at the first second: at 00:00:45 the one from 00:00:01 is open.
        assert_eq!(late_before(&[(60, 1)], 45 * SECOND_US), SECOND_US);
        assert_eq!(late_before(&[(60, 1)], 61 * SECOND_US - 1), SECOND_US);
        assert_eq!(late_before(&[(60, 1)], 61 * SECOND_US), 61 * SECOND_US);
        // Windows of ten seconds and of fifteen: those from 420 s on are open.
        assert_eq!(late_before(&[(10, 0), (15, 0)], 427_500_000), 420 * SECOND_US);
        assert_eq!(late_before(&[(10, 0), (15, 0)], 430 * SECOND_US), 430 * SECOND_US);
        assert_eq!(late_before(&[(10, 0), (15, 0)], 436 * SECOND_US), 435 * SECOND_US);
        // Negative offsets, and times before 1970.
        assert_eq!(late_before(&[(60, -1)], 58 * SECOND_US), -SECOND_US);
        assert_eq!(late_before(&[(60, -1)], 59 * SECOND_US), 59 * SECOND_US);
        assert_eq!(late_before(&[(60, -61)], -2 * SECOND_US), -61 * SECOND_US);
        // By the watermark alone.
        assert_eq!(late_before(&[(0, 0)], 45 * SECOND_US + 7), 45 * SECOND_US + 7);
        assert_eq!(late_before(&[(60, 0)], i64::MIN), i64::MIN);
        assert!(Lateness::of([]).is_none());
    }

    #[test]
    fn a_row_is_late_when_the_first_window_that_holds_it_has_ended() {
        // HOP by 4 of 10 from 1 on, CUMULATE by 3 of 9 from -1 on, TUMBLE 7.
        let lateness = Lateness::of([(4, 11), (3, -1), (7, 0)]).unwrap();
        for at in -40_i64..40 {
            let hops = (-80..80).filter(|start: &i64| (start - 1).rem_euclid(4) == 0 && *start <= at && at < start + 10);
            let cumulated = (-80..80).filter(|end: &i64| (end + 1).rem_euclid(3) == 0 && *end > at);
            let tumbled = at.div_euclid(7) * 7 + 7;
            let first = hops.map(|start| start + 10).chain(cumulated).chain([tumbled]).min().unwrap();
            for watermark in -60_i64..60 {
                assert_eq!(at < lateness.late_before_us(watermark), first <= watermark, "{at} at watermark {watermark}");
            }
        }
    }

    #[test]
    fn a_tables_own_time_closes_with_the_windows_that_end_most_often() {
        assert_eq!((source(&[(60, 1)]).closes_after_us, source(&[(60, 1)]).step_us), (60, 1));
        assert_eq!((source(&[(15, 0), (10, 0)]).closes_after_us, source(&[(15, 0), (10, 0)]).step_us), (10, 10));
        let lateness = Lateness::of([(10, 3), (15, 0)]).unwrap();
        assert!(lateness.has(30, 3) && lateness.has(30, -7) && lateness.has(45, 15));
        assert!(!lateness.has(10, 0) && !lateness.has(5, 3) && !lateness.has(0, 0));
        // Of the same table, or of two.
        let time = of_source(&lateness);
        assert_eq!(time.or(time), time);
        assert!(!time.moved(5).is_source && !time.with_other(time, 5).is_source && !time.delayed().is_source);
    }

    #[test]
    fn bins_close_with_their_last_step() {
        assert_eq!(source(&[(2, 0)]).rounded(10), Some(time(10, 10)));
        assert_eq!(source(&[(0, 0)]).rounded(10), Some(time(10, 10)));
        // A bin of bins, and one that cuts them.
        assert_eq!(time(10, 10).rounded(30), Some(time(30, 30)));
        assert_eq!(time(10, 10).rounded(15), Some(time(25, 15)));
        // The end of a bin, and the last millisecond of it.
        assert_eq!(time(10, 10).moved(10), time(0, 10));
        assert_eq!(time(10_000, 10_000).moved(9_000).rounded(20_000), Some(time(20_000, 20_000)));
        assert_eq!(source(&[(10, 0)]).rounded(0), None);
    }

    #[test]
    fn hops_over_hops_close_with_the_last_that_begins_in_them() {
        let starts = of_window(source(&[(2, 0)]), 4, 2);
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
    fn times_and_lengths_at_the_ends_of_their_numbers_are_no_others() {
        let first: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![i64::MIN, i64::MAX]));
        assert_eq!(expiries(&[(first, time(7, 10))]).unwrap(), [Some(i64::MIN + 7), Some(i64::MAX)]);
        let days = |days| {
            let length = arrow::datatypes::IntervalMonthDayNano { months: 0, days, nanoseconds: 1_000 };
            let literal: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(ScalarValue::IntervalMonthDayNano(Some(length))));
            literal_us(&literal)
        };
        assert_eq!(days(100_000_000), Some(8_640_000_000_000_000_001));
        assert_eq!(days(200_000_000), None);
    }

    #[test]
    fn explain_says_when() {
        assert_eq!(dropped(&[]), "never dropped");
        assert_eq!(dropped(&[("ts".into(), time(10_000_001, 1))]), "dropped once the watermark passes ts + 10 s");
    }
}
