//! Reading: a thread walks the key ranges of a slice in order, decodes only the columns that are asked for, filters exactly, and
//! sends batches through a short channel, so that a slow reader holds few of them in memory.
use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, Scalar},
    compute::{and, filter_record_batch, kernels::cmp, or},
    datatypes::{Field, Schema, SchemaRef},
    error::ArrowError,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use fjall::Guard;
use futures::{
    StreamExt, future,
    stream::{self, BoxStream},
};
use polybolos_tables::{KeyPredicate, PredicateOp, ScanRequest, ScanSlice, TableError};
use tokio::sync::mpsc;

use super::{
    Damage, Store, Table,
    cells::{self, Cells},
    columns::ColumnBuilder,
    key,
    ranges::{self, KeyRange},
};

/// What the contract allows at most.
const BATCH_ROWS: usize = 8192;
/// One batch being read while the thread fills the next.
const BATCHES_AHEAD: usize = 1;

type BatchResult = Result<RecordBatch, TableError>;

/// Streams the rows of one slice.
pub(super) fn scan(
    store: &Arc<Store>,
    table: Result<Arc<Table>, TableError>,
    request: &ScanRequest,
    slice: &ScanSlice,
) -> BoxStream<'static, BatchResult> {
    let prepared = table.and_then(|table| Scan::new(Arc::clone(store), table, request, slice));
    let scan = match prepared {
        Ok(scan) => scan,
        Err(error) => return stream::iter([Err(error)]).boxed(),
    };
    // Nothing is read before the stream is polled.
    stream::once(async move {
        let (batches, receiver) = mpsc::channel(BATCHES_AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            if let Err(error) = scan.run(&batches) {
                // A reader that has gone away wants no error either.
                _ = batches.blocking_send(Err(error));
            }
        });
        let read = stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|batch| (batch, receiver)) });
        // Where the thread died, the rows so far are not all.
        let died = |error| Err(TableError::Bug(format!("the thread that reads an embedded table died: {error}")));
        read.chain(stream::once(reading).filter_map(move |ended| future::ready(ended.err().map(died))))
    })
    .flatten()
    .boxed()
}

/// Everything a scan needs, resolved against the stored table.
struct Scan {
    store: Arc<Store>,
    table: Arc<Table>,
    ranges: Vec<KeyRange>,
    predicates: Vec<KeyPredicate>,
    /// Columns of the table that are decoded, those of the output first.
    columns: Vec<usize>,
    /// How many of `columns` are output.
    output: usize,
    schema: SchemaRef,
    limit: usize,
}

