//! Rows that were expected beside rows that were found, in whatever order. Numbers are the same within 1e-9 of their size; a row that has its key's
//! partner is changed, others are missing or extra.
use std::{collections::HashMap, fmt::Write};

use serde_json::{Map, Value, json};

use crate::rows::Rows;

/// How far floats may be apart, relative to the larger of both and 1.
const TOLERANCE: f64 = 1e-9;

/// Rows of each kind that a text shows.
const SHOWN: usize = 20;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    pub columns: Vec<String>,
    pub missing: Vec<Vec<Value>>,
    pub extra: Vec<Vec<Value>>,
    /// Expected, found.
    pub changed: Vec<(Vec<Value>, Vec<Value>)>,
}

/// `found` has the columns of `expected`, in their order. `key`: names of the columns that tell rows apart; where `expected` lacks one, no row is
/// another's partner.
pub fn compare(expected: &Rows, found: &Rows, key: &[String]) -> Diff {
    let mut missing: Vec<&Vec<Value>> = vec![];
    let mut unmatched: HashMap<String, Vec<&Vec<Value>>> = HashMap::new();
    for row in found.rows.iter().rev() {
        unmatched.entry(canonical(row)).or_default().push(row);
    }
    for row in &expected.rows {
        if unmatched.get_mut(&canonical(row)).and_then(Vec::pop).is_none() {
            missing.push(row);
        }
    }
    let mut extra: Vec<&Vec<Value>> = found.rows.iter().filter(|row| take(&mut unmatched, row)).collect();
    let places: Option<Vec<usize>> = key
        .iter()
        .map(|name| expected.columns.iter().position(|column| column == name))
        .collect::<Option<_>>()
        .filter(|key: &Vec<_>| !key.is_empty());
    let mut diff = Diff { columns: expected.columns.clone(), ..Diff::default() };
    for row in missing {
        if let Some(place) = extra.iter().position(|other| is_same_row(row, other)) {
            extra.swap_remove(place);
            continue;
        }
        let is_partner =
            |other: &&Vec<Value>| places.as_ref().is_some_and(|key| key.iter().all(|&place| is_same(&row[place], &other[place])));
        match extra.iter().position(is_partner) {
            Some(place) => diff.changed.push((row.clone(), extra.swap_remove(place).clone())),
            None => diff.missing.push(row.clone()),
        }
    }
    diff.extra = extra.into_iter().cloned().collect();
    diff
}

/// Whether the row is still unmatched; takes it out.
fn take(unmatched: &mut HashMap<String, Vec<&Vec<Value>>>, row: &[Value]) -> bool {
    unmatched.get_mut(&canonical(row)).and_then(Vec::pop).is_some()
}

fn canonical(row: &[Value]) -> String {
    row.iter().map(text).collect::<Vec<_>>().join("\u{1f}")
}

/// The same for values that are the same whatever file they stood in.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "\u{0}".to_owned(),
        Value::String(text) => time(text).unwrap_or_else(|| text.clone()),
        Value::Number(number) => match number.as_f64() {
            Some(float) if !number.is_i64() && !number.is_u64() => float.to_string(),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// `2026-01-01 00:00:00` as `2026-01-01T00:00:00`: one time, however it is written.
fn time(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let is_time =
        bytes.len() >= 19 && separators.iter().all(|(place, byte)| bytes[*place] == *byte) && matches!(bytes[10], b'T' | b' ');
    if !is_time || !text.is_ascii() {
        return None;
    }
    let rest = text[19..].trim_end_matches('Z');
    let rest = if rest.starts_with('.') { rest.trim_end_matches('0').trim_end_matches('.') } else { rest };
    Some(format!("{}T{}{rest}", &text[..10], &text[11..19]))
}

fn is_same(expected: &Value, found: &Value) -> bool {
    if text(expected) == text(found) {
        return true;
    }
    let float = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        // A cell of a CSV file; `found` says that it is a number.
        Value::String(text) if found.is_number() => text.parse().ok(),
        _ => None,
    };
    let is_integer = |value: &Value| value.is_i64() || value.is_u64();
    match (float(expected), float(found)) {
        (Some(a), Some(b)) if !(is_integer(expected) && is_integer(found)) => {
            (a - b).is_finite() && (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0)
        }
        _ => false,
    }
}

