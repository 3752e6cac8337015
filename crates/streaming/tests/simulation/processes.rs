//! Scheduler processes: each stands for election, and the one that leads runs the job's coordinator and carries out what it says, as the runner of the scheduler
//! does. A paused process finds everything that was meant for it when it wakes, in any order.
use std::collections::BTreeMap;

use polybolos_streaming::{
    coordinator::{
        Action, AttemptOutcome, CoordinatorConfig, Event, JobCoordinator, Now, OnDataLoss, PartLayout, PublishFailure, PublishOrder,
    },
    ids::{Attempt, Generation, Nonce, SourcePartition, Version},
    lease::{Election, LeaseAction, LeaseConfig, LeaseEvent},
    manifest::Manifest,
    pace::PaceConfig,
};
use rand::Rng;

use crate::{
    faults::{Fault, Sabotage},
    happening::{Happening, ToExecutor, ToProcess},
    watching::Connection,
    world::{MS, SOURCE, World},
};

/// What rule 17 allows here.
pub const MAX_UNPUBLISHED: u64 = 8;
/// How long files outlive the last manifest that named them.
pub const RETENTION_US: u64 = 5_000 * MS;
/// How long a drowsy leader that was paused goes on.
const DROWSY_US: u64 = 1_500 * MS;
/// For an order to read ahead to come to the executors.
const ORDER_US: u64 = 80 * MS;
/// 1 January 2026.
const WALL_ZERO_US: i64 = 1_767_225_600_000_000;

pub struct Process {
    election: Election,
    pub is_alive: bool,
    pub paused_until: u64,
    /// Paused, and has not been seen awake since.
    pub sleeps: bool,
    pub wall_offset_us: i64,
    pub coordinator: Option<Box<JobCoordinator>>,
    /// The job has ended. Executors hear from it all the same: there may be other jobs.
    has_dropped: bool,
    /// Until then it does not notice that it slept.
    pub drowsy_until: u64,
    pub generation: Generation,
    /// The log that executors shall read ahead for it.
    log: String,
    /// The log that they read ahead.
    pub ahead: String,
    kept: Option<(Nonce, Version, Box<Manifest>)>,
    /// Files that are older than its lead.
    found: Vec<String>,
    pub connected: BTreeMap<usize, Connection>,
    pub wanted: BTreeMap<SourcePartition, i64>,
    pub announced: BTreeMap<SourcePartition, i64>,
    elect_at: Option<u64>,
    tick_at: Option<u64>,
}

impl Process {
    /// Who is there to be given work.
    pub fn present(&self) -> Vec<usize> {
        self.connected.iter().filter(|(_, connection)| !connection.is_lost).map(|(executor, _)| *executor).collect()
    }

    pub fn connection(&self, executor: usize) -> Option<u64> {
        self.connected.get(&executor).filter(|connection| !connection.is_lost).map(|connection| connection.number)
    }

    /// Whether executors hear from it.
    pub fn leads(&self) -> bool {
        self.coordinator.is_some() || self.has_dropped
    }

    pub fn die(&mut self) {
        self.is_alive = false;
        self.coordinator = None;
        self.has_dropped = false;
        self.connected.clear();
    }
}

impl World {
    pub fn process_born(&mut self) {
        let process = self.processes.len();
        // Each process has a clock of its own.
        let wall_offset_us = self.random.random_range(-50_000..50_000);
        self.processes.push(Process {
            election: Election::new(LeaseConfig::default(), format!("process-{process}"), format!("host:{process}")),
            is_alive: true,
            paused_until: 0,
            sleeps: false,
            wall_offset_us,
            coordinator: None,
            has_dropped: false,
            drowsy_until: 0,
            generation: Generation(0),
            log: String::new(),
            ahead: String::new(),
            kept: None,
            found: vec![],
            connected: BTreeMap::new(),
            wanted: BTreeMap::new(),
            announced: BTreeMap::new(),
            elect_at: None,
            tick_at: None,
        });
        let delay = self.delay(100);
        self.after(delay, Happening::Process(process, ToProcess::Elect(None)));
    }

    pub fn kill_process(&mut self, process: usize) {
        self.processes[process].die();
        let delay = self.delay(1_500);
        self.after(delay, Happening::ProcessBorn);
    }

