//! A table over files, as DataFusion sees it. A query reads the files that there are when it is planned. A job reads them once, in its first epoch
//! ([`crate::epoch`]), as an executor does it beside the plan; so there the scan is never run, and its leaf travels inside the epoch's node.
use std::{fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::{Schema, SchemaRef},
    catalog::{Session, TableProvider},
    common::{Result, not_impl_err, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableType},
    physical_expr::EquivalenceProperties,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use polybolos_persist::Places;

use crate::files::FileTable;

#[derive(Debug)]
pub struct FilesProvider {
    table: FileTable,
    schema: SchemaRef,
    /// For a query; a job's executors have their own.
    places: Option<Arc<Places>>,
}

impl FilesProvider {
    pub fn of_query(table: FileTable, schema: SchemaRef, places: Arc<Places>) -> Self {
        Self { table, schema, places: Some(places) }
    }

    pub fn of_job(table: FileTable, schema: SchemaRef) -> Self {
        Self { table, schema, places: None }
    }
}

#[async_trait]
impl TableProvider for FilesProvider {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(kept) => Arc::new(self.schema.project(kept)?),
            None => self.schema.clone(),
        };
        let Some(places) = &self.places else { return Ok(Arc::new(FileScanExec::of_job(self.table.clone(), schema))) };
        let files = self.table.files(places).await?;
        let partitions = state.config().target_partitions().clamp(1, files.len().max(1));
        let mut shares = vec![vec![]; partitions];
        for (index, file) in files.into_iter().enumerate() {
            shares[index % partitions].push(file);
        }
        Ok(Arc::new(FileScanExec::new(self.table.clone(), schema, Some((places.clone(), shares)))))
    }
}

#[derive(Clone, Debug)]
pub struct FileScanExec {
    table: FileTable,
    /// Of a query: where files are, and which each partition reads.
    files: Option<(Arc<Places>, Vec<Vec<String>>)>,
    properties: Arc<PlanProperties>,
}

impl FileScanExec {
    pub fn of_job(table: FileTable, schema: SchemaRef) -> Self {
        Self::new(table, schema, None)
    }

    fn new(table: FileTable, schema: SchemaRef, files: Option<(Arc<Places>, Vec<Vec<String>>)>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(files.as_ref().map_or(1, |(_, shares)| shares.len())),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { table, files, properties: Arc::new(properties) }
    }

    pub fn table(&self) -> &FileTable {
        &self.table
    }
}

impl DisplayAs for FileScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "FileScanExec: table={}, place={}", self.table.name, self.table.place)?;
        match &self.files {
            Some((_, shares)) => write!(f, ", files={}", shares.iter().map(Vec::len).sum::<usize>()),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for FileScanExec {
    fn name(&self) -> &'static str {
        "FileScanExec"
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
        let Some((places, shares)) = self.files.clone() else {
            return not_impl_err!("files of table {} are read in a job's first epoch, and not by a plan", self.table.name);
        };
        let (table, schema) = (Arc::new(self.table.clone()), self.schema());
        let columns: Arc<Schema> = schema.clone();
        let files = stream::iter(shares.into_iter().nth(partition).unwrap_or_default());
        let rows = files.then(move |file| {
            let (table, places, columns) = (table.clone(), places.clone(), columns.clone());
            async move { table.rows(&places, &file, &columns).await }
        });
        let rows = rows.map_ok(|batches| stream::iter(batches.into_iter().map(Ok))).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
