//! Lengths of time, as in `INTERVAL '10' SECOND` and in options, in microseconds.
use datafusion::{arrow::compute::kernels::cast_utils::parse_interval_month_day_nano, sql::sqlparser::tokenizer::Token};

use super::cursor::Cursor;
use crate::error::SqlError;

const NANOS_PER_MICRO: i64 = 1_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// `10 seconds`, `1 min`, `500 ms` in microseconds; `None` for what is no fixed length (months), or finer than a microsecond.
pub(crate) fn microseconds(text: &str) -> Option<i64> {
    let interval = parse_interval_month_day_nano(text.trim()).ok()?;
    if interval.months != 0 || interval.nanoseconds % NANOS_PER_MICRO != 0 {
        return None;
    }
    i64::from(interval.days).checked_mul(MICROS_PER_DAY)?.checked_add(interval.nanoseconds / NANOS_PER_MICRO)
}

/// `INTERVAL '10' SECOND`, `INTERVAL '1 minute'`, `INTERVAL '5' MINUTES`, of a fixed length; a minus in front is allowed.
pub(super) fn read_interval(cursor: &mut Cursor<'_>, what: &str) -> Result<i64, SqlError> {
    const EXAMPLE: &str = "write for example INTERVAL '10' SECOND";
    let is_negative = cursor.token(&Token::Minus);
    if !cursor.word("INTERVAL") {
        return Err(cursor.expected_or(&format!("{what} as INTERVAL"), EXAMPLE));
    }
    let at = cursor.at();
    let amount = match cursor.peek() {
        Token::Number(number, _) => {
            cursor.advance();
            number.clone()
        }
        _ => cursor.string("a length of time")?,
    };
    let unit = match cursor.peek() {
        Token::Word(word) if word.quote_style.is_none() && !word.value.eq_ignore_ascii_case("TO") => {
            cursor.advance();
            word.value.clone()
        }
        _ => String::new(),
    };
    // `SECOND(3)`: the precision says nothing more.
    if cursor.token(&Token::LParen) {
        cursor.number("a precision")?;
        cursor.expect(&Token::RParen)?;
    }
    let Some(length) = microseconds(&format!("{amount} {unit}")) else {
        let has_months = parse_interval_month_day_nano(format!("{amount} {unit}").trim()).is_ok_and(|length| length.months != 0);
        let remedy = if has_months { "months, quarters and years are groups: GROUP BY date_trunc('month', ts)" } else { EXAMPLE };
        let message = format!("{what} is INTERVAL '{amount}' {unit}, which is no fixed length of time; {remedy}");
        return Err(SqlError::invalid_at(at, message.replace("' ,", "',")));
    };
    Ok(if is_negative { -length } else { length })
}

/// As DataFusion reads it: in the largest unit that fits.
pub(crate) fn as_sql(microseconds: i64) -> String {
    let (amount, unit) = match microseconds {
        us if us % 1_000_000 == 0 => (us / 1_000_000, "seconds"),
        us if us % 1_000 == 0 => (us / 1_000, "milliseconds"),
        us => (us, "microseconds"),
    };
    format!("INTERVAL '{amount} {unit}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_microseconds() {
        for (text, expected) in [
            ("10 second", Some(10_000_000)),
            ("10 SECONDS", Some(10_000_000)),
            ("1.5 minutes", Some(90_000_000)),
            ("2 h", Some(7_200_000_000)),
            ("500 ms", Some(500_000)),
            ("1 day", Some(MICROS_PER_DAY)),
            ("1 month", None),
            ("soon", None),
        ] {
            assert_eq!(microseconds(text), expected, "{text}");
        }
        assert_eq!(as_sql(10_000_000), "INTERVAL '10 seconds'");
        assert_eq!(as_sql(1_500_000), "INTERVAL '1500 milliseconds'");
    }
}
