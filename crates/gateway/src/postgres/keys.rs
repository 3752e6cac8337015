//! The primary keys of the engine's tables, as rows of `pg_constraint` and `pg_index`; of the engine's tables there are no other constraints and
//! indexes. PostgreSQL has an index for each key; here nothing else lists that.
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray},
        datatypes::{Field, Int16Type, Int32Type, SchemaRef},
        record_batch::RecordBatch,
    },
    catalog::{SchemaProvider, streaming::StreamingTable},
    common::ScalarValue,
    datasource::TableProvider,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
    prelude::SessionContext,
};

use crate::engine::Engine;

/// Added to a table's number, which the emulation counts up from 16 384: the number of its key and of the key's index.
const BEYOND_TABLES: i32 = 1 << 30;

/// All columns of all tables, with the numbers that the emulation gives them.
const COLUMNS: &str = "SELECT c.oid, c.relnamespace, n.nspname, c.relname, a.attname, a.attnum
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_attribute AS a ON a.attrelid = c.oid";

#[derive(Clone)]
pub struct Keys {
    emulated: Arc<dyn SchemaProvider>,
    engine: Arc<dyn Engine>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// What a table of keys has of one of them in a column; `None`: what nobody asks for.
type Value = fn(&Key, &str) -> Option<ScalarValue>;

impl Keys {
    pub fn new(emulated: Arc<dyn SchemaProvider>, engine: Arc<dyn Engine>) -> Self {
        Self { emulated, engine }
    }

    /// `pg_constraint`, with the columns of the emulated one.
    pub fn constraints(&self, emulated: &dyn TableProvider) -> Result<Arc<dyn TableProvider>> {
        self.table(emulated.schema(), constraint)
    }

    /// `pg_index`, with the columns of the emulated one.
    pub fn indexes(&self, emulated: &dyn TableProvider) -> Result<Arc<dyn TableProvider>> {
        self.table(emulated.schema(), index)
    }

    fn table(&self, schema: SchemaRef, value: Value) -> Result<Arc<dyn TableProvider>> {
        let listed = Listed { keys: self.clone(), schema: schema.clone(), value };
        Ok(Arc::new(StreamingTable::try_new(schema, vec![Arc::new(listed)])?))
    }

    async fn all(&self) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        for (number, table) in self.tables().await? {
            let columns = self.engine.primary_key(&table.schema, &table.name);
            let columns: Option<Vec<i16>> = columns.iter().map(|column| table.columns.get(column).copied()).collect();
            if let Some(columns) = columns.filter(|columns| !columns.is_empty()) {
                keys.push(Key { name: format!("{}_pkey", table.name), schema: table.schema_number, table: number, columns });
            }
        }
        Ok(keys)
    }

    /// By their numbers.
    async fn tables(&self) -> Result<BTreeMap<i32, Table>> {
        let session = SessionContext::new();
        for name in ["pg_class", "pg_namespace", "pg_attribute"] {
            if let Some(table) = self.emulated.table(name).await? {
                session.register_table(name, table)?;
            }
        }
        let mut tables = BTreeMap::new();
        for batch in session.sql(COLUMNS).await?.collect().await? {
            let (numbers, schema_numbers) =
                (batch.column(0).as_primitive::<Int32Type>(), batch.column(1).as_primitive::<Int32Type>());
            let (schemas, names) = (batch.column(2).as_string::<i32>(), batch.column(3).as_string::<i32>());
            let (columns, places) = (batch.column(4).as_string::<i32>(), batch.column(5).as_primitive::<Int16Type>());
            for row in 0..batch.num_rows() {
                let table = tables.entry(numbers.value(row)).or_insert_with(|| Table {
                    schema_number: schema_numbers.value(row),
                    schema: schemas.value(row).to_owned(),
                    name: names.value(row).to_owned(),
                    columns: HashMap::new(),
                });
                table.columns.insert(columns.value(row).to_owned(), places.value(row));
            }
        }
        Ok(tables)
    }
}

struct Table {
    schema_number: i32,
    schema: String,
    name: String,
    /// The place of each column, from 1.
    columns: HashMap<String, i16>,
}

struct Key {
    name: String,
    schema: i32,
    table: i32,
    /// Their places in the table, in the order of the key.
    columns: Vec<i16>,
}

impl Key {
    fn number(&self) -> i32 {
        BEYOND_TABLES + self.table
    }

    fn places(&self, between: &str) -> String {
        self.columns.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
    }

    /// One for each column.
    fn zeros(&self) -> String {
        vec!["0"; self.columns.len()].join(" ")
    }
}

fn constraint(key: &Key, column: &str) -> Option<ScalarValue> {
    Some(match column {
        "oid" | "conindid" => ScalarValue::from(key.number()),
        "conname" => ScalarValue::from(key.name.as_str()),
        "connamespace" => ScalarValue::from(key.schema),
        "contype" => ScalarValue::from("p"),
        "convalidated" | "conislocal" | "connoinherit" => ScalarValue::from(true),
        "conrelid" => ScalarValue::from(key.table),
        // Those are of foreign keys.
        "confupdtype" | "confdeltype" | "confmatchtype" => ScalarValue::from(" "),
        "conkey" => ScalarValue::from(format!("{{{}}}", key.places(","))),
        _ => return None,
    })
}

fn index(key: &Key, column: &str) -> Option<ScalarValue> {
    Some(match column {
        "indexrelid" => ScalarValue::from(key.number()),
        "indrelid" => ScalarValue::from(key.table),
        "indnatts" | "indnkeyatts" => ScalarValue::from(key.columns.len() as i16),
        "indisunique" | "indisprimary" | "indimmediate" | "indisvalid" | "indisready" | "indislive" => ScalarValue::from(true),
        "indkey" => ScalarValue::from(key.places(" ")),
        "indcollation" | "indclass" | "indoption" => ScalarValue::from(key.zeros()),
        _ => return None,
    })
}

/// The keys that there are when it is read.
#[derive(Debug)]
struct Listed {
    keys: Keys,
    schema: SchemaRef,
    value: Value,
}

impl PartitionStream for Listed {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (keys, schema, value) = (self.keys.clone(), self.schema.clone(), self.value);
        let rows = async move { rows(&keys.all().await?, schema, value) };
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::once(rows)))
    }
}

fn rows(keys: &[Key], schema: SchemaRef, value: Value) -> Result<RecordBatch> {
    if keys.is_empty() {
        return Ok(RecordBatch::new_empty(schema));
    }
    let columns: Result<Vec<ArrayRef>> = schema.fields().iter().map(|field| column(keys, field, value)).collect();
    Ok(RecordBatch::try_new(schema.clone(), columns?)?)
}

fn column(keys: &[Key], field: &Field, value: Value) -> Result<ArrayRef> {
    let mut values = Vec::with_capacity(keys.len());
    for key in keys {
        values.push(match value(key, field.name()) {
            Some(value) => value.cast_to(field.data_type())?,
            None if field.is_nullable() => ScalarValue::try_from(field.data_type())?,
            None => ScalarValue::new_default(field.data_type())?,
        });
    }
    ScalarValue::iter_to_array(values)
}
