//! The windows that one row is in, where it may be in several: `hop_starts(ts, slide, size, offset)` gives their starts, latest first, and
//! `cumulate_ends(ts, step, size, offset)` their ends, earliest first; lengths in microseconds. Windows are `[start, end)`. Planning
//! unnests the lists.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray, PrimitiveBuilder},
        buffer::{NullBuffer, OffsetBuffer},
        compute::cast,
        datatypes::{
            ArrowTimestampType, DataType, Field, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
            TimestampNanosecondType, TimestampSecondType,
        },
    },
    common::{Result, ScalarValue, exec_datafusion_err, exec_err, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

/// Which windows, and which of their bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MultipleWindows {
    /// Windows of one size that start at every slide.
    HopStarts,
    /// Windows that start together and grow by a step up to the size.
    CumulateEnds,
}

impl MultipleWindows {
    /// The function's name in plans.
    pub fn name(self) -> &'static str {
        match self {
            Self::HopStarts => "hop_starts",
            Self::CumulateEnds => "cumulate_ends",
        }
    }

    /// The bounds of the windows that hold `time`, all in one unit; `None`: one of them is beyond all times.
    fn bounds(self, time: i64, step: i64, size: i64, offset: i64) -> Option<(i64, i64, i64)> {
        let begun = |length: i64| time.checked_sub(time.checked_sub(offset)?.rem_euclid(length));
        let last = begun(step)?;
        match self {
            // From the window that starts last down to the one that just holds `time`.
            Self::HopStarts => {
                let count = size.checked_sub(time - last)?.checked_add(step - 1)? / step;
                last.checked_sub((count - 1).max(0).checked_mul(step)?)?;
                Some((last, -step, count))
            }
            Self::CumulateEnds => {
                let end = begun(size)?.checked_add(size)?;
                Some((last.checked_add(step)?, step, end.checked_sub(last)? / step))
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct WindowsFunction {
    kind: MultipleWindows,
    signature: Signature,
}

impl WindowsFunction {
    pub fn new(kind: MultipleWindows) -> Self {
        Self { kind, signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn lists<T: ArrowTimestampType>(&self, times: &ArrayRef, lengths: [i64; 3]) -> Result<ArrayRef> {
        let times = times.as_primitive::<T>();
        let [step, size, offset] = match in_unit(T::UNIT, lengths) {
            Some(lengths) => lengths,
            None => {
                return exec_err!("{} has windows finer than its column {}; CAST the column", self.kind.name(), times.data_type());
            }
        };
        let per_row = usize::try_from(size / step + 1).unwrap_or(1);
        let mut values: PrimitiveBuilder<T> = PrimitiveBuilder::with_capacity(times.len() * per_row);
        let mut offsets = Vec::with_capacity(times.len() + 1);
        offsets.push(0i32);
        let mut total = 0i64;
        for row in 0..times.len() {
            if times.is_valid(row) {
                let time = times.value(row);
                let Some((first, by, count)) = self.kind.bounds(time, step, size, offset) else {
                    return exec_err!("{} finds no window for {time}, as it would begin or end beyond all times", self.kind.name());
                };
                for index in 0..count {
                    values.append_value(first + index * by);
                }
                total += count.max(0);
            }
            let end = i32::try_from(total).map_err(|_| exec_datafusion_err!("{} gives too many windows", self.kind.name()))?;
            offsets.push(end);
        }
        let values: PrimitiveArray<T> = values.finish().with_data_type(times.data_type().clone());
        let field = Arc::new(Field::new_list_field(times.data_type().clone(), true));
        let nulls = times.nulls().cloned().filter(|nulls: &NullBuffer| nulls.null_count() > 0);
        Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::new(offsets.into()), Arc::new(values), nulls)?))
    }
}

/// Lengths in microseconds as lengths in `unit`.
fn in_unit(unit: TimeUnit, lengths: [i64; 3]) -> Option<[i64; 3]> {
    let scaled = |length: i64| match unit {
        TimeUnit::Second => (length % 1_000_000 == 0).then_some(length / 1_000_000),
        TimeUnit::Millisecond => (length % 1_000 == 0).then_some(length / 1_000),
        TimeUnit::Microsecond => Some(length),
        TimeUnit::Nanosecond => length.checked_mul(1_000),
    };
    let [step, size, offset] = lengths;
    Some([scaled(step)?, scaled(size)?, scaled(offset)?])
}

impl ScalarUDFImpl for WindowsFunction {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [time @ DataType::Timestamp(..), _, _, _] => Ok(vec![time.clone(), DataType::Int64, DataType::Int64, DataType::Int64]),
            _ => plan_err!(
                "a window is over a TIMESTAMP or TIMESTAMP_LTZ column; DESCRIPTOR names one that is {}: CAST it in a subquery, or declare a computed column",
                described(arguments)
            ),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(arguments[0].clone(), true))))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let [time, step, size, offset] = arguments.args.as_slice() else {
            return exec_err!("{} takes a time and three lengths", self.kind.name());
        };
        let lengths = [length(step)?, length(size)?, length(offset)?];
        if lengths[0] <= 0 || lengths[1] <= 0 {
            return exec_err!("{} takes lengths above 0", self.kind.name());
        }
        let times = time.to_array(rows)?;
        let lists = match times.data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => self.lists::<TimestampSecondType>(&times, lengths),
            DataType::Timestamp(TimeUnit::Millisecond, _) => self.lists::<TimestampMillisecondType>(&times, lengths),
            DataType::Timestamp(TimeUnit::Microsecond, _) => self.lists::<TimestampMicrosecondType>(&times, lengths),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => self.lists::<TimestampNanosecondType>(&times, lengths),
            other => exec_err!("{} takes a timestamp, not {other}", self.kind.name()),
        }?;
        Ok(ColumnarValue::Array(lists))
    }
}

