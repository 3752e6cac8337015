//! What a job is doing, for people and metrics. Never the basis of a decision.
use std::{collections::BTreeMap, fmt};

use super::{JobCoordinator, Standing, attempt::Running, swap::Swap};
use crate::{
    ids::{Attempt, Epoch, Generation, SinkId, SourceId},
    manifest::Life,
};

#[derive(Clone, Debug, PartialEq)]
pub struct JobStatus {
    pub phase: Phase,
    /// What limits the job now.
    pub limit: Limit,
    pub generation: Generation,
    /// The last recorded epoch.
    pub epoch: Epoch,
    /// Recorded, and not yet published at some sink.
    pub unpublished_epochs: u64,
    pub unpublished_bytes: u64,
    /// Per sink, the epoch through which everything is published (as known here; the manifest may lag by a moment).
    pub published: BTreeMap<SinkId, Epoch>,
    /// Records in the topics that no recorded epoch has read, as far as the broker told; `None`: a topic cannot be looked at, or was not yet.
    pub lag_records: Option<u64>,
    /// Microseconds of event time; `None`: no source has a watermark, or nothing is known of it yet.
    pub watermark_us: Option<i64>,
    /// The event time through which recorded epochs hold all rows but late ones.
    pub complete_through_us: Option<i64>,
    /// Runs of state that the next epoch builds on, and their bytes; 0 for a stateless job.
    pub state_runs: u64,
    pub state_bytes: u64,
    /// Why runs of state are not being merged, while they are not.
    pub compaction_trouble: Option<String>,
    /// The last failure of the environment that is being retried, per sink that has one.
    pub sink_troubles: BTreeMap<SinkId, String>,
    /// Rows that the next epoch may take, by the adaptive pace.
    pub epoch_rows_limit: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Swapping the manifest to this generation.
    TakingOver,
    Computing {
        epoch: Epoch,
        attempt: Attempt,
        since_us: u64,
        rows: u64,
    },
    /// A computed epoch (or a change of the job's life) is on its way into the manifest.
    Recording {
        epoch: Epoch,
        since_us: u64,
    },
    /// There is something to compute, and its epoch is not due yet.
    Pacing,
    /// Everything there is has been computed and recorded.
    Idle,
    /// There is something to do that cannot be done now.
    Waiting {
        why: String,
    },
    Paused,
    /// `draining`: recorded epochs are still being published.
    Stopped {
        draining: bool,
    },
    Failed {
        reason: String,
    },
    Fenced,
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    NoNewData,
    /// The broker has not been asked yet what there is: the job has only just begun, or goes on.
    LookingAtTopics,
    /// Records exist and have not arrived yet.
    Fetching,
    Decoding,
    Computing,
    PartFiles,
    Recording,
    /// Unpublished epochs hold the next one back; this sink is the furthest behind.
    Publishing {
        sink: SinkId,
    },
    WaitingForExecutors,
    KafkaAway {
        source: SourceId,
    },
    /// Attempts fail because of the environment; the next one waits.
    RetryingAttempts,
    /// The manifest's store does not answer.
    StoreAway,
    /// Paused, stopped, failed, fenced or dropped: nothing is to be computed.
    Halted,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNewData => f.write_str("no new data"),
            Self::LookingAtTopics => f.write_str("looking at its topics"),
            Self::Fetching => f.write_str("waiting for records from Kafka"),
            Self::Decoding => f.write_str("decoding records"),
            Self::Computing => f.write_str("computing"),
            Self::PartFiles => f.write_str("writing part files"),
            Self::Recording => f.write_str("recording epochs in the manifest"),
            Self::Publishing { sink } => write!(f, "sink {sink} is slower than the job"),
            Self::WaitingForExecutors => f.write_str("waiting for an executor"),
            Self::KafkaAway { source } => write!(f, "source {source}: Kafka cannot be reached"),
            Self::RetryingAttempts => f.write_str("attempts fail, waiting before the next"),
            Self::StoreAway => f.write_str("the store of the manifest does not answer"),
            Self::Halted => f.write_str("not running"),
        }
    }
}

