//! DataFusion's functions, right where those are not. `date_part` of a difference of two times: seconds since have all their digits, however long it is, and other
//! parts are those that PostgreSQL finds: days, and hours below 24. `date_trunc`: literals before 1970 go down, as the times of columns do, and years that have no
//! nanoseconds begin, too; `whole_units(unit, time)` is the same beneath a CAST to fewer digits, which by itself goes towards 1970, as `to_timestamp_seconds` and
//! its like do of times and texts. `nullif`: -0.0 and 0.0 are equal, as they are to `=`.
use std::sync::Arc;

use chrono::{DateTime, Datelike, Days, NaiveDate};
use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Float64Array, Int64Array},
        compute::{
            cast,
            kernels::{cast_utils::IntervalUnit, cmp::eq},
            nullif,
        },
        datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit as IntervalKind, TimeUnit},
    },
    common::{Result, ScalarValue, utils::normalize_float_zero},
    config::ConfigOptions,
    functions::{
        core,
        datetime::{
            date_part, date_trunc, to_timestamp_micros, to_timestamp_millis, to_timestamp_nanos, to_timestamp_seconds, to_unixtime,
        },
    },
    logical_expr::{
        ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        preimage::PreimageResult,
        simplify::SimplifyContext,
        sort_properties::{ExprProperties, SortProperties},
    },
};

use super::{text::is_text, time_units::per_second};

pub(crate) const WHOLE_UNITS: &str = "whole_units";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    DatePart,
    DateTrunc,
    WholeUnits,
    ToSeconds,
    ToMillis,
    ToMicros,
    ToUnixTime,
    NullIf,
}

/// DataFusion's function in all but what it computes of some arguments.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Corrected {
    builtin: Arc<ScalarUDF>,
    kind: Kind,
}

pub(super) fn all() -> [Arc<ScalarUDF>; 8] {
    [
        Kind::DatePart,
        Kind::DateTrunc,
        Kind::WholeUnits,
        Kind::ToSeconds,
        Kind::ToMillis,
        Kind::ToMicros,
        Kind::ToUnixTime,
        Kind::NullIf,
    ]
    .map(corrected)
}

/// The time without the digits below a unit.
pub(crate) fn whole_units() -> Arc<ScalarUDF> {
    corrected(Kind::WholeUnits)
}

fn corrected(kind: Kind) -> Arc<ScalarUDF> {
    let config = ConfigOptions::default();
    let builtin = match kind {
        Kind::DatePart => date_part(),
        Kind::DateTrunc | Kind::WholeUnits => date_trunc(),
        Kind::ToSeconds => to_timestamp_seconds(&config),
        Kind::ToMillis => to_timestamp_millis(&config),
        Kind::ToMicros => to_timestamp_micros(&config),
        Kind::ToUnixTime => to_unixtime(),
        Kind::NullIf => core::nullif(),
    };
    Arc::new(ScalarUDF::new_from_impl(Corrected { builtin, kind }))
}

impl ScalarUDFImpl for Corrected {
    fn name(&self) -> &str {
        if self.kind == Kind::WholeUnits { WHOLE_UNITS } else { self.builtin.name() }
    }

    fn aliases(&self) -> &[String] {
        if self.kind == Kind::WholeUnits { &[] } else { self.builtin.aliases() }
    }

