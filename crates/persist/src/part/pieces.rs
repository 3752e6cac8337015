//! The state of files on the store, read and written piece by piece: pieces and a batch are in memory, however large the file. What
//! is here waits for the store, so it is for threads of a runtime that may block.
use std::{
    io::{self, Read},
    mem,
};

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use bytes::Bytes;
use crc32fast::Hasher;
use polybolos_streaming::manifest::StateRun;
use tokio::runtime::Handle;

use super::{Index, corrupt, cut_short, failed, head, index_bytes, stream_writer, unlike_record};
use crate::{NewFile, PIECE_BYTES, Store, StoreError};

/// Hands out the batches of a run of state, one after the other. The file is read twice, and its checksum must be the recorded one
/// each time: before anything in it is taken for a batch, and in the end.
///
/// # Errors
/// Those of the store, of a file that is not as recorded, and of `take`.
pub fn each_state_batch<E: From<StoreError>>(
    store: &dyn Store,
    run: &StateRun,
    mut take: impl FnMut(RecordBatch) -> Result<(), E>,
) -> Result<(), E> {
    let mut file = StoredFile::new(store, run);
    file.check()?;
    let state_bytes = file.find_state()?;
    if state_bytes > 0 {
        let damaged = |error: ArrowError| cause(&run.name, error);
        let reader = StreamReader::try_new(file.by_ref().take(state_bytes), None).map_err(damaged)?;
        for batch in reader {
            take(batch.map_err(damaged)?)?;
        }
    }
    file.check()?;
    Ok(())
}

/// What the store said while a stream was read, or what is wrong with the stream.
fn cause(name: &str, error: ArrowError) -> StoreError {
    match error {
        ArrowError::IoError(_, error) => cause_of_io(name, error),
        error => corrupt(name, error.to_string()),
    }
}

fn cause_of_io(name: &str, error: io::Error) -> StoreError {
    error.downcast::<StoreError>().unwrap_or_else(|error| corrupt(name, error.to_string()))
}

/// A file that is read from its beginning to its end, and from there again.
struct StoredFile<'a> {
    store: &'a dyn Store,
    runtime: Handle,
    run: &'a StateRun,
    /// How far it is read, and the checksum so far.
    at: u64,
    hasher: Hasher,
    /// What was fetched last, and where in the file that begins.
    piece: Bytes,
    piece_at: u64,
}

impl<'a> StoredFile<'a> {
    fn new(store: &'a dyn Store, run: &'a StateRun) -> Self {
        let (runtime, hasher) = (Handle::current(), Hasher::new());
        Self { store, runtime, run, at: 0, hasher, piece: Bytes::new(), piece_at: 0 }
    }

    /// What is in memory of what comes next, fetched if nothing is; empty at the end.
    fn at_hand(&mut self) -> io::Result<Bytes> {
        let piece_end = self.piece_at + self.piece.len() as u64;
        if !(self.piece_at..piece_end).contains(&self.at) {
            // One piece is in memory, not two.
            (self.piece, self.piece_at) = (Bytes::new(), self.at);
            let end = self.run.bytes.min(self.at + PIECE_BYTES as u64);
            if self.at < end {
                let fetched = self.store.read_range(&self.run.name, self.at..end);
                self.piece = self.runtime.block_on(fetched).map_err(io::Error::other)?;
            }
        }
        Ok(self.piece.slice((self.at - self.piece_at) as usize..))
    }

    /// Reads as far as the state, and answers how many bytes that has.
    fn find_state(&mut self) -> Result<u64, StoreError> {
        let run = self.run;
        let failed = |error| cause_of_io(&run.name, error);
        let beginning = self.at_hand().map_err(failed)?;
        let Index { sinks, state, rest } = Index::read(&run.name, &beginning)?;
        let index = (beginning.len() - rest.len()) as u64;
        let state_at = sinks.iter().try_fold(index, |at, (_, length)| at.checked_add(*length));
        let state_at = state_at.filter(|at| at.checked_add(state).is_some_and(|end| end <= run.bytes));
        let state_at = state_at.ok_or_else(|| cut_short(&run.name))?;
        io::copy(&mut self.by_ref().take(state_at), &mut io::sink()).map_err(failed)?;
        Ok(state)
    }

    /// Reads what is left, and goes back to the beginning if the whole is as recorded.
    fn check(&mut self) -> Result<(), StoreError> {
        let run = self.run;
        io::copy(self, &mut io::sink()).map_err(|error| cause_of_io(&run.name, error))?;
        let crc32 = mem::take(&mut self.hasher).finalize();
        if (self.at, crc32) != (run.bytes, run.crc32) {
            return Err(unlike_record(&run.name, self.at));
        }
        self.at = 0;
        Ok(())
    }
}

