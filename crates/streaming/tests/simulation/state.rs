//! A toy state for the jobs that have one: records counted by key, where a key that has been counted to five is gone, and so are, in half of the jobs, those of a while
//! ago; and how far the timers have fired. It is kept as runs of changes on the store, and on executors as a base in memory with an overlay of its own for each execution (EPOCHS rule 8).
use std::collections::BTreeMap;

use polybolos_streaming::{
    coordinator::Event,
    ids::{Epoch, ExecutorId, Generation, Incarnation},
    manifest::{StateEnd, StateRun},
    report::{CompactFailure, CompactReport},
};

use crate::{
    faults::{Fault, Sabotage},
    happening::{Happening, ToExecutor},
    store::{Content, File},
    topic::{Kind, Record},
    world::{INCARNATION, MS, World},
};

/// What each key counts, and under [`FIRED`] through which watermark the timers have fired.
pub type State = BTreeMap<u32, Counted>;
/// `None`: the key is gone.
pub type Delta = BTreeMap<u32, (Option<i64>, i64)>;

/// A count, and through which event time it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    count: i64,
    end_us: i64,
}

const FIRED: u32 = u32::MAX;
const GONE_AT: i64 = 5;
const NEVER: i64 = i64::MAX;
/// In jobs whose state ends, so long after the last record.
const KEPT_US: i64 = 300 * MS as i64;

/// What an executor keeps of the state.
#[derive(Debug, Default)]
pub struct Memory {
    base: State,
    /// The last epoch in `base`.
    through: Epoch,
    /// By the file that has the same; which of them count, the next frame tells.
    overlays: BTreeMap<String, Delta>,
    /// Whose keys: part, and of how many.
    share: (u16, u16),
}

/// An order to merge runs.
#[derive(Clone, Debug)]
pub struct CompactOrder {
    pub connection: u64,
    pub generation: Generation,
    pub executor: ExecutorId,
    pub runs: Vec<StateRun>,
}

/// Whether a part of so many holds the key.
pub fn holds((part, parts): (u16, u16), key: u32) -> bool {
    key % u32::from(parts) == u32::from(part)
}

pub fn apply(state: &mut State, delta: &Delta) {
    for (&key, &(count, end_us)) in delta {
        match count {
            Some(count) => state.insert(key, Counted { count, end_us }),
            None => state.remove(&key),
        };
    }
}

/// What ended by then is no part of the state.
pub fn drop_ended(state: &mut State, fired_us: Option<i64>) {
    state.retain(|_, counted| Some(counted.end_us) > fired_us);
}

/// When all of it has ended.
pub fn end(delta: &Delta) -> Option<StateEnd> {
    let watermark_us = delta.values().map(|(_, end_us)| *end_us).max();
    (watermark_us < Some(NEVER)).then_some(StateEnd { watermark_us, clock_us: None })
}

/// Whether the record comes too late to be counted.
pub fn is_late(record: &Record, watermark_us: Option<i64>) -> bool {
    matches!(record.kind, Kind::Good | Kind::Refused) && watermark_us.is_some_and(|watermark_us| record.time_us < watermark_us)
}

/// What an epoch of these records makes of the state, with this watermark, and where timers fire through `fired_us`.
pub fn change<'a>(
    state: &State,
    watermark_us: Option<i64>,
    fired_us: Option<i64>,
    ends: bool,
    records: impl Iterator<Item = &'a Record>,
) -> Delta {
    let end_of = |time_us: i64| if ends { time_us + KEPT_US } else { NEVER };
    let mut delta = Delta::new();
    let is_counted = |record: &&Record| matches!(record.kind, Kind::Good | Kind::Refused) && !is_late(record, watermark_us);
    for record in records.filter(is_counted) {
        let known = state.get(&record.key).map_or((None, i64::MIN), |counted| (Some(counted.count), counted.end_us));
        let (before, end_us) = delta.get(&record.key).copied().unwrap_or(known);
        let count = Some(before.unwrap_or(0) + 1).filter(|count| *count < GONE_AT);
        delta.insert(record.key, (count, end_us.max(end_of(record.time_us))));
    }
    if let Some(fired_us) = fired_us {
        delta.insert(FIRED, (Some(fired_us), end_of(fired_us)));
    }
    delta
}

impl World {
    /// What these recorded runs make of a part's keys, on this executor, where timers have fired through `fired_us`; `None`: a run is not there.
    pub fn load_state(&mut self, executor: usize, runs: &[StateRun], share: (u16, u16), fired_us: Option<i64>) -> Option<State> {
        let mut memory = std::mem::take(&mut self.executors[executor].memory);
        let recorded = runs.last().map_or(Epoch(0), |run| run.last_epoch);
        let is_ahead = memory.through > recorded && !self.plan.lacks(Sabotage::OverlayMergedAtOnce);
        if is_ahead || memory.share != share || (self.plan.stateful && self.strikes(Fault::MemoryLost)) {
            // What a leader that is no more asks for, another part than before, or a process that had to make room.
            memory = Memory { share, ..Memory::default() };
        }
        let through = memory.through;
        for (place, run) in runs.iter().enumerate().filter(|(_, run)| run.last_epoch > through) {
            if let Some(overlay) = memory.overlays.get(&run.name) {
                apply(&mut memory.base, overlay);
            } else if !self.plan.lacks(Sabotage::StateNotLoaded) {
                if place == 0 {
                    memory.base.clear();
                }
                let mut delta = self.store.read(&run.name, run.crc32)?.state.clone();
                delta.retain(|key, _| holds(share, *key));
                apply(&mut memory.base, &delta);
            }
        }
        memory.through = recorded.max(memory.through);
        memory.overlays.clear();
        drop_ended(&mut memory.base, fired_us);
        let base = memory.base.clone();
        self.executors[executor].memory = memory;
        Some(base)
    }

