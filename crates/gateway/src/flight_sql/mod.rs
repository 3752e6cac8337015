//! Arrow Flight SQL on port 7433. A handle is the statement's own text, so the door keeps no state between calls: a ticket works on every
//! process that leads, and a forgotten prepared statement costs nothing. A handle gives no right: each call is judged by its own token.
mod handle;
mod login;
mod metadata;
mod notices;
mod schemas;

pub use notices::NAME as NOTICE_NAME;

use std::{io, pin::Pin, sync::Arc, time::Duration};

use arrow::{
    datatypes::{DataType, Field, FieldRef, Fields, Schema},
    error::ArrowError,
    ipc::writer::IpcWriteOptions,
    record_batch::RecordBatch,
};
use arrow_flight::{
    Action, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage, SchemaAsIpc,
    Ticket,
    decode::FlightRecordBatchStream,
    encode::{DictionaryHandling, FlightDataEncoderBuilder},
    error::FlightError,
    flight_service_server::FlightServiceServer,
    sql::{
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
        CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
        CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
        CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementQuery, CommandStatementUpdate,
        DoPutPreparedStatementResult, ProstMessageExt, SqlInfo, TicketStatementQuery,
        metadata::{SqlInfoData, XdbcTypeInfoData},
        server::{FlightSqlService, PeekableFlightDataStream},
    },
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::{Message, bytes::Bytes};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::ServerTlsConfig};
use tracing::info;

use self::{handle::Handle, schemas::WithSchemas};
use crate::{
    auth::{Authenticate, Principal},
    engine::{Answer, Engine},
    error::{EngineError, ErrorKind},
    parameters,
    postgres::views::Views,
};

/// The protocol's word for "as many rows as it were, nobody counted".
const UNKNOWN_ROW_COUNT: i64 = -1;
/// Of a statement that has been carried out, and has no rows.
const DONE: Bytes = Bytes::new();

/// So often a client is asked whether it is there. It answers within 20 s, or its statements end.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Each runs its own statement.
const MAX_PARAMETER_ROWS: usize = 1_000;

pub struct FlightSqlDoor {
    engine: Arc<dyn Engine>,
    views: Views,
    login: Arc<dyn Authenticate>,
    sql_info: SqlInfoData,
    type_info: XdbcTypeInfoData,
}

/// Serves until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<dyn Engine>,
    login: Arc<dyn Authenticate>,
    tls: Option<ServerTlsConfig>,
    stop: CancellationToken,
) -> io::Result<()> {
    info!(address = %listener.local_addr()?, "Flight SQL door open");
    // A client whose machine is gone says nothing, and a stream without rows does not find out.
    let mut server = tonic::transport::Server::builder().http2_keepalive_interval(Some(SIGN_OF_LIFE));
    if let Some(tls) = tls {
        server = server.tls_config(tls).map_err(io::Error::other)?;
    }
    server
        .add_service(FlightServiceServer::new(WithSchemas(FlightSqlDoor::new(engine, login))))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
        .await
        .map_err(io::Error::other)
}

type DataStream = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send>>;

impl FlightSqlDoor {
    pub fn new(engine: Arc<dyn Engine>, login: Arc<dyn Authenticate>) -> Self {
        let views = Views::new(engine.clone());
        Self { engine, views, login, sql_info: metadata::sql_info(), type_info: metadata::type_info() }
    }

    fn principal<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        login::principal(self.login.as_ref(), request.metadata())
    }

    /// Of what a statement will answer with.
    async fn schema(&self, principal: &Principal, sql: &[u8]) -> Result<Bytes, Status> {
        let schema = self.engine.describe(principal, Handle::decode(sql)?.text).await?;
        schema_message(&told(&schema))
    }

    /// What a query will answer with, and the ticket that runs it. A statement without columns is carried out at once: who wants no rows
    /// of it need not ask for them, and counts on it when this call has ended.
    async fn plan(
        &self,
        principal: &Principal,
        sql: &[u8],
        ticket: impl ProstMessageExt,
        descriptor: FlightDescriptor,
    ) -> Result<Response<FlightInfo>, Status> {
        let text = Handle::decode(sql)?.text;
        let schema = told(self.engine.describe(principal, text).await?.as_ref());
        if !schema.fields().is_empty() {
            return flight_info(&schema, ticket, descriptor).map(Response::new);
        }
        let mut answer = drain_all_but_last(self.engine.execute(principal, text).await?).await?;
        let notices = drained(&mut answer).await?;
        let mut response = Response::new(flight_info(&schema, TicketStatementQuery { statement_handle: DONE }, descriptor)?);
        *response.metadata_mut() = notices::metadata(notices.into_iter());
        Ok(response)
    }

    /// Answers a metadata command: its ticket is the command itself.
    fn about(
        &self,
        query: impl ProstMessageExt,
        schema: &Schema,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.principal(&request)?;
        flight_info(schema, query, request.into_inner()).map(Response::new)
    }

    async fn run(&self, principal: &Principal, sql: &[u8]) -> Result<Response<DataStream>, Status> {
        let answers = self.engine.execute(principal, Handle::decode(sql)?.text).await?;
        let answer = drain_all_but_last(answers).await?;
        let schema = Arc::new(told(&answer.schema));
        let rows = encode(schema, answer.batches.map_err(|error| FlightError::Tonic(Box::new(error.into()))));
        Ok(Response::new(notices::with_notices(rows, answer.notices, answer.told_last)))
    }

    async fn update(&self, principal: &Principal, sql: &[u8]) -> Result<i64, Status> {
        let mut answers = self.engine.execute(principal, Handle::decode(sql)?.text).await?;
        for answer in &mut answers {
            drained(answer).await?;
        }
        // PostgreSQL's tag of an INSERT that ended says how many: `INSERT 0 5`.
        let counted = answers.last().and_then(|answer| answer.tag.strip_prefix("INSERT 0 ")?.parse().ok());
        Ok(counted.unwrap_or(UNKNOWN_ROW_COUNT))
    }
}

