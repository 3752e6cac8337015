//! Functions of Flink whose value is an instant, what clocks show, or seconds since 1970.
use datafusion::sql::sqlparser::ast::{Expr, Value};
use polybolos_tables::plain::plain as in_words;

use super::building::{call, text};
use crate::functions::strptime;

/// An instant, from so many seconds or smaller units since 1970.
pub(super) fn instant(number: Expr, precision: &str) -> Result<Expr, String> {
    let (function, unit) = match precision {
        "0" => ("to_timestamp_seconds", "Second"),
        "3" => ("to_timestamp_millis", "Millisecond"),
        "6" => ("to_timestamp_micros", "Microsecond"),
        "9" => ("to_timestamp_nanos", "Nanosecond"),
        other => {
            return Err(format!(
                "to_timestamp_ltz takes 0, 3, 6 or 9 for seconds, milliseconds, microseconds or nanoseconds, and not {other}"
            ));
        }
    };
    Ok(call("arrow_cast", [call(function, [number]), text(&format!("Timestamp({unit}, Some(\"UTC\"))"))]))
}

/// What clocks show, in UTC.
pub(super) fn clock_time() -> Expr {
    call("arrow_cast", [call("now", []), text("Timestamp(Microsecond, None)")])
}

/// Whole seconds since 1970.
pub(super) fn unix_timestamp(time: Expr) -> Expr {
    let epoch = Expr::Value(Value::SingleQuotedString("1970-01-01 00:00:00".into()).into());
    call("timestampdiff", [text("second"), epoch, time])
}

/// A pattern of Java's letters is one of `%`s to DataFusion.
pub(super) fn parsed_time(function: &str, time: &Expr, pattern: &Expr) -> Result<Expr, String> {
    let pattern = match pattern {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(words) if !words.contains('%') => {
                text(&strptime(words).map_err(|error| in_words(&error.to_string()))?)
            }
            _ => pattern.clone(),
        },
        _ => pattern.clone(),
    };
    Ok(call(function, [time.clone(), pattern]))
}
