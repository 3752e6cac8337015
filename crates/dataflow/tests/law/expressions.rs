//! Random scalar expressions and predicates over the columns in scope. None of them can fail while running (no division, no cast of text that is no
//! number), none overflows, and no double rounds, so that a difference between two answers is never one of floating point. A decimal may have any cents, so
//! none becomes a double.
use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{spelling::either, tables::Kind};

/// A column in scope: as SQL names it.
#[derive(Clone, Debug)]
pub struct Name {
    pub sql: String,
    pub kind: Kind,
    /// The same on every way of computing it, to the last bit; only such values are compared, grouped and joined.
    pub exact: bool,
}

pub type Scope<'a> = &'a [Name];

/// A column of this kind, if there is one.
pub fn any_column<'a>(scope: Scope<'a>, kind: Kind, rng: &mut ChaCha8Rng) -> Option<&'a Name> {
    let fitting: Vec<&Name> = scope.iter().filter(|name| name.kind == kind && name.exact).collect();
    fitting.choose(rng).copied()
}

pub fn literal(kind: Kind, rng: &mut ChaCha8Rng) -> String {
    match kind {
        Kind::Integer => rng.random_range(-3..15).to_string(),
        Kind::Double => format!("{:.2}", f64::from(rng.random_range(-10..30)) / 4.0),
        Kind::Text => format!("'{}'", ["", "a", "b", "ab", "Zoë", "c"].choose(rng).expect("words")),
        Kind::Flag => rng.random_bool(0.5).to_string(),
        Kind::Decimal => format!("CAST('{:.2}' AS DECIMAL(12, 2))", f64::from(rng.random_range(-20..40)) / 4.0),
        Kind::Time => format!("TIMESTAMP '2023-11-14 {}'", clock(rng)),
        Kind::Date => format!("DATE '2023-11-{}'", rng.random_range(11..18)),
        Kind::Instant => {
            let clock = clock(rng);
            let plain = format!(r#"arrow_cast('2023-11-14T{clock}', 'Timestamp(Millisecond, Some("UTC"))')"#);
            either(&format!("TIMESTAMPTZ '2023-11-14 {clock}+00'"), &plain)
        }
    }
}

fn clock(rng: &mut ChaCha8Rng) -> String {
    format!("22:{:02}:{:02}", rng.random_range(13..20), rng.random_range(0..60))
}

/// A decimal of the one type that they all have room in.
pub fn decimal(sql: &str) -> String {
    format!("CAST({sql} AS DECIMAL(20, 2))")
}

fn sign(rng: &mut ChaCha8Rng) -> &'static str {
    ["+", "-"].choose(rng).copied().expect("signs")
}

/// An expression of this kind, at most so deep.
pub fn expression(scope: Scope, kind: Kind, depth: usize, rng: &mut ChaCha8Rng) -> String {
    if depth == 0 || rng.random_bool(0.35) {
        return match any_column(scope, kind, rng) {
            Some(name) if rng.random_bool(0.9) => name.sql.clone(),
            _ => literal(kind, rng),
        };
    }
    let part = |kind: Kind, rng: &mut ChaCha8Rng| expression(scope, kind, depth - 1, rng);
    match rng.random_range(0..3) {
        0 => {
            let (yes, no) = (part(kind, rng), part(kind, rng));
            return format!("CASE WHEN {} THEN {yes} ELSE {no} END", predicate(scope, depth - 1, rng));
        }
        1 => return format!("coalesce({}, {})", part(kind, rng), literal(kind, rng)),
        _ => {}
    }
    let inner = part(kind, rng);
    match kind {
        Kind::Integer => match rng.random_range(0..13) {
            0 => format!("({inner} + CAST({} AS BIGINT))", part(kind, rng)),
            1 => format!("({inner} - CAST({} AS BIGINT))", part(kind, rng)),
            2 => format!("({inner} * CAST(3 AS BIGINT))"),
            3 => format!("({inner} % {})", rng.random_range(2..5)),
            4 => format!("CAST({} AS BIGINT)", part(Kind::Double, rng)),
            5 => format!("nullif({inner}, {})", literal(kind, rng)),
            6 => format!("CAST(character_length({}) AS BIGINT)", part(Kind::Text, rng)),
            7 => format!("TRY_CAST({} AS BIGINT)", part(Kind::Text, rng)),
            8 => format!("CAST({} AS BIGINT)", part(Kind::Decimal, rng)),
            9 => {
                let json = part(Kind::Text, rng);
                let plain = format!("TRY_CAST(json_value({json}, '$.a') AS BIGINT)");
                either(&format!("JSON_VALUE({json}, '$.a' RETURNING BIGINT)"), &plain)
            }
            10 => {
                let (from, to) = (part(Kind::Time, rng), part(Kind::Time, rng));
                let plain = format!("timestampdiff('second', {from}, {to})");
                either(&format!("TIMESTAMPDIFF(SECOND, {from}, {to})"), &plain)
            }
            11 => format!("dayofmonth({})", part(Kind::Date, rng)),
            _ => format!("abs(CAST({inner} AS BIGINT))"),
        },
        Kind::Double => match rng.random_range(0..4) {
            0 => format!("({inner} + {})", part(kind, rng)),
            1 => format!("({inner} * 2.0)"),
            2 => format!("CAST({} AS DOUBLE)", part(Kind::Integer, rng)),
            _ => format!("({inner} - {})", literal(kind, rng)),
        },
        Kind::Decimal => match rng.random_range(0..5) {
            0 => decimal(&format!("{inner} {} {}", sign(rng), part(kind, rng))),
            1 => decimal(&format!("{inner} * CAST(3 AS DECIMAL(2, 0))")),
            2 => decimal(&part(Kind::Integer, rng)),
            3 => decimal(&part(Kind::Double, rng)),
            _ => decimal(&inner),
        },
        Kind::Text => match rng.random_range(0..11) {
            0 => format!("({inner} || {})", part(kind, rng)),
            1 => format!("upper({inner})"),
            2 => format!("CAST({} AS VARCHAR)", part(Kind::Integer, rng)),
            3 => format!("substr({inner}, 1, 1)"),
            4 => format!("CAST({} AS VARCHAR)", part(Kind::Decimal, rng)),
            5 => format!("json_value({inner}, '$.a')"),
            6 => format!("get_json_object({inner}, '$.a.b[1]')"),
            7 => either(&format!("(({inner}) ->> 'b')"), &format!("json_as_text({inner}, 'b')")),
            8 => {
                // A member that is JSON itself would be nested.
                let (a, b) = (part(Kind::Integer, rng), format!("substr({inner}, 1, 2)"));
                let plain = format!("json_of('{{', '=a', {a}, '=b', {b})");
                either(&format!("JSON_OBJECT('a' VALUE {a}, 'b' VALUE {b})"), &plain)
            }
            9 => {
                let kind = [Kind::Integer, Kind::Text, Kind::Time].choose(rng).copied().expect("kinds");
                format!("to_json({})", part(kind, rng))
            }
            _ => format!("nullif({inner}, {})", literal(kind, rng)),
        },
        Kind::Flag if rng.random_bool(0.2) => format!("json_exists({}, '$.b')", part(Kind::Text, rng)),
        Kind::Flag => predicate(scope, depth - 1, rng),
        Kind::Time => match rng.random_range(0..6) {
            0 => format!("({inner} {} INTERVAL '{}' SECOND)", sign(rng), rng.random_range(1..20)),
            1 => format!("({} {} INTERVAL '5' HOUR)", part(Kind::Date, rng), sign(rng)),
            2 => at_time_zone(&part(Kind::Instant, rng), "Asia/Kolkata"),
            3 => format!("({inner} + INTERVAL '1' HOUR)"),
            4 => format!("date_trunc('minute', {inner})"),
            _ => format!("date_bin(INTERVAL '7' SECOND, {inner})"),
        },
        Kind::Date => match rng.random_range(0..3) {
            0 => format!("({inner} {} INTERVAL '{}' DAY)", sign(rng), rng.random_range(1..4)),
            1 => format!("({inner} + INTERVAL '1' MONTH)"),
            _ => format!("CAST({} AS DATE)", part(Kind::Time, rng)),
        },
        Kind::Instant => match rng.random_range(0..3) {
            0 => format!("({inner} {} INTERVAL '{}' SECOND)", sign(rng), rng.random_range(1..20)),
            1 => format!("date_trunc('minute', {inner})"),
            _ => at_time_zone(&part(Kind::Time, rng), "Europe/Paris"),
        },
    }
}

