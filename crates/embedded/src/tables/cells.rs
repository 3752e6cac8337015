//! Stored rows: the cells of the columns outside the primary key, each with its own write timestamp, and the merge of two versions of
//! a row.
//!
//! Format 1: a format byte, the row's base timestamp (i64, little endian), then one tag per column in the catalog's order. A value
//! follows its tag: fixed-width ones as they are, texts and blobs behind a varint length. A cell whose timestamp is not the base
//! carries its own between tag and value. Columns at the end that are missing are unset, so columns can be added later.
//!
//! Format 2, for rows that were deleted or that expire: after the base timestamp come the base's expiry, the timestamp of the row's
//! deletion and the clock at which it was made; a cell that is not the base's carries timestamp and expiry. Every write sets the row's
//! marker, as INSERT does in Cassandra, so the base is the marker's timestamp and expiry. A row is there while its marker or a cell that
//! is not NULL is alive: younger than the deletion, not expired. What a deletion covers is not kept.
use super::{Damage, columns::ColumnReader, types::Layout};

const FORMAT: u8 = 1;
const FORMAT_MORTAL: u8 = 2;
const HEADER_BYTES: usize = 9;
const MORTAL_BYTES: usize = 24;

const UNSET: u8 = 0;
const NULL: u8 = 1;
const VALUE: u8 = 2;
const NULL_AT: u8 = 3;
const VALUE_AT: u8 = 4;

/// The expiry of what stays.
pub(super) const NEVER: i64 = i64::MAX;

/// When something was written, and until when it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) timestamp_us: i64,
    /// [`NEVER`] for what stays.
    pub(super) expires_us: i64,
}

impl Written {
    /// The marker of a row that was deleted, or never written.
    const NOTHING: Self = Self { timestamp_us: i64::MIN, expires_us: NEVER };

    pub(super) fn at(timestamp_us: i64) -> Self {
        Self { timestamp_us, expires_us: NEVER }
    }

    /// Of two at one time the one that expires wins, and the later of those (Cassandra's rule).
    fn rank(&self) -> (i64, bool, i64) {
        (self.timestamp_us, self.expires_us != NEVER, self.expires_us)
    }

    fn later(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    fn is_alive(&self, now_us: i64) -> bool {
        self.timestamp_us != i64::MIN && self.expires_us > now_us
    }
}

/// A row's deletion: everything up to `timestamp_us` is gone. `made_us` is this machine's clock then, from which its grace counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Deletion {
    pub(super) timestamp_us: i64,
    pub(super) made_us: i64,
}

impl Deletion {
    const NONE: Self = Self { timestamp_us: i64::MIN, made_us: i64::MIN };
}

/// A cell that was written: when, and what (`None` is NULL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell<'a> {
    pub(super) written: Written,
    pub(super) value: Option<&'a [u8]>,
}

impl<'a> Cell<'a> {
    /// The cell that stays: the later one; of two written at the same time NULL, else one that expires, else the greater bytes
    /// (Cassandra's rule).
    fn winner(a: Option<Cell<'a>>, b: Option<Cell<'a>>) -> Option<Cell<'a>> {
        let (Some(left), Some(right)) = (a, b) else { return a.or(b) };
        let rank = |cell: &Cell<'a>| {
            let (timestamp_us, expires, expires_us) = cell.written.rank();
            (timestamp_us, cell.value.is_none(), expires, expires_us, cell.value)
        };
        if rank(&right) > rank(&left) { b } else { a }
    }

    /// The value, unless it has expired.
    pub(super) fn value_at(&self, now_us: i64) -> Option<&'a [u8]> {
        self.value.filter(|_| self.written.is_alive(now_us))
    }
}

/// Appends a row that writes `columns` (in the catalog's order, `None` stays unset) at one time.
pub(super) fn encode(layouts: &[Layout], columns: &[Option<&ColumnReader>], row: usize, written: Written, out: &mut Vec<u8>) {
    let header = Header::new(written, Deletion::NONE, false);
    header.put(out);
    for (layout, column) in layouts.iter().zip(columns) {
        let cell = column.map(|column| Cell { written, value: (!column.is_null(row)).then(|| column.bytes(row)) });
        put(*layout, cell, &header, out);
    }
}

