//! Aggregates whose partial state adds up, so that a row is taken away by adding its negative: count, sum, avg. How sums of floats do: [`super::floats`];
//! how bits are counted: [`super::bits`].
use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, PrimitiveArray, UInt64Array},
    datatypes::{ArrowPrimitiveType, DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type, i256},
};
use datafusion::common::{Result, exec_err, internal_err};

use super::{
    aggregate::{Call, takes},
    bits::{BitOperation, Bits},
    floats::{self, FloatSums},
};

/// Stands for a sum of DECIMALs that has left 128 bits, and stays as long as there are values; none is so large.
const LOST: i128 = i128::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linear {
    Count,
    /// Of the type of the sum's state.
    Sum(Number),
    Average(Number),
    Bits(BitOperation, Bits),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Int64,
    UInt64,
    Float64,
    Decimal128(u8, i8),
}

impl Number {
    fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Int64 => Self::Int64,
            DataType::UInt64 => Self::UInt64,
            DataType::Float64 => Self::Float64,
            DataType::Decimal128(precision, scale) => Self::Decimal128(*precision, *scale),
            _ => return None,
        })
    }

    /// The columns that keep a sum of this type.
    fn state_types(self) -> Vec<DataType> {
        match self {
            Self::Int64 => vec![DataType::Int64],
            Self::UInt64 => vec![DataType::UInt64],
            Self::Float64 => floats::STATE_TYPES.to_vec(),
            Self::Decimal128(precision, scale) => vec![DataType::Decimal128(precision, scale)],
        }
    }
}

impl Linear {
    /// Whether a call is of this kind: by the shape of DataFusion's partial states, which are filled in to evaluate.
    pub fn of(call: &Call) -> Result<Option<Self>> {
        let states = call.function.state_fields()?;
        let types: Vec<&DataType> = states.iter().map(|field| field.data_type()).collect();
        Ok(match (call.function.fun().name(), types.as_slice()) {
            ("count", [DataType::Int64]) => Some(Self::Count),
            ("sum", [sum]) => Number::of(sum).map(Self::Sum),
            ("avg", [DataType::UInt64, sum]) => Number::of(sum).map(Self::Average),
            ("bit_and" | "bool_and", [values]) => Bits::of(values).map(|bits| Self::Bits(BitOperation::And, bits)),
            ("bit_or" | "bool_or", [values]) => Bits::of(values).map(|bits| Self::Bits(BitOperation::Or, bits)),
            ("bit_xor", [values]) => Bits::of(values).map(|bits| Self::Bits(BitOperation::Xor, bits)),
            _ => None,
        })
    }

    /// The columns that keep it: how many values, then their sum, or how many have each bit set.
    pub fn state_types(self) -> Vec<DataType> {
        match self {
            Self::Count => vec![DataType::Int64],
            Self::Sum(number) | Self::Average(number) => [DataType::Int64].into_iter().chain(number.state_types()).collect(),
            Self::Bits(_, _) => vec![DataType::Int64, DataType::Binary],
        }
    }

    /// How layouts tell it from what versions before 2026-11-30 kept of the same call: a sum that had been infinite once was NaN from then on.
    pub fn words(self) -> &'static str {
        match self {
            Self::Sum(Number::Float64) | Self::Average(Number::Float64) => " (infinities apart)",
            _ => "",
        }
    }

    /// DataFusion's partial states of kept columns.
    pub fn datafusion_states(self, kept: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let counts = kept[0].as_primitive::<Int64Type>();
        Ok(match self {
            Self::Count => vec![kept[0].clone()],
            Self::Sum(number) => vec![sums(number, counts, &kept[1..])?],
            Self::Bits(operation, bits) => vec![bits.results(operation, counts, &kept[1])?],
            Self::Average(number) => {
                let unsigned: UInt64Array = counts.values().iter().map(|count| (*count != 0).then_some(*count as u64)).collect();
                vec![Arc::new(unsigned), sums(number, counts, &kept[1..])?]
            }
        })
    }
}

