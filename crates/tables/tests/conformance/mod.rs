//! What every store of keyed tables must do with deletes and rows that expire; the tests of both stores include this file.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Int64Type},
};
use futures::{StreamExt, TryStreamExt};
use polybolos_tables::{
    Column, CreateOptions, Grant, KeyPredicate, PredicateOp, ScanRequest, TableBackend, TableError, TableName, TableSchema,
    WriteOptions, check,
};

struct Always;

impl Grant for Always {
    fn holds(&self) -> bool {
        true
    }
}

struct Never;

impl Grant for Never {
    fn holds(&self) -> bool {
        false
    }
}

/// Holds so often, and not afterwards; counts who asks.
struct Held {
    times: u64,
    asked: AtomicU64,
}

impl Held {
    fn times(times: u64) -> Self {
        Self { times, asked: AtomicU64::new(0) }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Grant for Held {
    fn holds(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed) < self.times
    }
}

/// device text, at bigint -> value bigint. The columns stand in another order than the key.
fn table(keyspace: &str, name: &str) -> TableSchema {
    TableSchema {
        name: TableName::new(keyspace, name),
        columns: vec![
            Column::new("value", DataType::Int64),
            Column::new("at", DataType::Int64),
            Column::new("device", DataType::Utf8),
        ],
        partition_key: vec!["device".into()],
        clustering_key: vec!["at".into()],
    }
}

type Key<'a> = (&'a str, i64);

async fn write(backend: &dyn TableBackend, table: &TableSchema, rows: &[(Key<'_>, i64)], timestamp_us: i64, ttl_ms: Option<u64>) {
    let columns = ["value", "at", "device"].map(str::to_owned);
    let options = WriteOptions { ttl_ms, ..WriteOptions::default() };
    let arrays: [ArrayRef; 3] = [
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0.1))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0.0))),
    ];
    let batch = RecordBatch::try_from_iter(columns.iter().zip(arrays)).unwrap();
    let writer = backend.writer(table, &columns, &options).await.unwrap();
    let outcome = writer.write(&batch, timestamp_us, &Always).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.as_slice()), (rows.len() as u64, [].as_slice()));
}

fn keys(keys: &[(Option<&str>, Option<i64>)]) -> RecordBatch {
    let devices: ArrayRef = Arc::new(StringArray::from_iter(keys.iter().map(|key| key.0)));
    let ats: ArrayRef = Arc::new(Int64Array::from_iter(keys.iter().map(|key| key.1)));
    RecordBatch::try_from_iter_with_nullable([("device", devices, true), ("at", ats, true)]).unwrap()
}

/// Through a writer of all columns and one of the key alone.
async fn delete(backend: &dyn TableBackend, table: &TableSchema, deleted: &[Key<'_>], timestamp_us: i64) {
    let deleted: Vec<_> = deleted.iter().map(|key| (Some(key.0), Some(key.1))).collect();
    let columns = ["device", "value", "at"].map(str::to_owned);
    let writer = backend.writer(table, &columns, &WriteOptions::default()).await.unwrap();
    let outcome = writer.delete(&keys(&deleted), timestamp_us, &Always).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.len()), (deleted.len() as u64, 0));
}

async fn read(backend: &dyn TableBackend, table: &TableSchema) -> Vec<(String, i64, Option<i64>)> {
    let columns = ["device", "at", "value"].map(str::to_owned).to_vec();
    let mut request = ScanRequest { table: table.clone(), columns, predicates: vec![], limit: None };
    let mut rows = vec![];
    for slice in backend.slices(&request, 3).await.unwrap() {
        for batch in backend.scan(&request, &slice).try_collect::<Vec<RecordBatch>>().await.unwrap() {
            let (devices, ats) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
            let values = batch.column(2).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                rows.push((devices.value(row).to_owned(), ats.value(row), values.is_valid(row).then(|| values.value(row))));
            }
        }
    }
    // Without any columns as many rows are counted.
    request.columns.clear();
    let mut counted = 0;
    for slice in backend.slices(&request, 2).await.unwrap() {
        let batches = backend.scan(&request, &slice).try_collect::<Vec<RecordBatch>>().await.unwrap();
        counted += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    }
    assert_eq!(counted, rows.len());
    rows.sort();
    rows
}

fn row(device: &str, at: i64, value: i64) -> (String, i64, Option<i64>) {
    (device.to_owned(), at, Some(value))
}

/// Runs everything on tables of `keyspace`, which nobody else uses.
pub async fn run(backend: &dyn TableBackend, keyspace: &str) {
    deletes_and_writes_commute(backend, keyspace).await;
    a_key_that_cannot_be_is_refused_and_others_are_deleted(backend, keyspace).await;
    rows_expire(backend, keyspace).await;
    a_partition_is_found_by_its_key(backend, keyspace).await;
    a_grant_that_ends_between_batches_stops_what_is_under_way(backend, keyspace).await;
}

