//! The world's clock and queue: what happens when. Everything random comes from one seeded generator and every collection is ordered, so a seed
//! is a run. Faults strike until [`CALM_AT`]; what was produced must be published by [`GIVE_UP_AT`].
use std::{collections::BTreeMap, fmt};

use polybolos_streaming::{
    coordinator::Event,
    ids::{Attempt, Epoch, Generation, Incarnation, JobName, Nonce, SinkId, SourceId},
    manifest::{DEAD_LETTERS, Life, Manifest, SourcePosition},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    executors::Executor,
    faults::{Counters, Fault, Plan},
    happening::{Happening, ToExecutor, ToProcess},
    oracle::Oracle,
    processes::Process,
    publishers::Sinks,
    store::Store,
    tasks::Query,
    topic::{Kind, Record, Topic},
};

pub const MS: u64 = 1_000;
pub const SOURCE: SourceId = SourceId(0);
pub const SINK: SinkId = SinkId(0);
/// The planned fault strikes from here on, if it is one that strikes where something happens.
const STORMY_FROM: u64 = 2_000 * MS;
/// Faults stop here.
pub const CALM_AT: u64 = 16_000 * MS;
/// And everything must have settled here.
const GIVE_UP_AT: u64 = 120_000 * MS;
/// Where frames are too heavy, every other attempt runs into its deadline.
const GIVE_UP_HEAVY_AT: u64 = 600_000 * MS;
/// So long it must stay as it is.
const SETTLED_FOR: u64 = 5_000 * MS;

pub const INCARNATION: &str = "incarnation";

pub struct World {
    pub plan: Plan,
    pub random: ChaCha8Rng,
    pub now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    order: u64,
    pub topics: Vec<Topic>,
    pub store: Store,
    pub processes: Vec<Process>,
    pub executors: Vec<Executor>,
    pub queries: BTreeMap<(usize, Attempt), Query>,
    pub connections: u64,
    pub executions: u64,
    pub sinks: Sinks,
    pub oracle: Oracle,
    pub faults: Counters,
    pub violation: Option<String>,
    pub diary: Vec<String>,
    pub group_offsets: BTreeMap<i32, i64>,
    /// The catalog has the job no more.
    pub is_dropping: bool,
    values: u64,
    settled_at: Option<u64>,
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<String>,
    pub faults: Counters,
    pub diary: Vec<String>,
    pub epochs: u64,
    pub records: u64,
    /// When all was published, after the faults had ceased.
    pub settled_us: u64,
}

/// Runs a plan to its end.
pub fn run(plan: Plan) -> Outcome {
    let mut world = World::new(plan);
    world.go();
    if world.violation.is_none() {
        world.check_end();
    }
    Outcome {
        violation: world.violation,
        faults: world.faults,
        diary: world.diary,
        epochs: world.store.manifest.epoch.0,
        records: world.oracle.records(),
        settled_us: world.settled_at.unwrap_or(world.now).saturating_sub(CALM_AT),
    }
}

impl World {
    fn new(plan: Plan) -> Self {
        let topic = Topic::with_partitions(3);
        let position = SourcePosition {
            topic: "readings".into(),
            topic_id: Some("topic-0".into()),
            next: topic.beginnings(),
            ..SourcePosition::default()
        };
        let manifest = Manifest {
            sources: BTreeMap::from([(SOURCE, position)]),
            published: BTreeMap::from([(SINK, Epoch(0)), (DEAD_LETTERS, Epoch(0))]),
            ..Manifest::new(JobName::new("job"), Incarnation::new(INCARNATION), Generation(0), Nonce::new("created"))
        };
        Self {
            plan,
            random: ChaCha8Rng::seed_from_u64(plan.seed),
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            topics: vec![topic],
            group_offsets: manifest.sources[&SOURCE].next.clone(),
            store: Store::new(manifest),
            processes: Vec::new(),
            executors: Vec::new(),
            queries: BTreeMap::new(),
            connections: 0,
            executions: 0,
            sinks: Sinks::default(),
            oracle: Oracle::default(),
            faults: Counters::default(),
            violation: None,
            diary: Vec::new(),
            is_dropping: false,
            values: 0,
            settled_at: None,
        }
    }

