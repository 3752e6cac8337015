//! The rows of the system tables.
use std::sync::{Arc, atomic::Ordering::Relaxed};

use datafusion::{arrow::array::RecordBatch, common::Result};
use polybolos_gateway::status::{CompleteThrough, Status};

use crate::{
    jobs::{chronicle::EpochRow, history::History},
    status::StatusSource,
    system::{SystemTables, Values, batch},
};

/// Those that are empty on a scheduler that stands by.
pub const OF_THE_LEADER: [&str; 10] = [
    "jobs",
    "completeness",
    "epochs",
    "job_events",
    "executors",
    "topics",
    "partitions",
    "savepoints",
    "verifications",
    "verification_differences",
];

/// Adds every table that has rows to tell.
pub fn register(tables: &SystemTables, status: &Arc<StatusSource>) {
    let sources: [(&str, fn(&Arc<StatusSource>) -> Result<RecordBatch>); 12] = [
        ("jobs", jobs),
        ("completeness", completeness),
        ("epochs", epochs),
        ("job_events", job_events),
        ("executors", executors),
        ("topics", topics),
        ("partitions", partitions),
        ("savepoints", savepoints),
        ("feeds", feeds),
        ("settings", settings),
        ("verifications", verifications),
        ("verification_differences", verification_differences),
    ];
    for (name, make) in sources {
        let status = status.clone();
        tables.add(name, Arc::new(move || make(&status)));
    }
}

fn text<T>(items: &[T], get: impl Fn(&T) -> Option<String>) -> Values {
    Values::Text(items.iter().map(get).collect())
}

fn long<T>(items: &[T], get: impl Fn(&T) -> Option<i64>) -> Values {
    Values::Long(items.iter().map(get).collect())
}

fn double<T>(items: &[T], get: impl Fn(&T) -> Option<f64>) -> Values {
    Values::Double(items.iter().map(get).collect())
}

pub fn jobs(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let Status { jobs, .. } = source.status();
    batch(vec![
        ("name", text(&jobs, |job| Some(job.name.clone()))),
        ("state", text(&jobs, |job| Some(format!("{:?}", job.state).to_lowercase()))),
        ("limiting", text(&jobs, |job| Some(job.limiting.clone()))),
        ("epoch", long(&jobs, |job| Some(job.epoch as i64))),
        ("unpublished_epochs", long(&jobs, |job| Some(job.unpublished_epochs as i64))),
        ("records_in", long(&jobs, |job| Some(job.records_in as i64))),
        ("rows_out", long(&jobs, |job| Some(job.rows_out as i64))),
        ("dead_letters", long(&jobs, |job| Some(job.dead_letters as i64))),
        ("late_rows", long(&jobs, |job| Some(job.late_rows as i64))),
        ("lost_records", long(&jobs, |job| Some(job.lost_records as i64))),
        ("lag_records", long(&jobs, |job| job.lag_records.map(|records| records as i64))),
        ("rows_per_second", double(&jobs, |job| Some(job.rows_per_s))),
        ("complete_through_offsets", text(&jobs, |job| job.complete_through.first().map(offsets))),
        (
            "complete_through_time",
            Values::Time(jobs.iter().map(|job| job.complete_through.first()?.event_time_ms.map(|time| time as i64)).collect()),
        ),
        ("error", text(&jobs, |job| job.error.clone())),
        ("incarnation", text(&jobs, |job| job.incarnation.clone())),
        ("watermark", Values::Time(jobs.iter().map(|job| job.watermark_ms).collect())),
    ])
}

fn offsets(through: &CompleteThrough) -> String {
    let parts: Vec<String> = through.offsets.iter().map(|o| format!("{}/{}:{}", o.topic, o.partition, o.end_offset)).collect();
    parts.join(" ")
}

fn completeness(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let Status { jobs, .. } = source.status();
    let tables: Vec<_> =
        jobs.into_iter().flat_map(|job| job.complete_through.into_iter().map(move |table| (job.name.clone(), table))).collect();
    batch(vec![
        ("job", text(&tables, |(job, _)| Some(job.clone()))),
        ("table_name", text(&tables, |(_, table)| Some(table.table.clone()))),
        ("epoch", long(&tables, |(_, table)| Some(table.epoch as i64))),
        ("complete_through_offsets", text(&tables, |(_, table)| Some(offsets(table)))),
        (
            "complete_through_time",
            Values::Time(tables.iter().map(|(_, table)| table.event_time_ms.map(|time| time as i64)).collect()),
        ),
        ("watermark", Values::Time(tables.iter().map(|(_, table)| table.watermark_ms).collect())),
    ])
}

