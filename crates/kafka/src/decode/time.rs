//! Columns of dates, times and timestamps. Flink's two notations are both read whatever the option says: SQL (`2024-01-01 00:00:00.123`)
//! and ISO-8601 (`2024-01-01T00:00:00.123Z`, or with an offset); so is a number of milliseconds since 1970 for timestamps.
use std::sync::Arc;

use arrow::array::{ArrayRef, PrimitiveArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};

use super::TimestampFormat;
use super::column::Column;
use super::fault::{Fault, Outcome};
use super::scan::Scanner;
use super::values::{Values, refuse};

const DAY_SECONDS: i64 = 86_400;

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn month_days(year: i64, month: i64) -> i64 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads digits and separators from the front.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.rest.split_at_checked(count)?;
        let mut number = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            number = number * 10 + i64::from(digit - b'0');
        }
        self.rest = rest;
        Some(number)
    }

    fn pass(&mut self, byte: u8) -> Option<()> {
        let (first, rest) = self.rest.split_first()?;
        (*first == byte).then_some(())?;
        self.rest = rest;
        Some(())
    }

    fn date(&mut self) -> Option<i64> {
        let year = self.digits(4)?;
        self.pass(b'-')?;
        let month = self.digits(2)?;
        self.pass(b'-')?;
        let day = self.digits(2)?;
        let valid = (1..=12).contains(&month) && (1..=month_days(year, month)).contains(&day);
        valid.then(|| days_from_civil(year, month, day))
    }

    /// Seconds of the day and nanoseconds; seconds and fraction may be left out.
    fn time(&mut self) -> Option<(i64, i64)> {
        let hour = self.digits(2)?;
        self.pass(b':')?;
        let minute = self.digits(2)?;
        let second = if self.pass(b':').is_some() { self.digits(2)? } else { 0 };
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let mut nanos = 0;
        if self.pass(b'.').is_some() {
            let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            nanos = self.digits(digits)? * 10i64.pow(9 - digits as u32);
        }
        Some((hour * 3600 + minute * 60 + second, nanos))
    }

    /// Seconds east of Greenwich; none written means none.
    fn zone(&mut self) -> Option<i64> {
        let sign = match self.rest.first() {
            None => return Some(0),
            Some(b'Z' | b'z') => {
                self.rest = &self.rest[1..];
                return Some(0);
            }
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return None,
        };
        self.rest = &self.rest[1..];
        let hours = self.digits(2)?;
        let minutes = if self.rest.is_empty() {
            0
        } else {
            let _ = self.pass(b':');
            self.digits(2)?
        };
        (hours <= 18 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
    }
}

fn parse_date(text: &[u8]) -> Option<i32> {
    let mut reader = Reader { rest: text };
    let days = reader.date()?;
    reader.rest.is_empty().then_some(days as i32)
}

/// Seconds of the day and nanoseconds.
fn parse_time(text: &[u8]) -> Option<(i64, i64)> {
    let mut reader = Reader { rest: text };
    let time = reader.time()?;
    let _ = reader.pass(b'Z');
    reader.rest.is_empty().then_some(time)
}

/// Seconds since 1970 in UTC and nanoseconds.
fn parse_timestamp(text: &[u8]) -> Option<(i64, i64)> {
    let mut reader = Reader { rest: text };
    let days = reader.date()?;
    if reader.pass(b' ').is_none() {
        reader.pass(b'T').or_else(|| reader.pass(b't'))?;
    }
    let (seconds, nanos) = reader.time()?;
    let east = reader.zone()?;
    reader.rest.is_empty().then_some((days * DAY_SECONDS + seconds - east, nanos))
}

/// The string that starts here; `None` (nothing passed) for anything else, or one with escapes.
fn plain_string<'a>(scanner: &mut Scanner<'a>) -> Outcome<Option<&'a [u8]>> {
    if scanner.peek() != Some(b'"') {
        return Ok(None);
    }
    let mut ahead = scanner.at_string();
    let span = ahead.string()?;
    if span.escaped {
        return Ok(None);
    }
    *scanner = ahead;
    Ok(Some(scanner.raw(span)))
}

#[cold]
fn unreadable(text: &[u8], wanted: &str) -> Box<Fault> {
    let shown: String = String::from_utf8_lossy(text).chars().take(40).collect();
    Fault::value(format!("expected {wanted}, found {shown:?}"))
}

#[derive(Default)]
pub(super) struct DateColumn {
    values: Values<Date32Type>,
}

impl Column for DateColumn {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        const WANTED: &str = "a date like \"2024-01-31\"";
        match plain_string(scanner)? {
            Some(text) => self.values.push(parse_date(text).ok_or_else(|| unreadable(text, WANTED))?),
            None => return refuse(scanner, WANTED),
        }
        Ok(())
    }

    fn append_null(&mut self) {
        self.values.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.values.finish())
    }
}

/// Kept as nanoseconds of the day until the end.
pub(super) struct TimeColumn {
    values: Values<Int64Type>,
    data_type: DataType,
}

impl TimeColumn {
    pub fn new(data_type: DataType) -> Self {
        Self { values: Values::default(), data_type }
    }
}

