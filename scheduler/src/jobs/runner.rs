//! One job's loop. The coordinator decides; this carries out: queries to Ballista, orders to executors, swaps to the store. Every action
//! that takes time runs as its own task and comes back as an event, so the loop never waits.
//!
//! * `handle`: what others say to the loop; `heard`: what executors say to it;
//! * `queries`: attempts at Ballista; `manifest`: the swap; `orders`: publishing and merging;
//! * `reading`: partitions that are read ahead; `files`: what stays on the store and what goes; `keeping`: the job's history.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ballista_core::JobId;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use polybolos_kafka::admin::Admin;
use polybolos_persist::Store;
use polybolos_streaming::{
    coordinator::{Action, Command, Event, JobCoordinator, JobStatus, Log, Phase},
    ids::{Attempt, Epoch, ExecutorId, Generation, Incarnation, Nonce, SourceId, SourcePartition, Version},
    manifest::{Life, Manifest},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    chronicle::{self, Beginning},
    chronicler::Chronicler,
    history::History,
    latest::Latest,
    recording::Recording,
    spans::EpochSpans,
    spec::JobSpec,
    topics,
    troubles::Troubles,
};
use crate::{
    ballista::Ballista,
    clock::Clock,
    control::{ExecutorEvent, Executors},
    metrics::JobMetrics,
    savepoints::Savepoints,
};

mod files;
mod handle;
mod heard;
mod keeping;
mod manifest;
mod orders;
mod queries;
mod reading;

pub use manifest::load_manifest;

/// Answers of this job's own tasks; bounded by what the coordinator has under way.
const ANSWERS: usize = 1024;

/// Committed offsets are for lag tools: once a second is enough.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// What a runner shares with the rest of the leader.
#[derive(Clone)]
pub struct RunnerContext {
    pub ballista: Ballista,
    pub executors: Arc<Executors>,
    pub store: Arc<dyn Store>,
    pub savepoints: Arc<Savepoints>,
    pub clock: Arc<Clock>,
    pub generation: Generation,
}

