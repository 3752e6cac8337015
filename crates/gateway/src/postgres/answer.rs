//! The engine's answers as PostgreSQL's responses.
use std::{sync::Arc, time::Duration};

use datafusion::arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion_postgres::{
    arrow_pg::datatypes::encode_recordbatch,
    pgwire::{
        api::{
            ClientInfo, ConnectionHandle,
            portal::Format,
            results::{FieldInfo, QueryResponse, Response, Tag},
        },
        error::{ErrorInfo, PgWireError, PgWireResult},
        messages::{
            PgWireBackendMessage,
            data::{FieldDescription, RowDescription},
            response::NoticeResponse,
        },
        types::format::FormatOptions,
    },
};
use futures::{FutureExt, Sink, SinkExt, StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::{numeric, report, shown};
use crate::{
    engine::Answer,
    error::{EngineError, ErrorKind},
};

/// Where the session's `SET statement_timeout` is kept.
const STATEMENT_TIMEOUT_MS: &str = "statement_timeout_ms";

/// So much of an answer is read before its last notices are told, as they come before its rows.
const TOLD_BYTES: usize = 1 << 20;

/// Sends an answer's notices and makes its response. Waits for the first batch, so that what takes long can be cancelled and what fails
/// early fails as a statement. `told` is the schema that the client was promised, as [`shown::schema`] makes it.
pub async fn respond<C>(client: &mut C, mut answer: Answer, told: Option<&SchemaRef>, format: &Format) -> PgWireResult<Response>
where
    C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    tell(client, &answer.notices).await?;
    if !answer.returns_rows() {
        while answer.batches.try_next().await.map_err(report)?.is_some() {}
        return Ok(Response::Execution(Tag::new(&answer.tag)));
    }
    let schema = told.cloned().unwrap_or_else(|| shown::schema(&answer.schema));
    let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
    let fields = Arc::new(numeric::fields(&schema, format, Some(options))?);
    let mut first = Vec::new();
    let mut missing = if answer.told_last.is_some() && !answer.is_endless { TOLD_BYTES } else { 1 };
    while missing > 0
        && let Some(batch) = answer.batches.try_next().await.map_err(report)?
    {
        missing = missing.saturating_sub(batch.get_array_memory_size().max(1));
        first.push(batch);
    }
    if let Some(told_last) = &answer.told_last {
        tell(client, &told_last()).await?;
    }
    let rows = {
        let fields = fields.clone();
        stream::iter(first.into_iter().map(Ok)).chain(answer.batches).flat_map(move |batch| {
            let rows: Box<dyn Iterator<Item = _> + Send + Sync> = match batch.and_then(|batch| conform(&batch, &schema, &fields)) {
                Ok(batch) => encode_recordbatch(fields.clone(), batch),
                Err(error) => Box::new(std::iter::once(Err(report(error)))),
            };
            stream::iter(rows)
        })
    };
    let mut response = QueryResponse::new(fields, rows);
    response.set_command_tag(&answer.tag);
    Ok(Response::Query(response))
}

async fn tell<C>(client: &mut C, notices: &[String]) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    for notice in notices {
        let info = ErrorInfo::new("NOTICE".to_owned(), "00000".to_owned(), notice.clone());
        client.feed(PgWireBackendMessage::NoticeResponse(NoticeResponse::from(info))).await?;
    }
    Ok(())
}

/// Rows were promised with certain types when the statement was prepared; the same text run later may bring kindred ones.
fn conform(batch: &RecordBatch, told: &SchemaRef, fields: &[FieldInfo]) -> Result<RecordBatch, EngineError> {
    if batch.num_columns() != told.fields().len() {
        let message =
            format!("the statement has {} columns now and had {} when it was prepared", batch.num_columns(), told.fields().len());
        return Err(EngineError::new(ErrorKind::Invalid, message).with_hint("prepare it again"));
    }
    Ok(numeric::sent(&shown::batch(batch, told)?, fields)?)
}

