//! Window functions (OVER): the partitions that an epoch touches are computed again, before and after, and the difference is the change. What is computed is
//! DataFusion's own window expressions, over a partition's rows in order.
use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    compute::concat_batches,
    datatypes::SchemaRef,
};
use datafusion::{common::Result, physical_expr::window::WindowExpr};
use hashbrown::HashMap;
use polybolos_state::{Table, TableKind};

use super::{EpochContext, Operator, buckets, sorted::SortedRows};
use crate::{delta::Delta, keys::RowFormat};

#[derive(Debug)]
pub struct Window {
    pub rows: SortedRows,
    pub expressions: Vec<Arc<dyn WindowExpr>>,
    /// The kept columns, then one per expression.
    pub output: SchemaRef,
}

impl Window {
    fn compute(&self, rows: &[Box<[u8]>]) -> Result<RecordBatch> {
        let batch = self.rows.batch(rows)?;
        let results = self.expressions.iter().map(|expression| expression.evaluate(&batch));
        let columns: Vec<ArrayRef> = batch.columns().iter().cloned().map(Ok).chain(results).collect::<Result<_>>()?;
        Ok(RecordBatch::try_new(self.output.clone(), columns)?)
    }

    /// The rows of `after` that `before` has not, and the other way round.
    fn difference(&self, before: &RecordBatch, after: &RecordBatch) -> Result<Option<Delta>> {
        let format = RowFormat::of(self.output.fields())?;
        let (old, new) = (format.encode(before.columns())?, format.encode(after.columns())?);
        let mut weights: HashMap<&[u8], i64> = HashMap::new();
        (0..before.num_rows()).for_each(|row| *weights.entry(old.row(row)).or_default() -= 1);
        (0..after.num_rows()).for_each(|row| *weights.entry(new.row(row)).or_default() += 1);
        weights.retain(|_, weight| *weight != 0);
        if weights.is_empty() {
            return Ok(None);
        }
        let (rows, weights): (Vec<&[u8]>, Vec<i64>) = weights.into_iter().unzip();
        let batch = RecordBatch::try_new(self.output.clone(), format.decode(rows)?)?;
        Ok(Some(Delta::weighted(batch, Int64Array::from(weights))))
    }
}

impl Operator for Window {
    fn tables(&self) -> Vec<TableKind> {
        vec![TableKind::Buckets]
    }

    fn step(&self, _: &EpochContext, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let deltas: Vec<Delta> = inputs.into_iter().flatten().filter(|delta| delta.rows() > 0).collect();
        if deltas.is_empty() {
            return Ok(vec![]);
        }
        let table = buckets(&mut tables[0]);
        let (mut before, mut after) = (vec![], vec![]);
        for (key, changes) in self.rows.by_partition(&deltas)? {
            let old = SortedRows::rows_of(table, &key, usize::MAX);
            for (row, weight) in changes {
                table.add(&key, &row, weight, None);
            }
            let new = SortedRows::rows_of(table, &key, usize::MAX);
            for (rows, computed) in [(old, &mut before), (new, &mut after)] {
                if !rows.is_empty() {
                    computed.push(self.compute(&rows)?);
                }
            }
        }
        let (before, after) = (concat_batches(&self.output, &before)?, concat_batches(&self.output, &after)?);
        Ok(self.difference(&before, &after)?.into_iter().collect())
    }

    fn describe(&self) -> String {
        let names: Vec<_> = self.expressions.iter().map(|expression| expression.name()).collect();
        format!("Window: [{}], {}", names.join(", "), self.rows.describe())
    }

    fn grows(&self) -> bool {
        true
    }

    fn state(&self) -> Option<String> {
        Some("all rows of each partition, never dropped".into())
    }
}
