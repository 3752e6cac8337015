//! State as rows of bytes: the delta of an epoch, and runs of several epochs merged into one.
use std::{
    hash::{BuildHasher, BuildHasherDefault, Hasher},
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{
        Array, AsArray, BinaryArray, BinaryBuilder, BooleanArray, BooleanBufferBuilder, BooleanBuilder, Int64Array, Int64Builder,
        RecordBatch, UInt32Array, UInt32Builder,
    },
    compute::{BatchCoalescer, nullif, take_record_batch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type},
};
use hashbrown::{DefaultHashBuilder, HashSet};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::{Passed, StateError, lane_of};

/// Rows and bytes per batch: whoever merges runs has some batches in memory. (Older versions wrote up to 256 MiB.)
const BATCH_ROWS: usize = 65_536;
const BATCH_BYTES: usize = 8 << 20;

/// So many keys of a merge are hashed before they are looked for: look-ups that wait for memory then stand close behind each other, and wait together.
const HASHED_ROWS: usize = 1_024;

/// The place of the value among a run's columns.
const VALUE: usize = 3;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("table", DataType::UInt32, false),
        Field::new("key", DataType::Binary, false),
        Field::new("subkey", DataType::Binary, true),
        // NULL: deleted.
        Field::new("value", DataType::Binary, true),
        Field::new("expiry", DataType::Int64, true),
        // Whether it is a time of the clock; else of the watermark.
        Field::new("by_clock", DataType::Boolean, false),
    ]))
});

/// The columns of a run: table, key, row within a bucket, value (NULL: deleted), expiry, and by which time that is.
pub fn run_schema() -> SchemaRef {
    SCHEMA.clone()
}

/// When an entry ends, if it does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends {
    pub at: Option<i64>,
    pub by_clock: bool,
}

pub(crate) struct Row<'a> {
    pub table: usize,
    pub key: &'a [u8],
    pub subkey: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub ends: Ends,
}

pub(crate) fn rows(batch: &RecordBatch) -> Result<impl DoubleEndedIterator<Item = Row<'_>> + ExactSizeIterator, StateError> {
    let columns = Columns::of(batch)?;
    Ok((0..batch.num_rows()).map(move |row| columns.row(row)))
}

pub(crate) struct Writer {
    tables: UInt32Builder,
    keys: BinaryBuilder,
    subkeys: BinaryBuilder,
    values: BinaryBuilder,
    expiries: Int64Builder,
    by_clock: BooleanBuilder,
    rows: usize,
    bytes: usize,
    finished: Vec<RecordBatch>,
}

impl Writer {
    pub fn new() -> Self {
        Self {
            tables: UInt32Builder::new(),
            keys: BinaryBuilder::new(),
            subkeys: BinaryBuilder::new(),
            values: BinaryBuilder::new(),
            expiries: Int64Builder::new(),
            by_clock: BooleanBuilder::new(),
            rows: 0,
            bytes: 0,
            finished: vec![],
        }
    }

    pub fn add(
        &mut self,
        table: usize,
        key: &[u8],
        subkey: Option<&[u8]>,
        value: Option<&[u8]>,
        ends: Ends,
    ) -> Result<(), StateError> {
        self.tables.append_value(table as u32);
        self.keys.append_value(key);
        self.subkeys.append_option(subkey);
        self.values.append_option(value);
        self.expiries.append_option(ends.at);
        self.by_clock.append_value(ends.by_clock);
        self.rows += 1;
        self.bytes += key.len() + subkey.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES { self.cut() } else { Ok(()) }
    }

