//! Rows in files that people read and write. ndjson: an object per line; a name that a line leaves out is NULL. CSV: a header line; an empty cell
//! is NULL. What a file does not name is not compared.
use std::fmt::Write;

use serde_json::{Map, Value};

use crate::GoldenError;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Ndjson,
    Csv,
}

impl Format {
    pub fn of_extension(extension: &str) -> Option<Self> {
        match extension {
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// `place` names the file, for messages.
    pub fn read(self, place: &str, text: &str) -> Result<Rows, GoldenError> {
        // Spreadsheets write a mark in front of UTF-8.
        let text = text.trim_start_matches('\u{feff}');
        match self {
            Self::Ndjson => read_ndjson(place, text),
            Self::Csv => read_csv(place, text),
        }
    }

    /// The file of these rows, sorted, so that writing it again changes nothing.
    pub fn write(self, rows: &Rows) -> String {
        let mut lines: Vec<String> = rows
            .rows
            .iter()
            .map(|row| match self {
                Self::Ndjson => ndjson_line(&rows.columns, row),
                Self::Csv => row.iter().map(|value| csv_cell(&csv_text(value))).collect::<Vec<_>>().join(","),
            })
            .collect();
        lines.sort_by_key(|line| natural(line));
        if self == Self::Csv {
            lines.insert(0, rows.columns.iter().map(|name| csv_cell(name)).collect::<Vec<_>>().join(","));
        }
        lines.iter().fold(String::new(), |mut text, line| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
            text
        })
    }
}

impl Rows {
    /// Writes the column's decimals as a table has them, with so many places: `2.5`, `"2.5"` and `"2.50"` are one number. What is no number, or has
    /// more places, stays.
    pub fn with_places(&mut self, column: &str, places: usize) {
        let Some(index) = self.columns.iter().position(|name| name == column) else { return };
        for value in self.rows.iter_mut().filter_map(|row| row.get_mut(index)) {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => continue,
            };
            if let Some(text) = decimal(&text, places) {
                *value = Value::String(text);
            }
        }
    }
}

fn decimal(text: &str, places: usize) -> Option<String> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) || fraction.len() > places {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if whole == "0" && fraction.is_empty() { "" } else { sign };
    let point = if places == 0 { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction:0<places$}"))
}

/// Digits count by their number: `c9` stands before `c10`.
fn natural(line: &str) -> Vec<(u128, String)> {
    let mut parts: Vec<(u128, String)> = vec![(0, String::new())];
    let mut in_digits = false;
    for character in line.chars() {
        match character.to_digit(10) {
            Some(digit) => {
                if !in_digits {
                    parts.push((0, String::new()));
                }
                if let Some((number, _)) = parts.last_mut() {
                    *number = number.saturating_mul(10).saturating_add(digit.into());
                }
                in_digits = true;
            }
            None => {
                if let Some((_, text)) = parts.last_mut() {
                    text.push(character);
                }
                in_digits = false;
            }
        }
    }
    parts
}

fn read_ndjson(place: &str, text: &str) -> Result<Rows, GoldenError> {
    let mut objects: Vec<Map<String, Value>> = vec![];
    let mut columns: Vec<String> = vec![];
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value = serde_json::from_str(line)
            .map_err(|error| GoldenError::invalid(format!("{place}:{}", number + 1), error.to_string()))?;
        let Value::Object(object) = value else {
            return Err(GoldenError::invalid(
                format!("{place}:{}", number + 1),
                "it is no JSON object; write one per line, {\"column\": value, …}",
            ));
        };
        for name in object.keys().filter(|name| !columns.contains(name)).cloned().collect::<Vec<_>>() {
            columns.push(name);
        }
        objects.push(object);
    }
    let rows = objects
        .into_iter()
        .map(|mut object| columns.iter().map(|name| object.remove(name).unwrap_or(Value::Null)).collect())
        .collect();
    Ok(Rows { columns, rows })
}

fn ndjson_line(columns: &[String], row: &[Value]) -> String {
    let fields: Vec<String> =
        columns.iter().zip(row).map(|(name, value)| format!("{}: {value}", Value::String(name.clone()))).collect();
    format!("{{{}}}", fields.join(", "))
}

