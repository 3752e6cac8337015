//! One client connection: frames in, requests dispatched, responses out in the order of the requests, as the protocol wants.
//!
//! A request becomes a future. Producing has begun when that future exists, so a producer's batches under way share fsyncs; everything
//! else happens when the responses before it are out.
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

use super::{
    Shared, admin,
    codes::{APIS, ErrorCode, api},
    consume, groups, metadata, produce, transactions,
    wire::{Malformed, Reader, Writer},
};

/// Kafka's own limit of a request.
const REQUEST_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Responses that a connection owes; a client has a few requests under way.
const RESPONSES_OWED: usize = 32;

/// A response under way; `None` where the client wants none.
pub(super) type Response = BoxFuture<'static, Result<Option<Bytes>, Malformed>>;

/// One request: its header, and what follows.
pub(super) struct Request {
    pub(super) version: i16,
    correlation_id: i32,
    flexible: bool,
    pub(super) body: Reader,
}

impl Request {
    /// A response to this request, its header written.
    pub(super) fn response(&self) -> Writer {
        let mut writer = Writer::response(self.correlation_id);
        writer.set_flexible(self.flexible);
        writer.tags();
        writer
    }
}

/// Serves a client until it leaves or breaks the protocol.
pub(super) async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    // Small responses must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client left at once");
        return;
    }
    let (reading, writing) = stream.into_split();
    let (responses, owed) = mpsc::channel(RESPONSES_OWED);
    let ended = tokio::select! {
        ended = read_requests(&shared, reading, responses) => ended,
        ended = write_responses(writing, owed) => ended,
    };
    match ended {
        Ok(()) => {}
        Err(Ended::Left(error)) => tracing::debug!(%error, "a client left"),
        Err(Ended::Malformed(error)) => tracing::warn!(%error, "a client was disconnected"),
    }
}

/// Why a connection ended.
enum Ended {
    Left(std::io::Error),
    Malformed(Malformed),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Left(error)
    }
}

impl From<Malformed> for Ended {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

async fn read_requests(shared: &Arc<Shared>, mut reading: OwnedReadHalf, responses: mpsc::Sender<Response>) -> Result<(), Ended> {
    loop {
        let length = usize::try_from(reading.read_i32().await?).map_err(|_| Malformed("a request has a negative length"))?;
        if length > REQUEST_BYTES_MAX {
            return Err(Malformed("a request is longer than 100 MiB").into());
        }
        let mut frame = vec![0; length];
        reading.read_exact(&mut frame).await?;
        let response = begin(shared, frame.into()).await?;
        if responses.send(response).await.is_err() {
            return Ok(());
        }
    }
}

async fn write_responses(mut writing: OwnedWriteHalf, mut owed: mpsc::Receiver<Response>) -> Result<(), Ended> {
    while let Some(response) = owed.recv().await {
        if let Some(frame) = response.await? {
            writing.write_all(&frame).await?;
        }
    }
    Ok(())
}

async fn begin(shared: &Arc<Shared>, frame: Bytes) -> Result<Response, Malformed> {
    let mut body = Reader::new(frame);
    let (key, version, correlation_id) = (body.i16()?, body.i16()?, body.i32()?);
    let known = APIS.iter().find(|(number, lowest, highest, _)| *number == key && (*lowest..=*highest).contains(&version));
    let Some((_, _, _, flexible_from)) = known else {
        if key == api::API_VERSIONS {
            // The client is newer than we are: it learns what there is and asks again.
            let frame = api_versions(Writer::response(correlation_id), 0, ErrorCode::UnsupportedVersion);
            return Ok(ready(frame));
        }
        return Err(Malformed("it is of a kind or version that was not offered"));
    };
    let flexible = version >= *flexible_from;
    // The client's name is classic in every version.
    body.nullable_string()?;
    body.set_flexible(flexible);
    body.tags()?;
    let request = Request { version, correlation_id, flexible, body };
    let shared = Arc::clone(shared);
    Ok(match key {
        api::API_VERSIONS => {
            // Its response header is classic, so that clients of any age can read it.
            let mut writer = Writer::response(correlation_id);
            writer.set_flexible(flexible);
            ready(api_versions(writer, version, ErrorCode::None))
        }
        api::PRODUCE => produce::begin(shared, request).await?,
        api::FETCH => Box::pin(consume::fetch(shared, request)),
        api::LIST_OFFSETS => Box::pin(consume::list_offsets(shared, request)),
        api::METADATA => Box::pin(metadata::metadata(shared, request)),
        api::FIND_COORDINATOR => Box::pin(metadata::find_coordinator(shared, request)),
        api::OFFSET_COMMIT => Box::pin(groups::offset_commit(shared, request)),
        api::OFFSET_FETCH => Box::pin(groups::offset_fetch(shared, request)),
        api::CREATE_TOPICS => Box::pin(admin::create_topics(shared, request)),
        api::DELETE_TOPICS => Box::pin(admin::delete_topics(shared, request)),
        api::CREATE_PARTITIONS => Box::pin(admin::create_partitions(shared, request)),
        api::DELETE_RECORDS => Box::pin(admin::delete_records(shared, request)),
        api::DESCRIBE_CONFIGS => Box::pin(admin::describe_configs(shared, request)),
        api::INIT_PRODUCER_ID => Box::pin(transactions::init_producer_id(shared, request)),
        api::ADD_PARTITIONS_TO_TXN => Box::pin(transactions::add_partitions(shared, request)),
        api::END_TXN => Box::pin(transactions::end(shared, request)),
        _ => unreachable!("every offered request is dispatched"),
    })
}

fn ready(frame: Bytes) -> Response {
    Box::pin(std::future::ready(Ok(Some(frame))))
}

fn api_versions(mut writer: Writer, version: i16, error: ErrorCode) -> Bytes {
    writer.i16(error as i16);
    writer.array(APIS, |writer, (key, lowest, highest, _)| {
        writer.i16(key);
        writer.i16(lowest);
        writer.i16(highest);
        writer.tags();
    });
    if version >= 1 {
        writer.i32(0);
    }
    writer.tags();
    writer.into_frame()
}
