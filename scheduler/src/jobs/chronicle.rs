//! What a job went through, for people: events of its life, and a line for each of its last epochs. It outlives the leader that saw it, as an object beside
//! the manifest ([`super::chronicler`]); nothing is decided by it (EPOCHS rule 1). Bounded, and in order by itself, whatever is added when and
//! however often.
use std::collections::BTreeMap;

use polybolos_streaming::{
    ids::{Epoch, Generation},
    manifest::Life,
    report::StepTimes,
};
use polybolos_tables::plain::up_to;
use serde::{Deserialize, Serialize};

/// Troubles that come and go do not push out why a job failed: each of the two kinds has so many places.
const EVENTS_OF_A_KIND: usize = 100;

/// Epochs that the next leader is told of.
const EPOCHS: usize = 200;

/// Characters of a message.
const MESSAGE: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Created,
    Restarted,
    TakenOver,
    Upgraded,
    Paused,
    Resumed,
    Stopped,
    Failed,
    /// The job goes on trying.
    Trouble,
    TroubleOver,
}

impl EventKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Restarted => "restarted",
            Self::TakenOver => "taken_over",
            Self::Upgraded => "upgraded",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Trouble => "trouble",
            Self::TroubleOver => "trouble_over",
        }
    }

    pub fn is_trouble(self) -> bool {
        matches!(self, Self::Trouble | Self::TroubleOver)
    }

    /// Whether it says what the job shall do from then on.
    fn is_of_life(self) -> bool {
        !self.is_trouble() && !matches!(self, Self::TakenOver | Self::Upgraded)
    }
}

/// A line of `polybolos.job_events`. Ordered as its fields are: by leader first, as the clocks of two need not agree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobEvent {
    /// Of the leader that saw it.
    pub generation: Generation,
    /// Microseconds since 1970, by its clock.
    pub at_us: i64,
    pub kind: EventKind,
    /// The last that was recorded then.
    pub epoch: Epoch,
    pub message: String,
}

impl JobEvent {
    pub fn new(generation: Generation, at_us: i64, kind: EventKind, epoch: Epoch, message: &str) -> Self {
        Self { generation, at_us, kind, epoch, message: up_to(message, MESSAGE) }
    }
}

/// A line of `polybolos.epochs`; its times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRow {
    pub epoch: Epoch,
    pub generation: Generation,
    pub recorded_at_us: i64,
    pub records_in: u64,
    pub rows_out: u64,
    pub dead_letters: u64,
    pub attempts: u64,
    pub times: StepTimes,
    pub run_us: u64,
    pub record_us: u64,
    /// From the record until the last sink had it.
    pub published_us: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chronicle {
    events: Vec<JobEvent>,
    epochs: Vec<EpochRow>,
}

/// How a leader found a job.
#[derive(Clone, Debug)]
pub struct Beginning {
    pub generation: Generation,
    /// Of whom it takes the job over; 0: of nobody, the incarnation is new.
    pub earlier: Generation,
    pub at_us: i64,
    pub epoch: Epoch,
    pub life: Life,
    /// When that was recorded.
    pub recorded_at_us: i64,
}

impl Chronicle {
    pub fn new(events: Vec<JobEvent>, epochs: Vec<EpochRow>) -> Self {
        let mut chronicle = Self::default();
        chronicle.merge(Self { events, epochs });
        chronicle
    }

    /// The same events, with the last of these epochs, which are in order.
    pub fn with_epochs(&self, epochs: impl Iterator<Item = EpochRow>) -> Self {
        let mut epochs: Vec<EpochRow> = epochs.collect();
        epochs.drain(..epochs.len().saturating_sub(EPOCHS));
        Self { events: self.events.clone(), epochs }
    }

    /// In order.
    pub fn events(&self) -> &[JobEvent] {
        &self.events
    }

    /// In order.
    pub fn epochs(&self) -> &[EpochRow] {
        &self.epochs
    }

    /// The newest leader that is told of.
    pub fn generation(&self) -> Generation {
        let events = self.events.iter().map(|event| event.generation);
        events.chain(self.epochs.iter().map(|row| row.generation)).max().unwrap_or_default()
    }