/// NULL where there are no values.
fn sums(number: Number, counts: &Int64Array, kept: &[ArrayRef]) -> Result<ArrayRef> {
    fn of<T: ArrowPrimitiveType>(counts: &Int64Array, sums: impl Iterator<Item = T::Native>) -> PrimitiveArray<T> {
        counts.values().iter().zip(sums).map(|(count, sum)| (*count != 0).then_some(sum)).collect()
    }
    Ok(match number {
        Number::Int64 => Arc::new(of::<Int64Type>(counts, kept[0].as_primitive::<Int64Type>().values().iter().copied())),
        Number::UInt64 => Arc::new(of::<UInt64Type>(counts, kept[0].as_primitive::<UInt64Type>().values().iter().copied())),
        Number::Float64 => Arc::new(of::<Float64Type>(counts, floats::totals(kept)?.into_iter())),
        Number::Decimal128(_, _) => {
            let sums = kept[0].as_primitive::<Decimal128Type>().values();
            if sums.contains(&LOST) {
                return exec_err!("a sum of DECIMALs has more than 38 digits; sum fewer rows, or CAST(x AS DOUBLE)");
            }
            let sums = of::<Decimal128Type>(counts, sums.iter().copied());
            Arc::new(sums.with_data_type(kept[0].data_type().clone()))
        }
    })
}

/// The kept columns of the touched groups, while an epoch adds to them.
#[derive(Debug)]
pub(super) enum Adding {
    Count(Vec<i64>),
    Int64(Vec<i64>, Vec<i64>),
    UInt64(Vec<i64>, Vec<u64>),
    Float64(Vec<i64>, FloatSums),
    /// Wider than what is kept: within an epoch a sum may grow beyond that and come back.
    Decimal128(Vec<i64>, Vec<i256>, DataType),
    Bits(Vec<i64>, Vec<i64>, Bits),
}

impl Adding {
    pub fn new(linear: Linear, groups: usize) -> Self {
        let counts = vec![0; groups];
        match linear {
            Linear::Count => Self::Count(counts),
            Linear::Bits(_, bits) => Self::Bits(counts, bits.none_set(groups), bits),
            Linear::Sum(number) | Linear::Average(number) => match number {
                Number::Int64 => Self::Int64(counts, vec![0; groups]),
                Number::UInt64 => Self::UInt64(counts, vec![0; groups]),
                Number::Float64 => Self::Float64(counts, FloatSums::new(groups)),
                Number::Decimal128(precision, scale) => {
                    Self::Decimal128(counts, vec![i256::ZERO; groups], DataType::Decimal128(precision, scale))
                }
            },
        }
    }

    /// Starts from what is kept of the groups `known`.
    pub fn load(&mut self, known: &[usize], kept: &[ArrayRef]) -> Result<()> {
        let loaded = kept[0].as_primitive::<Int64Type>();
        let (Self::Count(counts)
        | Self::Int64(counts, _)
        | Self::UInt64(counts, _)
        | Self::Float64(counts, _)
        | Self::Decimal128(counts, _, _)
        | Self::Bits(counts, _, _)) = self;
        for (row, group) in known.iter().enumerate() {
            counts[*group] = loaded.value(row);
        }
        if let Self::Float64(_, sums) = self {
            return sums.load(known, &kept[1..]);
        }
        for (row, group) in known.iter().enumerate() {
            match self {
                Self::Count(_) | Self::Float64(_, _) => {}
                Self::Int64(_, sums) => sums[*group] = kept[1].as_primitive::<Int64Type>().value(row),
                Self::UInt64(_, sums) => sums[*group] = kept[1].as_primitive::<UInt64Type>().value(row),
                Self::Decimal128(_, sums, _) => {
                    sums[*group] = wide(kept[1].as_primitive::<Decimal128Type>().value(row));
                }
                Self::Bits(_, set, bits) => bits.load(set, *group, kept[1].as_binary::<i32>().value(row))?,
            }
        }
        Ok(())
    }

