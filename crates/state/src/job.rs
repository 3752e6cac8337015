//! The state of one job on one executor: lanes of tables, committed and discarded as one.
use arrow::array::RecordBatch;

use crate::{BucketTable, Entry, StateError, ValueTable, bucket, lane_of, run, value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    Values,
    Buckets,
}

#[derive(Debug)]
pub enum Table {
    Values(ValueTable),
    Buckets(BucketTable),
}

impl Table {
    fn new(kind: TableKind) -> Self {
        match kind {
            TableKind::Values => Self::Values(ValueTable::default()),
            TableKind::Buckets => Self::Buckets(BucketTable::default()),
        }
    }
}

/// The tables of one lane, in the order of the job's operators.
#[derive(Debug)]
pub struct LaneState {
    pub tables: Vec<Table>,
}

#[derive(Debug)]
pub struct JobState {
    lanes: Vec<LaneState>,
}

impl JobState {
    /// Empty, with one table per entry of `kinds` in each lane.
    pub fn new(kinds: &[TableKind], lanes: usize) -> Self {
        let lane = || LaneState { tables: kinds.iter().map(|kind| Table::new(*kind)).collect() };
        Self { lanes: (0..lanes.max(1)).map(|_| lane()).collect() }
    }

    pub fn lane_of(&self, key: &[u8]) -> usize {
        lane_of(key, self.lanes.len())
    }

    pub fn lanes(&self) -> &[LaneState] {
        &self.lanes
    }

    pub fn lanes_mut(&mut self) -> &mut [LaneState] {
        &mut self.lanes
    }

    /// Recorded entries of all tables.
    pub fn entries(&self) -> usize {
        let entries = |table: &Table| match table {
            Table::Values(table) => table.len(),
            Table::Buckets(table) => table.len(),
        };
        self.lanes.iter().flat_map(|lane| &lane.tables).map(entries).sum()
    }

    /// What the overlay changes, as batches of [`crate::run_schema`]. Nothing: nothing changed.
    pub fn changes(&self) -> Result<Vec<RecordBatch>, StateError> {
        let mut writer = run::Writer::new();
        for lane in &self.lanes {
            for (index, table) in lane.tables.iter().enumerate() {
                match table {
                    Table::Values(table) => {
                        for (key, change) in table.changed() {
                            writer.add(index, key, None, change.value.as_deref(), change.expiry)?;
                        }
                    }
                    Table::Buckets(table) => {
                        for (key, row, change) in table.changed() {
                            let entry = change.entry.map(Entry::to_bytes);
                            writer.add(index, key, Some(row), entry.as_ref().map(|bytes| bytes.as_slice()), change.expiry)?;
                        }
                    }
                }
            }
        }
        writer.finish()
    }

    /// Makes the overlay part of the state.
    pub fn commit(&mut self) {
        self.each_table(|table| match table {
            Table::Values(table) => table.commit(),
            Table::Buckets(table) => table.commit(),
        });
    }

    /// Forgets the overlay.
    pub fn discard(&mut self) {
        self.each_table(|table| match table {
            Table::Values(table) => table.discard(),
            Table::Buckets(table) => table.discard(),
        });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.each_table(|table| match table {
            Table::Values(table) => table.clear(),
            Table::Buckets(table) => table.clear(),
        });
    }

    /// Drops what expired at or before `through`; after a reload, with the watermark of the last recorded epoch.
    pub fn drop_due(&mut self, through: i64) {
        self.each_table(|table| match table {
            Table::Values(table) => table.drop_due(through),
            Table::Buckets(table) => table.drop_due(through),
        });
    }

    fn each_table(&mut self, mut work: impl FnMut(&mut Table)) {
        self.lanes.iter_mut().flat_map(|lane| &mut lane.tables).for_each(&mut work);
    }

