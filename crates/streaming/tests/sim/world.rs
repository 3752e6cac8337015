//! The world's clock and queue: what happens when, and which faults are planned.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use polybolos_streaming::{
    coordinator::{Command, Event, ManifestAnswer, PublishOrder, SwapReply},
    frame::Frame,
    grant::Grant,
    ids::{Attempt, Epoch, ExecutorId, Generation, Incarnation, JobName, Nonce, SinkId, SourceId, Version},
    manifest::{DEAD_LETTERS, Life, Manifest, SourcePosition},
    report::Counts,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    executors::{Executor, PartContent, Task},
    faults::{Counters, Fault, Plan, Sabotage},
    kafka::{Kind, Record, Topic},
    leaders::Leader,
    oracle::Oracle,
    store::Store,
};

pub const MS: u64 = 1_000;
pub const SOURCE: SourceId = SourceId(0);
pub const SINK: SinkId = SinkId(0);
/// Faults stop here.
const CALM_AT: u64 = 10_000 * MS;
/// And everything must have settled here.
const GIVE_UP_AT: u64 = 60_000 * MS;
pub const RETENTION_US: u64 = 2_000 * MS;

#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<String>,
    pub faults: Counters,
    pub trace: Vec<String>,
    pub epochs: u64,
}

/// Something that will happen.
#[derive(Debug)]
pub enum Happening {
    Produce,
    Poll { leader: usize },
    Tick { leader: usize },
    Deliver { leader: usize, event: Event },
    Recover { leader: usize, answer: Option<(Version, Manifest)> },
    Standby,
    SwapArrives { leader: usize, nonce: Nonce, reply: bool },
    ReadArrives { leader: usize, request: Nonce },
    Connect { leader: usize, executor: usize },
    Work { executor: usize, task: Task },
    Publish { executor: usize, leader: usize, order: PublishOrder, done: Vec<usize> },
    ExecutorLost { executor: usize },
    ExecutorBorn,
    Beat { executor: usize },
    Wake { leader: usize },
    Fault(Fault),
}

pub struct World {
    pub plan: Plan,
    pub random: ChaCha8Rng,
    pub now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    order: u64,
    pub topics: Vec<Topic>,
    pub store: Store,
    pub files: BTreeMap<String, PartContent>,
    pub executors: Vec<Executor>,
    pub leaders: Vec<Leader>,
    /// Frames by leader and attempt, with how many tasks are not done.
    pub attempts: BTreeMap<(usize, Attempt), (Frame, usize)>,
    pub oracle: Oracle,
    pub faults: Counters,
    pub violation: Option<String>,
    trace: Vec<String>,
    pub sink: BTreeMap<u32, (u64, i64)>,
    pub dead_letters: BTreeSet<String>,
    pub sink_away_until: u64,
    pub group_offsets: BTreeMap<i32, i64>,
    pub dropped_at: Option<u64>,
    values: u64,
    settled_at: Option<u64>,
    pub busy_after_settling: u32,
}

/// Runs a plan to its end.
pub fn run(plan: Plan) -> Outcome {
    let mut world = World::new(plan);
    world.go();
    if world.violation.is_none() {
        world.violation = world.final_check();
    }
    Outcome { violation: world.violation, faults: world.faults, trace: world.trace, epochs: world.store.manifest.epoch.0 }
}

