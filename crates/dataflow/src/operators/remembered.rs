//! The values of an aggregate whose partial state would hold each of them, of input that is only added to. They lie in a table of their own, so that an epoch
//! records those that came, however many there are; DataFusion's accumulator takes them all to answer.
use arrow::{
    array::{ArrayRef, BooleanArray},
    datatypes::{DataType, FieldRef},
};
use datafusion::{common::Result, logical_expr::EmitTo};
use polybolos_state::{BucketTable, Entry};

use super::{
    aggregate::{Call, takes},
    grouping::Touched,
};
use crate::keys::RowFormat;

/// How values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    /// Each with how often it is there: the answer is the same in whichever order they came.
    Multiset,
    /// Each once, with the number of the row that brought it first.
    Distinct,
    /// In the order in which they came: behind the numbers of their rows.
    AsTheyCame,
}

/// Rows of a delta as a call takes them.
pub(super) struct CallRows<'a> {
    pub groups: &'a [usize],
    /// Of the rows within their groups, ascending.
    pub numbers: &'a [i64],
    pub arguments: &'a [ArrayRef],
    pub filter: Option<&'a BooleanArray>,
}

impl Remembered {
    /// `None`: its partial state, of these fields, is as small whatever it has seen.
    pub fn of(call: &Call, states: &[FieldRef]) -> Option<Self> {
        if !grows(call, states) {
            return None;
        }
        let function = &call.function;
        let is_sorted = !function.order_bys().is_empty() && call.arguments.iter().all(|argument| argument.eq(&call.arguments[0]));
        Some(match function.fun().name() {
            _ if function.is_distinct() => Self::Distinct,
            "median" | "percentile_cont" => Self::Multiset,
            _ if is_sorted => Self::Multiset,
            _ => Self::AsTheyCame,
        })
    }

    /// For EXPLAIN and the layout of state.
    pub fn words(self) -> &'static str {
        match self {
            Self::Multiset => "every value per group",
            Self::Distinct => "every distinct value per group",
            Self::AsTheyCame => "every value per group as it came",
        }
    }

    pub fn add(self, call: &Call, table: &mut BucketTable, touched: &Touched, rows: &CallRows<'_>) -> Result<()> {
        let values = RowFormat::new(&call.types)?.encode(rows.arguments)?;
        for (row, &group) in rows.groups.iter().enumerate().filter(|(row, _)| takes(rows.filter, *row)) {
            let (key, value, number) = (touched.keys.row(group), values.row(row), rows.numbers[row]);
            let expiry = touched.expiry_of_values(group);
            match self {
                Self::Multiset => _ = table.add(key, value, 1, expiry),
                Self::Distinct => {
                    let known = table.get(key, value);
                    if known.is_none() || table.has_ttl() {
                        table.put(key, value, known.unwrap_or(Entry { weight: 1, matches: number }), expiry);
                    }
                }
                Self::AsTheyCame => table.put(key, &numbered(number, value), Entry::of(1), expiry),
            }
        }
        Ok(())
    }

    /// What all values of the groups with these keys come to.
    pub fn results(self, call: &Call, table: &BucketTable, keys: &[&[u8]]) -> Result<ArrayRef> {
        let mut found: Vec<(Box<[u8]>, Entry)> = vec![];
        let mut groups: Vec<usize> = vec![];
        for (group, key) in keys.iter().enumerate() {
            let first = found.len();
            table.visit(key, |row, entry| {
                found.push((row.into(), entry));
                true
            });
            if self == Self::Distinct {
                found[first..].sort_unstable_by_key(|(_, entry)| entry.matches);
            }
            groups.extend(found[first..].iter().flat_map(|(_, entry)| std::iter::repeat_n(group, times(entry))));
        }
        let mut accumulator = call.accumulator()?;
        call.tell_of_groups(accumulator.as_mut(), keys.len())?;
        if !groups.is_empty() {
            let values = found.iter().flat_map(|(row, entry)| std::iter::repeat_n(self.value(row), times(entry)));
            accumulator.update_batch(&RowFormat::new(&call.types)?.decode(values)?, &groups, None, keys.len())?;
        }
        accumulator.evaluate(EmitTo::All)
    }

    /// Of a row of the table.
    fn value(self, row: &[u8]) -> &[u8] {
        if self == Self::AsTheyCame { &row[size_of::<i64>()..] } else { row }
    }
}

/// Numbers are positive, so their bytes are in their order.
fn numbered(number: i64, value: &[u8]) -> Vec<u8> {
    [number.to_be_bytes().as_slice(), value].concat()
}

fn times(entry: &Entry) -> usize {
    usize::try_from(entry.weight).unwrap_or(0)
}

/// Whether a partial state grows with the values that it has seen. Lists say so, but where they may be a value themselves, or have a length that they keep to.
fn grows(call: &Call, states: &[FieldRef]) -> bool {
    match call.function.fun().name() {
        "string_agg" => true,
        "min" | "max" | "first_value" | "last_value" | "any_value" => false,
        name if name.starts_with("approx_") => false,
        _ => states.iter().any(|field| matches!(field.data_type(), DataType::List(_) | DataType::LargeList(_))),
    }
}