    /// What is already there is not there twice.
    pub fn add(&mut self, event: JobEvent) {
        let Err(place) = self.events.binary_search(&event) else { return };
        let is_trouble = event.kind.is_trouble();
        self.events.insert(place, event);
        let is_alike = |event: &JobEvent| event.kind.is_trouble() == is_trouble;
        if self.events.iter().filter(|event| is_alike(event)).count() > EVENTS_OF_A_KIND
            && let Some(oldest) = self.events.iter().position(is_alike)
        {
            self.events.remove(oldest);
        }
    }

    /// Adds what another one tells. Of an epoch that is in both this one knows better.
    pub fn merge(&mut self, other: Self) {
        for event in other.events {
            self.add(event);
        }
        let rows = other.epochs.into_iter().chain(self.epochs.drain(..));
        let by_epoch: BTreeMap<Epoch, EpochRow> = rows.map(|row| (row.epoch, row)).collect();
        let earliest = by_epoch.len().saturating_sub(EPOCHS);
        self.epochs = by_epoch.into_values().skip(earliest).collect();
    }

    /// Adds what a leader knows when it has read what those before it left: that it leads now, and what they had no time to write.
    pub fn begin(&mut self, found: &Beginning) {
        if let Some((kind, message)) = change(&Life::Running, &found.life) {
            let told = JobEvent::new(found.earlier, found.recorded_at_us, kind, found.epoch, &message);
            let last = self.events.iter().rev().find(|event| event.kind.is_of_life());
            if last.is_none_or(|last| (last.kind, &last.message) != (told.kind, &told.message)) {
                self.add(told);
            }
        }
        let is_begun = self.events.iter().any(|event| matches!(event.kind, EventKind::Created | EventKind::Restarted));
        let event = |kind, at_us, message: &str| JobEvent::new(found.generation, at_us, kind, found.epoch, message);
        if found.earlier == Generation(0) {
            if !is_begun {
                self.add(event(EventKind::Created, found.recorded_at_us, ""));
            }
        } else if found.earlier < found.generation {
            let message = format!("leader {} goes on where leader {} was", found.generation, found.earlier);
            self.add(event(EventKind::TakenOver, found.at_us, &message));
        }
    }
}