    /// Adds `weight(row)` times the argument of each row that `counts`.
    pub fn add(
        &mut self,
        arguments: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        weight: impl Fn(usize) -> i64,
    ) -> Result<()> {
        let nulls: Vec<_> =
            arguments.iter().filter_map(|column| column.logical_nulls()).filter(|nulls| nulls.null_count() > 0).collect();
        let counts_row = |row: usize| nulls.iter().all(|nulls| nulls.is_valid(row)) && takes(filter, row);
        // Of DISTINCT, a value that was there before counts no time.
        let rows = groups.iter().enumerate().filter(|(row, _)| weight(*row) != 0 && counts_row(*row));
        let argument_type = arguments.first().map(|column| column.data_type().clone());
        match (self, argument_type) {
            (Self::Count(counts), _) => rows.for_each(|(row, group)| counts[*group] += weight(row)),
            (Self::Bits(counts, set, bits), Some(_)) => {
                let values = bits.values(&arguments[0])?;
                for (row, group) in rows {
                    counts[*group] += weight(row);
                    bits.add(set, *group, values[row], weight(row));
                }
            }
            (Self::Int64(counts, sums), Some(DataType::Int64)) => {
                let values = arguments[0].as_primitive::<Int64Type>();
                for (row, group) in rows {
                    counts[*group] += weight(row);
                    sums[*group] = sums[*group].wrapping_add(values.value(row).wrapping_mul(weight(row)));
                }
            }
            (Self::UInt64(counts, sums), Some(DataType::UInt64)) => {
                let values = arguments[0].as_primitive::<UInt64Type>();
                for (row, group) in rows {
                    counts[*group] += weight(row);
                    sums[*group] = sums[*group].wrapping_add(values.value(row).wrapping_mul(weight(row) as u64));
                }
            }
            (Self::Float64(counts, sums), Some(DataType::Float64)) => {
                let values = arguments[0].as_primitive::<Float64Type>();
                for (row, group) in rows {
                    counts[*group] += weight(row);
                    sums.add(*group, values.value(row), weight(row));
                }
            }
            (Self::Decimal128(counts, sums, _), Some(DataType::Decimal128(_, _))) => {
                let values = arguments[0].as_primitive::<Decimal128Type>();
                for (row, group) in rows {
                    counts[*group] += weight(row);
                    let value = i256::from_i128(values.value(row)).wrapping_mul(i256::from_i128(weight(row).into()));
                    sums[*group] = sums[*group].wrapping_add(value);
                }
            }
            (kept, found) => return internal_err!("{kept:?} cannot take values of type {found:?}"),
        }
        Ok(())
    }

    pub fn columns(self) -> Vec<ArrayRef> {
        let count = |counts: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(counts)) };
        match self {
            Self::Count(counts) => vec![count(counts)],
            Self::Int64(counts, sums) => vec![count(counts), Arc::new(Int64Array::from(sums))],
            Self::UInt64(counts, sums) => vec![count(counts), Arc::new(UInt64Array::from(sums))],
            Self::Float64(counts, sums) => {
                let sums = sums.columns(&counts);
                [count(counts)].into_iter().chain(sums).collect()
            }
            Self::Bits(counts, set, bits) => vec![count(counts), bits.kept(&set)],
            Self::Decimal128(counts, sums, data_type) => {
                let sums: Vec<i128> = counts.iter().zip(sums).map(|(count, sum)| narrow(*count, sum)).collect();
                vec![count(counts), Arc::new(Decimal128Array::from(sums).with_data_type(data_type))]
            }
        }
    }
}

/// A sum as it is kept.
fn narrow(count: i64, sum: i256) -> i128 {
    if count == 0 { 0 } else { sum.to_i128().unwrap_or(LOST) }
}

