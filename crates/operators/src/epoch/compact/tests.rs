//! Runs in files are merged to what they are when merged in memory, with reads no larger than a piece; what is damaged is refused,
//! and leaves nothing.
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int64Array, UInt32Array};
use polybolos_persist::{
    Entry, Expected, LocalStore, NewFile, PIECE_BYTES, Swap, Version,
    part::{self, Encoded, Sections},
};
use polybolos_state::{merge_runs, run_schema};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// A store that counts, and from which nothing is read but in pieces.
#[derive(Debug)]
struct Counting {
    store: LocalStore,
    largest_read: AtomicUsize,
    largest_created: AtomicUsize,
    begun: AtomicUsize,
}

#[async_trait]
impl Store for Counting {
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        self.store.get(key).await
    }

    async fn put_if(&self, key: &str, bytes: Bytes, expected: Expected) -> Result<Swap, StoreError> {
        self.store.put_if(key, bytes, expected).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.largest_created.fetch_max(bytes.len(), Ordering::Relaxed);
        self.store.create(key, bytes).await
    }

    async fn read(&self, _: &str) -> Result<Bytes, StoreError> {
        unreachable!("whole files are not read")
    }

    async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let bytes = self.store.read_range(key, range).await?;
        self.largest_read.fetch_max(bytes.len(), Ordering::Relaxed);
        Ok(bytes)
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn NewFile>, StoreError> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.store.begin(key).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.store.delete(keys).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        self.store.list(prefix).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.store.folders(prefix).await
    }

    fn describe(&self) -> String {
        self.store.describe()
    }

    fn serves_one_machine(&self) -> bool {
        true
    }
}

type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A run with these keys; no value: deleted.
fn batch(rows: &Rows) -> RecordBatch {
    let keys = BinaryArray::from_iter_values(rows.keys());
    let values: BinaryArray = rows.values().map(Option::as_ref).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from(vec![0; rows.len()])),
        Arc::new(keys),
        Arc::new(BinaryArray::from(vec![None::<&[u8]>; rows.len()])),
        Arc::new(values),
        Arc::new(Int64Array::from(vec![None::<i64>; rows.len()])),
        Arc::new(BooleanArray::from(vec![false; rows.len()])),
    ];
    RecordBatch::try_new(run_schema(), columns).expect("a batch")
}

fn rows_of(batches: &[RecordBatch]) -> Rows {
    let mut rows = Rows::new();
    for batch in batches {
        let (keys, values) = (batch.column(1).as_binary::<i32>(), batch.column(3).as_binary::<i32>());
        for row in 0..batch.num_rows() {
            let value = values.is_valid(row).then(|| values.value(row).to_vec());
            assert!(rows.insert(keys.value(row).to_vec(), value).is_none(), "a key is in a run once");
        }
    }
    rows
}

/// Runs of so many random keys each, of which some are deleted, with values of so many random bytes.
fn random_runs(runs: usize, keys: usize, value_bytes: usize) -> Vec<Vec<RecordBatch>> {
    let mut chosen = ChaCha8Rng::seed_from_u64(7);
    let mut run = || {
        let mut rows = Rows::new();
        for _ in 0..keys {
            let key = chosen.random_range(0..2 * keys as u32).to_le_bytes().to_vec();
            let mut value = vec![0_u8; value_bytes];
            chosen.fill(&mut value[..]);
            rows.insert(key, chosen.random_bool(0.8).then_some(value));
        }
        let middle = rows.keys().nth(rows.len() / 2).cloned().expect("a key");
        let later = rows.split_off(&middle);
        vec![batch(&rows), batch(&later)]
    };
    (0..runs).map(|_| run()).collect()
}

struct Bench {
    folder: tempfile::TempDir,
    store: Arc<Counting>,
    space: Arc<StateSpace>,
    runs: Vec<StateRun>,
}

impl Bench {
    async fn new(runs: &[Vec<RecordBatch>]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = LocalStore::open(folder.path().join("store")).await.expect("opens");
        let mut recorded = vec![];
        for (run, epoch) in runs.iter().zip(1..) {
            let Encoded { bytes, crc32, state_bytes } =
                part::encode(&Sections { state: run.clone(), ..Sections::default() }).expect("encodes");
            let (name, epoch) = (format!("parts/{epoch}"), Epoch(epoch));
            let (first_epoch, last_epoch, length) = (epoch, epoch, bytes.len() as u64);
            store.create(&name, bytes).await.expect("creates");
            recorded.push(StateRun { name, bytes: length, crc32, state_bytes, first_epoch, last_epoch, end: None });
        }
        let [largest_read, largest_created, begun] = [0; 3].map(AtomicUsize::new);
        let store = Arc::new(Counting { store, largest_read, largest_created, begun });
        let space = Arc::new(StateSpace::new(0, folder.path().join("state")));
        Self { folder, store, space, runs: recorded }
    }

