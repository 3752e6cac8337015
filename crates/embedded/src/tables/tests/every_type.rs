//! Every type of a column, as value and as key.
use arrow::{
    array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array,
        Int16Array, Int32Array, Time64NanosecondArray, TimestampMillisecondArray,
    },
    compute::concat_batches,
};
use polybolos_tables::PredicateOp;
use tempfile::TempDir;

use super::*;

fn every_column() -> Vec<(&'static str, ArrayRef)> {
    let uuid = |byte| [byte; 16];
    vec![
        ("text", Arc::new(StringArray::from(vec![Some("محمد"), None, Some("")]))),
        ("blob", Arc::new(BinaryArray::from(vec![Some(&b"\0\xFF"[..]), None, Some(b"")]))),
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("tinyint", Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)]))),
        ("smallint", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)]))),
        ("int", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)]))),
        ("bigint", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
        ("float", Arc::new(Float32Array::from(vec![Some(-1.5), None, Some(f32::MAX)]))),
        ("double", Arc::new(Float64Array::from(vec![Some(-1.5), None, Some(f64::INFINITY)]))),
        ("date", Arc::new(Date32Array::from(vec![Some(-1), None, Some(20_000)]))),
        ("time", Arc::new(Time64NanosecondArray::from(vec![Some(0), None, Some(86_399_999_999_999)]))),
        ("ts", Arc::new(TimestampMillisecondArray::from(vec![Some(-5), None, Some(1 << 41)]).with_timezone("UTC"))),
        ("amount", Arc::new(Decimal128Array::from(vec![Some(-7), None, Some(7)]).with_precision_and_scale(20, 3).unwrap())),
        (
            "uuid",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some(uuid(1)), None, Some(uuid(9))].into_iter(), 16).unwrap(),
            ),
        ),
    ]
}

#[test]
fn every_type_reads_back_as_value_and_as_key() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        let mut columns: Vec<(&str, ArrayRef)> = vec![("id", Arc::new(Int64Array::from(vec![1, 2, 3])))];
        columns.extend(every_column());
        let batch = RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(n, a)| (*n, Arc::clone(a), *n != "id"))).unwrap();
        let names: Vec<_> = columns.iter().map(|(name, _)| name.to_string()).collect();
        let schema = TableSchema {
            name: TableName::new("k", "values"),
            columns: columns.iter().map(|(name, array)| Column::new(*name, array.data_type().clone())).collect(),
            partition_key: vec!["id".into()],
            clustering_key: Vec::new(),
        };
        tables.create(&schema, &CreateOptions::default()).await.unwrap();
        let writer = tables.writer(&schema, &names, &WriteOptions::default()).await.unwrap();
        // Sliced, so that buffers do not begin at the first row.
        let twice = concat_batches(&batch.schema(), [&batch, &batch]).unwrap();
        writer.write(&twice.slice(3, 3), 1, &Always).await.unwrap();
        let read_back = read(&tables, &request(schema.clone()), 4).await.unwrap();
        let read_back = concat_batches(&read_back[0].schema(), &read_back).unwrap();
        let order = arrow::compute::sort_to_indices(&read_back["id"], None, None).unwrap();
        let sorted = arrow::compute::take_record_batch(&read_back, &order).unwrap();
        assert_eq!(sorted, batch);

        // Each type as the clustering key; rows without NULL.
        for (name, array) in every_column() {
            let schema = TableSchema {
                name: TableName::new("k", format!("by_{name}")),
                columns: vec![Column::new("p", DataType::Boolean), Column::new(name, array.data_type().clone())],
                partition_key: vec!["p".into()],
                clustering_key: vec![name.into()],
            };
            tables.create(&schema, &CreateOptions::default()).await.unwrap();
            let writer = tables.writer(&schema, &["p".into(), name.into()], &WriteOptions::default()).await.unwrap();
            let partition: ArrayRef = Arc::new(BooleanArray::from(vec![true; 3]));
            let rows = RecordBatch::try_from_iter([("p", partition), (name, Arc::clone(&array))]).unwrap();
            let outcome = writer.write(&rows, 1, &Always).await.unwrap();
            assert_eq!(outcome.refused.iter().map(|refused| refused.row).collect::<Vec<_>>(), [1], "{name}: the null");
            let batches = read(&tables, &request(schema.clone()), 2).await.unwrap();
            let sorted = arrow::compute::sort(&array, None).unwrap();
            assert_eq!(&batches[0][name], &sorted.slice(1, 2), "{name} in order");
            let predicates = vec![KeyPredicate { column: name.into(), op: PredicateOp::Gt, values: sorted.slice(1, 1) }];
            let above = read(&tables, &ScanRequest { predicates, ..request(schema) }, 1).await.unwrap();
            assert_eq!(&above[0][name], &sorted.slice(2, 1), "{name} above its least");
        }
    });
}
