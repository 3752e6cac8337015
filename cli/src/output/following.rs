//! Rows that are printed as they come, of an answer that may have no end.
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::{
    Format, NARROW, cells, fit, line, names, narrowest, padded, print_body, print_bottom, print_count, print_each, print_head,
    print_heading, room, shrink,
};
use crate::client::Column;

pub struct Following<'a> {
    columns: &'a [Column],
    format: Format,
    /// Of a table's columns, as the first rows need them; before these, not known.
    widths: Option<Vec<usize>>,
    rows: usize,
}

impl<'a> Following<'a> {
    /// Prints what can be printed before the first row.
    pub fn begin(columns: &'a [Column], format: Format) -> Self {
        print_head(columns, format);
        Self { columns, format, widths: None, rows: 0 }
    }

    pub fn print(&mut self, rows: &[Vec<Value>]) {
        if self.format.is_for_machines() {
            return print_body(self.columns, rows, self.format);
        }
        let (names, cells) = (names(self.columns), cells(rows));
        if self.format == Format::Table && self.widths.is_none() && !cells.is_empty() {
            self.widths = widths(&names, &cells, room());
            match &self.widths {
                Some(widths) => print_heading(&names, widths),
                None => self.format = Format::Records,
            }
        }
        match &self.widths {
            Some(widths) => {
                // Where nothing is cut, a later row may be wider than the first ones.
                let made_to = if room() == usize::MAX { whole } else { fit };
                for row in &cells {
                    println!("{}", line(row, widths, made_to));
                }
            }
            None => print_each(&names, &cells, self.rows),
        }
        self.rows += rows.len();
    }

    pub fn end(self) {
        if self.format.is_for_machines() {
            return;
        }
        if let Some(widths) = &self.widths {
            print_bottom(widths);
        }
        print_count(self.rows);
    }
}

fn whole(cell: &str, width: usize) -> String {
    padded(cell.to_owned(), width)
}

/// `None` where columns would become too narrow to read. Later rows may need more than the first, so that none is very narrow.
fn widths(names: &[&str], cells: &[Vec<String>], room: usize) -> Option<Vec<usize>> {
    let mut widths: Vec<usize> = names.iter().map(|name| name.width().max(NARROW)).collect();
    for row in cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let borders = 3 * names.len() + 1;
    if borders + narrowest(&widths) > room {
        return None;
    }
    shrink(names, &mut widths, room.saturating_sub(borders));
    Some(widths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_first_rows_need_and_the_terminal_is() {
        let cells = [vec!["a".to_owned(), "x".repeat(50)]];
        assert_eq!(widths(&["k", "text"], &cells, usize::MAX), Some(vec![12, 50]));
        assert_eq!(widths(&["k", "text"], &cells, 40), Some(vec![12, 21]));
        assert_eq!(widths(&["k", "text"], &cells, 30), None);
    }
}
