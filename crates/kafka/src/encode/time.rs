//! Dates, times and timestamps in Flink's notations, with as many digits after the second as the type has.
use arrow::{
    array::{Array, ArrowPrimitiveType, AsArray, PrimitiveArray},
    datatypes::{
        DataType, Date32Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    },
};

use super::{
    EncodeOptions,
    value::{Value, scalar},
};
use crate::decode::TimestampFormat;

const DAY_SECONDS: i64 = 86_400;

pub(super) fn bind(array: &dyn Array, options: EncodeOptions) -> Box<dyn Value + '_> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    match array.data_type() {
        DataType::Time32(Second) => times::<Time32SecondType>(array.as_primitive(), 0),
        DataType::Time32(_) => times::<Time32MillisecondType>(array.as_primitive(), 3),
        DataType::Time64(Microsecond) => times::<Time64MicrosecondType>(array.as_primitive(), 6),
        DataType::Time64(_) => times::<Time64NanosecondType>(array.as_primitive(), 9),
        DataType::Timestamp(Second, zone) => timestamps::<TimestampSecondType>(array.as_primitive(), 0, zone.is_some(), options),
        DataType::Timestamp(Millisecond, zone) => {
            timestamps::<TimestampMillisecondType>(array.as_primitive(), 3, zone.is_some(), options)
        }
        DataType::Timestamp(Microsecond, zone) => {
            timestamps::<TimestampMicrosecondType>(array.as_primitive(), 6, zone.is_some(), options)
        }
        DataType::Timestamp(Nanosecond, zone) => {
            timestamps::<TimestampNanosecondType>(array.as_primitive(), 9, zone.is_some(), options)
        }
        _ => dates(array.as_primitive()),
    }
}

fn dates(array: &PrimitiveArray<Date32Type>) -> Box<dyn Value + '_> {
    scalar(array, move |row, out| {
        out.push(b'"');
        write_date(array.value(row).into(), out)?;
        out.push(b'"');
        Ok(())
    })
}

fn times<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &PrimitiveArray<T>, digits: u32) -> Box<dyn Value + '_> {
    scalar(array, move |row, out| {
        let per_second = 10i64.pow(digits);
        let ticks: i64 = array.value(row).into();
        out.push(b'"');
        write_time(ticks.div_euclid(per_second), ticks.rem_euclid(per_second), digits as usize, out);
        out.push(b'"');
        Ok(())
    })
}

fn timestamps<T: ArrowPrimitiveType<Native = i64>>(
    array: &PrimitiveArray<T>,
    digits: u32,
    is_instant: bool,
    options: EncodeOptions,
) -> Box<dyn Value + '_> {
    scalar(array, move |row, out| {
        let per_second = 10i64.pow(digits);
        let ticks = array.value(row);
        let seconds = ticks.div_euclid(per_second);
        out.push(b'"');
        write_date(seconds.div_euclid(DAY_SECONDS), out)?;
        out.push(match options.timestamp_format {
            TimestampFormat::Sql => b' ',
            TimestampFormat::Iso8601 => b'T',
        });
        write_time(seconds.rem_euclid(DAY_SECONDS), ticks.rem_euclid(per_second), digits as usize, out);
        if is_instant {
            out.push(b'Z');
        }
        out.push(b'"');
        Ok(())
    })
}

/// Year, month and day of days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn write_date(days: i64, out: &mut Vec<u8>) -> Result<(), String> {
    let (year, month, day) = civil_from_days(days);
    if !(0..=9999).contains(&year) {
        return Err(format!("the year {year} cannot be written in four digits"));
    }
    write_digits(year, 4, out);
    out.push(b'-');
    write_digits(month, 2, out);
    out.push(b'-');
    write_digits(day, 2, out);
    Ok(())
}

fn write_time(seconds: i64, fraction: i64, digits: usize, out: &mut Vec<u8>) {
    write_digits(seconds / 3600, 2, out);
    out.push(b':');
    write_digits(seconds / 60 % 60, 2, out);
    out.push(b':');
    write_digits(seconds % 60, 2, out);
    if digits > 0 {
        out.push(b'.');
        write_digits(fraction, digits, out);
    }
}

/// A number that is not negative, with zeros in front.
fn write_digits(mut number: i64, digits: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(-1), (1969, 12, 31));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
        assert_eq!(civil_from_days(19_782), (2024, 2, 29));
        let mut out = Vec::new();
        assert!(write_date(2_932_897, &mut out).is_err(), "10000-01-01");
    }
}
