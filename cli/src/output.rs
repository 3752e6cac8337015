//! Rows for people and machines: a table that fits the terminal, JSON, CSV.
mod following;

use std::io::IsTerminal;

use clap::ValueEnum;
use polybolos_tables::plain::counted;
use serde_json::Value;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub use self::following::Following;
use crate::client::{Column, Rows};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people, as wide as the terminal.
    #[default]
    Table,
    /// For people, a line per column: for rows with many.
    Records,
    /// One object per line.
    Json,
    /// A line of names, then a line per row.
    Csv,
}

impl Format {
    /// Nobody reads there that something is missing.
    pub fn is_for_machines(self) -> bool {
        matches!(self, Self::Json | Self::Csv)
    }
}

/// What is told beside the rows.
pub fn print_notices(notices: &[String]) {
    for notice in notices {
        eprintln!("{notice}");
    }
}

pub fn print(rows: &Rows, format: Format) {
    print_notices(&rows.notices);
    if rows.columns.is_empty() {
        if matches!(format, Format::Table | Format::Records) && rows.notices.is_empty() {
            println!("{}", rows.tag);
        }
        return;
    }
    match format {
        Format::Table => print_table(rows),
        Format::Records => print_records(&names(&rows.columns), &cells(&rows.rows)),
        Format::Json | Format::Csv => {
            print_head(&rows.columns, format);
            print_body(&rows.columns, &rows.rows, format);
        }
    }
    if rows.truncated {
        eprintln!("… more rows were left out; add LIMIT or use psql for all of them");
    }
}

/// What comes before the rows for machines.
pub fn print_head(columns: &[Column], format: Format) {
    if format == Format::Csv {
        println!("{}", csv_line(columns.iter().map(|column| column.name.clone())));
    }
}

/// A line per row for machines.
pub fn print_body(columns: &[Column], rows: &[Vec<Value>], format: Format) {
    let line = |row: &Vec<Value>| if format == Format::Csv { csv_line(row.iter().map(text)) } else { json(columns, row) };
    // At once, as standard output is written after each end of a line.
    let lines: String = rows.iter().map(|row| line(row) + "\n").collect();
    print!("{lines}");
}

/// An object with its fields in the order of the columns.
fn json(columns: &[Column], row: &[Value]) -> String {
    let fields = columns.iter().zip(row).map(|(column, value)| format!("{}:{value}", Value::from(column.name.as_str())));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn csv_line(cells: impl Iterator<Item = String>) -> String {
    cells.map(|cell| csv(&cell)).collect::<Vec<_>>().join(",")
}

fn csv(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// What a column shrinks to before that of ids does, which people copy.
const NARROW: usize = 12;

/// Columns shrink to what the terminal has, and not at all elsewhere; a table whose columns would become too narrow to read is shown a column per line. A column alone is a text, as EXPLAIN's, and
/// stays whole.
fn print_table(rows: &Rows) {
    let (screen, width) = (screen(), room());
    let (cells, names) = (cells(&rows.rows), names(&rows.columns));
    let mut widths: Vec<usize> = names.iter().map(|name| name.width()).collect();
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let borders = 3 * names.len() + 1;
    if let ([name], [text_width]) = (names.as_slice(), widths.as_slice())
        && borders + text_width > screen
    {
        print_lines(name, &cells);
        return;
    }
    if borders + narrowest(&widths) > width {
        print_records(&names, &cells);
        return;
    }
    shrink(&names, &mut widths, width.saturating_sub(borders));
    print_heading(&names, &widths);
    for row in &cells {
        println!("{}", line(row, &widths, fit));
    }
    print_bottom(&widths);
    print_count(cells.len());
}

fn print_heading(names: &[&str], widths: &[usize]) {
    println!("{}", rule(widths, "┌", "┬", "┐"));
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    println!("{}", line(&names, widths, fit));
    println!("{}", rule(widths, "├", "┼", "┤"));
}

fn print_bottom(widths: &[usize]) {
    println!("{}", rule(widths, "└", "┴", "┘"));
}

fn rule(widths: &[usize], left: &str, middle: &str, right: &str) -> String {
    let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
    format!("{left}{}{right}", bars.join(middle))
}

fn line(cells: &[String], widths: &[usize], made_to: fn(&str, usize) -> String) -> String {
    let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| made_to(cell, *width)).collect();
    format!("│ {} │", cells.join(" │ "))
}

/// Columns of the terminal, if there is one.
fn screen() -> usize {
    crossterm::terminal::size().map_or(120, |(columns, _)| usize::from(columns)).max(40)
}

/// Columns that a table may take.
fn room() -> usize {
    if std::io::stdout().is_terminal() { screen() } else { usize::MAX }
}

fn names(columns: &[Column]) -> Vec<&str> {
    columns.iter().map(|column| column.name.as_str()).collect()
}

fn cells(rows: &[Vec<Value>]) -> Vec<Vec<String>> {
    let cell = |value: &Value| if value.is_null() { "∅".to_owned() } else { one_line(&text(value)) };
    rows.iter().map(|row| row.iter().map(cell).collect()).collect()
}

/// What columns take at least, to be read.
fn narrowest(widths: &[usize]) -> usize {
    widths.iter().map(|width| (*width).min(NARROW)).sum()
}

fn shrink(names: &[&str], widths: &mut [usize], room: usize) {
    while widths.iter().sum::<usize>() > room {
        let may_shrink = |column: &usize| names[*column] != "id" && widths[*column] > NARROW;
        let widest = (0..names.len()).filter(may_shrink).max_by_key(|&column| widths[column]);
        let Some(widest) = widest.or_else(|| (0..names.len()).max_by_key(|&column| widths[column])) else { break };
        widths[widest] -= 1;
    }
}

fn print_lines(name: &str, rows: &[Vec<String>]) {
    println!("{name}\n{}", "─".repeat(name.width()));
    rows.iter().flatten().for_each(|line| println!("{line}"));
    print_count(rows.len());
}

fn print_count(rows: usize) {
    println!("{}", counted(rows as u64, "row"));
}

fn print_records(names: &[&str], rows: &[Vec<String>]) {
    print_each(names, rows, 0);
    print_count(rows.len());
}

/// Each row as lines, after `before` others.
fn print_each(names: &[&str], rows: &[Vec<String>], before: usize) {
    let width = names.iter().map(|name| name.width()).max().unwrap_or(0);
    for (number, row) in rows.iter().enumerate() {
        println!("─[ {} ]─", before + number + 1);
        for (name, cell) in names.iter().zip(row) {
            println!("{} │ {cell}", fit(name, width));
        }
    }
}

/// Without what moves a terminal's cursor.
fn one_line(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' => '⏎',
        '\t' => ' ',
        other if other.is_control() => '�',
        other => other,
    };
    text.chars().map(shown).collect()
}

