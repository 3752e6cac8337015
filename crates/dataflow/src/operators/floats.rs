//! Running sums of floats from which values are taken away again. What adding rounds off is kept beside a sum (T. J. Dekker's two-sum, 1971), so
//! that it has some 32 digits, and what was added and taken away leaves nothing behind. What is not finite is counted, and what leaves the range of
//! doubles is carried: the sum is what IEEE 754 says of the values that are left.
use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Float64Array},
    datatypes::{DataType, Float64Type},
};
use datafusion::common::{Result, internal_err};

/// The columns that keep a sum: it, what was rounded off, and what is apart, which hardly any group has: its NULLs are a byte each.
pub(super) const STATE_TYPES: [DataType; 3] = [DataType::Float64, DataType::Float64, DataType::Binary];

/// 2¹⁰²³.
const HALF: f64 = 2.0 / f64::MIN_POSITIVE;

/// What a sum has beside a finite one that fits a double.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Apart {
    nan: i64,
    infinite: i64,
    below: i64,
    /// So many times 2¹⁰²⁴ are to be added.
    carried: i64,
}

impl Apart {
    fn bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.nan, self.infinite, self.below, self.carried]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn of(bytes: &[u8]) -> Result<Self> {
        let ([nan, infinite, below, carried], []) = bytes.as_chunks::<8>() else {
            return internal_err!("what is apart from a sum of floats has 32 bytes, not {}", bytes.len());
        };
        let [nan, infinite, below, carried] = [nan, infinite, below, carried].map(|number| i64::from_be_bytes(*number));
        Ok(Self { nan, infinite, below, carried })
    }

    fn of_row(column: &BinaryArray, row: usize) -> Result<Self> {
        if column.is_valid(row) { Self::of(column.value(row)) } else { Ok(Self::default()) }
    }

    fn count(&mut self, value: f64, weight: i64) {
        match value {
            f64::INFINITY => self.infinite += weight,
            f64::NEG_INFINITY => self.below += weight,
            _ => self.nan += weight,
        }
    }

    /// With the finite sum and what was rounded off of it.
    fn total(self, sum: f64, rounded_off: f64) -> f64 {
        match (self.nan > 0, self.infinite > 0, self.below > 0) {
            (false, false, false) => {}
            (false, true, false) => return f64::INFINITY,
            (false, false, true) => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        match self.carried {
            0 => sum + rounded_off,
            // A sum of the other sign brings it back into range.
            1 | -1 => {
                let half = HALF.copysign(self.carried as f64);
                sum + half + half + rounded_off
            }
            carried => f64::INFINITY.copysign(carried as f64),
        }
    }
}

/// The sums of the touched groups, while an epoch adds to them.
#[derive(Debug)]
pub(super) struct FloatSums {
    /// Sums, with what was rounded off.
    finite: Vec<(f64, f64)>,
    /// By group, of those that have any.
    apart: BTreeMap<usize, Apart>,
}

impl FloatSums {
    pub fn new(groups: usize) -> Self {
        Self { finite: vec![(0.0, 0.0); groups], apart: BTreeMap::new() }
    }

    /// Starts from what is kept of the groups `known`.
    pub fn load(&mut self, known: &[usize], kept: &[ArrayRef]) -> Result<()> {
        let (sums, rounded_off) = (kept[0].as_primitive::<Float64Type>(), kept[1].as_primitive::<Float64Type>());
        let apart = kept[2].as_binary::<i32>();
        for (row, group) in known.iter().enumerate() {
            self.finite[*group] = (sums.value(row), rounded_off.value(row));
            if apart.is_valid(row) {
                self.apart.insert(*group, Apart::of(apart.value(row))?);
            }
        }
        Ok(())
    }

    /// Adds `weight` times a value.
    pub fn add(&mut self, group: usize, value: f64, weight: i64) {
        let product = value * weight as f64;
        if !value.is_finite() {
            self.apart.entry(group).or_default().count(value, weight);
        } else if !product.is_finite() {
            let one = value * weight.signum() as f64;
            (0..weight.unsigned_abs()).for_each(|_| self.add_finite(group, one));
        } else {
            self.add_finite(group, product);
            // Multiplying rounds, too.
            if weight.unsigned_abs() > 1 {
                self.finite[group].1 += value.mul_add(weight as f64, -product);
            }
        }
    }

    fn add_finite(&mut self, group: usize, value: f64) {
        let (sum, carried) = two_sum(self.finite[group], value);
        self.finite[group] = sum;
        if carried != 0 {
            self.apart.entry(group).or_default().carried += carried;
        }
    }

    /// As they are kept. Of groups without values nothing stays.
    pub fn columns(self, counts: &[i64]) -> [ArrayRef; 3] {
        let has_values = |group: usize| counts[group] != 0;
        let finite = self.finite.iter().enumerate().map(|(group, sum)| if has_values(group) { *sum } else { (0.0, 0.0) });
        let (sums, rounded_off): (Vec<f64>, Vec<f64>) = finite.unzip();
        let apart_of = |group: usize| self.apart.get(&group).filter(|apart| has_values(group) && **apart != Apart::default());
        let apart: BinaryArray = (0..counts.len()).map(|group| apart_of(group).map(|apart| apart.bytes())).collect();
        [Arc::new(Float64Array::from(sums)), Arc::new(Float64Array::from(rounded_off)), Arc::new(apart)]
    }
}

