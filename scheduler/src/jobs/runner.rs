//! One job's loop. The coordinator decides; this carries out: queries to Ballista, orders to executors, swaps to the store. Every action
//! that takes time runs as its own task and comes back as an event, so the loop never waits.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use ballista_core::{JobId, serde::protobuf::job_status::Status as QueryStatus};
use bytes::Bytes;
use datafusion::physical_plan::PhysicalExpr;
use parking_lot::{Mutex, RwLock};
use polybolos_kafka::admin::Admin;
use polybolos_operators::{
    task::Recorded,
    template::{JobTemplate, Run},
};
use polybolos_persist::{Entry, Expected, Store, Swap, keys};
use polybolos_proto::executor::v1::{self as wire, attach_request::Message as Heard, attach_response::Message as Order};
use polybolos_service::telemetry;
use polybolos_sql::clock;
use polybolos_streaming::{
    coordinator::{
        Action, AttemptOutcome, Command, Event, JobCoordinator, JobStatus, Log, ManifestAnswer, PartLayout, Phase, PublishFailure,
        PublishOrder, SwapReply,
    },
    frame::{Frame, PartWork},
    ids::{Attempt, Epoch, ExecutorId, Generation, Incarnation, Nonce, PartIndex, SinkId, SourceId, SourcePartition, Version},
    manifest::{Life, Manifest, StateRun},
    report::{CompactFailure, CompactReport, PublishReport},
};
use polybolos_tables::plain::{plain, plain_chain};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span, debug_span};

use super::{
    assignment::{assign, holders, members},
    history::History,
    latest::Latest,
    spans::EpochSpans,
    spec::JobSpec,
    topics,
};
use crate::{
    ballista::{Ballista, said},
    clock::Clock,
    control::{ExecutorEvent, Executors},
    metrics::JobMetrics,
    savepoints::Savepoints,
};

/// Answers of this job's own tasks; bounded by what the coordinator has under way.
const ANSWERS: usize = 1024;

/// Committed offsets are for lag tools: once a second is enough.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// For a job to write what it has recorded.
const REST_PATIENCE: Duration = Duration::from_secs(60);

/// More of what earlier leaders left behind goes when the job is taken over again.
const LEFT_BEHIND_MAX: usize = 20_000;

/// Between two tries to list the savepoints.
const LIST_AGAIN: Duration = Duration::from_secs(5);

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

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.holds.fetch_sub(1, Ordering::SeqCst);
        // Where there is no room for it, the loop looks all the same.
        let _ = self.requests.try_send(Request::Event(Event::Tick));
    }
}

struct Shared {
    view: RwLock<View>,
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

impl JobHandle {
    /// Gives a command; once it is taken, its effect shows in the view.
    pub async fn command(&self, command: Command) -> anyhow::Result<()> {
        taken(&self.requests, command).await.ok_or_else(|| self.gone())
    }

    pub async fn tell(&self, event: Event) -> anyhow::Result<()> {
        self.requests.send(Request::Event(event)).await.map_err(|_| self.gone())
    }

