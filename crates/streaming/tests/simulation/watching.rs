//! What a leading process notices by itself: executors that come and fall silent, records read ahead, the topic's partitions.
use polybolos_streaming::{coordinator::Event, ids::ExecutorId};

use crate::{
    happening::{Happening, ToExecutor, ToProcess},
    topic::life_of,
    world::{MS, World},
};

/// A silent executor counts as lost.
const BEAT_LIMIT_US: u64 = 1_000 * MS;

#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub number: u64,
    pub beat_us: u64,
    pub is_lost: bool,
}

impl World {
    pub fn poll(&mut self, process: usize) {
        if self.processes[process].coordinator.is_none() {
            return;
        }
        for (executor, connection) in self.processes[process].connected.clone() {
            if !connection.is_lost && self.now > connection.beat_us + BEAT_LIMIT_US {
                self.processes[process].connected.insert(executor, Connection { is_lost: true, ..connection });
                let executor = self.executors[executor].id.clone();
                self.deliver(process, Event::ExecutorLost { executor });
            }
        }
        self.announce(process);
        let delay = 50 * MS + self.delay(50);
        self.after(delay, Happening::Process(process, ToProcess::Poll));
    }

    /// What the executors have read ahead, from where they were told to.
    fn announce(&mut self, process: usize) {
        if self.processes[process].present().is_empty() {
            return;
        }
        let log = self.processes[process].ahead.clone();
        let Some(topic) = life_of(&log) else { return };
        let ends = self.topics[topic].ends();
        for (partition, from) in self.processes[process].wanted.clone() {
            let Some(end) = ends.get(&partition.partition).copied().filter(|end| *end > from) else {
                continue;
            };
            if self.processes[process].announced.insert(partition, end) != Some(end) {
                self.deliver(process, Event::Available { partition, log: log.clone(), end, bytes_per_record: 100 });
            }
        }
    }

    /// Asks the broker; the next question waits for the answer.
    pub fn list_topic(&mut self, process: usize) {
        let topic = self.topics.last().expect("a topic");
        let (beginnings, ends) = (topic.beginnings(), topic.ends());
        let topic = self.topics.len() - 1;
        let (asked_us, delay) = (self.now, self.delay(800));
        self.after(delay, Happening::Process(process, ToProcess::Listed { asked_us, topic, beginnings, ends }));
    }

    pub fn hear_beat(&mut self, process: usize, executor: usize, number: u64, asked_us: u64) {
        let beat_us = self.now;
        let this = &mut self.processes[process];
        if !this.leads() {
            return;
        }
        let id: ExecutorId = self.executors[executor].id.clone();
        match this.connected.get_mut(&executor) {
            // A stream that was given up, or an old one.
            Some(known) if known.number > number || (known.number == number && known.is_lost) => return,
            Some(known) if known.number == number => known.beat_us = beat_us,
            known => {
                let replaces = known.is_some_and(|known| !known.is_lost);
                this.connected.insert(executor, Connection { number, beat_us, is_lost: false });
                if replaces {
                    self.deliver(process, Event::ExecutorLost { executor: id.clone() });
                }
                self.deliver(process, Event::ExecutorJoined { executor: id });
                self.processes[process].announced.clear();
            }
        }
        let generation = self.processes[process].generation;
        let delay = self.delay(8);
        self.after(delay, Happening::Executor(executor, ToExecutor::Grant { connection: number, generation, asked_us }));
    }
}
