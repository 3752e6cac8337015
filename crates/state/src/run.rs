//! State as rows of bytes: the delta of an epoch, and runs of several epochs merged into one.
use std::{
    hash::BuildHasher,
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{
        Array, AsArray, BinaryArray, BinaryBuilder, BooleanArray, BooleanBuilder, Int64Array, Int64Builder, RecordBatch,
        UInt32Builder,
    },
    compute::{filter_record_batch, interleave, nullif},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type},
};
use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};

use crate::{Passed, StateError, lane_of};

/// Rows and bytes per batch: offsets are 32 bits wide.
const BATCH_ROWS: usize = 65_536;
const BATCH_BYTES: usize = 256 << 20;

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

    fn bytes(&self, row: usize) -> usize {
        [self.keys, self.subkeys, self.values].iter().map(|column| column.value_length(row) as usize).sum()
    }
}

/// The rows of a batch of a run whose keys are of one of so many parts. Runs can be merged part by part.
///
/// # Errors
/// When it is not of a run.
pub fn part_of(batch: &RecordBatch, part: usize, parts: usize) -> Result<RecordBatch, StateError> {
    if parts <= 1 {
        return Ok(batch.clone());
    }
    let keys = Columns::of(batch)?.keys;
    let is_of_part: BooleanArray = (0..batch.num_rows()).map(|row| Some(lane_of(keys.value(row), parts) == part)).collect();
    Ok(filter_record_batch(batch, &is_of_part)?)
}

/// The last change of a key, by batch and row.
#[derive(Clone, Copy)]
struct Last {
    batch: u32,
    row: u32,
    is_deleted: bool,
    /// It ended: no value of it is to be found again, in no earlier run either.
    has_expired: bool,
}

/// Adjacent runs, oldest first, as one: of each key the last change. `from_the_start`: nothing lies before them, so deletes need not be kept. Entries
/// that ended by `recorded` (as far as time had gone in a recorded epoch) are left out.
pub fn merge_runs(runs: &[Vec<RecordBatch>], from_the_start: bool, recorded: Passed) -> Result<Vec<RecordBatch>, StateError> {
    let batches: Vec<&RecordBatch> = runs.iter().flatten().collect();
    let columns = batches.iter().map(|batch| Columns::of(batch)).collect::<Result<Vec<_>, _>>()?;
    let count = batches.iter().map(|batch| batch.num_rows()).sum();
    let hasher = DefaultHashBuilder::default();
    // Numbers of `lasts`, so that the table is small beside what it tells apart.
    let mut known: HashTable<u32> = HashTable::with_capacity(count);
    let mut lasts: Vec<Last> = vec![];
    let identity = |last: &Last| columns[last.batch as usize].identity(last.row as usize);
    // From the newest to the oldest: the first that is met counts.
    for (batch, of_batch) in columns.iter().enumerate().rev() {
        for at in (0..batches[batch].num_rows()).rev() {
            let found = of_batch.identity(at);
            let place = known.entry(
                hasher.hash_one(found),
                |number| identity(&lasts[*number as usize]) == found,
                |number| hasher.hash_one(identity(&lasts[*number as usize])),
            );
            let Entry::Vacant(place) = place else { continue };
            place.insert(lasts.len() as u32);
            let ends = of_batch.ends(at);
            let has_expired = matches!((ends.at, recorded.of(ends.by_clock)), (Some(at), Some(through)) if at <= through);
            lasts.push(Last {
                batch: batch as u32,
                row: at as u32,
                is_deleted: of_batch.values.is_null(at) || has_expired,
                has_expired,
            });
        }
    }
    drop(known);
    if from_the_start {
        lasts.retain(|last| !last.is_deleted);
    }
    let mut merged = vec![];
    let mut rest = lasts.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |last: &&Last| {
            bytes += columns[last.batch as usize].bytes(last.row as usize);
            bytes <= BATCH_BYTES
        };
        let (these, others) = rest.split_at(rest.iter().take(BATCH_ROWS).take_while(fits).count().max(1));
        merged.push(gather(&batches, these)?);
        rest = others;
    }
    Ok(merged)
}

fn gather(batches: &[&RecordBatch], rows: &[Last]) -> Result<RecordBatch, StateError> {
    let places: Vec<(usize, usize)> = rows.iter().map(|last| (last.batch as usize, last.row as usize)).collect();
    let column = |index: usize| {
        let from: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(index).as_ref()).collect();
        interleave(&from, &places)
    };
    let mut columns = (0..run_schema().fields().len()).map(column).collect::<Result<Vec<_>, _>>()?;
    if rows.iter().any(|row| row.has_expired) {
        let deleted: BooleanArray = rows.iter().map(|row| Some(row.is_deleted)).collect();
        columns[VALUE] = nullif(&columns[VALUE], &deleted)?;
    }
    Ok(RecordBatch::try_new(run_schema(), columns)?)
}
