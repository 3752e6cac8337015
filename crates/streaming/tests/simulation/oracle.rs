//! What must be true: checked at every swap and every write, and of the tables at the end.
use std::collections::{BTreeMap, BTreeSet};

use polybolos_streaming::{
    grant::GRANT_US,
    ids::{Epoch, SinkId},
    manifest::{EpochRecord, Life, Manifest},
    report::{Counts, PartFile},
};

use crate::{
    faults::Fault,
    processes::MAX_UNPUBLISHED,
    state::{self, State},
    topic::{Kind, Record},
    world::{SOURCE, World},
};

/// A record of the log: life of the topic, partition, offset.
type Identity = (usize, i32, i64);

/// A chain is longer while compaction fails; once it is calm, a logarithm of the state and of the least runs that are merged.
const MAX_RUNS: usize = 10;

#[derive(Debug, Default)]
pub struct Oracle {
    recorded: BTreeSet<Epoch>,
    seen: BTreeSet<Identity>,
    /// Files that some stored manifest has named.
    named: BTreeSet<String>,
    /// Rows of recorded epochs that no sink has got yet.
    unwritten: BTreeMap<(SinkId, Epoch), BTreeSet<(String, usize)>>,
    /// The table as the recorded epochs make it.
    cells: BTreeMap<u32, u64>,
    letters: BTreeSet<String>,
    counts: Counts,
    /// The state as the recorded records make it.
    state: State,
    /// When the incarnation was dropped.
    pub ended_at: Option<u64>,
}

impl Oracle {
    pub fn records(&self) -> u64 {
        self.counts.records_in
    }

    fn unwritten_before(&self, sink: SinkId, epoch: Epoch) -> Option<Epoch> {
        let mut earlier = self.unwritten.range((sink, Epoch(0))..(sink, epoch));
        earlier.find(|(_, rows)| !rows.is_empty()).map(|((_, epoch), _)| *epoch)
    }

    fn named(&mut self, epoch: Epoch, file: &PartFile) {
        if !self.named.insert(file.name.clone()) {
            return;
        }
        for (sink, rows) in &file.rows {
            let rows = (0..*rows as usize).map(|row| (file.name.clone(), row));
            self.unwritten.entry((*sink, epoch)).or_default().extend(rows);
        }
    }
}

impl World {
    // ---- At a swap that the store takes ----

    pub fn check_swap(&mut self, new: &Manifest) {
        let old = self.store.manifest.clone();
        if new.generation < old.generation {
            self.violate(format_args!("generation {} writes over generation {}", new.generation, old.generation));
        }
        if old.life == Life::Dropped {
            self.violate(format_args!("a dropped incarnation goes on: {new:?}"));
        }
        if new.life == Life::Dropped {
            if self.plan.fault == Fault::Dropped && self.oracle.unwritten.values().any(|rows| !rows.is_empty()) {
                self.violate(format_args!("dropped before all was published"));
            }
            self.oracle.ended_at = Some(self.now);
            return;
        }
        self.check_records(&old, new);
        self.check_event_time(&old, new);
        if self.plan.stateful {
            self.check_state(new);
        }
        for record in &new.unpublished {
            for file in record.files.iter().filter(|file| !file.name.is_empty()) {
                if self.store.read(&file.name, file.crc32).is_none() {
                    self.violate(format_args!("epoch {} names file {}, which is gone or broken", record.epoch, file.name));
                }
                self.oracle.named(record.epoch, file);
            }
        }
        for (sink, through) in &new.published {
            if let Some(epoch) = self.oracle.unwritten_before(*sink, through.next()) {
                self.violate(format_args!(
                    "sink {sink} is said to have all through epoch {through}, and misses rows of epoch {epoch}"
                ));
            }
        }
        if new.unpublished.len() as u64 > MAX_UNPUBLISHED {
            self.violate(format_args!("{} epochs are unpublished", new.unpublished.len()));
        }
    }

