//! `bit_and`, `bit_or` and `bit_xor` of integers that come and go, and `bool_and` and `bool_or`, which are the same of one bit: how many values have each bit set.
use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, BinaryArray, Int64Array, UInt64Array},
    compute::cast,
    datatypes::{DataType, Int64Type, UInt64Type},
};
use datafusion::common::{Result, internal_datafusion_err, internal_err};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BitOperation {
    And,
    Or,
    Xor,
}

/// A type of so many bits; a Boolean has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    count: usize,
    is_signed: bool,
}

impl Bits {
    pub fn of(data_type: &DataType) -> Option<Self> {
        let (count, is_signed) = match data_type {
            DataType::Boolean => (1, false),
            DataType::Int8 => (8, true),
            DataType::Int16 => (16, true),
            DataType::Int32 => (32, true),
            DataType::Int64 => (64, true),
            DataType::UInt8 => (8, false),
            DataType::UInt16 => (16, false),
            DataType::UInt32 => (32, false),
            DataType::UInt64 => (64, false),
            _ => return None,
        };
        Some(Self { count, is_signed })
    }

    fn data_type(self) -> DataType {
        match (self.count, self.is_signed) {
            (1, _) => DataType::Boolean,
            (8, true) => DataType::Int8,
            (16, true) => DataType::Int16,
            (32, true) => DataType::Int32,
            (8, false) => DataType::UInt8,
            (16, false) => DataType::UInt16,
            (32, false) => DataType::UInt32,
            (_, true) => DataType::Int64,
            (_, false) => DataType::UInt64,
        }
    }

    /// The bits of a column; of NULLs any.
    pub fn values(self, column: &ArrayRef) -> Result<Vec<u64>> {
        if *column.data_type() == DataType::UInt64 {
            return Ok(column.as_primitive::<UInt64Type>().values().to_vec());
        }
        let numbers = cast(column, &DataType::Int64)?;
        Ok(numbers.as_primitive::<Int64Type>().values().iter().map(|number| *number as u64).collect())
    }

    /// So many groups without values.
    pub fn none_set(self, groups: usize) -> Vec<i64> {
        vec![0; groups * self.count]
    }

    /// Of all groups, those of one.
    fn of_group(self, set: &mut [i64], group: usize) -> &mut [i64] {
        &mut set[group * self.count..(group + 1) * self.count]
    }

    pub fn add(self, set: &mut [i64], group: usize, value: u64, weight: i64) {
        for (bit, times) in self.of_group(set, group).iter_mut().enumerate() {
            if value >> bit & 1 == 1 {
                *times += weight;
            }
        }
    }

    pub fn load(self, set: &mut [i64], group: usize, kept: &[u8]) -> Result<()> {
        let set = self.of_group(set, group);
        if !kept.len().is_multiple_of(size_of::<i64>()) || kept.len() > size_of_val(set) {
            return internal_err!("{} bytes are no counts of {} bits", kept.len(), self.count);
        }
        for (times, bytes) in set.iter_mut().zip(kept.chunks_exact(size_of::<i64>())) {
            let bytes: [u8; 8] = bytes.try_into().map_err(|_| internal_datafusion_err!("a count has {} bytes", bytes.len()))?;
            *times = i64::from_le_bytes(bytes);
        }
        Ok(())
    }

    /// Per group, the counts of bits up to the last that is set, as bytes.
    pub fn kept(self, set: &[i64]) -> ArrayRef {
        let kept = set.chunks(self.count).map(|set| -> Vec<u8> {
            let length = set.iter().rposition(|times| *times != 0).map_or(0, |last| last + 1);
            set[..length].iter().flat_map(|times| times.to_le_bytes()).collect()
        });
        Arc::new(BinaryArray::from_iter_values(kept))
    }

    /// What so many values of each group come to; NULL where there are none.
    pub fn results(self, operation: BitOperation, counts: &Int64Array, kept: &ArrayRef) -> Result<ArrayRef> {
        let kept = kept.as_binary::<i32>();
        let mut results: Vec<Option<u64>> = vec![];
        for (row, count) in counts.values().iter().enumerate() {
            let mut set = self.none_set(1);
            self.load(&mut set, 0, kept.value(row))?;
            let is_set = |times: i64| match operation {
                BitOperation::And => times == *count,
                BitOperation::Or => times > 0,
                BitOperation::Xor => times % 2 != 0,
            };
            let bits = set.iter().enumerate().filter(|(_, times)| is_set(**times));
            results.push((*count != 0).then(|| bits.fold(0, |all, (bit, _)| all | 1_u64 << bit)));
        }
        if self.data_type() == DataType::UInt64 {
            return Ok(Arc::new(UInt64Array::from(results)));
        }
        // The last bit of a signed number is its sign.
        let sign = if self.is_signed { u64::BITS as usize - self.count } else { 0 };
        let numbers: Int64Array = results.into_iter().map(|bits| bits.map(|bits| ((bits << sign) as i64) >> sign)).collect();
        Ok(cast(&numbers, &self.data_type())?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, BooleanArray, Int8Array};

    use super::*;

    /// Of values with weights, in one epoch or in two.
    fn result(operation: BitOperation, values: &ArrayRef, weights: &[i64], cut: usize) -> ArrayRef {
        let bits = Bits::of(values.data_type()).unwrap();
        let mut set = bits.none_set(1);
        for (row, value) in bits.values(values).unwrap().into_iter().enumerate() {
            if row == cut {
                let kept = bits.kept(&set);
                set = bits.none_set(1);
                bits.load(&mut set, 0, kept.as_binary::<i32>().value(0)).unwrap();
            }
            bits.add(&mut set, 0, value, weights[row]);
        }
        bits.results(operation, &Int64Array::from(vec![weights.iter().sum::<i64>()]), &bits.kept(&set)).unwrap()
    }

    #[test]
    fn bits_follow_from_the_values_that_are_left() {
        for cut in 0..4 {
            let values: ArrayRef = Arc::new(Int8Array::from(vec![-1, 5, 6, 5]));
            for (operation, weights, expected) in [
                (BitOperation::And, [1, 1, 1, -1], Some(6)),
                (BitOperation::And, [1, 0, 0, 0], Some(-1)),
                (BitOperation::Or, [0, 1, 1, -1], Some(6)),
                (BitOperation::Or, [1, 1, 0, -1], Some(-1)),
                (BitOperation::Xor, [0, 1, 1, 0], Some(3)),
                (BitOperation::Xor, [1, 2, 0, -1], Some(-6)),
                (BitOperation::Xor, [0, 1, 0, -1], None),
            ] {
                let found = result(operation, &values, &weights, cut);
                assert_eq!(found.as_ref(), &Int8Array::from(vec![expected]) as &dyn Array, "{operation:?} {weights:?}");
            }
            let values: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX, 1, 3, 1]));
            let found = result(BitOperation::And, &values, &[1, 1, 1, -1], cut);
            assert_eq!(found.as_ref(), &UInt64Array::from(vec![3]) as &dyn Array);
            let values: ArrayRef = Arc::new(BooleanArray::from(vec![true, false, true, false]));
            for (operation, weights, expected) in [
                (BitOperation::And, [1, 1, 0, 0], false),
                (BitOperation::And, [1, 1, 0, -1], true),
                (BitOperation::Or, [1, 1, -1, 0], false),
                (BitOperation::Or, [1, 1, 0, 0], true),
            ] {
                let found = result(operation, &values, &weights, cut);
                assert_eq!(found.as_ref(), &BooleanArray::from(vec![expected]) as &dyn Array, "{operation:?} {weights:?}");
            }
        }
    }
}
