//! Keeps, of several changes to one key, the last (EPOCHS rule 10): part *i* holds one change per key, in offset order.
use std::collections::HashMap;

use datafusion::{
    arrow::{
        array::{RecordBatch, UInt32Array},
        compute::{concat_batches, take_record_batch},
        row::{RowConverter, SortField},
    },
    common::Result,
};

/// One batch of all rows, without those whose key comes again later. Row order is kept.
pub fn last_per_key(batches: &[RecordBatch], key: &[usize]) -> Result<Option<RecordBatch>> {
    let Some(first) = batches.first() else { return Ok(None) };
    let all = concat_batches(&first.schema(), batches)?;
    if all.num_rows() == 0 {
        return Ok(None);
    }
    let columns: Vec<_> = key.iter().map(|&index| all.column(index).clone()).collect();
    let converter = RowConverter::new(columns.iter().map(|column| SortField::new(column.data_type().clone())).collect())?;
    let rows = converter.convert_columns(&columns)?;
    let mut last: HashMap<&[u8], u32> = HashMap::with_capacity(all.num_rows());
    for (index, row) in rows.iter().enumerate() {
        last.insert(row.data(), index as u32);
    }
    if last.len() == all.num_rows() {
        return Ok(Some(all));
    }
    let mut keep: Vec<u32> = last.into_values().collect();
    keep.sort_unstable();
    Ok(Some(take_record_batch(&all, &UInt32Array::from(keep))?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::{
        array::{Int32Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;

    fn batch(keys: &[&str], values: &[i32]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("k", DataType::Utf8, false), Field::new("v", DataType::Int32, true)]);
        let columns: Vec<datafusion::arrow::array::ArrayRef> =
            vec![Arc::new(StringArray::from(keys.to_vec())), Arc::new(Int32Array::from(values.to_vec()))];
        RecordBatch::try_new(Arc::new(schema), columns).expect("test batch")
    }

    #[test]
    fn keeps_the_last_change_of_each_key_across_batches() {
        let kept = last_per_key(&[batch(&["a", "b"], &[1, 2]), batch(&["a", "c"], &[3, 4])], &[0]).expect("works").expect("rows");
        assert_eq!(kept, batch(&["b", "a", "c"], &[2, 3, 4]));
    }

    #[test]
    fn nothing_stays_nothing() {
        assert!(last_per_key(&[], &[0]).expect("works").is_none());
        assert!(last_per_key(&[batch(&[], &[])], &[0]).expect("works").is_none());
    }
}
