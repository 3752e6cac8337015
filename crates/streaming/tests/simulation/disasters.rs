//! The faults that strike at a time, not where something happens; the operator who clears up after them; and the follower of the changelog.
use polybolos_streaming::{
    coordinator::{Command, Event},
    manifest::{Life, Manifest},
};
use rand::Rng;

use crate::{
    faults::{Fault, Sabotage},
    happening::Happening,
    topic::{Partition, Topic},
    world::{CALM_AT, MS, World},
};

/// Those that come along with any other.
const COMPANY: [Fault; 7] = [
    Fault::ExecutorDies,
    Fault::ExecutorHangs,
    Fault::LeaderPaused,
    Fault::LeaderDies,
    Fault::SinkAway,
    Fault::ClockBack,
    Fault::ClockForward,
];

/// A chance missed comes again so soon.
const AGAIN_US: u64 = 20 * MS;

impl World {
    pub fn plan_disasters(&mut self) {
        for second in [2, 5, 9] {
            let at_ms = second * 1_000 + self.random.random_range(0..1_500);
            self.after(at_ms * MS, Happening::Disaster(self.plan.fault));
        }
        if self.plan.fault == Fault::TopicRecreated {
            // So late that few records follow.
            self.after(CALM_AT - 500 * MS, Happening::Disaster(Fault::TopicRecreated));
        }
        if self.plan.drowsy {
            // What is recorded meanwhile waits for the sink, and the one that sleeps knows of it.
            self.after(7_600 * MS, Happening::Disaster(Fault::SinkAway));
            self.after(8_200 * MS, Happening::Disaster(Fault::LeaderPaused));
        }
        for _ in 0..2 {
            let at_ms = self.random.random_range(500..14_000);
            let fault = COMPANY[self.random.random_range(0..COMPANY.len())];
            self.after(at_ms * MS, Happening::Disaster(fault));
        }
    }

    pub fn strike(&mut self, fault: Fault) {
        let again = Happening::Disaster(fault);
        match fault {
            Fault::ExecutorDies | Fault::ExecutorHangs => match self.some_executor() {
                Some(executor) if fault == Fault::ExecutorDies => self.kill_executor(executor),
                Some(executor) => {
                    self.executors[executor].hung_until = self.now + self.random.random_range(500..6_000) * MS;
                }
                None => return self.after(AGAIN_US, again),
            },
            Fault::ClockForward | Fault::ClockBack => {
                let jump_us = self.random.random_range(1..100) * 1_000_000;
                for process in &mut self.processes {
                    process.wall_offset_us += if fault == Fault::ClockForward { jump_us } else { -jump_us };
                }
            }
            Fault::LeaderDies => match self.leader() {
                Some(leader) => self.kill_process(leader),
                None => return self.after(AGAIN_US, again),
            },
            Fault::LeaderPaused => {
                // It counts when it wakes and another has taken over (see `World::at_process`).
                match self.leader() {
                    Some(leader) => {
                        self.processes[leader].paused_until = self.now + self.random.random_range(4_500..9_000) * MS;
                        self.processes[leader].sleeps = true;
                    }
                    None => self.after(AGAIN_US, again),
                }
                return;
            }
            Fault::PartitionAdded => {
                self.topics.last_mut().expect("a topic").partitions.push(Partition::default());
                self.append_some(4);
            }
            Fault::Retention => {
                self.append_some(12);
                for partition in &mut self.topics.last_mut().expect("a topic").partitions {
                    partition.beginning = partition.beginning.max(partition.end() - 1);
                }
            }
            Fault::TopicRecreated => {
                self.topics.push(Topic::with_partitions(3));
                self.append_some(8);
            }
            Fault::SinkAway => {
                self.sinks.away_until = self.now + self.random.random_range(500..4_000) * MS;
                self.append_some(30);
            }
            Fault::PowerCut => {
                for process in 0..self.processes.len() {
                    if self.processes[process].is_alive {
                        self.kill_process(process);
                    }
                }
                for executor in 0..self.executors.len() {
                    self.kill_executor(executor);
                }
                if self.plan.lacks(Sabotage::ManifestNotSynced) {
                    self.store.take_back();
                }
            }
            // They count when they are seen to have happened (see `World::operate`).
            Fault::PausedByUser => return self.command(Command::Pause),
            Fault::Dropped if self.now > CALM_AT / 2 => {
                self.is_dropping = true;
                return self.command(Command::Drop { discard: false });
            }
            Fault::Discarded if self.now > CALM_AT / 2 => return self.discard(),
            // The others strike where something happens.
            _ => return,
        }
        self.faults.count(fault);
    }

