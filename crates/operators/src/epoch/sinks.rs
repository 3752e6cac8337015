//! An epoch's changes of a query's answer as changes of a table: one per key, the row that is there now, or that none is (EPOCHS rule 10).
use datafusion::{
    arrow::{
        array::{Array, RecordBatch, UInt32Array},
        compute::{concat_batches, take_record_batch},
        row::{RowConverter, SortField},
    },
    common::Result,
};
use hashbrown::HashMap;
use polybolos_dataflow::Delta;
use uuid::Uuid;

use super::spec::SinkSection;
use crate::{changes::mark_delete, last_per_key::last_per_key, part_write::Keeping, steps::Check};

/// What goes into the part file for a sink, and which rows its table could not take.
#[derive(Debug, Default)]
pub struct SinkChanges {
    pub batches: Vec<RecordBatch>,
    pub rows: u64,
    pub refused: Vec<RefusedRow>,
    /// How many there were, of which `refused` may have one per key.
    pub refused_rows: u64,
}

#[derive(Debug)]
pub struct RefusedRow {
    /// As a batch of one.
    pub row: RecordBatch,
    pub why: String,
    /// Of an answer whose rows are taken back, what stands for the row's key: whatever the key's row becomes, there is one letter of it.
    pub key: Option<Uuid>,
}

impl SinkSection {
    /// `is_changing`: whether rows of the answer may be taken back.
    pub fn changes(&self, deltas: Vec<Delta>, is_changing: bool) -> Result<SinkChanges> {
        let mut changes = SinkChanges::default();
        let deltas: Vec<Delta> = deltas.into_iter().filter(|delta| delta.rows() > 0).collect();
        let Some(first) = deltas.first() else { return Ok(changes) };
        match &self.keeping {
            Keeping::Nothing => changes.rows = deltas.iter().map(|delta| delta.rows() as u64).sum(),
            Keeping::All => {
                for delta in deltas {
                    let delta = self.check(delta, &mut changes)?;
                    let batches = signed(&delta)?;
                    changes.rows += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
                    changes.batches.extend(batches);
                }
            }
            Keeping::LastPerKey(key) if deltas.iter().all(|delta| delta.weights().is_none()) => {
                let mut batches = vec![];
                for delta in deltas {
                    batches.push(self.check(delta, &mut changes)?.batch().clone());
                }
                let kept = last_per_key(&batches, key)?;
                changes.rows = kept.as_ref().map_or(0, |batch| batch.num_rows() as u64);
                changes.batches.extend(kept);
            }
            Keeping::LastPerKey(key) => {
                let all = Delta::concat(&first.batch().schema(), &deltas)?;
                let all = self.check(all, &mut changes)?;
                let (upserts, deletes) = net(&all, key)?;
                changes.rows = (upserts.len() + deletes.len()) as u64;
                if !upserts.is_empty() {
                    changes.batches.push(take_record_batch(all.batch(), &UInt32Array::from(upserts))?);
                }
                if !deletes.is_empty() {
                    let keys = all.batch().project(key)?;
                    changes.batches.push(mark_delete(&take_record_batch(&keys, &UInt32Array::from(deletes))?)?);
                }
            }
        }
        changes.refused_rows = changes.refused.len() as u64;
        if let (Keeping::LastPerKey(key), true) = (&self.keeping, is_changing) {
            changes.refused = newest_per_key(changes.refused, key)?;
        }
        Ok(changes)
    }

    /// Takes out rows that the table is known to refuse.
    fn check(&self, mut delta: Delta, changes: &mut SinkChanges) -> Result<Delta> {
        for check in &self.checks {
            let column = delta.batch().column(check.column).clone();
            let Some(passes) = Check::passes(check, &column)? else { continue };
            for row in there_after_all(&delta, (0..passes.len()).filter(|&row| !passes.value(row)).collect())? {
                let why = check.complaint(&column, row);
                changes.refused.push(RefusedRow { row: delta.batch().slice(row, 1), why, key: None });
            }
            delta = delta.filter(&passes)?;
        }
        Ok(delta)
    }
}