impl World {
    fn new(plan: Plan) -> Self {
        let topic = Topic::with_partitions(3);
        let position =
            SourcePosition { topic: "readings".into(), topic_id: Some("topic-0".into()), next: topic.beginnings(), max_timestamp_ms: BTreeMap::new() };
        let manifest = Manifest {
            job: JobName::new("job"),
            incarnation: Incarnation::new("incarnation"),
            generation: Generation(0),
            nonce: Nonce::new("created"),
            epoch: Epoch(0),
            life: Life::Running,
            sources: BTreeMap::from([(SOURCE, position)]),
            window_end_us: 0,
            counts: Counts::default(),
            unpublished: Vec::new(),
            published: BTreeMap::from([(SINK, Epoch(0)), (DEAD_LETTERS, Epoch(0))]),
            recorded_at_us: 0,
        };
        Self {
            plan,
            random: ChaCha8Rng::seed_from_u64(plan.seed),
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            topics: vec![topic],
            store: Store::new(manifest.clone()),
            files: BTreeMap::new(),
            executors: Vec::new(),
            leaders: Vec::new(),
            attempts: BTreeMap::new(),
            oracle: Oracle::new(&manifest),
            faults: Counters::default(),
            violation: None,
            trace: Vec::new(),
            sink: BTreeMap::new(),
            dead_letters: BTreeSet::new(),
            sink_away_until: 0,
            group_offsets: BTreeMap::new(),
            dropped_at: None,
            values: 0,
            settled_at: None,
            busy_after_settling: 0,
        }
    }

