//! Rows of a partition kept in the order of a sort: what windows and top-N share.
use std::ops::Range;

use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::{DataType, SchemaRef},
    row::SortField,
};
use datafusion::common::Result;
use hashbrown::HashMap;
use polybolos_state::BucketTable;

use crate::{
    delta::{Delta, batch_of},
    event_time::{TimeColumn, dropped, expiries},
    keys::{EncodedRows, RowFormat, typed, typed_column},
};

/// The rows of an epoch as bytes.
pub(super) struct Encoded<'a> {
    deltas: &'a [Delta],
    keys: Vec<EncodedRows>,
    rows: Vec<EncodedRows>,
    expiries: Vec<Vec<Option<i64>>>,
}

/// The rows of an epoch that are of one partition.
pub(super) struct Partition<'a> {
    pub key: &'a [u8],
    /// When no row of it comes or goes any more.
    pub expiry: Option<i64>,
    /// With their weights.
    pub rows: Vec<(&'a [u8], i64)>,
}

impl Encoded<'_> {
    /// In the order in which each is first met.
    pub fn partitions(&self) -> Vec<Partition<'_>> {
        let mut index: HashMap<&[u8], usize> = HashMap::new();
        let mut partitions: Vec<Partition<'_>> = vec![];
        for (((delta, keys), rows), expiries) in self.deltas.iter().zip(&self.keys).zip(&self.rows).zip(&self.expiries) {
            for row in 0..delta.rows() {
                let key = keys.row(row);
                let at = *index.entry(key).or_insert_with(|| {
                    partitions.push(Partition { key, expiry: expiries.get(row).copied().flatten(), rows: vec![] });
                    partitions.len() - 1
                });
                partitions[at].rows.push((rows.row(row), delta.weight(row)));
            }
        }
        partitions
    }
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
        let columns = (0..self.columns).map(|column| SortField::new(self.type_of(column).clone()));
        RowFormat::ordered(self.order_fields().chain(columns).collect())
    }

    fn order_fields(&self) -> impl Iterator<Item = SortField> {
        self.order.iter().map(|(column, options)| SortField::new_with_options(self.type_of(*column).clone(), *options))
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

    /// The rows of an epoch, to be told apart by partition.
    pub(super) fn encode<'a>(&self, deltas: &'a [Delta]) -> Result<Encoded<'a>> {
        let key_format = RowFormat::new(self.partition.iter().map(|&column| self.type_of(column)))?;
        let row_format = self.row_format()?;
        let mut encoded = Encoded { deltas, keys: vec![], rows: vec![], expiries: vec![] };
        for delta in deltas {
            let column = |column: usize| delta.batch().column(column).clone();
            encoded.keys.push(key_format.encode(&self.partition.iter().map(|&index| column(index)).collect::<Vec<_>>())?);
            let columns: Vec<ArrayRef> =
                self.order.iter().map(|(index, _)| column(*index)).chain((0..self.columns).map(column)).collect();
            encoded.rows.push(row_format.encode(&columns)?);
            let times: Vec<_> = self.times.iter().map(|(index, time)| (column(*index), *time)).collect();
            encoded.expiries.push(expiries(&times)?);
        }
        Ok(encoded)
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

    /// The last rows of a partition in order, repeated by weight, at most `limit`; `None`: they do not all come before `row`.
    pub(super) fn rows_before(table: &BucketTable, key: &[u8], row: &[u8], limit: usize) -> Option<Vec<Box<[u8]>>> {
        let (mut rows, mut are_before): (Vec<Box<[u8]>>, bool) = (vec![], true);
        table.visit_backwards(key, |known, entry| {
            are_before = known < row;
            let times = usize::try_from(entry.weight).unwrap_or(0).min(limit - rows.len());
            rows.extend(std::iter::repeat_n(known, times).map(Box::from));
            are_before && rows.len() < limit
        });
        rows.reverse();
        are_before.then_some(rows)
    }

    /// The rows of a partition from `from` on, behind those `before` in front of them, in order and repeated by weight; and how many of the
    /// latter there are.
    pub(super) fn rows_from(table: &BucketTable, key: &[u8], from: &[u8], before: usize) -> (Vec<Box<[u8]>>, usize) {
        let (mut rows, mut in_front): (Vec<Box<[u8]>>, usize) = (vec![], 0);
        table.visit_backwards(key, |known, entry| {
            let mut times = usize::try_from(entry.weight).unwrap_or(0);
            if known < from {
                times = times.min(before - in_front);
                in_front += times;
            }
            rows.extend(std::iter::repeat_n(known, times).map(Box::from));
            known >= from || in_front < before
        });
        rows.reverse();
        (rows, in_front)
    }

    /// The rows of a partition before `end`, in order and repeated by weight.
    pub(super) fn rows_until(table: &BucketTable, key: &[u8], end: &[u8]) -> Vec<Box<[u8]>> {
        let mut rows: Vec<Box<[u8]>> = vec![];
        table.visit_between(key, &[], Some(end), |known, entry| {
            rows.extend(std::iter::repeat_n(known, usize::try_from(entry.weight).unwrap_or(0)).map(Box::from));
            true
        });
        rows
    }

    /// How many rows a partition has.
    pub(super) fn count(table: &BucketTable, key: &[u8]) -> u64 {
        let mut count = 0;
        table.visit(key, |_, entry| {
            count += entry.weight.max(0).unsigned_abs();
            true
        });
        count
    }

    pub(super) fn batch(&self, rows: &[Box<[u8]>]) -> Result<RecordBatch> {
        Ok(self.batch_and_order(rows)?.0)
    }

    /// The kept columns, and those of the order.
    pub(super) fn batch_and_order(&self, rows: &[Box<[u8]>]) -> Result<(RecordBatch, Vec<ArrayRef>)> {
        let mut order = self.row_format()?.decode(rows.iter().map(AsRef::as_ref))?;
        let columns = order.split_off(self.order.len());
        Ok((batch_of(self.kept_schema(), columns, rows.len())?, order))
    }

    /// Rows next to each other whose order is the same, of these columns of the order; and what rows like the last begin with.
    pub(super) fn peers(&self, order: &[ArrayRef], rows: usize) -> Result<(Vec<Range<usize>>, Box<[u8]>)> {
        let encoded = RowFormat::ordered(self.order_fields().collect())?.encode(order)?;
        let mut peers: Vec<Range<usize>> = vec![];
        for row in 0..rows {
            match peers.last_mut() {
                Some(last) if encoded.row(last.start) == encoded.row(row) => last.end = row + 1,
                _ => peers.push(row..row + 1),
            }
        }
        let last = peers.last().map_or(&[][..], |last| encoded.row(last.start));
        Ok((peers, last.into()))
    }

    pub(super) fn dropped(&self) -> String {
        let named = |(column, time): &(usize, TimeColumn)| (self.schema.field(*column).name().clone(), *time);
        dropped(&self.times.iter().map(named).collect::<Vec<_>>())
    }

    pub(super) fn kept(&self) -> Vec<String> {
        let named =
            |kind: &str, column: usize| typed(&format!("{kind} {}", self.schema.field(column).name()), [self.type_of(column)]);
        let keys = self.partition.iter().map(|&column| named("key", column));
        let order = self.order.iter().map(|(column, _)| named("order", *column));
        let columns = self.schema.fields().iter().take(self.columns).map(|field| typed_column("column", field));
        keys.chain(order).chain(columns).collect()
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