    /// What an execution made of the state stays an overlay until a frame names its file.
    pub fn keep_overlay(&mut self, executor: usize, epoch: Epoch, file: &str, delta: &Delta) {
        let merges_at_once = self.plan.lacks(Sabotage::OverlayMergedAtOnce);
        let memory = &mut self.executors[executor].memory;
        if merges_at_once {
            apply(&mut memory.base, delta);
            memory.through = memory.through.max(epoch);
        } else {
            memory.overlays.insert(file.to_owned(), delta.clone());
        }
    }

    /// The state that runs on the store make, where timers have fired through `fired_us`.
    pub fn stored_state(&self, runs: &[StateRun], fired_us: Option<i64>) -> Option<State> {
        let mut state = State::new();
        for run in runs {
            apply(&mut state, &self.store.read(&run.name, run.crc32)?.state);
        }
        drop_ended(&mut state, fired_us);
        Some(state)
    }

    // ---- Savepoints ----

    /// Whoever leads names the runs of the last record, and is told of it at once, as the runner is.
    pub fn make_savepoint(&mut self) {
        let leads = |process: &usize| {
            let coordinator = self.processes[*process].coordinator.as_ref();
            coordinator.is_some_and(|coordinator| coordinator.manifest().generation == self.store.manifest.generation)
        };
        let Some(process) = (0..self.processes.len()).find(leads) else { return self.after(50 * MS, Happening::Savepoint) };
        let manifest = self.processes[process].coordinator.as_ref().expect("a leader").manifest();
        let runs: Vec<(String, u32)> = manifest.state.iter().map(|run| (run.name.clone(), run.crc32)).collect();
        self.store.savepoints.extend(runs);
        self.list_savepoints(process);
    }

    pub fn list_savepoints(&mut self, process: usize) {
        let names = self.store.savepoints.keys().cloned().collect();
        self.deliver(process, Event::Pinned { names });
    }

    // ---- Compaction ----

    pub fn order_compaction(&mut self, process: usize, executor: ExecutorId, runs: Vec<StateRun>) {
        let generation = self.processes[process].generation;
        let index = self.executors.iter().position(|known| known.id == executor).expect("an executor that was");
        let delay = self.delay(8);
        match self.processes[process].connection(index) {
            Some(connection) => {
                let order = CompactOrder { connection, generation, executor, runs };
                self.after(delay, Happening::Executor(index, ToExecutor::Compact { order, is_read: false }));
            }
            None => {
                let failure = failure(&CompactOrder { connection: 0, generation, executor, runs }, "not here");
                self.deliver_after(delay, process, Event::CompactFailed(failure));
            }
        }
    }

    /// Takes an order, and after a while writes what it asks for.
    pub fn compact(&mut self, executor: usize, order: CompactOrder, is_read: bool) {
        let this = &self.executors[executor];
        let is_obsolete = this.forgotten_us.is_some() || self.is_obsolete(executor, order.generation);
        if is_obsolete || (!is_read && this.leader.is_none_or(|(_, number)| number != order.connection)) {
            return;
        }
        if !is_read {
            let delay = self.delay(150);
            return self.after(delay, Happening::Executor(executor, ToExecutor::Compact { order, is_read: true }));
        }
        let mut merged = Delta::new();
        for run in &order.runs {
            match self.store.read(&run.name, run.crc32) {
                Some(content) => merged.extend(content.state.clone()),
                None => return self.say(executor, Event::CompactFailed(failure(&order, "a run is gone or broken"))),
            }
        }
        if self.strikes(Fault::CompactionFails) {
            return self.say(executor, Event::CompactFailed(failure(&order, "no space")));
        }
        let (first_epoch, last_epoch) = (order.runs[0].first_epoch, order.runs[order.runs.len() - 1].last_epoch);
        if first_epoch == Epoch(1) {
            merged.retain(|_, (count, _)| count.is_some());
        }
        self.executions += 1;
        let name = format!("state-{first_epoch}-{last_epoch}-{}", self.executions);
        let crc32 = self.executions as u32;
        let (state_bytes, end) = (bytes(&merged), end(&merged));
        let content = Content { state: merged, ..Content::default() };
        self.store.files.insert(name.clone(), File { content, crc32, unsynced_at: None, is_torn: false });
        let report = Event::StateCompacted(CompactReport {
            incarnation: Incarnation::new(INCARNATION),
            generation: order.generation,
            replaced: order.runs.into_iter().map(|run| run.name).collect(),
            run: StateRun { name, bytes: state_bytes, crc32, state_bytes, first_epoch, last_epoch, end },
        });
        if self.strikes(Fault::CompactReportLost) {
            return;
        }
        if self.strikes(Fault::CompactReportLate) {
            let delay = 500 * MS + self.delay(3_000);
            return self.after(delay, Happening::Executor(executor, ToExecutor::Say(report)));
        }
        self.say(executor, report);
    }
}

/// Of a run with these changes.
pub fn bytes(delta: &Delta) -> u64 {
    10 * delta.len() as u64
}

fn failure(order: &CompactOrder, message: &str) -> CompactFailure {
    CompactFailure {
        incarnation: Incarnation::new(INCARNATION),
        generation: order.generation,
        replaced: order.runs.iter().map(|run| run.name.clone()).collect(),
        executor: order.executor.clone(),
        message: message.into(),
        retryable: true,
    }
}
