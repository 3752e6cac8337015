//! The system schema `polybolos`: what the platform knows about itself, as tables. Each is made anew when it is scanned.
use std::{fmt, sync::Arc};

use datafusion::{
    arrow::{
        array::{
            ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
        },
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    },
    catalog::{Session, TableProvider},
    common::Result,
    datasource::memory::MemorySourceConfig,
    logical_expr::{Expr, TableType},
    physical_plan::ExecutionPlan,
};
use parking_lot::RwLock;
use polybolos_operators::{dead_letters, providers::KeyedTable};
use polybolos_tables::TableBackend;

use crate::replay;

/// One column of a system table.
pub enum Values {
    Text(Vec<Option<String>>),
    Int(Vec<Option<i32>>),
    Long(Vec<Option<i64>>),
    Double(Vec<Option<f64>>),
    Bool(Vec<Option<bool>>),
    /// Milliseconds since 1970.
    Time(Vec<Option<i64>>),
}

impl Values {
    fn array(self) -> ArrayRef {
        match self {
            Self::Text(values) => Arc::new(StringArray::from(values)),
            Self::Int(values) => Arc::new(Int32Array::from(values)),
            Self::Long(values) => Arc::new(Int64Array::from(values)),
            Self::Double(values) => Arc::new(Float64Array::from(values)),
            Self::Bool(values) => Arc::new(BooleanArray::from(values)),
            Self::Time(values) => Arc::new(TimestampMillisecondArray::from(values).with_timezone("UTC")),
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Text(_) => DataType::Utf8,
            Self::Int(_) => DataType::Int32,
            Self::Long(_) => DataType::Int64,
            Self::Double(_) => DataType::Float64,
            Self::Bool(_) => DataType::Boolean,
            Self::Time(_) => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        }
    }
}

/// Makes a batch of named columns of one length.
pub fn batch(columns: Vec<(&str, Values)>) -> Result<RecordBatch> {
    let fields: Vec<Field> = columns.iter().map(|(name, values)| Field::new(*name, values.data_type(), true)).collect();
    let arrays = columns.into_iter().map(|(_, values)| values.array()).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// Makes the rows of one system table.
pub type Source = Arc<dyn Fn() -> Result<RecordBatch> + Send + Sync>;

/// The system tables by name. Sources are added when the platform is wired.
#[derive(Default)]
pub struct SystemTables {
    sources: RwLock<std::collections::BTreeMap<String, Source>>,
    tables: RwLock<Option<Arc<dyn TableBackend>>>,
}

impl fmt::Debug for SystemTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemTables").field("names", &self.names()).finish()
    }
}

impl SystemTables {
    pub fn add(&self, name: &str, source: Source) {
        self.sources.write().insert(name.to_owned(), source);
    }

    /// Where the stored system tables (dead letters) are.
    pub fn store(&self, tables: Arc<dyn TableBackend>) {
        *self.tables.write() = Some(tables);
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.sources.read().keys().cloned().collect();
        names.extend(["dead_letters".into(), "late_rows".into(), "replayed_letters".into()]);
        names
    }

    pub fn provider(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        let stored = match name {
            "dead_letters" => Some(dead_letters::table()),
            "late_rows" => Some(dead_letters::late_rows()),
            "replayed_letters" => Some(replay::marks()),
            _ => None,
        };
        if let Some(table) = stored {
            return Some(Arc::new(KeyedTable::new(self.tables.read().clone()?, table, true)));
        }
        let source = self.sources.read().get(name)?.clone();
        let schema = source().ok()?.schema();
        Some(Arc::new(SystemTable { schema, source }))
    }
}

struct SystemTable {
    schema: SchemaRef,
    source: Source,
}

impl fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemTable").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl TableProvider for SystemTable {
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
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = (self.source)()?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], self.schema.clone(), projection.cloned())?)
    }
}