    /// Every record between the old positions and the new is in the new epoch once, or lost for good.
    fn check_records(&mut self, old: &Manifest, new: &Manifest) {
        let mut covered = BTreeSet::new();
        if new.epoch != old.epoch {
            match new.unpublished.last().filter(|record| record.epoch == new.epoch && new.epoch == old.epoch.next()) {
                Some(record) => covered = self.recorded(record, new),
                None => self.violate(format_args!("epoch {} is followed by epoch {}", old.epoch, new.epoch)),
            }
        }
        let (before, after) = (&old.sources[&SOURCE], &new.sources[&SOURCE]);
        let id = after.topic_id.as_deref().and_then(|id| id.strip_prefix("topic-")?.parse::<usize>().ok());
        let topic = id.expect("an id of this topic");
        for (&partition, &end) in &after.next {
            let known = before.next.get(&partition).filter(|_| before.topic_id == after.topic_id);
            let start = known.copied().unwrap_or(0);
            if end < start {
                self.violate(format_args!("partition {partition} goes back from {start} to {end}"));
            }
            for offset in start..end {
                let log = &self.topics[topic].partitions[partition as usize];
                let is_gone = offset < log.beginning && matches!(self.plan.fault, Fault::Retention | Fault::TopicRecreated);
                let Some(kind) = log.records.get(offset as usize).map(|record| record.kind) else {
                    self.violate(format_args!(
                        "epoch {} passes offset {topic}/{partition}/{offset}, which is not there",
                        new.epoch
                    ));
                    continue;
                };
                if covered.remove(&(topic, partition, offset)) {
                    self.oracle.counts.records_in += 1;
                } else if is_gone {
                    self.oracle.counts.lost += 1;
                } else if kind == Kind::Filtered && new.epoch != old.epoch {
                    self.oracle.counts.records_in += 1;
                } else {
                    self.violate(format_args!("epoch {} passes record {topic}/{partition}/{offset} by", new.epoch));
                }
                if !self.oracle.seen.insert((topic, partition, offset)) {
                    self.violate(format_args!("record {topic}/{partition}/{offset} is recorded twice"));
                }
            }
        }
        if let Some(stray) = covered.first() {
            self.violate(format_args!("epoch {} holds record {stray:?}, which its positions do not", new.epoch));
        }
    }

    /// The watermark never falls, is behind what was seen, and no epoch is ahead of the job's.
    fn check_event_time(&mut self, old: &Manifest, new: &Manifest) {
        if new.watermark_us < old.watermark_us || new.frame_watermark_us < old.frame_watermark_us {
            let was = (old.watermark_us, old.frame_watermark_us);
            let is = (new.watermark_us, new.frame_watermark_us);
            self.violate(format_args!("the watermark falls from {was:?} to {is:?}"));
        }
        if new.fired_through_us() > new.watermark_us {
            self.violate(format_args!("epoch {} was computed with a watermark of its own: {new:?}", new.epoch));
        }
        if new.epoch != old.epoch && new.frame_watermark_us < old.fired_through_us() {
            self.violate(format_args!("epoch {} takes rows of what epoch {} has closed: {new:?}", new.epoch, old.epoch));
        }
        let seen = self.topics.iter().flat_map(|topic| &topic.partitions).flat_map(|partition| &partition.records);
        if new.watermark_us > seen.map(|record| record.time_us).max() {
            self.violate(format_args!("the watermark {:?} is ahead of all records", new.watermark_us));
        }
    }

    /// The runs follow one another, are all there, and make the state that the recorded records make.
    fn check_state(&mut self, new: &Manifest) {
        let mut through = Epoch(0);
        for run in &new.state {
            // Of another part of the same epoch, which has other keys.
            let is_beside = run.first_epoch == through && run.last_epoch == through && through > Epoch(0);
            if !is_beside && (run.first_epoch != through.next() || run.last_epoch < run.first_epoch) {
                self.violate(format_args!("run {run:?} does not follow epoch {through}"));
            }
            through = run.last_epoch;
        }
        match self.stored_state(&new.state, new.fired_through_us()) {
            None => {
                self.violate(format_args!("the state of epoch {} has a run that is gone or broken: {:?}", new.epoch, new.state))
            }
            Some(state) if state != self.oracle.state => {
                let expected = self.oracle.state.clone();
                self.violate(format_args!("the state of epoch {} is\n  {state:?}, not\n  {expected:?}", new.epoch));
            }
            Some(_) => {}
        }
    }

