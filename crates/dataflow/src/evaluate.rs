//! Expressions over rows of which some may fail: those are found by halves.
use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, RecordBatch},
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
        Err(error) if rows <= 1 => of_failing(first, error),
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