    pub fn at_process(&mut self, process: usize, message: ToProcess) {
        let Process { is_alive, paused_until, .. } = self.processes[process];
        if !is_alive {
            return;
        }
        if paused_until > self.now {
            let delay = paused_until - self.now + self.delay(20);
            return self.after(delay, Happening::Process(process, message));
        }
        if std::mem::take(&mut self.processes[process].sleeps) {
            if self.plan.drowsy {
                self.processes[process].drowsy_until = self.now + DROWSY_US;
            }
            let Process { coordinator, generation, .. } = &self.processes[process];
            if coordinator.is_some() && self.store.manifest.generation > *generation {
                self.faults.count(Fault::LeaderPaused);
            }
        }
        let drowsy_until = self.processes[process].drowsy_until;
        if drowsy_until > self.now && matches!(message, ToProcess::Elect(_)) {
            return self.after(drowsy_until - self.now, Happening::Process(process, message));
        }
        match message {
            ToProcess::Elect(event) => self.elect(process, event),
            ToProcess::Loaded { generation, version, manifest } => self.recover(process, generation, version, *manifest),
            ToProcess::ListSavepoints => {
                self.list_savepoints(process);
                let names = std::mem::take(&mut self.processes[process].found);
                self.deliver(process, Event::LeftBehind { names });
            }
            ToProcess::Poll => self.poll(process),
            ToProcess::ReadAhead => {
                let this = &mut self.processes[process];
                this.ahead.clone_from(&this.log);
                this.announced.clear();
            }
            ToProcess::Listed { asked_us, topic, beginnings, ends } => {
                let topic_id = Some(format!("topic-{topic}"));
                self.deliver(process, Event::Partitions { source: SOURCE, asked_us, topic_id, beginnings, ends });
                self.list_topic(process);
            }
            ToProcess::Tick => {
                if self.processes[process].tick_at.is_some_and(|at| at <= self.now) {
                    self.processes[process].tick_at = None;
                    self.deliver(process, Event::Tick);
                }
            }
            ToProcess::Deliver(event) => self.deliver(process, event),
            ToProcess::Beat { executor, connection, asked_us } => self.hear_beat(process, executor, connection, asked_us),
        }
    }

    fn elect(&mut self, process: usize, event: Option<LeaseEvent>) {
        let this = &mut self.processes[process];
        if event.is_none() && this.elect_at.take_if(|at| *at <= self.now).is_none() && this.elect_at.is_some() {
            return;
        }
        for action in this.election.on_event(self.now, event.unwrap_or(LeaseEvent::Tick)) {
            match action {
                LeaseAction::Read | LeaseAction::Write { .. } => self.ask_lease(process, action),
                LeaseAction::Lead(generation) => {
                    let delay = self.delay(20);
                    self.note(format_args!("process {process} leads in generation {generation}"));
                    self.after(delay, Happening::LoadArrives { process, generation });
                }
                LeaseAction::Deposed => {
                    self.note(format_args!("process {process} is deposed"));
                    return self.kill_process(process);
                }
                LeaseAction::Released => {}
            }
        }
        let this = &mut self.processes[process];
        let wakeup = this.election.next_wakeup().map(|at| at.max(self.now + 1));
        if let Some(at) = wakeup.filter(|at| this.elect_at.is_none_or(|planned| *at < planned)) {
            this.elect_at = Some(at);
            self.after(at - self.now, Happening::Process(process, ToProcess::Elect(None)));
        }
    }

    fn recover(&mut self, process: usize, generation: Generation, version: Version, manifest: Manifest) {
        let config = self.coordinator_config();
        let mut count = 0u64;
        let nonces = move || {
            count += 1;
            Nonce(format!("process-{process}-{count}"))
        };
        let (coordinator, actions) =
            JobCoordinator::recover(manifest, version, generation, config, nonces, self.clocks_of(process));
        let this = &mut self.processes[process];
        this.generation = generation;
        this.found = self.store.files.keys().cloned().collect();
        this.coordinator = Some(Box::new(coordinator));
        self.perform(process, actions);
        self.after(0, Happening::Process(process, ToProcess::Poll));
        self.list_topic(process);
    }

    fn coordinator_config(&self) -> CoordinatorConfig {
        let without = match self.plan.without {
            Some(Sabotage::Coordinator(rule)) => Some(rule),
            _ => None,
        };
        CoordinatorConfig {
            pace: PaceConfig { epoch_us: 50 * MS..=100 * MS, min_rows: 4, first_rows: 16, max_rows: 64, ..PaceConfig::default() },
            on_data_loss: OnDataLoss::Continue,
            attempt_deadline_us: 500 * MS,
            max_attempt_deadline_us: 4_000 * MS,
            report_grace_us: 200 * MS,
            backoff_us: 50 * MS,
            max_backoff_us: 1_000 * MS,
            store_timeout_us: 500 * MS,
            publish_timeout_us: 3_000 * MS,
            position_delay_us: 200 * MS,
            max_unpublished_epochs: MAX_UNPUBLISHED,
            layout: if self.plan.stateful { PartLayout::Shared { most: self.plan.sharing } } else { PartLayout::PerPartition },
            watermarked: self.plan.stateful.then_some((SOURCE, 400 * MS)).into_iter().collect(),
            has_timers: self.plan.stateful,
            compact_from_runs: 3,
            compact_timeout_us: 400 * MS,
            max_compact_timeout_us: 2_000 * MS,
            file_retention_us: if self.plan.lacks(Sabotage::DeletedAtOnce) { 0 } else { RETENTION_US },
            without,
            ..CoordinatorConfig::default()
        }
    }

    fn clocks_of(&self, process: usize) -> Now {
        Now { monotonic_us: self.now, wall_us: WALL_ZERO_US + self.now as i64 + self.processes[process].wall_offset_us }
    }

    pub fn deliver(&mut self, process: usize, event: Event) {
        let now = self.clocks_of(process);
        let Some(coordinator) = &mut self.processes[process].coordinator else {
            return;
        };
        let actions = coordinator.on_event(now, event);
        self.perform(process, actions);
    }