/// Cut or padded to as many columns of a terminal.
fn fit(cell: &str, width: usize) -> String {
    padded(cut(cell, width), width)
}

/// Cut to as many columns of a terminal: of some letters one takes two, of others several take one.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut columns = 0;
    // Letters together take no more than each alone, but that U+FE0F makes an emoji of the sign before it, which is wider.
    let fits = |letter: &char| {
        columns += if *letter == '\u{FE0F}' { 1 } else { letter.width().unwrap_or(1) };
        columns < width
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    cut.push('…');
    cut
}

fn padded(mut cell: String, width: usize) -> String {
    cell.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width())));
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_as_wide_as_a_terminal_shows_them() {
        for (cell, width, shown) in [
            ("東京", 4, "東京"),
            ("東京", 6, "東京  "),
            ("東京都", 5, "東京…"),
            // Half of a letter cannot be shown.
            ("東京都", 4, "東… "),
            ("e\u{301}te\u{301}", 4, "e\u{301}te\u{301} "),
            ("e\u{301}te\u{301}s", 3, "e\u{301}t…"),
            ("👩\u{200d}👩\u{200d}👧", 3, "👩\u{200d}👩\u{200d}👧 "),
            ("\u{2764}\u{fe0f}\u{2764}\u{fe0f}", 3, "\u{2764}\u{fe0f}…"),
        ] {
            assert_eq!(fit(cell, width), shown, "{cell} in {width}");
            assert_eq!(fit(cell, width).width(), width, "{cell} in {width}");
        }
    }

    #[test]
    fn cells_are_cut_and_quoted() {
        assert_eq!(fit("Größner", 4), "Grö…");
        assert_eq!(fit("a", 3), "a  ");
        assert_eq!(one_line("a\tb\r\n\u{1b}[2J"), "a b�⏎�[2J");
        let column = |name: &str| Column { name: name.to_owned() };
        assert_eq!(json(&[column("b"), column("a")], &[Value::from(1), Value::Null]), r#"{"b":1,"a":null}"#);
        let mut widths = [30, 50, 40];
        shrink(&["id", "error", "record"], &mut widths, 70);
        assert_eq!(widths, [30, 20, 20], "ids are there to be copied");
        shrink(&["id", "error", "record"], &mut widths, 40);
        assert_eq!(widths, [16, 12, 12]);
        assert_eq!(narrowest(&[3, 50, 12]), 3 + 12 + 12, "a short column needs no more than it has");
        assert_eq!(csv("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