fn is_same_row(expected: &[Value], found: &[Value]) -> bool {
    expected.iter().zip(found).all(|(expected, found)| is_same(expected, found))
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.changed.is_empty()
    }

    /// As `diff -u` writes it: what was expected with `-`, what was found with `+`, and what differs in a row of the same key below it.
    pub fn render(&self, expected: &str, found: &str) -> String {
        let mut out = String::new();
        let (missing, extra, changed) = (self.missing.len(), self.extra.len(), self.changed.len());
        // Writing to a String cannot fail.
        let _ = writeln!(out, "--- {expected}\n+++ {found}\n@@ {missing} missing, {extra} extra, {changed} changed @@");
        for (row, other) in self.changed.iter().take(SHOWN) {
            let _ = writeln!(out, "-{}\n+{}", self.line(row), self.line(other));
            for (name, (was, is)) in self.columns.iter().zip(row.iter().zip(other)).filter(|(_, (was, is))| !is_same(was, is)) {
                let _ = writeln!(out, "    {name}: expected {}, found {}", shown(was), shown(is));
            }
        }
        self.missing.iter().take(SHOWN).for_each(|row| {
            let _ = writeln!(out, "-{}", self.line(row));
        });
        self.extra.iter().take(SHOWN).for_each(|row| {
            let _ = writeln!(out, "+{}", self.line(row));
        });
        let more: usize = [missing, extra, changed].iter().map(|count| count.saturating_sub(SHOWN)).sum();
        if more > 0 {
            let _ = writeln!(out, "… and {more} more");
        }
        out
    }

    fn line(&self, row: &[Value]) -> String {
        self.columns.iter().zip(row).map(|(name, value)| format!(" {name}={}", shown(value))).collect()
    }

    /// The whole of it, for programs.
    pub fn to_json(&self) -> Value {
        let object = |row: &Vec<Value>| Value::Object(self.columns.iter().cloned().zip(row.iter().cloned()).collect::<Map<_, _>>());
        let changed: Vec<Value> =
            self.changed.iter().map(|(expected, found)| json!({"expected": object(expected), "found": object(found)})).collect();
        json!({
            "missing": self.missing.iter().map(object).collect::<Vec<_>>(),
            "extra": self.extra.iter().map(object).collect::<Vec<_>>(),
            "changed": changed,
        })
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[&str], rows: Value) -> Rows {
        let Value::Array(rows) = rows else { panic!("rows") };
        let row = |row: Value| row.as_array().expect("a row").clone();
        Rows { columns: columns.iter().map(|name| (*name).to_owned()).collect(), rows: rows.into_iter().map(row).collect() }
    }

    #[test]
    fn an_infinity_is_far_from_every_number() {
        let diff = compare(&rows(&["v"], json!([["Infinity"]])), &rows(&["v"], json!([[5.0]])), &[]);
        assert_eq!((diff.missing.len(), diff.extra.len()), (1, 1));
    }

    fn diff(expected: Value, found: Value) -> Diff {
        compare(&rows(&["k", "v"], expected), &rows(&["k", "v"], found), &["k".to_owned()])
    }

    #[test]
    fn order_writing_and_the_last_digits_do_not_matter() {
        let expected = json!([["a", 1], ["b", 0.1], ["c", "2026-01-01 00:00:00"], ["d", null], ["e", "12"], ["f", "0.5"]]);
        let found = json!([
            ["d", null],
            ["a", 1],
            ["b", 0.1 + 1e-13],
            ["c", "2026-01-01T00:00:00.000Z"],
            ["e", 12],
            ["f", 0.500000000000001]
        ]);
        assert!(diff(expected, found).is_empty());
        assert!(!diff(json!([["a", 0.1]]), json!([["a", 0.1 + 1e-8]])).is_empty());
        assert!(!diff(json!([["a", null]]), json!([["a", ""]])).is_empty());
        assert!(!diff(json!([["a", 9007199254740993_i64]]), json!([["a", 9007199254740992_i64]])).is_empty());
        assert!(!diff(json!([["a", "1.0"]]), json!([["a", "1"]])).is_empty(), "text is text");
    }

    #[test]
    fn rows_count_as_often_as_they_are_there() {
        let found = diff(json!([["a", 1], ["a", 1], ["b", 2]]), json!([["a", 1], ["b", 2], ["b", 2]]));
        assert_eq!((found.missing, found.extra), (vec![vec![json!("a"), json!(1)]], vec![vec![json!("b"), json!(2)]]));
    }

    #[test]
    fn a_diff_shows_what_is_missing_extra_and_changed() {
        let diff = diff(json!([["a", 1], ["b", 2], ["c", 3]]), json!([["a", 1], ["b", 5], ["z", null]]));
        let text = diff.render("expected/t.ndjson", "t, one go");
        let wanted = "--- expected/t.ndjson\n+++ t, one go\n@@ 1 missing, 1 extra, 1 changed @@\n- k=\"b\" v=2\n+ k=\"b\" v=5\n    v: expected 2, found 5\n- k=\"c\" v=3\n+ k=\"z\" v=NULL\n";
        assert_eq!(text, wanted);
        assert_eq!(diff.to_json()["changed"][0]["found"]["v"], json!(5));
    }

    #[test]
    fn without_a_key_nothing_is_changed_and_long_diffs_are_cut() {
        let many = |from: i64| rows(&["v"], Value::Array((from..from + 30).map(|v| json!([v])).collect()));
        let diff = compare(&many(0), &many(100), &["k".to_owned()]);
        assert_eq!((diff.missing.len(), diff.extra.len(), diff.changed.len()), (30, 30, 0));
        assert!(diff.render("a", "b").ends_with("… and 20 more\n"));
    }
}