/// EPOCHS rule 6: a grant that held is good for the batch before which it was asked for, and for no other.
async fn a_grant_that_ends_between_batches_stops_what_is_under_way(backend: &dyn TableBackend, keyspace: &str) {
    const ROWS: u64 = 8_192;
    let now_us = backend.clock_us().await.unwrap();
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
    let devices: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n("a", ROWS as usize)));
    let rows = RecordBatch::try_from_iter([("value", values.clone()), ("at", values), ("device", devices)]).unwrap();
    let keys = rows.project(&[2, 1]).unwrap();
    // One after the other, so that it is known how far it came.
    let options = WriteOptions { in_flight: 1, batch_rows: 64, ..WriteOptions::default() };
    let columns = ["value", "at", "device"].map(str::to_owned);
    let (whole, cut) = (created(backend, keyspace, "granted").await, created(backend, keyspace, "ended").await);

    let writer = backend.writer(&whole, &columns, &options).await.unwrap();
    let always = Held::times(u64::MAX);
    let outcome = writer.write(&rows, now_us, &always).await.unwrap();
    assert_eq!(outcome.rows, ROWS);
    let batches = always.asked() - outcome.retries;
    assert!(batches > 1, "the grant is asked for before every batch");
    let (half, at_most) = (batches / 2, ROWS / batches * (batches / 2));

    let writer = backend.writer(&cut, &columns, &options).await.unwrap();
    let grant = Held::times(half);
    let stopped = writer.write(&rows, now_us, &grant).await;
    assert!(matches!(stopped, Err(TableError::GrantExpired)), "{stopped:?}");
    assert_eq!(grant.asked(), half + 1, "and nobody asks again");
    let written = read(backend, &cut).await.len() as u64;
    assert!(written > 0 && written <= at_most, "{written} rows, of {at_most} that the grant held for");
    // Whoever has a grant writes all again.
    assert_eq!(writer.write(&rows, now_us, &Always).await.unwrap().rows, ROWS);
    assert_eq!(read(backend, &cut).await.len() as u64, ROWS);

    let stopped = writer.delete(&keys, now_us + 1, &Held::times(half)).await;
    assert!(matches!(stopped, Err(TableError::GrantExpired)), "{stopped:?}");
    let left = read(backend, &cut).await.len() as u64;
    assert!(left < ROWS && left >= ROWS - at_most, "{left} rows, of {ROWS} less {at_most} that the grant held for");
    assert_eq!(writer.delete(&keys, now_us + 1, &Always).await.unwrap().rows, ROWS);
    assert!(read(backend, &cut).await.is_empty());
}

