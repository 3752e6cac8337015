//! Offsets that consumer groups commit: kept on disk, for lag to be seen. Group membership (`subscribe`) is not offered; readers
//! assign partitions themselves.
use std::sync::Arc;

use bytes::Bytes;

use super::{
    Shared,
    appender::Command,
    codes::ErrorCode,
    connection::Request,
    log::{CommittedOffset, Log},
    wire::Malformed,
};

pub(super) async fn offset_commit(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let version = request.version;
    let body = &mut request.body;
    let group = body.string()?;
    body.i32()?;
    body.string()?;
    if version >= 7 {
        body.nullable_string()?;
    }
    if version <= 4 {
        body.i64()?;
    }
    let topics = body.array(|body| {
        let name = body.string()?;
        let partitions = body.array(|body| {
            let (index, offset) = (body.i32()?, body.i64()?);
            if version >= 6 {
                body.i32()?;
            }
            Ok((index, CommittedOffset { offset, metadata: body.nullable_string()? }))
        })?;
        Ok((name, partitions))
    })?;
    let known = |name: &str, index: i32| shared.log.partition(name, index).is_some();
    let valid = topics.iter().flat_map(|(name, partitions)| {
        partitions.iter().filter(|(index, _)| known(name, *index)).map(|(index, offset)| (name.clone(), *index, offset.clone()))
    });
    let offsets = valid.collect();
    let committed = if group.contains('\0') {
        Err(ErrorCode::InvalidRequest)
    } else {
        shared.ask(|answer| Command::CommitOffsets { group, offsets, answer }).await
    };
    let mut writer = request.response();
    if version >= 3 {
        writer.i32(0);
    }
    writer.array(&topics, |writer, (name, partitions)| {
        writer.string(name);
        writer.array(partitions, |writer, (index, _)| {
            writer.i32(*index);
            let error =
                if known(name, *index) { committed.err().unwrap_or(ErrorCode::None) } else { ErrorCode::UnknownTopicOrPartition };
            writer.i16(error as i16);
        });
    });
    Ok(Some(writer.into_frame()))
}

pub(super) async fn offset_fetch(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let version = request.version;
    let group = request.body.string()?;
    let asked = request.body.nullable_array(|body| Ok((body.string()?, body.array(super::wire::Reader::i32)?)))?;
    let log = Arc::clone(&shared.log);
    let found = tokio::task::spawn_blocking(move || offsets(&log, &group, asked)).await;
    let found = found.unwrap_or(Err(ErrorCode::UnknownServerError));
    let mut writer = request.response();
    if version >= 3 {
        writer.i32(0);
    }
    writer.array(found.as_deref().unwrap_or_default(), |writer, (name, partitions)| {
        writer.string(name);
        writer.array(partitions, |writer, (index, committed)| {
            writer.i32(*index);
            writer.i64(committed.as_ref().map_or(-1, |committed| committed.offset));
            if version >= 5 {
                writer.i32(-1);
            }
            let note = committed.as_ref().and_then(|committed| committed.metadata.as_deref());
            writer.nullable_string(Some(note.unwrap_or_default()));
            writer.i16(ErrorCode::None as i16);
        });
    });
    if version >= 2 {
        writer.i16(found.err().unwrap_or(ErrorCode::None) as i16);
    }
    Ok(Some(writer.into_frame()))
}

type Offsets = Vec<(String, Vec<(i32, Option<CommittedOffset>)>)>;

fn offsets(log: &Log, group: &str, asked: Option<Vec<(String, Vec<i32>)>>) -> Result<Offsets, ErrorCode> {
    let failed = |error| {
        tracing::error!(%error, folder = %log.folder.display(), "committed offsets cannot be read");
        ErrorCode::KafkaStorageError
    };
    let asked = match asked {
        Some(asked) => asked,
        None => log.committed_partitions(group).map_err(failed)?.into_iter().collect(),
    };
    let topic = |(name, partitions): (String, Vec<i32>)| {
        let offset = |index: i32| Ok((index, log.committed(group, &name, index).map_err(failed)?));
        let offsets = partitions.into_iter().map(offset).collect::<Result<_, _>>()?;
        Ok((name, offsets))
    };
    asked.into_iter().map(topic).collect()
}
