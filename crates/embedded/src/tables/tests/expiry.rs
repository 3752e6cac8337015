//! Deletions and rows that expire, and what is dropped when their grace is over.
use tempfile::TempDir;

use super::*;

#[path = "../../../../tables/tests/conformance/mod.rs"]
mod conformance;

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
