//! Reads a keyed table, one partition per slice. It runs where the query was planned: the codec refuses it, so it can never be a leaf of
//! a distributed stage, where every task would read every slice.
use std::{fmt, sync::Arc};

use datafusion::{
    arrow::datatypes::SchemaRef,
    common::{Result, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::EquivalenceProperties,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::TryStreamExt;
use polybolos_tables::{ScanRequest, ScanSlice, TableBackend};

use crate::external;

#[derive(Debug, Clone)]
pub struct TableScanExec {
    backend: Arc<dyn TableBackend>,
    request: ScanRequest,
    slices: Vec<ScanSlice>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl TableScanExec {
    pub fn new(backend: Arc<dyn TableBackend>, request: ScanRequest, slices: Vec<ScanSlice>) -> Result<Self> {
        let table = request.table.arrow();
        let kept = request.columns.iter().map(|column| table.index_of(column)).collect::<Result<Vec<_>, _>>()?;
        let schema = Arc::new(table.project(&kept)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(slices.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { backend, request, slices, schema, properties: Arc::new(properties) })
    }
}

impl DisplayAs for TableScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let predicates: Vec<_> = self.request.predicates.iter().map(|p| format!("{} {:?}", p.column, p.op)).collect();
        write!(
            f,
            "TableScanExec: table={}, columns=[{}], predicates=[{}], limit={:?}, slices={}",
            self.request.table.name,
            self.request.columns.join(", "),
            predicates.join(", "),
            self.request.limit,
            self.slices.len()
        )
    }
}

impl ExecutionPlan for TableScanExec {
    fn name(&self) -> &'static str {
        "TableScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    #[allow(deprecated)]
    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.backend.scan(&self.request, &self.slices[partition]);
        let rows = rows.map_err(external);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows)))
    }
}