    fn go(&mut self) {
        for _ in 0..3 {
            self.executor_born();
            self.process_born();
        }
        self.after(10 * MS, Happening::Produce);
        self.after(1_000 * MS, Happening::Operator);
        self.after(700 * MS, Happening::Follower(None));
        if self.plan.stateful {
            self.after(4_000 * MS, Happening::Savepoint);
            self.after(8_000 * MS, Happening::Savepoint);
        }
        self.plan_disasters();
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = at;
            if at > self.give_up_at() {
                let leading = self.processes.iter().filter_map(|process| process.coordinator.as_deref());
                let states: Vec<String> = leading.map(|coordinator| format!("{:?}", coordinator.status())).collect();
                let stored = self.store.manifest.clone();
                self.violate(format_args!("nothing settles: {states:?}, stored {stored:?}"));
            }
            if self.violation.is_some() || self.has_ended() {
                return;
            }
            self.happen(happening);
        }
    }

    fn give_up_at(&self) -> u64 {
        if self.plan.fault == Fault::HeavyFrames { GIVE_UP_HEAVY_AT } else { GIVE_UP_AT }
    }

    fn has_ended(&self) -> bool {
        if self.now < CALM_AT {
            return false;
        }
        let settled = self.settled_at.is_some_and(|at| self.now > at + SETTLED_FOR);
        settled || self.oracle.ended_at.is_some_and(|at| self.now > at + 2 * SETTLED_FOR)
    }

    fn happen(&mut self, happening: Happening) {
        let is_routine = matches!(
            happening,
            Happening::Process(_, ToProcess::Poll | ToProcess::Tick | ToProcess::Beat { .. } | ToProcess::Elect(_))
        ) || matches!(happening, Happening::Executor(_, ToExecutor::Beat | ToExecutor::Grant { .. }))
            || matches!(happening, Happening::Follower(_));
        if self.plan.traced && !is_routine {
            self.note(format_args!("{happening:?}"));
        }
        match happening {
            Happening::Produce => self.produce(),
            Happening::Disaster(fault) => self.strike(fault),
            Happening::Operator => self.operate(),
            Happening::Follower(read) => self.follow(read.as_deref()),
            Happening::Savepoint => self.make_savepoint(),
            Happening::ProcessBorn => self.process_born(),
            Happening::Process(process, message) => self.at_process(process, message),
            Happening::Executor(executor, message) => self.at_executor(executor, message),
            Happening::ExecutorBorn => self.executor_born(),
            Happening::LeaseReadArrives { process } => self.lease_read_arrives(process),
            Happening::LeaseWriteArrives { process, expected, record, answered } => {
                self.lease_write_arrives(process, expected, record, answered)
            }
            Happening::SwapArrives { process, expected, manifest, answered } => {
                self.swap_arrives(process, &expected, *manifest, answered)
            }
            Happening::ReadArrives { process, request } => self.read_arrives(process, request),
            Happening::LoadArrives { process, generation } => self.load_arrives(process, generation),
            Happening::GroupOffsets(offsets) => self.group_offsets.extend(offsets),
            Happening::QueryEnds { process, attempt } => self.query_ends(process, attempt),
        }
        self.watch_settling();
    }

    fn watch_settling(&mut self) {
        let manifest = &self.store.manifest;
        let settled = self.now > CALM_AT
            && manifest.unpublished.is_empty()
            && manifest.life == Life::Running
            && manifest.fired_through_us() == manifest.watermark_us
            && manifest.sources[&SOURCE].topic_id == Some(self.topic_id())
            && manifest.sources[&SOURCE].next == self.topics[self.topics.len() - 1].ends();
        self.settled_at = if settled { self.settled_at.or(Some(self.now)) } else { None };
    }

    pub fn topic_id(&self) -> String {
        format!("topic-{}", self.topics.len() - 1)
    }

    // ---- Producers ----

    fn produce(&mut self) {
        for _ in 0..self.random.random_range(1..6) {
            self.append();
        }
        if self.now < CALM_AT {
            let pause_ms = if self.random.random_bool(0.1) { 1_500 } else { self.random.random_range(30..300) };
            self.after(pause_ms * MS, Happening::Produce);
        }
    }

    pub fn append(&mut self) {
        self.values += 1;
        let key = self.random.random_range(0..12u32);
        let kind = match self.random.random_range(0..100) {
            0..6 => Kind::Bad,
            6..14 => Kind::Refused,
            14..24 => Kind::Filtered,
            _ => Kind::Good,
        };
        // Mostly a key has its partition; now and then it turns up in another.
        let stray = self.random.random_bool(0.2).then(|| self.random.random_range(0..1_000));
        // Spread out, so that a larger value is not a later one.
        let value = (self.values * 0x9E37_79B9) % 0x7FFF_FFFF;
        // Records are out of order by up to half a second, and some much more.
        let delay_ms = if self.random.random_bool(0.1) { 3_000 } else { 500 };
        let time_us = self.now as i64 - self.random.random_range(0..delay_ms * MS as i64);
        let partitions = &mut self.topics.last_mut().expect("a topic").partitions;
        let partition = stray.unwrap_or(key as usize) % partitions.len();
        partitions[partition].records.push(Record { key, value, kind, time_us });
    }

    // ---- Chance ----

    /// Whether this fault strikes here: the planned one surely at its first chance in the storm and often after it, others seldom, none once it is calm.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        // Two faults are about what a lost reply makes of them.
        let doubts = matches!(self.plan.fault, Fault::ManifestReadLost | Fault::TopicRecreated) && fault == Fault::SwapReplyLost;
        let planned = self.plan.fault == fault || doubts;
        let is_due = planned && self.now >= STORMY_FROM && self.faults.of(fault) == 0;
        let strikes = self.now < CALM_AT && (is_due || self.random.random_bool(if planned { 0.2 } else { 0.006 }));
        if strikes {
            self.faults.count(fault);
        }
        strikes
    }

    pub fn delay(&mut self, max_ms: u64) -> u64 {
        self.random.random_range(100..=max_ms * MS)
    }

    // ---- Queue and diary ----

    pub fn after(&mut self, delay_us: u64, happening: Happening) {
        self.order += 1;
        self.queue.insert((self.now + delay_us, self.order), happening);
    }

    pub fn deliver_after(&mut self, delay_us: u64, process: usize, event: Event) {
        self.after(delay_us, Happening::Process(process, ToProcess::Deliver(event)));
    }

    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        if self.plan.traced {
            self.diary.push(format!("{:>10.3} ms  {what}", self.now as f64 / 1_000.0));
        }
    }

    pub fn violate(&mut self, what: fmt::Arguments<'_>) {
        if self.violation.is_none() {
            self.violation = Some(format!("at {} ms: {what}", self.now / MS));
        }
    }
}
