//! Executors: they beat, follow a leader while it answers, tell it what they did, die and hang.
use std::collections::BTreeSet;

use polybolos_streaming::{
    coordinator::Event,
    grant::Grant,
    ids::{Attempt, ExecutorId, Generation},
};
use rand::Rng;

use crate::{
    faults::Sabotage,
    happening::{Happening, ToExecutor, ToProcess},
    state::Memory,
    world::{MS, World},
};

const BEAT_US: u64 = 300 * MS;
/// A leader that does not answer for so long is gone.
const SILENCE_US: u64 = 2_000 * MS;

pub struct Executor {
    pub id: ExecutorId,
    pub is_alive: bool,
    pub hung_until: u64,
    /// The highest generation it has heard of.
    pub generation: Generation,
    /// The process it is connected to, and the connection's number.
    pub leader: Option<(usize, u64)>,
    pub grant: Grant,
    heard_us: u64,
    pub cancelled: BTreeSet<(usize, Attempt)>,
    /// When it was told that the job has ended.
    pub forgotten_us: Option<u64>,
    pub memory: Memory,
    /// Orders being written.
    pub writings: u32,
}

impl World {
    pub fn executor_born(&mut self) {
        let executor = self.executors.len();
        self.executors.push(Executor {
            id: ExecutorId(format!("executor-{executor}")),
            is_alive: true,
            hung_until: 0,
            generation: Generation(0),
            leader: None,
            grant: Grant::default(),
            heard_us: 0,
            cancelled: BTreeSet::new(),
            forgotten_us: None,
            memory: Memory::default(),
            writings: 0,
        });
        let delay = self.delay(100);
        self.after(delay, Happening::Executor(executor, ToExecutor::Beat));
    }

    /// The executor's machine goes: what it has not synced is torn. Another comes in its place.
    pub fn kill_executor(&mut self, executor: usize) {
        if !self.executors[executor].is_alive {
            return;
        }
        self.executors[executor].is_alive = false;
        self.store.tear(executor);
        let delay = self.delay(2_000);
        self.after(delay, Happening::ExecutorBorn);
    }

    pub fn at_executor(&mut self, executor: usize, message: ToExecutor) {
        let Executor { is_alive, hung_until, .. } = self.executors[executor];
        if !is_alive {
            if let ToExecutor::Work(task) = message {
                self.repeat_elsewhere(task, 1_500);
            }
            return;
        }
        if hung_until > self.now {
            let delay = hung_until - self.now + self.delay(20);
            return self.after(delay, Happening::Executor(executor, message));
        }
        match message {
            ToExecutor::Beat => self.beat(executor),
            ToExecutor::Grant { connection, generation, asked_us } => {
                let this = &mut self.executors[executor];
                if this.leader.is_some_and(|(_, number)| number == connection) {
                    this.generation = this.generation.max(generation);
                    this.heard_us = self.now;
                    this.grant.renew(asked_us);
                }
            }
            ToExecutor::Work(task) => self.work(executor, task),
            ToExecutor::Sync(written) => self.sync(executor, written),
            ToExecutor::Say(event) => self.say(executor, event),
            ToExecutor::Cancel { process, attempt } => {
                self.executors[executor].cancelled.insert((process, attempt));
            }
            ToExecutor::Forget => self.executors[executor].forgotten_us = Some(self.now),
            ToExecutor::Order { connection, generation, order } => self.take_order(executor, connection, generation, order),
            ToExecutor::Write(writing) => self.write(executor, writing),
            ToExecutor::Compact { order, is_read } => self.compact(executor, order, is_read),
        }
    }

    fn beat(&mut self, executor: usize) {
        self.after(BEAT_US, Happening::Executor(executor, ToExecutor::Beat));
        let this = &mut self.executors[executor];
        if this.leader.is_some() && self.now > this.heard_us + SILENCE_US {
            this.leader = None;
            this.grant.revoke();
        }
        if this.leader.is_none() {
            let generation = this.generation;
            let follows_any = self.plan.lacks(Sabotage::LowerGenerations);
            let leads = |process: &usize| {
                let process = &self.processes[*process];
                // Who is new here learns from the store (rule 19) what it has not heard, and a drowsy leader does not reach that.
                let is_known = process.drowsy_until <= self.now || generation > Generation(0);
                process.leads() && is_known && process.paused_until <= self.now && (process.generation >= generation || follows_any)
            };
            let leading: Vec<usize> = (0..self.processes.len()).filter(leads).collect();
            if leading.is_empty() {
                return;
            }
            let process = leading[self.random.random_range(0..leading.len())];
            self.connections += 1;
            self.executors[executor].leader = Some((process, self.connections));
            self.executors[executor].heard_us = self.now;
        }
        if let Some((process, connection)) = self.executors[executor].leader {
            let asked_us = self.now;
            let delay = self.delay(8);
            self.after(delay, Happening::Process(process, ToProcess::Beat { executor, connection, asked_us }));
        }
    }

    /// Tells the leader, or whoever is the next.
    pub fn say(&mut self, executor: usize, event: Event) {
        match self.executors[executor].leader {
            Some((process, _)) => {
                let delay = self.delay(8);
                self.deliver_after(delay, process, event);
            }
            None => self.after(300 * MS, Happening::Executor(executor, ToExecutor::Say(event))),
        }
    }
}