fn epochs(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let lines: Vec<(String, EpochRow)> = of_jobs(source, |history| history.epochs().collect());
    let millis = |us: u64| Some(us as f64 / 1_000.0);
    batch(vec![
        ("job", text(&lines, |(job, _)| Some(job.clone()))),
        ("epoch", long(&lines, |(_, row)| Some(row.epoch.0 as i64))),
        ("recorded_at", Values::Time(lines.iter().map(|(_, row)| Some(row.recorded_at_us / 1_000)).collect())),
        ("records_in", long(&lines, |(_, row)| Some(row.records_in as i64))),
        ("rows_out", long(&lines, |(_, row)| Some(row.rows_out as i64))),
        ("dead_letters", long(&lines, |(_, row)| Some(row.dead_letters as i64))),
        ("attempts", long(&lines, |(_, row)| Some(row.attempts as i64))),
        ("fetch_ms", double(&lines, |(_, row)| millis(row.times.fetch_us))),
        ("decode_ms", double(&lines, |(_, row)| millis(row.times.decode_us))),
        ("compute_ms", double(&lines, |(_, row)| millis(row.times.compute_us))),
        ("write_ms", double(&lines, |(_, row)| millis(row.times.write_us))),
        ("run_ms", double(&lines, |(_, row)| millis(row.run_us))),
        ("record_ms", double(&lines, |(_, row)| millis(row.record_us))),
        ("record_to_published_ms", double(&lines, |(_, row)| row.published_us.and_then(millis))),
        ("generation", long(&lines, |(_, row)| Some(row.generation.0 as i64))),
    ])
}

fn job_events(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let events = of_jobs(source, |history| history.events().to_vec());
    batch(vec![
        ("job", text(&events, |(job, _)| Some(job.clone()))),
        ("happened_at", Values::Time(events.iter().map(|(_, event)| Some(event.at_us / 1_000)).collect())),
        ("event", text(&events, |(_, event)| Some(event.kind.name().into()))),
        ("message", text(&events, |(_, event)| Some(event.message.clone()))),
        ("epoch", long(&events, |(_, event)| Some(event.epoch.0 as i64))),
        ("generation", long(&events, |(_, event)| Some(event.generation.0 as i64))),
    ])
}

/// What the histories of all jobs have, with the job's name.
fn of_jobs<T>(source: &Arc<StatusSource>, rows: impl Fn(&History) -> Vec<T>) -> Vec<(String, T)> {
    let mut all = vec![];
    for handle in source.handles() {
        all.extend(handle.with_history(&rows).into_iter().map(|row| (handle.spec.name.clone(), row)));
    }
    all
}

fn executors(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let Status { executors, .. } = source.status();
    batch(vec![
        ("id", text(&executors, |executor| Some(executor.id.clone()))),
        ("address", text(&executors, |executor| Some(executor.address.clone()))),
        ("state", text(&executors, |executor| Some(executor.state.clone()))),
        ("memory_bytes", long(&executors, |executor| executor.memory_bytes.map(|bytes| bytes as i64))),
        ("cpu_percent", double(&executors, |executor| executor.cpu_percent)),
        ("vcores", long(&executors, |executor| Some(i64::from(executor.task_slots)))),
        ("partitions", long(&executors, |executor| Some(i64::from(executor.partitions)))),
    ])
}

fn topics(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let Status { topics, .. } = source.status();
    batch(vec![
        ("name", text(&topics, |topic| Some(topic.name.clone()))),
        ("partitions", long(&topics, |topic| Some(i64::from(topic.partitions)))),
        ("records", long(&topics, |topic| topic.records.map(|records| records as i64))),
    ])
}

/// A job's position in one topic-partition.
struct Lag {
    job: String,
    topic: String,
    partition: i32,
    next: i64,
    end: Option<i64>,
    executor: Option<String>,
}

fn partitions(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let mut lags = vec![];
    for handle in source.handles() {
        let view = handle.view();
        for (id, position) in &view.manifest.sources {
            for (partition, next) in &position.next {
                let key = polybolos_streaming::ids::SourcePartition { source: *id, partition: *partition };
                lags.push(Lag {
                    job: handle.spec.name.clone(),
                    topic: position.topic.clone(),
                    partition: *partition,
                    next: *next,
                    end: view.ends.get(&key).copied(),
                    executor: view.assigned.get(&key).map(|executor| executor.0.clone()),
                });
            }
        }
    }
    batch(vec![
        ("job", text(&lags, |lag| Some(lag.job.clone()))),
        ("topic", text(&lags, |lag| Some(lag.topic.clone()))),
        ("partition", Values::Int(lags.iter().map(|lag| Some(lag.partition)).collect())),
        ("next_offset", long(&lags, |lag| Some(lag.next))),
        ("end_offset", long(&lags, |lag| lag.end)),
        ("lag", long(&lags, |lag| lag.end.map(|end| (end - lag.next).max(0)))),
        ("executor", text(&lags, |lag| lag.executor.clone())),
    ])
}

