//! A keyed table that a job looks rows up in (`FOR SYSTEM_TIME AS OF`): the leaf that stands for it in plans. It is never run: an epoch asks the table for
//! the keys of its rows ([`crate::epoch::lookup`]).
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
    },
};
use polybolos_tables::{Column, LookupOptions, TableName, TableSchema};
use serde::{Deserialize, Serialize};

/// A table as jobs look it up.
#[derive(Debug)]
pub struct LookupTable {
    table: TableSchema,
    options: LookupOptions,
}

impl LookupTable {
    pub fn new(table: TableSchema, options: LookupOptions) -> Self {
        Self { table, options }
    }
}

#[async_trait]
impl TableProvider for LookupTable {
    fn schema(&self) -> SchemaRef {
        self.table.arrow()
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
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = match projection {
            Some(kept) => kept.clone(),
            None => (0..self.table.columns.len()).collect(),
        };
        Ok(Arc::new(LookupScanExec::new(self.table.clone(), columns, self.options.clone())?))
    }
}

#[derive(Clone, Debug)]
pub struct LookupScanExec {
    table: TableSchema,
    /// Those of the table's columns that it gives.
    columns: Vec<usize>,
    options: LookupOptions,
    properties: Arc<PlanProperties>,
}

/// How a table's leaf travels, beside its columns' types.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LookupSpec {
    table: TableName,
    partition_key: Vec<String>,
    clustering_key: Vec<String>,
    columns: Vec<usize>,
    options: LookupOptions,
}

impl LookupScanExec {
    pub(crate) fn spec(&self) -> LookupSpec {
        LookupSpec {
            table: self.table.name.clone(),
            partition_key: self.table.partition_key.clone(),
            clustering_key: self.table.clustering_key.clone(),
            columns: self.columns.clone(),
            options: self.options.clone(),
        }
    }

    pub(crate) fn of_spec(spec: LookupSpec, schema: &Schema) -> Result<Self> {
        let columns = schema.fields().iter().map(|field| Column::new(field.name(), field.data_type().clone())).collect();
        let LookupSpec { table: name, partition_key, clustering_key, columns: kept, options } = spec;
        Self::new(TableSchema { name, columns, partition_key, clustering_key }, kept, options)
    }

    pub fn new(table: TableSchema, columns: Vec<usize>, options: LookupOptions) -> Result<Self> {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::new(table.arrow().project(&columns)?)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { table, columns, options, properties: Arc::new(properties) })
    }

    pub fn table(&self) -> &TableSchema {
        &self.table
    }

    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    pub fn options(&self) -> &LookupOptions {
        &self.options
    }
}

impl DisplayAs for LookupScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "LookupScanExec: table={}", self.table.name)
    }
}

impl ExecutionPlan for LookupScanExec {
    fn name(&self) -> &'static str {
        "LookupScanExec"
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

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        not_impl_err!("table {} is looked up by key, and not read", self.table.name)
    }
}
