//! The embedded tables against a model: a map from primary key to cells. Random batches, columns, timestamps, repeats and reopenings;
//! random scans must be the model's filter. Besides: durability of a killed process' writes, damage on disk, and refusals.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array,
        Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, Time64NanosecondArray,
        TimestampMillisecondArray,
    },
    compute::concat_batches,
    datatypes::{DataType, Int64Type},
};
use futures::TryStreamExt;
use polybolos_tables::{
    Blame, Column, CreateOptions, Grant, KeyPredicate, PredicateOp, ScanRequest, TableBackend, TableError, TableName, TableSchema,
    WriteOptions, WriteOutcome,
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

#[path = "../../../tables/tests/conformance/mod.rs"]
mod conformance;

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

// --- the model -------------------------------------------------------------------------------------------------------------------

type Key = (String, i64);
/// Timestamp and value, per column `value` and `note`.
type Cells = (Option<(i64, Option<i64>)>, Option<(i64, Option<String>)>);

#[derive(Clone, Debug)]
struct Write {
    /// Which of the two columns outside the key are written.
    columns: (bool, bool),
    rows: Vec<(Key, Option<i64>, Option<String>)>,
    timestamp: i64,
}

#[derive(Clone, Debug)]
enum Step {
    Write(Write),
    Delete(Vec<Key>, i64),
    Repeat,
    Reopen,
}

fn later<T: Ord + Clone>(cell: &mut Option<(i64, Option<T>)>, timestamp: i64, value: Option<T>) {
    let rank = |(timestamp, value): &(i64, Option<T>)| (*timestamp, value.is_none(), value.clone());
    let new = (timestamp, value);
    if cell.as_ref().is_none_or(|old| rank(&new) > rank(old)) {
        *cell = Some(new);
    }
}

fn apply(model: &mut BTreeMap<Key, Cells>, write: &Write) {
    for (key, value, note) in &write.rows {
        let cells = model.entry(key.clone()).or_default();
        if write.columns.0 {
            later(&mut cells.0, write.timestamp, *value);
        }
        if write.columns.1 {
            later(&mut cells.1, write.timestamp, note.clone());
        }
    }
}

/// What is there after writes and deletes in any order: what is younger than its key's last deletion.
fn model_of(steps: &[Step]) -> BTreeMap<Key, Cells> {
    let mut deleted: BTreeMap<&Key, i64> = BTreeMap::new();
    for step in steps {
        let Step::Delete(keys, timestamp) = step else { continue };
        for key in keys {
            deleted.entry(key).and_modify(|last| *last = (*last).max(*timestamp)).or_insert(*timestamp);
        }
    }
    let mut model = BTreeMap::new();
    for step in steps {
        let Step::Write(write) = step else { continue };
        let mut write = write.clone();
        let timestamp = write.timestamp;
        write.rows.retain(|row| deleted.get(&row.0).is_none_or(|deleted| timestamp > *deleted));
        apply(&mut model, &write);
    }
    model
}

fn key() -> impl Strategy<Value = Key> {
    // 0 and 1 bytes exercise the escapes of keys.
    ("[ab\\x00\\x01é]{1,2}", prop_oneof![-3i64..4, Just(i64::MIN), Just(i64::MAX)])
}

fn a_write() -> impl Strategy<Value = Write> {
    let row = (key(), prop::option::of(0i64..100), prop::option::of("[a-z]{0,3}"));
    (any::<(bool, bool)>(), prop::collection::vec(row, 1..30), 0i64..6).prop_map(|(columns, rows, timestamp)| {
        // One value per cell and timestamp, as the epoch protocol guarantees; equal bytes otherwise compare as ours do not in the model.
        Write { columns, rows, timestamp }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let deletes = (prop::collection::vec(key(), 1..20), 0i64..6).prop_map(|(keys, timestamp)| Step::Delete(keys, timestamp));
    prop_oneof![8 => a_write().prop_map(Step::Write), 4 => deletes, 1 => Just(Step::Repeat), 1 => Just(Step::Reopen)]
}

#[derive(Clone, Debug)]
struct Filter {
    column: &'static str,
    op: PredicateOp,
    texts: Vec<String>,
    numbers: Vec<i64>,
}

fn filter() -> impl Strategy<Value = Filter> {
    let op = prop_oneof![
        Just(PredicateOp::Eq),
        Just(PredicateOp::In),
        Just(PredicateOp::Lt),
        Just(PredicateOp::LtEq),
        Just(PredicateOp::Gt),
        Just(PredicateOp::GtEq)
    ];
    let column = prop_oneof![4 => Just("device"), 4 => Just("at"), 1 => Just("value"), 1 => Just("note")];
    (column, op, prop::collection::vec(key(), 1..4)).prop_map(|(column, op, keys)| {
        let count = if op == PredicateOp::In { keys.len() } else { 1 };
        let (texts, numbers) = keys.into_iter().take(count).unzip();
        Filter { column, op, texts, numbers }
    })
}

impl Filter {
    fn predicate(&self) -> KeyPredicate {
        let values: ArrayRef = match self.column {
            "device" | "note" => Arc::new(StringArray::from(self.texts.clone())),
            _ => Arc::new(Int64Array::from(self.numbers.clone())),
        };
        KeyPredicate { column: self.column.into(), op: self.op, values }
    }

    fn accepts(&self, key: &Key, cells: &Cells) -> bool {
        match self.column {
            "device" => self.compare(Some(&key.0), &self.texts),
            "at" => self.compare(Some(&key.1), &self.numbers),
            "value" => self.compare(cells.0.as_ref().and_then(|cell| cell.1.as_ref()), &self.numbers),
            _ => self.compare(cells.1.as_ref().and_then(|cell| cell.1.as_ref()), &self.texts),
        }
    }

    fn compare<T: Ord>(&self, value: Option<&T>, others: &[T]) -> bool {
        let Some(value) = value else { return false };
        match self.op {
            PredicateOp::Eq | PredicateOp::In => others.contains(value),
            PredicateOp::Lt => *value < others[0],
            PredicateOp::LtEq => *value <= others[0],
            PredicateOp::Gt => *value > others[0],
            PredicateOp::GtEq => *value >= others[0],
        }
    }
}

type Row = (Key, Option<i64>, Option<String>);

fn expected(model: &BTreeMap<Key, Cells>, filters: &[Filter]) -> Vec<Row> {
    let accepted = model.iter().filter(|(key, cells)| filters.iter().all(|filter| filter.accepts(key, cells)));
    accepted.map(|(key, (value, note))| (key.clone(), (*value).and_then(|c| c.1), note.clone().and_then(|c| c.1))).collect()
}

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

async fn apply_to_tables(tables: &EmbeddedTables, write_: &Write) {
    let mut columns = vec!["device", "at"];
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(write_.rows.iter().map(|row| &row.0.0))),
        Arc::new(Int64Array::from_iter_values(write_.rows.iter().map(|row| row.0.1))),
    ];
    if write_.columns.0 {
        columns.push("value");
        arrays.push(Arc::new(Int64Array::from_iter(write_.rows.iter().map(|row| row.1))));
    }
    if write_.columns.1 {
        columns.insert(0, "note");
        arrays.insert(0, Arc::new(StringArray::from_iter(write_.rows.iter().map(|row| row.2.as_ref()))));
    }
    let outcome = write(tables, &columns, arrays, write_.timestamp).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.len()), (write_.rows.len() as u64, 0));
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn tables_do_what_the_model_does(
        steps in prop::collection::vec(step(), 1..12),
        queries in prop::collection::vec((prop::collection::vec(filter(), 0..4), 1usize..5), 1..12),
    ) {
        runtime().block_on(async {
            let folder = TempDir::new().unwrap();
            let mut tables = EmbeddedTables::open(folder.path()).await.unwrap();
            tables.create(&readings(), &CreateOptions::default()).await.unwrap();
            let model = model_of(&steps);
            let mut last: Option<Write> = None;
            for step in steps {
                match step {
                    Step::Write(write) => {
                        apply_to_tables(&tables, &write).await;
                        last = Some(write);
                    }
                    Step::Delete(keys, timestamp) => delete(&tables, &keys, timestamp).await,
                    Step::Repeat => {
                        if let Some(write) = &last {
                            apply_to_tables(&tables, write).await;
                        }
                    }
                    Step::Reopen => {
                        drop(tables);
                        tables = EmbeddedTables::open(folder.path()).await.unwrap();
                    }
                }
            }
            for (filters, slices) in queries {
                let mut request = request(readings());
                request.predicates = filters.iter().map(Filter::predicate).collect();
                assert!(tables.supports(&request.table, &request.predicates).iter().all(|supported| *supported));
                let batches = read(&tables, &request, slices).await.unwrap();
                let mut found = rows(&batches);
                for partition in found.chunk_by(|a, b| a.0.0 == b.0.0) {
                    assert!(partition.is_sorted_by_key(|row| row.0.1), "clustering order is ascending");
                }
                let total = found.len();
                found.sort();
                assert_eq!(found, expected(&model, &filters));
                // Fewer columns, and none, give the same rows.
                request.columns = vec!["note".into()];
                let notes: usize = read(&tables, &request, slices).await.unwrap().iter().map(RecordBatch::num_rows).sum();
                request.columns.clear();
                let counted: usize = read(&tables, &request, slices).await.unwrap().iter().map(RecordBatch::num_rows).sum();
                assert_eq!((notes, counted), (total, total));
                request.limit = Some(3);
                let limited: usize = read(&tables, &request, 1).await.unwrap().iter().map(RecordBatch::num_rows).sum();
                assert_eq!(limited, total.min(3));
            }
        });
    }
}