    fn perform(&mut self, process: usize, actions: Vec<Action>) {
        for action in actions {
            self.perform_one(process, action);
        }
        let this = &mut self.processes[process];
        let wakeup = this
            .coordinator
            .as_ref()
            .and_then(|coordinator| coordinator.next_wakeup())
            .map(|at| if at > self.now { at } else { self.now + MS });
        if let Some(at) = wakeup.filter(|at| this.tick_at.is_none_or(|planned| *at < planned)) {
            this.tick_at = Some(at);
            self.after(at - self.now, Happening::Process(process, ToProcess::Tick));
        }
    }

    fn perform_one(&mut self, process: usize, action: Action) {
        if self.plan.traced {
            self.note(format_args!("process {process} does {action:?}"));
        }
        match action {
            Action::Submit { attempt, frame, state, .. } => self.submit(process, attempt, &frame, &state),
            Action::CancelAttempt { attempt } => self.cancel(process, attempt),
            Action::Swap { expected, manifest } => {
                self.processes[process].kept = Some((manifest.nonce.clone(), expected.clone(), manifest.clone()));
                self.send_swap(process, expected, manifest);
            }
            Action::Resend { nonce } => match self.processes[process].kept.clone().filter(|(kept, ..)| *kept == nonce) {
                Some((_, expected, manifest)) => self.send_swap(process, expected, manifest),
                None => self.violate(format_args!("process {process} is to send bytes again that it does not keep: {nonce}")),
            },
            Action::ReadManifest { request } => {
                let delay = self.delay(8);
                self.after(delay, Happening::ReadArrives { process, request });
            }
            Action::Publish(order) => self.order_publish(process, order),
            Action::CompactState { executor, runs } => self.order_compaction(process, executor, runs),
            Action::RevokePublishes | Action::EpochRecorded(_) | Action::EpochPublished(_) => {}
            Action::DeleteFiles { names } => self.delete(&names),
            Action::Prefetch { wanted, logs } => {
                // The first one says that it leads.
                if self.processes[process].wanted.is_empty() {
                    self.after(3 * MS, Happening::Process(process, ToProcess::ListSavepoints));
                }
                let this = &mut self.processes[process];
                this.announced.clear();
                this.wanted = wanted;
                this.log.clone_from(&logs[&SOURCE].name);
                self.after(ORDER_US, Happening::Process(process, ToProcess::ReadAhead));
            }
            Action::Released { through } => self.processes[process].wanted.extend(through),
            Action::CommitOffsets { next, .. } => {
                let delay = self.delay(1_000);
                self.after(delay, Happening::GroupOffsets(next));
            }
            Action::Failed { reason } => self.violate(format_args!("the job failed: {reason}")),
            Action::Fenced => {
                let (stored, own) = (self.store.manifest.generation, self.processes[process].generation);
                if stored <= own {
                    self.violate(format_args!("generation {own} fences itself, and generation {stored} is stored"));
                }
                self.processes[process].coordinator = None;
            }
            Action::Dropped => {
                self.processes[process].coordinator = None;
                self.processes[process].has_dropped = true;
                for executor in self.processes[process].present() {
                    let delay = self.delay(8);
                    self.after(delay, Happening::Executor(executor, ToExecutor::Forget));
                }
            }
        }
    }

    fn cancel(&mut self, process: usize, attempt: Attempt) {
        if self.queries.remove(&(process, attempt)).is_none() {
            return;
        }
        for executor in self.processes[process].present() {
            let delay = self.delay(8);
            self.after(delay, Happening::Executor(executor, ToExecutor::Cancel { process, attempt }));
        }
        let outcome = AttemptOutcome::Failed { message: "cancelled".into(), retryable: true, data: false };
        let delay = self.delay(50);
        self.deliver_after(delay, process, Event::AttemptEnded { attempt, outcome });
    }

    fn order_publish(&mut self, process: usize, order: PublishOrder) {
        let generation = self.processes[process].generation;
        let executor = self.executors.iter().position(|executor| executor.id == order.executor).expect("an executor that was");
        let delay = self.delay(8);
        match self.processes[process].connection(executor) {
            Some(_) if self.strikes(Fault::PublishOrderLost) => {}
            Some(connection) => {
                self.after(delay, Happening::Executor(executor, ToExecutor::Order { connection, generation, order }))
            }
            None => {
                let PublishOrder { sink, epoch, part, executor, .. } = order;
                let message = format!("executor {executor} is not here");
                let part = part.part;
                let failure = PublishFailure { generation, sink, epoch, part, executor, message, retryable: true };
                self.deliver_after(delay, process, Event::PublishFailed(failure));
            }
        }
    }

    fn delete(&mut self, names: &[String]) {
        for name in names {
            if self.store.manifest.file_names().any(|named| named == name) {
                self.violate(format_args!("file {name} is deleted, and the manifest names it"));
            }
            if self.store.savepoints.contains_key(name) {
                self.violate(format_args!("file {name} is deleted, and a savepoint names it"));
            }
            self.store.files.remove(name);
        }
    }
}
