//! Rows that are in the answer from the first epoch on, whatever comes: `SELECT 1`, or a branch of which the planner knows that it is empty.
use arrow::array::RecordBatch;
use datafusion::common::Result;
use polybolos_state::{Table, TableKind};

use super::{EpochContext, Operator, happens_now, values};
use crate::delta::Delta;

#[derive(Debug)]
pub struct Constant {
    pub rows: RecordBatch,
}

impl Operator for Constant {
    fn tables(&self) -> Vec<TableKind> {
        vec![TableKind::Values]
    }

    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], _: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let comes = self.rows.num_rows() > 0 && happens_now(context, values(&mut tables[0]));
        Ok(if comes { vec![Delta::added(self.rows.clone())] } else { vec![] })
    }

    fn describe(&self) -> String {
        format!("Constant: {} rows", self.rows.num_rows())
    }
}