    fn go(&mut self) {
        for _ in 0..3 {
            self.executor_born();
        }
        self.start_leader();
        self.at(10 * MS, Happening::Produce);
        for at in [2_000 * MS, 4_500 * MS, 7_000 * MS] {
            let at = at + self.random.random_range(0..1_000) * MS;
            self.at(at, Happening::Fault(self.plan.fault));
        }
        // Company for the planned fault.
        for _ in 0..2 {
            let at = self.random.random_range(500..9_000) * MS;
            let other = [Fault::ExecutorDies, Fault::ExecutorHangs, Fault::LeaderPaused, Fault::LeaderDies, Fault::SinkAway, Fault::ClockBack, Fault::TwoLeaders]
                [self.random.random_range(0..7)];
            self.at(at, Happening::Fault(other));
        }
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = at;
            if self.violation.is_some() || self.has_ended() {
                return;
            }
            if at > GIVE_UP_AT {
                let phases: Vec<String> = self.leaders.iter().filter_map(|leader| Some(format!("{:?}", leader.coordinator.as_ref()?.status()))).collect();
                self.violate(format!("nothing settles: {phases:?}"));
                return;
            }
            self.happen(happening);
        }
    }

    /// Settled for a while, or dropped and every zombie awake again.
    fn has_ended(&self) -> bool {
        self.settled_at.is_some_and(|at| self.now > at + 4_000 * MS) || (self.now > CALM_AT && self.dropped_at.is_some_and(|at| self.now > at + 12_000 * MS))
    }

    fn happen(&mut self, happening: Happening) {
        if self.plan.trace && !matches!(happening, Happening::Poll { .. } | Happening::Tick { .. } | Happening::Beat { .. }) {
            self.note(format_args!("{happening:?}"));
        }
        match happening {
            Happening::Produce => self.produce(),
            Happening::Poll { leader } => self.poll(leader),
            Happening::Tick { leader } => self.deliver(leader, Event::Tick),
            Happening::Deliver { leader, event } => self.deliver(leader, event),
            Happening::Recover { leader, answer } => self.recover(leader, answer),
            Happening::Standby => self.standby(),
            Happening::SwapArrives { leader, nonce, reply } => self.swap_arrives(leader, &nonce, reply),
            Happening::ReadArrives { leader, request } => self.read_arrives(leader, request),
            Happening::Connect { leader, executor } => self.connect(leader, executor),
            Happening::Work { executor, task } => self.work(executor, task),
            Happening::Publish { executor, leader, order, done } => self.publish(executor, leader, order, done),
            Happening::ExecutorLost { executor } => self.executor_lost(executor),
            Happening::ExecutorBorn => self.executor_born(),
            Happening::Beat { executor } => self.beat(executor),
            Happening::Wake { leader } => self.wake(leader),
            Happening::Fault(fault) => self.strike(fault),
        }
        self.watch_settling();
    }

    fn watch_settling(&mut self) {
        let manifest = &self.store.manifest;
        let read = manifest.sources[&SOURCE].next == self.topics.last().map(Topic::ends).unwrap_or_default();
        let settled = self.now > CALM_AT && read && manifest.unpublished.is_empty() && manifest.life == Life::Running && self.current().is_some();
        match self.settled_at {
            None if settled => self.settled_at = Some(self.now),
            Some(_) if !settled => self.settled_at = None,
            // Half a second for what was under way; after that an idle job does nothing.
            Some(at) if self.now < at + 1_000 * MS => self.busy_after_settling = 0,
            Some(_) if self.busy_after_settling > 0 => self.violate("an idle job acts".into()),
            _ => {}
        }
    }

    // ---- Log ----

    fn produce(&mut self) {
        for _ in 0..self.random.random_range(1..6) {
            self.append();
        }
        if self.now < CALM_AT {
            let pause = if self.random.random_bool(0.1) { 1_500 } else { self.random.random_range(50..500) };
            self.after(pause * MS, Happening::Produce);
        }
    }

    fn append(&mut self) {
        self.values += 1;
        let topic = self.topics.last_mut().expect("a topic");
        let key = self.random.random_range(0..12u32);
        let count = topic.partitions.len();
        // Mostly a key has its partition; now and then it turns up in another.
        let partition = if self.random.random_bool(0.2) { self.random.random_range(0..count) } else { key as usize % count };
        let refuses = self.plan.fault == Fault::SinkRefuses || matches!(self.plan.seed % 3, 0);
        let kind = match self.random.random_range(0..100) {
            0..6 => Kind::Bad,
            6..14 if refuses => Kind::Refused,
            _ => Kind::Good,
        };
        if kind == Kind::Refused {
            self.faults.count(Fault::SinkRefuses);
        }
        // Spread out, so that a larger value is not a later one.
        let value = (self.values * 0x9E37_79B9) % 0x7FFF_FFFF;
        topic.partitions[partition].records.push(Record { key, value, kind });
    }

    // ---- Faults ----

    fn strike(&mut self, fault: Fault) {
        let leader = self.leaders.len() - 1;
        match fault {
            Fault::ExecutorDies => {
                let Some(executor) = self.some_executor() else { return };
                self.kill(executor);
            }
            Fault::ExecutorHangs => {
                let Some(executor) = self.some_executor() else { return };
                self.hang(executor);
            }
            Fault::ClockForward | Fault::ClockBack => {
                let jump = self.random.random_range(1..100) * 1_000_000;
                for leader in &mut self.leaders {
                    leader.wall_offset += if fault == Fault::ClockForward { jump } else { -jump };
                }
            }
            Fault::LeaderDies => {
                self.leaders[leader].die();
                self.after(1_500 * MS, Happening::Standby);
            }
            Fault::LeaderPaused => {
                if self.leaders[leader].coordinator.is_none() || self.leaders[leader].paused {
                    return;
                }
                self.leaders[leader].paused = true;
                self.after(1_000 * MS, Happening::Standby);
                let wakes = self.random.random_range(500..4_000);
                self.after(wakes * MS, Happening::Wake { leader });
            }
            Fault::TwoLeaders => self.start_leader(),
            Fault::PartitionAdded => {
                let topic = self.topics.last_mut().expect("a topic");
                topic.partitions.push(Default::default());
                for _ in 0..4 {
                    self.append();
                }
            }
            Fault::Retention => {
                for _ in 0..12 {
                    self.append();
                }
                for partition in &mut self.topics.last_mut().expect("a topic").partitions {
                    partition.beginning = partition.beginning.max(partition.end() - 1);
                }
            }
            Fault::TopicRecreated => {
                self.topics.push(Topic::with_partitions(3));
                for _ in 0..8 {
                    self.append();
                }
            }
            Fault::SinkAway => {
                self.sink_away_until = self.now + self.random.random_range(500..3_000) * MS;
                for _ in 0..30 {
                    self.append();
                }
            }
            Fault::PowerCut => {
                for leader in &mut self.leaders {
                    leader.die();
                }
                for executor in 0..self.executors.len() {
                    self.kill(executor);
                }
                if self.plan.without == Some(Sabotage::ManifestNotSynced) {
                    self.store.take_back();
                }
                self.after(1_000 * MS, Happening::Standby);
            }
            Fault::PausedByUser => {
                self.after(0, Happening::Deliver { leader, event: Event::Command(Command::Pause) });
                // Whoever leads then.
                for at in [700, 2_500] {
                    self.after(at * MS, Happening::Fault(Fault::PausedByUser));
                }
                if self.faults.of(fault) % 3 != 0 {
                    self.queue.retain(|_, it| !matches!(it, Happening::Deliver { event: Event::Command(_), .. } | Happening::Fault(Fault::PausedByUser)));
                    self.after(0, Happening::Deliver { leader, event: Event::Command(Command::Resume) });
                }
                if self.leaders[leader].coordinator.is_none() {
                    return;
                }
            }
            Fault::Dropped => {
                if self.now < 6_000 * MS {
                    return;
                }
                for executor in 0..self.executors.len().min(2) {
                    self.executors[executor].pauses_next_publish = true;
                }
                for _ in 0..6 {
                    self.append();
                }
                for at in 2..10 {
                    self.after(at * 150 * MS, Happening::Fault(Fault::Dropped));
                    if at > 3 {
                        self.after(at * 150 * MS, Happening::Deliver { leader, event: Event::Command(Command::Drop { discard: true }) });
                    }
                }
                self.queue.retain(|_, it| !matches!(it, Happening::Fault(Fault::Dropped)));
                self.drop_again();
            }
            // The others strike where the thing happens.
            _ => return,
        }
        self.faults.count(fault);
    }

    fn drop_again(&mut self) {
        // Whoever comes to lead is told again, as a catalog would.
        for at in 1..30 {
            self.after(at * 1_000 * MS, Happening::Fault(Fault::Dropped));
        }
    }

    /// Whether this fault strikes now: often in runs that plan it, seldom in others, never once it is calm.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        let chance = if self.plan.fault == fault { 0.25 } else { 0.01 };
        let strikes = self.now < CALM_AT && self.random.random_bool(chance);
        if strikes {
            self.faults.count(fault);
        }
        strikes
    }

    pub fn is_calm(&self) -> bool {
        self.now >= CALM_AT
    }

    // ---- Queue and diary ----

    pub fn after(&mut self, delay_us: u64, happening: Happening) {
        self.at(self.now + delay_us, happening);
    }

    pub fn at(&mut self, at_us: u64, happening: Happening) {
        self.order += 1;
        self.queue.insert((at_us, self.order), happening);
    }

    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        if self.plan.trace {
            self.trace.push(format!("{:>9.3} ms  {what}", self.now as f64 / 1_000.0));
        }
    }

    pub fn violate(&mut self, what: String) {
        if self.violation.is_none() {
            self.violation = Some(format!("at {} ms: {what}", self.now / MS));
        }
    }

    pub fn delay(&mut self, max_ms: u64) -> u64 {
        self.random.random_range(1..=max_ms * MS)
    }

    pub fn executor_index(&self, id: &ExecutorId) -> Option<usize> {
        self.executors.iter().position(|executor| executor.id == *id)
    }

    /// The leader that leads now, if it is there.
    pub fn current(&self) -> Option<usize> {
        let last = self.leaders.len() - 1;
        let leader = &self.leaders[last];
        (!leader.paused && leader.coordinator.is_some()).then_some(last)
    }

    fn some_executor(&mut self) -> Option<usize> {
        let fit: Vec<usize> = (0..self.executors.len()).filter(|&i| self.executors[i].is_alive && self.executors[i].hung_until <= self.now).collect();
        if fit.is_empty() { None } else { Some(fit[self.random.random_range(0..fit.len())]) }
    }

    pub fn new_grant(&self) -> Grant {
        Grant::default()
    }
}

pub fn unknown() -> SwapReply {
    SwapReply::Unknown { message: "timed out".into() }
}

pub fn unread() -> ManifestAnswer {
    ManifestAnswer::Unknown { message: "timed out".into() }
}