    /// Takes an epoch into the books; answers the records that its files cover.
    fn recorded(&mut self, record: &EpochRecord, manifest: &Manifest) -> BTreeSet<Identity> {
        let (watermark_us, fired_us) = (manifest.frame_watermark_us, manifest.fired_through_us());
        let mut covered = BTreeSet::new();
        if !self.oracle.recorded.insert(record.epoch) {
            self.violate(format_args!("epoch {} is recorded twice", record.epoch));
        }
        let mut keys = BTreeSet::new();
        for file in &record.files {
            let Some(content) = self.store.read(&file.name, file.crc32).cloned() else {
                continue;
            };
            keys.extend(content.rows.iter().map(|row| row.key));
            for identity in content.covers {
                if !covered.insert(identity) {
                    self.violate(format_args!("epoch {} holds record {identity:?} twice", record.epoch));
                }
            }
            self.oracle.counts.rows_out += content.rows.len() as u64;
            self.oracle.counts.dead_letters += content.letters.len() as u64;
            self.oracle.letters.extend(content.letters);
            for row in content.rows {
                if row.refused {
                    self.oracle.counts.refused += 1;
                    self.oracle.letters.insert(format!("{}/{}/{}", record.epoch, file.part, row.key));
                } else {
                    self.oracle.cells.insert(row.key, row.value);
                }
            }
        }
        let log =
            |(topic, partition, offset): &Identity| self.topics[*topic].partitions[*partition as usize].records[*offset as usize];
        let records: Vec<Record> = covered.iter().map(log).collect();
        let has_row = |record: &&Record| matches!(record.kind, Kind::Good | Kind::Refused);
        let read: BTreeSet<u32> = records.iter().filter(has_row).map(|record| record.key).collect();
        if keys != read {
            self.violate(format_args!("epoch {} has rows of keys {keys:?}, and its records are of {read:?}", record.epoch));
        }
        if self.plan.stateful {
            self.oracle.counts.late += records.iter().filter(|record| state::is_late(record, watermark_us)).count() as u64;
            let delta = state::change(&self.oracle.state, watermark_us, fired_us, self.plan.state_ends, records.iter());
            state::apply(&mut self.oracle.state, &delta);
            state::drop_ended(&mut self.oracle.state, fired_us);
        }
        covered
    }

    // ---- At a write ----

    /// Nothing is shown before it is recorded, nor before all of the epochs before it, nor after the job's end.
    pub fn check_write(&mut self, sink: SinkId, epoch: Epoch, name: &str, row: usize) {
        if !self.oracle.named.contains(name) {
            self.violate(format_args!("file {name} of epoch {epoch} is published and not recorded"));
        }
        if let Some(earlier) = self.oracle.unwritten_before(sink, epoch) {
            self.violate(format_args!("sink {sink} gets epoch {epoch} before all of epoch {earlier}"));
        }
        if self.oracle.ended_at.is_some_and(|at| self.now > at + GRANT_US) {
            self.violate(format_args!("sink {sink} is written after the job's end"));
        }
        if let Some(rows) = self.oracle.unwritten.get_mut(&(sink, epoch)) {
            rows.remove(&(name.to_owned(), row));
        }
    }

    // ---- At the end ----

    pub fn check_end(&mut self) {
        if self.plan.fault == Fault::Discarded {
            return;
        }
        if let Some(((sink, epoch), _)) = self.oracle.unwritten.iter().find(|(_, rows)| !rows.is_empty()) {
            let (sink, epoch) = (*sink, *epoch);
            self.violate(format_args!("sink {sink} never got all of epoch {epoch}"));
        }
        let written: BTreeMap<u32, u64> = self.sinks.cells.iter().map(|(key, cell)| (*key, cell.value)).collect();
        if written != self.oracle.cells {
            let ledger = self.oracle.cells.clone();
            self.violate(format_args!("the table differs from the ledger\n  table  {written:?}\n  ledger {ledger:?}"));
        }
        if self.sinks.letters != self.oracle.letters {
            let missing: Vec<String> = self.oracle.letters.difference(&self.sinks.letters).cloned().collect();
            let stray: Vec<String> = self.sinks.letters.difference(&self.oracle.letters).cloned().collect();
            self.violate(format_args!("dead letters missing: {missing:?}, stray: {stray:?}"));
        }
        let lost: Vec<&String> = self
            .store
            .savepoints
            .iter()
            .filter(|(name, crc32)| self.store.read(name, **crc32).is_none())
            .map(|(name, _)| name)
            .collect();
        if !lost.is_empty() {
            let lost = format!("{lost:?}");
            self.violate(format_args!("savepoints miss their files {lost}"));
        }
        let runs = self.store.manifest.state.len();
        if runs > MAX_RUNS {
            self.violate(format_args!("{runs} runs of state are not merged"));
        }
        let mut told = self.store.manifest.counts;
        told.bytes_in = 0;
        if self.plan.fault == Fault::TopicRecreated {
            // What was written to the old topic unheard cannot be counted.
            told.lost = self.oracle.counts.lost;
        }
        if told != self.oracle.counts {
            let counted = self.oracle.counts;
            self.violate(format_args!("the manifest counts {told:?}, and it was {counted:?}"));
        }
        if self.oracle.counts.records_in == 0 || self.oracle.cells.is_empty() {
            self.violate(format_args!("nothing was computed"));
        }
    }
}
