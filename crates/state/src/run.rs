//! State as rows of bytes: the delta of an epoch, and runs of several epochs merged into one.
use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Array, AsArray, BinaryBuilder, Int64Builder, RecordBatch, UInt32Builder},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type},
};
use hashbrown::HashMap;

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

pub(crate) fn rows(batch: &RecordBatch) -> Result<impl Iterator<Item = Row<'_>>, StateError> {
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

/// Adjacent runs, oldest first, as one: of each key the last change. `from_the_start`: nothing lies before them, so deletes need not be kept. Entries
/// that expire at or before `watermark` (that of a recorded epoch) are left out.
pub fn merge_runs(runs: &[Vec<RecordBatch>], from_the_start: bool, watermark: Option<i64>) -> Result<Vec<RecordBatch>, StateError> {
    let mut last: HashMap<RunKey<'_>, (Option<&[u8]>, Option<i64>)> = HashMap::new();
    for batch in runs.iter().flatten() {
        for row in rows(batch)? {
            let known = last.entry((row.table, row.key, row.subkey)).or_default();
            *known = (row.value, row.expiry.or(known.1));
        }
    }
    let mut writer = Writer::new();
    for ((table, key, subkey), (value, expiry)) in last {
        let expired = matches!((expiry, watermark), (Some(at), Some(watermark)) if at <= watermark);
        // What expired may stand in an earlier run too; there it expires by itself.
        if expired || (from_the_start && value.is_none()) {
            continue;
        }
        writer.add(table, key, subkey, value, expiry)?;
    }
    writer.finish()
}
