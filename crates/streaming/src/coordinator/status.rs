//! What a job is doing, for people and metrics. Never the basis of a decision.
use std::{collections::BTreeMap, fmt};

use crate::ids::{Attempt, Epoch, Generation, SinkId, SourceId};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        coordinator::{Action, CoordinatorConfig, Event, JobCoordinator, ManifestAnswer, Now, SwapReply},
        ids::{ExecutorId, Incarnation, JobName, Nonce, SourcePartition, Version},
        manifest::{DEAD_LETTERS, Life, Manifest, SourcePosition},
        report::Counts,
    };

    const NOW: Now = Now { monotonic_us: 1_000_000, wall_us: 1_000_000 };
    const SOURCE: SourceId = SourceId(0);

    fn manifest() -> Manifest {
        let position = SourcePosition { topic: "readings".into(), next: BTreeMap::from([(0, 0)]), ..SourcePosition::default() };
        Manifest {
            job: JobName("job".into()),
            incarnation: Incarnation("job-1".into()),
            generation: Generation(0),
            nonce: Nonce("first".into()),
            epoch: Epoch(0),
            life: Life::Running,
            sources: BTreeMap::from([(SOURCE, position)]),
            window_end_us: 0,
            counts: Counts::default(),
            state: Vec::new(),
            layout: vec![],
            kept_columns: vec![],
            watermark_us: None,
            frame_watermark_us: None,
            fired_us: None,
            unpublished: vec![],
            published: BTreeMap::from([(SinkId(0), Epoch(0)), (DEAD_LETTERS, Epoch(0))]),
            replace: None,
            recorded_at_us: 0,
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
