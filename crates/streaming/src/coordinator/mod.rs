//! One job's coordinator: events in, actions out, nothing else (EPOCHS.md, *compute, record, publish*).
//!
//! ```text
//! recover ─▶ taking over ──stored──▶ leading ───────────────────────────────────────────▶ fenced | dropped
//!                                    │  compute:  idle ─Submit▶ running ─all parts▶ computed
//!                                    │              ▲  ◀─ended: new attempt─┘          │
//!                                    │  record:     └──────── stored ◀── Swap ─────────┘
//!                                    └  publish:  per sink, recorded epochs in order, beside the computing of the next ones
//! ```
//!
//! After every event the coordinator looks at all it knows and does what can be done now ([`JobCoordinator::advance`]), so a lost or doubled event
//! costs time at most. Nothing is believed but the last manifest known to be stored; what runs ahead of it (positions of sinks, refused
//! rows, skipped offsets) enters it with the next swap.
//!
//! * `swap`: the one swap in flight and its doubts; `attempt`: reports, deadlines, halving; `publishing`: the sinks;
//! * `sources`: positions and what was lost; `event_time`: the watermark; `compaction`: the runs of state;
//! * `garbage`: files that may go.
mod action;
mod attempt;
mod compaction;
mod config;
mod event;
mod event_time;
mod garbage;
mod publishing;
mod sources;
mod status;
mod swap;

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
};

use attempt::{Computed, Ending, Running, Taken, Trouble};
use compaction::Compaction;
use event_time::EventTimes;
use garbage::Garbage;
use publishing::{Publishing, Receipt};
use sources::{Answer, DataLoss, Sources};
use swap::{Purpose, Swap, Verdict};

pub use self::{
    action::{Action, EpochPublished, EpochRecorded, Log, PublishOrder},
    config::{CoordinatorConfig, IDLE_TIMEOUT_US, OnDataLoss, PartLayout, Rule, SECOND_US},
    event::{AttemptOutcome, Command, Event, ManifestAnswer, Now, PublishFailure, SwapReply},
    status::{JobStatus, Limit, Phase},
};
use crate::{
    frame::{Closing, Frame, SourceRange, timers_lie_between},
    ids::{Attempt, Epoch, ExecutorId, Generation, Nonce, SinkId, Version},
    manifest::{DEAD_LETTERS, EpochRecord, LATE_ROWS, Life, Manifest, StateRun},
    pace::{Observed, Pace},
    report::{CompactReport, Counts, PartFile, PartReport, PublishReport, StepTimes},
    window::WriteWindow,
};

/// Names per [`Action::DeleteFiles`].
const DELETE_BATCH: usize = 1_000;

/// Decides for one job incarnation under one leader. Drop it after [`Action::Fenced`] or [`Action::Dropped`].
pub struct JobCoordinator {
    config: CoordinatorConfig,
    nonces: Box<dyn FnMut() -> Nonce + Send>,
    generation: Generation,
    standing: Standing,
    /// The last one known to be stored, and its version.
    manifest: Manifest,
    version: Version,
    swap: Option<Swap>,
    /// What the job shall do; the manifest follows.
    wanted: Life,
    drop_when_drained: bool,
    /// Somebody looks at what the job has written, or is about to change the job.
    is_held: bool,
    sources: Sources,
    event_times: EventTimes,
    compaction: Compaction,
    /// Who computed the last epoch, and so has the state in memory.
    state_holder: Option<ExecutorId>,
    executors: BTreeSet<ExecutorId>,
    pace: Pace,
    next_attempt: Attempt,
    attempts_of_epoch: u64,
    running: Option<Running>,
    computed: Option<Box<Computed>>,
    trouble: Trouble,
    submitted_us: Option<u64>,
    /// When it was last looked at what can be done.
    looked_us: u64,
    publishing: Publishing,
    /// The earlier run's rows are gone; the manifest follows.
    is_replaced: bool,
    /// Since when the manifest is behind what is published.
    ahead_since_us: Option<u64>,
    garbage: Garbage,
    /// Files that savepoints name; `None`: not known yet.
    pinned: Option<BTreeSet<String>>,
    /// Where the last epoch's time went.
    last_step: Limit,
    /// Counts of all reports, winners or not (only without [`Rule::WinnerCounts`]).
    stray_counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    TakingOver,
    Leading,
    Fenced,
    Dropped,
}

impl fmt::Debug for JobCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobCoordinator").field("job", &self.manifest.job).field("status", &self.status()).finish_non_exhaustive()
    }
}

impl JobCoordinator {
    /// Takes a job over with what its manifest says: the first action swaps it to this generation, and only the answer to that starts work (rule 5). Of
    /// a new job, pass the manifest as it was created.
    ///
    /// A leader makes one coordinator per job; if it must make another in the same generation, `config.first_attempt` continues the count.
    /// `nonces` yields a new random nonce at each call.
    pub fn recover(
        manifest: Manifest,
        version: Version,
        generation: Generation,
        config: CoordinatorConfig,
        nonces: impl FnMut() -> Nonce + Send + 'static,
        now: Now,
    ) -> (Self, Vec<Action>) {
        let mut coordinator = Self {
            nonces: Box::new(nonces),
            generation,
            standing: Standing::TakingOver,
            version,
            swap: None,
            wanted: manifest.life.clone(),
            drop_when_drained: false,
            is_held: false,
            sources: Sources::new(&manifest, now.monotonic_us),
            event_times: EventTimes::new(&manifest),
            compaction: Compaction::default(),
            state_holder: None,
            executors: BTreeSet::new(),
            pace: Pace::new(config.pace.clone()),
            next_attempt: config.first_attempt,
            attempts_of_epoch: 0,
            running: None,
            computed: None,
            trouble: Trouble::default(),
            submitted_us: None,
            looked_us: now.monotonic_us,
            publishing: Publishing::new(&manifest),
            is_replaced: false,
            ahead_since_us: None,
            garbage: Garbage::default(),
            pinned: None,
            last_step: Limit::Computing,
            stray_counts: Counts::default(),
            config,
            manifest,
        };
        let mut actions = Vec::new();
        if coordinator.manifest.generation > generation {
            coordinator.fence(&mut actions);
        } else if coordinator.manifest.life == Life::Dropped {
            coordinator.standing = Standing::Dropped;
            actions.push(Action::Dropped);
        } else if coordinator.config.lacks(Rule::TakeOver) {
            coordinator.lead(now, &mut actions);
        } else {
            coordinator.take_over(now, &mut actions);
        }
        (coordinator, actions)
    }