/// The schema that clients are told, before the statement runs and with its rows. Only the running query knows for certain what is never
/// NULL, and clients compare both: so everything may be. In IPC a batch says nothing of that, so the rows stay as they are.
fn told(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(nullable).collect::<Fields>()).with_metadata(schema.metadata().clone())
}

fn nullable(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::List(item) => DataType::List(nullable(item)),
        DataType::LargeList(item) => DataType::LargeList(nullable(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(nullable(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(nullable).collect()),
        DataType::Map(entries, sorted) => DataType::Map(nullable_values(entries), *sorted),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type).with_nullable(true))
}

/// A map's entries and keys are never NULL, by the format.
fn nullable_values(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(fields) = entries.data_type() else { return entries.clone() };
    let fields = fields.iter().enumerate().map(|(at, field)| if at == 0 { field.clone() } else { nullable(field) });
    Arc::new(entries.as_ref().clone().with_data_type(DataType::Struct(fields.collect())))
}

/// Reads an answer to its end; what it has to tell then.
async fn drained(answer: &mut Answer) -> Result<Vec<String>, EngineError> {
    answer.must_end()?;
    while answer.batches.try_next().await?.is_some() {}
    Ok(answer.take_notices())
}

/// The last answer, which tells first what the others have to say.
async fn drain_all_but_last(mut answers: Vec<Answer>) -> Result<Answer, EngineError> {
    let Some(mut last) = answers.pop() else {
        return Err(EngineError::new(ErrorKind::Syntax, "there is no statement in the text"));
    };
    let mut notices = Vec::new();
    for mut earlier in answers {
        notices.extend(drained(&mut earlier).await?);
    }
    notices.append(&mut last.notices);
    last.notices = notices;
    Ok(last)
}

fn flight_info(schema: &Schema, ticket: impl ProstMessageExt, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    let ticket = Ticket { ticket: ticket.as_any().encode_to_vec().into() };
    let info = FlightInfo::new().try_with_schema(schema).map_err(|error| Status::internal(error.to_string()))?;
    Ok(info.with_endpoint(FlightEndpoint::new().with_ticket(ticket)).with_descriptor(descriptor))
}

fn schema_message(schema: &Schema) -> Result<Bytes, Status> {
    let IpcMessage(bytes) =
        SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into().map_err(metadata::internal::<ArrowError>)?;
    Ok(bytes)
}

/// Values for parameters; a client without any sends a bare schema or nothing.
async fn parameter_rows(stream: PeekableFlightDataStream) -> Result<Vec<RecordBatch>, Status> {
    let mut batches = FlightRecordBatchStream::new_from_flight_data(stream.map_err(|status| FlightError::Tonic(Box::new(status))));
    let mut found = Vec::new();
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await.map_err(|error| Status::invalid_argument(format!("parameters: {error}")))? {
        rows += batch.num_rows();
        if rows > MAX_PARAMETER_ROWS {
            return Err(Status::resource_exhausted(format!(
                "more than {MAX_PARAMETER_ROWS} rows of parameters; send them in parts"
            )));
        }
        if batch.num_columns() > 0 && batch.num_rows() > 0 {
            found.push(batch);
        }
    }
    Ok(found)
}

fn encode(schema: Arc<Schema>, batches: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static) -> DataStream {
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_dictionary_handling(DictionaryHandling::Resend)
        .build(batches)
        .map_err(|error| match error {
            FlightError::Tonic(status) => *status,
            other => Status::internal(other.to_string()),
        })
        .boxed()
}

fn one_batch(batch: RecordBatch) -> Response<DataStream> {
    Response::new(encode(batch.schema(), stream::iter([Ok(batch)])))
}

#[tonic::async_trait]
impl FlightSqlService for FlightSqlDoor {
    type FlightService = FlightSqlDoor;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>, Status> {
        login::handshake(self.login.as_ref(), request.metadata())
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let principal = self.principal(&request)?;
        let ticket = TicketStatementQuery { statement_handle: query.query.clone().into() };
        self.plan(&principal, query.query.as_bytes(), ticket, request.into_inner()).await
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        let principal = self.principal(&request)?;
        if ticket.statement_handle == DONE {
            return Ok(one_batch(RecordBatch::new_empty(Arc::new(Schema::empty()))));
        }
        self.run(&principal, &ticket.statement_handle).await
    }

    async fn do_put_statement_update(
        &self,
        ticket: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let principal = self.principal(&request)?;
        self.update(&principal, ticket.query.as_bytes()).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let principal = self.principal(&request)?;
        let dataset_schema = self.schema(&principal, query.query.as_bytes()).await?;
        let types = parameters::types(&*self.engine, &query.query).await;
        let fields = types
            .into_iter()
            .enumerate()
            .map(|(at, kind)| Field::new(format!("${}", at + 1), kind.unwrap_or(DataType::Utf8), true));
        let parameter_schema = schema_message(&Schema::new(fields.collect::<Vec<_>>()))?;
        Ok(ActionCreatePreparedStatementResult { prepared_statement_handle: query.query.into(), dataset_schema, parameter_schema })
    }

    async fn do_action_close_prepared_statement(
        &self,
        _query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        self.principal(&request).map(drop)
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let principal = self.principal(&request)?;
        self.plan(&principal, &query.prepared_statement_handle.clone(), query, request.into_inner()).await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        let principal = self.principal(&request)?;
        self.run(&principal, &query.prepared_statement_handle).await
    }

    /// Binds one row of values; the client goes on with the handle that it gets back.
    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        self.principal(&request)?;
        let template = Handle::decode(&query.prepared_statement_handle)?.template;
        let rows = parameter_rows(request.into_inner()).await?;
        let handle = match rows.as_slice() {
            [] => template.to_owned().into(),
            [batch] if batch.num_rows() == 1 => handle::bound(template, &parameters::bind_row(template, batch, 0)?),
            _ => return Err(Status::unimplemented("a query takes one row of parameters; execute it once per row")),
        };
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) })
    }

    async fn do_put_prepared_statement_update(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let principal = self.principal(&request)?;
        let batches = parameter_rows(request.into_inner()).await?;
        if batches.is_empty() {
            return self.update(&principal, &query.prepared_statement_handle).await;
        }
        let template = Handle::decode(&query.prepared_statement_handle)?.template;
        for batch in &batches {
            for row in 0..batch.num_rows() {
                self.update(&principal, parameters::bind_row(template, batch, row)?.as_bytes()).await?;
            }
        }
        Ok(UNKNOWN_ROW_COUNT)
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = query.into_builder().schema();
        self.about(query, &schema, request)
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = query.clone().into_builder().schema();
        self.about(query, &schema, request)
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = query.clone().into_builder().schema();
        self.about(query, &schema, request)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = query.into_builder().schema();
        self.about(query, &schema, request)
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.about(query, &metadata::primary_keys(), request)
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.about(query, &metadata::foreign_keys(), request)
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.about(query, &metadata::foreign_keys(), request)
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.about(query, &metadata::foreign_keys(), request)
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = query.clone().into_builder(&self.sql_info).schema();
        self.about(query, &schema, request)
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = query.into_builder(&self.type_info).schema();
        self.about(query, &schema, request)
    }

    async fn do_get_catalogs(&self, query: CommandGetCatalogs, request: Request<Ticket>) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        metadata::catalogs(&self.engine.session(), query).map(one_batch)
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, request: Request<Ticket>) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        metadata::schemas(&self.engine.session(), query).map(one_batch)
    }

    async fn do_get_tables(&self, query: CommandGetTables, request: Request<Ticket>) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        metadata::tables(&self.engine.session(), &self.views, query).await.map(one_batch)
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        metadata::table_types(query).map(one_batch)
    }

    async fn do_get_primary_keys(
        &self,
        _: CommandGetPrimaryKeys,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        Ok(one_batch(RecordBatch::new_empty(metadata::primary_keys())))
    }

    async fn do_get_exported_keys(
        &self,
        _: CommandGetExportedKeys,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        Ok(one_batch(RecordBatch::new_empty(metadata::foreign_keys())))
    }

    async fn do_get_imported_keys(
        &self,
        _: CommandGetImportedKeys,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        Ok(one_batch(RecordBatch::new_empty(metadata::foreign_keys())))
    }

    async fn do_get_cross_reference(
        &self,
        _: CommandGetCrossReference,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        Ok(one_batch(RecordBatch::new_empty(metadata::foreign_keys())))
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, request: Request<Ticket>) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        query.into_builder(&self.sql_info).build().map(one_batch).map_err(metadata::internal)
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        self.principal(&request)?;
        query.into_builder(&self.type_info).build().map(one_batch).map_err(metadata::internal)
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}
