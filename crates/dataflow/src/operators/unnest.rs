//! Rows of list and struct columns. DataFusion's own node does it; the weights ride along as one more column.
use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::{
    common::{Result, UnnestOptions, cast::as_int64_array, internal_datafusion_err},
    datasource::memory::MemorySourceConfig,
    execution::TaskContext,
    physical_plan::{
        ExecutionPlan,
        unnest::{ListUnnest, UnnestExec},
    },
};
use futures::TryStreamExt;
use polybolos_state::Table;
// Within a task of Tokio, a source that yields to others would wait for the runtime that waits for us.
use tokio::task::unconstrained;

use super::{EpochContext, Operator};
use crate::{delta::Delta, event_time::TimeColumns};

#[derive(Debug)]
pub struct Unnest {
    lists: Vec<ListUnnest>,
    structs: Vec<usize>,
    options: UnnestOptions,
    schema: SchemaRef,
}

const WEIGHT: &str = "__polybolos_weight";

fn with_weight(schema: &SchemaRef) -> SchemaRef {
    let weight = Arc::new(Field::new(WEIGHT, DataType::Int64, false));
    Arc::new(Schema::new(schema.fields().iter().cloned().chain([weight]).collect::<Vec<_>>()))
}

impl Unnest {
    pub fn of(node: &UnnestExec) -> Self {
        Self {
            lists: node.list_column_indices().to_vec(),
            structs: node.struct_column_indices().to_vec(),
            options: node.options().clone(),
            schema: node.schema(),
        }
    }

    /// What its rows tell of time. A list gives its rows in its own place; a struct gives several columns.
    pub fn times(&self, input: TimeColumns) -> TimeColumns {
        let columns = self.schema.fields().len();
        if input.len() == columns { input } else { vec![None; columns] }
    }

    /// Of rows that are only added.
    ///
    /// # Errors
    /// When they have other columns than its input.
    pub fn rows(&self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        if batch.num_rows() == 0 {
            return Ok(vec![]);
        }
        Ok(self.apply(&Delta::added(batch))?.into_iter().map(|delta| delta.batch().clone()).collect())
    }

    fn apply(&self, delta: &Delta) -> Result<Vec<Delta>> {
        let weights = delta.weights().cloned().unwrap_or_else(|| Int64Array::from_value(1, delta.rows()));
        let columns = delta.batch().columns().iter().cloned().chain([Arc::new(weights) as ArrayRef]).collect();
        let schema = with_weight(&delta.batch().schema());
        let batch = RecordBatch::try_new(schema.clone(), columns)?;
        let source = MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None)?;
        let node =
            UnnestExec::new(source, self.lists.clone(), self.structs.clone(), with_weight(&self.schema), self.options.clone())?;
        let rows = node.execute(0, Arc::new(TaskContext::default()))?;
        let batches: Vec<RecordBatch> = futures::executor::block_on(unconstrained(rows.try_collect()))?;
        let split = |mut batch: RecordBatch| {
            let last = batch.num_columns().checked_sub(1).ok_or_else(|| internal_datafusion_err!("unnesting lost the weights"))?;
            let weights = as_int64_array(&batch.remove_column(last))?.clone();
            let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?;
            Ok(Delta::with_weights(batch, delta.weights().map(|_| weights)))
        };
        batches.into_iter().filter(|batch| batch.num_rows() > 0).map(split).collect()
    }
}

impl Operator for Unnest {
    fn step(&self, _: &EpochContext<'_>, _: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let deltas = inputs.iter().flatten().filter(|delta| delta.rows() > 0);
        Ok(deltas.map(|delta| self.apply(delta)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn describe(&self) -> String {
        "Unnest".into()
    }
}
