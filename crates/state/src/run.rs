//! State as rows of bytes: the delta of an epoch, and runs of several epochs merged into one.
use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryBuilder, Int64Array, Int64Builder, RecordBatch, UInt32Builder},
    compute::interleave,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type},
};
use hashbrown::{HashMap, hash_map::Entry};

use crate::StateError;

/// Rows and bytes per batch: offsets are 32 bits wide.
const BATCH_ROWS: usize = 65_536;
const BATCH_BYTES: usize = 256 << 20;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("table", DataType::UInt32, false),
        Field::new("key", DataType::Binary, false),
        Field::new("subkey", DataType::Binary, true),
        // NULL: deleted.
        Field::new("value", DataType::Binary, true),
        Field::new("expiry", DataType::Int64, true),
    ]))
});

/// The columns of a run: table, key, row within a bucket, value (NULL: deleted), expiry.
pub fn run_schema() -> SchemaRef {
    SCHEMA.clone()
}

pub(crate) struct Row<'a> {
    pub table: usize,
    pub key: &'a [u8],
    pub subkey: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub expiry: Option<i64>,
}

pub(crate) fn rows(batch: &RecordBatch) -> Result<impl DoubleEndedIterator<Item = Row<'_>> + ExactSizeIterator, StateError> {
    if batch.schema().fields() != SCHEMA.fields() {
        return Err(StateError::Unusable(format!("its columns are {}", batch.schema())));
    }
    let tables = batch.column(0).as_primitive::<UInt32Type>();
    let [keys, subkeys, values] = [1, 2, 3].map(|index| batch.column(index).as_binary::<i32>());
    let expiries = batch.column(4).as_primitive::<Int64Type>();
    Ok((0..batch.num_rows()).map(move |row| Row {
        table: tables.value(row) as usize,
        key: keys.value(row),
        subkey: subkeys.is_valid(row).then(|| subkeys.value(row)),
        value: values.is_valid(row).then(|| values.value(row)),
        expiry: expiries.is_valid(row).then(|| expiries.value(row)),
    }))
}

pub(crate) struct Writer {
    tables: UInt32Builder,
    keys: BinaryBuilder,
    subkeys: BinaryBuilder,
    values: BinaryBuilder,
    expiries: Int64Builder,
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
        expiry: Option<i64>,
    ) -> Result<(), StateError> {
        self.tables.append_value(table as u32);
        self.keys.append_value(key);
        self.subkeys.append_option(subkey);
        self.values.append_option(value);
        self.expiries.append_option(expiry);
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

type RunKey<'a> = (usize, &'a [u8], Option<&'a [u8]>);

/// A row that stays, by batch and row, and its expiry.
struct Kept {
    batch: usize,
    row: usize,
    bytes: usize,
    expiry: Option<i64>,
    is_deleted: bool,
}

/// Adjacent runs, oldest first, as one: of each key the last change. `from_the_start`: nothing lies before them, so deletes need not be kept. Entries
/// that expire at or before `watermark` (that of a recorded epoch) are left out.
pub fn merge_runs(runs: &[Vec<RecordBatch>], from_the_start: bool, watermark: Option<i64>) -> Result<Vec<RecordBatch>, StateError> {
    let batches: Vec<&RecordBatch> = runs.iter().flatten().collect();
    let count = batches.iter().map(|batch| batch.num_rows()).sum();
    let mut places: HashMap<RunKey<'_>, usize> = HashMap::with_capacity(count);
    let mut kept: Vec<Kept> = Vec::with_capacity(count);
    // From the newest to the oldest: the first that is met counts.
    for (index, batch) in batches.iter().enumerate().rev() {
        for (at, row) in rows(batch)?.enumerate().rev() {
            match places.entry((row.table, row.key, row.subkey)) {
                Entry::Vacant(place) => {
                    place.insert(kept.len());
                    let bytes = row.key.len() + row.subkey.map_or(0, <[u8]>::len) + row.value.map_or(0, <[u8]>::len);
                    kept.push(Kept { batch: index, row: at, bytes, expiry: row.expiry, is_deleted: row.value.is_none() });
                }
                // A later change may leave the expiry as it was.
                Entry::Occupied(place) => {
                    let newer = &mut kept[*place.get()];
                    newer.expiry = newer.expiry.or(row.expiry);
                }
            }
        }
    }
    drop(places);
    // What expired may stand in an earlier run too; there it expires by itself.
    kept.retain(|row| {
        let expired = matches!((row.expiry, watermark), (Some(at), Some(watermark)) if at <= watermark);
        !expired && !(from_the_start && row.is_deleted)
    });
    let mut merged = vec![];
    let mut rest = kept.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |row: &&Kept| {
            bytes += row.bytes;
            bytes <= BATCH_BYTES
        };
        let (these, others) = rest.split_at(rest.iter().take(BATCH_ROWS).take_while(fits).count().max(1));
        merged.push(gather(&batches, these)?);
        rest = others;
    }
    Ok(merged)
}

fn gather(batches: &[&RecordBatch], rows: &[Kept]) -> Result<RecordBatch, StateError> {
    let places: Vec<(usize, usize)> = rows.iter().map(|row| (row.batch, row.row)).collect();
    let column = |index: usize| {
        let from: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(index).as_ref()).collect();
        interleave(&from, &places)
    };
    let expiries: Int64Array = rows.iter().map(|row| row.expiry).collect();
    let columns = vec![column(0)?, column(1)?, column(2)?, column(3)?, Arc::new(expiries) as ArrayRef];
    Ok(RecordBatch::try_new(run_schema(), columns)?)
}