// --- every type ------------------------------------------------------------------------------------------------------------------

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

// --- the catalog, refusals, grants -----------------------------------------------------------------------------------------------

#[test]
fn the_catalog_is_durable_and_create_leaves_what_is_there() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        assert_eq!(tables.describe(&readings().name).await.unwrap(), None);
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let mut other = readings();
        other.columns.push(Column::new("more", DataType::Utf8));
        tables.create(&other, &CreateOptions::default()).await.unwrap();
        let unsupported =
            TableSchema { name: TableName::new("k", "u"), columns: vec![Column::new("id", DataType::UInt8)], ..readings() };
        let error = tables.create(&unsupported, &CreateOptions::default()).await.unwrap_err();
        assert!(matches!(error, TableError::Unsupported { .. }) && error.to_string().contains("UInt8"), "{error}");
        drop(tables);
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        assert_eq!(tables.list().await.unwrap(), [readings().name]);
        let described = tables.describe(&readings().name).await.unwrap().unwrap();
        assert_eq!(
            described.columns.iter().map(|c| c.native_type.as_deref().unwrap()).collect::<Vec<_>>(),
            ["bigint", "text", "bigint", "text"]
        );
        assert_eq!(described.arrow(), readings().arrow());
    });
}

#[test]
fn null_empty_and_huge_rows_are_refused_others_written() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let long = "x".repeat(70_000);
        let devices: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("b"), Some(&long)]));
        let ats: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(1), Some(1), None, Some(1)]));
        let outcome = write(&tables, &["device", "at"], vec![devices, ats], 1).await.unwrap();
        assert_eq!(outcome.rows, 1);
        let refused: Vec<_> = outcome.refused.iter().map(|refused| (refused.row, refused.error.as_str())).collect();
        assert_eq!(
            refused[..3],
            [(1, "key column device is null"), (2, "key column device is empty"), (3, "key column at is null"),]
        );
        assert!(refused[3].1.contains("65519"), "{}", refused[3].1);
        assert_eq!(rows(&read(&tables, &request(readings()), 3).await.unwrap()).len(), 1);
    });
}