fn csv_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn csv_cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn read_csv(place: &str, text: &str) -> Result<Rows, GoldenError> {
    let mut records = csv_records(place, text)?.into_iter();
    let Some((_, header)) = records.next() else { return Ok(Rows::default()) };
    let mut rows = vec![];
    for (line, record) in records {
        if record.len() != header.len() {
            let message = format!("it has {} cells, and the header has {}", record.len(), header.len());
            return Err(GoldenError::invalid(format!("{place}:{line}"), message));
        }
        let cell = |text: String| if text.is_empty() { Value::Null } else { Value::String(text) };
        rows.push(record.into_iter().map(cell).collect());
    }
    Ok(Rows { columns: header, rows })
}

/// Records with the lines on which they begin (RFC 4180).
fn csv_records(place: &str, text: &str) -> Result<Vec<(usize, Vec<String>)>, GoldenError> {
    let mut records = vec![];
    let (mut record, mut cell, mut quoted) = (vec![], String::new(), false);
    let (mut line, mut began) = (1, 1);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\n' {
            line += 1;
        }
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut cell)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut cell));
                records.push((began, std::mem::take(&mut record)));
                began = line;
            }
            other => cell.push(other),
        }
    }
    if quoted {
        return Err(GoldenError::invalid(format!("{place}:{began}"), "a quoted cell does not end; close it with \""));
    }
    if !cell.is_empty() || !record.is_empty() {
        record.push(cell);
        records.push((began, record));
    }
    // Empty lines are nothing.
    records.retain(|(_, record)| *record != [String::new()]);
    Ok(records)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ndjson_and_csv_say_the_same_and_are_written_sorted() {
        let rows = Rows {
            columns: vec!["id".into(), "name".into(), "n".into()],
            rows: vec![vec![json!("c10"), json!("a, \"b\"\nc"), json!(1.5)], vec![json!("c9"), Value::Null, json!(2)]],
        };
        let text = Format::Ndjson.write(&rows);
        assert_eq!(
            text,
            "{\"id\": \"c9\", \"name\": null, \"n\": 2}\n{\"id\": \"c10\", \"name\": \"a, \\\"b\\\"\\nc\", \"n\": 1.5}\n"
        );
        let read = Format::Ndjson.read("f", &text).expect("reads");
        assert_eq!((read.rows.len(), read.columns.len()), (2, 3));
        let text = Format::Csv.write(&rows);
        assert_eq!(text, "id,name,n\nc9,,2\nc10,\"a, \"\"b\"\"\nc\",1.5\n");
        let read = Format::Csv.read("f", &text).expect("reads");
        assert_eq!(read.rows[0], [json!("c9"), Value::Null, json!("2")]);
        assert_eq!(read.rows[1][1], json!("a, \"b\"\nc"));
    }

    #[test]
    fn decimals_are_numbers_however_they_are_written() {
        let cells = [
            json!("2.5"),
            json!(2.5),
            json!(3),
            json!("-0.05"),
            json!("-0"),
            json!("007.10"),
            json!("1.005"),
            json!("x"),
            Value::Null,
        ];
        let mut rows = Rows { columns: vec!["s".into()], rows: cells.into_iter().map(|cell| vec![cell]).collect() };
        rows.with_places("other", 0);
        rows.with_places("s", 2);
        let found: Vec<Value> = rows.rows.into_iter().flatten().collect();
        let wanted = [
            json!("2.50"),
            json!("2.50"),
            json!("3.00"),
            json!("-0.05"),
            json!("0.00"),
            json!("7.10"),
            json!("1.005"),
            json!("x"),
            Value::Null,
        ];
        assert_eq!(found, wanted);
        assert_eq!((decimal("12.0", 0), decimal("1e3", 2), decimal(".5", 2)), (Some("12".to_owned()), None, None));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        let message = |format: Format, text: &str| format.read("expected/t", text).expect_err("unreadable").to_string();
        assert!(message(Format::Ndjson, "{}\n\n[1]\n").starts_with("expected/t:3: it is no JSON object"));
        assert!(message(Format::Ndjson, "{\"a\":\n").starts_with("expected/t:1: "));
        assert_eq!(message(Format::Csv, "a,b\n1,2\n3\n"), "expected/t:3: it has 1 cells, and the header has 2");
        assert!(message(Format::Csv, "a\n\"x\n").contains("does not end"));
        assert_eq!(Format::Csv.read("t", "").expect("empty"), Rows::default());
        assert_eq!(Format::Ndjson.read("t", "{\"a\":1}\n{\"b\":2}\n").expect("reads").rows[1], [Value::Null, json!(2)]);
    }
}
