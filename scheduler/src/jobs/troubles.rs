//! Troubles of a job that goes on trying, as events of its history: each begins once and ends once, however often it comes and goes in between.
use std::{collections::BTreeMap, fmt};

use polybolos_streaming::{
    coordinator::{JobStatus, Limit, Phase},
    ids::SinkId,
};

use super::chronicle::EventKind;

/// Looks that must have seen it: what is over by itself in a moment is nothing to tell.
const SEEN: u32 = 3;

/// Not seen for so long it is over. Between two tries of what fails, nothing is wrong for a while.
const OVER_US: i64 = 30_000_000;

/// What is troubled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Its target.
    Writing(String),
    Reading,
    Attempts,
    Recording,
    Executors,
    MergingState,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writing(target) => write!(f, "writing to {target}"),
            Self::Reading => f.write_str("reading"),
            Self::Attempts => f.write_str("computing"),
            Self::Recording => f.write_str("recording"),
            Self::Executors => f.write_str("executors"),
            Self::MergingState => f.write_str("merging state"),
        }
    }
}

/// What is wrong at this moment.
pub fn of(status: &JobStatus, name_of: impl Fn(SinkId) -> String) -> BTreeMap<Subject, String> {
    let sinks = status.sink_troubles.iter();
    let mut troubles: BTreeMap<_, _> = sinks.map(|(sink, message)| (Subject::Writing(name_of(*sink)), message.clone())).collect();
    if let Some(message) = &status.compaction_trouble {
        troubles.insert(Subject::MergingState, message.clone());
    }
    if let Phase::Waiting { why } = &status.phase {
        let subject = match status.limit {
            Limit::KafkaAway { .. } => Some(Subject::Reading),
            Limit::RetryingAttempts => Some(Subject::Attempts),
            Limit::StoreAway => Some(Subject::Recording),
            Limit::WaitingForExecutors => Some(Subject::Executors),
            _ => None,
        };
        troubles.extend(subject.map(|subject| (subject, why.clone())));
    }
    troubles
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub at_us: i64,
    pub kind: EventKind,
    pub message: String,
}

#[derive(Debug, Default)]
pub struct Troubles {
    known: BTreeMap<Subject, Known>,
}

#[derive(Debug)]
struct Known {
    first_us: i64,
    last_us: i64,
    seen: u32,
}

impl Troubles {
    /// What begins and what is over, by what is wrong `now`; to be called each second.
    pub fn look(&mut self, at_us: i64, now: BTreeMap<Subject, String>) -> Vec<Told> {
        let mut told = vec![];
        for (subject, message) in now {
            let message = format!("{subject}: {message}");
            let known = self.known.entry(subject).or_insert(Known { first_us: at_us, last_us: at_us, seen: 0 });
            known.last_us = at_us;
            known.seen = known.seen.saturating_add(1);
            if known.seen == SEEN {
                told.push(Told { at_us: known.first_us, kind: EventKind::Trouble, message });
            }
        }
        self.known.retain(|subject, known| {
            let stays = at_us - known.last_us < OVER_US;
            if !stays && known.seen >= SEEN {
                let seconds = (known.last_us - known.first_us) / 1_000_000;
                let message = format!("{subject}: no more, after {seconds} s");
                told.push(Told { at_us: known.last_us, kind: EventKind::TroubleOver, message });
            }
            stays
        });
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::coordinator;

    const SECOND_US: i64 = 1_000_000;

    #[test]
    fn what_comes_and_goes_is_told_once_and_what_is_over_in_a_moment_is_not() {
        let mut troubles = Troubles::default();
        let mut told = vec![];
        for second in 0..200 {
            let mut now = BTreeMap::new();
            // A second of every ten for a minute and a half; then never again.
            if second % 10 == 0 && second <= 90 {
                now.insert(Subject::Attempts, format!("the disk is full at {second}"));
            }
            if (5..7).contains(&second) {
                now.insert(Subject::Executors, "none".into());
            }
            told.extend(troubles.look(second * SECOND_US, now));
        }
        let expected = [
            (0, EventKind::Trouble, "computing: the disk is full at 20"),
            (90, EventKind::TroubleOver, "computing: no more, after 90 s"),
        ];
        let expected = expected.map(|(second, kind, message)| Told { at_us: second * SECOND_US, kind, message: message.into() });
        assert_eq!(told, expected);
        assert!(troubles.known.is_empty());
    }

    #[test]
    fn a_status_tells_what_is_wrong() {
        let waiting = Phase::Waiting { why: "no broker".into() };
        let mut status = JobStatus {
            compaction_trouble: Some("no room".into()),
            sink_troubles: BTreeMap::from([(SinkId(3), "timed out".to_owned())]),
            ..coordinator(waiting, Limit::KafkaAway { source: Default::default() }, 0)
        };
        let told = of(&status, |sink| format!("table {sink}"));
        let told: Vec<String> = told.iter().map(|(subject, message)| format!("{subject}: {message}")).collect();
        assert_eq!(told, ["writing to table 3: timed out", "reading: no broker", "merging state: no room"]);
        status = JobStatus { limit: Limit::NoNewData, compaction_trouble: None, sink_troubles: BTreeMap::new(), ..status };
        assert_eq!(of(&status, |sink| sink.to_string()), BTreeMap::new());
    }
}
