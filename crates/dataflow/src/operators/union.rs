//! All rows of all inputs, under the output's column names.
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use polybolos_state::Table;

use super::{EpochContext, Operator};
use crate::delta::{Delta, batch_of};

#[derive(Debug)]
pub struct Union {
    pub schema: SchemaRef,
}

impl Operator for Union {
    fn step(&self, _: &EpochContext<'_>, _: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let renamed = |delta: Delta| {
            let batch = batch_of(self.schema.clone(), delta.batch().columns().to_vec(), delta.rows())?;
            Ok(delta.with_batch(batch))
        };
        inputs.into_iter().flatten().filter(|delta| delta.rows() > 0).map(renamed).collect()
    }

    fn describe(&self) -> String {
        "Union".into()
    }
}