/// Appends what deletes a row.
pub(super) fn encode_deletion(deletion: Deletion, out: &mut Vec<u8>) {
    Header::new(Written::NOTHING, deletion, true).put(out);
}

/// Appends the merge of two versions of one row. Neither order nor repetition of merges changes the result's cells; where `newer`
/// adds nothing the result is `stored`, byte for byte.
pub(super) fn merge(layouts: &[Layout], stored: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<(), Damage> {
    let mut left = Cells::new(layouts, stored)?;
    let mut right = Cells::new(layouts, newer)?;
    let deletion = left.header.deletion.max(right.header.deletion);
    let base = left.header.base.later(right.header.base);
    let base = if base.timestamp_us > deletion.timestamp_us { base } else { Written::NOTHING };
    let header = Header::new(base, deletion, left.header.mortal || right.header.mortal);
    header.put(out);
    // Of two deletions comes a deletion, without a tag per column.
    let columns = if left.is_bare() && right.is_bare() { 0 } else { layouts.len() };
    for layout in &layouts[..columns] {
        let cell = Cell::winner(left.next_cell()?, right.next_cell()?);
        put(*layout, cell.filter(|cell| cell.written.timestamp_us > deletion.timestamp_us), &header, out);
    }
    left.finish()?;
    right.finish()
}

/// What is left of a row when the grace of tombstones and expired cells is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Purged {
    /// Nothing changes.
    Keep,
    Remove,
    Rewrite(Vec<u8>),
}

/// Drops a deletion made, and cells expired, before `before_us`. A row of which nothing is left goes.
pub(super) fn purge(layouts: &[Layout], stored: &[u8], before_us: i64) -> Result<Purged, Damage> {
    let mut cells = Cells::new(layouts, stored)?;
    let stays = |written: &Written| written.expires_us > before_us;
    let base = if stays(&cells.header.base) { cells.header.base } else { Written::NOTHING };
    let deletion = if cells.header.deletion.made_us > before_us { cells.header.deletion } else { Deletion::NONE };
    let header = Header::new(base, deletion, cells.header.mortal);
    let mut out = Vec::with_capacity(stored.len());
    header.put(&mut out);
    let mut any = header.base != Written::NOTHING || header.deletion != Deletion::NONE;
    if !cells.is_bare() {
        for layout in layouts {
            let cell = cells.next_cell()?.filter(|cell| stays(&cell.written));
            any |= cell.is_some();
            put(*layout, cell, &header, &mut out);
        }
    }
    cells.finish()?;
    Ok(match any {
        false => Purged::Remove,
        true if out == stored => Purged::Keep,
        true => Purged::Rewrite(out),
    })
}