impl Read for StoredFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.at_hand()?;
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        self.hasher.update(&piece[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

/// A new file of state only. Dropped before it is finished, it is none.
pub struct StateWriter<'a> {
    file: FileWriter<'a>,
    /// Begins with the first batch; its bytes go on to the file.
    stream: Option<StreamWriter<Vec<u8>>>,
}

/// What a record says of a file.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub bytes: u64,
    pub crc32: u32,
    pub state_bytes: u64,
}

impl<'a> StateWriter<'a> {
    pub fn new(store: &'a dyn Store, name: &'a str) -> Self {
        Self { file: FileWriter::new(store, name), stream: None }
    }

    /// The next batch; all are of one schema.
    ///
    /// # Errors
    /// Those of the store, where a piece is full.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            // The first batch may be a short one in front of long ones.
            none => none.insert(stream_writer(vec![], batch, true)?),
        };
        stream.write(batch).map_err(failed)?;
        self.file.push(&mem::take(stream.get_mut()))
    }

    /// Makes it durable; a file of that name that exists is an error.
    ///
    /// # Errors
    /// Those of the store.
    pub fn finish(mut self) -> Result<Written, StoreError> {
        if let Some(mut stream) = self.stream {
            stream.finish().map_err(failed)?;
            self.file.push(stream.get_ref())?;
        }
        self.file.finish()
    }
}

struct FileWriter<'a> {
    store: &'a dyn Store,
    runtime: Handle,
    name: &'a str,
    /// Once there are several pieces: the first, which waits for the length of the state, and where the others go.
    begun: Option<(Vec<u8>, Box<dyn NewFile>)>,
    piece: Vec<u8>,
    state_bytes: u64,
    state_hasher: Hasher,
}

impl<'a> FileWriter<'a> {
    fn new(store: &'a dyn Store, name: &'a str) -> Self {
        let piece = vec![0; index_bytes(0)];
        Self { store, runtime: Handle::current(), name, begun: None, piece, state_bytes: 0, state_hasher: Hasher::new() }
    }