fn described(arguments: &[DataType]) -> String {
    arguments.first().map_or_else(|| "missing".to_owned(), ToString::to_string)
}

/// The same length in every row.
fn length(value: &ColumnarValue) -> Result<i64> {
    let scalar = match value {
        ColumnarValue::Scalar(scalar) => scalar.clone(),
        ColumnarValue::Array(array) if !array.is_empty() => ScalarValue::try_from_array(&cast(array, &DataType::Int64)?, 0)?,
        ColumnarValue::Array(_) => ScalarValue::Int64(Some(1)),
    };
    match scalar {
        ScalarValue::Int64(Some(length)) => Ok(length),
        other => exec_err!("the length of a window is {other}; it is a number of microseconds"),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::{array::TimestampMillisecondArray, datatypes::Int64Type};

    use super::*;

    fn numbers(list: &ListArray, row: usize) -> Vec<i64> {
        cast(&list.value(row), &DataType::Int64).unwrap().as_primitive::<Int64Type>().values().to_vec()
    }

    fn lists(kind: MultipleWindows, times: Vec<Option<i64>>, lengths: [i64; 3]) -> ListArray {
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(times));
        WindowsFunction::new(kind).lists::<TimestampMillisecondType>(&times, lengths).unwrap().as_list::<i32>().clone()
    }

    #[test]
    fn hops_hold_their_row() {
        let found = lists(MultipleWindows::HopStarts, vec![Some(11_000), Some(10_000), None, Some(-1)], [2_000_000, 10_000_000, 0]);
        assert_eq!(numbers(&found, 0), [10_000, 8_000, 6_000, 4_000, 2_000]);
        assert_eq!(numbers(&found, 1), [10_000, 8_000, 6_000, 4_000, 2_000]);
        assert!(found.is_null(2));
        assert_eq!(numbers(&found, 3), [-2_000, -4_000, -6_000, -8_000, -10_000]);
        for (slide, size, offset) in [(2, 10, 0), (3, 10, 1), (4, 4, 3), (5, 7, -2)] {
            for time in -30..30 {
                let found = lists(MultipleWindows::HopStarts, vec![Some(time)], [slide * 1_000, size * 1_000, offset * 1_000]);
                let expected: Vec<i64> =
                    (-60..60).rev().filter(|s| (s - offset).rem_euclid(slide) == 0 && *s <= time && time < s + size).collect();
                assert_eq!(numbers(&found, 0), expected, "{time} in hops of {slide}, {size}, {offset}");
            }
        }
    }

    #[test]
    fn windows_beyond_all_times_are_an_error() {
        for kind in [MultipleWindows::HopStarts, MultipleWindows::CumulateEnds] {
            for (time, offset) in [(i64::MIN + 1, 0), (i64::MAX, 7), (i64::MAX, -7)] {
                let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![time]));
                let found = WindowsFunction::new(kind).lists::<TimestampMillisecondType>(&times, [10_000, 100_000, offset * 1_000]);
                let fits = kind == MultipleWindows::HopStarts && offset > 0;
                assert_eq!(found.is_ok(), fits, "{kind:?} of {time} from {offset} on: {found:?}");
            }
        }
    }

    #[test]
    fn cumulated_windows_grow_to_the_size() {
        let found = lists(MultipleWindows::CumulateEnds, vec![Some(3_500), Some(0), Some(9_999)], [2_000_000, 10_000_000, 0]);
        assert_eq!(numbers(&found, 0), [4_000, 6_000, 8_000, 10_000]);
        assert_eq!(numbers(&found, 1), [2_000, 4_000, 6_000, 8_000, 10_000]);
        assert_eq!(numbers(&found, 2), [10_000]);
    }
}