/// The last row of each key, with what stands for the key, and with the number of its others: of a table they would have had one row.
fn newest_per_key(refused: Vec<RefusedRow>, key: &[usize]) -> Result<Vec<RefusedRow>> {
    let Some(first) = refused.first() else { return Ok(refused) };
    let rows = concat_batches(&first.row.schema(), refused.iter().map(|refused| &refused.row))?;
    let ids = key_ids(&rows, key)?;
    let mut others: HashMap<Uuid, usize> = HashMap::new();
    ids.iter().for_each(|id| *others.entry(*id).or_default() += 1);
    let mut newest = vec![];
    for (row, id) in refused.into_iter().zip(ids).rev() {
        let why = match others.remove(&id) {
            Some(1) => row.why,
            Some(rows) => format!("{} (the last of {rows} rows of this key in this epoch)", row.why),
            None => continue,
        };
        newest.push(RefusedRow { row: row.row, why, key: Some(id) });
    }
    newest.reverse();
    Ok(newest)
}

/// The same for equal keys, at any time and place. A key that is refused may be too long to be an identity itself.
fn key_ids(rows: &RecordBatch, key: &[usize]) -> Result<Vec<Uuid>> {
    let columns: Vec<_> = key.iter().map(|&column| rows.column(column).clone()).collect();
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let bytes = RowConverter::new(fields)?.convert_columns(&columns)?;
    Ok(bytes.iter().map(|row| Uuid::new_v5(&Uuid::NAMESPACE_OID, row.data())).collect())
}

/// Those of these rows that are not taken away again within the epoch.
fn there_after_all(delta: &Delta, rows: Vec<usize>) -> Result<Vec<usize>> {
    if delta.weights().is_none() || rows.is_empty() {
        return Ok(rows);
    }
    let chosen = UInt32Array::from_iter_values(rows.iter().map(|row| *row as u32));
    let batch = take_record_batch(delta.batch(), &chosen)?;
    let fields = batch.schema().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let bytes = RowConverter::new(fields)?.convert_columns(batch.columns())?;
    let mut weights: HashMap<&[u8], i64> = HashMap::new();
    for (place, row) in rows.iter().enumerate() {
        *weights.entry(bytes.row(place).data()).or_default() += delta.weight(*row);
    }
    let mut there = vec![];
    for (place, row) in rows.into_iter().enumerate().filter(|(_, row)| delta.weight(*row) > 0) {
        let left = weights.entry(bytes.row(place).data()).or_default();
        if *left > 0 {
            *left -= 1;
            there.push(row);
        }
    }
    Ok(there)
}

/// Rows that are added, and rows that are taken away, the latter marked; each as often as its weight says.
fn signed(delta: &Delta) -> Result<Vec<RecordBatch>> {
    if delta.weights().is_none() {
        return Ok(vec![delta.batch().clone()]);
    }
    let times = |sign: i64| -> UInt32Array {
        let rows = (0..delta.rows()).flat_map(|row| {
            let times = usize::try_from(sign * delta.weight(row)).unwrap_or(0);
            std::iter::repeat_n(row as u32, times)
        });
        UInt32Array::from_iter_values(rows)
    };
    let (added, gone) = (times(1), times(-1));
    let mut batches = vec![];
    if !gone.is_empty() {
        batches.push(mark_delete(&take_record_batch(delta.batch(), &gone)?)?);
    }
    if !added.is_empty() {
        batches.push(take_record_batch(delta.batch(), &added)?);
    }
    Ok(batches)
}

