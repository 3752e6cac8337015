//! Aggregates whose values must be remembered one by one, because one may be taken away: a multiset of the arguments' values per group.
use arrow::{
    array::{Array, ArrayRef},
    datatypes::DataType,
    row::SortField,
};
use datafusion::common::{Result, ScalarValue};
use polybolos_state::{BucketTable, Entry};

use super::aggregate::Call;
use crate::keys::{EncodedRows, RowFormat};

/// How the result comes from the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Multiset {
    /// The values in order: the first is the smallest.
    Minimum,
    Maximum,
    /// The values in the order that the call asks for: which row is the first, or the last.
    First,
    Last,
    /// DataFusion's accumulator over all of them.
    Recomputed,
}

impl Multiset {
    pub fn of(call: &Call) -> Self {
        // The keys of an order are arguments behind the value.
        let orders = call.function.order_bys().len();
        let is_ordered = orders > 0 && call.arguments.len() == 1 + orders;
        match call.function.fun().name() {
            "min" if call.arguments.len() == 1 => Self::Minimum,
            "max" if call.arguments.len() == 1 => Self::Maximum,
            "first_value" if is_ordered => Self::First,
            "last_value" if is_ordered => Self::Last,
            _ => Self::Recomputed,
        }
    }

    fn is_ordered(self) -> bool {
        matches!(self, Self::First | Self::Last)
    }

    /// How layouts tell it from what versions before 2026-11-30 kept of the same call, in the order of its values.
    pub fn words(self) -> &'static str {
        if self.is_ordered() { " (in its order)" } else { "" }
    }

    pub fn remembers(self, call: &Call, arguments: &[ArrayRef], row: usize) -> bool {
        match self {
            Self::Minimum | Self::Maximum => arguments.iter().all(|column| column.is_valid(row)),
            Self::First | Self::Last => !call.function.ignore_nulls() || arguments[0].is_valid(row),
            Self::Recomputed => true,
        }
    }

    /// Of the rows that lie in the table.
    pub fn format(self, call: &Call) -> Result<RowFormat> {
        if !self.is_ordered() {
            return RowFormat::new(&call.types);
        }
        let orders = call.function.order_bys().iter().zip(&call.types[1..]);
        let orders = orders.map(|(order, data_type)| SortField::new_with_options(data_type.clone(), order.options));
        RowFormat::ordered(orders.chain([SortField::new(call.types[0].clone())]).collect())
    }

    pub fn encode(self, format: &RowFormat, arguments: &[ArrayRef]) -> Result<EncodedRows> {
        if !self.is_ordered() {
            return format.encode(arguments);
        }
        let mut columns = arguments.to_vec();
        columns.rotate_left(1);
        format.encode(&columns)
    }

    fn decode<'a>(self, format: &RowFormat, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let mut columns = format.decode(rows)?;
        if self.is_ordered() {
            columns.rotate_right(1);
        }
        Ok(columns)
    }

    /// The result over a group's values, as they are now.
    pub fn result(self, call: &Call, format: &RowFormat, table: &BucketTable, key: &[u8]) -> Result<ScalarValue> {
        let mut found: Vec<(Vec<u8>, Entry)> = vec![];
        let one = |row: &[u8], entry: Entry| {
            found.push((row.to_vec(), entry));
            false
        };
        match self {
            Self::Minimum => match least_number(call, format)? {
                Some(least) => table.visit_between(key, least.row(0), None, one),
                None => table.visit(key, one),
            },
            Self::First => table.visit(key, one),
            Self::Maximum | Self::Last => table.visit_backwards(key, one),
            Self::Recomputed => table.visit(key, |row, entry| {
                found.push((row.to_vec(), entry));
                true
            }),
        }
        // A NaN with a sign comes before all numbers, and is greater than these all the same: the accumulator knows.
        let may_come_first = self == Self::Maximum || self == Self::Minimum && found.is_empty();
        if may_come_first && call.types.iter().all(DataType::is_floating) {
            table.visit(key, |row, entry| {
                found.push((row.to_vec(), entry));
                false
            });
        }
        let times = |entry: &Entry| if self == Self::Recomputed { usize::try_from(entry.weight).unwrap_or(0) } else { 1 };
        let rows = found.iter().flat_map(|(row, entry)| std::iter::repeat_n(row.as_slice(), times(entry)));
        let mut accumulator = call.function.create_accumulator()?;
        if !found.is_empty() {
            accumulator.update_batch(&self.decode(format, rows)?)?;
        }
        accumulator.evaluate()
    }
}

/// What comes before all numbers, of floats: they begin behind the NaNs that have a sign.
fn least_number(call: &Call, format: &RowFormat) -> Result<Option<EncodedRows>> {
    let least = match call.types.as_slice() {
        [DataType::Float32] => ScalarValue::Float32(Some(f32::NEG_INFINITY)),
        [DataType::Float64] => ScalarValue::Float64(Some(f64::NEG_INFINITY)),
        _ => return Ok(None),
    };
    Ok(Some(format.encode(&[least.to_array()?])?))
}