    /// What is recorded, with its files kept beside those that are `pinned` already.
    pub async fn snapshot(&self, pinned: BTreeSet<String>) -> anyhow::Result<Manifest> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Snapshot { pinned, answer }).await.map_err(|_| self.gone())?;
        answered.await.map_err(|_| anyhow::anyhow!("job {} is being taken over at this moment; try again", self.spec.name))
    }

    /// Holds the job, and waits until it is at rest: what it is then.
    pub async fn at_rest(&self) -> anyhow::Result<(Hold, View)> {
        self.shared.holds.fetch_add(1, Ordering::SeqCst);
        let hold = Hold { shared: self.shared.clone(), requests: self.requests.clone() };
        self.tell(Event::Tick).await?;
        let deadline = Instant::now() + REST_PATIENCE;
        loop {
            if self.requests.is_closed() {
                return Err(self.gone());
            }
            let view = self.view();
            if view.is_at_rest {
                return Ok((hold, view));
            }
            if Instant::now() > deadline {
                let (job, patience_s) = (&self.spec.name, REST_PATIENCE.as_secs());
                anyhow::bail!("job {job} does not come to rest within {patience_s} s; its sink may be away");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the loop where it stands; the incarnation can be taken over again, from this attempt on.
    pub async fn end(&self) -> Attempt {
        self.stop.cancel();
        self.requests.closed().await;
        self.view().next_attempt
    }

    /// Cancelled when the loop is to end, by whom ever.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    fn gone(&self) -> anyhow::Error {
        anyhow::anyhow!("job {} is not running on this scheduler any more", self.spec.name)
    }

    pub fn view(&self) -> View {
        self.shared.view.read().clone()
    }

    pub fn with_history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.shared.history.lock())
    }

    pub fn with_latest<T>(&self, look: impl FnOnce(&Latest) -> T) -> T {
        look(&self.shared.latest.lock())
    }
}