/// As look-ups ask: one key after the other, many at a time.
async fn a_partition_is_found_by_its_key(backend: &dyn TableBackend, keyspace: &str) {
    let table = created(backend, keyspace, "partitions").await;
    let names: Vec<String> = (0..60).map(|number| format!("device {number}")).collect();
    let rows: Vec<(Key<'_>, i64)> = names
        .iter()
        .enumerate()
        .flat_map(|(number, name)| (0..number as i64 % 4).map(move |at| ((name.as_str(), at), at * 10)))
        .collect();
    write(backend, &table, &rows, backend.clock_us().await.unwrap(), None).await;
    let one = |number: usize| {
        let (names, table) = (&names, &table);
        async move {
            let values: ArrayRef = Arc::new(StringArray::from(vec![names.get(number).map_or("nobody", String::as_str)]));
            let predicates = vec![KeyPredicate { column: "device".into(), op: PredicateOp::Eq, values }];
            assert_eq!(backend.supports(table, &predicates), [true]);
            let request = ScanRequest { table: table.clone(), columns: vec!["value".into()], predicates, limit: None };
            let mut found = vec![];
            for slice in backend.slices(&request, 1).await.unwrap() {
                for batch in backend.scan(&request, &slice).try_collect::<Vec<RecordBatch>>().await.unwrap() {
                    found.extend(batch.column(0).as_primitive::<Int64Type>().values().iter().copied());
                }
            }
            (number, found)
        }
    };
    let mut asked = futures::stream::iter((0..=60).map(one)).buffer_unordered(16);
    let mut answers = 0;
    while let Some((number, found)) = asked.next().await {
        let rows = if number == 60 { 0 } else { number as i64 % 4 };
        assert_eq!(found, (0..rows).map(|at| at * 10).collect::<Vec<_>>(), "device {number}");
        answers += 1;
    }
    assert_eq!(answers, 61);
}

async fn created(backend: &dyn TableBackend, keyspace: &str, name: &str) -> TableSchema {
    let table = table(keyspace, name);
    assert!(matches!(check::deletes(backend, &table.name).await, Err(TableError::NoSuchTable { .. })));
    backend.create(&table, &CreateOptions::default()).await.unwrap();
    check::deletes(backend, &table.name).await.unwrap();
    backend.describe(&table.name).await.unwrap().unwrap()
}

async fn deletes_and_writes_commute(backend: &dyn TableBackend, keyspace: &str) {
    let table = created(backend, keyspace, "commute").await;
    // As write-time windows are: about now. A deletion in the far past would be compacted away at once.
    let now_us = backend.clock_us().await.unwrap();
    let rows: Vec<(Key<'_>, i64)> = (0..100).map(|at| (("a", at), at)).chain([(("b", 1), 1)]).collect();
    write(backend, &table, &rows, now_us, None).await;
    assert_eq!(read(backend, &table).await.len(), 101);

    let most: Vec<Key<'_>> = (1..100).map(|at| ("a", at)).chain([("c", 9)]).collect();
    for _ in 0..2 {
        delete(backend, &table, &most, now_us + 10).await;
        assert_eq!(read(backend, &table).await, [row("a", 0, 0), row("b", 1, 1)]);
    }
    // Older ones come too late, also for a key that was never written, and repeated ones.
    write(backend, &table, &rows, now_us, None).await;
    write(backend, &table, &[(("c", 9), 9), (("a", 5), 5)], now_us + 9, None).await;
    write(backend, &table, &[(("a", 6), 6)], now_us + 10, None).await;
    assert_eq!(read(backend, &table).await, [row("a", 0, 0), row("b", 1, 1)]);
    // Younger ones stay, whatever older deletes come after.
    write(backend, &table, &[(("c", 9), 90), (("a", 5), 50)], now_us + 11, None).await;
    delete(backend, &table, &most, now_us + 10).await;
    delete(backend, &table, &[("b", 1)], now_us - 1).await;
    assert_eq!(read(backend, &table).await, [row("a", 0, 0), row("a", 5, 50), row("b", 1, 1), row("c", 9, 90)]);

    let writer = backend.writer(&table, &["device", "at"].map(str::to_owned), &WriteOptions::default()).await.unwrap();
    let stopped = writer.delete(&keys(&[(Some("b"), Some(1))]), now_us + 20, &Never).await;
    assert!(matches!(stopped, Err(TableError::GrantExpired)));
    assert_eq!(read(backend, &table).await.len(), 4);
}

async fn a_key_that_cannot_be_is_refused_and_others_are_deleted(backend: &dyn TableBackend, keyspace: &str) {
    let table = created(backend, keyspace, "refused").await;
    let now_us = backend.clock_us().await.unwrap();
    write(backend, &table, &[(("a", 1), 1), (("a", 2), 2), (("b", 1), 1)], now_us, None).await;
    let writer = backend.writer(&table, &["device", "at"].map(str::to_owned), &WriteOptions::default()).await.unwrap();
    let wanted = keys(&[(Some("a"), Some(1)), (None, Some(1)), (Some("a"), None), (Some(""), Some(1)), (Some("b"), Some(1))]);
    let outcome = writer.delete(&wanted, now_us + 1, &Always).await.unwrap();
    assert_eq!(outcome.refused.iter().map(|refused| refused.row).collect::<Vec<_>>(), [1, 2, 3], "{outcome:?}");
    assert_eq!(outcome.rows, 2);
    assert_eq!(read(backend, &table).await, [row("a", 2, 2)]);
}

async fn rows_expire(backend: &dyn TableBackend, keyspace: &str) {
    const HOUR_US: i64 = 3_600_000_000;
    let table = created(backend, keyspace, "expire").await;
    let now_us = backend.clock_us().await.unwrap();
    let hour_ms = Some(3_600_000);
    write(backend, &table, &[(("a", 1), 1), (("a", 2), 2)], now_us - 3 * HOUR_US, None).await;
    // An epoch that is written after its rows have ended deletes what they replaced.
    write(backend, &table, &[(("a", 1), 10), (("b", 1), 10)], now_us - 2 * HOUR_US, hour_ms).await;
    write(backend, &table, &[(("c", 1), 10)], now_us, hour_ms).await;
    write(backend, &table, &[(("b", 1), 11)], now_us - HOUR_US, None).await;
    assert_eq!(read(backend, &table).await, [row("a", 2, 2), row("b", 1, 11), row("c", 1, 10)]);
    // A second that passes.
    write(backend, &table, &[(("d", 1), 1)], backend.clock_us().await.unwrap(), Some(1_000)).await;
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    assert_eq!(read(backend, &table).await, [row("a", 2, 2), row("b", 1, 11), row("c", 1, 10)]);
}
