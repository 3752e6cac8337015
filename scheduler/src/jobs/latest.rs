//! What jobs wrote to their tables lately, for whoever watches one: a store of rows by key does not know which of them are new.
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

use datafusion::arrow::{
    array::{ArrayRef, RecordBatch, UInt32Array},
    compute::{cast, take_record_batch},
    datatypes::SchemaRef,
    error::ArrowError,
    row::{RowConverter, SortField},
};
use polybolos_operators::changes::is_delete;
use polybolos_persist::{StoreError, part};
use polybolos_sql::catalog::{Catalog, TableDefinition};
use polybolos_streaming::{
    coordinator::PublishOrder,
    ids::{Epoch, PartIndex, SinkId},
    report::{PartFile, PublishReport},
};

use super::manager::{Entry, JobManager};

/// Files kept of a table.
const FILES: usize = 64;

/// A larger file is not read for the sake of some rows.
const FILE_BYTES: u64 = 8 << 20;

/// Files whose rows are in the tables, under this leader.
#[derive(Debug, Default)]
pub struct Latest {
    ordered: BTreeMap<(SinkId, Epoch, PartIndex), PartFile>,
    written: BTreeMap<SinkId, VecDeque<PartFile>>,
}

impl Latest {
    pub fn ordered(&mut self, order: &PublishOrder) {
        if rows_of(&order.part, order.sink) > 0 && order.part.bytes <= FILE_BYTES {
            self.ordered.insert((order.sink, order.epoch, order.part.part), order.part.clone());
        }
    }

    pub fn written(&mut self, report: &PublishReport) {
        let Some(file) = self.ordered.remove(&(report.sink, report.epoch, report.part)) else { return };
        let files = self.written.entry(report.sink).or_default();
        files.push_back(file);
        if files.len() > FILES {
            files.pop_front();
        }
    }

    /// The newest first; as many as have so many rows.
    pub fn newest(&self, sink: SinkId, rows: usize) -> Vec<PartFile> {
        let mut found = 0;
        let mut files = vec![];
        for file in self.written.get(&sink).into_iter().flatten().rev() {
            if found >= rows as u64 {
                break;
            }
            found += rows_of(file, sink);
            files.push(file.clone());
        }
        files
    }
}

fn rows_of(file: &PartFile, sink: SinkId) -> u64 {
    file.rows.get(&sink).copied().unwrap_or(0)
}

impl JobManager {
    /// At most `limit` rows of a table: those that its job wrote last, newest first, and then of the `others`, which were read from it.
    pub async fn newest_first(
        &self,
        catalog: &Catalog,
        table: &TableDefinition,
        (schema, others): (&SchemaRef, &[RecordBatch]),
        limit: usize,
    ) -> anyhow::Result<Vec<RecordBatch>> {
        let mut rows = ByKey::new(schema, table, limit)?;
        let job = catalog.job_that_fills(&table.name).and_then(|job| self.find(&job.name));
        if let Some(Entry::Running(handle)) = job {
            let name = table.name.to_string();
            let sinks = handle.spec.sinks.iter().filter(|(_, (sink, _))| *sink == name).map(|(id, _)| *id);
            for sink in sinks {
                for file in handle.with_latest(|latest| latest.newest(sink, limit)) {
                    let bytes = match self.context().store.read(&file.name).await {
                        Ok(bytes) => bytes,
                        // Deleted since: it is not so new.
                        Err(StoreError::Missing { .. }) => break,
                        Err(error) => return Err(error.into()),
                    };
                    let decode = move || part::decode_sink(&file.name, &bytes, file.crc32, sink);
                    for batch in tokio::task::spawn_blocking(decode).await??.iter().rev() {
                        rows.add(batch, true)?;
                    }
                }
            }
        }
        for batch in others {
            rows.add(batch, false)?;
        }
        Ok(rows.batches)
    }
}

/// Rows of a table, of each key the first that comes.
struct ByKey {
    schema: SchemaRef,
    key: Vec<usize>,
    converter: RowConverter,
    seen: HashSet<Box<[u8]>>,
    batches: Vec<RecordBatch>,
    left: usize,
}

impl ByKey {
    fn new(schema: &SchemaRef, table: &TableDefinition, limit: usize) -> Result<Self, ArrowError> {
        let key = table.primary_key.iter().flat_map(|key| key.columns());
        let key = key.map(|column| schema.index_of(column)).collect::<Result<Vec<_>, _>>()?;
        let fields = key.iter().map(|&index| SortField::new(schema.field(index).data_type().clone())).collect();
        let converter = RowConverter::new(fields)?;
        Ok(Self { schema: schema.clone(), key, converter, seen: HashSet::new(), batches: vec![], left: limit })
    }

    fn column(&self, batch: &RecordBatch, index: usize) -> Result<ArrayRef, ArrowError> {
        let field = self.schema.field(index);
        let column = batch.column_by_name(field.name());
        let column = column.ok_or_else(|| ArrowError::SchemaError(format!("column {} is not written", field.name())))?;
        cast(column, field.data_type())
    }