/// What it is called when a job shall do something else than before.
pub fn change(before: &Life, after: &Life) -> Option<(EventKind, String)> {
    match (before, after) {
        (Life::Failed { reason: before, .. }, Life::Failed { reason, .. }) if before == reason => None,
        (_, Life::Failed { reason, .. }) => Some((EventKind::Failed, reason.clone())),
        (Life::Running, Life::Running) | (Life::Paused, Life::Paused) | (Life::Stopped, Life::Stopped) | (_, Life::Dropped) => None,
        (_, Life::Running) => Some((EventKind::Resumed, String::new())),
        (_, Life::Paused) => Some((EventKind::Paused, String::new())),
        (_, Life::Stopped) => Some((EventKind::Stopped, String::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(generation: u64, at_us: i64, kind: EventKind, message: &str) -> JobEvent {
        JobEvent::new(Generation(generation), at_us, kind, Epoch(0), message)
    }

    fn row(epoch: u64, generation: u64, published_us: Option<u64>) -> EpochRow {
        EpochRow {
            epoch: Epoch(epoch),
            generation: Generation(generation),
            recorded_at_us: 0,
            records_in: 1,
            rows_out: 1,
            dead_letters: 0,
            attempts: 1,
            times: StepTimes::default(),
            run_us: 1,
            record_us: 1,
            published_us,
        }
    }

    fn kinds(chronicle: &Chronicle) -> Vec<EventKind> {
        chronicle.events().iter().map(|event| event.kind).collect()
    }

    fn found(earlier: u64, life: Life) -> Beginning {
        Beginning { generation: Generation(5), earlier: Generation(earlier), at_us: 90, epoch: Epoch(7), life, recorded_at_us: 70 }
    }

    fn failed() -> Life {
        Life::Failed { reason: "it broke".into(), stuck: None }
    }

    #[test]
    fn what_is_kept_is_bounded_and_troubles_do_not_push_out_why_a_job_failed() {
        let mut chronicle = Chronicle::new(vec![event(1, 0, EventKind::Failed, &"why ".repeat(MESSAGE))], vec![]);
        for at_us in 1..1_000 {
            chronicle.add(event(1, at_us, EventKind::Trouble, "away"));
        }
        assert_eq!(chronicle.events().len(), EVENTS_OF_A_KIND + 1);
        assert_eq!((chronicle.events()[0].kind, chronicle.events()[1].at_us), (EventKind::Failed, 900));
        assert_eq!(chronicle.events()[0].message.chars().count(), MESSAGE + 1, "and an ellipsis");
        for at_us in 1_000..2_000 {
            chronicle.add(event(1, at_us, EventKind::Paused, ""));
        }
        assert_eq!(chronicle.events().len(), 2 * EVENTS_OF_A_KIND);
        let rows = Chronicle::new(vec![], (0..1_000).map(|epoch| row(epoch, 1, None)).collect());
        chronicle.merge(rows);
        assert_eq!((chronicle.epochs().len(), chronicle.epochs()[0].epoch), (EPOCHS, Epoch(800)));
    }

    #[test]
    fn what_two_leaders_tell_is_merged_in_order_and_once() {
        let of_first = [event(1, 500, EventKind::Created, ""), event(1, 900, EventKind::Paused, "")];
        // Its clock is behind.
        let of_second = [event(2, 100, EventKind::TakenOver, ""), event(2, 200, EventKind::Resumed, "")];
        let first = Chronicle::new(of_first.to_vec(), vec![row(1, 1, None), row(2, 1, None)]);
        let mut second = Chronicle::new(of_second.to_vec(), vec![row(2, 1, Some(8)), row(3, 2, None)]);
        for _ in 0..2 {
            second.merge(first.clone());
            assert_eq!(second.events(), [of_first.clone(), of_second.clone()].concat());
            assert_eq!(second.epochs(), [row(1, 1, None), row(2, 1, Some(8)), row(3, 2, None)]);
        }
        assert_eq!((first.generation(), second.generation()), (Generation(1), Generation(2)));
        assert_eq!(Chronicle::default().generation(), Generation(0));
    }

    #[test]
    fn a_leader_tells_that_it_leads_and_what_the_one_before_it_had_no_time_to_write() {
        use EventKind::{Created, Failed, Restarted, Resumed, TakenOver};
        let begun = |events: &[JobEvent], earlier, life| {
            let mut chronicle = Chronicle::new(events.to_vec(), vec![]);
            chronicle.begin(&found(earlier, life));
            chronicle
        };
        assert_eq!(kinds(&begun(&[], 0, Life::Running)), [Created]);
        let carried = [event(3, 1, Failed, "it broke"), event(5, 2, Restarted, "")];
        assert_eq!(kinds(&begun(&carried, 0, Life::Running)), [Failed, Restarted]);
        assert_eq!(kinds(&begun(&[], 3, Life::Running)), [TakenOver]);
        assert!(kinds(&begun(&[], 5, Life::Running)).is_empty(), "its own loop begins again");

        let lost = begun(&[event(3, 1, Created, "")], 3, failed());
        assert_eq!(kinds(&lost), [Created, Failed, TakenOver]);
        let told = &lost.events()[1];
        assert_eq!((told.generation, told.at_us, told.message.as_str()), (Generation(3), 70, "it broke"));
        let mut again = lost.clone();
        again.begin(&found(3, failed()));
        assert_eq!(again, lost);
        let resumed = [event(2, 1, Failed, "it broke"), event(3, 1, Resumed, "")];
        assert_eq!(kinds(&begun(&resumed, 3, failed())), [Failed, Resumed, Failed, TakenOver]);
    }

    #[test]
    fn a_change_of_what_a_job_shall_do_has_a_name() {
        let name = |before: &Life, after: &Life| change(before, after).map(|(kind, _)| kind.name());
        assert_eq!(name(&Life::Running, &Life::Paused), Some("paused"));
        assert_eq!(name(&Life::Paused, &Life::Running), Some("resumed"));
        assert_eq!(name(&Life::Running, &Life::Stopped), Some("stopped"));
        assert_eq!(change(&Life::Running, &failed()), Some((EventKind::Failed, "it broke".into())));
        let same = [Life::Running, Life::Paused, Life::Stopped, failed(), Life::Dropped].map(|life| name(&life, &life));
        assert_eq!(same, [None; 5]);
        let stuck = Life::Failed { reason: "it broke".into(), stuck: Some(Default::default()) };
        assert_eq!(name(&failed(), &stuck), None);
    }
}