#[test]
fn the_longest_key_can_be_deleted_and_a_longer_one_is_looked_for_among_others() {
    // Beside the device: a token, the end of a text, and a number.
    const BESIDE: usize = key::TOKEN_BYTES + 2 + 8;
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let longest = key::BYTES_MAX - graves::PREFIX_BYTES - BESIDE;
        let (fits, too_long) = ("x".repeat(longest), "x".repeat(longest + 1));
        let devices: ArrayRef = Arc::new(StringArray::from(vec!["a", fits.as_str(), too_long.as_str()]));
        let ats: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 1]));
        let outcome = write(&tables, &["device", "at"], vec![devices, ats], 1).await.unwrap();
        assert_eq!(outcome.refused.iter().map(|refused| refused.row).collect::<Vec<_>>(), [2]);

        let found = async |op, devices: Vec<&str>| {
            let values = Arc::new(StringArray::from(devices));
            let predicates = vec![KeyPredicate { column: "device".into(), op, values }];
            let read = read(&tables, &ScanRequest { predicates, ..request(readings()) }, 3).await.unwrap();
            read.iter().map(RecordBatch::num_rows).sum::<usize>()
        };
        // As long as no key of the store can be, also where they begin alike.
        let never = "x".repeat(3 * key::BYTES_MAX);
        assert_eq!(found(PredicateOp::In, vec!["a", fits.as_str(), never.as_str()]).await, 2);
        assert_eq!(found(PredicateOp::Eq, vec![never.as_str()]).await, 0);
        assert_eq!(found(PredicateOp::Lt, vec![never.as_str()]).await, 2);
        delete(&tables, &[(fits.clone(), 1)], 2).await;
        assert_eq!(found(PredicateOp::In, vec!["a", fits.as_str(), never.as_str()]).await, 1);
    });
}