    /// A row that is deleted is none, nor is an earlier one of its key.
    fn add(&mut self, batch: &RecordBatch, from_the_end: bool) -> Result<(), ArrowError> {
        if self.left == 0 || batch.num_rows() == 0 {
            return Ok(());
        }
        let key: Vec<ArrayRef> = self.key.iter().map(|&index| self.column(batch, index)).collect::<Result<_, _>>()?;
        let keys = self.converter.convert_columns(&key)?;
        let rows = batch.num_rows();
        let order = (0..rows).map(|row| if from_the_end { rows - 1 - row } else { row });
        let most = if is_delete(batch) { rows } else { self.left };
        let new = order.filter(|&row| self.seen.insert(keys.row(row).as_ref().into())).take(most);
        let new: Vec<u32> = new.map(|row| row as u32).collect();
        if !is_delete(batch) {
            let columns = (0..self.schema.fields().len()).map(|index| self.column(batch, index)).collect::<Result<_, _>>()?;
            let whole = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
            self.left -= new.len();
            self.batches.push(take_record_batch(&whole, &UInt32Array::from(new))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::{
        array::{AsArray, Int32Array, Int64Array, StringArray},
        datatypes::{DataType, Field, Int64Type, Schema},
    };
    use polybolos_operators::changes::mark_delete;
    use polybolos_sql::{
        catalog::{Change, apply},
        parser::parse,
    };
    use polybolos_streaming::ids::{ExecutorId, Generation, Incarnation};

    use super::*;

    fn order(epoch: u64, rows: u64, bytes: u64) -> PublishOrder {
        let rows = BTreeMap::from([(SinkId(0), rows)]);
        let part =
            PartFile { part: PartIndex(0), name: format!("{epoch}"), bytes, crc32: 0, rows, state_bytes: 0, state_end: None };
        PublishOrder { sink: SinkId(0), epoch: Epoch(epoch), part, timestamp_us: 0, executor: ExecutorId::new("here") }
    }

    fn report(order: &PublishOrder) -> PublishReport {
        PublishReport {
            incarnation: Incarnation("a1".into()),
            generation: Generation(1),
            epoch: order.epoch,
            sink: order.sink,
            part: order.part.part,
            rows: 1,
            retries: 0,
            write_us: 0,
            refused: None,
        }
    }

    #[test]
    fn the_newest_files_are_those_that_were_written_last() {
        let mut latest = Latest::default();
        let orders = [order(1, 5, 1), order(2, 3, 1), order(3, 0, 1), order(4, 4, FILE_BYTES + 1), order(5, 2, 1)];
        orders.iter().for_each(|order| latest.ordered(order));
        let names = |latest: &Latest, rows| latest.newest(SinkId(0), rows).into_iter().map(|file| file.name).collect::<Vec<_>>();
        assert!(names(&latest, 9).is_empty(), "nothing is in the table yet");
        // Orders are carried out in any order, and the same is told twice.
        for written in [&orders[1], &orders[0], &orders[3], &orders[4], &orders[4]] {
            latest.written(&report(written));
        }
        assert_eq!(names(&latest, 9), ["5", "1", "2"]);
        assert_eq!(names(&latest, 3), ["5", "1"]);
        assert!(latest.newest(SinkId(1), 9).is_empty() && latest.ordered.is_empty());
        for epoch in 10..200 {
            latest.ordered(&order(epoch, 1, 1));
            latest.written(&report(&order(epoch, 1, 1)));
        }
        assert_eq!(names(&latest, 1_000).len(), FILES);
    }

    fn batch(keys: Vec<&str>, values: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("k", Arc::new(StringArray::from(keys)) as ArrayRef), ("v", values)]).expect("batch")
    }

    #[test]
    fn each_key_has_its_newest_row_and_none_that_was_deleted() {
        let text =
            "CREATE TABLE s (k STRING, v BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's')";
        let change = Change { now_us: 0, incarnation: "a1".into() };
        let catalog = apply(&Catalog::default(), &parse(text).expect("read")[0], &change).expect("applied");
        let table = catalog.table(&"s".into()).expect("declared");
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8View, true), Field::new("v", DataType::Int64, true)]));
        let mut rows = ByKey::new(&schema, table, 4).expect("keys");
        let gone = batch(vec!["gone"], Arc::new(Int64Array::from(vec![0]))).project(&[0]).expect("keys");
        // What a job writes may have another type than what is read.
        rows.add(&batch(vec!["a", "b"], Arc::new(Int32Array::from(vec![1, 2]))), true).expect("added");
        rows.add(&mark_delete(&gone).expect("marked"), true).expect("added");
        rows.add(&batch(vec!["gone", "b", "c"], Arc::new(Int64Array::from(vec![9, 9, 3]))), true).expect("added");
        rows.add(&batch(vec!["c", "d", "e"], Arc::new(Int64Array::from(vec![9, 4, 5]))), false).expect("added");
        rows.add(&batch(vec!["f"], Arc::new(Int64Array::from(vec![6]))), false).expect("added");
        let shown = rows.batches.iter().flat_map(|batch| {
            let keys = batch.column(0).as_string_view().iter().flatten().map(str::to_owned).collect::<Vec<_>>();
            keys.into_iter().zip(batch.column(1).as_primitive::<Int64Type>().values().to_vec())
        });
        let expected = [("b", 2), ("a", 1), ("c", 3), ("d", 4)].map(|(key, value)| (key.to_owned(), value));
        assert_eq!(shown.collect::<Vec<_>>(), expected);
        assert!(rows.batches.iter().all(|batch| batch.schema() == schema));
        let key_alone = RecordBatch::try_from_iter([("k", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).expect("batch");
        let mut rows = ByKey::new(&schema, table, 4).expect("keys");
        assert!(rows.add(&key_alone, true).is_err(), "the other column keeps what it had, which nobody knows here");
    }
}
