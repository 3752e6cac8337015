//! Consuming: fetches, which wait for records where there are none, and the offsets of times, starts and ends.
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Shared,
    codes::ErrorCode,
    connection::Request,
    log::{Log, LogError, Partition},
    wire::Malformed,
};

/// What one response may hold, whatever the client allows.
const FETCH_BYTES_MAX: usize = 32 * 1024 * 1024;
const WAIT_MAX: Duration = Duration::from_secs(60);
const READ_COMMITTED: i8 = 1;
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// What a client wants of one partition.
struct Wanted {
    index: i32,
    offset: i64,
    max_bytes: usize,
}

/// What it gets.
#[derive(Default)]
struct Fetched {
    index: i32,
    error: Option<ErrorCode>,
    start: i64,
    high: i64,
    stable: i64,
    /// Aborted transactions among the records: producer id and first offset.
    aborted: Vec<(i64, i64)>,
    records: Vec<u8>,
}

/// What a fetch names.
struct Asked {
    topics: Vec<(String, Vec<Wanted>)>,
    /// Records of open transactions are not for it.
    committed: bool,
}

impl Asked {
    /// Up to where it may read.
    fn end(&self, partition: &Partition) -> i64 {
        if self.committed { partition.stable() } else { partition.high() }
    }
}

pub(super) async fn fetch(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let version = request.version;
    let body = &mut request.body;
    body.i32()?;
    let wait = Duration::from_millis(u64::try_from(body.i32()?).unwrap_or(0)).min(WAIT_MAX);
    let min_bytes = usize::try_from(body.i32()?).unwrap_or(0);
    let max_bytes = usize::try_from(body.i32()?).unwrap_or(0).min(FETCH_BYTES_MAX);
    let committed = body.i8()? == READ_COMMITTED;
    if version >= 7 {
        body.i32()?;
        body.i32()?;
    }
    let topics = body.array(|body| {
        let name = body.string()?;
        let partitions = body.array(|body| {
            let index = body.i32()?;
            if version >= 9 {
                body.i32()?;
            }
            let offset = body.i64()?;
            if version >= 5 {
                body.i64()?;
            }
            Ok(Wanted { index, offset, max_bytes: usize::try_from(body.i32()?).unwrap_or(0) })
        })?;
        Ok((name, partitions))
    })?;
    let asked = Arc::new(Asked { topics, committed });
    let deadline = Instant::now() + wait;
    let mut progress = shared.log.progress.subscribe();
    loop {
        progress.mark_unchanged();
        let fetched = collect(&shared, &asked, max_bytes).await;
        let bytes: usize = fetched.iter().flatten().map(|partition| partition.records.len()).sum();
        let failed = fetched.iter().flatten().any(|partition| partition.error.is_some());
        if failed || bytes >= min_bytes.max(1) || asked.topics.is_empty() {
            return Ok(Some(respond(&request, &asked.topics, fetched)));
        }
        let news = tokio::time::timeout_at(deadline, progress.changed()).await;
        if !matches!(news, Ok(Ok(()))) {
            return Ok(Some(respond(&request, &asked.topics, fetched)));
        }
    }
}

/// What there is now, per topic and partition as asked for.
async fn collect(shared: &Arc<Shared>, asked: &Arc<Asked>, max_bytes: usize) -> Vec<Vec<Fetched>> {
    let anything = asked.topics.iter().any(|(name, wanted)| {
        wanted.iter().any(|wanted| match shared.log.partition(name, wanted.index) {
            Some(partition) => wanted.offset != asked.end(&partition),
            None => true,
        })
    });
    if !anything {
        return collect_blocking(&shared.log, asked, 0);
    }
    let (log, wanted) = (Arc::clone(&shared.log), Arc::clone(asked));
    match tokio::task::spawn_blocking(move || collect_blocking(&log, &wanted, max_bytes)).await {
        Ok(fetched) => fetched,
        Err(error) => {
            tracing::error!(%error, "a fetch died");
            let failed =
                |wanted: &Wanted| Fetched { index: wanted.index, error: Some(ErrorCode::UnknownServerError), ..Fetched::default() };
            asked.topics.iter().map(|(_, wanted)| wanted.iter().map(failed).collect()).collect()
        }
    }
}

fn collect_blocking(log: &Log, asked: &Asked, max_bytes: usize) -> Vec<Vec<Fetched>> {
    let mut total = 0;
    let mut topic = |(name, wanted): &(String, Vec<Wanted>)| {
        let mut partition = |wanted: &Wanted| {
            // A record larger than the limits is still sent, alone, or its reader would never get past it.
            let allowed = wanted.max_bytes.min(max_bytes.saturating_sub(total));
            let fetched = fetch_one(log, asked, name, wanted, allowed, total == 0);
            total += fetched.records.len();
            fetched
        };
        wanted.iter().map(&mut partition).collect()
    };
    asked.topics.iter().map(&mut topic).collect()
}