#[test]
fn a_bound_longer_than_any_key_is_kept() {
    let schema = TableSchema {
        columns: vec![Column::new("device", DataType::Int64), Column::new("name", DataType::Utf8)],
        partition_key: vec!["device".into()],
        clustering_key: vec!["name".into()],
        ..readings()
    };
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&schema, &CreateOptions::default()).await.unwrap();
        let columns = ["device", "name"].map(str::to_owned);
        let writer = tables.writer(&schema, &columns, &WriteOptions::default()).await.unwrap();
        let long = "m".repeat(60_000);
        let (devices, names): (ArrayRef, ArrayRef) =
            (Arc::new(Int64Array::from(vec![1; 3])), Arc::new(StringArray::from(vec!["a", long.as_str(), "z"])));
        let batch = RecordBatch::try_from_iter([("device", devices), ("name", names)]).unwrap();
        assert_eq!(writer.write(&batch, 1, &Always).await.unwrap().rows, 3);

        let bound = "m".repeat(70_000);
        for (op, count) in [(PredicateOp::Lt, 2), (PredicateOp::LtEq, 2), (PredicateOp::Gt, 1), (PredicateOp::GtEq, 1)] {
            let predicates = vec![
                KeyPredicate { column: "device".into(), op: PredicateOp::Eq, values: Arc::new(Int64Array::from(vec![1])) },
                KeyPredicate { column: "name".into(), op, values: Arc::new(StringArray::from(vec![bound.as_str()])) },
            ];
            let found = read(&tables, &ScanRequest { predicates, ..request(schema.clone()) }, 1).await.unwrap();
            assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), count, "{op:?}");
        }
    });
}

#[test]
fn writers_name_what_does_not_fit() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        let missing = tables.writer(&readings(), &[], &WriteOptions::default()).await.unwrap_err();
        assert!(matches!(missing, TableError::NoSuchTable { .. }));
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let wrong = tables.writer(&readings(), &["device".into(), "x".into()], &WriteOptions::default()).await.unwrap_err();
        assert_eq!(wrong.to_string().matches(';').count(), 1, "both faults: {wrong}");
        let values: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let mistyped = write(&tables, &["device", "at"], vec![Arc::clone(&values), values], 1).await.unwrap_err();
        assert!(matches!(mistyped, TableError::Mismatch { .. }), "{mistyped}");
    });
}

#[test]
fn nothing_is_written_without_the_grant() {
    struct Never;
    impl Grant for Never {
        fn holds(&self) -> bool {
            false
        }
    }
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let columns = ["device".to_owned(), "at".to_owned()];
        let writer = tables.writer(&readings(), &columns, &WriteOptions::default()).await.unwrap();
        let (devices, ats): (ArrayRef, ArrayRef) = (Arc::new(StringArray::from(vec!["a"])), Arc::new(Int64Array::from(vec![1])));
        let batch = RecordBatch::try_from_iter([("device", devices), ("at", ats)]).unwrap();
        assert!(matches!(writer.write(&batch, 1, &Never).await, Err(TableError::GrantExpired)));
        assert!(read(&tables, &request(readings()), 1).await.unwrap().is_empty());
    });
}

