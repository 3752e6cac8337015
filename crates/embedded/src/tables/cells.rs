//! Stored rows: the cells of the columns outside the primary key, each with its own write timestamp, and the merge of two versions of
//! a row.
//!
//! Format 1: a format byte, the row's base timestamp (i64, little endian), then one tag per column in the catalog's order. A value
//! follows its tag: fixed-width ones as they are, texts and blobs behind a varint length. A cell whose timestamp is not the base
//! carries its own between tag and value. Columns at the end that are missing are unset, so columns can be added later.
use super::{Damage, columns::ColumnReader, types::Layout};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 9;

const UNSET: u8 = 0;
const NULL: u8 = 1;
const VALUE: u8 = 2;
const NULL_AT: u8 = 3;
const VALUE_AT: u8 = 4;

/// A cell that was written: when, and what (`None` is NULL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell<'a> {
    pub(super) timestamp_us: i64,
    pub(super) value: Option<&'a [u8]>,
}

impl<'a> Cell<'a> {
    /// The cell that stays: the later one; of two written at the same time NULL, else the greater bytes (Cassandra's rule).
    fn winner(a: Option<Cell<'a>>, b: Option<Cell<'a>>) -> Option<Cell<'a>> {
        let (Some(left), Some(right)) = (a, b) else { return a.or(b) };
        let rank = |cell: &Cell<'a>| (cell.timestamp_us, cell.value.is_none(), cell.value);
        if rank(&right) > rank(&left) { b } else { a }
    }
}

/// Appends a row that writes `columns` (in the catalog's order, `None` stays unset) at one timestamp.
pub(super) fn encode(layouts: &[Layout], columns: &[Option<&ColumnReader>], row: usize, timestamp_us: i64, out: &mut Vec<u8>) {
    out.push(FORMAT);
    out.extend_from_slice(&timestamp_us.to_le_bytes());
    for (layout, column) in layouts.iter().zip(columns) {
        let cell = column.map(|column| Cell { timestamp_us, value: (!column.is_null(row)).then(|| column.bytes(row)) });
        put(*layout, cell, timestamp_us, out);
    }
}

/// Appends the merge of two versions of one row. Neither order nor repetition of merges changes the result's cells; where `newer`
/// adds nothing the result is `stored`, byte for byte.
pub(super) fn merge(layouts: &[Layout], stored: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<(), Damage> {
    let mut left = Cells::new(layouts, stored)?;
    let mut right = Cells::new(layouts, newer)?;
    let base = left.base_timestamp_us.max(right.base_timestamp_us);
    out.push(FORMAT);
    out.extend_from_slice(&base.to_le_bytes());
    for layout in layouts {
        put(*layout, Cell::winner(left.next_cell()?, right.next_cell()?), base, out);
    }
    left.finish()?;
    right.finish()
}

fn put(layout: Layout, cell: Option<Cell<'_>>, base: i64, out: &mut Vec<u8>) {
    let Some(Cell { timestamp_us, value }) = cell else { return out.push(UNSET) };
    let own_timestamp = timestamp_us != base;
    out.push(match (value.is_some(), own_timestamp) {
        (false, false) => NULL,
        (true, false) => VALUE,
        (false, true) => NULL_AT,
        (true, true) => VALUE_AT,
    });
    if own_timestamp {
        out.extend_from_slice(&timestamp_us.to_le_bytes());
    }
    let Some(value) = value else { return };
    if matches!(layout, Layout::Bytes { .. }) {
        put_length(value.len(), out);
    }
    out.extend_from_slice(value);
}

fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// Reads the cells of a stored row in the catalog's order.
pub(super) struct Cells<'a> {
    layouts: &'a [Layout],
    rest: &'a [u8],
    base_timestamp_us: i64,
}

impl<'a> Cells<'a> {
    pub(super) fn new(layouts: &'a [Layout], row: &'a [u8]) -> Result<Self, Damage> {
        let (header, rest) = row.split_at_checked(HEADER_BYTES).ok_or(Damage("a row is too short"))?;
        if header[0] != FORMAT {
            return Err(Damage("a row has an unknown format; it was written by a newer version"));
        }
        let base = header[1..].try_into().expect("the header is nine bytes");
        Ok(Self { layouts, rest, base_timestamp_us: i64::from_le_bytes(base) })
    }

