//! Publishers and the two tables they write: cells where the last write wins by timestamp and, among equals, the greater value, as Cassandra has it; and
//! dead letters, each with a key of its own.
use std::collections::{BTreeMap, BTreeSet};

use polybolos_streaming::{
    coordinator::{Event, PublishFailure, PublishOrder},
    ids::{Generation, Incarnation},
    manifest::DEAD_LETTERS,
    report::{PartFile, PublishReport},
};
use rand::Rng;

use crate::{
    faults::{Fault, Sabotage},
    happening::{Happening, ToExecutor},
    store::{Content, File},
    world::{INCARNATION, MS, SINK, World},
};

/// Rows per batch.
const BATCH: usize = 2;

#[derive(Debug, Default)]
pub struct Sinks {
    pub cells: BTreeMap<u32, Cell>,
    pub letters: BTreeSet<String>,
    pub away_until: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    pub timestamp_us: i64,
    pub value: u64,
}

/// An order being carried out.
#[derive(Debug)]
pub struct Writing {
    connection: u64,
    generation: Generation,
    taken_us: u64,
    order: PublishOrder,
    /// Rows done.
    done: usize,
    refused: Vec<String>,
}

impl World {
    pub fn take_order(&mut self, executor: usize, connection: u64, generation: Generation, order: PublishOrder) {
        let is_obsolete = self.is_obsolete(executor, generation);
        let this = &mut self.executors[executor];
        if is_obsolete || this.leader.is_none_or(|(_, number)| number != connection) {
            return;
        }
        this.writings += 1;
        self.write(executor, Writing { connection, generation, taken_us: self.now, order, done: 0, refused: Vec::new() });
    }

    /// Whether an order is of a leader before the one that this executor has heard of.
    pub fn is_obsolete(&self, executor: usize, generation: Generation) -> bool {
        generation < self.executors[executor].generation && !self.plan.lacks(Sabotage::LowerGenerations)
    }

    /// One batch, if this process has leave to write.
    pub fn write(&mut self, executor: usize, mut writing: Writing) {
        let this = &self.executors[executor];
        let is_same_stream = this.leader.is_some_and(|(_, number)| number == writing.connection);
        let stands = is_same_stream && this.forgotten_us < Some(writing.taken_us);
        let is_granted = (stands || self.plan.lacks(Sabotage::OrdersOutliveStreams)) && this.grant.allows(self.now);
        if !is_granted && !self.plan.lacks(Sabotage::NoGrants) {
            return self.fail(executor, &writing, "the grant has run out", true);
        }
        if self.now < self.sinks.away_until {
            return self.fail(executor, &writing, "the table cannot be reached", true);
        }
        let PartFile { name, crc32, .. } = writing.order.part.clone();
        let Some(content) = self.store.read(&name, crc32).cloned() else {
            return self.fail(executor, &writing, "the part file is gone or broken", false);
        };
        let rows = if writing.order.sink == SINK { content.rows.len() } else { content.letters.len() };
        for index in (writing.done..rows).take(BATCH) {
            self.write_row(&mut writing, &content, index);
        }
        writing.done += BATCH;
        if writing.done >= rows {
            return self.finish(executor, writing, rows);
        }
        if self.strikes(Fault::PublisherHangs) {
            self.executors[executor].hung_until = self.now + self.random.random_range(1_500..5_000) * MS;
        }
        let delay = self.delay(20);
        self.after(delay, Happening::Executor(executor, ToExecutor::Write(writing)));
    }

    fn write_row(&mut self, writing: &mut Writing, content: &Content, index: usize) {
        let PublishOrder { sink, epoch, part, timestamp_us, .. } = &writing.order;
        self.check_write(*sink, *epoch, &part.name, index);
        if *sink == DEAD_LETTERS {
            self.sinks.letters.insert(content.letters[index].clone());
            return;
        }
        let row = content.rows[index];
        if row.refused {
            self.faults.count(Fault::SinkRefuses);
            writing.refused.push(format!("{epoch}/{}/{}", part.part, row.key));
            return;
        }
        let cell = self.sinks.cells.entry(row.key).or_default();
        *cell = Cell { timestamp_us: *timestamp_us, value: row.value }.max(*cell);
    }

    fn finish(&mut self, executor: usize, writing: Writing, rows: usize) {
        let Writing { generation, order, refused, .. } = writing;
        self.executors[executor].writings -= 1;
        let refused = (!refused.is_empty()).then(|| self.store_refused(&order, refused));
        let report = PublishReport {
            incarnation: Incarnation::new(INCARNATION),
            generation,
            epoch: order.epoch,
            sink: order.sink,
            part: order.part.part,
            rows: rows as u64,
            retries: 0,
            write_us: 1,
            refused,
        };
        let event = Event::PublishReported(report);
        if self.strikes(Fault::PublishReportLost) {
            return;
        }
        if self.strikes(Fault::PublishReportDuplicated) {
            let delay = self.delay(2_000);
            self.after(delay, Happening::Executor(executor, ToExecutor::Say(event.clone())));
        }
        self.say(executor, event);
    }

    fn store_refused(&mut self, order: &PublishOrder, letters: Vec<String>) -> PartFile {
        self.executions += 1;
        let name = format!("{}-refused-{}", order.part.name, self.executions);
        let crc32 = self.executions as u32;
        let rows = BTreeMap::from([(DEAD_LETTERS, letters.len() as u64)]);
        let content = Content { letters, ..Content::default() };
        self.store.files.insert(name.clone(), File { content, crc32, unsynced_at: None, is_torn: false });
        PartFile { part: order.part.part, name, bytes: 10, crc32, rows, state_bytes: 0, state_end: None }
    }

    fn fail(&mut self, executor: usize, writing: &Writing, message: &str, retryable: bool) {
        self.executors[executor].writings -= 1;
        let PublishOrder { sink, epoch, part, executor: id, .. } = writing.order.clone();
        let failure = PublishFailure {
            generation: writing.generation,
            sink,
            epoch,
            part: part.part,
            executor: id,
            message: message.into(),
            retryable,
        };
        self.say(executor, Event::PublishFailed(failure));
    }
}
