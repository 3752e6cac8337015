//! The queries that Ballista runs: each task reads its range, writes a part file of its own, syncs it, and reports.
use std::collections::{BTreeMap, BTreeSet};

use polybolos_streaming::{
    coordinator::{AttemptOutcome, Event, PartLayout},
    frame::{Closing, Frame, PartWork, SourceRange},
    ids::{Attempt, Epoch, Generation, Incarnation, Nonce, PartIndex, SourcePartition},
    manifest::{DEAD_LETTERS, StateRun},
    report::{Counts, PartFile, PartReport, StepTimes},
};
use rand::Rng;

use crate::{
    faults::{Fault, Sabotage},
    happening::{Happening, ToExecutor},
    state::{self, State},
    store::{Content, File, Row},
    topic::{Kind, life_of},
    world::{INCARNATION, MS, SINK, World},
};

/// Rows beyond which a frame is too heavy, where that is the fault.
const HEAVY_ROWS: u64 = 4;

/// An attempt's query, as Ballista sees it.
pub struct Query {
    left: BTreeSet<PartIndex>,
    /// Which execution of a part was the last, where one ran again.
    again: BTreeMap<PartIndex, u64>,
}

#[derive(Clone, Debug)]
pub struct Task {
    pub process: usize,
    pub generation: Generation,
    pub attempt: Attempt,
    epoch: Epoch,
    watermark_us: Option<i64>,
    closing: Option<Closing>,
    /// Timers had fired through it when the frame was made.
    recorded_us: Option<i64>,
    work: PartWork,
    /// What all parts read: those of a state exchange their records.
    ranges: Vec<SourceRange>,
    parts: u16,
    is_shared: bool,
    state: Vec<StateRun>,
    /// The life of the topic that was read ahead when the frame was made.
    topic: usize,
    /// Ballista's second run of it.
    is_repeated: bool,
}

impl Task {
    /// Parts that share a state send each other rows.
    fn trades(&self) -> bool {
        self.is_shared && self.parts > 1
    }
}

/// A part file that is not synced yet.
#[derive(Debug)]
pub struct Written {
    task: Task,
    name: String,
    report: Box<PartReport>,
}

impl World {
    pub fn submit(&mut self, process: usize, attempt: Attempt, frame: &Frame, state: &[StateRun]) {
        let present = self.processes[process].present();
        self.queries
            .insert((process, attempt), Query { left: frame.parts.iter().map(|part| part.part).collect(), again: BTreeMap::new() });
        if self.strikes(Fault::AttemptFails) || present.is_empty() {
            let outcome = AttemptOutcome::Failed { message: "connection reset".into(), retryable: true, data: false };
            let delay = self.delay(60);
            self.deliver_after(delay, process, Event::AttemptEnded { attempt, outcome });
        }
        if self.plan.fault == Fault::HeavyFrames && frame.rows() > HEAVY_ROWS {
            return self.faults.count(Fault::HeavyFrames);
        }
        // Tasks get what was read ahead, whatever the leader believes of it.
        let topic = self.topic_ahead(process);
        let generation = self.processes[process].generation;
        let recorded_us = self.processes[process].coordinator.as_ref().and_then(|it| it.manifest().fired_through_us());
        for part in &frame.parts {
            let task = Task {
                process,
                generation,
                attempt,
                epoch: frame.epoch,
                watermark_us: frame.watermark_us,
                closing: frame.closing.clone(),
                recorded_us,
                work: part.clone(),
                ranges: frame.ranges().copied().collect(),
                parts: frame.parts.len() as u16,
                is_shared: self.plan.stateful,
                state: state.to_vec(),
                topic,
                is_repeated: false,
            };
            let home = match part.ranges.first() {
                // Where the state is, as a rule.
                _ if self.plan.stateful => usize::from(part.part.0) + usize::from(self.random.random_bool(0.1)),
                range => range.map_or(0, |of| of.source.partition as usize),
            };
            if let Some(executor) = present.get(home % present.len().max(1)) {
                let delay = self.delay(40);
                self.after(delay, Happening::Executor(*executor, ToExecutor::Work(task)));
            }
        }
    }

    fn topic_ahead(&self, process: usize) -> usize {
        life_of(&self.processes[process].ahead).unwrap_or_default()
    }

    /// Ballista runs a task again that it believes lost.
    pub fn repeat_elsewhere(&mut self, task: Task, within_ms: u64) {
        let alive: Vec<usize> = (0..self.executors.len()).filter(|i| self.executors[*i].is_alive).collect();
        if !self.queries.contains_key(&(task.process, task.attempt)) || alive.is_empty() {
            return;
        }
        let executor = alive[self.random.random_range(0..alive.len())];
        let delay = self.delay(within_ms);
        self.after(delay, Happening::Executor(executor, ToExecutor::Work(Task { is_repeated: true, ..task })));
    }