/// A running job, as others see it.
#[derive(Clone)]
pub struct JobHandle {
    pub spec: JobSpec,
    pub incarnation: Incarnation,
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// What the rest of the leader asks of a running job.
enum Request {
    Event(Event),
    /// Answered when it is taken: whoever changes the job after that builds on it.
    Command {
        command: Command,
        taken: oneshot::Sender<()>,
    },
    /// The manifest as it is recorded. From then on its files and the `pinned` ones stay, until the coordinator is told otherwise.
    Snapshot {
        pinned: BTreeSet<String>,
        answer: oneshot::Sender<Manifest>,
    },
}

/// While there is one, a job computes nothing. Without it the job goes on, as it was: at the latest after a second, or under the next leader.
pub struct Hold {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

struct Shared {
    view: RwLock<View>,
    recording: watch::Sender<Recording>,
    holds: AtomicUsize,
    history: Mutex<History>,
    latest: Mutex<Latest>,
}

/// What the last event left.
#[derive(Clone)]
pub struct View {
    pub status: JobStatus,
    pub manifest: Manifest,
    pub assigned: BTreeMap<SourcePartition, ExecutorId>,
    /// Newest end offsets that the broker told.
    pub ends: BTreeMap<SourcePartition, i64>,
    /// The incarnation ended or another leader has it.
    pub over: bool,
    /// Held, and nothing changes any more.
    pub is_at_rest: bool,
    next_attempt: Attempt,
}

impl View {
    /// Nothing is computed, as somebody said or something failed.
    pub fn is_halted(&self) -> bool {
        matches!(self.status.phase, Phase::Paused | Phase::Stopped { .. } | Phase::Failed { .. })
    }
}

struct Runner {
    context: RunnerContext,
    spec: JobSpec,
    incarnation: Incarnation,
    coordinator: JobCoordinator,
    answers: mpsc::Sender<Event>,
    shared: Arc<Shared>,
    metrics: JobMetrics,
    spans: EpochSpans,
    chronicler: Arc<Chronicler>,
    troubles: Troubles,
    tasks: TaskTracker,
    executors: BTreeSet<ExecutorId>,
    /// Who share the state, by part.
    members: Vec<ExecutorId>,
    /// Members have state in memory since; until then it is where executors say that they have it.
    has_computed: bool,
    assigned: BTreeMap<SourcePartition, ExecutorId>,
    /// Next offset to read ahead, by partition.
    wanted: BTreeMap<SourcePartition, i64>,
    /// The log that each source's offsets count in.
    logs: BTreeMap<SourceId, Log>,
    ends: BTreeMap<SourcePartition, i64>,
    /// The one swap under way: its bytes never change. With the epoch that it records.
    swap: Option<(Nonce, Version, Bytes, Option<Epoch>)>,
    queries: Arc<Mutex<HashMap<Attempt, Query>>>,
    committing: HashMap<SourceId, (Instant, BTreeMap<i32, i64>)>,
    admins: HashMap<SourceId, Arc<Admin>>,
    /// Bytes per record seen lately, by partition.
    buffered: BTreeMap<SourcePartition, (i64, u64)>,
    stop: CancellationToken,
}

/// An attempt's query at Ballista.
#[derive(Default)]
struct Query {
    id: Option<JobId>,
    cancelled: bool,
    epoch: Epoch,
}

/// Takes a job over and runs it in the background until it is fenced, dropped, or the leader's `tasks` are cancelled.
pub fn start(
    context: RunnerContext,
    spec: JobSpec,
    manifest: Manifest,
    version: Version,
    metrics: JobMetrics,
    shutdown: CancellationToken,
    tasks: &TaskTracker,
) -> JobHandle {
    let incarnation = manifest.incarnation.clone();
    let executor_events = context.executors.listen(&incarnation);
    let (answers, answered) = mpsc::channel(ANSWERS);
    let (requests, requested) = mpsc::channel(16);
    let nonces = || Nonce(uuid::Uuid::new_v4().simple().to_string());
    let now = context.clock.now();
    let found = Beginning {
        generation: context.generation,
        earlier: manifest.generation,
        at_us: now.wall_us,
        epoch: manifest.epoch,
        life: manifest.life.clone(),
        recorded_at_us: manifest.recorded_at_us,
    };
    let chronicler = Arc::new(Chronicler::new(context.store.clone(), &incarnation, found));
    let (coordinator, first) = JobCoordinator::recover(manifest, version, context.generation, spec.config.clone(), nonces, now);
    let view = View {
        status: coordinator.status(),
        manifest: coordinator.manifest().clone(),
        assigned: BTreeMap::new(),
        ends: BTreeMap::new(),
        over: false,
        is_at_rest: false,
        next_attempt: coordinator.next_attempt(),
    };
    let shared = Arc::new(Shared {
        view: RwLock::new(view),
        recording: watch::Sender::new(Recording::default()),
        holds: AtomicUsize::new(0),
        history: Mutex::new(History::of(context.generation)),
        latest: Mutex::default(),
    });
    let clock = context.clock.clone();
    let runner = Runner {
        context,
        spec: spec.clone(),
        incarnation: incarnation.clone(),
        coordinator,
        answers: answers.clone(),
        shared: shared.clone(),
        metrics,
        spans: EpochSpans::default(),
        chronicler,
        troubles: Troubles::default(),
        tasks: tasks.clone(),
        executors: BTreeSet::new(),
        members: vec![],
        has_computed: false,
        assigned: BTreeMap::new(),
        wanted: BTreeMap::new(),
        logs: BTreeMap::new(),
        ends: BTreeMap::new(),
        swap: None,
        queries: Arc::default(),
        committing: HashMap::new(),
        admins: HashMap::new(),
        buffered: BTreeMap::new(),
        stop: shutdown.clone(),
    };
    for (source, source_spec) in &spec.sources {
        tasks.spawn(topics::watch(*source, source_spec.clone(), clock.clone(), answers.clone()));
    }
    tasks.spawn(runner.run(first, executor_events, answered, requested));
    JobHandle { spec, incarnation, requests, shared, stop: shutdown }
}

impl Runner {
    async fn run(
        mut self,
        first: Vec<Action>,
        mut executor_events: mpsc::Receiver<ExecutorEvent>,
        mut answered: mpsc::Receiver<Event>,
        mut requested: mpsc::Receiver<Request>,
    ) {
        self.perform(first);
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let mut asks_for_savepoints = true;
        while !self.coordinator.is_over() {
            let is_held = self.shared.holds.load(Ordering::SeqCst) > 0;
            if is_held != self.coordinator.is_held() {
                self.take(Event::Command(if is_held { Command::Hold } else { Command::LetGo }));
            }
            // Only now: one that is made later by whom this leader has deposed is taken back.
            if asks_for_savepoints && self.coordinator.has_taken_over() {
                asks_for_savepoints = false;
                self.list_savepoints();
            }
            let wakeup = self.coordinator.next_wakeup().map(|at| self.context.clock.instant(at));
            let sleep = async {
                match wakeup {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(request) = requested.recv() => match self.requested(request) {
                    Some(event) => event,
                    None => continue,
                },
                Some(event) = executor_events.recv() => match self.hear(event) {
                    Some(event) => event,
                    None => continue,
                },
                Some(event) = answered.recv() => event,
                _ = seconds.tick() => {
                    self.each_second();
                    continue;
                }
                () = sleep => Event::Tick,
            };
            if let Event::Partitions { source, ends, .. } = &event {
                let ends = ends.iter().map(|(partition, end)| (SourcePartition { source: *source, partition: *partition }, *end));
                self.ends.extend(ends);
            }
            self.take(event);
        }
        self.show();
        self.context.executors.unlisten(&self.incarnation);
        // State of a job that goes on stays where it is: whoever leads it next is told who has it.
        if !is_alive(&self.coordinator.manifest().life) {
            self.context.executors.forget(&self.incarnation);
        }
        for (attempt, query) in self.queries.lock().drain() {
            tracing::debug!(%attempt, epoch = %query.epoch, "query left behind");
        }
        // Whoever has the job now has its history.
        if self.coordinator.has_taken_over() {
            self.chronicler.end(&self.shared.history).await;
        }
    }

    fn take(&mut self, event: Event) {
        let actions = self.coordinator.on_event(self.context.clock.now(), event);
        self.perform(actions);
        self.show();
    }

    fn requested(&mut self, request: Request) -> Option<Event> {
        match request {
            Request::Event(event) => Some(event),
            Request::Command { command, taken } => {
                self.take(Event::Command(command));
                // Who gave it may be gone.
                let _ = taken.send(());
                None
            }
            Request::Snapshot { mut pinned, answer } => {
                if !self.coordinator.has_taken_over() {
                    return None;
                }
                let manifest = self.coordinator.manifest().clone();
                pinned.extend(manifest.file_names().map(str::to_owned));
                // Who asked may be gone.
                let _ = answer.send(manifest);
                Some(Event::Pinned { names: pinned })
            }
        }
    }

    fn show(&mut self) {
        self.shared.recording.send_replace(Recording {
            is_recorded: self.coordinator.is_life_recorded(),
            trouble: self.coordinator.store_trouble().map(str::to_owned),
        });
        let mut view = self.shared.view.write();
        view.status = self.coordinator.status();
        let published = view.status.published.values().min().copied().unwrap_or_default();
        self.spans.end(published, view.status.epoch, view.is_halted());
        let mut change = None;
        if view.manifest.nonce != self.coordinator.manifest().nonce {
            change = chronicle::change(&view.manifest.life, &self.coordinator.manifest().life);
            view.manifest = self.coordinator.manifest().clone();
        }
        view.assigned.clone_from(&self.assigned);
        view.ends.clone_from(&self.ends);
        view.over = self.coordinator.is_over();
        view.is_at_rest = self.coordinator.is_at_rest();
        view.next_attempt = self.coordinator.next_attempt();
        // Who looks at the history looks at the view, too.
        drop(view);
        if let Some((kind, message)) = change {
            self.note(self.context.clock.now().wall_us, kind, &message);
        }
    }

    fn each_second(&mut self) {
        let status = self.coordinator.status();
        let at_us = self.context.clock.now().wall_us;
        self.shared.history.lock().tick((at_us / 1_000) as u64, status.lag_records);
        self.tell_troubles(at_us, &status);
        self.keep_history();
        if let Some(lag_records) = status.lag_records {
            self.metrics.lag_records.set(lag_records as i64);
        }
        self.metrics.unpublished_epochs.set(status.unpublished_epochs as i64);
        let due: Vec<SourceId> = self
            .committing
            .iter()
            .filter(|(_, (since, offsets))| !offsets.is_empty() && since.elapsed() >= COMMIT_EVERY)
            .map(|(source, _)| *source)
            .collect();
        for source in due {
            self.commit_offsets(source);
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Submit { attempt, frame, state, .. } => self.submit(attempt, frame, &state),
                Action::CancelAttempt { attempt } => self.cancel(attempt),
                Action::Swap { expected, manifest } => self.swap(expected, &manifest),
                Action::Resend { nonce } => self.resend(&nonce),
                Action::ReadManifest { request } => self.read_manifest(request),
                Action::Publish(order) => self.publish(order),
                Action::CompactState { executor, runs } => self.compact(executor, runs),
                Action::RevokePublishes => {}
                Action::DeleteFiles { names } => self.delete(names),
                Action::Prefetch { wanted, logs } => {
                    (self.wanted, self.logs) = (wanted, logs);
                    self.reassign();
                }
                Action::Released { through } => self.release(through),
                Action::CommitOffsets { source, next } => {
                    let entry = self.committing.entry(source).or_insert_with(|| (Instant::now(), BTreeMap::new()));
                    entry.1.extend(next);
                }
                Action::Failed { reason } => tracing::error!(job = %self.spec.name, %reason, "job failed"),
                Action::Fenced => tracing::warn!(job = %self.spec.name, "another generation has this job"),
                Action::Dropped => self.end_incarnation(),
                Action::EpochRecorded(epoch) => {
                    tracing::debug!(job = %self.spec.name, epoch = %epoch.epoch, rows = epoch.counts.records_in, "epoch recorded");
                    self.metrics.recorded(&epoch);
                    self.spans.recorded(&epoch);
                    self.shared.history.lock().recorded(&epoch);
                }
                Action::EpochPublished(published) => {
                    self.metrics.published(&published);
                    self.spans.published(&published);
                    self.shared.history.lock().published(&published);
                }
            }
        }
    }

    /// An answer that is known at once still comes as an event, later.
    fn answer(&self, event: Event) {
        let answers = self.answers.clone();
        self.tasks.spawn(async move {
            let _ = answers.send(event).await;
        });
    }
}

/// Whether an incarnation computes or may compute again.
pub fn is_alive(life: &Life) -> bool {
    !matches!(life, Life::Dropped)
}
