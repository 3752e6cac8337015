//! The running attempt: its reports, and how the one after a failure differs (EPOCHS rules 7 and 9).
//!
//! An attempt is complete as soon as each part has reported once: each report stands for a synced part file on the durable store, so neither Ballista's word nor the
//! further life of the executors that reported is needed. Until then, a second execution of a part or the loss of *any* executor ends it: which parts the
//! lost one held is not known here, and Ballista would quietly run them again beside what has reported.
use std::collections::BTreeMap;

use super::config::{CoordinatorConfig, Rule, SECOND_US};
use crate::{
    frame::Frame,
    ids::{Attempt, SourcePartition},
    manifest::StateRun,
    pace::Backlog,
    report::PartReport,
};

#[derive(Debug)]
pub(super) struct Running {
    pub attempt: Attempt,
    pub frame: Frame,
    pub submitted_us: u64,
    pub deadline_us: u64,
    /// More was there than the frame takes.
    pub limited: bool,
    /// Files of the state that it builds on.
    pub state_files: Vec<String>,
    /// Ballista has said *completed*, and reports are missing.
    pub report_by_us: Option<u64>,
    reports: Vec<Option<PartReport>>,
}

/// All parts of an epoch, ready to be recorded.
#[derive(Debug)]
pub(super) struct Computed {
    pub frame: Frame,
    pub reports: Vec<PartReport>,
    pub submitted_us: u64,
    pub finished_us: u64,
    pub limited: bool,
}

pub(super) enum Taken {
    Counted,
    Complete,
    /// The same report once more.
    Repeated,
    /// Another execution of a part that has reported.
    SecondExecution,
    /// Not of this attempt or not of its frame.
    Stray,
}

impl Running {
    pub fn new(attempt: Attempt, frame: Frame, state: &[StateRun], submitted_us: u64, deadline_us: u64, limited: bool) -> Self {
        let reports = vec![None; frame.parts.len()];
        let state_files = state.iter().map(|run| run.name.clone()).collect();
        Self { attempt, frame, submitted_us, deadline_us, limited, state_files, report_by_us: None, reports }
    }

    pub fn take(&mut self, report: &PartReport) -> Taken {
        let part = usize::from(report.work.part.0);
        let is_ours = report.epoch == self.frame.epoch && report.attempt == self.attempt && report.file.part == report.work.part;
        if !is_ours || self.frame.parts.get(part) != Some(&report.work) {
            return Taken::Stray;
        }
        match &self.reports[part] {
            Some(earlier) if earlier.execution == report.execution => return Taken::Repeated,
            Some(_) => return Taken::SecondExecution,
            None => self.reports[part] = Some(report.clone()),
        }
        if self.reports.iter().all(Option::is_some) { Taken::Complete } else { Taken::Counted }
    }

    pub fn into_computed(self, finished_us: u64) -> Computed {
        let Self { frame, submitted_us, limited, reports, .. } = self;
        Computed { frame, reports: reports.into_iter().flatten().collect(), submitted_us, finished_us, limited }
    }

    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.reports.iter().flatten().map(|report| report.file.name.as_str())
    }
}

/// Why an attempt ended without being recorded.
#[derive(Debug)]
pub(super) enum Ending {
    /// A part ran twice or an executor went: at once again, unless it happens over and over.
    Disturbed(String),
    /// Something around it failed: again after a pause, for ever.
    Environment(String),
    Expired,
    /// The records are at fault, as far as can be told: smaller frames, down to the one.
    Data(String),
}

/// Memory of failures.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    disturbances: u32,
    expiries: u32,
    pub retry_at_us: u64,
    pub message: Option<String>,
    suspect: Option<Suspect>,
    /// Failures of a frame without records.
    empty_tries: u32,
}

/// What a failed frame read. Until it is recorded, or down to a single record that fails again and again, frames are chosen only from it.
#[derive(Debug)]
struct Suspect {
    ends: BTreeMap<SourcePartition, i64>,
    rows: u64,
    /// Failures of a frame of one row.
    tries: u32,
}