/// Whether a scan at `now_us` shows the row.
pub(super) fn is_visible(layouts: &[Layout], row: &[u8], now_us: i64) -> Result<bool, Damage> {
    let mut cells = Cells::new(layouts, row)?;
    if cells.header.base.is_alive(now_us) {
        return Ok(true);
    }
    for _ in layouts {
        if cells.next_cell()?.is_some_and(|cell| cell.value_at(now_us).is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What stands before the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    base: Written,
    deletion: Deletion,
    /// Format 2. A row that has it keeps it: cells that are not the base's may expire.
    mortal: bool,
}

impl Header {
    fn new(base: Written, deletion: Deletion, mortal: bool) -> Self {
        let needed = base.expires_us != NEVER || base == Written::NOTHING || deletion != Deletion::NONE;
        Self { base, deletion, mortal: mortal || needed }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(if self.mortal { FORMAT_MORTAL } else { FORMAT });
        out.extend_from_slice(&self.base.timestamp_us.to_le_bytes());
        if self.mortal {
            for time in [self.base.expires_us, self.deletion.timestamp_us, self.deletion.made_us] {
                out.extend_from_slice(&time.to_le_bytes());
            }
        }
    }
}

fn put(layout: Layout, cell: Option<Cell<'_>>, header: &Header, out: &mut Vec<u8>) {
    let Some(Cell { written, value }) = cell else { return out.push(UNSET) };
    let own_timestamp = written != header.base;
    out.push(match (value.is_some(), own_timestamp) {
        (false, false) => NULL,
        (true, false) => VALUE,
        (false, true) => NULL_AT,
        (true, true) => VALUE_AT,
    });
    if own_timestamp {
        out.extend_from_slice(&written.timestamp_us.to_le_bytes());
        if header.mortal {
            out.extend_from_slice(&written.expires_us.to_le_bytes());
        }
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
    header: Header,
}

impl<'a> Cells<'a> {
    pub(super) fn new(layouts: &'a [Layout], row: &'a [u8]) -> Result<Self, Damage> {
        let (header, rest) = row.split_at_checked(HEADER_BYTES).ok_or(Damage("a row is too short"))?;
        let mortal = match header[0] {
            FORMAT => false,
            FORMAT_MORTAL => true,
            _ => return Err(Damage("a row has an unknown format; it was written by a newer version")),
        };
        let timestamp_us = i64::from_le_bytes(header[1..].try_into().expect("the header is nine bytes"));
        let mut cells =
            Self { layouts, rest, header: Header { base: Written::at(timestamp_us), deletion: Deletion::NONE, mortal } };
        if mortal {
            let times = cells.take(MORTAL_BYTES)?;
            let time = |from: usize| i64::from_le_bytes(times[from..from + 8].try_into().expect("eight bytes were taken"));
            cells.header.base.expires_us = time(0);
            cells.header.deletion = Deletion { timestamp_us: time(8), made_us: time(16) };
        }
        Ok(cells)
    }

    /// Whether there are no cells at all, as in what deletes a row.
    fn is_bare(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next column's cell; `None` where it was never written.
    pub(super) fn next_cell(&mut self) -> Result<Option<Cell<'a>>, Damage> {
        let (layout, layouts) = self.layouts.split_first().ok_or(Damage("a row has more cells than columns"))?;
        self.layouts = layouts;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.take(1)?[0];
        let written = match tag {
            UNSET => return Ok(None),
            NULL | VALUE => self.header.base,
            NULL_AT | VALUE_AT => {
                let timestamp_us = self.take_time()?;
                Written { timestamp_us, expires_us: if self.header.mortal { self.take_time()? } else { NEVER } }
            }
            _ => return Err(Damage("a cell has an unknown tag")),
        };
        let value = match tag {
            VALUE | VALUE_AT => Some(self.take_value(*layout)?),
            _ => None,
        };
        Ok(Some(Cell { written, value }))
    }

    /// To be called after the last column: nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Damage> {
        if self.rest.is_empty() { Ok(()) } else { Err(Damage("a row has more cells than columns")) }
    }

    fn take_time(&mut self) -> Result<i64, Damage> {
        Ok(i64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
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
        row_until(text, number, Written::at(timestamp_us))
    }

    fn deletion(timestamp_us: i64, made_us: i64) -> Vec<u8> {
        let mut out = Vec::new();
        encode_deletion(Deletion { timestamp_us, made_us }, &mut out);
        out
    }

    fn row_until(text: Option<Option<String>>, number: Option<Option<i64>>, written: Written) -> Vec<u8> {
        let text = text.map(|value| ColumnReader::new(&(Arc::new(StringArray::from(vec![value])) as ArrayRef)).unwrap());
        let number = number.map(|value| ColumnReader::new(&(Arc::new(Int64Array::from(vec![value])) as ArrayRef)).unwrap());
        let mut out = Vec::new();
        encode(&LAYOUTS, &[text.as_ref(), number.as_ref()], 0, written, &mut out);
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
        let expiry = prop_oneof![3 => Just(NEVER), 1 => 100i64..103];
        let written = (0i64..4, expiry).prop_map(|(timestamp_us, expires_us)| Written { timestamp_us, expires_us });
        let row = (prop::option::of(prop::option::of("[a-c]{0,200}")), prop::option::of(prop::option::of(0i64..3)), written)
            .prop_map(|(text, number, written)| row_until(text, number, written));
        prop_oneof![4 => row, 1 => (0i64..4, 50i64..52).prop_map(|(timestamp_us, made_us)| deletion(timestamp_us, made_us))]
    }

    proptest! {
        #[test]
        fn merging_commutes_associates_and_repeats(a in any_row(), b in any_row(), c in any_row()) {
            let (ab, ba, bc) = (merged(&a, &b), merged(&b, &a), merged(&b, &c));
            prop_assert_eq!(cells(&ab), cells(&ba));
            let (left, right) = (merged(&ab, &c), merged(&a, &bc));
            prop_assert_eq!(cells(&left), cells(&right));
            prop_assert_eq!(Cells::new(&LAYOUTS, &left).unwrap().header, Cells::new(&LAYOUTS, &right).unwrap().header);
            prop_assert_eq!(&merged(&ab, &b), &ab);
        }

        #[test]
        fn purging_changes_nothing_that_is_seen(a in any_row(), b in any_row(), before_us in 40i64..110) {
            let both = merged(&a, &b);
            for now_us in [before_us, 200] {
                let seen = |row: &[u8]| {
                    let values = |row: &[u8]| cells(row).into_iter().map(|c| c.and_then(|c| c.value_at(now_us)).map(<[u8]>::to_vec)).collect::<Vec<_>>();
                    is_visible(&LAYOUTS, row, now_us).unwrap().then(|| values(row))
                };
                match purge(&LAYOUTS, &both, before_us).unwrap() {
                    Purged::Keep => {}
                    Purged::Remove => prop_assert_eq!(seen(&both), None),
                    Purged::Rewrite(rest) => prop_assert_eq!(seen(&rest), seen(&both)),
                }
            }
        }

        #[test]
        fn damaged_rows_are_errors_not_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..40), known: bool) {
            if known && !bytes.is_empty() {
                bytes[0] = FORMAT + (bytes[0] & 1);
            }
            let mut out = Vec::new();
            _ = merge(&LAYOUTS, &bytes, &bytes, &mut out);
            _ = purge(&LAYOUTS, &bytes, 7);
            _ = is_visible(&LAYOUTS, &bytes, 7);
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
        let expected = vec![
            Some(Cell { written: Written::at(20), value: None }),
            Some(Cell { written: Written::at(10), value: Some(one.as_slice()) }),
        ];
        assert_eq!(cells(&both), expected);
        assert_eq!(merged(&both, &first), both, "an older write changes nothing");
    }

    #[test]
    fn a_deletion_beats_what_is_older_and_loses_to_what_is_younger() {
        let old = row(Some(Some("old".into())), Some(Some(1)), 10);
        let gone = merged(&old, &deletion(10, 50));
        assert!(!is_visible(&LAYOUTS, &gone, 0).unwrap());
        assert_eq!(purge(&LAYOUTS, &gone, 49).unwrap(), Purged::Keep);
        assert_eq!(purge(&LAYOUTS, &gone, 50).unwrap(), Purged::Remove);
        let late = merged(&gone, &row(None, Some(Some(2)), 9));
        assert!(!is_visible(&LAYOUTS, &late, 0).unwrap());
        let young = merged(&gone, &row(None, Some(Some(3)), 11));
        assert!(is_visible(&LAYOUTS, &young, 0).unwrap());
        let three = 3i64.to_le_bytes();
        let cell = Cell { written: Written::at(11), value: Some(three.as_slice()) };
        assert_eq!(cells(&young), [None, Some(cell)]);
        assert_eq!(cells(&merged(&young, &old)), [None, Some(cell)], "what was deleted does not come back");
    }

    #[test]
    fn a_row_that_expired_is_not_there_and_its_cells_are_null() {
        let brief = row_until(Some(Some("brief".into())), None, Written { timestamp_us: 1, expires_us: 100 });
        assert_eq!([99, 100].map(|now_us| is_visible(&LAYOUTS, &brief, now_us).unwrap()), [true, false]);
        let both = merged(&brief, &row(None, Some(Some(1)), 0));
        assert!(is_visible(&LAYOUTS, &both, 100).unwrap(), "a cell that stays keeps the row");
        assert_eq!(cells(&both)[0].unwrap().value_at(100), None);
        assert_eq!(purge(&LAYOUTS, &brief, 100).unwrap(), Purged::Remove);
    }
}
