//! The picture of the platform that the console, `polybolos.*` tables and `job show` are drawn from.
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::RwLock;
use polybolos_gateway::status::{
    CompleteThrough, ExecutorStatus, Health, HealthState, HistoryPoint, JobState, JobStatus, Leader, OffsetThrough, Status,
    StepTimes, TableStatus, TopicStatus,
};
use polybolos_streaming::{
    coordinator::{JobStatus as CoordinatorStatus, Limit, Phase},
    ids::{Epoch, SinkId, SourcePartition},
    manifest::{DEAD_LETTERS, LATE_ROWS, Manifest},
};

use crate::{
    catalog::CatalogStore,
    control::Executors,
    feeds::Feeds,
    jobs::{
        history::{History, StepMillis},
        manager::{Entry, JobManager},
        runner::{JobHandle, View},
        verify::Verifications,
    },
    savepoints::Savepoints,
};

/// Where the picture comes from.
pub struct StatusSource {
    pub mode: String,
    pub leader_id: String,
    pub started: Instant,
    pub catalog: Arc<CatalogStore>,
    pub executors: Arc<Executors>,
    pub feeds: Arc<Feeds>,
    pub jobs: Arc<RwLock<Option<Arc<JobManager>>>>,
    pub savepoints: Arc<Savepoints>,
    pub verifications: Arc<Verifications>,
    pub leading_since_ms: RwLock<Option<u64>>,
    /// Where people find the leader, while that is another scheduler.
    pub followed: Arc<RwLock<Option<String>>>,
}

