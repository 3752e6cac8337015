//! Who leads what: we do, everything. Topics that a producer asks for are made here.
use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Shared, admin,
    appender::Command,
    codes::ErrorCode,
    connection::Request,
    log::Topic,
    wire::{Malformed, Writer},
};

pub(super) const NODE: i32 = 1;
const CLUSTER: &str = "polybolos-embedded";

/// A topic as a client names it, and what we have under that name.
struct Found {
    name: Option<String>,
    id: Uuid,
    result: Result<Arc<Topic>, ErrorCode>,
}

pub(super) async fn metadata(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let version = request.version;
    let body = &mut request.body;
    let asked = body.nullable_array(|body| {
        let id = if version >= 10 { body.uuid()? } else { Uuid::nil() };
        let name = body.nullable_string()?;
        body.tags()?;
        Ok((id, name))
    })?;
    let may_create = version < 4 || body.bool()?;
    let topics = match asked {
        None => all(&shared),
        Some(asked) => {
            let mut topics = Vec::with_capacity(asked.len());
            for (id, name) in asked {
                topics.push(match name {
                    Some(name) => by_name(&shared, name, may_create).await,
                    None => by_id(&shared, id),
                });
            }
            topics
        }
    };
    Ok(Some(respond(&shared, &request, topics)))
}

fn all(shared: &Shared) -> Vec<Found> {
    let topics = shared.log.topics.read();
    topics.iter().map(|(name, topic)| Found { name: Some(name.clone()), id: topic.id, result: Ok(Arc::clone(topic)) }).collect()
}

fn by_id(shared: &Shared, id: Uuid) -> Found {
    let topics = shared.log.topics.read();
    match topics.iter().find(|(_, topic)| topic.id == id) {
        Some((name, topic)) => Found { name: Some(name.clone()), id, result: Ok(Arc::clone(topic)) },
        None => Found { name: None, id, result: Err(ErrorCode::UnknownTopicId) },
    }
}

async fn by_name(shared: &Shared, name: String, may_create: bool) -> Found {
    let mut topic = shared.log.topic(&name).ok_or(ErrorCode::UnknownTopicOrPartition);
    if topic.is_err() && may_create {
        topic = create(shared, &name).await;
    }
    Found { id: topic.as_ref().map_or(Uuid::nil(), |topic| topic.id), name: Some(name), result: topic }
}

async fn create(shared: &Shared, name: &str) -> Result<Arc<Topic>, ErrorCode> {
    if !admin::is_topic_name(name) {
        return Err(ErrorCode::InvalidTopic);
    }
    let partitions = shared.auto_create_partitions;
    let create = |answer| Command::CreateTopic { name: name.to_owned(), partitions, config: BTreeMap::new(), answer };
    match shared.ask(create).await {
        // Somebody else was quicker.
        Ok(()) | Err(ErrorCode::TopicAlreadyExists) => shared.log.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition),
        Err(code) => Err(code),
    }
}

fn respond(shared: &Shared, request: &Request, topics: Vec<Found>) -> Bytes {
    let version = request.version;
    let mut writer = request.response();
    if version >= 3 {
        writer.i32(0);
    }
    writer.array([shared.address], |writer, address| {
        writer.i32(NODE);
        writer.string(&address.ip().to_string());
        writer.i32(address.port().into());
        writer.nullable_string(None);
        writer.tags();
    });
    if version >= 2 {
        writer.string(CLUSTER);
    }
    writer.i32(NODE);
    writer.array(topics, |writer, found| put_topic(writer, version, &found));
    if (8..=10).contains(&version) {
        writer.i32(i32::MIN);
    }
    writer.tags();
    writer.into_frame()
}

fn put_topic(writer: &mut Writer, version: i16, found: &Found) {
    writer.i16(found.result.as_ref().err().copied().unwrap_or(ErrorCode::None) as i16);
    // Before version 12 every topic has a name.
    let name = if version >= 12 { found.name.as_deref() } else { Some(found.name.as_deref().unwrap_or_default()) };
    writer.nullable_string(name);
    if version >= 10 {
        writer.uuid(found.id);
    }
    writer.bool(false);
    let partitions = found.result.as_ref().map_or(0, |topic| topic.partitions.len() as i32);
    writer.array(0..partitions, |writer, index| {
        writer.i16(ErrorCode::None as i16);
        writer.i32(index);
        writer.i32(NODE);
        if version >= 7 {
            // No leader epochs: there is one leader for ever.
            writer.i32(-1);
        }
        writer.array([NODE], Writer::i32);
        writer.array([NODE], Writer::i32);
        if version >= 5 {
            writer.array([0; 0], Writer::i32);
        }
        writer.tags();
    });
    if version >= 8 {
        writer.i32(i32::MIN);
    }
    writer.tags();
}

/// The coordinator of every group and of every transaction is here.
pub(super) async fn find_coordinator(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    const GROUP: i8 = 0;
    const TRANSACTION: i8 = 1;
    request.body.string()?;
    let kind = if request.version >= 1 { request.body.i8()? } else { GROUP };
    let is_known = matches!(kind, GROUP | TRANSACTION);
    let mut writer = request.response();
    if request.version >= 1 {
        writer.i32(0);
    }
    writer.i16(if is_known { ErrorCode::None } else { ErrorCode::InvalidRequest } as i16);
    if request.version >= 1 {
        writer.nullable_string((!is_known).then_some("coordinators are of groups or of transactions"));
    }
    writer.i32(NODE);
    writer.string(&shared.address.ip().to_string());
    writer.i32(shared.address.port().into());
    Ok(Some(writer.into_frame()))
}