/// No values bring a sum back from where a lost one is.
fn wide(sum: i128) -> i256 {
    if sum == LOST { i256::from_parts(0, 1 << 72) } else { i256::from_i128(sum) }
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;

    use super::*;

    /// DataFusion's partial states of what epochs of values with weights come to, of one group.
    fn states(linear: Linear, epochs: &[&[(f64, i64)]]) -> Vec<ArrayRef> {
        let mut kept: Vec<ArrayRef> = vec![];
        for values in epochs {
            let mut adding = Adding::new(linear, 1);
            if !kept.is_empty() {
                adding.load(&[0], &kept).unwrap();
            }
            let arguments: Vec<ArrayRef> = vec![Arc::new(values.iter().map(|(value, _)| *value).collect::<Float64Array>())];
            adding.add(&arguments, &vec![0; values.len()], None, |row| values[row].1).unwrap();
            kept = adding.columns();
        }
        linear.datafusion_states(&kept).unwrap()
    }

    fn sum_of_floats(epochs: &[&[(f64, i64)]]) -> Option<f64> {
        float(&states(Linear::Sum(Number::Float64), epochs)[0])
    }

    fn float(column: &ArrayRef) -> Option<f64> {
        let column = column.as_primitive::<Float64Type>();
        column.is_valid(0).then(|| column.value(0))
    }

    /// Of all that may be left of values after some were taken away: what adding these alone gives.
    #[test]
    fn sums_and_averages_of_floats_follow_from_the_values_that_are_left() {
        let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e308, 1e308, 1.5, -0.25];
        let all = values.map(|value| (value, 1));
        for places in 0..1_u32 << values.len() {
            let is_left = |place: usize| places >> place & 1 == 1;
            let of = |wanted: bool| (0..values.len()).filter(move |place| is_left(*place) == wanted);
            let taken: Vec<(f64, i64)> = of(false).map(|place| (values[place], -1)).collect();
            let left: Vec<f64> = of(true).map(|place| values[place]).collect();
            let sum = left.iter().sum::<f64>();
            let is_right = |found: Option<f64>| match found {
                Some(found) => found == sum || found.is_nan() && sum.is_nan(),
                None => left.is_empty(),
            };
            for linear in [Linear::Sum(Number::Float64), Linear::Average(Number::Float64)] {
                let both: Vec<(f64, i64)> = all.iter().chain(&taken).copied().collect();
                let in_one: [&[(f64, i64)]; 1] = [&both];
                let in_two: [&[(f64, i64)]; 2] = [&all, &taken];
                for epochs in [&in_one[..], &in_two[..]] {
                    let states = states(linear, epochs);
                    let found = float(&states[states.len() - 1]);
                    assert!(is_right(found), "{linear:?}: {found:?} of {left:?}");
                }
            }
        }
    }

    #[test]
    fn an_infinite_value_that_counts_no_time_adds_nothing() {
        for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(sum_of_floats(&[&[(1.5, 1), (value, 0)]]), Some(1.5), "{value}");
        }
        assert_eq!(sum_of_floats(&[&[(f64::INFINITY, 1), (f64::INFINITY, 0)]]), Some(f64::INFINITY), "a second one, of DISTINCT");
    }

    #[test]
    fn a_sum_of_floats_begins_anew_when_all_values_are_gone() {
        for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert_eq!(sum_of_floats(&[&[(value, 1)], &[(value, -1), (2.5, 1)]]), Some(2.5), "{value}");
            assert_eq!(sum_of_floats(&[&[(value, 1)], &[(value, -1)], &[(2.5, 1)]]), Some(2.5), "{value}");
            assert_eq!(sum_of_floats(&[&[(value, 1)], &[(value, -1)]]), None, "{value}");
        }
    }

    #[test]
    fn a_sum_of_decimals_may_leave_its_type_only_within_an_epoch() {
        let large = Decimal128Array::from(vec![9 * 10_i128.pow(37); 3]).with_data_type(DataType::Decimal128(38, 0));
        let arguments: Vec<ArrayRef> = vec![Arc::new(large)];
        let linear = Linear::Sum(Number::Decimal128(38, 0));
        for (weights, fits) in [([1, 1, -1], true), ([1, 1, 0], false), ([-1, -1, 0], false)] {
            let mut adding = Adding::new(linear, 1);
            adding.add(&arguments, &[0, 0, 0], None, |row| weights[row]).unwrap();
            assert_eq!(linear.datafusion_states(&adding.columns()).is_ok(), fits, "{weights:?}");
        }
        let mut kept: Vec<ArrayRef> = vec![];
        for (weights, fits) in [([1, 1, 0], false), ([-1, 0, 0], false), ([-1, 0, 0], true), ([1, 0, 0], true)] {
            let mut adding = Adding::new(linear, 1);
            if !kept.is_empty() {
                adding.load(&[0], &kept).unwrap();
            }
            adding.add(&arguments, &[0, 0, 0], None, |row| weights[row]).unwrap();
            kept = adding.columns();
            assert_eq!(linear.datafusion_states(&kept).is_ok(), fits, "it is lost until there are no values: {weights:?}");
        }
    }
}