impl StatusSource {
    pub fn status(&self) -> Status {
        let jobs = self.jobs();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            now_ms: now_ms(),
            uptime_s: self.started.elapsed().as_secs(),
            mode: self.mode.clone(),
            leader: self.leader(),
            kafka: self.kafka(),
            cassandra: self.cassandra(&jobs),
            executors: self.executors(),
            tables: self.tables(),
            topics: self.topics(),
            feeds: self.feeds.shown(),
            jobs,
        }
    }

    /// Where the console of the scheduler is that leads, if this one stands by and was told.
    pub fn leader_door(&self) -> Option<String> {
        self.followed.read().clone()
    }

    fn leader(&self) -> Leader {
        let is_me = self.leads();
        let (id, door) = if is_me { (self.leader_id.clone(), None) } else { (String::new(), self.leader_door()) };
        Leader { id, door, is_me, since_ms: *self.leading_since_ms.read() }
    }

    /// What a scheduler that stands by says with whatever only the leader has.
    pub fn stands_by(&self) -> String {
        let at = self.leader_door().map(|door| format!(", at {door}")).unwrap_or_default();
        format!("this scheduler stands by; the leader's doors show the jobs, their savepoints and the executors{at}")
    }

    /// Whether this scheduler leads: one that stands by runs no jobs and has no executors.
    pub fn leads(&self) -> bool {
        self.jobs.read().is_some()
    }

    pub fn entries(&self) -> Vec<(String, Entry)> {
        let manager = self.jobs.read().clone();
        manager.map(|manager| manager.list().into_iter().collect()).unwrap_or_default()
    }

    pub fn handles(&self) -> Vec<JobHandle> {
        let running = self.entries().into_iter().filter_map(|(_, entry)| match entry {
            Entry::Running(handle) => Some(handle),
            Entry::Starting { .. } => None,
        });
        running.collect()
    }

    fn jobs(&self) -> Vec<JobStatus> {
        let is_alone = self.executors.list().is_empty();
        self.entries()
            .into_iter()
            .map(|(name, entry)| match entry {
                Entry::Running(handle) => {
                    let mut status = handle.with_history(|history| job(&handle, &handle.view(), history));
                    if is_alone && matches!(status.state, JobState::Starting | JobState::Running | JobState::Waiting) {
                        status.limiting = "no executor is connected; start one with polybolos executor".into();
                    }
                    status
                }
                Entry::Starting { error, .. } => {
                    JobStatus { name, limiting: error.clone(), error: Some(error), ..JobStatus::default() }
                }
            })
            .collect()
    }

    fn executors(&self) -> Vec<ExecutorStatus> {
        let assigned: Vec<_> = self.handles().iter().flat_map(|handle| handle.view().assigned.into_values()).collect();
        let list = self.executors.list().into_iter().map(|executor| ExecutorStatus {
            partitions: assigned.iter().filter(|assigned| **assigned == executor.id).count() as u32,
            id: executor.id.0,
            address: executor.address,
            state: "ready".into(),
            memory_bytes: Some(executor.resident_bytes),
            cpu_percent: Some(executor.cpu * 100.0 / f64::from(executor.vcores.max(1))),
            task_slots: executor.vcores,
        });
        list.collect()
    }

    fn tables(&self) -> Vec<TableStatus> {
        let catalog = self.catalog.current();
        let status = catalog.tables.iter().map(|table| TableStatus {
            name: table.name.to_string(),
            connector: table.connector.name().into(),
            written_by: catalog.job_that_fills(&table.name).map(|job| job.name.clone()),
            columns: table.columns.len() as u32,
        });
        status.collect()
    }

    fn topics(&self) -> Vec<TopicStatus> {
        let mut topics = vec![];
        for handle in self.handles() {
            let view = handle.view();
            for (source, spec) in &handle.spec.sources {
                let ends: Vec<i64> = view.ends.iter().filter(|(key, _)| key.source == *source).map(|(_, end)| *end).collect();
                topics.push(TopicStatus {
                    name: spec.topic.clone(),
                    partitions: ends.len() as u32,
                    records: Some(ends.iter().sum::<i64>().max(0) as u64),
                });
            }
        }
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics.dedup_by(|a, b| a.name == b.name);
        topics
    }

    fn kafka(&self) -> Health {
        let mut answered = false;
        for handle in self.handles() {
            let view = handle.view();
            if let Limit::KafkaAway { .. } = view.status.limit {
                return Health { state: HealthState::Away, message: limiting(&view, &handle) };
            }
            answered |= !view.ends.is_empty();
        }
        let state = if answered { HealthState::Ok } else { HealthState::Unknown };
        Health { state, message: if answered { "answers".into() } else { "no job reads from it yet".into() } }
    }

    fn cassandra(&self, jobs: &[JobStatus]) -> Health {
        let troubled = self.handles().iter().find_map(|handle| unwritten(&handle.view().status));
        match troubled {
            Some(message) => Health { state: HealthState::Away, message },
            None if jobs.iter().any(|job| job.rows_out > 0) => Health { state: HealthState::Ok, message: "answers".into() },
            None => Health { state: HealthState::Unknown, message: "nothing written yet".into() },
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn steps(steps: StepMillis) -> StepTimes {
    StepTimes {
        fetch: steps.fetch,
        decode: steps.decode,
        compute: steps.compute,
        write: steps.write,
        record: steps.record,
        publish: steps.publish,
    }
}

/// In words: what limits the job now.
pub fn limiting(view: &View, handle: &JobHandle) -> String {
    let name_of = |sink: &SinkId| handle.spec.sinks.get(sink).map_or_else(|| sink.to_string(), |(name, _)| name.clone());
    let trouble = view.status.sink_troubles.iter().next();
    match (&view.status.phase, &view.status.limit, trouble) {
        (Phase::Failed { reason }, ..) => reason.clone(),
        (_, Limit::Publishing { sink }, Some((_, message))) => format!("{} does not take rows: {message}", name_of(sink)),
        (_, Limit::Publishing { sink }, None) => format!("{} is slower than the job", name_of(sink)),
        (_, _, Some((sink, message))) => format!("{} does not take rows: {message}", name_of(sink)),
        (Phase::Waiting { why }, ..) => why.clone(),
        (Phase::Idle, ..) if view.status.unpublished_epochs > 0 => "publishing".into(),
        (_, limit, None) => limit.to_string(),
    }
}

pub fn state(status: &CoordinatorStatus) -> JobState {
    match &status.phase {
        Phase::TakingOver => JobState::Starting,
        // Rows wait for a table that does not take them.
        Phase::Computing { .. } | Phase::Recording { .. } | Phase::Pacing | Phase::Idle if !status.sink_troubles.is_empty() => {
            JobState::Waiting
        }
        Phase::Computing { .. } | Phase::Recording { .. } | Phase::Pacing => JobState::Running,
        // There is nothing to read, and something to write.
        Phase::Idle if status.unpublished_epochs > 0 => JobState::Running,
        Phase::Idle => JobState::Idle,
        Phase::Waiting { .. } if status.limit == Limit::LookingAtTopics => JobState::Starting,
        Phase::Waiting { .. } => JobState::Waiting,
        Phase::Paused => JobState::Paused,
        Phase::Stopped { .. } | Phase::Fenced | Phase::Dropped => JobState::Stopped,
        Phase::Failed { .. } => JobState::Failed,
    }
}

/// Offsets and event time through which a sink is complete: everything before its first unpublished epoch.
fn complete_through(view: &View, history: &History, sink: SinkId, published: Epoch, handle: &JobHandle) -> CompleteThrough {
    let manifest = &view.manifest;
    let table = handle.spec.sinks.get(&sink).map_or_else(String::new, |(name, _)| name.clone());
    let record = manifest.unpublished.iter().rev().find(|record| record.epoch <= published);
    let caught_up = published >= manifest.epoch;
    let mut offsets = vec![];
    for (source, position) in &manifest.sources {
        let through = match record {
            _ if caught_up => Some(&position.next),
            Some(record) => record.through.get(source),
            None => None,
        };
        let spec_topic = position.topic.clone();
        for (partition, end) in through.into_iter().flatten() {
            offsets.push(OffsetThrough { topic: spec_topic.clone(), partition: *partition, end_offset: *end });
        }
    }
    let newest = manifest.sources.values().flat_map(|position| position.max_timestamp_ms.values()).max().copied();
    let event_time_ms = if caught_up { newest } else { record.and_then(|record| record.max_timestamp_ms) };
    let watermark_us = if caught_up { view.status.complete_through_us } else { history.complete_through_us(published) };
    CompleteThrough {
        table,
        epoch: published.0,
        offsets,
        event_time_ms: event_time_ms.map(|time| time.max(0) as u64),
        watermark_ms: watermark_us.map(whole_ms),
    }
}

/// The time before it: of part of a millisecond not all is there.
fn whole_ms(us: i64) -> i64 {
    us.div_euclid(1_000)
}

/// Of the partitions with unread records, how long ago the newest record that was read came. `None` where nothing waits, or none was read.
fn lag_ms(manifest: &Manifest, ends: &BTreeMap<SourcePartition, i64>) -> Option<u64> {
    let read = ends.iter().filter_map(|(key, end)| {
        let position = manifest.sources.get(&key.source)?;
        let waits = position.next.get(&key.partition)? < end;
        position.max_timestamp_ms.get(&key.partition).filter(|_| waits)
    });
    read.min().map(|time| now_ms().saturating_sub(time.max(&0).unsigned_abs()))
}

/// Why recorded rows are not in their tables.
fn unwritten(status: &CoordinatorStatus) -> Option<String> {
    let why = match &status.phase {
        Phase::Failed { reason } => Some(reason),
        _ => status.sink_troubles.values().next(),
    };
    why.filter(|_| status.unpublished_epochs > 0).cloned()
}

/// What is wrong, where something is; an outage of Kafka only limits the job.
fn error(status: &CoordinatorStatus) -> Option<String> {
    match (&status.phase, status.sink_troubles.values().next()) {
        (Phase::Failed { reason }, _) => Some(reason.clone()),
        (_, Some(trouble)) => Some(trouble.clone()),
        (Phase::Waiting { why }, None) if matches!(status.limit, Limit::RetryingAttempts | Limit::StoreAway) => Some(why.clone()),
        _ => None,
    }
}

fn job(handle: &JobHandle, view: &View, history: &History) -> JobStatus {
    let (status, manifest, newest) = (&view.status, &view.manifest, history.newest());
    let complete = status
        .published
        .iter()
        .filter(|(sink, _)| ![DEAD_LETTERS, LATE_ROWS].contains(*sink))
        .map(|(sink, epoch)| complete_through(view, history, *sink, *epoch, handle));
    JobStatus {
        name: handle.spec.name.clone(),
        incarnation: Some(handle.incarnation.to_string()),
        state: state(status),
        limiting: limiting(view, handle),
        epoch: status.epoch.0,
        unpublished_epochs: status.unpublished_epochs,
        rows_per_s: newest.rows_per_s,
        bytes_per_s: newest.bytes_per_s,
        records_in: manifest.counts.records_in,
        rows_out: manifest.counts.rows_out,
        dead_letters: manifest.counts.dead_letters + manifest.counts.refused,
        lost_records: manifest.counts.lost,
        late_rows: manifest.counts.late,
        retries: history.retries,
        lag_records: status.lag_records,
        lag_ms: lag_ms(manifest, &view.ends),
        epoch_ms: steps(history.last_steps),
        watermark_ms: status.watermark_us.map(whole_ms),
        complete_through: complete.collect(),
        error: error(status),
        history: history
            .points()
            .map(|point| HistoryPoint {
                at_ms: point.at_ms,
                rows_per_s: point.rows_per_s,
                lag_records: point.lag_records,
                epoch_ms: steps(point.steps),
            })
            .collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use polybolos_streaming::ids::Generation;

    use super::*;

    pub(crate) fn coordinator(phase: Phase, limit: Limit, unpublished_epochs: u64) -> CoordinatorStatus {
        CoordinatorStatus {
            phase,
            limit,
            generation: Generation(1),
            epoch: Epoch(7),
            unpublished_epochs,
            unpublished_bytes: 0,
            published: BTreeMap::new(),
            lag_records: None,
            watermark_us: None,
            complete_through_us: None,
            state_runs: 0,
            state_bytes: 0,
            compaction_trouble: None,
            sink_troubles: BTreeMap::new(),
            epoch_rows_limit: 1,
        }
    }

    #[test]
    fn a_job_whose_attempts_fail_says_why() {
        let waiting = || Phase::Waiting { why: "a disk is full".into() };
        let failing = coordinator(waiting(), Limit::RetryingAttempts, 1);
        assert_eq!(error(&failing).as_deref(), Some("a disk is full"));
        assert_eq!(unwritten(&failing), None, "no table refuses rows");
        assert_eq!(error(&coordinator(waiting(), Limit::StoreAway, 0)).as_deref(), Some("a disk is full"));
        assert_eq!(error(&coordinator(waiting(), Limit::WaitingForExecutors, 0)), None);
        let troubles = BTreeMap::from([(SinkId(0), "it is away".to_owned())]);
        let troubled = CoordinatorStatus { sink_troubles: troubles, ..failing };
        assert_eq!((error(&troubled).as_deref(), unwritten(&troubled).as_deref()), (Some("it is away"), Some("it is away")));
    }

    #[test]
    fn a_job_is_idle_only_when_all_is_read_and_written() {
        let waiting = || Phase::Waiting { why: "something".into() };
        assert_eq!(state(&coordinator(waiting(), Limit::LookingAtTopics, 0)), JobState::Starting);
        assert_eq!(state(&coordinator(waiting(), Limit::WaitingForExecutors, 0)), JobState::Waiting);
        assert_eq!(state(&coordinator(Phase::Pacing, Limit::Publishing { sink: SinkId(0) }, 2)), JobState::Running);
        assert_eq!(state(&coordinator(Phase::Idle, Limit::NoNewData, 1)), JobState::Running);
        assert_eq!(state(&coordinator(Phase::Idle, Limit::NoNewData, 0)), JobState::Idle);
        let troubles = BTreeMap::from([(SinkId(0), "it is away".to_owned())]);
        let troubled = CoordinatorStatus { sink_troubles: troubles, ..coordinator(Phase::Idle, Limit::NoNewData, 1) };
        assert_eq!(state(&troubled), JobState::Waiting);
    }
}