pub fn savepoints(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let savepoints = source.savepoints.list();
    batch(vec![
        ("name", text(&savepoints, |savepoint| Some(savepoint.name.clone()))),
        ("job", text(&savepoints, |savepoint| Some(savepoint.job.0.clone()))),
        ("created_at", Values::Time(savepoints.iter().map(|savepoint| Some(savepoint.created_at_us / 1_000)).collect())),
        ("incarnation", text(&savepoints, |savepoint| Some(savepoint.incarnation.0.clone()))),
        ("epoch", long(&savepoints, |savepoint| Some(savepoint.epoch.0 as i64))),
        ("files", long(&savepoints, |savepoint| Some(savepoint.state.len() as i64))),
        ("bytes", long(&savepoints, |savepoint| Some(savepoint.bytes() as i64))),
    ])
}

fn feeds(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let feeds = source.feeds.shown();
    batch(vec![
        ("name", text(&feeds, |feed| Some(feed.name.clone()))),
        ("topic", text(&feeds, |feed| Some(feed.topic.clone()))),
        ("url", text(&feeds, |feed| Some(feed.url.clone()))),
        ("state", text(&feeds, |feed| Some(feed.state.clone()))),
        ("records", long(&feeds, |feed| Some(feed.records as i64))),
        ("skipped_items", long(&feeds, |feed| Some(feed.skipped_items as i64))),
        ("last_record_at", Values::Time(feeds.iter().map(|feed| feed.last_record_ms).collect())),
        ("last_error", text(&feeds, |feed| feed.last_error.clone())),
        ("last_error_at", Values::Time(feeds.iter().map(|feed| feed.last_error_ms).collect())),
        ("ingestor", text(&feeds, |feed| Some(feed.ingestor.clone()))),
        ("host", text(&feeds, |feed| feed.host.clone())),
        ("started_at", Values::Time(feeds.iter().map(|feed| Some(feed.started_ms)).collect())),
        ("reported_at", Values::Time(feeds.iter().map(|feed| Some(feed.reported_ms)).collect())),
    ])
}

fn verifications(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let known: Vec<_> =
        source.verifications.read().iter().map(|(job, known)| (job.clone(), known.clone(), known.outcome())).collect();
    batch(vec![
        ("job", text(&known, |(job, ..)| Some(job.clone()))),
        ("state", text(&known, |(.., outcome)| Some(outcome.state.name().into()))),
        ("records_read", long(&known, |(_, known, _)| Some(known.records_read.load(Relaxed) as i64))),
        ("records_total", long(&known, |(_, known, _)| Some(known.records_total.load(Relaxed) as i64))),
        ("rows", long(&known, |(.., outcome)| Some(outcome.rows as i64))),
        ("differences", long(&known, |(.., outcome)| Some(outcome.difference_count as i64))),
        ("complete", Values::Bool(known.iter().map(|(.., outcome)| Some(outcome.is_complete)).collect())),
        ("message", text(&known, |(.., outcome)| Some(outcome.message.clone()))),
    ])
}

fn verification_differences(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let known = source.verifications.read().iter().map(|(job, known)| (job.clone(), known.outcome())).collect::<Vec<_>>();
    let lines: Vec<_> =
        known.into_iter().flat_map(|(job, outcome)| outcome.differences.into_iter().map(move |line| (job.clone(), line))).collect();
    batch(vec![
        ("job", text(&lines, |(job, _)| Some(job.clone()))),
        ("table_name", text(&lines, |(_, line)| Some(line.table.clone()))),
        ("difference", text(&lines, |(_, line)| Some(line.kind.into()))),
        ("key", text(&lines, |(_, line)| Some(line.key.clone()))),
        ("expected", text(&lines, |(_, line)| line.expected.clone())),
        ("found", text(&lines, |(_, line)| line.found.clone())),
    ])
}

fn settings(source: &Arc<StatusSource>) -> Result<RecordBatch> {
    let settings =
        [("version", env!("CARGO_PKG_VERSION").to_owned()), ("mode", source.mode.clone()), ("leader", source.leader_id.clone())];
    batch(vec![
        ("name", text(&settings, |(name, _)| Some((*name).to_owned()))),
        ("value", text(&settings, |(_, value)| Some(value.clone()))),
    ])
}
