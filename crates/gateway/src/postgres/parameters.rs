//! Bound parameters as SQL literals. The engine takes text only, so `$1` becomes what a careful person would have written there.
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime};
use datafusion_postgres::pgwire::{
    api::{Type, portal::Portal},
    error::{PgWireError, PgWireResult},
};

use super::report;
use crate::{
    error::{EngineError, ErrorKind},
    scan,
};

/// `types` are what the server told; what the client declared goes before.
pub fn bind<S: Clone>(sql: &str, portal: &Portal<S>, types: &[Type]) -> PgWireResult<String> {
    let declared = &portal.statement.parameter_types;
    let literals = (0..portal.parameter_len())
        .map(|at| {
            let kind = declared.get(at).cloned().flatten().filter(|kind| *kind != Type::UNKNOWN);
            literal(portal, at, &kind.or_else(|| types.get(at).cloned()).unwrap_or(Type::TEXT))
        })
        .collect::<PgWireResult<Vec<_>>>()?;
    scan::bind(sql, &literals).map_err(|number| bad(format!("parameter ${number} has no value")))
}

fn literal<S: Clone>(portal: &Portal<S>, at: usize, kind: &Type) -> PgWireResult<String> {
    let Some(bytes) = portal.parameters.get(at).and_then(Option::as_ref) else {
        return Ok("NULL".to_owned());
    };
    if portal.parameter_format.is_text(at) {
        let text = std::str::from_utf8(bytes).map_err(|_| bad(format!("parameter ${} is not UTF-8", at + 1)))?;
        return of_text(text, kind).ok_or_else(|| bad(format!("parameter ${} is no {}: {text}", at + 1, kind.name())));
    }
    let value = match *kind {
        Type::BOOL => portal.parameter::<bool>(at, kind)?.map(|value| value.to_string()),
        Type::INT2 => portal.parameter::<i16>(at, kind)?.map(number),
        Type::INT4 => portal.parameter::<i32>(at, kind)?.map(number),
        Type::INT8 => portal.parameter::<i64>(at, kind)?.map(number),
        Type::FLOAT4 => portal.parameter::<f32>(at, kind)?.map(|value| float(f64::from(value))),
        Type::FLOAT8 => portal.parameter::<f64>(at, kind)?.map(float),
        Type::DATE => portal.parameter::<NaiveDate>(at, kind)?.map(|day| format!("DATE '{day}'")),
        Type::TIMESTAMP => portal.parameter::<NaiveDateTime>(at, kind)?.map(timestamp),
        Type::TIMESTAMPTZ => portal.parameter::<DateTime<FixedOffset>>(at, kind)?.map(|time| timestamp(time.naive_utc())),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => {
            portal.parameter::<String>(at, kind)?.map(|text| scan::quoted(&text))
        }
        _ => return Err(bad(format!("parameter ${} of type {} cannot be sent in binary; send it as text", at + 1, kind.name()))),
    };
    Ok(value.unwrap_or_else(|| "NULL".to_owned()))
}

fn of_text(text: &str, kind: &Type) -> Option<String> {
    Some(match *kind {
        Type::BOOL => match text.to_ascii_lowercase().as_str() {
            "t" | "true" | "1" | "on" | "yes" => "true".to_owned(),
            "f" | "false" | "0" | "off" | "no" => "false".to_owned(),
            _ => return None,
        },
        Type::INT2 | Type::INT4 | Type::INT8 => number(text.trim().parse::<i64>().ok()?),
        Type::FLOAT4 | Type::FLOAT8 => float(text.trim().parse().ok()?),
        Type::NUMERIC => {
            let digits = text.trim();
            let plain = digits.strip_prefix('-').unwrap_or(digits);
            let fits =
                plain.bytes().any(|byte| byte.is_ascii_digit()) && plain.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            fits.then(|| format!("({digits})"))?
        }
        Type::DATE => format!("CAST({} AS DATE)", scan::quoted(text)),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => format!("CAST({} AS TIMESTAMP)", scan::quoted(text)),
        _ => scan::quoted(text),
    })
}

/// In parentheses: `-$1` with a negative value would begin a comment.
fn number(value: impl std::fmt::Display) -> String {
    format!("({value})")
}

fn float(value: f64) -> String {
    if value.is_finite() { format!("({value:e})") } else { format!("CAST('{value}' AS DOUBLE)") }
}

fn timestamp(time: NaiveDateTime) -> String {
    format!("CAST('{}' AS TIMESTAMP)", time.format("%Y-%m-%dT%H:%M:%S%.f"))
}

fn bad(message: String) -> PgWireError {
    report(EngineError::new(ErrorKind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_parameters_become_literals_of_their_type() {
        for (text, kind, expected) in [
            ("-5", Type::INT4, Some("(-5)")),
            ("1; DROP TABLE x", Type::INT4, None),
            ("1.50", Type::NUMERIC, Some("(1.50)")),
            ("1e5)--", Type::NUMERIC, None),
            ("t", Type::BOOL, Some("true")),
            ("O'Hara", Type::TEXT, Some("'O''Hara'")),
            ("2026-01-01", Type::DATE, Some("CAST('2026-01-01' AS DATE)")),
            ("nan", Type::FLOAT8, Some("CAST('NaN' AS DOUBLE)")),
        ] {
            assert_eq!(of_text(text, &kind).as_deref(), expected, "{text} as {kind}");
        }
    }
}