    /// Takes an event in and says what to do. Cheap: no event costs more than a look at the unpublished epochs' first few, except records and takeovers,
    /// which copy the manifest.
    pub fn on_event(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_over() {
            return actions;
        }
        match event {
            Event::Tick => {}
            Event::Available { partition, log, end, bytes_per_record } => {
                if log == self.sources.log(partition.source) || self.config.lacks(Rule::RecordsOfOneLog) {
                    self.sources.available(partition, end, bytes_per_record);
                }
            }
            Event::Partitions { source, asked_us, topic_id, beginnings, ends } => {
                let answer = Answer { topic_id, beginnings, ends, asked_us, now_us: now.monotonic_us };
                match self.sources.listed(source, answer, self.config.on_data_loss, &mut self.nonces) {
                    Ok(changes) => {
                        if changes.recreated {
                            self.event_times.forget(source);
                        }
                        self.event_times.answered(source, &self.sources, asked_us, now.monotonic_us, &self.config);
                        self.sources_changed(changes, now, &mut actions);
                    }
                    Err(DataLoss(reason)) => self.fail(reason, now, &mut actions),
                }
            }
            Event::SourceAway { source, message } => self.sources.set_away(source, Some(message)),
            Event::SourceBack { source } => self.sources.set_away(source, None),
            Event::ExecutorJoined { executor } => {
                self.executors.insert(executor);
            }
            Event::ExecutorLost { executor } => self.on_executor_lost(&executor, now, &mut actions),
            Event::PartReported(report) => self.on_part(report, now, &mut actions),
            Event::AttemptEnded { attempt, outcome } => self.on_attempt_ended(attempt, outcome, now, &mut actions),
            Event::SwapReplied { nonce, reply } => self.on_swap_reply(&nonce, reply, now, &mut actions),
            Event::ManifestRead { request, answer } => {
                if let Some(swap) = &mut self.swap {
                    let verdict = swap.read(&request, answer, now.monotonic_us, &self.config, &mut actions);
                    self.conclude(verdict, now, &mut actions);
                }
            }
            Event::PublishReported(report) => self.on_published(report, now, &mut actions),
            Event::PublishFailed(failure) => self.on_publish_failed(failure, now, &mut actions),
            Event::StateCompacted(report) => self.on_compacted(&report, now),
            Event::CompactFailed(failure) => {
                if failure.incarnation == self.manifest.incarnation && failure.generation == self.generation {
                    self.compaction.failed(&failure, now.monotonic_us, &self.config);
                }
            }
            Event::Pinned { names } => self.on_pinned(names, now),
            Event::LeftBehind { names } => self.on_left_behind(names, now),
            Event::Replaced => self.is_replaced = true,
            Event::Command(command) => self.on_command(command, now, &mut actions),
        }
        self.advance(now, &mut actions);
        actions
    }

    /// When to send [`Event::Tick`] at the latest (monotonic), whatever else happens; `None`: never.
    pub fn next_wakeup(&self) -> Option<u64> {
        if self.is_over() {
            return None;
        }
        let swap = self.swap.as_ref().map(|swap| swap.wakeup_us(&self.config));
        if self.standing == Standing::TakingOver {
            return swap;
        }
        let attempt =
            self.running.as_ref().map(|running| running.report_by_us.map_or(running.deadline_us, |by| by.min(running.deadline_us)));
        let submit = (self.may_compute() && self.has_work()).then(|| self.submit_at_us());
        let positions = self.ahead_since_us.filter(|_| self.swap.is_none()).map(|since| since + self.config.position_delay_us);
        let compaction = self.compaction.wakeup_us(self.looked_us);
        let publishing = self.publishing.wakeup_us(&self.config);
        let garbage = self.garbage.wakeup_us().filter(|_| self.pinned.is_some());
        [swap, attempt, submit, positions, publishing, compaction, garbage].into_iter().flatten().min()
    }

    /// The number after the last attempt submitted.
    pub fn next_attempt(&self) -> Attempt {
        self.next_attempt
    }

    /// Whether the job is this generation's, by a stored manifest.
    pub fn has_taken_over(&self) -> bool {
        self.standing == Standing::Leading
    }

    /// The last manifest known to be stored.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Fenced or dropped: no event has an effect any more.
    pub fn is_over(&self) -> bool {
        matches!(self.standing, Standing::Fenced | Standing::Dropped)
    }

    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Held, with all that was computed recorded, all that is recorded published, and all that is published recorded as such: nothing changes any more.
    pub fn is_at_rest(&self) -> bool {
        let is_settled = self.running.is_none() && self.computed.is_none() && self.swap.is_none() && self.ahead_since_us.is_none();
        self.is_held && self.standing == Standing::Leading && is_settled && self.publishing.is_drained(&self.manifest)
    }