    fn signature(&self) -> &Signature {
        self.builtin.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.builtin.return_type(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.builtin.return_field_from_args(arguments)
    }

    fn invoke_with_args(&self, mut arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        match (self.kind, arguments.args.as_mut_slice()) {
            (Kind::DatePart, [ColumnarValue::Scalar(part), length]) => {
                let length_type = length.data_type();
                if let DataType::Duration(unit) = length_type
                    && is_epoch(part)
                {
                    return seconds(length, unit, rows);
                }
                if let Some(field) = Field::of(part, &length_type) {
                    let found = field.within(&length.to_array(rows)?)?;
                    return Ok(ColumnarValue::Array(cast(&found, arguments.return_field.data_type())?));
                }
            }
            // DataFusion takes the digits below a second off a scalar by a division, which goes towards 1970.
            (Kind::DateTrunc | Kind::WholeUnits, [unit, time]) if matches!(time.data_type(), DataType::Timestamp(..)) => {
                let times = time.to_array(rows)?;
                *time = ColumnarValue::Array(times.clone());
                let unit = word(unit).to_ascii_lowercase();
                // It reckons in nanoseconds, which say the years 1677 to 2262 alone.
                return self.builtin.invoke_with_args(arguments).or_else(|error| match beginnings(&unit, &times)? {
                    Some(begun) => Ok(ColumnarValue::Array(begun)),
                    None => Err(error),
                });
            }
            (Kind::ToSeconds | Kind::ToMillis | Kind::ToMicros | Kind::ToUnixTime, [time, formats @ ..]) => {
                let per_second = match self.kind {
                    Kind::ToMillis => 1_000,
                    Kind::ToMicros => 1_000_000,
                    _ => 1,
                };
                let times = match time.data_type() {
                    DataType::Timestamp(..) if formats.is_empty() => time.to_array(rows)?,
                    text if is_text(&text) => {
                        let nanos = to_timestamp_nanos(&arguments.config_options);
                        nanos.inner().invoke_with_args(arguments.clone())?.into_array(rows)?
                    }
                    _ => return self.builtin.invoke_with_args(arguments),
                };
                arguments.args = vec![ColumnarValue::Array(down(&times, per_second)?)];
            }
            (Kind::NullIf, [value, other]) if value.data_type().is_floating() && other.data_type().is_floating() => {
                let (value, other) = (value.to_array(rows)?, other.to_array(rows)?);
                let are_equal = eq(&normalize_float_zero(&value), &normalize_float_zero(&other))?;
                return Ok(ColumnarValue::Array(nullif(&value, &are_equal)?));
            }
            _ => {}
        }
        self.builtin.invoke_with_args(arguments)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let builtin = self.builtin.inner().with_updated_config(config)?;
        Some(ScalarUDF::new_from_impl(Self { builtin: Arc::new(builtin), kind: self.kind }))
    }

    fn preimage(&self, arguments: &[Expr], literal: &Expr, context: &SimplifyContext) -> Result<PreimageResult> {
        self.builtin.preimage(arguments, literal, context)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.builtin.output_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.builtin.documentation()
    }
}

fn word(unit: &ColumnarValue) -> &str {
    match unit {
        ColumnarValue::Scalar(unit) => unit.try_as_str().flatten().unwrap_or_default(),
        ColumnarValue::Array(_) => "",
    }
}

fn part_name(part: &ScalarValue) -> &str {
    part.try_as_str().flatten().unwrap_or_default().trim_matches(['\'', '"'])
}

fn is_epoch(part: &ScalarValue) -> bool {
    part_name(part).eq_ignore_ascii_case("epoch")
}

fn seconds(length: &ColumnarValue, unit: TimeUnit, rows: usize) -> Result<ColumnarValue> {
    let per_second = per_second(unit);
    // A century in nanoseconds has more digits than a float.
    let in_seconds = |count: i64| (count / per_second) as f64 + (count % per_second) as f64 / per_second as f64;
    let counts = cast(&length.to_array(rows)?, &DataType::Int64)?;
    let seconds: Float64Array = counts.as_primitive::<Int64Type>().unary(in_seconds);
    Ok(ColumnarValue::Array(Arc::new(seconds)))
}

/// A part of a length of time, in its sign.
struct Field {
    /// Of what is left of the length once so many units are taken off as often as they are in it.
    within: Option<i64>,
    divisor: i64,
    factor: i64,
}

impl Field {
    /// `None`: DataFusion finds it. Of an interval it loses the digits below a second where there are more than two.
    fn of(part: &ScalarValue, length_type: &DataType) -> Option<Self> {
        let part = part_name(part).parse::<IntervalUnit>().ok()?;
        let (unit, is_interval) = match length_type {
            DataType::Duration(unit) => (*unit, false),
            DataType::Interval(IntervalKind::MonthDayNano) => (TimeUnit::Nanosecond, true),
            _ => return None,
        };
        let per_second = per_second(unit);
        let whole = |within: Option<i64>, seconds: i64| {
            Some(Self { within: within.map(|seconds| seconds * per_second), divisor: seconds * per_second, factor: 1 })
        };
        let digits = |wanted: i64| {
            let (divisor, factor) = if wanted < per_second { (per_second / wanted, 1) } else { (1, wanted / per_second) };
            Some(Self { within: Some(60 * per_second), divisor, factor })
        };
        match part {
            IntervalUnit::Day if !is_interval => whole(None, 86_400),
            IntervalUnit::Hour if !is_interval => whole(Some(86_400), 3_600),
            IntervalUnit::Minute if !is_interval => whole(Some(3_600), 60),
            IntervalUnit::Second if !is_interval => whole(Some(60), 1),
            IntervalUnit::Millisecond => digits(1_000),
            IntervalUnit::Microsecond => digits(1_000_000),
            IntervalUnit::Nanosecond => digits(1_000_000_000),
            _ => None,
        }
    }