    pub fn work(&mut self, executor: usize, task: Task) {
        let this = &self.executors[executor];
        let is_cancelled = this.forgotten_us.is_some() || this.cancelled.contains(&(task.process, task.attempt));
        if is_cancelled || self.is_obsolete(executor, task.generation) {
            return;
        }
        if task.is_repeated && task.trades() && !self.plan.lacks(Sabotage::PartsRunAgain) {
            let message = format!("part {} has run in this attempt", task.work.part);
            let outcome = AttemptOutcome::Failed { message, retryable: true, data: false };
            return self.deliver_after(10 * MS, task.process, Event::AttemptEnded { attempt: task.attempt, outcome });
        }
        if !task.is_repeated && self.strikes(Fault::SecondExecution) {
            self.repeat_elsewhere(task.clone(), 60);
        }
        let part = task.work.part;
        // Of a topic that is no more, only what was read ahead.
        let is_ahead = task.topic + 1 == self.topics.len() || self.random.random_bool(0.5);
        let can_read = |of: &SourceRange| self.topics[task.topic].can_read(of.source.partition, of.range);
        let exchanged = if self.plan.stateful { &task.ranges } else { &task.work.ranges };
        // The order to read another one came first: what had been read is dropped.
        let is_turned = self.topic_ahead(task.process) != task.topic;
        if is_turned || !is_ahead || !exchanged.iter().all(can_read) {
            let message = format!("{exchanged:?} cannot be read");
            let outcome = AttemptOutcome::Failed { message, retryable: true, data: false };
            return self.deliver_after(10 * MS, task.process, Event::AttemptEnded { attempt: task.attempt, outcome });
        }
        let Some(state) = self.load_state(executor, &task.state, (task.work.part.0, task.parts), task.recorded_us) else {
            // Of a leader that is no more: the present one's are there (see `World::check_state`).
            let outcome = AttemptOutcome::Failed { message: "a run of state is gone".into(), retryable: true, data: false };
            return self.deliver_after(10 * MS, task.process, Event::AttemptEnded { attempt: task.attempt, outcome });
        };
        self.executions += 1;
        if let Some(query) = self.queries.get_mut(&(task.process, task.attempt)).filter(|_| task.is_repeated) {
            query.again.insert(part, self.executions);
        }
        let (content, counts) = self.compute(&task, &state);
        let Task { epoch, attempt, generation, .. } = task.clone();
        let execution = Nonce(format!("execution-{}", self.executions));
        // An empty part writes no file; where records get lost, the oracle wants to see what was read.
        let is_told = task.trades() && !content.covers.is_empty();
        let is_empty = content.rows.is_empty() && content.letters.is_empty() && content.state.is_empty() && !is_told;
        let name = match self.plan.fault {
            Fault::Retention | Fault::TopicRecreated => format!("{epoch}-{attempt}-{part}-{execution}"),
            _ if is_empty => String::new(),
            _ if self.plan.lacks(Sabotage::NamesWithoutNonce) => format!("{epoch}-{attempt}-{part}"),
            _ => format!("{epoch}-{attempt}-{part}-{execution}"),
        };
        let rows = [(SINK, content.rows.len() as u64), (DEAD_LETTERS, content.letters.len() as u64)].into_iter().collect();
        let crc32 = self.executions as u32;
        let (state_bytes, state_end) = (state::bytes(&content.state), state::end(&content.state));
        self.keep_overlay(executor, epoch, &name, &content.state);
        let report = PartReport {
            incarnation: Incarnation::new(INCARNATION),
            generation,
            epoch,
            attempt,
            execution,
            executor: self.executors[executor].id.clone(),
            work: task.work.clone(),
            file: PartFile { part, name: name.clone(), bytes: 100, crc32, rows, state_bytes, state_end },
            counts,
            times: StepTimes::default(),
            max_timestamp_ms: None,
            event_time_us: self.event_times(&task),
            fired_us: self.fired_us(&task),
        };
        let is_torn = self.strikes(Fault::TornFile);
        if !name.is_empty() {
            self.store.files.insert(name.clone(), File { content, crc32, unsynced_at: Some(executor), is_torn });
        }
        if is_torn {
            self.kill_executor(executor);
            return self.repeat_elsewhere(task, 1_500);
        }
        let written = Written { task, name, report: Box::new(report) };
        if self.plan.lacks(Sabotage::PartNotSynced) {
            self.report(executor, &written);
            return self.after(400 * MS, Happening::Executor(executor, ToExecutor::Sync(written)));
        }
        let delay = self.delay(10);
        self.after(delay, Happening::Executor(executor, ToExecutor::Sync(written)));
    }

