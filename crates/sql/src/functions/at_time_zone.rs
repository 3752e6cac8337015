//! `time AT TIME ZONE 'Europe/Paris'`, as PostgreSQL has it: of an instant, what clocks show there; of a time on clocks there, the instant.
//! DataFusion's only labels an instant with a zone, which every function reads in a way of its own. A time that clocks show twice is taken for
//! standard time, one that they skip for what they would have shown without.
use std::sync::Arc;

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone};
use datafusion::{
    arrow::{
        array::{AsArray, Int64Array, timezone::Tz},
        compute::cast,
        datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit},
    },
    common::{Result, exec_err, plan_err},
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility, cast as logical_cast,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use super::{text::is_text, time_units::per_second};
use crate::types::{UTC, is_utc};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct AtTimeZone {
    signature: Signature,
}

impl AtTimeZone {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// The other kind of time.
fn other(time: &DataType) -> DataType {
    match time {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, None),
        DataType::Timestamp(unit, None) => DataType::Timestamp(*unit, Some(UTC.into())),
        _ => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
    }
}

/// How far clocks that show `local` are ahead of UTC, in seconds.
fn offset_of_local(zone: Tz, local: NaiveDateTime) -> i32 {
    let seconds = |offset: <Tz as TimeZone>::Offset| offset.fix().local_minus_utc();
    match zone.offset_from_local_datetime(&local) {
        MappedLocalTime::Single(offset) => seconds(offset),
        // Summer time is ahead of standard time.
        MappedLocalTime::Ambiguous(first, second) => seconds(first).min(seconds(second)),
        MappedLocalTime::None => {
            let before = local.checked_sub_signed(TimeDelta::days(1)).unwrap_or(local);
            zone.offset_from_local_datetime(&before).earliest().map_or(0, seconds)
        }
    }
}

/// A time in units of which a second has so many, moved to or from the clocks of a zone. `None` where no calendar reaches.
fn moved(time: i64, per_second: i64, zone: Tz, is_instant: bool) -> Option<i64> {
    let at = DateTime::from_timestamp(time.div_euclid(per_second), 0)?.naive_utc();
    let ahead = if is_instant { zone.offset_from_utc_datetime(&at).fix().local_minus_utc() } else { -offset_of_local(zone, at) };
    time.checked_add(i64::from(ahead).checked_mul(per_second)?)
}

impl ScalarUDFImpl for AtTimeZone {
    fn name(&self) -> &str {
        "at_time_zone"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [time @ DataType::Timestamp(..), zone] if is_text(zone) => Ok(vec![time.clone(), DataType::Utf8]),
            [time, zone] if (is_text(time) || *time == DataType::Date32) && is_text(zone) => {
                Ok(vec![DataType::Timestamp(TimeUnit::Microsecond, None), DataType::Utf8])
            }
            _ => plan_err!("AT TIME ZONE takes a timestamp and a zone, for example ts AT TIME ZONE 'Europe/Paris'"),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(other(&arguments[0]))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [_, Some(zone)] = arguments.scalar_arguments else {
            return plan_err!("AT TIME ZONE takes one zone for all rows, in quotes");
        };
        let zone = zone.try_as_str().flatten().unwrap_or_default();
        if zone.parse::<Tz>().is_err() {
            return plan_err!("there is no time zone {zone:?}; write for example 'Europe/Paris', 'UTC' or '+02:00'");
        }
        Ok(Arc::new(Field::new(self.name(), other(arguments.arg_fields[0].data_type()), true)))
    }

    /// In UTC clocks show what an instant is: a cast, which windows and the watermark see through.
    fn simplify(&self, arguments: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if let [time, Expr::Literal(zone, _)] = arguments.as_slice()
            && zone.try_as_str().flatten().is_some_and(is_utc)
        {
            let to = other(&context.get_data_type(time)?);
            return Ok(ExprSimplifyResult::Simplified(logical_cast(time.clone(), to)));
        }
        Ok(ExprSimplifyResult::Original(arguments))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, ColumnarValue::Scalar(zone)] = arguments.args.as_slice() else {
            return exec_err!("AT TIME ZONE takes one zone for all rows, in quotes");
        };
        let zone: Tz = zone.try_as_str().flatten().unwrap_or_default().parse()?;
        let times = time.to_array(arguments.number_rows)?;
        let DataType::Timestamp(unit, label) = times.data_type() else { return exec_err!("AT TIME ZONE takes a timestamp") };
        let per_second = per_second(*unit);
        let numbers = cast(&times, &DataType::Int64)?;
        let one = |time: Option<i64>| match time.map(|time| moved(time, per_second, zone, label.is_some())) {
            Some(None) => exec_err!("AT TIME ZONE leaves the range of times"),
            Some(known) => Ok(known),
            None => Ok(None),
        };
        let there = numbers.as_primitive::<Int64Type>().iter().map(one).collect::<Result<Int64Array>>()?;
        Ok(ColumnarValue::Array(cast(&there, &other(times.data_type()))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_read_as_postgresql_reads_them() {
        let zone: Tz = "Europe/Paris".parse().unwrap();
        let at = |text: &str| text.parse::<NaiveDateTime>().unwrap().and_utc().timestamp();
        for (local, instant) in [
            ("2024-07-01T12:00:00", "2024-07-01T10:00:00"),
            ("2024-01-01T12:00:00", "2024-01-01T11:00:00"),
            // Shown twice, and not at all.
            ("2024-10-27T02:30:00", "2024-10-27T01:30:00"),
            ("2024-03-31T02:30:00", "2024-03-31T01:30:00"),
        ] {
            assert_eq!(moved(at(local), 1, zone, false), Some(at(instant)), "{local}");
        }
        assert_eq!(moved(at("2024-10-27T00:30:00"), 1, zone, true), Some(at("2024-10-27T02:30:00")));
        assert_eq!(moved(at("2024-10-27T01:30:00"), 1, zone, true), Some(at("2024-10-27T02:30:00")));
        assert_eq!(moved(i64::MAX, 1, zone, true), None);
    }
}
