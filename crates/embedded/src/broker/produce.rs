//! Producing: batches go to the appender at once, in the order they came; the response waits until they are on disk. A batch says itself
//! whether it belongs to a transaction.
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    Shared,
    appender::{Command, MESSAGE_BYTES_MAX},
    batch::Batch,
    codes::ErrorCode,
    connection::{Request, Response},
    wire::Malformed,
};

type Appended = oneshot::Receiver<Result<i64, ErrorCode>>;
/// Something per topic and partition, in the order of the request.
type PerPartition<T> = Vec<(String, Vec<(i32, T)>)>;

/// Hands the batches of a request to the appender.
pub(super) async fn begin(shared: Arc<Shared>, mut request: Request) -> Result<Response, Malformed> {
    let body = &mut request.body;
    // The transactional id: the producer's number in a batch says the same.
    body.nullable_string()?;
    let acks = body.i16()?;
    body.i32()?;
    let topics = body.array(|body| {
        let name = body.string()?;
        let partitions = body.array(|body| Ok((body.i32()?, body.nullable_bytes()?)))?;
        Ok((name, partitions))
    })?;
    let mut appends: PerPartition<Result<Appended, ErrorCode>> = Vec::with_capacity(topics.len());
    for (name, partitions) in topics {
        let mut results = Vec::with_capacity(partitions.len());
        for (index, records) in partitions {
            results.push((index, append(&shared, &name, index, records.unwrap_or_default()).await));
        }
        appends.push((name, results));
    }
    Ok(Box::pin(async move {
        let mut done = Vec::with_capacity(appends.len());
        for (name, partitions) in appends {
            let mut results = Vec::with_capacity(partitions.len());
            for (index, append) in partitions {
                let result = match append {
                    Ok(append) => append.await.unwrap_or(Err(ErrorCode::KafkaStorageError)),
                    Err(code) => Err(code),
                };
                results.push((index, result));
            }
            done.push((name, results));
        }
        Ok((acks != 0).then(|| respond(&request, done)))
    }))
}

async fn append(shared: &Shared, topic: &str, index: i32, records: bytes::Bytes) -> Result<Appended, ErrorCode> {
    let topic = shared.log.topic(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let batch = Batch::parse(records)?;
    if batch.len() as i64 > topic.setting("max.message.bytes", MESSAGE_BYTES_MAX) {
        return Err(ErrorCode::MessageTooLarge);
    }
    let (answer, appended) = oneshot::channel();
    shared.command(Command::Append { partition: Arc::clone(partition), batch, answer }).await?;
    Ok(appended)
}

fn respond(request: &Request, topics: PerPartition<Result<i64, ErrorCode>>) -> bytes::Bytes {
    let version = request.version;
    let mut writer = request.response();
    writer.array(topics, |writer, (name, partitions)| {
        writer.string(&name);
        writer.array(partitions, |writer, (index, result)| {
            writer.i32(index);
            writer.i16(result.err().unwrap_or(ErrorCode::None) as i16);
            writer.i64(result.unwrap_or(-1));
            // Timestamps are the producer's, not ours.
            writer.i64(-1);
            if version >= 5 {
                writer.i64(-1);
            }
        });
    });
    writer.i32(0);
    writer.into_frame()
}