/// Waits until a command is taken; `None`: the loop ends, and may have missed it.
async fn taken(requests: &mpsc::Sender<Request>, command: Command) -> Option<()> {
    let (taken, is_taken) = oneshot::channel();
    requests.send(Request::Command { command, taken }).await.ok()?;
    is_taken.await.ok()
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
        holds: AtomicUsize::new(0),
        history: Mutex::default(),
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

    /// Tells the coordinator which files savepoints name; until it knows, nothing is deleted. Then what earlier leaders left.
    fn list_savepoints(&self) {
        let (savepoints, job, answers) = (self.context.savepoints.clone(), self.spec.name.clone(), self.answers.clone());
        let (store, prefix) = (self.context.store.clone(), keys::parts_of(&self.incarnation));
        let retention = Duration::from_micros(self.spec.config.file_retention_us);
        self.tasks.spawn(async move {
            loop {
                let changing = savepoints.changing().await;
                match savepoints.refresh().await {
                    Ok(()) => {
                        let _ = answers.send(Event::Pinned { names: savepoints.files_of(&job) }).await;
                        break;
                    }
                    Err(error) => tracing::warn!(%job, %error, "savepoints cannot be listed; no files are deleted meanwhile"),
                }
                drop(changing);
                tokio::select! {
                    () = answers.closed() => return,
                    () = tokio::time::sleep(LIST_AGAIN) => {}
                }
            }
            match store.list(&prefix).await {
                Ok(entries) => {
                    let names = left_behind(entries, SystemTime::now(), retention);
                    let _ = answers.send(Event::LeftBehind { names }).await;
                }
                Err(error) => tracing::debug!(%job, %error, "what earlier leaders left behind is not known, and takes room"),
            }
        });
    }

    fn show(&mut self) {
        let mut view = self.shared.view.write();
        view.status = self.coordinator.status();
        let published = view.status.published.values().min().copied().unwrap_or_default();
        self.spans.end(published, view.status.epoch, view.is_halted());
        if view.manifest.nonce != self.coordinator.manifest().nonce {
            view.manifest = self.coordinator.manifest().clone();
        }
        view.assigned.clone_from(&self.assigned);
        view.ends.clone_from(&self.ends);
        view.over = self.coordinator.is_over();
        view.is_at_rest = self.coordinator.is_at_rest();
        view.next_attempt = self.coordinator.next_attempt();
    }

    fn each_second(&mut self) {
        let status = self.coordinator.status();
        let at_ms = (self.context.clock.now().wall_us / 1_000) as u64;
        self.shared.history.lock().tick(at_ms, status.lag_records);
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

    /// Turns what an executor said into an event for the coordinator.
    fn hear(&mut self, event: ExecutorEvent) -> Option<Event> {
        match event {
            ExecutorEvent::Joined(executor) => {
                self.executors.insert(executor.clone());
                self.reassign();
                Some(Event::ExecutorJoined { executor })
            }
            ExecutorEvent::Lost(executor) => {
                self.executors.remove(&executor);
                self.reassign();
                Some(Event::ExecutorLost { executor })
            }
            ExecutorEvent::Said(executor, Heard::Available(available)) => self.available(&executor, &available),
            ExecutorEvent::Said(_, Heard::SourceState(state)) => {
                let source = SourceId(state.source?.source);
                Some(if state.message.is_empty() {
                    Event::SourceBack { source }
                } else {
                    Event::SourceAway { source, message: state.message }
                })
            }
            ExecutorEvent::Said(executor, Heard::PartReport(report)) => match report.from_executor(executor) {
                Ok(report) => Some(Event::PartReported(report)),
                Err(error) => {
                    tracing::error!(%error, "a part report cannot be read");
                    None
                }
            },
            ExecutorEvent::Said(_, Heard::PublishReport(report)) => match PublishReport::try_from(report) {
                Ok(report) => {
                    self.shared.latest.lock().written(&report);
                    Some(Event::PublishReported(report))
                }
                Err(error) => {
                    tracing::error!(%error, "a publish report cannot be read");
                    None
                }
            },
            ExecutorEvent::Said(executor, Heard::PublishFailure(failure)) => Some(Event::PublishFailed(PublishFailure {
                generation: Generation(failure.generation),
                sink: SinkId(failure.sink),
                epoch: Epoch(failure.epoch),
                part: PartIndex(failure.part as u16),
                executor,
                message: failure.message,
                retryable: failure.retryable,
            })),
            ExecutorEvent::Said(_, Heard::StateCompacted(report)) => match CompactReport::try_from(report) {
                Ok(report) => Some(Event::StateCompacted(report)),
                Err(error) => {
                    tracing::error!(%error, "a report of compacted state cannot be read");
                    None
                }
            },
            ExecutorEvent::Said(executor, Heard::CompactFailed(failure)) => {
                Some(Event::CompactFailed(failure.from_executor(executor)))
            }
            ExecutorEvent::Said(_, _) => None,
        }
    }

    fn available(&mut self, executor: &ExecutorId, available: &wire::Available) -> Option<Event> {
        let partition = SourcePartition { source: SourceId(available.source.as_ref()?.source), partition: available.partition };
        // Another executor may still tell of what it once read ahead.
        if self.assigned.get(&partition) != Some(executor) {
            return None;
        }
        let start = self.wanted.get(&partition).copied().unwrap_or(available.end);
        let records = available.end.saturating_sub(start).max(1) as u64;
        self.buffered.insert(partition, (available.end, available.bytes));
        let bytes_per_record = (available.bytes / records).min(u64::from(u32::MAX)) as u32;
        Some(Event::Available { partition, log: available.log.clone(), end: available.end, bytes_per_record })
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

    fn query_name(&self, epoch: Epoch, attempt: Attempt) -> String {
        format!("{}/{epoch}/{attempt}", self.incarnation)
    }

    fn submit(&mut self, attempt: Attempt, frame: Frame, state: &[StateRun]) {
        self.has_computed = true;
        let epoch = frame.epoch;
        let name = self.query_name(epoch, attempt);
        let span = self.spans.attempt(&self.spec.name, attempt, &frame);
        let planning = debug_span!(parent: &span, "plan").entered();
        let freeze = |expression: &Arc<dyn PhysicalExpr>| {
            if clock::reads_clock(expression) { clock::freeze(expression.clone(), frame.clock_us) } else { Ok(expression.clone()) }
        };
        let run = Run { generation: self.context.generation, attempt, trace_parent: telemetry::trace_parent(&span) };
        let plan = match &*self.spec.template {
            JobTemplate::Stateless(template) => template.fill(&frame, &run, state, freeze),
            JobTemplate::Stateful(template) => {
                let manifest = self.coordinator.manifest();
                let recorded = Recorded { watermark_us: manifest.fired_through_us(), window_end_us: manifest.window_end_us };
                let members = if frame.parts.len() > 1 { self.members.as_slice() } else { &[] };
                let Some(peers) = self.context.executors.peers(members) else {
                    let message = "an executor that shares the job's state has left".to_owned();
                    let outcome = AttemptOutcome::Failed { message, retryable: true, data: false };
                    return self.answer(Event::AttemptEnded { attempt, outcome });
                };
                template.fill(&frame, &run, state, recorded, &peers)
            }
        };
        let home = |part: &PartWork| match (self.spec.config.layout, part.ranges.first()) {
            (PartLayout::Shared { .. }, _) => self.members.get(usize::from(part.part.0)),
            (PartLayout::PerPartition, range) => range.and_then(|range| self.assigned.get(&range.source)),
        };
        let placed = frame.parts.iter().map(|part| home(part).cloned().unwrap_or_default()).collect();
        self.context.ballista.placements.place(&name, placed);
        drop(planning);
        self.queries.lock().insert(attempt, Query { epoch, ..Query::default() });
        let (ballista, queries, answers) = (self.context.ballista.clone(), self.queries.clone(), self.answers.clone());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let query = async {
                match plan {
                    Ok(plan) => run_query(&ballista, &name, plan, attempt, &queries).instrument(span).await,
                    Err(error) => AttemptOutcome::Failed { message: error.to_string(), retryable: false, data: false },
                }
            };
            // The next leader ends what executors still compute, when they follow it.
            let ended = stop.run_until_cancelled(query).await;
            ballista.placements.forget(&name);
            queries.lock().remove(&attempt);
            if let Some(outcome) = ended {
                let _ = answers.send(Event::AttemptEnded { attempt, outcome }).await;
            }
        });
    }

    fn cancel(&self, attempt: Attempt) {
        let mut queries = self.queries.lock();
        let Some(query) = queries.get_mut(&attempt) else { return };
        query.cancelled = true;
        let cancel = wire::CancelAttempt { incarnation: self.incarnation.0.clone(), attempt: attempt.0 };
        self.context.executors.order_all(Order::CancelAttempt(cancel));
        if let Some(id) = query.id.clone() {
            let ballista = self.context.ballista.clone();
            self.tasks.spawn(async move { ballista.cancel(id).await });
        }
    }

    fn swap(&mut self, expected: Version, manifest: &Manifest) {
        match polybolos_persist::manifest::encode(manifest) {
            Ok(bytes) => {
                let nonce = manifest.nonce.clone();
                let recorded = Some(manifest.epoch).filter(|epoch| *epoch > self.coordinator.manifest().epoch);
                self.swap = Some((nonce.clone(), expected, bytes, recorded));
                self.resend(&nonce);
            }
            Err(error) => self.answer(Event::SwapReplied {
                nonce: manifest.nonce.clone(),
                reply: SwapReply::Unknown { message: error.to_string() },
            }),
        }
    }

    fn resend(&self, nonce: &Nonce) {
        let Some((kept, expected, bytes, recorded)) = self.swap.clone().filter(|(kept, ..)| kept == nonce) else {
            tracing::error!(%nonce, "asked to send bytes again that are not kept");
            return;
        };
        let (store, answers) = (self.context.store.clone(), self.answers.clone());
        let key = keys::manifest(&self.incarnation);
        let span = recorded.map_or_else(Span::none, |epoch| self.spans.record(epoch));
        self.tasks.spawn(async move {
            let put = store.put_if(&key, bytes, Expected::Version(store_version(&expected)));
            let reply = match put.instrument(span).await {
                Ok(Swap::Stored(version)) => SwapReply::Stored { version: Version(version.0) },
                Ok(Swap::Conflict) => SwapReply::Conflict,
                Err(error) => SwapReply::Unknown { message: error.to_string() },
            };
            let _ = answers.send(Event::SwapReplied { nonce: kept, reply }).await;
        });
    }

    fn read_manifest(&self, request: Nonce) {
        let (store, answers) = (self.context.store.clone(), self.answers.clone());
        let incarnation = self.incarnation.clone();
        self.tasks.spawn(async move {
            let answer = match load_manifest(&*store, &incarnation).await {
                Ok(Some((manifest, version))) => ManifestAnswer::Found { version, manifest: Box::new(manifest) },
                Ok(None) => ManifestAnswer::Missing,
                Err(error) => ManifestAnswer::Unknown { message: error.to_string() },
            };
            let _ = answers.send(Event::ManifestRead { request, answer }).await;
        });
    }

    fn publish(&mut self, order: PublishOrder) {
        self.shared.latest.lock().ordered(&order);
        let name = self.spec.sinks.get(&order.sink).map_or("", |(name, _)| name.as_str());
        let trace_parent = telemetry::trace_parent(&self.spans.publish(order.epoch, order.sink, name));
        let spec = self.spec.sinks.get(&order.sink).map(|(_, spec)| spec);
        let message = match spec.map(serde_json::to_string) {
            Some(Ok(sink_spec)) => wire::Publish {
                incarnation: self.incarnation.0.clone(),
                generation: self.context.generation.0,
                epoch: order.epoch.0,
                sink: order.sink.0,
                file: Some(order.part.clone().into()),
                timestamp_us: order.timestamp_us,
                sink_spec,
                job: self.spec.name.clone(),
                trace_parent,
            },
            _ => {
                self.publish_failed(&order, format!("the job has no sink {}", order.sink), false);
                return;
            }
        };
        if !self.context.executors.order(&order.executor, Order::Publish(message)) {
            self.publish_failed(&order, format!("executor {} is not here", order.executor), true);
        }
    }

    fn compact(&self, executor: ExecutorId, runs: Vec<StateRun>) {
        let message = wire::CompactState {
            incarnation: self.incarnation.0.clone(),
            generation: self.context.generation.0,
            runs: runs.iter().cloned().map(Into::into).collect(),
        };
        if !self.context.executors.order(&executor, Order::CompactState(message)) {
            self.answer(Event::CompactFailed(CompactFailure {
                incarnation: self.incarnation.clone(),
                generation: self.context.generation,
                replaced: runs.into_iter().map(|run| run.name).collect(),
                message: format!("executor {executor} is not here"),
                executor,
                retryable: true,
            }));
        }
    }

    fn publish_failed(&self, order: &PublishOrder, message: String, retryable: bool) {
        self.answer(Event::PublishFailed(PublishFailure {
            generation: self.context.generation,
            sink: order.sink,
            epoch: order.epoch,
            part: order.part.part,
            executor: order.executor.clone(),
            message,
            retryable,
        }));
    }

    /// An answer that is known at once still comes as an event, later.
    fn answer(&self, event: Event) {
        let answers = self.answers.clone();
        self.tasks.spawn(async move {
            let _ = answers.send(event).await;
        });
    }

    fn delete(&self, names: Vec<String>) {
        let store = self.context.store.clone();
        self.tasks.spawn(async move {
            if let Err(error) = store.delete(&names).await {
                tracing::warn!(%error, files = names.len(), "old part files could not be deleted; they only take room");
            }
        });
    }

    /// Gives partitions to executors and tells each what to read ahead.
    fn reassign(&mut self) {
        let partitions = self.wanted.keys().copied();
        self.assigned = match self.spec.config.layout {
            PartLayout::PerPartition => assign(partitions, &self.executors, &self.assigned),
            layout @ PartLayout::Shared { .. } => {
                let count = layout.sharing(self.executors.len());
                if !self.has_computed {
                    self.members = holders(&self.context.executors.held(&self.incarnation), count, &self.members);
                }
                self.members = members(&self.members, &self.executors, count.into(), self.incarnation.as_str());
                let member = |partition| self.members.get(usize::from(PartLayout::reader(partition, count).0)).cloned();
                partitions.filter_map(|partition| Some((partition, member(partition)?))).collect()
            }
        };
        for executor in &self.executors {
            for (source, spec) in &self.spec.sources {
                let mine = self
                    .wanted
                    .iter()
                    .filter(|(partition, _)| partition.source == *source && self.assigned.get(partition) == Some(executor));
                let starts = mine.map(|(partition, start)| (partition.partition, *start)).collect();
                let connection = match serde_json::to_string(&spec.connection) {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::error!(%error, "a connection cannot be sent");
                        continue;
                    }
                };
                let Log { name: log, topic_id } = self.logs.get(source).cloned().unwrap_or_default();
                let (source, topic) = (Some(self.wire_source(*source)), spec.topic.clone());
                let prefetch = wire::Prefetch { source, connection, topic, starts, headers: spec.headers, log, topic_id };
                self.context.executors.order(executor, Order::Prefetch(prefetch));
            }
        }
    }

    fn wire_source(&self, source: SourceId) -> wire::SourceKey {
        wire::SourceKey { incarnation: self.incarnation.0.clone(), source: source.0 }
    }

    fn release(&mut self, through: BTreeMap<SourcePartition, i64>) {
        for (partition, through) in through {
            self.wanted.insert(partition, through);
            let Some(executor) = self.assigned.get(&partition) else { continue };
            let release =
                wire::Release { source: Some(self.wire_source(partition.source)), partition: partition.partition, through };
            self.context.executors.order(executor, Order::Release(release));
        }
    }

    fn commit_offsets(&mut self, source: SourceId) {
        let Some(spec) = self.spec.sources.get(&source).cloned() else { return };
        let Some((since, offsets)) = self.committing.get_mut(&source) else { return };
        let offsets = std::mem::take(offsets);
        *since = Instant::now();
        let admin = match self.admins.get(&source) {
            Some(admin) => admin.clone(),
            None => match Admin::connect(&spec.connection) {
                Ok(admin) => self.admins.entry(source).or_insert(Arc::new(admin)).clone(),
                Err(error) => {
                    tracing::debug!(%error, "offsets not committed");
                    return;
                }
            },
        };
        self.tasks.spawn(async move {
            if let Err(error) = admin.commit_offsets(&spec.group, &spec.topic, &offsets).await {
                tracing::debug!(%error, group = %spec.group, "offsets not committed; only lag tools miss them");
            }
        });
    }

    /// The incarnation's manifest stays as its tombstone; its part files go, but for those that savepoints name.
    fn end_incarnation(&self) {
        let store = self.context.store.clone();
        let Some(pinned) = self.coordinator.pinned().cloned() else {
            tracing::warn!(job = %self.spec.name, "the savepoints are not known; part files of the dropped job stay and take room");
            return;
        };
        let prefix = keys::parts_of(&self.incarnation);
        self.tasks.spawn(async move {
            let names = match store.list(&prefix).await {
                Ok(entries) => entries.into_iter().map(|entry| entry.key).filter(|name| !pinned.contains(name)).collect::<Vec<_>>(),
                Err(error) => {
                    tracing::warn!(%error, "part files of a dropped job could not be listed");
                    return;
                }
            };
            if let Err(error) = store.delete(&names).await {
                tracing::warn!(%error, "part files of a dropped job could not be deleted");
            }
        });
    }
}

