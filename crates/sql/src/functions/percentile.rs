//! `percentile_cont`, between two values as exactly as floats tell: DataFusion's knows the place there to six digits. What is kept
//! of a group is DataFusion's.
use std::{borrow::Cow, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch},
        compute::cast,
        datatypes::{DataType, Float32Type, Float64Type, Schema},
    },
    common::{Result, ScalarValue, exec_err, utils::SingleRowListArrayBuilder},
    logical_expr::{Accumulator, ColumnarValue, function::AccumulatorArgs},
};

/// Of one group of floats, or of a frame that slides.
#[derive(Debug)]
pub(super) struct Percentile {
    share: f64,
    is_descending: bool,
    is_distinct: bool,
    values: Vec<f64>,
    data_type: DataType,
}

impl Percentile {
    /// `None`: the values are neither FLOAT nor DOUBLE, or the share is none.
    pub fn new(arguments: &AccumulatorArgs<'_>) -> Option<Self> {
        if !matches!(arguments.expr_fields[0].data_type(), DataType::Float32 | DataType::Float64) {
            return None;
        }
        let share = match arguments.exprs[1].evaluate(&RecordBatch::new_empty(Arc::new(Schema::empty()))) {
            Ok(ColumnarValue::Scalar(ScalarValue::Float64(Some(share)))) => share,
            Ok(ColumnarValue::Scalar(ScalarValue::Float32(Some(share)))) => f64::from(share),
            _ => return None,
        };
        (0.0..=1.0).contains(&share).then(|| Self {
            share,
            is_descending: arguments.order_bys.first().is_some_and(|order| order.options.descending),
            is_distinct: arguments.is_distinct,
            values: Vec::new(),
            data_type: arguments.return_field.data_type().clone(),
        })
    }

    /// What was in order is passed over, and what came after it is sorted by itself: a stable sort merges runs.
    fn sort(&mut self) {
        self.values.sort_by(f64::total_cmp);
    }

    /// The values that count, in order.
    fn counted(&mut self) -> Cow<'_, [f64]> {
        self.sort();
        if !self.is_distinct {
            return Cow::Borrowed(&self.values);
        }
        let mut values = self.values.clone();
        values.dedup_by_key(|value| value.to_bits());
        Cow::Owned(values)
    }
}

/// Appends those that are not NULL.
fn append(values: &mut Vec<f64>, array: &ArrayRef) {
    match array.as_primitive_opt::<Float64Type>() {
        Some(array) if array.null_count() == 0 => values.extend_from_slice(array.values()),
        Some(array) => values.extend(array.iter().flatten()),
        None => values.extend(array.as_primitive::<Float32Type>().iter().flatten().map(f64::from)),
    }
}

/// Of values in ascending order.
fn between(values: &[f64], share: f64, is_descending: bool) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let place = share * last as f64;
    let at = |place: f64| {
        let place = (place as usize).min(last);
        values[if is_descending { last - place } else { place }]
    };
    let (first, second) = (at(place.floor()), at(place.ceil()));
    Some(if place.fract() == 0.0 || first == second { first } else { first + (second - first) * place.fract() })
}

impl Accumulator for Percentile {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        append(&mut self.values, &values[0]);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.sort();
        let mut gone = Vec::with_capacity(values[0].len());
        append(&mut gone, &values[0]);
        for value in gone {
            match self.values.binary_search_by(|kept| kept.total_cmp(&value)) {
                Ok(place) => {
                    self.values.remove(place);
                }
                Err(_) => return exec_err!("{value} leaves a frame that it is not in"),
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let (share, is_descending) = (self.share, self.is_descending);
        let value = between(&self.counted(), share, is_descending);
        ScalarValue::Float64(value).cast_to(&self.data_type)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * size_of::<f64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        // In order, so that nothing that is made of it has to sort all of it again.
        let values = Float64Array::from(self.counted().into_owned());
        Ok(vec![SingleRowListArrayBuilder::new(cast(&values, &self.data_type)?).build_list_scalar()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        states[0].as_list::<i32>().iter().flatten().try_for_each(|values| self.update_batch(&[values]))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Float32Array;

    use super::*;

    #[test]
    fn what_leaves_a_frame_is_in_it_no_more() {
        for is_distinct in [false, true] {
            let mut percentile =
                Percentile { share: 0.5, is_descending: false, is_distinct, values: vec![], data_type: DataType::Float64 };
            let array = |values: &[f64]| -> [ArrayRef; 1] { [Arc::new(Float64Array::from(values.to_vec()))] };
            percentile.update_batch(&array(&[7.0, 3.0, 1.0, 3.0, 9.0])).unwrap();
            for (gone, expected) in [(9.0, 3.0), (3.0, 3.0), (7.0, 2.0)] {
                percentile.retract_batch(&array(&[gone])).unwrap();
                assert_eq!(percentile.evaluate().unwrap(), ScalarValue::Float64(Some(expected)), "{gone}");
            }
            assert!(percentile.retract_batch(&array(&[9.0])).is_err());
        }
    }

    #[test]
    fn floats_of_both_widths_are_taken_without_nulls() {
        let mut values = vec![3.5];
        let arrays: [ArrayRef; 3] = [
            Arc::new(Float64Array::from(vec![2.5, 1.5])),
            Arc::new(Float64Array::from(vec![None, Some(4.5)])),
            Arc::new(Float32Array::from(vec![Some(0.5), None])),
        ];
        arrays.iter().for_each(|array| append(&mut values, array));
        assert_eq!(values, [3.5, 2.5, 1.5, 4.5, 0.5]);
    }

    #[test]
    fn an_order_is_gone_through_from_its_beginning() {
        let values = [0.0, 1e9, f64::INFINITY];
        assert_eq!(between(&values, 0.25, false), Some(5e8));
        assert_eq!(between(&values, 0.0, true), Some(f64::INFINITY));
        assert_eq!(between(&values, 0.5, true), Some(1e9));
        assert_eq!(between(&values[..2], 0.123_456_789, true), Some(876_543_211.0));
        assert_eq!(between(&[], 0.5, false), None);
    }
}
