//! Record: which manifest is swapped in next, and what follows when it is stored, or when somebody else's is (EPOCHS rules 3 and 5).
use std::collections::{BTreeSet, HashSet};

use super::{
    Action, EpochRecorded, JobCoordinator, Limit, Now, Rule, Standing, SwapReply,
    attempt::Computed,
    event_time::EventTimes,
    publishing::Publishing,
    swap::{Purpose, Swap, Verdict},
};
use crate::{
    frame::SourceRange,
    ids::{Nonce, Version},
    manifest::{EpochRecord, Life, Manifest, StateRun},
    pace::Observed,
    report::{Counts, PartFile, StepTimes},
};

impl JobCoordinator {
    pub(super) fn swap_what_is_due(&mut self, now: Now, actions: &mut Vec<Action>) {
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

    pub(super) fn take_over(&mut self, now: Now, actions: &mut Vec<Action>) {
        let mut manifest = self.manifest.clone();
        manifest.generation = self.generation;
        manifest.nonce = (self.nonces)();
        self.send(manifest, Purpose::TakeOver, now, actions);
    }

    pub(super) fn lead(&mut self, now: Now, actions: &mut Vec<Action>) {
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

    pub(super) fn on_swap_reply(&mut self, nonce: &Nonce, reply: SwapReply, now: Now, actions: &mut Vec<Action>) {
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

    pub(super) fn conclude(&mut self, verdict: Verdict, now: Now, actions: &mut Vec<Action>) {
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

    pub(super) fn fence(&mut self, actions: &mut Vec<Action>) {
        if let Some(running) = self.running.take() {
            actions.push(Action::CancelAttempt { attempt: running.attempt });
        }
        self.standing = Standing::Fenced;
        actions.push(Action::RevokePublishes);
        actions.push(Action::Fenced);
    }
}
