//! `timestampdiff(unit, a, b)` and `timestampadd(unit, n, time)`, as Flink has them. Months and years go by the calendar: a month later than
//! 31 January is the last day of February.
use std::sync::Arc;

use chrono::{DateTime, Datelike, Months, Utc};
use datafusion::{
    arrow::{
        array::{AsArray, Int64Array},
        compute::cast,
        datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit, TimestampMicrosecondType},
    },
    common::{Result, exec_err, plan_err},
    logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::text::is_text;

/// In a second.
const MICROS: i64 = 1_000_000;

const MICROSECONDS: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Microseconds(i64),
    Months(u32),
}

/// Whether it is the name of a unit, in small letters and without a plural.
pub(crate) fn is_unit(name: &str) -> bool {
    length(name).is_ok()
}

/// How many of a timestamp's units a second has.
pub(super) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn length(unit: &str) -> Result<Length> {
    Ok(match unit {
        "microsecond" => Length::Microseconds(1),
        "millisecond" => Length::Microseconds(1_000),
        "second" => Length::Microseconds(1_000_000),
        "minute" => Length::Microseconds(60_000_000),
        "hour" => Length::Microseconds(3_600_000_000),
        "day" => Length::Microseconds(86_400_000_000),
        "week" => Length::Microseconds(7 * 86_400_000_000),
        "month" => Length::Months(1),
        "quarter" => Length::Months(3),
        "year" => Length::Months(12),
        other => return plan_err!("{other:?} is no unit of time; write SECOND, MINUTE, HOUR, DAY, WEEK, MONTH, QUARTER or YEAR"),
    })
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Date32) || is_text(data_type)
}

fn moment(microseconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(microseconds)
}

/// So many months later, or earlier.
fn shifted(microseconds: i64, months: i64) -> Option<i64> {
    let from = moment(microseconds)?;
    let by = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
    let to = if months < 0 { from.checked_sub_months(by) } else { from.checked_add_months(by) };
    to.map(|to| to.timestamp_micros())
}

/// The whole units from `a` to `b`.
fn between(a: i64, b: i64, length: Length) -> Option<i64> {
    match length {
        Length::Microseconds(unit) => Some(b.checked_sub(a)? / unit),
        Length::Months(_) if b < a => between(b, a, length).map(|units| -units),
        Length::Months(unit) => {
            let (from, to) = (moment(a)?, moment(b)?);
            let months = (i64::from(to.year()) - i64::from(from.year())) * 12 + i64::from(to.month()) - i64::from(from.month());
            // The last of them may not be over.
            let whole = if shifted(a, months)? > b { months - 1 } else { months };
            Some(whole / i64::from(unit))
        }
    }
}

fn later(time: i64, units: i64, length: Length) -> Option<i64> {
    match length {
        Length::Microseconds(unit) => time.checked_add(units.checked_mul(unit)?),
        Length::Months(unit) => shifted(time, units.checked_mul(i64::from(unit))?),
    }
}

/// The unit that all rows have.
fn unit_of(unit: &ColumnarValue, function: &str) -> Result<Length> {
    match unit {
        ColumnarValue::Scalar(unit) => length(unit.try_as_str().flatten().unwrap_or_default()),
        ColumnarValue::Array(_) => exec_err!("{function} takes the same unit for all rows"),
    }
}

/// Of two columns, row by row; NULL where one of them is.
fn each(a: &Int64Array, b: &Int64Array, function: &str, of: impl Fn(i64, i64) -> Option<i64>) -> Result<Int64Array> {
    let one = |(a, b): (Option<i64>, Option<i64>)| match (a, b) {
        (Some(a), Some(b)) => match of(a, b) {
            Some(value) => Ok(Some(value)),
            None => exec_err!("{function} leaves the range of times"),
        },
        _ => Ok(None),
    };
    a.iter().zip(b).map(one).collect()
}

fn microseconds(value: &ColumnarValue, rows: usize) -> Result<Int64Array> {
    let times = cast(&value.to_array(rows)?, &MICROSECONDS)?;
    Ok(times.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>())
}

/// `timestampdiff(unit, a, b)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Difference {
    signature: Signature,
}