    async fn merge(&self, parts: usize, from_the_start: bool, name: &'static str) -> Result<Written, CompactError> {
        let merge = Merge { space: self.space.clone(), store: self.store.clone(), from_the_start, recorded: Passed::default() };
        let runs = self.runs.clone();
        let merged = tokio::task::spawn_blocking(move || merge.write(&runs, parts, name)).await.expect("ends");
        merged.map(|(written, _)| written)
    }

    /// What is in the file that was merged.
    async fn merged(&self, name: &str, written: Written) -> Vec<RecordBatch> {
        let file = self.store.store.read(name).await.expect("reads");
        assert_eq!(file.len() as u64, written.bytes);
        part::decode(name, &file, written.crc32).expect("decodes").state
    }

    async fn names(&self) -> Vec<String> {
        self.store.list("parts/").await.expect("lists").into_iter().map(|entry| entry.key).collect()
    }
}

#[tokio::test]
async fn files_are_merged_to_what_their_runs_are_in_any_number_of_parts() {
    let runs = random_runs(9, 500, 20);
    let bench = Bench::new(&runs).await;
    for from_the_start in [true, false] {
        let expected = merge_runs(&runs, from_the_start, Passed::default()).expect("merges");
        for (parts, names) in [(1, ["parts/a", "parts/b"]), (3, ["parts/c", "parts/d"]), (256, ["parts/e", "parts/f"])] {
            let name = names[usize::from(from_the_start)];
            let written = bench.merge(parts, from_the_start, name).await.expect("merges");
            let state = bench.merged(name, written).await;
            assert_eq!(rows_of(&state), rows_of(&expected), "{parts} parts");
            assert!(parts > 1 || state == expected, "the same batches, too");
        }
    }
}

#[tokio::test]
async fn of_large_runs_only_pieces_are_read_and_written() {
    let runs = random_runs(3, 1_200, 16 << 10);
    let bench = Bench::new(&runs).await;
    assert!(bench.runs.iter().all(|run| run.bytes > PIECE_BYTES as u64));
    let written = bench.merge(4, true, "parts/merged").await.expect("merges");
    assert!(written.bytes > 2 * PIECE_BYTES as u64);
    let state = bench.merged("parts/merged", written).await;
    assert_eq!(rows_of(&state), rows_of(&merge_runs(&runs, true, Passed::default()).expect("merges")));
    assert_eq!(bench.store.largest_read.load(Ordering::Relaxed), PIECE_BYTES);
    assert_eq!(bench.store.largest_created.load(Ordering::Relaxed), 0, "no file is written at once");
    let bytes = |batch: &RecordBatch| batch.column(3).as_binary::<i32>().value_data().len();
    assert!(state.iter().all(|batch| bytes(batch) <= PIECE_BYTES), "batches are not as large as the state");
}

#[tokio::test]
async fn a_damaged_or_missing_run_is_refused_and_no_file_is_left() {
    let bench = Bench::new(&random_runs(4, 1_400, 8 << 10)).await;
    // The oldest, which is read last.
    let path = bench.folder.path().join("store/parts/1");
    let whole = std::fs::read(&path).expect("reads");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    for parts in [1, 5] {
        for file in [&changed[..], &whole[..whole.len() - 1], &whole[..9]] {
            std::fs::write(&path, file).expect("writes");
            let error = bench.merge(parts, true, "parts/merged").await.expect_err("damaged");
            let expected = format!("part file parts/1 is damaged: its {} bytes do not have the recorded checksum", file.len());
            assert!(!error.is_retryable() && error.to_string().starts_with(&expected), "{error}");
            assert_eq!(bench.names().await, ["parts/1", "parts/2", "parts/3", "parts/4"]);
        }
    }
    assert_eq!(bench.store.begun.load(Ordering::Relaxed), 3, "at once, newer runs were written by then; of parts, none");
    std::fs::remove_file(&path).expect("removes");
    let error = bench.merge(1, true, "parts/merged").await.expect_err("missing");
    assert!(matches!(error, CompactError::Store(StoreError::Missing { .. })), "{error}");
    assert_eq!(bench.names().await, ["parts/2", "parts/3", "parts/4"]);
}