/// What kept columns come to, row by row.
pub(super) fn totals(kept: &[ArrayRef]) -> Result<Vec<f64>> {
    let (sums, rounded_off) = (kept[0].as_primitive::<Float64Type>(), kept[1].as_primitive::<Float64Type>());
    let apart = kept[2].as_binary::<i32>();
    let total = |row: usize| Ok(Apart::of_row(apart, row)?.total(sums.value(row), rounded_off.value(row)));
    (0..sums.len()).map(total).collect()
}

/// `(sum, rounded_off) + value`, and how many times 2¹⁰²⁴ of it were left out, so that it fits.
fn two_sum((sum, rounded_off): (f64, f64), value: f64) -> ((f64, f64), i64) {
    let (large, small) = if sum.abs() >= value.abs() { (sum, value) } else { (value, sum) };
    let total = large + small;
    if total.is_finite() {
        return ((total, rounded_off + ((large - total) + small)), 0);
    }
    // Both have one sign, and the large one is 2^1023 or more: less 2^1024 it is exact, and has the other sign.
    let half = HALF.copysign(large);
    let (sum, _) = two_sum((large - half - half, rounded_off), small);
    (sum, if large > 0.0 { 1 } else { -1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What values with weights come to, of one group, kept and loaded again before each.
    fn sum(values: &[(f64, i64)]) -> f64 {
        let mut kept = FloatSums::new(1).columns(&[1]);
        for (value, weight) in values {
            let mut sums = FloatSums::new(1);
            sums.load(&[0], &kept).unwrap();
            sums.add(0, *value, *weight);
            kept = sums.columns(&[1]);
        }
        totals(&kept).unwrap()[0]
    }

    #[test]
    fn what_was_added_and_taken_away_leaves_nothing() {
        let left = sum(&[(1e15, 1), (1.5, 1), (-7.25e-9, 1), (3e17, 1), (0.1, 1), (1e15, -1), (3e17, -1), (-7.25e-9, -1)]);
        assert!((left - 1.6).abs() < 1e-9, "{left}");
        assert_eq!(sum(&[(1e16, 1), (1.0, 2), (1e16, -1)]), 2.0);
        assert_eq!(sum(&[(1e300, 1), (1.0, 1), (1e300, -1)]), 1.0);
        let left = sum(&[(1e-20, 1), (0.1, 3), (0.1, -1), (0.1, -1), (0.1, -1)]);
        assert!((left - 1e-20).abs() < 1e-29, "{left}: three times is not rounded");
    }

    #[test]
    fn a_sum_leaves_the_range_of_doubles_and_comes_back() {
        for sign in [1.0, -1.0] {
            let large = 1e308 * sign;
            assert_eq!(sum(&[(large, 2)]), f64::INFINITY * sign);
            assert_eq!(sum(&[(large, 1), (large, 1), (large, -1)]), large);
            assert_eq!(sum(&[(large, 5), (0.5, 1), (large, -4)]), large);
            assert_eq!(sum(&[(large, 5), (0.5, 1), (large, -5)]), 0.5);
            assert_eq!(sum(&[(large, 1), (-large, 1), (large, -1), (-large, -1)]), 0.0);
            let most = f64::MAX * sign;
            assert_eq!(sum(&[(most, 1000), (most, -1)]), f64::INFINITY * sign);
            assert_eq!(sum(&[(most, 1000), (most, -999)]), most);
            assert_eq!(sum(&[(most, 1), (0.5, 1), (most, -1)]), 0.5);
        }
    }

    #[test]
    fn what_is_not_finite_counts_as_often_as_it_is_there() {
        for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let same = |found: f64| found == value || found.is_nan() && value.is_nan();
            assert!(same(sum(&[(1.5, 1), (value, 3), (value, -2)])), "{value}");
            assert_eq!(sum(&[(1.5, 1), (value, 3), (value, -2), (value, -1)]), 1.5, "{value}");
        }
        assert!(sum(&[(f64::INFINITY, 1), (f64::NEG_INFINITY, 1)]).is_nan());
    }

    #[test]
    fn what_is_apart_is_kept_only_where_there_is_any() {
        let mut sums = FloatSums::new(4);
        for (group, value, weight) in
            [(0, 1.0, 1), (1, f64::NAN, 2), (2, f64::NAN, 1), (2, f64::NAN, -1), (2, 1.0, 1), (3, f64::INFINITY, 1)]
        {
            sums.add(group, value, weight);
        }
        let kept = sums.columns(&[1, 2, 1, 0]);
        let valid: Vec<bool> = (0..4).map(|group| kept[2].is_valid(group)).collect();
        assert_eq!(valid, [false, true, false, false]);
        let types: Vec<DataType> = kept.iter().map(|column| column.data_type().clone()).collect();
        assert_eq!(types, STATE_TYPES);
        let numbers = Apart { nan: 1, infinite: -2, below: i64::MAX, carried: i64::MIN };
        assert_eq!(Apart::of(&numbers.bytes()).unwrap(), numbers);
        assert!(Apart::of(&[0; 31]).is_err() && Apart::of(&[0; 40]).is_err());
    }
}