    /// Applies a recorded run, straight to the base.
    ///
    /// # Errors
    /// When it is not a run of this job's tables.
    pub fn apply(&mut self, batches: &[RecordBatch]) -> Result<(), StateError> {
        let lanes = self.lanes.len();
        for batch in batches {
            for row in run::rows(batch)? {
                let lane = lane_of(row.key, lanes);
                let table = self.lanes[lane].tables.get_mut(row.table);
                match (table, row.subkey) {
                    (Some(Table::Values(table)), None) => {
                        let change = value::Change { value: row.value.map(Into::into), expiry: row.expiry };
                        table.apply(row.key.into(), change);
                    }
                    (Some(Table::Buckets(table)), Some(subkey)) => {
                        let entry = match row.value.map(Entry::from_bytes) {
                            Some(None) => return Err(StateError::Unusable("a weight is not 16 bytes".into())),
                            Some(entry) => entry,
                            None => None,
                        };
                        table.apply(row.key, subkey.into(), bucket::Change { entry, expiry: row.expiry });
                    }
                    _ => {
                        return Err(StateError::Unusable(format!(
                            "it has a table {} that the job's plan does not have",
                            row.table
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// The whole base as one run, for a snapshot or a comparison. Expiries are left out.
    pub fn dump(&self) -> Result<Vec<RecordBatch>, StateError> {
        let mut writer = run::Writer::new();
        for lane in &self.lanes {
            for (index, table) in lane.tables.iter().enumerate() {
                match table {
                    Table::Values(table) => {
                        for (key, value) in table.base() {
                            writer.add(index, key, None, Some(value), None)?;
                        }
                    }
                    Table::Buckets(table) => {
                        for (key, row, entry) in table.base() {
                            writer.add(index, key, Some(row), Some(&entry.to_bytes()), None)?;
                        }
                    }
                }
            }
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::merge_runs;

    fn contents(state: &JobState) -> BTreeMap<(usize, Vec<u8>, Option<Vec<u8>>), Vec<u8>> {
        let dump = state.dump().expect("dumps");
        let rows = dump.iter().flat_map(|batch| run::rows(batch).expect("rows").collect::<Vec<_>>());
        rows.map(|row| ((row.table, row.key.to_vec(), row.subkey.map(<[u8]>::to_vec)), row.value.expect("value").to_vec()))
            .collect()
    }

    const KINDS: [TableKind; 2] = [TableKind::Values, TableKind::Buckets];

    fn change(state: &mut JobState, key: u8, row: u8, weight: i64) {
        let key = [key];
        let lane = state.lane_of(&key);
        let [Table::Values(values), Table::Buckets(buckets)] = state.lanes_mut()[lane].tables.as_mut_slice() else {
            panic!("two tables")
        };
        if weight == 0 {
            values.delete(&key);
        } else {
            values.put(&key, &weight.to_le_bytes(), None);
        }
        buckets.add(&key, &[row], weight, None);
    }

    proptest! {
        #[test]
        fn recorded_runs_rebuild_the_state_in_any_number_of_lanes(
            epochs in prop::collection::vec((prop::collection::vec((0_u8..8, 0_u8..5, -2_i64..3), 0..20), any::<bool>()), 1..20),
            lanes in 1_usize..5,
            other_lanes in 1_usize..5,
            merged in 0_usize..20,
        ) {
            let mut state = JobState::new(&KINDS, lanes);
            let mut runs = vec![];
            for (changes, recorded) in epochs {
                for (key, row, weight) in changes {
                    change(&mut state, key, row, weight);
                }
                if recorded {
                    runs.push(state.changes().expect("changes"));
                    state.commit();
                } else {
                    state.discard();
                }
            }
            let mut rebuilt = JobState::new(&KINDS, other_lanes);
            for run in &runs {
                rebuilt.apply(run).expect("applies");
            }
            prop_assert_eq!(contents(&rebuilt), contents(&state));

            let merged = merged.min(runs.len());
            let mut compacted = JobState::new(&KINDS, other_lanes);
            compacted.apply(&merge_runs(&runs[..merged], true, None).expect("merges")).expect("applies");
            let rest = merge_runs(&runs[merged..], false, None).expect("merges");
            compacted.apply(&rest).expect("applies");
            prop_assert_eq!(contents(&compacted), contents(&state));
        }
    }
}