    /// Filters, decodes, keeps the last change per key. What it computes may differ from one execution to the next, as look-ups and `random()` do.
    fn compute(&self, task: &Task, state: &State) -> (Content, Counts) {
        let mut content = Content::default();
        let read = |of: &SourceRange| {
            let records = self.topics[task.topic].read(of.source.partition, of.range);
            (of.range.start..).zip(records).map(|(offset, record)| (of.source, offset, *record)).collect::<Vec<_>>()
        };
        let records: Vec<_> = task.work.ranges.iter().flat_map(read).collect();
        for &(source, offset, record) in &records {
            content.covers.push((task.topic, source.partition, offset));
            if record.kind == Kind::Bad {
                content.letters.push(format!("{}/{}/{offset}", task.topic, source.partition));
            }
        }
        let traded: Vec<_> = if task.trades() { task.ranges.iter().flat_map(read).collect() } else { records.clone() };
        for (_, _, record) in traded.into_iter().filter(|(source, offset, _)| self.has_row(task, *source, *offset)) {
            let row = Row {
                key: record.key,
                value: record.value * 1_000 + self.executions % 1_000,
                refused: record.kind == Kind::Refused,
            };
            match record.kind {
                Kind::Filtered | Kind::Bad => {}
                Kind::Good | Kind::Refused => {
                    if !self.plan.lacks(Sabotage::AllChangesPerKey) {
                        content.rows.retain(|earlier| earlier.key != row.key);
                    }
                    content.rows.push(row);
                }
            }
        }
        let mut late = 0;
        if self.plan.stateful {
            late = records.iter().filter(|(_, _, record)| state::is_late(record, task.watermark_us)).count() as u64;
            let all: Vec<_> = task.ranges.iter().flat_map(read).collect();
            let fired_us = task.watermark_us.max(self.fired_us(task));
            content.state =
                state::change(state, task.watermark_us, fired_us, self.plan.state_ends, all.iter().map(|(_, _, record)| record));
            content.state.retain(|key, _| state::holds((task.work.part.0, task.parts), *key));
        }
        let counts = Counts {
            late,
            records_in: records.len() as u64,
            rows_out: content.rows.len() as u64,
            dead_letters: content.letters.len() as u64,
            ..Counts::default()
        };
        (content, counts)
    }

    /// Whether the row of a record is the task's. Where parts trade rows, something decides that the execution which read the
    /// record drew, as a look-up and `random()` do: all parts have it from that one, or else some rows are nobody's and some are
    /// two parts'.
    fn has_row(&self, task: &Task, source: SourcePartition, offset: i64) -> bool {
        let reader = PartLayout::reader(source, task.parts);
        let query = self.queries.get(&(task.process, task.attempt));
        let drawn = query.and_then(|query| query.again.get(&reader)).copied().unwrap_or(0);
        !task.trades() || (drawn + offset as u64) % u64::from(task.parts) == u64::from(task.work.part.0)
    }

    fn event_times(&self, task: &Task) -> BTreeMap<SourcePartition, i64> {
        let newest = |of: &SourceRange| {
            let records = self.topics[task.topic].read(of.source.partition, of.range);
            Some((of.source, records.iter().map(|record| record.time_us).max()?))
        };
        task.work.ranges.iter().filter_map(newest).collect()
    }

    fn fired_us(&self, task: &Task) -> Option<i64> {
        task.closing.as_ref()?.watermark_us(task.watermark_us, &self.event_times(task))
    }

    pub fn sync(&mut self, executor: usize, written: Written) {
        if let Some(file) = self.store.files.get_mut(&written.name) {
            file.unsynced_at = None;
        }
        if !self.plan.lacks(Sabotage::PartNotSynced) {
            self.report(executor, &written);
        }
    }

    fn report(&mut self, executor: usize, written: &Written) {
        let Task { process, attempt, .. } = written.task;
        let both_lost = self.strikes(Fault::StatusAndReportLost);
        let event = Event::PartReported((*written.report).clone());
        let say = |event| Happening::Executor(executor, ToExecutor::Say(event));
        if self.strikes(Fault::ReportDuplicated) {
            let delay = self.delay(300);
            self.after(delay, say(event.clone()));
        }
        if self.strikes(Fault::ReportLate) {
            let delay = self.delay(3_000);
            self.after(delay, say(event));
        } else if !both_lost && !self.strikes(Fault::ReportLost) {
            self.say(executor, event);
        }
        let Some(query) = self.queries.get_mut(&(process, attempt)) else {
            return;
        };
        if query.left.remove(&written.report.work.part) && query.left.is_empty() && !both_lost && !self.strikes(Fault::StatusLost) {
            let delay = self.delay(20);
            self.after(delay, Happening::QueryEnds { process, attempt });
        }
    }

    pub fn query_ends(&mut self, process: usize, attempt: Attempt) {
        let outcome = AttemptOutcome::Completed;
        self.deliver_after(1, process, Event::AttemptEnded { attempt, outcome });
    }
}
