//! Random scalar expressions and predicates over the columns in scope. None of them can fail while running (no division, no cast of text that is no
//! number), none overflows, and none rounds, so that a difference between two answers is never one of floating point.
use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::tables::Kind;

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
        Kind::Time => format!("TIMESTAMP '2023-11-14 22:{:02}:{:02}'", rng.random_range(13..20), rng.random_range(0..60)),
    }
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
        Kind::Integer => match rng.random_range(0..9) {
            0 => format!("({inner} + CAST({} AS BIGINT))", part(kind, rng)),
            1 => format!("({inner} - CAST({} AS BIGINT))", part(kind, rng)),
            2 => format!("({inner} * CAST(3 AS BIGINT))"),
            3 => format!("({inner} % {})", rng.random_range(2..5)),
            4 => format!("CAST({} AS BIGINT)", part(Kind::Double, rng)),
            5 => format!("nullif({inner}, {})", literal(kind, rng)),
            6 => format!("CAST(character_length({}) AS BIGINT)", part(Kind::Text, rng)),
            7 => format!("TRY_CAST({} AS BIGINT)", part(Kind::Text, rng)),
            _ => format!("abs(CAST({inner} AS BIGINT))"),
        },
        Kind::Double => match rng.random_range(0..4) {
            0 => format!("({inner} + {})", part(kind, rng)),
            1 => format!("({inner} * 2.0)"),
            2 => format!("CAST({} AS DOUBLE)", part(Kind::Integer, rng)),
            _ => format!("({inner} - {})", literal(kind, rng)),
        },
        Kind::Text => match rng.random_range(0..5) {
            0 => format!("({inner} || {})", part(kind, rng)),
            1 => format!("upper({inner})"),
            2 => format!("CAST({} AS VARCHAR)", part(Kind::Integer, rng)),
            3 => format!("substr({inner}, 1, 1)"),
            _ => format!("nullif({inner}, {})", literal(kind, rng)),
        },
        Kind::Flag => predicate(scope, depth - 1, rng),
        Kind::Time => match rng.random_range(0..3) {
            0 => format!("({inner} {} INTERVAL '{}' SECOND)", ["+", "-"].choose(rng).expect("signs"), rng.random_range(1..20)),
            1 => format!("date_trunc('minute', {inner})"),
            _ => format!("date_bin(INTERVAL '7' SECOND, {inner})"),
        },
    }
}

/// A condition, which is NULL for some rows.
pub fn predicate(scope: Scope, depth: usize, rng: &mut ChaCha8Rng) -> String {
    let kind = [Kind::Integer, Kind::Integer, Kind::Double, Kind::Text, Kind::Time].choose(rng).copied().expect("kinds");
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
