//! The state of one job on one executor: lanes of tables, committed and discarded as one.
use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::{
    BucketTable, Entry, Passed, Share, Spill, StateError, ValueTable, bucket, run,
    spill::{Choice, Cold, Place},
    value,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    Values,
    Buckets,
}

/// A table of a job's plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpec {
    pub kind: TableKind,
    /// Entries end so long after their last change by the clock; otherwise by the watermark, where they are given an expiry.
    pub has_ttl: bool,
}

impl From<TableKind> for TableSpec {
    fn from(kind: TableKind) -> Self {
        Self { kind, has_ttl: false }
    }
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

    /// Has in memory what it holds of these keys: see [`ValueTable::load`] and [`BucketTable::load`].
    ///
    /// # Errors
    /// When what was spilled cannot be read. Nothing changed then.
    pub fn load<'a>(&mut self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<(), StateError> {
        match self {
            Self::Values(table) => table.load(keys),
            Self::Buckets(table) => table.load(keys),
        }
    }

    /// The same of what ends by `through`.
    fn load_due(&mut self, through: i64) -> Result<(), StateError> {
        let cold = match self {
            Self::Values(table) => table.cold(),
            Self::Buckets(table) => table.cold(),
        };
        let Some(cold) = cold else { return Ok(()) };
        let due = cold.due(through)?;
        self.load(due.iter().map(AsRef::as_ref))
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
    specs: Vec<TableSpec>,
    share: Share,
    spill: Option<Arc<dyn Spill>>,
    /// How often it was cleared.
    cleared: u32,
    /// How often entries were taken out of memory.
    round: u32,
}

/// When entries have to go, so much more go than must, so that it is not for every epoch: one part of so many.
const MORE_PARTS: usize = 16;

/// So often entries are chosen before it is given up.
const ROUNDS: u32 = 4;

/// With a TTL, entries end up to this part of it late, so that a change does not move each entry in the index.
const TTL_PARTS: i64 = 64;

/// When what changes now ends.
fn end_of(clock_us: i64, ttl_us: i64) -> i64 {
    let part = (ttl_us / TTL_PARTS).max(1);
    let end = clock_us.saturating_add(ttl_us);
    end.saturating_add((part - end.rem_euclid(part)) % part)
}

impl JobState {
    /// Empty, with one table per entry of `specs` in each lane.
    pub fn new(specs: &[TableSpec], lanes: usize) -> Self {
        Self::of_share(specs, lanes, Share::WHOLE)
    }

    /// The same of a part of the keys only, in so many lanes.
    pub fn of_share(specs: &[TableSpec], lanes: usize, share: Share) -> Self {
        let lane = || LaneState { tables: specs.iter().map(|spec| Table::new(spec.kind)).collect() };
        let lanes = (0..lanes.max(1)).map(|_| lane()).collect();
        Self { lanes, specs: specs.to_vec(), share, spill: None, cleared: 0, round: 0 }
    }

    /// Begins an epoch. What ends by the watermark of `now` is there for the rows that the epoch brings, as windows that close with it are for each other, and
    /// dropped when the epoch is committed; what was there before the watermark moved again, in the same epoch, is not. What ends by a TTL is gone from now on;
    /// entries of such tables that change end `ttl_us` after `now`.
    ///
    /// # Errors
    /// When what was spilled cannot be read.
    pub fn begin(&mut self, now: Passed, ttl_us: Option<i64>) -> Result<(), StateError> {
        let default_expiry = now.clock_us.zip(ttl_us).map(|(clock_us, ttl_us)| end_of(clock_us, ttl_us));
        self.each_table(|spec, table| {
            let (through, default_expiry) = (now.of(spec.has_ttl), default_expiry.filter(|_| spec.has_ttl));
            through.map_or(Ok(()), |through| table.load_due(through))?;
            match table {
                Table::Values(table) => table.begin(through, default_expiry),
                Table::Buckets(table) => table.begin(through, default_expiry),
            }
            Ok(())
        })
    }

    /// The lane of a key; `None`: another part holds it.
    pub fn lane_of(&self, key: &[u8]) -> Option<usize> {
        self.share.lane_of(key, self.lanes.len())
    }

