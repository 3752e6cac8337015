//! Rows of a partition kept in the order of a sort: what windows and top-N share.
use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::{DataType, SchemaRef},
    row::SortField,
};
use datafusion::common::Result;
use polybolos_state::BucketTable;

use crate::{
    delta::{Delta, batch_of},
    event_time::{TimeColumn, dropped, expiries},
    keys::RowFormat,
};

/// The rows of an epoch that are of one partition.
pub(super) struct Partition {
    pub key: Box<[u8]>,
    /// When no row of it comes or goes any more.
    pub expiry: Option<i64>,
    /// With their weights.
    pub rows: Vec<(Box<[u8]>, i64)>,
}

/// How rows are kept: by partition, then by sort key, then by all their columns.
#[derive(Clone, Debug)]
pub struct SortedRows {
    /// The input: `columns` that are kept, then partition and sort keys where they are not among them.
    pub schema: SchemaRef,
    pub columns: usize,
    pub partition: Vec<usize>,
    pub order: Vec<(usize, arrow::compute::SortOptions)>,
    /// Those of `partition` that tell when a partition is finished.
    pub times: Vec<(usize, TimeColumn)>,
}

impl SortedRows {
    fn type_of(&self, column: usize) -> &DataType {
        self.schema.field(column).data_type()
    }

    pub(super) fn row_format(&self) -> Result<RowFormat> {
        let order = self.order.iter().map(|(column, options)| SortField::new_with_options(self.type_of(*column).clone(), *options));
        let columns = (0..self.columns).map(|column| SortField::new(self.type_of(column).clone()));
        RowFormat::ordered(order.chain(columns).collect())
    }

    /// The kept columns of rows of bytes.
    pub(super) fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        Ok(self.row_format()?.decode(rows)?.split_off(self.order.len()))
    }

    /// Kept columns as a batch of the input, which may have more.
    pub(super) fn kept_schema(&self) -> SchemaRef {
        let kept: Vec<usize> = (0..self.columns).collect();
        self.schema.project(&kept).map_or_else(|_| self.schema.clone(), Into::into)
    }

    /// The rows of an epoch by partition.
    pub(super) fn by_partition(&self, deltas: &[Delta]) -> Result<Vec<Partition>> {
        let keys = RowFormat::new(self.partition.iter().map(|&column| self.type_of(column)))?;
        let rows = self.row_format()?;
        let mut index: hashbrown::HashMap<Box<[u8]>, usize> = hashbrown::HashMap::new();
        let mut partitions: Vec<Partition> = vec![];
        for delta in deltas {
            let column = |column: usize| delta.batch().column(column).clone();
            let key = keys.encode(&self.partition.iter().map(|&index| column(index)).collect::<Vec<_>>())?;
            let columns: Vec<ArrayRef> =
                self.order.iter().map(|(index, _)| column(*index)).chain((0..self.columns).map(column)).collect();
            let bytes = rows.encode(&columns)?;
            let times: Vec<_> = self.times.iter().map(|(index, time)| (column(*index), *time)).collect();
            let expiries = expiries(&times)?;
            for row in 0..delta.rows() {
                let at = *index.entry_ref(key.row(row)).or_insert_with(|| {
                    let expiry = expiries.get(row).copied().flatten();
                    partitions.push(Partition { key: key.row(row).into(), expiry, rows: vec![] });
                    partitions.len() - 1
                });
                partitions[at].rows.push((bytes.row(row).into(), delta.weight(row)));
            }
        }
        Ok(partitions)
    }

    /// All rows of a partition in order, repeated by weight, at most `limit`.
    pub(super) fn rows_of(table: &BucketTable, key: &[u8], limit: usize) -> Vec<Box<[u8]>> {
        let mut rows: Vec<Box<[u8]>> = vec![];
        if limit == 0 {
            return rows;
        }
        table.visit(key, |row, entry| {
            for _ in 0..entry.weight.max(0) {
                if rows.len() < limit {
                    rows.push(row.into());
                }
            }
            rows.len() < limit
        });
        rows
    }

    pub(super) fn batch(&self, rows: &[Box<[u8]>]) -> Result<RecordBatch> {
        let columns = self.decode(rows.iter().map(AsRef::as_ref))?;
        batch_of(self.kept_schema(), columns, rows.len())
    }

    pub(super) fn dropped(&self) -> String {
        let named = |(column, time): &(usize, TimeColumn)| (self.schema.field(*column).name().clone(), *time);
        dropped(&self.times.iter().map(named).collect::<Vec<_>>())
    }

    pub(super) fn describe(&self) -> String {
        let name = |column: usize| self.schema.field(column).name().clone();
        let partition: Vec<_> = self.partition.iter().map(|&column| name(column)).collect();
        let order = self
            .order
            .iter()
            .map(|(column, options)| format!("{}{}", name(*column), if options.descending { " DESC" } else { "" }));
        format!("partition by [{}], order by [{}]", partition.join(", "), order.collect::<Vec<_>>().join(", "))
    }
}