    fn is_halted(&self) -> bool {
        self.is_held || self.wanted != Life::Running
    }

    pub fn status(&self) -> JobStatus {
        let behind = self.publishing.behind(&self.manifest);
        JobStatus {
            phase: self.phase(),
            limit: self.limit(),
            generation: self.generation,
            epoch: self.manifest.epoch,
            unpublished_epochs: behind.epochs,
            unpublished_bytes: behind.bytes,
            published: self.publishing.positions(),
            lag_records: self.sources.known_lag(),
            watermark_us: self.event_times.watermark_us(),
            complete_through_us: self.complete_through_us(),
            state_runs: self.manifest.state.len() as u64,
            state_bytes: self.manifest.state.iter().map(|run| run.state_bytes).sum(),
            compaction_trouble: self.compaction.trouble().map(str::to_owned),
            sink_troubles: self.publishing.troubles(),
            epoch_rows_limit: self.pace.rows(),
        }
    }

    fn phase(&self) -> Phase {
        let unrecorded = self.swap.as_ref().and_then(Swap::trouble);
        let unrecorded = unrecorded.map(|message| Phase::Waiting { why: format!("the manifest cannot be recorded: {message}") });
        match self.standing {
            Standing::TakingOver => return unrecorded.unwrap_or(Phase::TakingOver),
            Standing::Fenced => return Phase::Fenced,
            Standing::Dropped => return Phase::Dropped,
            Standing::Leading => {}
        }
        match &self.wanted {
            Life::Running if self.is_held => return Phase::Paused,
            Life::Running => {}
            Life::Paused => return Phase::Paused,
            Life::Stopped | Life::Dropped => return Phase::Stopped { draining: !self.publishing.is_drained(&self.manifest) },
            Life::Failed { reason, .. } => return Phase::Failed { reason: reason.clone() },
        }
        if let Some(waiting) = unrecorded {
            return waiting;
        }
        if let Some(swap) = self.swap.as_ref().filter(|swap| swap.is_record()) {
            return Phase::Recording { epoch: swap.manifest.epoch, since_us: swap.started_us };
        }
        if let Some(computed) = &self.computed {
            return Phase::Recording { epoch: computed.frame.epoch, since_us: computed.finished_us };
        }
        // While Kafka is away an attempt mostly waits for records; that is what people have to know.
        if let Some(running) = self.running.as_ref().filter(|_| self.sources.away().is_none()) {
            let Running { attempt, frame, submitted_us, .. } = running;
            return Phase::Computing { epoch: frame.epoch, attempt: *attempt, since_us: *submitted_us, rows: frame.rows() };
        }
        let limit = self.limit();
        match (limit, &self.trouble.message) {
            (Limit::NoNewData, _) => Phase::Idle,
            (Limit::KafkaAway { source }, _) => {
                let why = self.sources.away().map_or("", |(_, why)| why);
                Phase::Waiting { why: format!("topic \"{}\" cannot be read: {why}", self.sources.topic(source)) }
            }
            (Limit::RetryingAttempts, Some(message)) => {
                Phase::Waiting { why: format!("the next attempt waits after a failure: {message}") }
            }
            (Limit::LookingAtTopics | Limit::WaitingForExecutors | Limit::StoreAway, _) => {
                Phase::Waiting { why: limit.to_string() }
            }
            // Where there is something to compute, that is what the last epoch took longest with.
            (Limit::Fetching, _) if !self.has_work() => Phase::Waiting { why: limit.to_string() },
            (Limit::Publishing { .. }, _) if self.at_unpublished_bound().is_some() => Phase::Waiting { why: limit.to_string() },
            _ => Phase::Pacing,
        }
    }

    fn limit(&self) -> Limit {
        if self.is_over() || self.is_halted() {
            return Limit::Halted;
        }
        if self.swap.as_ref().is_some_and(Swap::is_troubled) {
            return Limit::StoreAway;
        }
        if self.computed.is_some() || self.swap.as_ref().is_some_and(Swap::is_record) {
            return self.last_step;
        }
        let away = self.sources.away().map(|(source, _)| Limit::KafkaAway { source });
        if self.running.is_some() {
            return away.unwrap_or(self.last_step);
        }
        if !self.sources.are_known() {
            return away.unwrap_or(Limit::LookingAtTopics);
        }
        if !self.has_work() {
            return away.unwrap_or(if self.sources.lag() > 0 { Limit::Fetching } else { Limit::NoNewData });
        }
        if self.executors.is_empty() {
            return Limit::WaitingForExecutors;
        }
        if let Some(sink) = self.at_unpublished_bound() {
            return Limit::Publishing { sink };
        }
        if self.trouble.message.is_some() {
            return Limit::RetryingAttempts;
        }
        let behind = self.publishing.behind(&self.manifest);
        let sink = behind.slowest.filter(|_| self.pace.is_held_back(behind.epochs)).map(|sink| Limit::Publishing { sink });
        away.or(sink).unwrap_or(self.last_step)
    }

    // ---- What can be done now -------------------------------------------------------------------------------------------------------------------