    fn cut(&mut self) -> Result<(), StateError> {
        let batch = RecordBatch::try_new(
            run_schema(),
            vec![
                Arc::new(self.tables.finish()),
                Arc::new(self.keys.finish()),
                Arc::new(self.subkeys.finish()),
                Arc::new(self.values.finish()),
                Arc::new(self.expiries.finish()),
                Arc::new(self.by_clock.finish()),
            ],
        )?;
        self.finished.push(batch);
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    pub fn finish(mut self) -> Result<Vec<RecordBatch>, StateError> {
        if self.rows > 0 {
            self.cut()?;
        }
        Ok(self.finished)
    }
}

/// The columns of a batch of a run.
struct Columns<'a> {
    tables: &'a [u32],
    keys: &'a BinaryArray,
    subkeys: &'a BinaryArray,
    values: &'a BinaryArray,
    expiries: &'a Int64Array,
    by_clock: &'a BooleanArray,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, StateError> {
        if batch.schema().fields() != SCHEMA.fields() {
            return Err(StateError::Unusable(format!("its columns are {}", batch.schema())));
        }
        let [keys, subkeys, values] = [1, 2, VALUE].map(|index| batch.column(index).as_binary::<i32>());
        let expiries = batch.column(4).as_primitive::<Int64Type>();
        let by_clock = batch.column(5).as_boolean();
        Ok(Self { tables: batch.column(0).as_primitive::<UInt32Type>().values(), keys, subkeys, values, expiries, by_clock })
    }

    /// What tells a row from others: table, key, and row within a bucket.
    fn identity(&self, row: usize) -> (u32, &'a [u8], Option<&'a [u8]>) {
        (self.tables[row], self.keys.value(row), self.subkeys.is_valid(row).then(|| self.subkeys.value(row)))
    }

    fn row(&self, row: usize) -> Row<'a> {
        let (table, key, subkey) = self.identity(row);
        let value = self.values.is_valid(row).then(|| self.values.value(row));
        Row { table: table as usize, key, subkey, value, ends: self.ends(row) }
    }

    fn ends(&self, row: usize) -> Ends {
        Ends { at: self.expiries.is_valid(row).then(|| self.expiries.value(row)), by_clock: self.by_clock.value(row) }
    }

    fn bytes(&self) -> usize {
        [self.keys, self.subkeys, self.values].iter().map(|column| column.value_data().len()).sum()
    }

    /// Of what tells the row from others; `buffer` is for use by it alone.
    fn hash(&self, row: usize, seed: u64, buffer: &mut Vec<u8>) -> u128 {
        let (table, key, subkey) = self.identity(row);
        buffer.clear();
        buffer.extend_from_slice(&table.to_le_bytes());
        buffer.extend_from_slice(&(key.len() as u64).to_le_bytes());
        buffer.extend_from_slice(key);
        if let Some(subkey) = subkey {
            buffer.push(1);
            buffer.extend_from_slice(subkey);
        }
        xxh3_128_with_seed(buffer, seed)
    }
}

/// A batch of a run as so many, each with the rows whose keys are of one part of all keys. Runs can be merged part by part.
///
/// # Errors
/// When it is not of a run.
pub fn parts_of(batch: &RecordBatch, parts: usize) -> Result<Vec<RecordBatch>, StateError> {
    let keys = Columns::of(batch)?.keys;
    let mut rows: Vec<Vec<u32>> = vec![vec![]; parts];
    for row in 0..batch.num_rows() {
        rows[lane_of(keys.value(row), parts)].push(row as u32);
    }
    rows.into_iter().map(|rows| Ok(take_record_batch(batch, &UInt32Array::from(rows))?)).collect()
}

/// Merges adjacent runs into one, in one pass over their batches, from the newest run to the oldest: of each key the last change. What it remembers of a
/// key is a hash of 128 bits with a seed of its own, so that neither keys nor batches stay in memory. Keys of the oldest run are only asked for: a run has
/// each key once, and nothing comes after it. It is often half of all rows.
#[derive(Debug)]
pub struct Merging {
    /// Nothing lies before the runs, so deletes need not be kept.
    from_the_start: bool,
    /// How far time had gone in a recorded epoch. What had ended by then is left out; no value of it is to be found again, in no earlier run either.
    recorded: Passed,
    known: HashSet<u128, BuildHasherDefault<AsHash>>,
    seed: u64,
    identity: Vec<u8>,
    /// Of the rows at hand.
    hashes: Vec<u128>,
    merged: BatchCoalescer,
    /// Bytes, at most, of the batch that is not complete yet.
    bytes: usize,
}

impl Merging {
    pub fn new(from_the_start: bool, recorded: Passed) -> Self {
        Self {
            from_the_start,
            recorded,
            known: HashSet::default(),
            seed: DefaultHashBuilder::default().hash_one(()),
            identity: vec![],
            hashes: vec![],
            merged: BatchCoalescer::new(run_schema(), BATCH_ROWS),
            bytes: 0,
        }
    }

