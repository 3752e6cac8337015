//! Compute: which frame is next and when it is submitted, and what becomes of its attempts (EPOCHS rules 7, 9 and 17).
use super::{
    Action, AttemptOutcome, JobCoordinator, Now, PartLayout, Rule, Standing,
    attempt::{Ending, Running, Taken},
    sources::DataLoss,
    swap::Swap,
};
use crate::{
    frame::{Closing, Frame, SourceRange, timers_lie_between},
    ids::{Attempt, SinkId},
    report::PartReport,
    window::WriteWindow,
};

impl JobCoordinator {
    /// Computing is not under way, and nothing forbids it but time and the lack of data.
    pub(super) fn may_compute(&self) -> bool {
        self.standing == Standing::Leading
            && !self.is_halted()
            && self.running.is_none()
            && self.computed.is_none()
            && !self.swap.as_ref().is_some_and(Swap::is_record)
            && !self.executors.is_empty()
            && self.sources.are_known()
            && self.at_unpublished_bound().is_none()
    }

    pub(super) fn has_work(&self) -> bool {
        self.sources.has_backlog() || self.timers_are_due()
    }

    /// Rule 17: the sink that computing waits for.
    pub(super) fn at_unpublished_bound(&self) -> Option<SinkId> {
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
    pub(super) fn complete_through_us(&self) -> Option<i64> {
        if self.has_timers() { self.manifest.fired_through_us() } else { self.manifest.watermark_us }
    }

    pub(super) fn submit_at_us(&self) -> u64 {
        // The end of a window is not kept waiting.
        let behind = self.publishing.behind(&self.manifest);
        let interval_us = self.pace.interval_us(behind.epochs, behind.publish_us, self.timers_are_due());
        self.submitted_us.map_or(0, |last| last + interval_us).max(self.trouble.retry_at_us)
    }

    pub(super) fn submit(&mut self, now: Now, actions: &mut Vec<Action>) {
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

    pub(super) fn check_deadline(&mut self, now: Now, actions: &mut Vec<Action>) {
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

    pub(super) fn on_part(&mut self, report: PartReport, now: Now, actions: &mut Vec<Action>) {
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

    pub(super) fn on_attempt_ended(&mut self, attempt: Attempt, outcome: AttemptOutcome, now: Now, actions: &mut Vec<Action>) {
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

    pub(super) fn end_attempt(&mut self, ending: Ending, now: Now, actions: &mut Vec<Action>) {
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

    pub(super) fn abandon(&mut self, now: Now, actions: &mut Vec<Action>) -> Option<Running> {
        let running = self.running.take()?;
        actions.push(Action::CancelAttempt { attempt: running.attempt });
        for name in running.file_names() {
            self.garbage.add(now.monotonic_us, self.config.file_retention_us, name);
        }
        Some(running)
    }
}
