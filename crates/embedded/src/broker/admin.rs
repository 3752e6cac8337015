//! Topics made, grown, emptied, deleted and described by clients.
use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    Shared,
    appender::{Command, MESSAGE_BYTES_MAX, RETENTION_MS},
    codes::ErrorCode,
    connection::Request,
    wire::Malformed,
};

/// More would only cost.
const PARTITIONS_MAX: i32 = 1024;
const NAME_BYTES_MAX: usize = 249;
const TOPIC_RESOURCE: i8 = 2;
/// Where a setting's value comes from: the topic, or our default.
const FROM_TOPIC: i8 = 1;
const FROM_DEFAULT: i8 = 5;

/// Kafka's rule for topic names.
pub(super) fn is_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed)
}

struct NewTopic {
    name: String,
    partitions: i32,
    replicas: i16,
    assigned: usize,
    config: BTreeMap<String, String>,
}

pub(super) async fn create_topics(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let body = &mut request.body;
    let topics = body.array(|body| {
        let (name, partitions, replicas) = (body.string()?, body.i32()?, body.i16()?);
        let assigned = body.array(|body| Ok((body.i32()?, body.array(super::wire::Reader::i32)?)))?.len();
        let config = body.array(|body| Ok((body.string()?, body.nullable_string()?)))?;
        let config = config.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        Ok(NewTopic { name, partitions, replicas, assigned, config })
    })?;
    body.i32()?;
    let validate_only = body.bool()?;
    let mut results = Vec::with_capacity(topics.len());
    for topic in topics {
        let name = topic.name.clone();
        results.push((name, create_topic(&shared, topic, validate_only).await));
    }
    let mut writer = request.response();
    writer.i32(0);
    writer.array(results, |writer, (name, result)| {
        writer.string(&name);
        writer.i16(result.err().unwrap_or(ErrorCode::None) as i16);
        writer.nullable_string(result.err().map(reason));
    });
    Ok(Some(writer.into_frame()))
}

async fn create_topic(shared: &Shared, topic: NewTopic, validate_only: bool) -> Result<(), ErrorCode> {
    if !is_topic_name(&topic.name) {
        return Err(ErrorCode::InvalidTopic);
    }
    let partitions = match topic.partitions {
        -1 if topic.assigned > 0 => topic.assigned as i32,
        -1 => shared.auto_create_partitions as i32,
        partitions => partitions,
    };
    if !(1..=PARTITIONS_MAX).contains(&partitions) {
        return Err(ErrorCode::InvalidPartitions);
    }
    // Everything is kept once, whatever number of replicas below Kafka's usual three a client asks for.
    if topic.replicas == 0 || topic.replicas < -1 {
        return Err(ErrorCode::InvalidReplicationFactor);
    }
    if shared.log.topic(&topic.name).is_some() {
        return Err(ErrorCode::TopicAlreadyExists);
    }
    if validate_only {
        return Ok(());
    }
    let (name, config) = (topic.name, topic.config);
    shared.ask(|answer| Command::CreateTopic { name, partitions: partitions as u32, config, answer }).await
}

pub(super) async fn delete_topics(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let names = request.body.array(super::wire::Reader::string)?;
    let mut results = Vec::with_capacity(names.len());
    for name in names {
        let result = shared.ask(|answer| Command::DeleteTopic { name: name.clone(), answer }).await;
        results.push((name, result));
    }
    let mut writer = request.response();
    writer.i32(0);
    writer.array(results, |writer, (name, result)| {
        writer.string(&name);
        writer.i16(result.err().unwrap_or(ErrorCode::None) as i16);
    });
    Ok(Some(writer.into_frame()))
}

pub(super) async fn create_partitions(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let body = &mut request.body;
    let topics = body.array(|body| {
        let (name, count) = (body.string()?, body.i32()?);
        body.nullable_array(|body| body.array(super::wire::Reader::i32))?;
        Ok((name, count))
    })?;
    body.i32()?;
    let validate_only = body.bool()?;
    let mut results = Vec::with_capacity(topics.len());
    for (name, count) in topics {
        let result = if !(1..=PARTITIONS_MAX).contains(&count) {
            Err(ErrorCode::InvalidPartitions)
        } else if validate_only {
            shared.log.topic(&name).map(|_| ()).ok_or(ErrorCode::UnknownTopicOrPartition)
        } else {
            shared.ask(|answer| Command::CreatePartitions { name: name.clone(), count: count as u32, answer }).await
        };
        results.push((name, result));
    }
    let mut writer = request.response();
    writer.i32(0);
    writer.array(results, |writer, (name, result)| {
        writer.string(&name);
        writer.i16(result.err().unwrap_or(ErrorCode::None) as i16);
        writer.nullable_string(result.err().map(reason));
    });
    Ok(Some(writer.into_frame()))
}