impl Difference {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Difference {
    fn name(&self) -> &str {
        "timestampdiff"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [unit, a, b] if is_text(unit) && is_time(a) && is_time(b) => Ok(vec![DataType::Utf8, MICROSECONDS, MICROSECONDS]),
            _ => plan_err!("timestampdiff takes a unit and two timestamps, for example timestampdiff(SECOND, a, b)"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [unit, a, b] = arguments.args.as_slice() else { return exec_err!("timestampdiff takes a unit and two timestamps") };
        let (length, rows) = (unit_of(unit, "timestampdiff")?, arguments.number_rows);
        let (a, b) = (microseconds(a, rows)?, microseconds(b, rows)?);
        let units = each(&a, &b, "timestampdiff", |a, b| between(a, b, length))?;
        Ok(ColumnarValue::Array(Arc::new(units)))
    }
}

/// `timestampadd(unit, n, time)`, in the time's own type; a date becomes a timestamp.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Later {
    signature: Signature,
}

impl Later {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Later {
    fn name(&self) -> &str {
        "timestampadd"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [unit, count, time] if is_text(unit) && (count.is_integer() || count.is_null()) && is_time(time) => {
                let time = if matches!(time, DataType::Timestamp(..)) { time.clone() } else { MICROSECONDS };
                Ok(vec![DataType::Utf8, DataType::Int64, time])
            }
            _ => plan_err!("timestampadd takes a unit, a whole number and a timestamp, for example timestampadd(HOUR, 1, ts)"),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[2].clone())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let time = arguments.arg_fields[2].data_type().clone();
        if let Some(Some(unit)) = arguments.scalar_arguments.first()
            && let Some(Some(unit)) = unit.try_as_str()
        {
            let is_finer = match (&time, length(unit)?) {
                (DataType::Timestamp(TimeUnit::Second, _), Length::Microseconds(unit)) => unit < 1_000_000,
                (DataType::Timestamp(TimeUnit::Millisecond, _), Length::Microseconds(unit)) => unit < 1_000,
                _ => false,
            };
            if is_finer {
                return plan_err!("timestampadd in {unit}s needs a timestamp that has them; CAST it to TIMESTAMP(6)");
            }
        }
        Ok(Arc::new(Field::new(self.name(), time, true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [unit, count, time] = arguments.args.as_slice() else {
            return exec_err!("timestampadd takes a unit, a number and a timestamp");
        };
        let (length, rows) = (unit_of(unit, "timestampadd")?, arguments.number_rows);
        let (count, time) = (count.to_array(rows)?, time.to_array(rows)?);
        let DataType::Timestamp(of, _) = time.data_type() else { return exec_err!("timestampadd takes a timestamp") };
        let per_second = per_second(*of);
        let numbers = cast(&time, &DataType::Int64)?;
        let (numbers, count) = (numbers.as_primitive::<Int64Type>(), count.as_primitive::<Int64Type>());
        let moved = each(numbers, count, "timestampadd", |time, count| {
            if per_second <= MICROS {
                // No unit is finer than the timestamp, so nothing is cut.
                let per_unit = MICROS / per_second;
                return Some(later(time.checked_mul(per_unit)?, count, length)? / per_unit);
            }
            // What a nanosecond has beyond its microsecond stays.
            let per_micro = per_second / MICROS;
            let moved = later(time.div_euclid(per_micro), count, length)?;
            moved.checked_mul(per_micro)?.checked_add(time.rem_euclid(per_micro))
        })?;
        Ok(ColumnarValue::Array(cast(&moved, time.data_type())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp_micros()
    }

    #[test]
    fn whole_units_are_counted() {
        let of = |unit: &str, a: &str, b: &str| between(at(a), at(b), length(unit).unwrap()).unwrap();
        for (unit, a, b, expected) in [
            ("second", "2026-01-01T00:00:00.9Z", "2026-01-01T00:00:02Z", 1),
            ("second", "2026-01-01T00:00:02Z", "2026-01-01T00:00:00.9Z", -1),
            ("hour", "2026-01-01T00:00:00Z", "2026-01-02T01:59:59Z", 25),
            ("week", "2026-01-01T00:00:00Z", "2026-01-14T00:00:00Z", 1),
            ("month", "2026-01-31T12:00:00Z", "2026-02-28T12:00:00Z", 1),
            ("month", "2026-01-31T12:00:00Z", "2026-02-28T11:59:59Z", 0),
            ("month", "2026-03-15T00:00:00Z", "2026-01-16T00:00:00Z", -1),
            ("quarter", "2026-01-01T00:00:00Z", "2026-12-31T00:00:00Z", 3),
            ("year", "2024-02-29T00:00:00Z", "2026-02-28T00:00:00Z", 2),
            ("day", "1969-12-31T00:00:00Z", "1970-01-02T00:00:00Z", 2),
        ] {
            assert_eq!(of(unit, a, b), expected, "{unit} from {a} to {b}");
        }
    }

    #[test]
    fn units_are_added() {
        let of = |unit: &str, units: i64, time: &str| later(at(time), units, length(unit).unwrap());
        assert_eq!(of("month", 1, "2026-01-31T12:00:00Z"), Some(at("2026-02-28T12:00:00Z")));
        assert_eq!(of("year", -1, "2024-02-29T00:00:00Z"), Some(at("2023-02-28T00:00:00Z")));
        assert_eq!(of("minute", 90, "2026-01-01T23:00:00Z"), Some(at("2026-01-02T00:30:00Z")));
        assert_eq!(of("day", i64::MAX, "2026-01-01T00:00:00Z"), None);
        assert!(length("fortnight").is_err());
    }
}
