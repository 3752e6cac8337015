//! The embedded tables: against a model, with every type, at their bounds, damaged, and as time passes. Here is what all of that begins with.
mod bounds;
mod damage;
mod every_type;
mod expiry;
mod model;
mod refusals;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, StringArray},
    datatypes::{DataType, Int64Type},
};
use futures::TryStreamExt;
use polybolos_tables::{Column, Grant};

use super::*;

struct Always;

impl Grant for Always {
    fn holds(&self) -> bool {
        true
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// device text, at bigint -> value bigint, note text.
fn readings() -> TableSchema {
    TableSchema {
        name: TableName::new("telemetry", "readings"),
        columns: vec![
            Column::new("value", DataType::Int64),
            Column::new("device", DataType::Utf8),
            Column::new("at", DataType::Int64),
            Column::new("note", DataType::Utf8),
        ],
        partition_key: vec!["device".into()],
        clustering_key: vec!["at".into()],
    }
}

async fn write(tables: &EmbeddedTables, columns: &[&str], arrays: Vec<ArrayRef>, at: i64) -> Result<WriteOutcome, TableError> {
    let schema = readings();
    let columns: Vec<_> = columns.iter().map(|name| name.to_string()).collect();
    let writer = tables.writer(&schema, &columns, &WriteOptions::default()).await?;
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.iter().zip(arrays).map(|(name, array)| (name, array, true))).unwrap();
    writer.write(&batch, at, &Always).await
}

async fn read(tables: &EmbeddedTables, request: &ScanRequest, slices: usize) -> Result<Vec<RecordBatch>, TableError> {
    let mut batches = Vec::new();
    for slice in tables.slices(request, slices).await? {
        batches.extend(tables.scan(request, &slice).try_collect::<Vec<_>>().await?);
    }
    Ok(batches)
}

fn request(table: TableSchema) -> ScanRequest {
    let columns = table.columns.iter().map(|column| column.name.clone()).collect();
    ScanRequest { table, columns, predicates: Vec::new(), limit: None }
}

type Key = (String, i64);

type Row = (Key, Option<i64>, Option<String>);

fn rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let (value, at) = (batch["value"].as_primitive::<Int64Type>(), batch["at"].as_primitive::<Int64Type>());
        let (device, note) = (batch["device"].as_string::<i32>(), batch["note"].as_string::<i32>());
        for row in 0..batch.num_rows() {
            let number = (!value.is_null(row)).then(|| value.value(row));
            let text = (!note.is_null(row)).then(|| note.value(row).to_owned());
            rows.push(((device.value(row).to_owned(), at.value(row)), number, text));
        }
    }
    rows
}

async fn delete(tables: &EmbeddedTables, keys: &[Key], timestamp_us: i64) {
    let columns = ["at", "device"].map(str::to_owned);
    let writer = tables.writer(&readings(), &columns, &WriteOptions::default()).await.unwrap();
    let devices: ArrayRef = Arc::new(StringArray::from_iter_values(keys.iter().map(|key| &key.0)));
    let ats: ArrayRef = Arc::new(Int64Array::from_iter_values(keys.iter().map(|key| key.1)));
    let batch = RecordBatch::try_from_iter([("device", devices), ("at", ats)]).unwrap();
    let outcome = writer.delete(&batch, timestamp_us, &Always).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.len()), (keys.len() as u64, 0));
}