    /// Does all that can be done now. Each step looks only at state, so calling it once too often does nothing.
    fn advance(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.is_over() {
            return;
        }
        if let Some(swap) = &mut self.swap {
            swap.advance(now.monotonic_us, &self.config, &mut self.nonces, actions);
        }
        if self.standing != Standing::Leading {
            return;
        }
        self.looked_us = now.monotonic_us;
        self.event_times.look(&self.sources, &self.config);
        self.check_deadline(now, actions);
        if self.wanted != Life::Dropped {
            self.publishing.advance(now, &self.manifest, &self.executors, &self.config, actions);
        }
        if let Life::Failed { stuck: Some((sink, epoch)), .. } = &self.wanted
            && self.publishing.has(*sink, *epoch)
        {
            self.wanted = Life::Running;
        }
        let recording = self.computed.is_some() || self.swap.as_ref().is_some_and(Swap::is_record);
        if self.drop_when_drained && !recording && self.publishing.is_drained(&self.manifest) {
            self.wanted = Life::Dropped;
        }
        if self.wanted == Life::Dropped && self.config.lacks(Rule::LastSwap) {
            self.standing = Standing::Dropped;
            return actions.push(Action::Dropped);
        }
        self.swap_what_is_due(now, actions);
        self.submit(now, actions);
        if self.is_halted() {
            self.compaction.halt();
        } else if self.swap.is_none() {
            // Which runs there are, a swap under way may change.
            let (holder, now_us) = (self.state_holder.as_ref(), now.monotonic_us);
            self.compaction.advance(now_us, &self.manifest, holder, &self.executors, &self.config, actions);
        }
        self.delete_garbage(now, actions);
    }

    fn check_deadline(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(running) = &self.running else {
            return;
        };
        if running.report_by_us.is_some_and(|by| now.monotonic_us >= by) {
            self.end_attempt(
                Ending::Environment("Ballista finished the attempt, and not all parts were reported".to_owned()),
                now,
                actions,
            );
        } else if now.monotonic_us >= running.deadline_us && !self.config.lacks(Rule::Deadline) {
            self.end_attempt(Ending::Expired, now, actions);
        }
    }

    fn swap_what_is_due(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.ahead_since_us = match self.ahead_since_us {
            _ if !self.publishing.is_ahead_of(&self.manifest) && !self.compaction.is_ahead() && !self.replaced_is_news() => None,
            None => Some(now.monotonic_us),
            since => since,
        };
        if self.swap.is_some() {
            return;
        }
        if let Some(computed) = self.computed.take() {
            let manifest = self.record(&computed, now);
            return self.send(manifest, Purpose::Record(computed), now, actions);
        }
        // Positions and merged runs of a job that computes travel with the next record; they go alone only when they have waited for one, or no other will come.
        let waited =
            self.ahead_since_us.is_some_and(|since| self.is_halted() || now.monotonic_us >= since + self.config.position_delay_us);
        if waited || self.wanted != self.manifest.life {
            let manifest = self.next_manifest(now);
            self.send(manifest, Purpose::Update, now, actions);
        }
    }

    fn replaced_is_news(&self) -> bool {
        self.is_replaced && self.manifest.replace.is_some()
    }

    /// Computing is not under way, and nothing forbids it but time and the lack of data.
    fn may_compute(&self) -> bool {
        self.standing == Standing::Leading
            && !self.is_halted()
            && self.running.is_none()
            && self.computed.is_none()
            && !self.swap.as_ref().is_some_and(Swap::is_record)
            && !self.executors.is_empty()
            && self.sources.are_known()
            && self.at_unpublished_bound().is_none()
    }

    fn has_work(&self) -> bool {
        self.sources.has_backlog() || self.timers_are_due()
    }

    /// Rule 17: the sink that computing waits for.
    fn at_unpublished_bound(&self) -> Option<SinkId> {
        let behind = self.publishing.behind(&self.manifest);
        let reached = behind.epochs >= self.config.max_unpublished_epochs || behind.bytes >= self.config.max_unpublished_bytes;
        behind.slowest.filter(|_| reached && !self.config.lacks(Rule::BoundUnpublished))
    }

    /// Event time has passed a timer since the last recorded epoch: an epoch must be computed although there is nothing to read.
    fn timers_are_due(&self) -> bool {
        let (then_us, now_us) = (self.manifest.fired_through_us(), self.event_times.watermark_us());
        self.has_timers() && timers_lie_between(then_us, now_us, self.config.timer_granule_us)
    }

    fn has_timers(&self) -> bool {
        self.config.has_timers && matches!(self.config.layout, PartLayout::Shared { .. })
    }

    /// Event time through which the recorded epochs hold all rows of windows that ended by then, but for late ones. What closes with a timer is there once that has fired.
    fn complete_through_us(&self) -> Option<i64> {
        if self.has_timers() { self.manifest.fired_through_us() } else { self.manifest.watermark_us }
    }

    fn submit_at_us(&self) -> u64 {
        // The end of a window is not kept waiting.
        let behind = self.publishing.behind(&self.manifest);
        let interval_us = self.pace.interval_us(behind.epochs, behind.publish_us, self.timers_are_due());
        self.submitted_us.map_or(0, |last| last + interval_us).max(self.trouble.retry_at_us)
    }

