//! The first rows of each partition: `ROW_NUMBER() … <= n`, and `ORDER BY … LIMIT n` over everything. Of input that is only added to, rows that are not among
//! the first can never be again and are forgotten.
use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, UInt64Array},
    datatypes::SchemaRef,
};
use datafusion::common::Result;
use polybolos_state::{BucketTable, Table, TableKind};

use super::{
    EpochContext, Operator, buckets, load, next_of,
    sorted::{Partition, SortedRows},
};
use crate::delta::{Delta, batch_of};

#[derive(Debug)]
pub struct TopN {
    pub rows: SortedRows,
    pub skip: usize,
    pub fetch: usize,
    /// The row's number is the last column of the output.
    pub numbered: bool,
    pub changing: bool,
    /// A column of flags: of a partition whose one row has it set nothing is kept, as what comes later stands before all that there was.
    pub forgets: Option<usize>,
    pub output: SchemaRef,
}

/// A row as bytes, and its number in its partition.
type Numbered = (Box<[u8]>, u64);

impl TopN {
    fn delta(&self, rows: &[Numbered], weight: i64) -> Result<Option<Delta>> {
        if rows.is_empty() {
            return Ok(None);
        }
        let mut columns = self.rows.decode(rows.iter().map(|(row, _)| row.as_ref()))?;
        if self.numbered {
            columns.push(Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, number)| *number))) as ArrayRef);
        }
        let batch = batch_of(self.output.clone(), columns, rows.len())?;
        Ok(Some(Delta::weighted(batch, Int64Array::from_value(weight, rows.len()))))
    }

    /// Rows that are shown before or after, but not both; where numbers are shown, with another number.
    fn compare(&self, before: Vec<Box<[u8]>>, after: Vec<Box<[u8]>>, gone: &mut Vec<Numbered>, come: &mut Vec<Numbered>) {
        let shown = |rows: Vec<Box<[u8]>>| rows.into_iter().skip(self.skip).zip(1..);
        let (mut before, mut after) = (shown(before).peekable(), shown(after).peekable());
        loop {
            let (takes_old, takes_new) = match (before.peek(), after.peek()) {
                (None, None) => return,
                (old, new) if self.numbered => (old.is_some(), new.is_some()),
                (old, new) => next_of(old.map(|(row, _)| row), new.map(|(row, _)| row)),
            };
            let old = before.next_if(|_| takes_old);
            let new = after.next_if(|_| takes_new);
            if old.as_ref().map(|(row, _)| row) != new.as_ref().map(|(row, _)| row) {
                gone.extend(old);
                come.extend(new);
            }
        }
    }
}

/// The first of what a partition had and what is added to it; the table keeps no others.
fn keep_first(
    table: &mut BucketTable,
    Partition { key, expiry, rows }: &Partition<'_>,
    before: &[Box<[u8]>],
    last: usize,
) -> Vec<Box<[u8]>> {
    let mut first: Vec<&[u8]> = before.iter().map(AsRef::as_ref).collect();
    for (row, weight) in rows.iter().filter(|_| last > 0) {
        for _ in 0..*weight {
            if first.len() >= last && first.last().is_some_and(|known| row >= known) {
                break;
            }
            first.insert(first.partition_point(|known| known <= row), row);
            first.truncate(last);
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < before.len() || j < first.len() {
        let (old, new) = (before.get(i).map(AsRef::as_ref), first.get(j).copied());
        let (takes_old, takes_new) = next_of(old, new);
        match (old.filter(|_| takes_old), new.filter(|_| takes_new)) {
            (Some(old), None) => _ = table.add(key, old, -1, *expiry),
            (None, Some(new)) => _ = table.add(key, new, 1, *expiry),
            _ => {}
        }
        i += usize::from(takes_old);
        j += usize::from(takes_new);
    }
    first.into_iter().map(Box::from).collect()
}

impl Operator for TopN {
    fn tables(&self) -> Vec<TableKind> {
        vec![TableKind::Buckets]
    }

    fn step(&self, _: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let deltas: Vec<Delta> = inputs.into_iter().flatten().filter(|delta| delta.rows() > 0).collect();
        let last = self.skip.saturating_add(self.fetch);
        let (mut gone, mut come) = (vec![], vec![]);
        let encoded = self.rows.encode(&deltas)?;
        let partitions = encoded.partitions();
        load(&mut tables[0], partitions.iter().map(|partition| partition.key))?;
        let table = buckets(&mut tables[0]);
        let mut firsts = vec![];
        for partition in partitions {
            let known = come.len();
            let before = SortedRows::rows_of(table, partition.key, last);
            let after = if self.changing {
                for (row, weight) in &partition.rows {
                    table.add(partition.key, row, *weight, partition.expiry);
                }
                SortedRows::rows_of(table, partition.key, last)
            } else {
                keep_first(table, &partition, &before, last)
            };
            self.compare(before, after, &mut gone, &mut come);
            if self.forgets.is_some() && come.len() > known {
                firsts.push((partition.key, partition.expiry));
            }
        }
        let deltas = [self.delta(&gone, -1)?, self.delta(&come, 1)?];
        if let (Some(flag), Some(shown)) = (self.forgets, &deltas[1]) {
            let flags = shown.batch().column(flag).as_boolean();
            for (row, (key, expiry)) in firsts.into_iter().enumerate().filter(|(row, _)| flags.is_valid(*row) && flags.value(*row))
            {
                table.add(key, &come[row].0, -1, expiry);
            }
        }
        Ok(deltas.into_iter().flatten().collect())
    }

    fn describe(&self) -> String {
        let skip = if self.skip > 0 { format!(" after {}", self.skip) } else { String::new() };
        format!("Top {}{skip}: {}", self.fetch, self.rows.describe())
    }

    fn growing_tables(&self) -> Vec<bool> {
        vec![self.rows.times.is_empty() && (self.changing || !self.rows.partition.is_empty())]
    }

    fn kept(&self) -> Vec<String> {
        self.rows.kept()
    }

    fn state(&self) -> Option<String> {
        let kept = match (self.changing, self.forgets) {
            (true, _) => "all rows of each partition",
            (false, None) => "the first rows of each partition",
            (false, Some(_)) => "the last record of each key that is not deleted",
        };
        Some(format!("{kept}, {}", self.rows.dropped()))
    }
}