#[test]
fn many_rows_come_in_bounded_batches_from_every_slice() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let count = 30_000;
        let devices: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(|i| format!("device {i}"))));
        let ats: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
        write(&tables, &["device", "at", "value"], vec![devices, Arc::clone(&ats), ats], 1).await.unwrap();
        let request = request(readings());
        let slices = tables.slices(&request, 3).await.unwrap();
        assert_eq!(slices.len(), 3);
        let mut seen = BTreeSet::new();
        for slice in slices {
            let batches: Vec<_> = tables.scan(&request, &slice).try_collect().await.unwrap();
            let in_slice: usize = batches.iter().map(RecordBatch::num_rows).sum();
            assert!((9_000..11_000).contains(&in_slice), "slices are even: {in_slice}");
            assert!(batches.iter().all(|batch| batch.num_rows() <= 8192));
            seen.extend(rows(&batches).into_iter().map(|row| row.0.1));
        }
        assert_eq!(seen.len(), count as usize);
    });
}

// --- one process, damage on disk -------------------------------------------------------------------------------------------------

#[test]
fn a_folder_opens_once() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let _tables = EmbeddedTables::open(folder.path()).await.unwrap();
        let error = EmbeddedTables::open(folder.path()).await.unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()) && error.contains("another process"), "{error}");
    });
}

#[test]
fn damaged_rows_and_catalog_entries_are_corruption() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let (devices, ats): (ArrayRef, ArrayRef) = (Arc::new(StringArray::from(vec!["a"])), Arc::new(Int64Array::from(vec![1])));
        write(&tables, &["device", "at"], vec![Arc::clone(&devices), Arc::clone(&ats)], 1).await.unwrap();
        let table = tables.table(&readings().name).unwrap();
        let key = table.rows.first_key_value().unwrap().key().unwrap();
        table.rows.insert(key, b"\x09nonsense").unwrap();
        let error = read(&tables, &request(readings()), 1).await.unwrap_err();
        assert!(matches!(&error, TableError::Corrupt { object, .. } if object == "table telemetry.readings"), "{error}");
        assert_eq!(error.blame(), Blame::Environment);
        let error = write(&tables, &["device", "at"], vec![devices, ats], 2).await.unwrap_err();
        assert!(matches!(error, TableError::Corrupt { .. }), "{error}");

        tables.catalog.insert("telemetry.readings", b"{}").unwrap();
        drop((tables, table));
        let error = EmbeddedTables::open(folder.path()).await.unwrap_err();
        assert!(matches!(&error, TableError::Corrupt { object, .. } if object.contains("catalog")), "{error}");
    });
}

#[test]
fn a_flipped_bit_in_a_file_is_corruption() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let devices: ArrayRef = Arc::new(StringArray::from_iter_values((0..5000).map(|i| format!("device {}", i * 7919))));
        let ats: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5000));
        write(&tables, &["device", "at", "value"], vec![devices, Arc::clone(&ats), ats], 1).await.unwrap();
        tables.table(&readings().name).unwrap().rows.rotate_memtable_and_wait().unwrap();
        drop(tables);
        let file = largest_file(&folder.path().join("keyspaces"));
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&file, bytes).unwrap();
        let outcome = async {
            let tables = EmbeddedTables::open(folder.path()).await?;
            read(&tables, &request(readings()), 1).await
        };
        let error = outcome.await.unwrap_err();
        assert!(matches!(error, TableError::Corrupt { .. }), "{error}");
    });
}

fn largest_file(folder: &Path) -> std::path::PathBuf {
    let mut folders = vec![folder.to_path_buf()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.metadata().unwrap().len(), entry.path()));
            }
        }
    }
    files.into_iter().max().unwrap().1
}

#[test]
fn deletes_and_expiry_are_as_in_every_store() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        conformance::run(&tables, "conformance").await;
    });
}

/// A clock that stands until it is set.
fn clock_at(us: i64) -> (Arc<AtomicI64>, Clock) {
    let now_us = Arc::new(AtomicI64::new(us));
    let clock = now_us.clone();
    (now_us, Arc::new(move || clock.load(Relaxed)))
}