/// Sends what rows look like, and then all of them as they come, for the simple protocol: pgwire would keep them until a buffer is full.
pub async fn send_described<C>(client: &mut C, answer: QueryResponse) -> PgWireResult<Response>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let fields = answer.row_schema().iter().map(FieldDescription::from).collect();
    client.feed(PgWireBackendMessage::RowDescription(RowDescription::new(fields))).await?;
    send(client, answer).await
}

/// Sends all rows as they come: pgwire would hold them in memory until the last one is there.
pub async fn send<C>(client: &mut C, mut answer: QueryResponse) -> PgWireResult<Response>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let mut rows = 0;
    loop {
        let next = match answer.data_rows.next().now_or_never() {
            Some(next) => next,
            // Nobody waits for what is here already until there is more.
            None => {
                client.flush().await?;
                answer.data_rows.next().await
            }
        };
        let Some(row) = next else { break };
        client.feed(PgWireBackendMessage::DataRow(row?)).await?;
        rows += 1;
    }
    Ok(Response::Execution(Tag::new(&answer.command_tag).with_rows(rows)))
}

/// What ends a statement early: the session's `statement_timeout`, and the client.
#[derive(Clone)]
pub struct Limits {
    deadline: Option<Instant>,
    connection: Option<Arc<ConnectionHandle>>,
}

impl Limits {
    /// Of a statement that begins now.
    pub fn of<C: ClientInfo>(client: &C) -> Self {
        let timeout = client.metadata().get(STATEMENT_TIMEOUT_MS).and_then(|text| text.parse().ok()).map(Duration::from_millis);
        Self {
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            connection: client.session_extensions().get::<Arc<ConnectionHandle>>().map(|handle| handle.as_ref().clone()),
        }
    }

    /// Only the client: of rows that it fetches when it likes.
    pub fn without_deadline(self) -> Self {
        Self { deadline: None, ..self }
    }

    pub async fn in_time<T>(&self, work: impl Future<Output = PgWireResult<T>>) -> PgWireResult<T> {
        match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(late())),
            None => work.await,
        }
    }

    /// For rows that are sent after the statement has been run, when pgwire does not look for a cancellation any more. The time
    /// that is left counts from the first of them: what else a text has is run and sent before.
    pub fn end(self, mut response: Response) -> Response {
        if let Response::Query(answer) = &mut response {
            let rows = std::mem::replace(&mut answer.data_rows, Box::pin(stream::empty()));
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let reached = Box::pin(reached(self.connection, left));
            answer.data_rows = Box::pin(stream::unfold(Some((rows, reached)), |state| async move {
                let (mut rows, mut reached) = state?;
                tokio::select! {
                    biased;
                    error = &mut reached => Some((Err(error), None)),
                    row = rows.next() => row.map(|row| (row, Some((rows, reached)))),
                }
            }));
        }
        response
    }
}

/// Begins when it is first asked.
async fn reached(connection: Option<Arc<ConnectionHandle>>, left: Option<Duration>) -> PgWireError {
    let cancelled = async {
        // The other end goes away without a word when another statement begins.
        if let Some(connection) = &connection
            && connection.start_query().await.await.is_ok()
        {
            return;
        }
        std::future::pending().await
    };
    let passed = async {
        match left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = cancelled => PgWireError::QueryCanceled,
        () = passed => late(),
    }
}

fn late() -> PgWireError {
    report(EngineError::new(ErrorKind::Cancelled, "canceling statement due to statement timeout"))
}

#[cfg(test)]
mod tests {
    use datafusion_postgres::pgwire::messages::data::DataRow;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_else_a_text_has_takes_no_time_from_a_statement() {
        let limits = Limits { deadline: Some(Instant::now() + Duration::from_secs(2)), connection: None };
        let rows = stream::iter([Ok(DataRow::default())]).chain(stream::pending());
        let Response::Query(mut answer) = limits.end(Response::Query(QueryResponse::new(Arc::new(vec![]), rows))) else {
            panic!("rows");
        };
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(matches!(answer.data_rows.next().await, Some(Ok(_))));
        let ended = answer.data_rows.next().await;
        assert!(matches!(&ended, Some(Err(PgWireError::UserError(info))) if info.code == "57014"), "{ended:?}");
    }
}