    /// Takes a batch of the same run as the one before, or of an older one. `is_oldest`: of the oldest, after which no other run comes.
    ///
    /// # Errors
    /// When it is not of a run.
    pub fn take(&mut self, batch: &RecordBatch, is_oldest: bool) -> Result<(), StateError> {
        let columns = Columns::of(batch)?;
        let mut kept = BooleanBufferBuilder::new(batch.num_rows());
        let mut ended = BooleanBufferBuilder::new(batch.num_rows());
        let mut any_ended = false;
        for first in (0..batch.num_rows()).step_by(HASHED_ROWS) {
            let rows = first..batch.num_rows().min(first + HASHED_ROWS);
            self.hashes.clear();
            self.hashes.extend(rows.clone().map(|row| columns.hash(row, self.seed, &mut self.identity)));
            for (row, hash) in rows.zip(&self.hashes) {
                let ends = columns.ends(row);
                let has_ended = matches!((ends.at, self.recorded.of(ends.by_clock)), (Some(at), Some(through)) if at <= through);
                let is_last = if is_oldest { !self.known.contains(hash) } else { self.known.insert(*hash) };
                let is_gone = has_ended || columns.values.is_null(row);
                kept.append(is_last && !(self.from_the_start && is_gone));
                ended.append(has_ended);
                any_ended |= has_ended;
            }
        }
        let kept = BooleanArray::new(kept.finish(), None);
        let mut batch = batch.clone();
        if any_ended && !self.from_the_start {
            let mut columns = batch.columns().to_vec();
            columns[VALUE] = nullif(&columns[VALUE], &BooleanArray::new(ended.finish(), None))?;
            batch = RecordBatch::try_new(run_schema(), columns)?;
        }
        let bytes = columns.bytes();
        if self.bytes + bytes > BATCH_BYTES {
            self.flush()?;
        }
        self.bytes += bytes;
        self.merged.push_batch_with_filter(batch, &kept)?;
        if self.merged.has_completed_batch() {
            self.bytes = bytes;
        }
        Ok(())
    }

    /// The next batch of the merged run that is complete.
    pub fn next_batch(&mut self) -> Option<RecordBatch> {
        self.merged.next_completed_batch()
    }

    /// There are no more batches of these keys to take: what is left comes out, and the keys are forgotten. Those of another part may follow, from the
    /// newest run on.
    ///
    /// # Errors
    /// When Arrow fails.
    pub fn finish(&mut self) -> Result<(), StateError> {
        // Parts have about as many keys: the next one finds room for its own. One that had far more is no measure.
        if self.known.len() < self.known.capacity() / 4 {
            self.known = HashSet::default();
        } else {
            self.known.clear();
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), StateError> {
        self.bytes = 0;
        Ok(self.merged.finish_buffered_batch()?)
    }
}

/// A hash is its own.
#[derive(Default)]
struct AsHash(u64);

impl Hasher for AsHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (head, _) = bytes.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        self.0 = u64::from_le_bytes(*head);
    }
}

/// Adjacent runs, oldest first, as one: see [`Merging`].
///
/// # Errors
/// When one is not a run.
pub fn merge_runs(runs: &[Vec<RecordBatch>], from_the_start: bool, recorded: Passed) -> Result<Vec<RecordBatch>, StateError> {
    let mut merging = Merging::new(from_the_start, recorded);
    for (index, run) in runs.iter().enumerate().rev() {
        run.iter().try_for_each(|batch| merging.take(batch, index == 0))?;
    }
    merging.finish()?;
    Ok(std::iter::from_fn(|| merging.next_batch()).collect())
}

/// By when all of a run has ended: through these times; `None`: never.
///
/// # Errors
/// When it is not a run.
pub fn end_of_run(batches: &[RecordBatch]) -> Result<Option<Passed>, StateError> {
    let mut end = Passed::default();
    for batch in batches {
        let columns = Columns::of(batch)?;
        if columns.expiries.null_count() > 0 {
            return Ok(None);
        }
        for row in 0..batch.num_rows() {
            let Ends { at, by_clock } = columns.ends(row);
            let of = if by_clock { &mut end.clock_us } else { &mut end.watermark_us };
            *of = (*of).max(at);
        }
    }
    let is_never = [end.watermark_us, end.clock_us].contains(&Some(i64::MAX));
    Ok((!is_never).then_some(end))
}

#[cfg(test)]
mod tests;