impl Trouble {
    pub fn deadline_us(&self, config: &CoordinatorConfig) -> u64 {
        config.attempt_deadline_us.saturating_mul(1 << self.expiries.min(20)).min(config.max_attempt_deadline_us)
    }

    /// Takes note of a failure. `Some`: the records of the frame cannot be computed; the text says why.
    pub fn note(
        &mut self,
        ending: Ending,
        frame: &Frame,
        blame_frame: bool,
        now_us: u64,
        config: &CoordinatorConfig,
    ) -> Option<String> {
        let was_longest = self.deadline_us(config) >= config.max_attempt_deadline_us;
        let (message, pause_us, shrink, counts) = match ending {
            Ending::Disturbed(message) => {
                let pause_us = if self.disturbances == 0 { 0 } else { config.backoff(self.disturbances) };
                self.disturbances += 1;
                (message, pause_us, false, false)
            }
            Ending::Environment(message) => {
                self.disturbances += 1;
                (message, config.backoff(self.disturbances), false, false)
            }
            Ending::Expired => {
                let seconds = self.deadline_us(config) / SECOND_US;
                self.expiries += 1;
                (format!("not done within {seconds} s"), 0, true, was_longest && blame_frame)
            }
            Ending::Data(message) => (message, config.backoff_us, true, true),
        };
        self.retry_at_us = now_us + pause_us;
        self.message = Some(message.clone());
        if !shrink {
            return None;
        }
        if frame.rows() == 0 {
            self.empty_tries += u32::from(counts);
            return (self.empty_tries >= config.attempts_per_record).then_some(message);
        }
        let suspect = self.suspect.get_or_insert_with(|| Suspect {
            ends: frame.ranges().map(|of| (of.source, of.range.end)).collect(),
            rows: 0,
            tries: 0,
        });
        suspect.rows = if config.lacks(Rule::SmallerNext) { frame.rows() } else { (frame.rows() / 2).max(1) };
        if frame.rows() == 1 && counts {
            suspect.tries += 1;
        }
        (suspect.tries >= config.attempts_per_record).then_some(message)
    }

    /// An epoch was computed: the frame's records are not at fault.
    pub fn computed(&mut self, frame: &Frame) {
        self.disturbances = 0;
        self.expiries = self.expiries.saturating_sub(1);
        self.retry_at_us = 0;
        self.message = None;
        self.empty_tries = 0;
        if let Some(suspect) = &mut self.suspect {
            suspect.rows = suspect.rows.saturating_mul(2);
            suspect.tries = 0;
            for of in frame.ranges() {
                if suspect.ends.get(&of.source).is_some_and(|end| *end <= of.range.end) {
                    suspect.ends.remove(&of.source);
                }
            }
            if suspect.ends.is_empty() {
                self.suspect = None;
            }
        }
    }

    /// The job is to try again as if nothing had happened.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Narrows the backlog to what is suspect; returns how many rows may be taken of it. The suspects are taken one after the other, so that the halving
    /// finds the one.
    pub fn narrow(&mut self, backlog: &mut Vec<Backlog>) -> Option<u64> {
        let suspect = self.suspect.as_mut()?;
        suspect.ends.retain(|source, end| backlog.iter().any(|offer| offer.source == *source && offer.available.start < *end));
        if suspect.ends.is_empty() {
            // Skipped by other means.
            self.suspect = None;
            return None;
        }
        let mut left = suspect.rows;
        backlog.retain_mut(|offer| {
            let Some(&end) = suspect.ends.get(&offer.source) else {
                return false;
            };
            let stop =
                offer.available.end.min(end).min(offer.available.start.saturating_add(i64::try_from(left).unwrap_or(i64::MAX)));
            if stop <= offer.available.start {
                return false;
            }
            offer.available.end = stop;
            left -= offer.available.len();
            true
        });
        Some(suspect.rows)
    }
}