#[test]
fn deletions_and_expired_rows_are_dropped_when_their_grace_is_over() {
    const START_US: i64 = 1_700_000_000_000_000;
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let (now_us, clock) = clock_at(START_US);
        let tables = EmbeddedTables::open_with_clock(folder.path(), clock.clone()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let (devices, ats): (ArrayRef, ArrayRef) =
            (Arc::new(StringArray::from(vec!["a", "b", "c"])), Arc::new(Int64Array::from(vec![1, 1, 1])));
        write(&tables, &["device", "at"], vec![devices, ats], START_US).await.unwrap();
        delete(&tables, &[("a".into(), 1), ("b".into(), 1), ("z".into(), 1)], START_US + 1).await;
        let again: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["b"])), Arc::new(Int64Array::from(vec![1]))];
        write(&tables, &["device", "at"], again, START_US + 2).await.unwrap();
        let columns = ["device", "at"].map(str::to_owned);
        let options = WriteOptions { ttl_ms: Some(1_000), ..WriteOptions::default() };
        let writer = tables.writer(&readings(), &columns, &options).await.unwrap();
        let (devices, ats): (ArrayRef, ArrayRef) = (Arc::new(StringArray::from(vec!["x"])), Arc::new(Int64Array::from(vec![1])));
        writer.write(&RecordBatch::try_from_iter([("device", devices), ("at", ats)]).unwrap(), START_US, &Always).await.unwrap();

        let stored = |tables: &EmbeddedTables| tables.table(&readings().name).unwrap().rows.len().unwrap();
        now_us.store(START_US + GRACE_US - 1, Relaxed);
        delete(&tables, &[("q".into(), 1)], START_US + 1).await;
        assert_eq!(stored(&tables), 6, "a, b, c, q, x, z");
        now_us.store(START_US + GRACE_US + 2_000_000 + BURY_EVERY_US, Relaxed);
        delete(&tables, &[("q".into(), 1)], START_US + 1).await;
        assert_eq!(stored(&tables), 3, "b, c, q");
        // And at the next start.
        now_us.fetch_add(2 * GRACE_US, Relaxed);
        drop((tables, writer));
        let tables = EmbeddedTables::open_with_clock(folder.path(), clock).await.unwrap();
        assert_eq!(stored(&tables), 2, "b, c");
        assert_eq!(tables.store.graves.len().unwrap(), 0);
        assert_eq!(rows(&read(&tables, &request(readings()), 1).await.unwrap()).len(), 2);
    });
}

#[test]
fn more_expires_than_is_buried_at_once_and_goes_all_the_same_whatever_is_written_elsewhere() {
    const START_US: i64 = 1_700_000_000_000_000;
    const ROWS: usize = 2 * graves::GO_ROWS + 1;
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let (now_us, clock) = clock_at(START_US);
        let tables = EmbeddedTables::open_with_clock(folder.path(), clock).await.unwrap();
        let other = TableSchema { name: TableName::new("telemetry", "other"), ..readings() };
        let columns = ["device", "at"].map(str::to_owned);
        let writer = async |schema: &TableSchema| {
            tables.create(schema, &CreateOptions::default()).await.unwrap();
            let options = WriteOptions { ttl_ms: Some(1_000), ..WriteOptions::default() };
            tables.writer(schema, &columns, &options).await.unwrap()
        };
        let (writer, writer_of_other) = (writer(&readings()).await, writer(&other).await);
        let batch = |rows: usize| {
            let devices: ArrayRef = Arc::new(StringArray::from(vec!["a"; rows]));
            let ats: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
            RecordBatch::try_from_iter([("device", devices), ("at", ats)]).unwrap()
        };
        writer.write(&batch(ROWS), START_US, &Always).await.unwrap();
        let later_us = START_US + GRACE_US + 2_000_000 + BURY_EVERY_US;
        now_us.store(later_us, Relaxed);
        let stored = || tables.table(&readings().name).unwrap().rows.len().unwrap();
        // The first row is written again, and stays.
        for left in [graves::GO_ROWS + 2, 2, 1] {
            writer_of_other.write(&batch(1), later_us, &Always).await.unwrap();
            writer.write(&batch(1), later_us, &Always).await.unwrap();
            assert_eq!(stored(), left);
        }
    });
}
