//! What a join is of: its two sides, how their rows are kept and in which order, and which of them an arrival can meet.
use arrow::{
    array::{Array, ArrayRef},
    datatypes::{FieldRef, SchemaRef},
};
use datafusion::{
    common::{JoinType, Result},
    physical_plan::joins::utils::JoinFilter,
};

use super::Arrivals;
use crate::{
    bounds::{self, Bound},
    event_time::TimeColumn,
    keys::{EncodedRows, RowFormat},
};

/// One input: its columns, then those of the key where they are not among them.
#[derive(Clone, Debug)]
pub struct Side {
    pub schema: SchemaRef,
    /// How many of its columns are joined; the others are only keys.
    pub columns: usize,
    pub keys: Vec<usize>,
    /// Columns that tell when a row can meet no new row of the other side, nor leave.
    pub times: Vec<(usize, TimeColumn)>,
    /// Columns, besides the key's, without which a row has no match.
    pub compared: Vec<usize>,
    /// All its rows come in the first epoch.
    pub whole: bool,
}

impl Side {
    pub(super) fn key_format(&self) -> Result<RowFormat> {
        RowFormat::new(self.keys.iter().map(|&key| self.schema.field(key).data_type()))
    }

    /// The joined columns as they are kept: that at `first` comes to the front.
    pub(super) fn kept_fields(&self, first: usize) -> Vec<&FieldRef> {
        let mut fields: Vec<_> = self.schema.fields().iter().take(self.columns).collect();
        to_front(&mut fields, first);
        fields
    }
}

#[derive(Clone, Debug)]
pub struct JoinSpec {
    pub join_type: JoinType,
    pub left: Side,
    pub right: Side,
    pub filter: Option<JoinFilter>,
    /// What the condition says of a column of either side.
    pub(crate) band: Option<Bound>,
    pub null_equals_null: bool,
    /// Before the projection.
    pub schema: SchemaRef,
    pub projection: Option<Vec<usize>>,
    pub output: SchemaRef,
}

impl JoinSpec {
    /// Whether a side's rows are compared with all they will ever meet when they come, so that nothing they gave is taken back.
    pub(super) fn is_settled(&self, is_left: bool) -> bool {
        use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        let follows = match is_left {
            true => matches!(self.join_type, Inner | Left | LeftSemi | LeftAnti | LeftMark),
            false => matches!(self.join_type, Inner | Right | RightSemi | RightAnti | RightMark),
        };
        let (mine, other) = if is_left { (&self.left, &self.right) } else { (&self.right, &self.left) };
        follows && other.whole && !mine.whole
    }

    /// The rows of a side as they are kept.
    pub(super) fn kept_rows(&self, is_left: bool) -> Result<KeptRows> {
        let side = if is_left { &self.left } else { &self.right };
        KeptRows::new(side, self.first_kept(is_left))
    }

    pub(super) fn first_kept(&self, is_left: bool) -> usize {
        self.band.map_or(0, |band| if is_left { band.left } else { band.right })
    }

    /// Which rows of the other side these arrivals can meet, by the band alone.
    pub(super) fn reach(&self, arrivals: &Arrivals, is_left: bool) -> Result<Reach> {
        let Some(band) = self.band else { return Ok(Reach::default()) };
        let (column, below_us, above_us) = match is_left {
            true => (band.left, band.left_ahead_us, band.right_ahead_us),
            false => (band.right, band.right_ahead_us, band.left_ahead_us),
        };
        let column = arrivals.delta.batch().column(column);
        let format = RowFormat::new([column.data_type()])?;
        let at = |ahead_us: Option<i64>, sign: i64| {
            ahead_us.map(|ahead_us| format.encode(&[bounds::moved(column, ahead_us, sign)?])).transpose()
        };
        Ok(Reach { low: at(below_us, -1)?, high: at(above_us, 1)?, end: vec![] })
    }

    /// Whether rows that only come make an answer of rows that only come.
    pub fn appends(&self) -> bool {
        self.join_type == JoinType::Inner || self.is_settled(true) || self.is_settled(false)
    }
}

/// The joined columns of a side as rows of bytes, which are in the order of one of them.
pub(super) struct KeptRows {
    format: RowFormat,
    first: usize,
}

impl KeptRows {
    /// `first` comes to the front.
    fn new(side: &Side, first: usize) -> Result<Self> {
        let fields = side.kept_fields(first).into_iter();
        Ok(Self { format: RowFormat::new(fields.map(|field| field.data_type()))?, first })
    }

    pub(super) fn encode(&self, columns: &[ArrayRef]) -> Result<EncodedRows> {
        let mut columns = columns.to_vec();
        to_front(&mut columns, self.first);
        self.format.encode(&columns)
    }

    pub(super) fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let mut columns = self.format.decode(rows)?;
        from_front(&mut columns, self.first);
        Ok(columns)
    }
}

/// Moves the item at `place`, where there are items, to the front of the others.
fn to_front<T>(items: &mut [T], place: usize) {
    if let Some(front) = items.get_mut(..=place) {
        front.rotate_right(1);
    }
}

/// Moves the first item back to its place.
fn from_front<T>(items: &mut [T], place: usize) {
    if let Some(front) = items.get_mut(..=place) {
        front.rotate_left(1);
    }
}

/// Between which rows of the other side those lie that an arrival can meet.
#[derive(Default)]
pub(super) struct Reach {
    low: Option<EncodedRows>,
    high: Option<EncodedRows>,
    end: Vec<u8>,
}

impl Reach {
    /// Where the rows begin and before which they end.
    pub(super) fn of(&mut self, row: usize) -> (&[u8], Option<&[u8]>) {
        let low = self.low.as_ref().map_or(&[][..], |low| low.row(row));
        let Some(high) = &self.high else { return (low, None) };
        // The first bytes that do not begin with those of the highest value.
        self.end.clear();
        self.end.extend_from_slice(high.row(row));
        while let Some(last) = self.end.pop() {
            if last < u8::MAX {
                self.end.push(last + 1);
                return (low, Some(&self.end));
            }
        }
        (low, None)
    }
}