    fn append_some(&mut self, records: usize) {
        for _ in 0..records {
            self.append();
        }
    }

    /// Ends the job while publishers are in the middle of a part, and asleep.
    fn discard(&mut self) {
        let writing: Vec<usize> =
            (0..self.executors.len()).filter(|i| self.executors[*i].is_alive && self.executors[*i].writings > 0).collect();
        if writing.is_empty() || self.leader().is_none() {
            self.append();
            return self.after(AGAIN_US, Happening::Disaster(Fault::Discarded));
        }
        for executor in writing {
            self.executors[executor].hung_until = self.now + self.random.random_range(3_000..5_000) * MS;
        }
        self.is_dropping = true;
        self.command(Command::Drop { discard: true });
    }

    fn command(&mut self, command: Command) {
        if let Some(leader) = self.leader() {
            self.deliver_after(0, leader, Event::Command(command));
        }
    }

    /// Looks every second at what the manifest says: resumes a paused job, and tells whoever leads to drop one that the catalog has no more.
    pub fn operate(&mut self) {
        self.after(1_000 * MS, Happening::Operator);
        match &self.store.manifest.life {
            Life::Paused => {
                self.faults.count(Fault::PausedByUser);
                self.command(Command::Resume);
            }
            Life::Dropped if self.faults.of(self.plan.fault) == 0 => self.faults.count(self.plan.fault),
            Life::Dropped => {}
            _ if self.is_dropping => self.command(Command::Drop { discard: self.plan.fault == Fault::Discarded }),
            _ if self.plan.fault == Fault::PausedByUser && self.faults.of(Fault::PausedByUser) == 0 && self.now > CALM_AT / 2 => {
                self.command(Command::Pause)
            }
            _ => {}
        }
    }

    /// A live query reads the manifest, and after a while the files that it names.
    pub fn follow(&mut self, read: Option<&Manifest>) {
        let Some(manifest) = read else {
            let delay = 500 * MS + self.delay(1_500);
            let manifest = Box::new(self.store.manifest.clone());
            return self.after(delay, Happening::Follower(Some(manifest)));
        };
        for file in manifest.files().filter(|file| !file.name.is_empty()) {
            if self.store.read(&file.name, file.crc32).is_none() {
                self.violate(format_args!("a follower of the changelog misses file {}", file.name));
            }
        }
        for run in &manifest.state {
            if self.store.read(&run.name, run.crc32).is_none() {
                self.violate(format_args!("who restores the state misses run {}", run.name));
            }
        }
        self.after(200 * MS, Happening::Follower(None));
    }

    /// The process that leads and is awake, if there is one.
    fn leader(&self) -> Option<usize> {
        let leads = |i: &usize| self.processes[*i].coordinator.is_some() && self.processes[*i].paused_until <= self.now;
        (0..self.processes.len()).filter(leads).max_by_key(|i| self.processes[*i].generation)
    }

    fn some_executor(&mut self) -> Option<usize> {
        let is_well = |i: &usize| self.executors[*i].is_alive && self.executors[*i].hung_until <= self.now;
        let well: Vec<usize> = (0..self.executors.len()).filter(is_well).collect();
        if well.is_empty() { None } else { Some(well[self.random.random_range(0..well.len())]) }
    }
}
