//! Streams as a plan sees them: tables without rows, whose scans the dataflow takes for sources.
use std::{any::Any, fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    common::{Result as DataFusionResult, not_impl_err, tree_node::TreeNodeRecursion},
    execution::TaskContext,
    logical_expr::TableType,
    physical_expr::EquivalenceProperties,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties, SendableRecordBatchStream,
        execution_plan::{Boundedness, EmissionType},
    },
    prelude::Expr,
};

/// A table of the job: only its columns are known while planning.
#[derive(Debug)]
pub struct Stream {
    pub number: usize,
    pub schema: SchemaRef,
}

#[async_trait]
impl TableProvider for Stream {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&columns)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(StreamScan { number: self.number, columns, properties: Arc::new(properties) }))
    }
}

/// The leaf that the dataflow takes for a source.
#[derive(Debug)]
pub struct StreamScan {
    pub number: usize,
    pub columns: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for StreamScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StreamScan: table {}, columns {:?}", self.number, self.columns)
    }
}

impl ExecutionPlan for StreamScan {
    fn name(&self) -> &str {
        "StreamScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        not_impl_err!("a stream is read by epochs")
    }
}

/// The scan that a leaf of a plan is.
pub fn scan_of(plan: &Arc<dyn ExecutionPlan>) -> Option<&StreamScan> {
    (plan.as_ref() as &dyn Any).downcast_ref()
}
