//! Intervals over several units, `INTERVAL '1 02:03:04' DAY TO SECOND`, which DataFusion does not read, as what they are in words: `INTERVAL '1 day 2 hour 3
//! minute 4 second'`. A sign in front is that of all parts, as the standard and Flink have it. A precision, `SECOND(3)`, says nothing more.
use datafusion::sql::sqlparser::ast::{DateTimeField, Expr, Interval, Value};

use super::dates::interval;

/// From the largest on, with what stands in front of each but the first.
static UNITS: [(&str, char); 4] = [("day", ' '), ("hour", ' '), ("minute", ':'), ("second", ':')];

/// What an interval is here; `None`: what it says.
pub(super) fn in_units(written: &mut Interval) -> Result<Option<Expr>, String> {
    (written.leading_precision, written.fractional_seconds_precision) = (None, None);
    let (Some(first), Some(last)) = (&written.leading_field, &written.last_field) else { return Ok(None) };
    let Expr::Value(value) = written.value.as_ref() else { return Err(unreadable(written)) };
    let Value::SingleQuotedString(text) = &value.value else { return Err(unreadable(written)) };
    let (sign, digits) = match text.trim().strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.trim().trim_start_matches('+')),
    };
    let parts = match (first, last) {
        (DateTimeField::Year, DateTimeField::Month) => {
            digits.split_once('-').map(|(years, months)| vec![(years, "year"), (months, "month")])
        }
        _ => units(first, last).and_then(|units| split(digits, units)),
    };
    let is_number = |(number, unit): &(&str, &str)| {
        let (whole, fraction) = number.split_once('.').filter(|_| *unit == "second").unwrap_or((*number, "0"));
        [whole, fraction].iter().all(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
    };
    match parts.filter(|parts| parts.iter().all(is_number)) {
        Some(parts) => {
            let words: Vec<String> = parts.iter().map(|(number, unit)| format!("{sign}{number} {unit}")).collect();
            Ok(Some(interval(&words.join(" "))))
        }
        None => Err(unreadable(written)),
    }
}

/// The units between these two, the larger first.
fn units(first: &DateTimeField, last: &DateTimeField) -> Option<&'static [(&'static str, char)]> {
    let place = |field: &DateTimeField| UNITS.iter().position(|(unit, _)| field.to_string().eq_ignore_ascii_case(unit));
    let (first, last) = (place(first)?, place(last)?);
    (first < last).then(|| &UNITS[first..=last])
}

fn split<'t>(digits: &'t str, units: &[(&'static str, char)]) -> Option<Vec<(&'t str, &'static str)>> {
    let (mut parts, mut rest) = (Vec::new(), digits);
    for (unit, next) in units.iter().zip(&units[1..]) {
        let (number, after) = rest.split_once(next.1)?;
        parts.push((number, unit.0));
        rest = after;
    }
    parts.push((rest, units.last()?.0));
    Some(parts)
}

fn unreadable(written: &Interval) -> String {
    format!(
        "{written} cannot be read; write INTERVAL '1 02:03:04' DAY TO SECOND, with the units from DAY, HOUR, MINUTE and SECOND that it has, INTERVAL '1-2' YEAR TO MONTH, or INTERVAL '1 day 2 hours'"
    )
}

#[cfg(test)]
mod tests {
    use super::super::equivalents::rewritten;

    #[test]
    fn each_unit_has_its_number() {
        for (written, meant) in [
            ("INTERVAL '1 02:03:04.5' DAY TO SECOND", "INTERVAL '1 day 02 hour 03 minute 04.5 second'"),
            ("INTERVAL '1 02:03:04' DAY(3) TO SECOND(3)", "INTERVAL '1 day 02 hour 03 minute 04 second'"),
            ("INTERVAL '1 02:03' DAY TO MINUTE", "INTERVAL '1 day 02 hour 03 minute'"),
            ("INTERVAL '10 02' DAY TO HOUR", "INTERVAL '10 day 02 hour'"),
            ("INTERVAL '02:03:04' HOUR TO SECOND", "INTERVAL '02 hour 03 minute 04 second'"),
            ("INTERVAL '02:03' HOUR TO MINUTE", "INTERVAL '02 hour 03 minute'"),
            ("INTERVAL '-90:01.25' MINUTE TO SECOND", "INTERVAL '-90 minute -01.25 second'"),
            ("INTERVAL '1-2' YEAR TO MONTH", "INTERVAL '1 year 2 month'"),
            ("INTERVAL '-1-2' YEAR(4) TO MONTH", "INTERVAL '-1 year -2 month'"),
            ("INTERVAL '10' SECOND(3)", "INTERVAL '10' SECOND"),
            ("INTERVAL '10' DAY", "INTERVAL '10' DAY"),
            ("2 * INTERVAL '1:30' MINUTE TO SECOND", "INTERVAL '180 seconds'"),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
    }

    #[test]
    fn what_does_not_fit_its_units_is_said() {
        for written in [
            "INTERVAL '1 02:03' DAY TO SECOND",
            "INTERVAL '02:03' MINUTE TO HOUR",
            "INTERVAL '1' YEAR TO MONTH",
            "INTERVAL '1-2' MONTH TO YEAR",
            "INTERVAL '1 -2' DAY TO HOUR",
            "INTERVAL n DAY TO HOUR",
        ] {
            let error = rewritten(written).unwrap_err().to_string();
            assert!(error.contains("cannot be read; write INTERVAL '1 02:03:04'"), "{written}: {error}");
        }
    }
}