fn at_time_zone(time: &str, zone: &str) -> String {
    either(&format!("(({time}) AT TIME ZONE '{zone}')"), &format!("at_time_zone({time}, '{zone}')"))
}

/// A condition, which is NULL for some rows.
pub fn predicate(scope: Scope, depth: usize, rng: &mut ChaCha8Rng) -> String {
    // Flags are conditions themselves; of what no column is, only literals would be compared.
    let is_there = |kind: &Kind| *kind != Kind::Flag && scope.iter().any(|name| name.kind == *kind && name.exact);
    let kinds: Vec<Kind> = std::iter::once(Kind::Integer).chain(Kind::ALL).filter(is_there).collect();
    let kind = kinds.choose(rng).copied().unwrap_or(Kind::Integer);
    let side = |rng: &mut ChaCha8Rng| expression(scope, kind, depth.saturating_sub(1), rng);
    match rng.random_range(0..if depth == 0 { 7 } else { 10 }) {
        0 => format!("({} IS NULL)", side(rng)),
        1 => format!("({} IS NOT NULL)", side(rng)),
        2 => format!("({} BETWEEN {} AND {})", side(rng), literal(kind, rng), literal(kind, rng)),
        3 => format!("{} IN ({}, {}, {})", side(rng), literal(kind, rng), literal(kind, rng), literal(kind, rng)),
        4 => match any_column(scope, Kind::Flag, rng) {
            Some(name) => name.sql.clone(),
            None => format!("({} IS DISTINCT FROM {})", side(rng), literal(kind, rng)),
        },
        5 if kind == Kind::Text => format!("{} LIKE '%{}%'", side(rng), ["a", "b", "ë"].choose(rng).expect("letters")),
        5 | 6 => comparison(&side(rng), &side(rng), rng),
        7 => format!("({} AND {})", predicate(scope, depth - 1, rng), predicate(scope, depth - 1, rng)),
        8 => format!("({} OR {})", predicate(scope, depth - 1, rng), predicate(scope, depth - 1, rng)),
        _ => format!("(NOT {})", predicate(scope, depth - 1, rng)),
    }
}

pub fn comparison(left: &str, right: &str, rng: &mut ChaCha8Rng) -> String {
    format!("{left} {} {right}", ["<", "<=", ">", ">=", "<>", "="].choose(rng).expect("operators"))
}

/// Passes most rows, so that nested queries do not run dry.
pub fn mild_predicate(scope: Scope, rng: &mut ChaCha8Rng) -> String {
    let tried = predicate(scope, 2, rng);
    if rng.random_bool(0.5) { tried } else { format!("({tried} OR {})", predicate(scope, 1, rng)) }
}