    fn submit(&mut self, now: Now, actions: &mut Vec<Action>) {
        if !self.may_compute() {
            return;
        }
        match self.sources.skip_lost(self.config.on_data_loss) {
            Ok(false) => {}
            Ok(true) => actions.push(self.prefetch()),
            Err(DataLoss(reason)) => {
                self.fail(reason, now, actions);
                return self.swap_what_is_due(now, actions);
            }
        }
        if now.monotonic_us < self.submit_at_us() {
            return;
        }
        let mut backlog = self.sources.backlog();
        let all: u64 = backlog.iter().map(|offer| offer.available.len()).sum();
        let rows = self.trouble.narrow(&mut backlog);
        let chosen = self.pace.choose(&backlog, rows);
        if chosen.is_empty() && !self.timers_are_due() {
            return;
        }
        let parts = self.config.layout.parts(chosen, self.executors.len());
        let window = WriteWindow::next(now.wall_us, self.manifest.window_end_us, parts.len() as u16);
        let window_start_us = if self.config.lacks(Rule::WindowsAscend) { now.wall_us } else { window.start_us };
        let watermark_us = self.event_times.watermark_us();
        let awake = if self.has_timers() && parts.len() == 1 { self.event_times.awake(&self.config) } else { None };
        let closing = awake.map(|awake| Closing { awake, granule_us: self.config.timer_granule_us });
        let epoch = self.manifest.epoch.next();
        let logs = self.sources.later_logs();
        let frame = Frame { epoch, clock_us: now.wall_us, window_start_us, watermark_us, closing, logs, parts };
        let attempt = self.next_attempt;
        self.next_attempt = attempt.next();
        self.attempts_of_epoch += 1;
        let deadline_us = now.monotonic_us + self.trouble.deadline_us(&self.config);
        let limited = frame.rows() < all;
        let state = self.manifest.state.clone();
        self.submitted_us = Some(now.monotonic_us);
        self.running = Some(Running::new(attempt, frame.clone(), &state, now.monotonic_us, deadline_us, limited));
        actions.push(Action::Submit { attempt, frame, state, deadline_us });
    }

    fn prefetch(&self) -> Action {
        Action::Prefetch { wanted: self.sources.positions(), logs: self.sources.logs() }
    }

    fn delete_garbage(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(pinned) = &self.pinned else { return };
        let mut names = self.garbage.take_due(now.monotonic_us);
        if !self.config.lacks(Rule::SavepointsPin) {
            // They come back when no savepoint names them any more.
            names.retain(|name| !pinned.contains(name));
        }
        if names.is_empty() {
            return;
        }
        // Nothing gets here that is still named; a mistake would lose data, so it is asked once more.
        let named: HashSet<&str> = self.named_files().collect();
        names.retain(|name| !named.contains(name.as_str()));
        if let Some(running) = &self.running {
            // Runs that were merged while an attempt reads them.
            let (read, free): (Vec<String>, Vec<String>) = names.into_iter().partition(|name| running.state_files.contains(name));
            names = free;
            for name in read {
                self.garbage.add(now.monotonic_us, self.config.file_retention_us, &name);
            }
        }
        for names in names.chunks(DELETE_BATCH) {
            actions.push(Action::DeleteFiles { names: names.to_vec() });
        }
    }

