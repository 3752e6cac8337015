//! Expressions over rows of which some may fail: those are found by halves.
use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, RecordBatch, new_empty_array},
    compute::{concat, prep_null_mask_filter},
};
use datafusion::{
    common::{DataFusionError, Result},
    physical_plan::PhysicalExpr,
};

/// The values of an expression. A row that it fails on by itself has the one that `of_failing` gives, which is told its number.
///
/// # Errors
/// Those of `of_failing`.
pub fn evaluate(
    expression: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    mut of_failing: impl FnMut(usize, DataFusionError) -> Result<ArrayRef>,
) -> Result<ArrayRef> {
    by_halves(expression, batch, 0, &mut of_failing)
}

/// The same of some of the rows, from this number on.
fn by_halves(
    expression: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    first: usize,
    of_failing: &mut dyn FnMut(usize, DataFusionError) -> Result<ArrayRef>,
) -> Result<ArrayRef> {
    let rows = batch.num_rows();
    match expression.evaluate(batch).and_then(|values| values.into_array(rows)) {
        Ok(values) => Ok(values),
        // What fails whatever the rows are, fails on none of none.
        Err(_) if rows == 0 => Ok(new_empty_array(&expression.data_type(&batch.schema())?)),
        Err(error) if rows == 1 => of_failing(first, error),
        Err(_) => {
            let half = rows / 2;
            let one = by_halves(expression, &batch.slice(0, half), first, of_failing)?;
            let other = by_halves(expression, &batch.slice(half, rows - half), first + half, of_failing)?;
            Ok(concat(&[one.as_ref(), other.as_ref()])?)
        }
    }
}

/// A condition of rows, which those do not fulfil of which it is NULL.
pub fn without_nulls(mask: &BooleanArray) -> BooleanArray {
    if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, Int64Array, new_null_array},
        datatypes::{DataType, Field, Int64Type, Schema},
    };
    use datafusion::{
        logical_expr::Operator::Divide,
        physical_expr::expressions::{binary, col, lit},
    };

    use super::*;

    #[test]
    fn rows_that_fail_are_told_by_their_numbers_and_there_are_none_of_no_rows() {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
        let batch = |values: Vec<i64>| {
            RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::new(Int64Array::from(values)) as ArrayRef]).unwrap()
        };
        let share = binary(lit(6_i64), Divide, col("a", &schema).unwrap(), &schema).unwrap();
        let mut failed = vec![];
        let found = evaluate(&share, &batch(vec![1, 0, 3, 0, 2]), |row, _| {
            failed.push(row);
            Ok(new_null_array(&DataType::Int64, 1))
        });
        let found = found.unwrap();
        assert_eq!(found.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(6), None, Some(2), None, Some(3)]);
        assert_eq!(failed, [1, 3]);

        let always = binary(lit(6_i64), Divide, lit(0_i64), &schema).unwrap();
        assert!(evaluate(&always, &batch(vec![1]), |_, error| Err(error)).is_err());
        assert!(evaluate(&always, &batch(vec![]), |_, error| Err(error)).unwrap().is_empty());
    }
}