    /// The next column's cell; `None` where it was never written.
    pub(super) fn next_cell(&mut self) -> Result<Option<Cell<'a>>, Damage> {
        let (layout, layouts) = self.layouts.split_first().ok_or(Damage("a row has more cells than columns"))?;
        self.layouts = layouts;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.take(1)?[0];
        let timestamp_us = match tag {
            UNSET => return Ok(None),
            NULL | VALUE => self.base_timestamp_us,
            NULL_AT | VALUE_AT => i64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken")),
            _ => return Err(Damage("a cell has an unknown tag")),
        };
        let value = match tag {
            VALUE | VALUE_AT => Some(self.take_value(*layout)?),
            _ => None,
        };
        Ok(Some(Cell { timestamp_us, value }))
    }

    /// To be called after the last column: nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Damage> {
        if self.rest.is_empty() { Ok(()) } else { Err(Damage("a row has more cells than columns")) }
    }

    fn take_value(&mut self, layout: Layout) -> Result<&'a [u8], Damage> {
        let length = match layout {
            Layout::Fixed { width, .. } => width,
            Layout::Boolean => 1,
            Layout::Bytes { .. } => self.take_length()?,
        };
        self.take(length)
    }

    fn take_length(&mut self) -> Result<usize, Damage> {
        let mut length = 0usize;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(length);
            }
        }
        Err(Damage("a length is too long"))
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Damage> {
        let (head, tail) = self.rest.split_at_checked(bytes).ok_or(Damage("a row is too short"))?;
        self.rest = tail;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;
    use crate::tables::types::Order;

    const LAYOUTS: [Layout; 2] = [Layout::Bytes { text: true }, Layout::Fixed { width: 8, order: Order::Signed }];

    /// One row: per column unset, or a value that may be NULL.
    fn row(text: Option<Option<String>>, number: Option<Option<i64>>, timestamp_us: i64) -> Vec<u8> {
        let text = text.map(|value| ColumnReader::new(&(Arc::new(StringArray::from(vec![value])) as ArrayRef)).unwrap());
        let number = number.map(|value| ColumnReader::new(&(Arc::new(Int64Array::from(vec![value])) as ArrayRef)).unwrap());
        let mut out = Vec::new();
        encode(&LAYOUTS, &[text.as_ref(), number.as_ref()], 0, timestamp_us, &mut out);
        out
    }

    fn merged(stored: &[u8], newer: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        merge(&LAYOUTS, stored, newer, &mut out).unwrap();
        out
    }

    fn cells(row: &[u8]) -> Vec<Option<Cell<'_>>> {
        let mut cells = Cells::new(&LAYOUTS, row).unwrap();
        let all = (0..LAYOUTS.len()).map(|_| cells.next_cell().unwrap()).collect();
        cells.finish().unwrap();
        all
    }

    fn any_row() -> impl Strategy<Value = Vec<u8>> {
        (prop::option::of(prop::option::of("[a-c]{0,200}")), prop::option::of(prop::option::of(0i64..3)), 0i64..4)
            .prop_map(|(text, number, timestamp)| row(text, number, timestamp))
    }

    proptest! {
        #[test]
        fn merging_commutes_associates_and_repeats(a in any_row(), b in any_row(), c in any_row()) {
            let (ab, ba, bc) = (merged(&a, &b), merged(&b, &a), merged(&b, &c));
            prop_assert_eq!(cells(&ab), cells(&ba));
            let (left, right) = (merged(&ab, &c), merged(&a, &bc));
            prop_assert_eq!(cells(&left), cells(&right));
            prop_assert_eq!(&merged(&ab, &b), &ab);
        }

        #[test]
        fn damaged_rows_are_errors_not_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..40), known: bool) {
            if known && !bytes.is_empty() {
                bytes[0] = FORMAT;
            }
            let mut out = Vec::new();
            _ = merge(&LAYOUTS, &bytes, &bytes, &mut out);
        }

        #[test]
        fn a_row_cut_short_is_an_error(text in "[a-z]{1,9}", cut in 1usize..5) {
            let whole = row(Some(Some(text)), Some(Some(7)), 1);
            let cut = &whole[..whole.len() - cut];
            prop_assert!(merge(&LAYOUTS, cut, cut, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn the_later_write_of_a_cell_stays_and_others_are_left_alone() {
        let first = row(Some(Some("old".into())), Some(Some(1)), 10);
        let second = row(Some(None), None, 20);
        let both = merged(&first, &second);
        let one = 1i64.to_le_bytes();
        let expected =
            vec![Some(Cell { timestamp_us: 20, value: None }), Some(Cell { timestamp_us: 10, value: Some(one.as_slice()) })];
        assert_eq!(cells(&both), expected);
        assert_eq!(merged(&both, &first), both, "an older write changes nothing");
    }
}
