//! Filters and projections: each row by itself, so weights pass through.
use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};
use datafusion::{
    common::{Result, cast::as_boolean_array},
    physical_plan::PhysicalExpr,
};
use polybolos_state::Table;

use super::{EpochContext, Operator};
use crate::delta::Delta;

#[derive(Debug)]
pub enum Map {
    Filter(Arc<dyn PhysicalExpr>),
    Project { expressions: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef },
}

impl Map {
    fn apply(&self, delta: &Delta) -> Result<Delta> {
        match self {
            Self::Filter(predicate) => {
                let mask = predicate.evaluate(delta.batch())?.into_array(delta.rows())?;
                delta.filter(as_boolean_array(&mask)?)
            }
            Self::Project { expressions, schema } => {
                let columns = expressions.iter().map(|expression| expression.evaluate(delta.batch())?.into_array(delta.rows()));
                let options = RecordBatchOptions::new().with_row_count(Some(delta.rows()));
                let batch = RecordBatch::try_new_with_options(schema.clone(), columns.collect::<Result<_>>()?, &options)?;
                Ok(delta.with_batch(batch))
            }
        }
    }
}

impl Operator for Map {
    fn step(&self, _: &EpochContext, _: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let mut output = vec![];
        for delta in inputs.iter().flatten().filter(|delta| delta.rows() > 0) {
            let mapped = self.apply(delta)?;
            if mapped.rows() > 0 {
                output.push(mapped);
            }
        }
        Ok(output)
    }

    fn describe(&self) -> String {
        match self {
            Self::Filter(predicate) => format!("Filter: {predicate}"),
            Self::Project { expressions, schema } => {
                let named =
                    expressions.iter().zip(schema.fields()).map(|(expression, field)| format!("{expression} as {}", field.name()));
                format!("Project: {}", named.collect::<Vec<_>>().join(", "))
            }
        }
    }
}