    fn push(&mut self, mut state: &[u8]) -> Result<(), StoreError> {
        self.state_bytes += state.len() as u64;
        self.state_hasher.update(state);
        while !state.is_empty() {
            // Not before more comes: so the last piece is never empty.
            if self.piece.len() == PIECE_BYTES {
                self.cut()?;
            }
            let (fits, rest) = state.split_at(state.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(fits);
            state = rest;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), StoreError> {
        let piece = mem::take(&mut self.piece);
        if let Some((_, others)) = &mut self.begun {
            return self.runtime.block_on(others.append(piece.into()));
        }
        self.begun = Some((piece, self.runtime.block_on(self.store.begin(self.name))?));
        Ok(())
    }

    fn finish(self) -> Result<Written, StoreError> {
        let Self { store, runtime, name, begun, mut piece, state_bytes, state_hasher } = self;
        let head = head(&[], state_bytes);
        let mut hasher = Hasher::new();
        hasher.update(&head);
        hasher.combine(&state_hasher);
        let written = Written { bytes: head.len() as u64 + state_bytes, crc32: hasher.finalize(), state_bytes };
        runtime.block_on(async move {
            let Some((mut first, mut others)) = begun else {
                piece[..head.len()].copy_from_slice(&head);
                return store.create(name, piece.into()).await;
            };
            first[..head.len()].copy_from_slice(&head);
            others.append(piece.into()).await?;
            others.finish(first.into()).await
        })?;
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use arrow::{
        array::{Array, BinaryArray, Int64Array},
        datatypes::{DataType, Field, Schema},
    };
    use polybolos_streaming::ids::{Epoch, SinkId};

    use super::*;
    use crate::{
        LocalStore,
        part::{Encoded, Sections, decode, encode},
    };

    /// Batches of so many megabytes that cannot be compressed, of enough rows for [`encode`] to try.
    fn batches(megabytes: &[usize]) -> Vec<RecordBatch> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("v", DataType::Binary, false)]));
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut megabyte = || -> Vec<u8> {
            let words = (0..1 << 17).flat_map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()
            });
            words.collect()
        };
        let mut batch = |megabytes: usize| {
            let bytes: Vec<u8> = (0..megabytes).flat_map(|_| megabyte()).collect();
            let values = BinaryArray::from_iter_values(bytes.chunks(1 << 14));
            let numbers = Int64Array::from_iter_values(0..values.len() as i64);
            let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(numbers), Arc::new(values)];
            RecordBatch::try_new(schema.clone(), columns).expect("batch")
        };
        megabytes.iter().map(|megabytes| batch(*megabytes)).collect()
    }

    async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.expect("ends")
    }

    async fn write(store: &LocalStore, name: &'static str, batches: Vec<RecordBatch>) -> StateRun {
        let store = store.clone();
        let written = on_a_thread(move || {
            let mut writer = StateWriter::new(&store, name);
            batches.iter().try_for_each(|batch| writer.write(batch))?;
            writer.finish()
        });
        let Written { bytes, crc32, state_bytes } = written.await.expect("writes");
        run(name, bytes, crc32, state_bytes)
    }

    fn run(name: &str, bytes: u64, crc32: u32, state_bytes: u64) -> StateRun {
        StateRun { name: name.into(), bytes, crc32, state_bytes, first_epoch: Epoch(1), last_epoch: Epoch(1), end: None }
    }

    async fn read(store: &LocalStore, run: &StateRun) -> Result<Vec<RecordBatch>, StoreError> {
        let (store, run) = (store.clone(), run.clone());
        on_a_thread(move || {
            let mut batches = vec![];
            each_state_batch(&store, &run, |batch| {
                batches.push(batch);
                Ok::<_, StoreError>(())
            })?;
            Ok(batches)
        })
        .await
    }

    #[tokio::test]
    async fn what_is_written_in_pieces_is_the_file_that_is_written_at_once_and_is_read() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        // Nothing, one piece, a batch of several, and several batches.
        let cases = [("a", vec![]), ("b", vec![1]), ("c", vec![20]), ("d", vec![5, 0, 9, 3, 1])];
        for (name, megabytes) in cases {
            let batches = batches(&megabytes);
            let written = write(&store, name, batches.clone()).await;
            let filled: Vec<RecordBatch> = batches.into_iter().filter(|batch| batch.num_rows() > 0).collect();
            assert_eq!(read(&store, &written).await.expect("reads"), filled);
            let file = store.read(name).await.expect("reads");
            assert_eq!(written.bytes, file.len() as u64);
            assert_eq!(decode(name, &file, written.crc32).expect("decodes").state, filled);
            let at_once = encode(&Sections { state: filled, ..Sections::default() }).expect("encodes");
            assert!(at_once.bytes == file && at_once.state_bytes == written.state_bytes, "{name}");
        }
    }

    #[tokio::test]
    async fn what_comes_behind_a_short_batch_is_compressed() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Binary, false)]));
        let batch = |rows: usize| {
            let values = BinaryArray::from_iter_values(std::iter::repeat_n([7_u8; 1 << 10], rows));
            RecordBatch::try_new(schema.clone(), vec![Arc::new(values)]).expect("batch")
        };
        let batches = vec![batch(1), batch(1 << 10)];
        let written = write(&store, "run", batches.clone()).await;
        assert!(written.bytes < 1 << 17, "{} bytes", written.bytes);
        assert_eq!(read(&store, &written).await.expect("reads"), batches);
    }

    #[tokio::test]
    async fn the_state_behind_what_is_for_sinks_is_found() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        let (sink, state) = (batches(&[9]), batches(&[2]));
        let sections = Sections { sinks: [(SinkId(3), sink)].into(), state: state.clone() };
        let Encoded { bytes, crc32, state_bytes } = encode(&sections).expect("encodes");
        let recorded = run("part", bytes.len() as u64, crc32, state_bytes);
        store.create("part", bytes).await.expect("creates");
        assert_eq!(read(&store, &recorded).await.expect("reads"), state);
    }

    #[tokio::test]
    async fn a_file_that_is_torn_or_changed_is_damaged_and_one_that_cannot_be_read_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        let written = write(&store, "run", batches(&[9, 9])).await;
        let path: &Path = &folder.path().join("run");
        let whole = std::fs::read(path).expect("reads");
        // In the index, at the border of two pieces, and in the last batch.
        for at in [3, 22, PIECE_BYTES, whole.len() - 9] {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            for file in [&changed[..], &whole[..at]] {
                std::fs::write(path, file).expect("writes");
                let told = read(&store, &written).await.expect_err("damaged").to_string();
                let expected = format!("part file run is damaged: its {} bytes do not have the recorded checksum", file.len());
                assert!(told.starts_with(&expected), "{told}");
            }
        }
        std::fs::remove_file(path).expect("removes");
        assert!(matches!(read(&store, &written).await, Err(StoreError::Missing { .. })));
    }

    #[tokio::test]
    async fn a_file_that_is_not_finished_is_none() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        let (of_thread, path) = (store.clone(), folder.path().join("parts/run"));
        on_a_thread(move || {
            let mut writer = StateWriter::new(&of_thread, "parts/run");
            writer.write(&batches(&[20])[0]).expect("writes");
            assert!(path.exists(), "it was begun");
        })
        .await;
        assert!(store.list("parts/").await.expect("lists").is_empty());
    }
}