fn fetch_one(log: &Log, asked: &Asked, topic: &str, wanted: &Wanted, max_bytes: usize, one_at_least: bool) -> Fetched {
    let mut fetched = Fetched { index: wanted.index, ..Fetched::default() };
    let Some(partition) = log.partition(topic, wanted.index) else {
        fetched.error = Some(ErrorCode::UnknownTopicOrPartition);
        return fetched;
    };
    // What is stable is in the store, aborted transactions too.
    let end = asked.end(&partition);
    (fetched.start, fetched.stable, fetched.high) = (partition.start(), partition.stable(), partition.high());
    if !(fetched.start..=fetched.high).contains(&wanted.offset) {
        fetched.error = Some(ErrorCode::OffsetOutOfRange);
        return fetched;
    }
    if wanted.offset >= end {
        return fetched;
    }
    let records = log.read(&partition, wanted.offset, end, max_bytes, one_at_least);
    let aborted = if asked.committed { log.aborted(&partition, wanted.offset, end) } else { Ok(Vec::new()) };
    match records.and_then(|records| Ok((records, aborted?))) {
        Ok((records, aborted)) => (fetched.records, fetched.aborted) = (records, aborted),
        Err(error) => fetched.error = Some(failed(log, &error)),
    }
    fetched
}

fn failed(log: &Log, error: &LogError) -> ErrorCode {
    tracing::error!(%error, folder = %log.folder.display(), "records cannot be read");
    ErrorCode::KafkaStorageError
}

fn respond(request: &Request, topics: &[(String, Vec<Wanted>)], fetched: Vec<Vec<Fetched>>) -> Bytes {
    let version = request.version;
    let mut writer = request.response();
    writer.i32(0);
    if version >= 7 {
        // No fetch sessions: every fetch names all its partitions.
        writer.i16(ErrorCode::None as i16);
        writer.i32(0);
    }
    writer.array(topics.iter().zip(fetched), |writer, ((name, _), partitions)| {
        writer.string(name);
        writer.array(partitions, |writer, partition| {
            writer.i32(partition.index);
            writer.i16(partition.error.unwrap_or(ErrorCode::None) as i16);
            let known = partition.error.is_none_or(|code| code == ErrorCode::OffsetOutOfRange);
            writer.i64(if known { partition.high } else { -1 });
            writer.i64(if known { partition.stable } else { -1 });
            if version >= 5 {
                writer.i64(partition.start);
            }
            writer.array(partition.aborted, |writer, (producer_id, first)| {
                writer.i64(producer_id);
                writer.i64(first);
            });
            if version >= 11 {
                writer.i32(-1);
            }
            writer.bytes(&partition.records);
        });
    });
    writer.into_frame()
}

pub(super) async fn list_offsets(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let version = request.version;
    let body = &mut request.body;
    body.i32()?;
    let committed = version >= 2 && body.i8()? == READ_COMMITTED;
    let topics = body.array(|body| {
        let name = body.string()?;
        let partitions = body.array(|body| {
            let index = body.i32()?;
            if version >= 4 {
                body.i32()?;
            }
            Ok((index, body.i64()?))
        })?;
        Ok((name, partitions))
    })?;
    let mut found = Vec::with_capacity(topics.len());
    for (name, partitions) in topics {
        let mut offsets = Vec::with_capacity(partitions.len());
        for (index, timestamp) in partitions {
            let offset = match shared.log.partition(&name, index) {
                Some(partition) => offset_for(&shared.log, partition, timestamp, committed).await,
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            offsets.push((index, offset));
        }
        found.push((name, offsets));
    }
    let mut writer = request.response();
    if version >= 2 {
        writer.i32(0);
    }
    writer.array(found, |writer, (name, offsets)| {
        writer.string(&name);
        writer.array(offsets, |writer, (index, offset)| {
            writer.i32(index);
            writer.i16(offset.err().unwrap_or(ErrorCode::None) as i16);
            let (timestamp, offset) = offset.unwrap_or((-1, -1));
            writer.i64(timestamp);
            writer.i64(offset);
            if version >= 4 {
                writer.i32(-1);
            }
        });
    });
    Ok(Some(writer.into_frame()))
}

/// Timestamp and offset; (-1, -1) where no record is that late.
async fn offset_for(log: &Arc<Log>, partition: Arc<Partition>, timestamp: i64, committed: bool) -> Result<(i64, i64), ErrorCode> {
    match timestamp {
        LATEST if committed => Ok((-1, partition.stable())),
        LATEST => Ok((-1, partition.high())),
        EARLIEST => Ok((-1, partition.start())),
        timestamp if timestamp < 0 => Err(ErrorCode::InvalidRequest),
        timestamp => {
            let reader = Arc::clone(log);
            let found = tokio::task::spawn_blocking(move || reader.offset_at(&partition, timestamp)).await;
            match found {
                Ok(Ok(found)) => Ok(found.unwrap_or((-1, -1))),
                Ok(Err(error)) => Err(failed(log, &error)),
                Err(_) => Err(ErrorCode::UnknownServerError),
            }
        }
    }
}