/// Rows to upsert and rows whose key is to be deleted.
fn net(delta: &Delta, key: &[usize]) -> Result<(Vec<u32>, Vec<u32>)> {
    let batch = delta.batch();
    let converter = |columns: &[usize]| {
        RowConverter::new(columns.iter().map(|&column| SortField::new(batch.column(column).data_type().clone())).collect())
    };
    let all: Vec<usize> = (0..batch.num_columns()).collect();
    let rows = converter(&all)?.convert_columns(batch.columns())?;
    let keys: Vec<_> = key.iter().map(|&column| batch.column(column).clone()).collect();
    let keys = converter(key)?.convert_columns(&keys)?;
    let mut weights: HashMap<&[u8], i64> = HashMap::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        *weights.entry(rows.row(row).data()).or_default() += delta.weight(row);
    }
    // Per key, the last row that is there after all, or a row that is there no more.
    let mut last: HashMap<&[u8], (u32, bool)> = HashMap::new();
    for row in 0..batch.num_rows() {
        let weight = weights.get(rows.row(row).data()).copied().unwrap_or(0);
        if weight == 0 {
            continue;
        }
        let is_there = weight > 0;
        let entry = last.entry(keys.row(row).data()).or_insert((row as u32, is_there));
        if is_there || !entry.1 {
            *entry = (row as u32, is_there);
        }
    }
    let (mut upserts, mut deletes) = (vec![], vec![]);
    for (row, is_there) in last.into_values() {
        if is_there { upserts.push(row) } else { deletes.push(row) }
    }
    upserts.sort_unstable();
    deletes.sort_unstable();
    Ok((upserts, deletes))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::{
        array::{ArrayRef, AsArray, Int64Array, StringArray},
        datatypes::{DataType, Field, Int64Type, Schema},
    };
    use polybolos_streaming::ids::SinkId;

    use super::*;
    use crate::changes::is_delete;

    fn delta(rows: &[(Option<&str>, i64, i64)]) -> Delta {
        let schema = Schema::new(vec![Field::new("k", DataType::Utf8, true), Field::new("v", DataType::Int64, true)]);
        let keys: StringArray = rows.iter().map(|row| row.0).collect();
        let values = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
        let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(values)];
        let batch = RecordBatch::try_new(Arc::new(schema), columns).expect("batch");
        Delta::weighted(batch, Int64Array::from_iter_values(rows.iter().map(|row| row.2)))
    }

    fn section() -> SinkSection {
        let checks = vec![Check { column: 0, name: "k".into(), refuse_empty: true }];
        SinkSection { sink: SinkId(0), keeping: Keeping::LastPerKey(vec![0]), checks, emit_on_close: false, plan: vec![] }
    }

    fn values(changes: &SinkChanges) -> Vec<i64> {
        changes.refused.iter().map(|refused| refused.row.column(1).as_primitive::<Int64Type>().value(0)).collect()
    }

    #[test]
    fn without_a_key_every_row_comes_out_as_often_as_it_is_there() {
        let section = SinkSection { keeping: Keeping::All, checks: vec![], ..section() };
        let changes =
            section.changes(vec![delta(&[(Some("a"), 1, 2), (Some("b"), 2, -1), (Some("c"), 3, 0)])], true).expect("signs");
        assert_eq!(changes.rows, 3);
        let [gone, added] = changes.batches.as_slice() else { panic!("{:?}", changes.batches) };
        assert!(is_delete(gone) && !is_delete(added));
        assert_eq!(added.column(1).as_primitive::<Int64Type>().values(), &[1, 1]);
    }

    #[test]
    fn one_change_per_key_comes_out() {
        let deltas = vec![
            delta(&[(Some("changed"), 1, -1), (Some("changed"), 2, 1), (Some("gone"), 3, -1), (Some("same"), 4, -1)]),
            delta(&[(Some("same"), 4, 1), (Some("new"), 5, 1), (None, 6, 1), (Some("twice"), 7, 1), (Some("twice"), 7, -1)]),
            // As outer joins make them before the other side comes.
            delta(&[(None, 8, 1), (None, 9, 2), (None, 8, -1), (None, 9, -1), (None, 7, -1)]),
        ];
        let changes = section().changes(deltas.clone(), true).expect("nets");
        assert_eq!(changes.rows, 3);
        assert_eq!((values(&changes), changes.refused_rows), (vec![9], 2), "the newest of the key");
        assert!(changes.refused[0].why.contains("the last of 2 rows"), "{}", changes.refused[0].why);
        let later = section().changes(vec![delta(&[(None, 9, -1), (None, 10, 1)])], true).expect("nets");
        assert_eq!(values(&later), [10]);
        assert!(changes.refused[0].key.is_some() && changes.refused[0].key == later.refused[0].key);
        // Rows that stay are one letter each.
        let each = section().changes(deltas, false).expect("nets");
        assert_eq!(values(&each), [6, 9]);
        assert!(each.refused.iter().all(|refused| refused.key.is_none()));
        let [upserts, deletes] = changes.batches.as_slice() else { panic!("{:?}", changes.batches) };
        assert!(!is_delete(upserts) && is_delete(deletes));
        assert_eq!(upserts.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["changed", "new"]);
        assert_eq!(upserts.column(1).as_primitive::<Int64Type>().values(), &[2, 5]);
        assert_eq!(deletes.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["gone"]);
        assert_eq!(deletes.num_columns(), 1);
    }
}