impl Scan {
    fn new(store: Arc<Store>, table: Arc<Table>, request: &ScanRequest, slice: &ScanSlice) -> Result<Self, TableError> {
        let schema = &table.stored.schema;
        let position = |name: &str| {
            let found = schema.columns.iter().position(|column| column.name == name);
            let mismatch = || vec![format!("it has no column {name}")];
            found.ok_or_else(|| TableError::Mismatch { table: schema.name.to_string(), mismatches: mismatch() })
        };
        let mut columns = request.columns.iter().map(|name| position(name)).collect::<Result<Vec<_>, _>>()?;
        let output = columns.len();
        for predicate in &request.predicates {
            if !ranges::supports(schema, predicate) {
                let (column, op) = (&predicate.column, predicate.op);
                return Err(TableError::Bug(format!("predicate {op:?} on {column} of table {} is not supported", schema.name)));
            }
            let column = position(&predicate.column)?;
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        let stored = schema.arrow();
        let fields: Vec<Field> = columns.iter().map(|column| stored.field(*column).clone()).collect();
        Ok(Self {
            ranges: ranges::key_ranges(&table.stored, &request.predicates, ranges::tokens(slice)?),
            predicates: request.predicates.clone(),
            columns,
            output,
            schema: Arc::new(Schema::new(fields)),
            limit: request.limit.unwrap_or(usize::MAX),
            store,
            table,
        })
    }

    fn run(self, batches: &mpsc::Sender<BatchResult>) -> Result<(), TableError> {
        let mut left = self.limit;
        let now_us = self.store.now_us();
        let mut decoder = Decoder::new(&self.table, &self.columns, now_us);
        let ranges = self.ranges.iter();
        // All ranges are read from one state of the table.
        let snapshot = self.store.database.snapshot();
        let mut rows = ranges.flat_map(|range| range_of(&snapshot, &self.table, range));
        while left > 0 {
            // With a filter the limit says nothing about how many rows must be read.
            let wanted = if self.predicates.is_empty() { left.min(BATCH_ROWS) } else { BATCH_ROWS };
            let read = decoder.fill(&mut rows, wanted).map_err(|error| self.error(error))?;
            if read == 0 {
                return Ok(());
            }
            let batch = decoder.finish(&self.schema, read).map_err(|error| self.table.damaged(error))?;
            let batch = self.filter(batch).map_err(|error| TableError::Bug(error.to_string()))?;
            let batch = batch.slice(0, batch.num_rows().min(left));
            left -= batch.num_rows();
            if batch.num_rows() > 0 && batches.blocking_send(Ok(batch)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Applies the predicates and drops the columns that only they needed.
    fn filter(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let mut mask: Option<BooleanArray> = None;
        for predicate in &self.predicates {
            let column = batch.column_by_name(&predicate.column).expect("predicate columns are decoded");
            let accepted = evaluate(column, predicate)?;
            mask = Some(match mask {
                Some(mask) => and(&mask, &accepted)?,
                None => accepted,
            });
        }
        let batch = match mask {
            Some(mask) => filter_record_batch(&batch, &mask)?,
            None => batch,
        };
        if self.output == self.columns.len() { Ok(batch) } else { batch.project(&(0..self.output).collect::<Vec<_>>()) }
    }

    fn error(&self, error: ReadError) -> TableError {
        match error {
            ReadError::Store(error) => self.store.error(error),
            ReadError::Damage(damage) => self.table.damaged(damage),
        }
    }
}

fn range_of(snapshot: &fjall::Snapshot, table: &Table, range: &KeyRange) -> fjall::Iter {
    use fjall::Readable;
    match &range.end {
        Some(end) => snapshot.range(&table.rows, range.start.as_slice()..end.as_slice()),
        None => snapshot.range(&table.rows, range.start.as_slice()..),
    }
}

fn evaluate(column: &ArrayRef, predicate: &KeyPredicate) -> Result<BooleanArray, ArrowError> {
    let value = |row: usize| Scalar::new(predicate.values.slice(row, 1));
    let compare = match predicate.op {
        PredicateOp::Eq | PredicateOp::In => cmp::eq,
        PredicateOp::Lt => cmp::lt,
        PredicateOp::LtEq => cmp::lt_eq,
        PredicateOp::Gt => cmp::gt,
        PredicateOp::GtEq => cmp::gt_eq,
    };
    let mut accepted = compare(column, &value(0))?;
    for row in 1..predicate.values.len() {
        accepted = or(&accepted, &compare(column, &value(row))?)?;
    }
    Ok(accepted)
}

enum ReadError {
    Store(fjall::Error),
    Damage(Damage),
}

impl From<fjall::Error> for ReadError {
    fn from(error: fjall::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

/// Decodes keys and rows into columns.
struct Decoder<'a> {
    table: &'a Table,
    columns: &'a [usize],
    builders: Vec<ColumnBuilder>,
    /// By key component and by cell: the builders that want it.
    key_targets: Vec<Vec<usize>>,
    cell_targets: Vec<Vec<usize>>,
    /// How many key components and cells have to be looked at.
    key_depth: usize,
    cell_depth: usize,
    scratch: Vec<u8>,
    /// What has expired by then is not there.
    now_us: i64,
}

impl<'a> Decoder<'a> {
    fn new(table: &'a Table, columns: &'a [usize], now_us: i64) -> Self {
        let stored = &table.stored;
        let targets = |column: usize| (0..columns.len()).filter(|target| columns[*target] == column).collect::<Vec<_>>();
        let key_targets: Vec<_> = stored.key.iter().map(|(column, _)| targets(*column)).collect();
        let cell_targets: Vec<_> = stored.cells.iter().map(|column| targets(*column)).collect();
        let depth = |targets: &[Vec<usize>]| targets.iter().rposition(|targets| !targets.is_empty()).map_or(0, |last| last + 1);
        let (key_depth, cell_depth) = (depth(&key_targets), depth(&cell_targets));
        Self { table, columns, builders: Vec::new(), key_targets, cell_targets, key_depth, cell_depth, scratch: Vec::new(), now_us }
    }

    /// Decodes up to `wanted` rows and says how many there were.
    fn fill(&mut self, rows: &mut impl Iterator<Item = Guard>, wanted: usize) -> Result<usize, ReadError> {
        let schema = &self.table.stored.schema;
        let builder = |column: &usize| ColumnBuilder::new(&schema.columns[*column].data_type, wanted);
        self.builders = self.columns.iter().map(|column| builder(column).expect("stored types have a layout")).collect();
        let mut read = 0;
        while read < wanted {
            let Some(row) = rows.next() else { break };
            let (key, row) = row.into_inner()?;
            if !cells::is_visible(&self.table.stored.cell_layouts, &row, self.now_us)? {
                continue;
            }
            self.decode_key(&key)?;
            self.decode_cells(&row)?;
            read += 1;
        }
        Ok(read)
    }

    fn decode_key(&mut self, key: &[u8]) -> Result<(), Damage> {
        let mut rest = key.get(key::TOKEN_BYTES..).ok_or(Damage("a key is too short"))?;
        for component in 0..self.key_depth {
            key::take(self.table.stored.key[component].1, &mut rest, &mut self.scratch)?;
            for target in &self.key_targets[component] {
                self.builders[*target].push(Some(&self.scratch))?;
            }
        }
        Ok(())
    }

    fn decode_cells(&mut self, row: &[u8]) -> Result<(), Damage> {
        let mut cells = Cells::new(&self.table.stored.cell_layouts, row)?;
        for targets in &self.cell_targets[..self.cell_depth] {
            let value = cells.next_cell()?.and_then(|cell| cell.value_at(self.now_us));
            for target in targets {
                self.builders[*target].push(value)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, schema: &SchemaRef, rows: usize) -> Result<RecordBatch, Damage> {
        let arrays = self.builders.drain(..).map(ColumnBuilder::finish).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options).map_err(|_| Damage("rows do not fit the schema"))
    }
}
