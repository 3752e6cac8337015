//! Functions over dates of Flink, Spark and others, as what they mean here.
use chrono::Utc;
use datafusion::{
    arrow::{
        array::timezone::Tz,
        compute::kernels::cast_utils::{string_to_datetime, string_to_timestamp_nanos},
    },
    sql::sqlparser::ast::{
        BinaryOperator, DataType, DateTimeField, Expr, Interval, TimezoneInfo, UnaryOperator, Value, ValueWithSpan,
    },
};

use super::building::{MAX_REPEATED, call, case, text};
use crate::functions::is_unit;

/// What a call of `name`, in small letters, is; `None`: what it says.
pub(super) fn call_of(name: &str, arguments: &[Expr]) -> Result<Option<Expr>, String> {
    Ok(match (name, arguments) {
        ("timestampdiff" | "timestampadd", [unit, a, b]) => Some(of_unit(name, name, unit, a, b)?),
        ("datediff" | "date_diff", [unit, a, b]) => Some(of_unit(name, "timestampdiff", unit, a, b)?),
        ("dateadd" | "date_add", [unit, count, time]) => Some(of_unit(name, "timestampadd", unit, count, time)?),
        ("datediff" | "date_diff", [end, start]) => {
            Some(call("timestampdiff", [text("day"), date(start.clone()), date(end.clone())]))
        }
        ("date_add", [time, by @ Expr::Interval(_)]) => Some(moved(time, BinaryOperator::Plus, by)),
        ("date_sub", [time, by @ Expr::Interval(_)]) => Some(moved(time, BinaryOperator::Minus, by)),
        ("date_add", [day, count]) => Some(later("day", day, count.clone())),
        ("date_sub", [day, count]) => Some(later("day", day, minus(count.clone()))),
        ("add_months", [day, count]) => Some(later("month", day, count.clone())),
        ("convert_tz", [time, from, to]) => {
            let instant = call("at_time_zone", [time.clone(), from.clone()]);
            Some(call("date_format", [call("at_time_zone", [instant, to.clone()]), text("yyyy-MM-dd HH:mm:ss")]))
        }
        ("date_part", [Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(unit), .. }), time]) => long_years(unit, time)?,
        // Its second argument is a zone to DataFusion, and a pattern to Flink and Spark.
        ("from_unixtime", [seconds, pattern]) if is_pattern(pattern) => {
            Some(call("date_format", [call("from_unixtime", [seconds.clone()]), pattern.clone()]))
        }
        _ => None,
    })
}

/// A TIMESTAMP without a precision has nanoseconds to DataFusion, which say the years 1677 to 2262 alone. One that is written out beyond, as the open end of an
/// interval is (`TIMESTAMP '9999-12-31 00:00:00'`), has microseconds.
pub(super) fn keep_year(data_type: &mut DataType, written: &Value) {
    let (
        DataType::Timestamp(precision @ None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone),
        Value::SingleQuotedString(text),
    ) = (data_type, written)
    else {
        return;
    };
    if string_to_timestamp_nanos(text).is_err() && string_to_datetime(&Utc, text).is_ok() {
        *precision = Some(6);
    }
}

/// `CEIL(time TO unit)`: the time itself where a unit begins, or else where the next one begins.
pub(super) fn ceiling(time: &Expr, unit: &DateTimeField) -> Result<Expr, String> {
    let lower = unit.to_string().to_lowercase();
    let step = match lower.as_str() {
        "quarter" => "3 months".to_owned(),
        "week" => "7 days".to_owned(),
        "year" | "month" | "day" | "hour" | "minute" | "second" | "millisecond" | "microsecond" => format!("1 {lower}"),
        _ => return Err(format!("CEIL(… TO {unit}) is not supported; write a unit from MICROSECOND to YEAR")),
    };
    // It stands there several times.
    if time.to_string().len() > MAX_REPEATED {
        return Err(format!("the time in CEIL(… TO {unit}) is longer than {MAX_REPEATED} bytes; compute it in a subquery"));
    }
    let begin = call("date_trunc", [text(&lower), time.clone()]);
    let is_begin = binary(begin.clone(), BinaryOperator::Eq, Expr::Nested(Box::new(time.clone())));
    Ok(case(is_begin, begin.clone(), binary(begin, BinaryOperator::Plus, interval(&step))))
}

/// Units of many years, which DataFusion does not take out of a time, as PostgreSQL counts them: there is no century 0, nor a millennium. `None`: another unit.
pub(super) fn long_years(unit: &str, time: &Expr) -> Result<Option<Expr>, String> {
    let unit = unit.to_ascii_lowercase();
    let years = match unit.as_str() {
        "decade" => "10e0",
        "century" => "100e0",
        "millennium" | "millenium" => "1000e0",
        _ => return Ok(None),
    };
    // It stands there several times.
    if time.to_string().len() > MAX_REPEATED {
        return Err(format!("the time whose {unit} is asked for is longer than {MAX_REPEATED} bytes; compute it in a subquery"));
    }
    let number = |digits: &str| Expr::Value(Value::Number(digits.to_owned(), false).into());
    let year = call("date_part", [text("year"), time.clone()]);
    let parts = binary(year.clone(), BinaryOperator::Divide, number(years));
    let counted = if unit == "decade" {
        call("floor", [parts])
    } else {
        let ended = call("ceil", [parts]);
        let before = binary(ended.clone(), BinaryOperator::Minus, number("1"));
        case(binary(year, BinaryOperator::Gt, number("0")), ended, before)
    };
    Ok(Some(call("arrow_cast", [counted, text("Int64")])))
}

