//! `date_format(time, pattern)` as Flink has it: the pattern letters of Java's `DateTimeFormatter`, names in English. Instants are shown in
//! UTC. DataFusion's own `date_format` is `to_char`, whose patterns have `%`: those go on meaning what they do there.
use std::{fmt::Write, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Int64Array, StringBuilder},
        compute::cast,
        datatypes::{DataType, Int64Type, TimeUnit},
    },
    common::{Result, ScalarValue, exec_err, plan_err},
    functions::datetime::to_char,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use super::time_units::per_second;

const SECONDS_PER_DAY: i64 = 86_400;

/// One piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// With at least so many digits.
    Year(usize),
    /// The last two digits.
    ShortYear,
    Month(usize),
    /// In English, whole or its first three letters.
    MonthName {
        is_whole: bool,
    },
    DayName {
        is_whole: bool,
    },
    Day(usize),
    DayOfYear(usize),
    /// 0–23.
    Hour(usize),
    /// 1–12.
    HalfDayHour(usize),
    Minute(usize),
    Second(usize),
    /// The first digits of the second's fraction.
    Fraction(usize),
    HalfDay,
}

fn pieces(pattern: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(letter) = rest.next() {
        if letter == '\'' {
            let mut text = String::new();
            loop {
                match rest.next() {
                    // Two quotes are one.
                    Some('\'') if rest.peek() == Some(&'\'') => {
                        text.push('\'');
                        rest.next();
                    }
                    Some('\'') => break,
                    Some(other) => text.push(other),
                    None => return plan_err!("the pattern {pattern:?} of date_format has a quote that is not closed"),
                }
            }
            pieces.push(Piece::Text(if text.is_empty() { "'".to_owned() } else { text }));
            continue;
        }
        if !letter.is_ascii_alphabetic() {
            pieces.push(Piece::Text(letter.to_string()));
            continue;
        }
        let mut count = 1;
        while rest.peek() == Some(&letter) {
            rest.next();
            count += 1;
        }
        pieces.push(match (letter, count) {
            ('y' | 'u', 2) => Piece::ShortYear,
            ('y' | 'u', digits) => Piece::Year(digits),
            ('M' | 'L', digits @ 1..=2) => Piece::Month(digits),
            ('M' | 'L', letters @ 3..=4) => Piece::MonthName { is_whole: letters == 4 },
            ('E', letters @ 1..=4) => Piece::DayName { is_whole: letters == 4 },
            ('d', digits @ 1..=2) => Piece::Day(digits),
            ('D', digits @ 1..=3) => Piece::DayOfYear(digits),
            ('H', digits @ 1..=2) => Piece::Hour(digits),
            ('h', digits @ 1..=2) => Piece::HalfDayHour(digits),
            ('m', digits @ 1..=2) => Piece::Minute(digits),
            ('s', digits @ 1..=2) => Piece::Second(digits),
            ('S', digits @ 1..=9) => Piece::Fraction(digits),
            ('a', 1) => Piece::HalfDay,
            (other, count) => {
                let letters: String = std::iter::repeat_n(other, count).collect();
                return plan_err!(
                    "the pattern {pattern:?} of date_format has {letters}; known are yyyy, yy, MMMM, MMM, MM, EEEE, EEE, dd, HH, hh, mm, ss, SSS, a, DDD, and text in single quotes"
                );
            }
        });
    }
    Ok(pieces)
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/// 1970 began on a Thursday.
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

fn name(names: &[&'static str], place: i64, is_whole: bool) -> &'static str {
    let name = names[usize::try_from(place).unwrap_or_default()];
    if is_whole { name } else { &name[..3] }
}

/// The same pattern as `strptime` and DataFusion's `to_timestamp` read it.
pub(crate) fn strptime(pattern: &str) -> Result<String> {
    let mut text = String::new();
    let pieces = pieces(pattern)?;
    let has = |wanted: fn(&Piece) -> bool| pieces.iter().any(wanted);
    let (has_hour, has_half_hour) =
        (has(|piece| matches!(piece, Piece::Hour(_))), has(|piece| matches!(piece, Piece::HalfDayHour(_))));
    // The parser would take midnight for a time of which a part is missing.
    if (has_hour || has_half_hour) && !has(|piece| matches!(piece, Piece::Minute(_))) {
        return plan_err!("the pattern {pattern:?} has hours and no minutes, so it reads no time; write HH:mm");
    }
    if has(|piece| matches!(piece, Piece::Minute(_))) && !(has_hour || has_half_hour) {
        return plan_err!("the pattern {pattern:?} has minutes and no hours, so it reads no time; write HH:mm");
    }
    if has(|piece| matches!(piece, Piece::Fraction(_))) && !has(|piece| matches!(piece, Piece::Second(_))) {
        return plan_err!("the pattern {pattern:?} has a second's digits and no seconds; write ss.SSS");
    }
    if has_half_hour != has(|piece| matches!(piece, Piece::HalfDay)) {
        return plan_err!("the pattern {pattern:?} needs both hh and a, as in 'hh:mm a'; write HH for hours from 0 to 23");
    }
    for piece in pieces {
        text.push_str(match piece {
            Piece::Text(literal) => {
                text.push_str(&literal.replace('%', "%%"));
                continue;
            }
            Piece::Fraction(digits) if ![3, 6, 9].contains(&digits) => {
                return plan_err!("the pattern {pattern:?} has {digits} digits of a second; write SSS, SSSSSS or SSSSSSSSS");
            }
            Piece::Fraction(digits) => {
                // Writing to a String cannot fail.
                let _ = write!(text, "%{digits}f");
                continue;
            }
            Piece::Year(_) => "%Y",
            Piece::ShortYear => "%y",
            Piece::Month(_) => "%m",
            Piece::MonthName { is_whole: true } => "%B",
            Piece::MonthName { is_whole: false } => "%b",
            Piece::DayName { is_whole: true } => "%A",
            Piece::DayName { is_whole: false } => "%a",
            Piece::Day(_) => "%d",
            Piece::DayOfYear(_) => "%j",
            Piece::Hour(_) => "%H",
            Piece::HalfDayHour(_) => "%I",
            Piece::Minute(_) => "%M",
            Piece::Second(_) => "%S",
            Piece::HalfDay => "%p",
        });
    }
    Ok(text)
}

/// A moment in parts.
struct Moment {
    year: i64,
    month: i64,
    day: i64,
    /// Since a Thursday, 0–6.
    day_of_week: i64,
    day_of_year: i64,
    second_of_day: i64,
    nanosecond: i64,
}

impl Moment {
    fn of(seconds: i64, nanosecond: i64) -> Self {
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        // Howard Hinnant's civil_from_days: years that begin in March, in eras of 400 years.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_march_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_march_year + 2) / 153;
        let day = day_of_march_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        // 306 days from March to December.
        let day_of_year = if month <= 2 { day_of_march_year - 306 + 1 } else { day_of_march_year + 59 + i64::from(is_leap) + 1 };
        let day_of_week = days.rem_euclid(7);
        Self { year, month, day, day_of_week, day_of_year, second_of_day: seconds.rem_euclid(SECONDS_PER_DAY), nanosecond }
    }

    fn write(&self, pieces: &[Piece], text: &mut String) {
        for piece in pieces {
            let (number, digits) = match piece {
                Piece::Text(literal) => {
                    text.push_str(literal);
                    continue;
                }
                Piece::MonthName { is_whole } => {
                    text.push_str(name(&MONTHS, self.month - 1, *is_whole));
                    continue;
                }
                Piece::DayName { is_whole } => {
                    text.push_str(name(&DAYS, self.day_of_week, *is_whole));
                    continue;
                }
                Piece::HalfDay => {
                    text.push_str(if self.second_of_day < SECONDS_PER_DAY / 2 { "AM" } else { "PM" });
                    continue;
                }
                Piece::Fraction(digits) => {
                    // 9 digits of nanoseconds, cut.
                    let mut fraction = self.nanosecond;
                    for _ in *digits..9 {
                        fraction /= 10;
                    }
                    (fraction, *digits)
                }
                Piece::Year(digits) => (self.year, *digits),
                Piece::ShortYear => (self.year.rem_euclid(100), 2),
                Piece::Month(digits) => (self.month, *digits),
                Piece::Day(digits) => (self.day, *digits),
                Piece::DayOfYear(digits) => (self.day_of_year, *digits),
                Piece::Hour(digits) => (self.second_of_day / 3_600, *digits),
                Piece::HalfDayHour(digits) => ((self.second_of_day / 3_600 + 11) % 12 + 1, *digits),
                Piece::Minute(digits) => (self.second_of_day / 60 % 60, *digits),
                Piece::Second(digits) => (self.second_of_day % 60, *digits),
            };
            // Writing to a String cannot fail.
            let _ = write!(text, "{number:0digits$}");
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateFormat {
    signature: Signature,
}

impl DateFormat {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn is_strftime(pattern: &Expr) -> bool {
    matches!(pattern, Expr::Literal(value, _) if value.try_as_str().flatten().is_some_and(|text| text.contains('%')))
}

impl ScalarUDFImpl for DateFormat {
    fn name(&self) -> &str {
        "date_format"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let time = match arguments {
            [time @ (DataType::Timestamp(..) | DataType::Date32), _] => time.clone(),
            [DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Null, _] => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            _ => return plan_err!("date_format takes a timestamp or date, and a pattern such as 'yyyy-MM-dd'"),
        };
        Ok(vec![time, DataType::Utf8])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn simplify(&self, arguments: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match arguments.get(1) {
            Some(pattern) if is_strftime(pattern) => Ok(ExprSimplifyResult::Simplified(to_char().call(arguments))),
            Some(Expr::Literal(value, _)) => {
                if let Some(Some(text)) = value.try_as_str() {
                    pieces(text)?;
                }
                Ok(ExprSimplifyResult::Original(arguments))
            }
            _ => Ok(ExprSimplifyResult::Original(arguments)),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, pattern] = arguments.args.as_slice() else { return exec_err!("date_format takes a time and a pattern") };
        let rows = arguments.number_rows;
        let (seconds, nanoseconds) = split(&time.to_array(rows)?)?;
        let mut text = String::new();
        let mut formatted = StringBuilder::with_capacity(rows, rows * 16);
        let mut append = |row: usize, pieces: &[Piece]| {
            if seconds.is_null(row) {
                formatted.append_null();
                return;
            }
            text.clear();
            Moment::of(seconds.value(row), nanoseconds.value(row)).write(pieces, &mut text);
            formatted.append_value(&text);
        };
        match pattern {
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(pattern))) => {
                let pieces = pieces(pattern)?;
                (0..rows).for_each(|row| append(row, &pieces));
            }
            ColumnarValue::Scalar(_) => return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None))),
            ColumnarValue::Array(patterns) => {
                let patterns = patterns.as_string::<i32>();
                for row in 0..rows {
                    if patterns.is_null(row) {
                        formatted.append_null();
                    } else {
                        text.clear();
                        if seconds.is_null(row) {
                            formatted.append_null();
                        } else {
                            Moment::of(seconds.value(row), nanoseconds.value(row)).write(&pieces(patterns.value(row))?, &mut text);
                            formatted.append_value(&text);
                        }
                    }
                }
            }
        }
        Ok(ColumnarValue::Array(Arc::new(formatted.finish())))
    }
}

/// Seconds since 1970 and the nanoseconds after them.
fn split(times: &ArrayRef) -> Result<(Int64Array, Int64Array)> {
    let per_second = match times.data_type() {
        DataType::Timestamp(unit, _) => per_second(*unit),
        DataType::Date32 => {
            let days = cast(times, &DataType::Int64)?;
            let days = days.as_primitive::<Int64Type>();
            return Ok((days.unary(|day| day * SECONDS_PER_DAY), days.unary(|_| 0)));
        }
        other => return exec_err!("date_format takes a timestamp or date, not {other}"),
    };
    let numbers = cast(times, &DataType::Int64)?;
    let numbers = numbers.as_primitive::<Int64Type>();
    let seconds = numbers.unary(|time: i64| time.div_euclid(per_second));
    let nanoseconds = numbers.unary(|time: i64| time.rem_euclid(per_second) * (1_000_000_000 / per_second));
    Ok((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(seconds: i64, nanosecond: i64, pattern: &str) -> String {
        let mut text = String::new();
        Moment::of(seconds, nanosecond).write(&pieces(pattern).unwrap(), &mut text);
        text
    }

    #[test]
    fn patterns_are_javas() {
        // 2026-11-24 05:00:07.123 UTC
        let seconds = 1_795_496_407;
        for (pattern, expected) in [
            ("yyyy-MM-dd", "2026-11-24"),
            ("HH:mm", "05:00"),
            ("yyyy-MM-dd'T'HH:mm:ss.SSS", "2026-11-24T05:00:07.123"),
            ("yy/M/d h 'o''clock' a", "26/11/24 5 o'clock AM"),
            ("DDD", "328"),
            ("EEE, d MMM yyyy, EEEE MMMM", "Tue, 24 Nov 2026, Tuesday November"),
        ] {
            assert_eq!(formatted(seconds, 123_000_000, pattern), expected, "{pattern}");
        }
        assert_eq!(formatted(-1, 0, "yyyy-MM-dd HH:mm:ss"), "1969-12-31 23:59:59");
        assert_eq!(formatted(951_782_400, 0, "yyyy-MM-dd DDD"), "2000-02-29 060");
        assert_eq!(formatted(978_220_800, 0, "yyyy-MM-dd DDD"), "2000-12-31 366");
        assert_eq!(formatted(981_072_000, 0, "yyyy-MM-dd DDD hh a"), "2001-02-02 033 12 AM");
        assert_eq!(formatted(-86_400, 0, "E MMM"), "Wed Dec");
        assert_eq!(strptime("EEE dd/MMM/yy hh:mm:ss.SSS a 'at 5 %'").unwrap(), "%a %d/%b/%y %I:%M:%S.%3f %p at 5 %%");
        for wrong in ["yyyy QQ", "yyyy-MM-dd HH", "hh:mm", "HH:mm a", "HH:mm:ss.S", "mm", "HH:mm.SSS"] {
            assert!(strptime(wrong).is_err(), "{wrong}");
        }
        assert!(pieces("'open").is_err());
    }
}