    fn within(&self, lengths: &ArrayRef) -> Result<ArrayRef> {
        let of_count = |count: i64| self.within.map_or(count, |within| count % within) / self.divisor * self.factor;
        let found: Int64Array = match lengths.data_type() {
            DataType::Interval(_) => {
                lengths.as_primitive::<IntervalMonthDayNanoType>().unary(|length| of_count(length.nanoseconds))
            }
            _ => cast(lengths, &DataType::Int64)?.as_primitive::<Int64Type>().unary(of_count),
        };
        Ok(Arc::new(found))
    }
}

/// Times without the digits of which a second has more than so many, down.
fn down(times: &ArrayRef, wanted: i64) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, _) = times.data_type() else { return Ok(times.clone()) };
    let step = per_second(*unit) / wanted;
    if step <= 1 {
        return Ok(times.clone());
    }
    let counts = cast(times, &DataType::Int64)?;
    let whole: Int64Array = counts.as_primitive::<Int64Type>().unary(|count| count - count.rem_euclid(step));
    Ok(cast(&whole, times.data_type())?)
}

/// Where the weeks, months, quarters or years of times begin on clocks in UTC; `None` for other units and zones.
fn beginnings(unit: &str, times: &ArrayRef) -> Result<Option<ArrayRef>> {
    let DataType::Timestamp(digits, zone) = times.data_type() else { return Ok(None) };
    let is_utc = zone.as_deref().is_none_or(|zone| zone.eq_ignore_ascii_case("utc"));
    if !is_utc || !["week", "month", "quarter", "year"].contains(&unit) {
        return Ok(None);
    }
    let per_day = 86_400 * per_second(*digits);
    let counts = cast(times, &DataType::Int64)?;
    let begun: Option<Int64Array> = counts
        .as_primitive::<Int64Type>()
        .iter()
        .map(|count| count.map(|count| beginning(unit, count.div_euclid(per_day))?.checked_mul(per_day)))
        .map(|begun| begun.map_or(Some(None), |begun| begun.map(Some)))
        .collect();
    Ok(begun.map(|begun| cast(&begun, times.data_type())).transpose()?)
}

/// Days from 1970 to where the unit of such a day begins; `None`: before all dates.
fn beginning(unit: &str, day: i64) -> Option<i64> {
    let date = DateTime::from_timestamp(day.checked_mul(86_400)?, 0)?.date_naive();
    let begun = match unit {
        "week" => date.checked_sub_days(Days::new(date.weekday().num_days_from_monday().into())),
        "month" => date.with_day(1),
        "quarter" => NaiveDate::from_ymd_opt(date.year(), date.month0() / 3 * 3 + 1, 1),
        _ => NaiveDate::from_ymd_opt(date.year(), 1, 1),
    };
    Some(begun?.signed_duration_since(NaiveDate::default()).num_days())
}