impl JobCoordinator {
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
        let unrecorded =
            self.store_trouble().map(|message| Phase::Waiting { why: format!("the manifest cannot be recorded: {message}") });
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        coordinator::{Action, CoordinatorConfig, Event, ManifestAnswer, Now, SwapReply},
        ids::{ExecutorId, Incarnation, JobName, Nonce, SourcePartition, Version},
        manifest::{DEAD_LETTERS, Manifest, SourcePosition},
    };

    const NOW: Now = Now { monotonic_us: 1_000_000, wall_us: 1_000_000 };
    const SOURCE: SourceId = SourceId(0);

    fn manifest() -> Manifest {
        let position = SourcePosition { topic: "readings".into(), next: BTreeMap::from([(0, 0)]), ..SourcePosition::default() };
        Manifest {
            sources: BTreeMap::from([(SOURCE, position)]),
            published: BTreeMap::from([(SinkId(0), Epoch(0)), (DEAD_LETTERS, Epoch(0))]),
            ..Manifest::new(JobName::new("job"), Incarnation::new("job-1"), Generation(0), Nonce::new("first"))
        }
    }

    /// A coordinator whose first swap is under way.
    fn taking_over() -> JobCoordinator {
        let mut number = 0;
        let nonces = move || {
            number += 1;
            Nonce(format!("nonce-{number}"))
        };
        JobCoordinator::recover(manifest(), Version("1".into()), Generation(1), CoordinatorConfig::default(), nonces, NOW).0
    }

    /// A coordinator whose attempt runs.
    fn computing() -> JobCoordinator {
        let mut coordinator = taking_over();
        let reply = SwapReply::Stored { version: Version("2".into()) };
        coordinator.on_event(NOW, Event::SwapReplied { nonce: Nonce("nonce-1".into()), reply });
        coordinator.on_event(NOW, Event::ExecutorJoined { executor: ExecutorId::new("e1") });
        let partition = SourcePartition { source: SOURCE, partition: 0 };
        coordinator.on_event(NOW, Event::Available { partition, log: String::new(), end: 10, bytes_per_record: 8 });
        assert_eq!(coordinator.status().limit, Limit::LookingAtTopics, "the topic may be another one");
        assert_eq!(coordinator.status().lag_records, None, "the broker has not told");
        assert_eq!(coordinator.status().phase, Phase::Waiting { why: "looking at its topics".into() });
        let (beginnings, ends) = (BTreeMap::from([(0, 0)]), BTreeMap::from([(0, 10)]));
        coordinator.on_event(NOW, Event::Partitions { source: SOURCE, asked_us: 0, topic_id: None, beginnings, ends });
        assert!(matches!(coordinator.status().phase, Phase::Computing { .. }), "{:?}", coordinator.status());
        coordinator
    }

    #[test]
    fn a_store_that_takes_nothing_is_told_in_its_own_words() {
        let mut coordinator = taking_over();
        let message = || "no space left".to_owned();
        let reply = SwapReply::Unknown { message: message() };
        let actions = coordinator.on_event(NOW, Event::SwapReplied { nonce: Nonce("nonce-1".into()), reply });
        assert_eq!(coordinator.status().phase, Phase::TakingOver, "it may pass at once");
        let request = actions.into_iter().find_map(|action| match action {
            Action::ReadManifest { request } => Some(request),
            _ => None,
        });
        let request = request.expect("it looks what became of the swap");
        coordinator.on_event(NOW, Event::ManifestRead { request, answer: ManifestAnswer::Unknown { message: message() } });
        let status = coordinator.status();
        assert_eq!(status.limit, Limit::StoreAway);
        assert_eq!(status.phase, Phase::Waiting { why: "the manifest cannot be recorded: no space left".into() });
    }

    #[test]
    fn an_attempt_that_waits_for_kafka_is_shown_as_waiting_for_kafka() {
        let mut coordinator = computing();
        assert_eq!(coordinator.status().lag_records, Some(10));
        coordinator.on_event(NOW, Event::SourceAway { source: SOURCE, message: "all brokers are down".into() });
        let status = coordinator.status();
        assert_eq!(status.limit, Limit::KafkaAway { source: SOURCE });
        assert_eq!(status.lag_records, None, "more may have come");
        let why = "topic \"readings\" cannot be read: all brokers are down".to_owned();
        assert_eq!(status.phase, Phase::Waiting { why });
        coordinator.on_event(NOW, Event::SourceBack { source: SOURCE });
        assert!(matches!(coordinator.status().phase, Phase::Computing { .. }));
        assert_eq!(coordinator.status().lag_records, Some(10));
    }
}
