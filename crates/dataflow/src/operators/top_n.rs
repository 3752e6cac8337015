//! The first rows of each partition: `ROW_NUMBER() … <= n`, and `ORDER BY … LIMIT n` over everything. Of input that is only added to, rows that are not among
//! the first can never be again and are forgotten.
use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, UInt64Array},
    datatypes::SchemaRef,
};
use datafusion::common::Result;
use polybolos_state::{Table, TableKind};

use super::{
    EpochContext, Operator, buckets,
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
    pub output: SchemaRef,
}

impl TopN {
    fn delta(&self, rows: &[(&[u8], u64)], weight: i64) -> Result<Option<Delta>> {
        if rows.is_empty() {
            return Ok(None);
        }
        let mut columns = self.rows.decode(rows.iter().map(|(row, _)| *row))?;
        if self.numbered {
            columns.push(Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, number)| *number))) as ArrayRef);
        }
        let batch = batch_of(self.output.clone(), columns, rows.len())?;
        Ok(Some(Delta::weighted(batch, Int64Array::from_value(weight, rows.len()))))
    }
}

impl Operator for TopN {
    fn tables(&self) -> Vec<TableKind> {
        vec![TableKind::Buckets]
    }

    fn step(&self, _: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let deltas: Vec<Delta> = inputs.into_iter().flatten().filter(|delta| delta.rows() > 0).collect();
        let table = buckets(&mut tables[0]);
        let last = self.skip.saturating_add(self.fetch);
        let (mut gone, mut come) = (vec![], vec![]);
        let partitions = self.rows.by_partition(&deltas)?;
        for Partition { key, expiry, rows } in &partitions {
            let before = SortedRows::rows_of(table, key, last);
            for (row, weight) in rows {
                table.add(key, row, *weight, *expiry);
            }
            let after = SortedRows::rows_of(table, key, last);
            if !self.changing && after.len() == last {
                forget_after(table, key, &after);
            }
            let shown = |rows: Vec<Box<[u8]>>| rows.into_iter().enumerate().skip(self.skip).collect::<Vec<_>>();
            let (mut before, mut after) = (shown(before), shown(after));
            cancel(&mut before, &mut after, self.numbered);
            gone.extend(before);
            come.extend(after);
        }
        let numbered = |rows: &'_ [(usize, Box<[u8]>)]| -> Vec<(Box<[u8]>, u64)> {
            rows.iter().map(|(index, row)| (row.clone(), (*index - self.skip) as u64 + 1)).collect()
        };
        let (gone, come) = (numbered(&gone), numbered(&come));
        fn borrowed(rows: &[(Box<[u8]>, u64)]) -> Vec<(&[u8], u64)> {
            rows.iter().map(|(row, number)| (row.as_ref(), *number)).collect()
        }
        let deltas = [self.delta(&borrowed(&gone), -1)?, self.delta(&borrowed(&come), 1)?];
        Ok(deltas.into_iter().flatten().collect())
    }

    fn describe(&self) -> String {
        let skip = if self.skip > 0 { format!(" after {}", self.skip) } else { String::new() };
        format!("Top {}{skip}: {}", self.fetch, self.rows.describe())
    }

    fn grows(&self) -> bool {
        self.rows.times.is_empty() && (self.changing || !self.rows.partition.is_empty())
    }

    fn state(&self) -> Option<String> {
        let kept = if self.changing { "all rows" } else { "the first rows" };
        Some(format!("{kept} of each partition, {}", self.rows.dropped()))
    }
}

/// Rows behind the last of `first`.
fn forget_after(table: &mut polybolos_state::BucketTable, key: &[u8], first: &[Box<[u8]>]) {
    let Some(last) = first.last() else { return };
    let mut behind = vec![];
    table.visit_backwards(key, |row, _| {
        let is_behind = row > last.as_ref();
        if is_behind {
            behind.push(Box::<[u8]>::from(row));
        }
        is_behind
    });
    behind.iter().for_each(|row| table.delete(key, row));
}

/// Drops what is in both, with the same number where that is shown. Both are in the order of their rows.
fn cancel(before: &mut Vec<(usize, Box<[u8]>)>, after: &mut Vec<(usize, Box<[u8]>)>, numbered: bool) {
    let mut counts: hashbrown::HashMap<(Box<[u8]>, usize), i64> = hashbrown::HashMap::new();
    let identity = |(index, row): &(usize, Box<[u8]>)| (row.clone(), if numbered { *index } else { 0 });
    after.iter().for_each(|row| *counts.entry(identity(row)).or_default() += 1);
    let mut kept = counts.clone();
    before.retain(|row| match counts.get_mut(&identity(row)) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    });
    // What is left in `counts` came; the rest cancelled.
    after.retain(|row| {
        let identity = identity(row);
        let came = counts.get_mut(&identity).is_some_and(|count| {
            let came = *count > 0;
            *count -= i64::from(came);
            came
        });
        if let Some(count) = kept.get_mut(&identity) {
            *count -= 1;
        }
        came
    });
}