    fn files_of<'a>(&self, manifest: &'a Manifest) -> impl Iterator<Item = &'a str> + use<'a> {
        let state = if self.config.lacks(Rule::StateOutlivesPublishing) { &[] } else { manifest.state.as_slice() };
        manifest.files().map(|file| file.name.as_str()).chain(state.iter().map(|run| run.name.as_str()))
    }

    fn named_files(&self) -> impl Iterator<Item = &str> {
        let in_flight = self.swap.iter().flat_map(|swap| self.files_of(&swap.manifest));
        let computed = self.computed.iter().flat_map(|computed| computed.reports.iter().map(|report| report.file.name.as_str()));
        let refused = self.publishing.refused_files().map(|file| file.name.as_str());
        let running = self.running.iter().flat_map(Running::file_names);
        let of_manifests = self.files_of(&self.manifest).chain(in_flight);
        of_manifests.chain(running).chain(computed).chain(refused).chain(self.compaction.file_name())
    }

    fn add_stray(&mut self, name: &str, now: Now) {
        if !self.named_files().any(|named| named == name) {
            self.garbage.add(now.monotonic_us, self.config.file_retention_us, name);
        }
    }

    fn on_left_behind(&mut self, mut names: Vec<String>, now: Now) {
        let named: HashSet<&str> = self.named_files().collect();
        names.retain(|name| !named.contains(name.as_str()));
        for name in names {
            self.garbage.add(now.monotonic_us, self.config.file_retention_us, &name);
        }
    }

    /// What is released by the last savepoint that named it goes like any other file that nobody names.
    fn on_pinned(&mut self, names: BTreeSet<String>, now: Now) {
        let before = self.pinned.replace(names).unwrap_or_default();
        for name in before {
            if self.pinned.as_ref().is_some_and(|pinned| !pinned.contains(&name)) {
                self.add_stray(&name, now);
            }
        }
    }

    /// Files that savepoints name, as far as they were told.
    pub fn pinned(&self) -> Option<&BTreeSet<String>> {
        self.pinned.as_ref()
    }

    // ---- Swaps ----------------------------------------------------------------------------------------------------------------------------------

    fn take_over(&mut self, now: Now, actions: &mut Vec<Action>) {
        let mut manifest = self.manifest.clone();
        manifest.generation = self.generation;
        manifest.nonce = (self.nonces)();
        self.send(manifest, Purpose::TakeOver, now, actions);
    }

    fn lead(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.standing = Standing::Leading;
        actions.push(self.prefetch());
        self.advance(now, actions);
    }

    fn send(&mut self, manifest: Manifest, purpose: Purpose, now: Now, actions: &mut Vec<Action>) {
        debug_assert!(self.swap.is_none(), "one swap in flight");
        let (swap, action) = Swap::send(self.version.clone(), manifest, purpose, now.monotonic_us);
        self.swap = Some(swap);
        actions.push(action);
    }

    /// What the manifest should say now, apart from a new epoch.
    fn next_manifest(&mut self, now: Now) -> Manifest {
        let mut manifest = self.manifest.clone();
        manifest.nonce = (self.nonces)();
        manifest.generation = self.generation;
        manifest.life = self.wanted.clone();
        manifest.recorded_at_us = now.wall_us;
        if manifest.life == Life::Dropped {
            manifest.unpublished.clear();
            manifest.state.clear();
            return manifest;
        }
        self.sources.apply(&mut manifest);
        self.event_times.apply(&mut manifest);
        self.compaction.apply(&mut manifest, &self.config);
        self.publishing.apply(&mut manifest);
        if self.is_replaced {
            manifest.replace = None;
        }
        manifest
    }

    fn record(&mut self, computed: &Computed, now: Now) -> Manifest {
        let Computed { frame, reports, .. } = computed;
        for of in frame.ranges() {
            self.sources.computed_through(of.source, of.range.end);
        }
        for report in reports {
            self.event_times.reported(&report.event_time_us);
        }
        let fired_us = reports.iter().filter_map(|report| report.fired_us).max();
        if !self.config.lacks(Rule::WatermarkFollowsTimers) {
            self.event_times.fired(fired_us);
        }
        self.event_times.look(&self.sources, &self.config);
        let mut manifest = self.next_manifest(now);
        manifest.epoch = frame.epoch;
        manifest.frame_watermark_us = frame.watermark_us;
        manifest.fired_us = manifest.fired_us.max(fired_us);
        manifest.window_end_us = frame.window_start_us + frame.parts.len() as i64;
        manifest.counts.add(&std::mem::take(&mut self.stray_counts));
        for report in reports {
            if !self.config.lacks(Rule::WinnerCounts) {
                manifest.counts.add(&report.counts);
            }
            for of in &report.work.ranges {
                if let (Some(position), Some(timestamp)) = (manifest.sources.get_mut(&of.source.source), report.max_timestamp_ms) {
                    let max = position.max_timestamp_ms.entry(of.source.partition).or_insert(timestamp);
                    *max = timestamp.max(*max);
                }
            }
            let PartFile { name, bytes, crc32, state_bytes, state_end: end, .. } = report.file.clone();
            if state_bytes > 0 {
                // Epochs that changed nothing are covered by the next run.
                let first_epoch = manifest.state_through().next().min(frame.epoch);
                manifest.state.push(StateRun { name, bytes, crc32, state_bytes, first_epoch, last_epoch: frame.epoch, end });
            }
            self.state_holder = Some(report.executor.clone());
            self.publishing.computed_by(frame.epoch, report.work.part, report.executor.clone());
        }
        // Not of those that are just being merged.
        if !self.compaction.is_under_way() {
            manifest.drop_ended_runs();
        }
        manifest.unpublished.push(EpochRecord {
            epoch: frame.epoch,
            window_start_us: frame.window_start_us,
            files: reports.iter().map(|report| report.file.clone()).filter(|file| !file.name.is_empty()).collect(),
            through: manifest.sources.iter().map(|(source, position)| (*source, position.next.clone())).collect(),
            max_timestamp_ms: reports.iter().filter_map(|report| report.max_timestamp_ms).max(),
            recorded_at_us: now.wall_us,
        });
        manifest
    }

    fn on_swap_reply(&mut self, nonce: &Nonce, reply: SwapReply, now: Now, actions: &mut Vec<Action>) {
        let Some(swap) = &mut self.swap else {
            return;
        };
        if self.config.lacks(Rule::SameBytes) && matches!(reply, SwapReply::Unknown { .. }) && *nonce == swap.manifest.nonce {
            let Some(mut swap) = self.swap.take() else { return };
            swap.manifest.nonce = (self.nonces)();
            return self.send(*swap.manifest, swap.purpose, now, actions);
        }
        let verdict = swap.replied(nonce, reply, now.monotonic_us, &self.config);
        self.conclude(verdict, now, actions);
    }

    fn conclude(&mut self, verdict: Verdict, now: Now, actions: &mut Vec<Action>) {
        match verdict {
            Verdict::Pending => {}
            Verdict::Stored(version) => self.stored(version, now, actions),
            // The predecessor's last swap came through while we were taking over: take over what it made. Only its generation is at stake.
            Verdict::Foreign(version, manifest)
                if self.standing == Standing::TakingOver && manifest.generation <= self.generation =>
            {
                self.swap = None;
                self.version = version;
                if self.wanted == self.manifest.life {
                    self.wanted = manifest.life.clone();
                }
                self.sources.rebase(&manifest, now.monotonic_us);
                self.event_times = EventTimes::new(&manifest);
                self.publishing = Publishing::new(&manifest);
                self.manifest = *manifest;
                self.take_over(now, actions);
            }
            Verdict::Foreign(..) => self.fence(actions),
            Verdict::Gone => {
                let reason = format!(
                    "the manifest of job \"{}\" is missing from the store; bring it back from a copy, or drop the job",
                    self.manifest.job
                );
                actions.push(Action::Failed { reason });
                self.fence(actions);
            }
        }
    }

    fn stored(&mut self, version: Version, now: Now, actions: &mut Vec<Action>) {
        let Some(Swap { manifest, purpose, started_us, .. }) = self.swap.take() else {
            return;
        };
        let before = std::mem::replace(&mut self.manifest, *manifest);
        self.version = version;
        self.ahead_since_us = None;
        if self.manifest.life == Life::Dropped {
            self.standing = Standing::Dropped;
            actions.push(Action::RevokePublishes);
            actions.push(Action::Dropped);
            return;
        }
        match purpose {
            Purpose::TakeOver => return self.lead(now, actions),
            Purpose::Update => {}
            Purpose::Record(computed) => self.recorded(&computed, started_us, now, actions),
        }
        self.publishing.stored();
        let named: HashSet<&str> = self.files_of(&self.manifest).collect();
        // A part file with a state is named until it is published everywhere and merged into another.
        let gone: BTreeSet<&str> = before.file_names().filter(|name| !named.contains(name)).collect();
        for name in gone {
            self.garbage.add(now.monotonic_us, self.config.file_retention_us, name);
        }
    }

    fn recorded(&mut self, computed: &Computed, started_us: u64, now: Now, actions: &mut Vec<Action>) {
        let Computed { frame, reports, submitted_us, finished_us, limited } = computed;
        let mut counts = Counts::default();
        let mut times = StepTimes::default();
        for report in reports {
            counts.add(&report.counts);
            times.fetch_us += report.times.fetch_us;
            times.decode_us += report.times.decode_us;
            times.compute_us += report.times.compute_us;
            times.write_us += report.times.write_us;
        }
        let compute_us = finished_us - submitted_us;
        let record_us = now.monotonic_us.saturating_sub(*finished_us);
        let store_us = now.monotonic_us.saturating_sub(started_us);
        if frame.rows() > 0 {
            self.pace.observe(Observed { rows: frame.rows(), compute_us, record_us: store_us, limited: *limited });
        }
        let parts = reports.len().max(1) as u64;
        self.last_step = [
            (times.fetch_us / parts, Limit::Fetching),
            (times.decode_us / parts, Limit::Decoding),
            (times.compute_us / parts, Limit::Computing),
            (times.write_us / parts, Limit::PartFiles),
            (record_us, Limit::Recording),
        ]
        .into_iter()
        .max_by_key(|(us, _)| *us)
        .map_or(Limit::Computing, |(_, step)| step);

        let Some(record) = self.manifest.unpublished.last().filter(|record| record.epoch == frame.epoch) else {
            return;
        };
        actions.push(Action::EpochRecorded(EpochRecorded {
            epoch: frame.epoch,
            attempts: std::mem::take(&mut self.attempts_of_epoch),
            counts,
            bytes_out: reports.iter().map(|report| report.file.bytes.saturating_sub(report.file.state_bytes)).sum(),
            times,
            compute_us,
            record_us,
            through: record.through.clone(),
            max_timestamp_ms: record.max_timestamp_ms,
            complete_through_us: self.complete_through_us(),
            recorded_at_us: record.recorded_at_us,
        }));
        // Not of a topic that was made again while the record was under way: its successor is read from its beginning.
        let stands = |of: &&SourceRange| self.sources.position(of.source) == Some(of.range.end);
        let through = frame.ranges().filter(stands).map(|of| (of.source, of.range.end)).collect();
        actions.push(Action::Released { through });
        for (source, position) in &self.manifest.sources {
            actions.push(Action::CommitOffsets { source: *source, next: position.next.clone() });
        }
    }

    fn fence(&mut self, actions: &mut Vec<Action>) {
        if let Some(running) = self.running.take() {
            actions.push(Action::CancelAttempt { attempt: running.attempt });
        }
        self.standing = Standing::Fenced;
        actions.push(Action::RevokePublishes);
        actions.push(Action::Fenced);
    }

    // ---- Attempts -------------------------------------------------------------------------------------------------------------------------------

    fn on_part(&mut self, report: PartReport, now: Now, actions: &mut Vec<Action>) {
        if report.incarnation != self.manifest.incarnation || report.generation != self.generation {
            return;
        }
        if self.config.lacks(Rule::WinnerCounts) {
            self.stray_counts.add(&report.counts);
        }
        let taken = self.running.as_mut().map_or(Taken::Stray, |running| running.take(&report));
        match taken {
            Taken::Counted | Taken::Repeated => {}
            Taken::Complete => self.complete(now),
            Taken::SecondExecution if self.config.lacks(Rule::OneExecution) => {}
            Taken::SecondExecution => {
                self.add_stray(&report.file.name, now);
                let what =
                    format!("part {} was executed twice (the second time by executor {})", report.work.part, report.executor);
                self.end_attempt(Ending::Disturbed(what), now, actions);
            }
            Taken::Stray => self.add_stray(&report.file.name, now),
        }
    }

    fn complete(&mut self, now: Now) {
        if let Some(running) = self.running.take() {
            let computed = running.into_computed(now.monotonic_us);
            self.trouble.computed(&computed.frame);
            self.computed = Some(Box::new(computed));
        }
    }

    fn on_attempt_ended(&mut self, attempt: Attempt, outcome: AttemptOutcome, now: Now, actions: &mut Vec<Action>) {
        let Some(running) = self.running.as_mut().filter(|running| running.attempt == attempt) else {
            return;
        };
        match outcome {
            AttemptOutcome::Completed if self.config.lacks(Rule::FullCoverage) => self.complete(now),
            AttemptOutcome::Completed => running.report_by_us = Some(now.monotonic_us + self.config.report_grace_us),
            AttemptOutcome::Failed { message, retryable: true, data: false } => {
                self.end_attempt(Ending::Environment(message), now, actions)
            }
            AttemptOutcome::Failed { message, .. } => self.end_attempt(Ending::Data(message), now, actions),
        }
    }

    fn on_executor_lost(&mut self, executor: &ExecutorId, now: Now, actions: &mut Vec<Action>) {
        if !self.executors.remove(executor) {
            return;
        }
        self.publishing.executor_lost(executor);
        self.compaction.executor_lost(executor);
        if self.running.is_some() {
            self.end_attempt(Ending::Disturbed(format!("executor {executor} was lost")), now, actions);
        }
    }

    fn end_attempt(&mut self, ending: Ending, now: Now, actions: &mut Vec<Action>) {
        let Some(running) = self.abandon(now, actions) else {
            return;
        };
        let blame_frame = !self.executors.is_empty() && self.sources.away().is_none();
        let Some(why) = self.trouble.note(ending, &running.frame, blame_frame, now.monotonic_us, &self.config) else {
            return;
        };
        let Some(SourceRange { source, range }) = running.frame.ranges().next() else {
            let (epoch, tries) = (running.frame.epoch, self.config.attempts_per_record);
            let reason = format!(
                "epoch {epoch}, in which only time passes, cannot be computed, tried {tries} times: {why}; repair the job's SQL and restart it"
            );
            return self.fail(reason, now, actions);
        };
        let topic = self.sources.topic(source.source);
        let tries = self.config.attempts_per_record;
        self.fail(
            format!(
                "topic \"{topic}\" partition {}: the record at offsets [{}, {}) cannot be computed, tried {tries} times: {why}; repair the job's SQL and restart it, or restart it \
                 from offset {}",
                source.partition, range.start, range.end, range.end
            ),
            now,
            actions,
        );
    }

    fn on_compacted(&mut self, report: &CompactReport, now: Now) {
        if report.incarnation != self.manifest.incarnation || report.generation > self.generation {
            return;
        }
        let is_ours = report.generation == self.generation || self.config.lacks(Rule::CompactionOrdered);
        if !is_ours || !self.compaction.reported(report, &self.config) {
            self.add_stray(&report.run.name, now);
        }
    }

    fn abandon(&mut self, now: Now, actions: &mut Vec<Action>) -> Option<Running> {
        let running = self.running.take()?;
        actions.push(Action::CancelAttempt { attempt: running.attempt });
        for name in running.file_names() {
            self.garbage.add(now.monotonic_us, self.config.file_retention_us, name);
        }
        Some(running)
    }

    // ---- Sources, sinks, people -----------------------------------------------------------------------------------------------------------------

    fn sources_changed(&mut self, changes: sources::Changes, now: Now, actions: &mut Vec<Action>) {
        if changes.recreated {
            self.abandon(now, actions);
            if let Some(computed) = self.computed.take() {
                for report in &computed.reports {
                    self.garbage.add(now.monotonic_us, self.config.file_retention_us, &report.file.name);
                }
            }
            self.trouble.forget();
        }
        if changes.moved && self.standing == Standing::Leading {
            actions.push(self.prefetch());
        }
    }

    fn on_published(&mut self, report: PublishReport, now: Now, actions: &mut Vec<Action>) {
        if report.incarnation != self.manifest.incarnation || report.generation != self.generation {
            return;
        }
        if self.config.lacks(Rule::RecordRefused) {
            let known = PublishReport { refused: None, ..report.clone() };
            let receipt = self.publishing.reported(&known, now.monotonic_us, &self.config);
            if let (Receipt::Taken, Some(part), Some(executor)) = (receipt, report.refused, self.executors.first().cloned()) {
                let PublishReport { epoch, .. } = known;
                actions.push(Action::Publish(PublishOrder { sink: DEAD_LETTERS, epoch, part, timestamp_us: 0, executor }));
            }
            return;
        }
        if let (Receipt::Stray, Some(PartFile { name, .. })) =
            (self.publishing.reported(&report, now.monotonic_us, &self.config), &report.refused)
        {
            self.add_stray(name, now);
        }
    }

    fn on_publish_failed(&mut self, failure: PublishFailure, now: Now, actions: &mut Vec<Action>) {
        if failure.generation != self.generation {
            return;
        }
        let stands = self.publishing.failed(&failure, now.monotonic_us, &self.config);
        if stands && !failure.retryable && self.wanted == Life::Running {
            let reason = format!(
                "{}: {}; repair it: what is recorded waits for it, then the job goes on",
                sink_name(failure.sink),
                failure.message
            );
            self.fail_until(reason, Some((failure.sink, failure.epoch)), now, actions);
        }
    }

    fn on_command(&mut self, command: Command, now: Now, actions: &mut Vec<Action>) {
        let wanted = match command {
            Command::Resume => {
                self.trouble.forget();
                if self.wanted != Life::Running {
                    self.sources.forget_topics();
                }
                self.drop_when_drained = false;
                Life::Running
            }
            Command::Pause => Life::Paused,
            Command::Stop => Life::Stopped,
            Command::Hold => {
                self.is_held = true;
                self.abandon(now, actions);
                return;
            }
            Command::LetGo => {
                self.is_held = false;
                return;
            }
            Command::Drop { discard } => {
                self.drop_when_drained = true;
                if discard { Life::Dropped } else { Life::Stopped }
            }
        };
        if self.wanted == Life::Dropped {
            return;
        }
        self.wanted = wanted;
        if self.wanted != Life::Running {
            self.abandon(now, actions);
        }
        if self.wanted == Life::Dropped {
            self.computed = None;
            actions.push(Action::RevokePublishes);
        }
    }

    /// The job needs somebody: nothing more is computed, what is recorded is still published.
    fn fail(&mut self, reason: String, now: Now, actions: &mut Vec<Action>) {
        self.fail_until(reason, None, now, actions);
    }

    fn fail_until(&mut self, reason: String, stuck: Option<(SinkId, Epoch)>, now: Now, actions: &mut Vec<Action>) {
        if matches!(self.wanted, Life::Failed { .. } | Life::Dropped) {
            return;
        }
        self.abandon(now, actions);
        self.wanted = Life::Failed { reason: reason.clone(), stuck };
        actions.push(Action::Failed { reason });
    }
}

fn sink_name(sink: SinkId) -> String {
    match sink {
        DEAD_LETTERS => "dead letters".to_owned(),
        LATE_ROWS => "late rows".to_owned(),
        SinkId(number) => format!("sink {number}"),
    }
}

#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;