impl Column for TimeColumn {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        const WANTED: &str = "a time like \"23:59:59\"";
        match plain_string(scanner)? {
            Some(text) => {
                let (seconds, nanos) = parse_time(text).ok_or_else(|| unreadable(text, WANTED))?;
                self.values.push(seconds * 1_000_000_000 + nanos);
            }
            None => return refuse(scanner, WANTED),
        }
        Ok(())
    }

    fn append_null(&mut self) {
        self.values.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let nanos = self.values.finish();
        match &self.data_type {
            DataType::Time32(TimeUnit::Second) => {
                Arc::new(nanos.unary::<_, Time32SecondType>(|nanos| (nanos / 1_000_000_000) as i32))
            }
            DataType::Time32(_) => Arc::new(nanos.unary::<_, Time32MillisecondType>(|nanos| (nanos / 1_000_000) as i32)),
            DataType::Time64(TimeUnit::Microsecond) => Arc::new(nanos.unary::<_, Time64MicrosecondType>(|nanos| nanos / 1_000)),
            _ => Arc::new(nanos.unary::<_, Time64NanosecondType>(|nanos| nanos)),
        }
    }
}

pub(super) struct TimestampColumn {
    values: Values<Int64Type>,
    unit: TimeUnit,
    zone: Option<Arc<str>>,
    format: TimestampFormat,
}

impl TimestampColumn {
    pub fn new(unit: TimeUnit, zone: Option<Arc<str>>, format: TimestampFormat) -> Self {
        Self { values: Values::default(), unit, zone, format }
    }

    fn ticks_per_second(&self) -> i64 {
        match self.unit {
            TimeUnit::Second => 1,
            TimeUnit::Millisecond => 1_000,
            TimeUnit::Microsecond => 1_000_000,
            TimeUnit::Nanosecond => 1_000_000_000,
        }
    }

    fn ticks(&self, seconds: i64, nanos: i64) -> Option<i64> {
        let per_second = self.ticks_per_second();
        seconds.checked_mul(per_second)?.checked_add(nanos / (1_000_000_000 / per_second))
    }

    fn wanted(&self) -> &'static str {
        match self.format {
            TimestampFormat::Sql => "a timestamp like \"2024-01-31 23:59:59.123\"",
            TimestampFormat::Iso8601 => "a timestamp like \"2024-01-31T23:59:59.123Z\"",
        }
    }

    fn array<T: ArrowPrimitiveType<Native = i64>>(&self, values: PrimitiveArray<Int64Type>) -> PrimitiveArray<T> {
        let (_, values, nulls) = values.into_parts();
        let values: ScalarBuffer<i64> = values;
        PrimitiveArray::new(values, nulls).with_data_type(DataType::Timestamp(self.unit, self.zone.clone()))
    }
}

impl Column for TimestampColumn {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        if let Some(text) = plain_string(scanner)? {
            let (seconds, nanos) = parse_timestamp(text).ok_or_else(|| unreadable(text, self.wanted()))?;
            let ticks = self.ticks(seconds, nanos).ok_or_else(|| unreadable(text, self.wanted()))?;
            self.values.push(ticks);
            return Ok(());
        }
        let Some(b'-' | b'0'..=b'9') = scanner.peek() else { return refuse(scanner, self.wanted()) };
        let number = scanner.number()?;
        let millis = number.magnitude.and_then(|magnitude| i64::try_from(magnitude).ok());
        let millis = millis.map(|millis| if number.negative { -millis } else { millis });
        let ticks = millis.and_then(|millis| self.ticks(millis.div_euclid(1_000), millis.rem_euclid(1_000) * 1_000_000));
        self.values.push(ticks.ok_or_else(|| unreadable(number.text.as_bytes(), "milliseconds since 1970"))?);
        Ok(())
    }

    fn append_null(&mut self) {
        self.values.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let values = self.values.finish();
        match self.unit {
            TimeUnit::Second => Arc::new(self.array::<TimestampSecondType>(values)),
            TimeUnit::Millisecond => Arc::new(self.array::<TimestampMillisecondType>(values)),
            TimeUnit::Microsecond => Arc::new(self.array::<TimestampMicrosecondType>(values)),
            TimeUnit::Nanosecond => Arc::new(self.array::<TimestampNanosecondType>(values)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        assert_eq!(days_from_civil(1970, 1, 1), 0);
        assert_eq!(days_from_civil(2000, 3, 1), 11_017);
        assert_eq!(days_from_civil(1969, 12, 31), -1);
        assert_eq!(parse_date(b"2024-02-29"), Some(19_782));
        assert_eq!(parse_date(b"2023-02-29"), None);
        assert_eq!(parse_date(b"2023-02-01 "), None);
    }

    #[test]
    fn timestamps() {
        assert_eq!(parse_timestamp(b"1970-01-02 00:00:01.5"), Some((86_401, 500_000_000)));
        assert_eq!(parse_timestamp(b"1970-01-01T00:00:01.000000001Z"), Some((1, 1)));
        assert_eq!(parse_timestamp(b"1970-01-01T02:00:00+02:00"), Some((0, 0)));
        assert_eq!(parse_timestamp(b"1970-01-01T02:00-0130"), Some((2 * 3600 + 5400, 0)));
        for wrong in ["1970-01-01", "1970-01-01 24:00:00", "1970-01-01 00:00:00.", "1970-01-01 00:00:00 x", "70-01-01 00:00:00"] {
            assert_eq!(parse_timestamp(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
