//! What comes out of a join: pairs, and rows of one side that come into or leave the answer by themselves.
use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array, new_null_array},
    compute::take,
    datatypes::FieldRef,
};
use datafusion::common::Result;
use hashbrown::HashMap;
use polybolos_state::{BucketTable, Entry};

use super::{Alone, Arrivals, Join, Pairs, parts};
use crate::delta::Delta;

/// Rows of one side that come into or leave the answer by themselves.
#[derive(Default)]
pub(super) struct Lone {
    rows: Vec<Box<[u8]>>,
    weights: Vec<i64>,
    marks: Vec<bool>,
}

impl Lone {
    pub(super) fn add(&mut self, alone: Alone, row: &[u8], weight: i64, matched: bool) {
        if weight != 0 && alone.shows(matched) {
            self.rows.push(row.into());
            self.weights.push(weight);
            self.marks.push(matched);
        }
    }

    /// A kept row's count of matches went from `before` to `after`.
    fn turn(&mut self, alone: Alone, row: &[u8], weight: i64, before: i64, after: i64) {
        let (before, after) = (before > 0, after > 0);
        if before != after {
            self.add(alone, row, -weight, before);
            self.add(alone, row, weight, after);
        }
    }
}

impl Join {
    /// The other side's rows that these arrivals match or leave.
    pub(super) fn turn_others(
        &self,
        arrivals: &Arrivals,
        is_left: bool,
        other_alone: Alone,
        met: &[Pairs],
        other: &mut BucketTable,
    ) -> Result<Vec<Delta>> {
        let mut moved: HashMap<(&[u8], &[u8]), i64> = HashMap::new();
        for pairs in met {
            for (pair, arrival) in pairs.arrivals.iter().enumerate() {
                let key = arrivals.keys.row(*arrival as usize);
                *moved.entry((key, pairs.row(pair))).or_default() += arrivals.delta.weight(*arrival as usize);
            }
        }
        let mut lone = Lone::default();
        for ((key, row), by) in moved.into_iter().filter(|(_, by)| *by != 0) {
            let Some(entry) = other.get(key, row) else { continue };
            let after = entry.matches + by;
            lone.turn(other_alone, row, entry.weight, entry.matches, after);
            // That is no change of the row: it ends when it would have ended.
            let expiry = other.expiry(key, row);
            other.put(key, row, Entry { matches: after, ..entry }, expiry);
        }
        self.alone(!is_left, &lone)
    }

    pub(super) fn paired(&self, arrivals: &Arrivals, is_left: bool, pairs: &Pairs, others: Vec<ArrayRef>) -> Result<Delta> {
        let (side, _) = self.side(is_left);
        let chosen = UInt32Array::from(pairs.arrivals.clone());
        let mine = arrivals.delta.batch().columns()[..side.columns].iter();
        let mine = mine.map(|column| Ok(take(column, &chosen, None)?)).collect::<Result<Vec<_>>>()?;
        let columns: Vec<_> =
            if is_left { mine.into_iter().chain(others).collect() } else { others.into_iter().chain(mine).collect() };
        let only_adds = arrivals.delta.weights().is_none() && pairs.entries.iter().all(|entry| entry.weight == 1);
        let weight = |(pair, arrival): (usize, &u32)| arrivals.delta.weight(*arrival as usize) * pairs.entries[pair].weight;
        let weights = (!only_adds).then(|| Int64Array::from_iter_values(pairs.arrivals.iter().enumerate().map(weight)));
        self.output(columns, pairs.ends.len(), weights)
    }

    pub(super) fn alone(&self, is_left: bool, lone: &Lone) -> Result<Vec<Delta>> {
        let format = self.spec.kept_rows(is_left)?;
        let (_, alone) = self.side(is_left);
        let mut output = vec![];
        for part in parts(lone.rows.iter().map(|row| row.len()), self.batch_bytes) {
            let mine = format.decode(lone.rows[part.clone()].iter().map(AsRef::as_ref))?;
            let columns: Vec<ArrayRef> = match alone {
                Alone::Unmatched => {
                    let (other, _) = self.side(!is_left);
                    let null = |field: &FieldRef| new_null_array(field.data_type(), part.len());
                    let nulls = other.schema.fields().iter().take(other.columns).map(null);
                    if is_left { mine.into_iter().chain(nulls).collect() } else { nulls.chain(mine).collect() }
                }
                Alone::Mark => {
                    let marks = BooleanArray::from(lone.marks[part.clone()].to_vec());
                    mine.into_iter().chain([Arc::new(marks) as ArrayRef]).collect()
                }
                _ => mine,
            };
            let weights = Int64Array::from(lone.weights[part.clone()].to_vec());
            output.push(self.output(columns, part.len(), Some(weights))?);
        }
        Ok(output)
    }

    fn output(&self, columns: Vec<ArrayRef>, rows: usize, weights: Option<Int64Array>) -> Result<Delta> {
        let columns = match &self.spec.projection {
            Some(kept) => kept.iter().map(|&column| columns[column].clone()).collect(),
            None => columns,
        };
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Delta::with_weights(RecordBatch::try_new_with_options(self.spec.output.clone(), columns, &options)?, weights))
    }
}
