//! A batch of changes: rows, and how often each is added (positive) or taken away (negative).
use arrow::{
    array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array},
    compute::{concat, concat_batches, filter, filter_record_batch, take},
    datatypes::SchemaRef,
};
use datafusion::common::{Result, cast::as_int64_array, internal_datafusion_err};

/// A batch of so many rows, which may have no columns: `SELECT count(*)` reads none.
///
/// # Errors
/// When the columns are not the schema's, or not so long.
pub fn batch_of(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// These rows of a batch.
pub(crate) fn take_rows(batch: &RecordBatch, rows: &UInt32Array) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| Ok(take(column, rows, None)?)).collect::<Result<_>>()?;
    batch_of(batch.schema(), columns, rows.len())
}

#[derive(Clone, Debug)]
pub struct Delta {
    batch: RecordBatch,
    /// `None`: every row is added once.
    weights: Option<Int64Array>,
}

impl Delta {
    /// Every row added once.
    pub fn added(batch: RecordBatch) -> Self {
        Self { batch, weights: None }
    }

    /// # Panics
    /// When there is not one weight per row.
    pub fn weighted(batch: RecordBatch, weights: Int64Array) -> Self {
        assert_eq!(batch.num_rows(), weights.len(), "one weight per row");
        Self { batch, weights: Some(weights) }
    }

    pub fn with_weights(batch: RecordBatch, weights: Option<Int64Array>) -> Self {
        match weights {
            Some(weights) => Self::weighted(batch, weights),
            None => Self::added(batch),
        }
    }

    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    pub fn weights(&self) -> Option<&Int64Array> {
        self.weights.as_ref()
    }

    pub fn weight(&self, row: usize) -> i64 {
        self.weights.as_ref().map_or(1, |weights| weights.value(row))
    }

    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Of its own rows: a slice shares buffers with others, which have as many bytes as all of them.
    pub(crate) fn bytes(&self) -> Result<usize> {
        self.batch.columns().iter().map(|column| Ok(column.to_data().get_slice_memory_size()?)).sum()
    }

    /// Whether every row is added.
    pub fn only_adds(&self) -> bool {
        self.weights.as_ref().is_none_or(|weights| weights.values().iter().all(|weight| *weight > 0))
    }

    pub fn filter(&self, mask: &BooleanArray) -> Result<Self> {
        let weights = match &self.weights {
            Some(weights) => Some(as_int64_array(&filter(weights, mask)?)?.clone()),
            None => None,
        };
        Ok(Self { batch: filter_record_batch(&self.batch, mask)?, weights })
    }

    pub(crate) fn slice(&self, start: usize, rows: usize) -> Self {
        Self { batch: self.batch.slice(start, rows), weights: self.weights.as_ref().map(|weights| weights.slice(start, rows)) }
    }

    pub fn take(&self, rows: &UInt32Array) -> Result<Self> {
        let weights = match &self.weights {
            Some(weights) => Some(as_int64_array(&take(weights, rows, None)?)?.clone()),
            None => None,
        };
        Ok(Self { batch: take_rows(&self.batch, rows)?, weights })
    }

    /// Rows that are only added, each as often as its weight says, for what knows no weights.
    pub(crate) fn repeated(self) -> Result<Self> {
        let Some(weights) = self.weights.as_ref().filter(|weights| weights.values().iter().any(|weight| *weight != 1)) else {
            return Ok(Self { batch: self.batch, weights: None });
        };
        let mut rows = vec![];
        for (row, weight) in weights.values().iter().enumerate() {
            let times =
                usize::try_from(*weight).map_err(|_| internal_datafusion_err!("a row was taken away where rows are only added"))?;
            rows.extend(std::iter::repeat_n(row as u32, times));
        }
        Ok(Self { batch: take_rows(&self.batch, &UInt32Array::from(rows))?, weights: None })
    }

    /// The same rows in other columns.
    pub fn with_batch(&self, batch: RecordBatch) -> Self {
        Self::with_weights(batch, self.weights.clone())
    }

    /// All as one.
    pub fn concat(schema: &SchemaRef, deltas: &[Self]) -> Result<Self> {
        if let [only] = deltas {
            return Ok(only.clone());
        }
        let batch = concat_batches(schema, deltas.iter().map(Self::batch))?;
        if deltas.iter().all(|delta| delta.weights.is_none()) {
            return Ok(Self::added(batch));
        }
        let weights: Vec<Int64Array> =
            deltas.iter().map(|delta| delta.weights.clone().unwrap_or_else(|| Int64Array::from_value(1, delta.rows()))).collect();
        let weights = concat(&weights.iter().map(|array| array as &dyn Array).collect::<Vec<_>>())?;
        Ok(Self { batch, weights: Some(as_int64_array(&weights)?.clone()) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn a_slice_has_the_bytes_of_its_own_rows() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["0123456789"; 1_000]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7; 1_000]));
        let whole = Delta::added(RecordBatch::try_from_iter([("s", texts), ("n", numbers)]).unwrap());
        // The texts, one offset more than there are, and the numbers.
        assert_eq!(whole.bytes().unwrap(), 10_000 + 4 * 1_001 + 8_000);
        assert_eq!(whole.slice(500, 2).bytes().unwrap(), 20 + 4 * 3 + 16);
    }
}