pub(super) async fn delete_records(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let topics = request.body.array(|body| {
        let name = body.string()?;
        Ok((name, body.array(|body| Ok((body.i32()?, body.i64()?)))?))
    })?;
    let mut results = Vec::with_capacity(topics.len());
    for (name, partitions) in topics {
        let mut starts = Vec::with_capacity(partitions.len());
        for (index, before) in partitions {
            let start = match shared.log.partition(&name, index) {
                Some(partition) => shared.ask(|answer| Command::DeleteRecords { partition, before, answer }).await,
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            starts.push((index, start));
        }
        results.push((name, starts));
    }
    let mut writer = request.response();
    writer.i32(0);
    writer.array(results, |writer, (name, starts)| {
        writer.string(&name);
        writer.array(starts, |writer, (index, start)| {
            writer.i32(index);
            writer.i64(start.unwrap_or(-1));
            writer.i16(start.err().unwrap_or(ErrorCode::None) as i16);
        });
    });
    Ok(Some(writer.into_frame()))
}

pub(super) async fn describe_configs(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let version = request.version;
    let resources = request.body.array(|body| {
        let (kind, name) = (body.i8()?, body.string()?);
        Ok((kind, name, body.nullable_array(super::wire::Reader::string)?))
    })?;
    let mut writer = request.response();
    writer.i32(0);
    writer.array(resources, |writer, (kind, name, keys)| {
        let settings = if kind == TOPIC_RESOURCE { topic_settings(&shared, &name) } else { Ok(Vec::new()) };
        writer.i16(settings.as_ref().err().copied().unwrap_or(ErrorCode::None) as i16);
        writer.nullable_string(settings.as_ref().err().copied().map(reason));
        writer.i8(kind);
        writer.string(&name);
        let wanted = |key: &String| keys.as_ref().is_none_or(|keys| keys.contains(key));
        let settings: Vec<_> = settings.unwrap_or_default().into_iter().filter(|(key, ..)| wanted(key)).collect();
        writer.array(settings, |writer, (key, value, source)| {
            writer.string(&key);
            writer.nullable_string(Some(&value));
            writer.bool(false);
            writer.i8(source);
            writer.bool(false);
            writer.array([(); 0], |_, ()| {});
            if version >= 3 {
                writer.i8(0);
                writer.nullable_string(None);
            }
        });
    });
    Ok(Some(writer.into_frame()))
}

/// Every setting of a topic, and whether it was given or is our default.
fn topic_settings(shared: &Shared, name: &str) -> Result<Vec<(String, String, i8)>, ErrorCode> {
    let topic = shared.log.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let defaults = [
        ("cleanup.policy", "delete".to_owned()),
        ("max.message.bytes", MESSAGE_BYTES_MAX.to_string()),
        ("retention.ms", RETENTION_MS.to_string()),
    ];
    let given = topic.config.iter().map(|(key, value)| (key.clone(), value.clone(), FROM_TOPIC));
    let missing = defaults.into_iter().filter(|(key, _)| !topic.config.contains_key(*key));
    Ok(given.chain(missing.map(|(key, value)| (key.to_owned(), value, FROM_DEFAULT))).collect())
}

fn reason(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidTopic => "a topic name has 1 to 249 letters, digits, '.', '_' or '-'",
        ErrorCode::InvalidPartitions => "a topic has 1 to 1024 partitions, and never fewer than before",
        ErrorCode::InvalidReplicationFactor => "the replication factor is at least 1",
        ErrorCode::TopicAlreadyExists => "there is a topic of this name",
        ErrorCode::UnknownTopicOrPartition => "there is no topic of this name",
        _ => "the broker's store failed; see its log",
    }
}