fn of_unit(name: &str, function: &str, unit: &Expr, a: &Expr, b: &Expr) -> Result<Expr, String> {
    match unit_name(unit) {
        Some(unit) => Ok(call(function, [text(&unit), a.clone(), b.clone()])),
        None => Err(format!("{name} begins with a unit, for example SECOND, MINUTE, HOUR, DAY or MONTH, and not with {unit}")),
    }
}

fn date(time: Expr) -> Expr {
    call("arrow_cast", [time, text("Date32")])
}

fn later(unit: &str, day: &Expr, count: Expr) -> Expr {
    date(call("timestampadd", [text(unit), count, date(day.clone())]))
}

fn minus(count: Expr) -> Expr {
    Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(Expr::Nested(Box::new(count))) }
}

fn moved(time: &Expr, op: BinaryOperator, by: &Expr) -> Expr {
    Expr::Nested(Box::new(binary(Expr::Nested(Box::new(time.clone())), op, by.clone())))
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

/// Whether it is no zone.
fn is_pattern(words: &Expr) -> bool {
    let Expr::Value(value) = words else { return false };
    let Value::SingleQuotedString(words) = &value.value else { return false };
    words.parse::<Tz>().is_err()
}

pub(super) fn interval(length: &str) -> Expr {
    Expr::Interval(Interval {
        value: Box::new(text(length)),
        leading_field: None,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    })
}

/// `DAY`, also as a text or in the plural, in small letters.
fn unit_name(unit: &Expr) -> Option<String> {
    let word = match unit {
        Expr::Identifier(word) if word.quote_style.is_none() => word.value.to_ascii_lowercase(),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(word) => word.to_ascii_lowercase(),
            _ => return None,
        },
        _ => return None,
    };
    let word = word.strip_prefix("sql_tsi_").unwrap_or(&word);
    let singular = word.strip_suffix('s').unwrap_or(word);
    is_unit(singular).then(|| singular.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::equivalents::rewritten;

    #[test]
    fn functions_over_dates_are_what_they_mean() {
        for (written, meant) in [
            ("DATEDIFF(a, b)", "timestampdiff('day', arrow_cast(b, 'Date32'), arrow_cast(a, 'Date32'))"),
            ("datediff(HOUR, a, b)", "timestampdiff('hour', a, b)"),
            ("DATE_ADD(d, 3)", "arrow_cast(timestampadd('day', 3, arrow_cast(d, 'Date32')), 'Date32')"),
            ("date_sub(d, n + 1)", "arrow_cast(timestampadd('day', -(n + 1), arrow_cast(d, 'Date32')), 'Date32')"),
            ("date_add(ts, INTERVAL '1' HOUR)", "((ts) + INTERVAL '1' HOUR)"),
            ("date_sub(ts, INTERVAL '1 day')", "((ts) - INTERVAL '1 day')"),
            ("dateadd(MINUTE, 5, ts)", "timestampadd('minute', 5, ts)"),
            ("add_months(d, 1)", "arrow_cast(timestampadd('month', 1, arrow_cast(d, 'Date32')), 'Date32')"),
            (
                "CONVERT_TZ(t, 'UTC', 'Asia/Tokyo')",
                "date_format(at_time_zone(at_time_zone(t, 'UTC'), 'Asia/Tokyo'), 'yyyy-MM-dd HH:mm:ss')",
            ),
            ("from_unixtime(n, 'yyyy-MM-dd')", "date_format(from_unixtime(n), 'yyyy-MM-dd')"),
            ("from_unixtime(n, 'Europe/Brussels')", "from_unixtime(n, 'Europe/Brussels')"),
            ("from_unixtime(n, 'CET')", "from_unixtime(n, 'CET')"),
            ("from_unixtime(n, '+02:00')", "from_unixtime(n, '+02:00')"),
            ("from_unixtime(n, 'dd/MM')", "date_format(from_unixtime(n), 'dd/MM')"),
            ("from_unixtime(n, 'EEE')", "date_format(from_unixtime(n), 'EEE')"),
            (
                "CEIL(ts TO HOUR)",
                "CASE WHEN date_trunc('hour', ts) = (ts) THEN date_trunc('hour', ts) ELSE date_trunc('hour', ts) + INTERVAL '1 hour' END",
            ),
            (
                "CEILING(ts TO QUARTER)",
                "CASE WHEN date_trunc('quarter', ts) = (ts) THEN date_trunc('quarter', ts) ELSE date_trunc('quarter', ts) + INTERVAL '3 months' END",
            ),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
    }

    #[test]
    fn units_that_are_none_are_said() {
        for (written, reason) in [
            ("datediff(FORTNIGHT, a, b)", "datediff begins with a unit"),
            ("CEIL(ts TO CENTURY)", "write a unit from MICROSECOND to YEAR"),
        ] {
            let error = rewritten(written).unwrap_err().to_string();
            assert!(error.contains(reason), "{written}: {error}");
        }
    }
}
