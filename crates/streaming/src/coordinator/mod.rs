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
//! * `computing`: the next frame and its attempts; `attempt`: reports, deadlines, halving;
//! * `recording`: the next manifest and what follows from it; `swap`: the one swap in flight and its doubts; `publishing`: the sinks;
//! * `sources`: positions and what was lost; `event_time`: the watermark; `compaction`: the runs of state;
//! * `garbage`: files that may go; `status`: all of it for people.
mod action;
mod attempt;
mod compaction;
mod computing;
mod config;
mod event;
mod event_time;
mod garbage;
mod publishing;
mod recording;
mod sources;
mod status;
mod swap;

use std::{collections::BTreeSet, fmt};

use attempt::{Computed, Ending, Running, Trouble};
use compaction::Compaction;
use event_time::EventTimes;
use garbage::Garbage;
use publishing::{Publishing, Receipt};
use sources::{Answer, DataLoss, Sources};
use swap::Swap;

pub use self::{
    action::{Action, EpochPublished, EpochRecorded, Log, PublishOrder},
    config::{CoordinatorConfig, IDLE_TIMEOUT_US, OnDataLoss, PartLayout, Rule, SECOND_US},
    event::{AttemptOutcome, Command, Event, ManifestAnswer, Now, PublishFailure, SwapReply},
    status::{JobStatus, Limit, Phase},
};
use crate::{
    ids::{Attempt, Epoch, ExecutorId, Generation, Nonce, SinkId, Version},
    manifest::{DEAD_LETTERS, LATE_ROWS, Life, Manifest},
    pace::Pace,
    report::{CompactReport, Counts, PartFile, PublishReport},
};

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

    /// Whether the manifest says what the job shall do, and no swap is under way that says anything else.
    pub fn is_life_recorded(&self) -> bool {
        self.wanted == self.manifest.life && self.swap.as_ref().is_none_or(|swap| swap.manifest.life == self.wanted)
    }

    /// What the store says instead of taking a swap.
    pub fn store_trouble(&self) -> Option<&str> {
        self.swap.as_ref().and_then(Swap::trouble)
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

    fn prefetch(&self) -> Action {
        Action::Prefetch { wanted: self.sources.positions(), logs: self.sources.logs() }
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

    fn on_compacted(&mut self, report: &CompactReport, now: Now) {
        if report.incarnation != self.manifest.incarnation || report.generation > self.generation {
            return;
        }
        let is_ours = report.generation == self.generation || self.config.lacks(Rule::CompactionOrdered);
        if !is_ours || !self.compaction.reported(report, &self.config) {
            self.add_stray(&report.run.name, now);
        }
    }

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
mod tests;