/// Files of an incarnation that are older than the lead of whoever just took it over, by so much that no clock is wrong by it.
fn left_behind(entries: Vec<Entry>, now: SystemTime, retention: Duration) -> Vec<String> {
    let is_old = |entry: &Entry| now.duration_since(entry.modified).is_ok_and(|age| age > retention);
    entries.into_iter().filter(is_old).map(|entry| entry.key).take(LEFT_BEHIND_MAX).collect()
}

/// Submits a query and waits for its end.
async fn run_query(
    ballista: &Ballista,
    name: &str,
    plan: Arc<dyn datafusion::physical_plan::ExecutionPlan>,
    attempt: Attempt,
    queries: &Mutex<HashMap<Attempt, Query>>,
) -> AttemptOutcome {
    let environment = |message: String| AttemptOutcome::Failed { message, retryable: true, data: false };
    let (id, mut statuses) = match ballista.submit(name, plan).await {
        Ok(submitted) => submitted,
        Err(error) => return environment(plain_chain(&*error)),
    };
    let cancelled = match queries.lock().get_mut(&attempt) {
        Some(query) => {
            query.id = Some(id.clone());
            query.cancelled
        }
        None => true,
    };
    if cancelled {
        ballista.cancel(id).await;
        return environment("cancelled before it started".into());
    }
    while let Some(status) = statuses.recv().await {
        match status.status {
            Some(QueryStatus::Successful(_)) => return AttemptOutcome::Completed,
            Some(QueryStatus::Failed(failed)) => return failure(failed.error),
            _ => {}
        }
    }
    environment("Ballista lost the query".into())
}

