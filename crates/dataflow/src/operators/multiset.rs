//! Aggregates whose values must be remembered one by one, because one may be taken away: a multiset of the arguments' values per group.
use arrow::{
    array::{Array, ArrayRef},
    datatypes::DataType,
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
    /// DataFusion's accumulator over all of them.
    Recomputed,
}

impl Multiset {
    pub fn of(call: &Call) -> Self {
        match call.function.fun().name() {
            "min" if call.arguments.len() == 1 => Self::Minimum,
            "max" if call.arguments.len() == 1 => Self::Maximum,
            _ => Self::Recomputed,
        }
    }

    /// Whether rows with a NULL argument are left out.
    fn ignores_nulls(self) -> bool {
        self != Self::Recomputed
    }

    pub fn remembers(self, arguments: &[ArrayRef], row: usize) -> bool {
        !self.ignores_nulls() || arguments.iter().all(|column| column.is_valid(row))
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
            Self::Maximum => table.visit_backwards(key, one),
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
            accumulator.update_batch(&format.decode(rows)?)?;
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
