//! Appends the columns that an aggregate groups by to its input: once per row, or once per row and grouping set.
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::Result,
    physical_plan::aggregates::{PhysicalGroupBy, evaluate_group_by},
};
use polybolos_state::Table;

use super::{EpochContext, Operator};
use crate::delta::{Delta, batch_of};

#[derive(Debug)]
pub struct Expand {
    pub group_by: PhysicalGroupBy,
    /// The input's columns, then those grouped by.
    pub schema: SchemaRef,
}

impl Operator for Expand {
    fn step(&self, _: &EpochContext<'_>, _: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let mut output = vec![];
        for delta in inputs.iter().flatten().filter(|delta| delta.rows() > 0) {
            for keys in evaluate_group_by(&self.group_by, delta.batch())? {
                let columns = delta.batch().columns().iter().cloned().chain(keys).collect();
                output.push(delta.with_batch(batch_of(Arc::clone(&self.schema), columns, delta.rows())?));
            }
        }
        Ok(output)
    }

    fn describe(&self) -> String {
        let keys = self.group_by.expr().iter().map(|(expression, _)| expression.to_string()).collect::<Vec<_>>().join(", ");
        match self.group_by.groups().len() {
            0 | 1 => format!("Keys: {keys}"),
            sets => format!("Keys: {keys}, in {sets} grouping sets"),
        }
    }
}