/// Whose fault a failed query is. Records at fault become dead letters inside the task; what fails the query as a whole is a job that
/// asked for it (`on_error = 'fail'`), or the environment.
fn failure(message: String) -> AttemptOutcome {
    let data = message.contains("cannot be processed:");
    AttemptOutcome::Failed { message: plain(&said(&message)), retryable: !data, data }
}

fn store_version(version: &Version) -> polybolos_persist::Version {
    polybolos_persist::Version(version.0.clone())
}

/// Reads an incarnation's manifest.
pub async fn load_manifest(
    store: &dyn Store,
    incarnation: &Incarnation,
) -> Result<Option<(Manifest, Version)>, polybolos_persist::StoreError> {
    let key = keys::manifest(incarnation);
    let Some((bytes, version)) = store.get(&key).await? else { return Ok(None) };
    Ok(Some((polybolos_persist::manifest::decode(&key, &bytes)?, Version(version.0))))
}

/// Whether an incarnation computes or may compute again.
pub fn is_alive(life: &Life) -> bool {
    !matches!(life, Life::Dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_behind_is_older_than_any_clock_is_wrong() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let entry = |key: &str, modified: SystemTime| Entry { key: key.into(), bytes: 1, modified };
        let entries = vec![
            entry("of now", now),
            entry("of an hour ago", now - hour),
            entry("older", now - 2 * hour),
            entry("of a clock that is ahead", now + 2 * hour),
        ];
        assert_eq!(left_behind(entries, now, hour), ["older"]);
        let many = (0..=LEFT_BEHIND_MAX).map(|number| entry(&number.to_string(), now - 2 * hour)).collect();
        assert_eq!(left_behind(many, now, hour).len(), LEFT_BEHIND_MAX);
    }

    #[tokio::test]
    async fn a_command_is_given_when_it_is_taken_and_not_when_it_waits() {
        let (requests, mut requested) = mpsc::channel(2);
        let gives = || {
            let requests = requests.clone();
            tokio::spawn(async move { taken(&requests, Command::Pause).await })
        };
        let (one, other) = (gives(), gives());
        let Some(Request::Command { command: Command::Pause, taken }) = requested.recv().await else { panic!("it is handed over") };
        tokio::task::yield_now().await;
        assert!(!one.is_finished() && !other.is_finished());
        taken.send(()).expect("it waits");
        // The loop ends, and has taken one of them.
        drop(requested);
        let mut given = [one.await.expect("ends"), other.await.expect("ends")];
        given.sort_unstable();
        assert_eq!(given, [None, Some(())]);
    }
}