    pub fn share(&self) -> Share {
        self.share
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

    /// Memory that it takes, about: recorded entries and the overlay.
    pub fn bytes(&self) -> usize {
        let bytes = |table: &Table| match table {
            Table::Values(table) => table.bytes(),
            Table::Buckets(table) => table.bytes(),
        };
        self.lanes.iter().flat_map(|lane| &lane.tables).map(bytes).sum()
    }

    /// What the overlay changes, as batches of [`crate::run_schema`]. Nothing: nothing changed.
    pub fn changes(&self) -> Result<Vec<RecordBatch>, StateError> {
        let mut writer = run::Writer::new();
        for lane in &self.lanes {
            for (index, table) in lane.tables.iter().enumerate() {
                let ends = |at| run::Ends { at, by_clock: self.specs[index].has_ttl };
                match table {
                    Table::Values(table) => {
                        for (key, change) in table.changed() {
                            writer.add(index, key, None, change.value.as_deref(), ends(change.expiry))?;
                        }
                    }
                    Table::Buckets(table) => {
                        for (key, row, change) in table.changed() {
                            let entry = change.entry.map(Entry::to_bytes);
                            writer.add(index, key, Some(row), entry.as_ref().map(|bytes| bytes.as_slice()), ends(change.expiry))?;
                        }
                    }
                }
            }
        }
        writer.finish()
    }

    /// Makes the overlay part of the state.
    pub fn commit(&mut self) {
        self.tables_mut().for_each(|table| match table {
            Table::Values(table) => table.commit(),
            Table::Buckets(table) => table.commit(),
        });
    }

    /// Forgets the overlay.
    pub fn discard(&mut self) {
        self.tables_mut().for_each(|table| match table {
            Table::Values(table) => table.discard(),
            Table::Buckets(table) => table.discard(),
        });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.tables_mut().for_each(|table| match table {
            Table::Values(table) => table.clear(),
            Table::Buckets(table) => table.clear(),
        });
        if let Some(spill) = self.spill.take() {
            spill.clear();
        }
        self.cleared += 1;
    }

    /// Drops what ended by `recorded`: how far time had gone in the last recorded epoch.
    ///
    /// # Errors
    /// When what was spilled cannot be read.
    pub fn drop_due(&mut self, recorded: Passed) -> Result<(), StateError> {
        self.each_table(|spec, table| {
            let Some(through) = recorded.of(spec.has_ttl) else { return Ok(()) };
            table.load_due(through)?;
            match table {
                Table::Values(table) => table.drop_due(through),
                Table::Buckets(table) => table.drop_due(through),
            }
            Ok(())
        })
    }

    /// Takes entries out of memory until it takes at most `most` bytes, or nothing more can go; those of keys without columns stay. The overlay must be
    /// empty. Keys are chosen by chance: what is needed often comes back at once, and no list of who was used when has to be kept.
    ///
    /// # Errors
    /// When `spill` fails. The state is to be cleared then.
    pub fn spill(&mut self, spill: &Arc<dyn Spill>, most: usize) -> Result<(), StateError> {
        let goal = most - most / MORE_PARTS;
        for _ in 0..ROUNDS {
            let bytes = self.bytes();
            if bytes <= most {
                break;
            }
            self.round += 1;
            let choice = Choice::of(1.0 - goal as f64 / bytes as f64, self.round);
            for (lane, tables) in self.lanes.iter_mut().enumerate() {
                for (table, tables) in tables.tables.iter_mut().enumerate() {
                    let place = Place { state: self.cleared, lane: lane as u16, table: table as u16 };
                    let cold = || Cold::new(spill.clone(), place);
                    match tables {
                        Table::Values(table) => table.spill(choice, cold)?,
                        Table::Buckets(table) => table.spill(choice, cold)?,
                    }
                }
            }
            self.spill = Some(spill.clone());
        }
        Ok(())
    }

    fn tables_mut(&mut self) -> impl Iterator<Item = &mut Table> {
        self.lanes.iter_mut().flat_map(|lane| &mut lane.tables)
    }

    fn each_table(&mut self, mut work: impl FnMut(&TableSpec, &mut Table) -> Result<(), StateError>) -> Result<(), StateError> {
        for lane in &mut self.lanes {
            self.specs.iter().zip(&mut lane.tables).try_for_each(|(spec, table)| work(spec, table))?;
        }
        Ok(())
    }

    /// Has in memory what a batch of a run changes.
    fn load(&mut self, batch: &RecordBatch) -> Result<(), StateError> {
        if self.spill.is_none() {
            return Ok(());
        }
        let mut keys: Vec<Vec<Vec<&[u8]>>> = self.lanes.iter().map(|lane| vec![vec![]; lane.tables.len()]).collect();
        for row in run::rows(batch)? {
            if let Some(of_table) = self.lane_of(row.key).and_then(|lane| keys[lane].get_mut(row.table)) {
                of_table.push(row.key);
            }
        }
        self.tables_mut().zip(keys.into_iter().flatten()).try_for_each(|(table, keys)| table.load(keys))
    }

    /// Applies a recorded run, straight to the base; keys of other parts are passed over.
    ///
    /// # Errors
    /// When it is not a run of this job's tables, or what was spilled cannot be read.
    pub fn apply(&mut self, batches: &[RecordBatch]) -> Result<(), StateError> {
        for batch in batches {
            self.load(batch)?;
            for row in run::rows(batch)? {
                let Some(lane) = self.lane_of(row.key) else { continue };
                let table = self.lanes[lane].tables.get_mut(row.table);
                match (table, row.subkey) {
                    (Some(Table::Values(table)), None) => {
                        let change = value::Change { value: row.value.map(Into::into), expiry: row.ends.at };
                        table.apply(row.key.into(), change);
                    }
                    (Some(Table::Buckets(table)), Some(subkey)) => {
                        let entry = match row.value.map(Entry::from_bytes) {
                            Some(None) => return Err(StateError::Unusable("a weight is not 16 bytes".into())),
                            Some(entry) => entry,
                            None => None,
                        };
                        table.apply(row.key, subkey.into(), bucket::Change { entry, expiry: row.ends.at });
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

    /// All of the base that is in memory as one run, for a comparison. Expiries are left out.
    pub fn dump(&self) -> Result<Vec<RecordBatch>, StateError> {
        let mut writer = run::Writer::new();
        for lane in &self.lanes {
            for (index, table) in lane.tables.iter().enumerate() {
                match table {
                    Table::Values(table) => {
                        for (key, value) in table.base() {
                            writer.add(index, key, None, Some(value), run::Ends::default())?;
                        }
                    }
                    Table::Buckets(table) => {
                        for (key, row, entry) in table.base() {
                            writer.add(index, key, Some(row), Some(&entry.to_bytes()), run::Ends::default())?;
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
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::{MemorySpill, merge_runs, parts_of};

    fn contents(state: &JobState) -> BTreeMap<(usize, Vec<u8>, Option<Vec<u8>>), Vec<u8>> {
        let dump = state.dump().expect("dumps");
        let rows = dump.iter().flat_map(|batch| run::rows(batch).expect("rows").collect::<Vec<_>>());
        rows.map(|row| ((row.table, row.key.to_vec(), row.subkey.map(<[u8]>::to_vec)), row.value.expect("value").to_vec()))
            .collect()
    }

    const KINDS: [TableSpec; 2] =
        [TableSpec { kind: TableKind::Values, has_ttl: false }, TableSpec { kind: TableKind::Buckets, has_ttl: false }];

    #[test]
    fn what_ended_by_the_clock_or_the_watermark_is_gone_after_a_reload_and_after_merging() {
        let specs: Vec<TableSpec> = KINDS.iter().flat_map(|spec| [*spec, TableSpec { has_ttl: true, ..*spec }]).collect();
        let put = |state: &mut JobState, clock_us: i64| {
            state.begin(Passed { watermark_us: Some(0), clock_us: Some(clock_us) }, Some(64)).expect("begins");
            for table in &mut state.lanes_mut()[0].tables {
                let expiry = Some(100 + clock_us);
                match table {
                    Table::Values(table) => table.put(&[clock_us as u8], b"v", expiry),
                    Table::Buckets(table) => table.put(&[clock_us as u8], b"r", Entry::of(1), expiry),
                }
            }
            let changes = state.changes().expect("changes");
            state.commit();
            changes
        };
        let mut state = JobState::new(&specs, 1);
        let runs = [put(&mut state, 1), put(&mut state, 50)];
        assert_eq!(state.entries(), 8);
        let of_eight = state.bytes();
        // Each table has one of two left: those of the clock by the clock, those of the watermark by the watermark.
        let passed = Passed { watermark_us: Some(101), clock_us: Some(101) };
        let mut loaded = JobState::new(&specs, 1);
        runs.iter().for_each(|run| loaded.apply(run).expect("applies"));
        loaded.drop_due(passed).expect("drops");
        let mut merged = JobState::new(&specs, 1);
        merged.apply(&merge_runs(&runs, true, passed).expect("merges")).expect("applies");
        assert_eq!((contents(&loaded), loaded.entries()), (contents(&merged), 4));
        assert_eq!((loaded.bytes(), merged.bytes()), (of_eight / 2, of_eight / 2));
        loaded.drop_due(Passed { watermark_us: None, clock_us: Some(i64::MAX - 1) }).expect("drops");
        assert_eq!((loaded.entries(), loaded.bytes()), (2, of_eight / 4));
    }

    /// As merging takes it of every run.
    fn has_each_key_once(batches: &[RecordBatch]) -> bool {
        let mut known = BTreeSet::new();
        let rows = batches.iter().flat_map(|batch| run::rows(batch).expect("rows").collect::<Vec<_>>());
        rows.map(|row| (row.table, row.key, row.subkey)).all(|identity| known.insert(identity))
    }

    /// Has all in memory that [`change`] may have put.
    fn load_all(state: &mut JobState) {
        let keys: Vec<[u8; 1]> = (0..=u8::MAX).map(|key| [key]).collect();
        state.tables_mut().for_each(|table| table.load(keys.iter().map(AsRef::as_ref)).expect("loads"));
    }

    #[test]
    fn what_was_spilled_ends_when_it_is_due_and_a_cleared_state_finds_none_of_it() {
        let spill: Arc<dyn Spill> = Arc::new(MemorySpill::default());
        let mut state = JobState::new(&KINDS, 1);
        let put = |state: &mut JobState, key: u8, at: i64| {
            let [Table::Values(values), Table::Buckets(buckets)] = state.lanes_mut()[0].tables.as_mut_slice() else {
                panic!("two tables")
            };
            values.put(&[key], b"v", Some(at));
            buckets.put(&[key], b"early", Entry::of(1), Some(at));
            buckets.put(&[key], b"late", Entry::of(1), Some(at + 100));
        };
        (0..10).for_each(|key| put(&mut state, key, i64::from(key) - 5));
        state.commit();
        let bytes = state.bytes();
        state.spill(&spill, 0).expect("spills");
        assert_eq!((state.bytes(), state.entries()), (0, 30), "all is out of memory, and still there");

        let now = Passed { watermark_us: Some(-1), clock_us: None };
        state.begin(now, None).expect("begins");
        let Table::Values(values) = &state.lanes()[0].tables[0] else { panic!("values") };
        assert_eq!(values.due(-1).map(|(key, _)| key[0]).collect::<Vec<_>>(), [0, 1, 2, 3, 4], "what is due came back");
        state.discard();
        state.spill(&spill, 0).expect("spills again");
        state.begin(now, None).expect("begins");
        state.commit();
        assert_eq!(state.entries(), 20);
        state.spill(&spill, 0).expect("spills");
        state.drop_due(Passed { watermark_us: Some(0), clock_us: None }).expect("drops");
        assert_eq!(state.entries(), 18);

        state.clear();
        assert_eq!((state.entries(), state.bytes()), (0, 0));
        (0..10).for_each(|key| put(&mut state, key, 1_000));
        state.commit();
        assert_eq!(state.bytes(), bytes);
        state.spill(&spill, bytes / 2).expect("spills");
        assert!((1..=bytes / 2).contains(&state.bytes()), "some stays: {}", state.bytes());
        load_all(&mut state);
        assert_eq!((state.entries(), state.bytes()), (30, bytes));
    }

    fn change(state: &mut JobState, key: u8, row: u8, weight: i64) {
        let key = [key];
        let lane = state.lane_of(&key).expect("it holds all keys");
        state.lanes_mut()[lane].tables.iter_mut().for_each(|table| table.load([&key[..]]).expect("loads"));
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
            parts in 1_usize..4,
            kept in prop::option::of(0_usize..100),
        ) {
            let spill: Arc<dyn Spill> = Arc::new(MemorySpill::default());
            let put_away = |state: &mut JobState, spill: &Arc<dyn Spill>| {
                if let Some(percent) = kept {
                    state.spill(spill, state.bytes() * percent / 100).expect("spills");
                }
            };
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
                put_away(&mut state, &spill);
            }
            prop_assert!(runs.iter().all(|run| has_each_key_once(run)));
            let mut rebuilt = JobState::new(&KINDS, other_lanes);
            // A state has its spill to itself.
            let own: Arc<dyn Spill> = Arc::new(MemorySpill::default());
            for run in &runs {
                rebuilt.apply(run).expect("applies");
                put_away(&mut rebuilt, &own);
            }
            prop_assert_eq!(rebuilt.entries(), state.entries());
            load_all(&mut state);
            load_all(&mut rebuilt);
            prop_assert_eq!(contents(&rebuilt), contents(&state));
            prop_assert_eq!(rebuilt.bytes(), state.bytes(), "what is held takes as much, however it came");

            let merged = merged.min(runs.len());
            let mut compacted = JobState::new(&KINDS, other_lanes);
            compacted.apply(&merge_runs(&runs[..merged], true, Passed::default()).expect("merges")).expect("applies");
            for part in 0..parts {
                let of_part = |batch: &RecordBatch| parts_of(batch, parts).expect("a run").swap_remove(part);
                let of_part: Vec<Vec<_>> = runs[merged..].iter().map(|run| run.iter().map(of_part).collect()).collect();
                let rest = merge_runs(&of_part, false, Passed::default()).expect("merges");
                compacted.apply(&rest).expect("applies");
            }
            prop_assert_eq!(contents(&compacted), contents(&state));
        }
    }
}
