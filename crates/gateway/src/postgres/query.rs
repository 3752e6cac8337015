//! The simple and the extended protocol over one engine: every statement is routed, bound, run, answered.
use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion_postgres::{
    arrow_pg::datatypes::into_pg_type,
    datafusion_pg_catalog::sql::PostgresCompatibilityParser,
    pgwire::{
        api::{
            ClientInfo, ClientPortalStore, ErrorHandler, Type,
            portal::{Format, Portal},
            query::{ExtendedQueryHandler, SimpleQueryHandler},
            results::{FieldInfo, QueryResponse, Response, Tag},
            stmt::QueryParser,
            store::PortalStore,
        },
        error::{PgWireError, PgWireResult},
        messages::{PgWireBackendMessage, extendedquery::Execute, response::TransactionStatus},
    },
};
use futures::{Sink, stream};
use polybolos_tables::statement::MAX_STATEMENT_BYTES;

use super::{
    Errors, Running,
    answer::{self, Limits},
    catalog::Catalog,
    numeric, parameters, report,
    route::{Route, route},
    session::{self, Session},
    shown,
};
use crate::{
    auth::Principal,
    engine::{Answer, Engine},
    error::{EngineError, ErrorKind},
    scan,
};

/// A statement after Parse.
#[derive(Clone)]
pub enum Prepared {
    Session(Arc<Session>, Box<session::Statement>),
    /// The schema is as it is shown.
    Engine {
        sql: String,
        parameters: Vec<Type>,
        schema: SchemaRef,
    },
    Deallocate(Option<String>),
    Nothing(&'static str),
}

pub struct Queries {
    preparer: Arc<Preparer>,
}

/// What both protocols need.
pub struct Preparer {
    engine: Arc<dyn Engine>,
    catalog: Catalog,
    parser: PostgresCompatibilityParser,
}

impl Queries {
    pub fn new(engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        let catalog = Catalog::new(engine.clone())?;
        Ok(Self { preparer: Arc::new(Preparer { engine, catalog, parser: PostgresCompatibilityParser::new() }) })
    }

    /// Runs the statements of a text in order, up to the first that fails.
    async fn run<C>(&self, client: &mut C, query: &str, responses: &mut Vec<Response>) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        for sql in scan::statements(query) {
            match route(&self.preparer.parser, sql) {
                Route::Session => {
                    let limits = Limits::of(client);
                    let session = self.preparer.session(client)?;
                    let response = limits.in_time(session.run(client, sql)).await?;
                    // It changes by itself only when the responses are sent, after all of these statements.
                    match response {
                        Response::TransactionStart(_) => client.set_transaction_status(TransactionStatus::Transaction),
                        Response::TransactionEnd(_) => client.set_transaction_status(TransactionStatus::Idle),
                        _ => {}
                    }
                    responses.push(limits.end(response));
                }
                Route::Deallocate(name) => responses.push(deallocate(client.portal_store(), name.as_deref())),
                Route::Nothing(tag) => responses.push(Response::Execution(Tag::new(tag))),
                Route::Engine => {
                    let limits = Limits::of(client);
                    for answer in limits.in_time(self.preparer.execute(client, sql)).await? {
                        let is_endless = answer.is_endless;
                        if !responses.is_empty() {
                            // What is answered before it would be told once it has ended.
                            answer.must_end().map_err(report)?;
                        }
                        let response = answer::respond(client, answer, None, &Format::UnifiedText);
                        let response = limits.in_time(response).await?;
                        responses.push(match response {
                            Response::Query(rows) if is_endless => limits.in_time(answer::send_described(client, rows)).await?,
                            response => limits.clone().end(response),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs what was prepared and bound.
    async fn answer<C>(&self, client: &mut C, portal: &Portal<Prepared>) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match &portal.statement.statement {
            Prepared::Session(session, statement) => session.run_prepared(client, statement, portal).await,
            Prepared::Deallocate(name) => Ok(deallocate(client.portal_store(), name.as_deref())),
            Prepared::Nothing(tag) => Ok(Response::Execution(Tag::new(tag))),
            Prepared::Engine { sql, parameters, schema } => {
                let bound = parameters::bind(sql, portal, parameters)?;
                let answers = self.preparer.execute(client, &bound).await?;
                let Some(answer) = answers.into_iter().next_back() else {
                    return Ok(Response::EmptyQuery);
                };
                answer::respond(client, answer, Some(schema), &portal.result_column_format).await
            }
        }
    }
}

impl Preparer {
    /// Each connection has one, made when it first asks for it.
    fn session<C: ClientInfo>(&self, client: &C) -> PgWireResult<Arc<Session>> {
        let principal = principal(client)?;
        Ok(client.session_extensions().get_or_insert_with(|| Session::new(self.catalog.session(&principal))))
    }

    async fn execute<C: ClientInfo>(&self, client: &C, sql: &str) -> PgWireResult<Vec<Answer>> {
        let principal = principal(client)?;
        let in_block = match client.transaction_status() {
            TransactionStatus::Idle => false,
            // We keep no promise of a BEGIN.
            TransactionStatus::Transaction => true,
            TransactionStatus::Error => {
                return Err(report(EngineError::new(ErrorKind::Failed, FAILED_BLOCK).with_sqlstate(IN_FAILED_BLOCK)));
            }
        };
        client.session_extensions().insert(Running(Some((self.engine.clone(), sql.to_owned()))));
        let mut answers = self.engine.execute(&principal, sql).await.map_err(report)?;
        client.session_extensions().insert(Running(None));
        if in_block {
            for answer in answers.iter_mut().filter(|answer| changes_something(answer)) {
                answer.notices.push("statements take effect at once here; ROLLBACK will not take this one back".to_owned());
            }
        }
        Ok(answers)
    }

    /// Where a column's type is that of a parameter, as in `SELECT $1`, it is the one that the client declared, or text.
    async fn described(&self, principal: &Principal, sql: &str, types: &[Option<Type>]) -> Result<SchemaRef, EngineError> {
        let found = self.engine.describe(principal, sql).await;
        let is_known = |field: &Arc<Field>| *field.data_type() != DataType::Null;
        if found.as_ref().is_ok_and(|schema| schema.fields().iter().all(is_known)) {
            return found;
        }
        let Some(typed) = parameters::typed(sql, types) else { return found };
        let Ok(typed) = self.engine.describe(principal, &typed).await else { return found };
        let Ok(names) = found else { return Ok(typed) };
        let fields = typed.fields().iter().zip(names.fields());
        let fields = fields.map(|(typed, named)| typed.as_ref().clone().with_name(named.name()));
        Ok(Arc::new(Schema::new(fields.collect::<Fields>())))
    }

    /// TEXT where planning finds no type.
    async fn parameter_types(&self, sql: &str) -> Vec<Type> {
        let found = crate::parameters::types(&*self.engine, sql).await;
        let kind =
            |data_type: Option<DataType>| data_type.and_then(|data_type| into_pg_type(&data_type).ok()).unwrap_or(Type::TEXT);
        found.into_iter().map(kind).collect()
    }
}

pub const FAILED_BLOCK: &str = "current transaction is aborted, commands ignored until end of transaction block";
pub const IN_FAILED_BLOCK: &str = "25P02";

fn principal<C: ClientInfo + ?Sized>(client: &C) -> PgWireResult<Arc<Principal>> {
    client
        .session_extensions()
        .get::<Principal>()
        .ok_or_else(|| report(EngineError::new(ErrorKind::Forbidden, "the connection is not logged in")))
}

/// Not what answers with rows, and not what only concerns the session.
fn changes_something(answer: &Answer) -> bool {
    const OF_SESSION: [&str; 10] =
        ["SELECT", "SHOW", "SET", "RESET", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "DEALLOCATE"];
    !answer.returns_rows() && !OF_SESSION.contains(&answer.tag.as_str())
}

fn check_size(sql: &str) -> PgWireResult<()> {
    if sql.len() > MAX_STATEMENT_BYTES {
        return Err(report(EngineError::too_long()));
    }
    Ok(())
}

fn deallocate<S: PortalStore>(store: &S, name: Option<&str>) -> Response {
    match name {
        Some(name) => {
            store.rm_statement(name);
            Response::Execution(Tag::new("DEALLOCATE"))
        }
        // The store lists no names; a driver that says ALL forgets them itself.
        None => Response::Execution(Tag::new("DEALLOCATE ALL")),
    }
}

#[async_trait]
impl SimpleQueryHandler for Queries {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        check_size(query)?;
        let mut responses = Vec::new();
        let outcome = self.run(client, query, &mut responses).await;
        if let Err(mut error) = outcome {
            if responses.is_empty() {
                return Err(error);
            }
            // Statements before it have taken effect, and their answers come first, as in PostgreSQL.
            Errors.on_error(&*client, &mut error);
            responses.push(Response::Error(Box::new(error.into())));
        }
        if responses.is_empty() {
            responses.push(Response::EmptyQuery);
        }
        Ok(responses)
    }
}

#[async_trait]
impl QueryParser for Preparer {
    type Statement = Prepared;

    async fn parse_sql<C>(&self, client: &C, sql: &str, types: &[Option<Type>]) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        check_size(sql)?;
        let statements = scan::statements(sql);
        let sql = match statements.as_slice() {
            [] => return Ok(None),
            [one] => *one,
            _ => {
                return Err(report(EngineError::new(
                    ErrorKind::Syntax,
                    "cannot insert multiple commands into a prepared statement",
                )));
            }
        };
        Ok(Some(match route(&self.parser, sql) {
            Route::Session => {
                let session = self.session(client)?;
                let Some(statement) = session.prepare(client, sql).await? else { return Ok(None) };
                Prepared::Session(session, Box::new(statement))
            }
            Route::Deallocate(name) => Prepared::Deallocate(name),
            Route::Nothing(tag) => Prepared::Nothing(tag),
            Route::Engine => {
                let principal = principal(client)?;
                let schema = shown::schema(self.described(&principal, sql, types).await.map_err(report)?.as_ref());
                let parameters = self.parameter_types(sql).await;
                Prepared::Engine { sql: parameters::named(sql).unwrap_or_else(|| sql.to_owned()), parameters, schema }
            }
        }))
    }

    fn get_parameter_types(&self, statement: &Prepared) -> PgWireResult<Vec<Type>> {
        match statement {
            Prepared::Session(_, statement) => Ok(statement.parameter_types()),
            Prepared::Engine { parameters, .. } => Ok(parameters.clone()),
            Prepared::Deallocate(_) | Prepared::Nothing(_) => Ok(Vec::new()),
        }
    }

    fn get_result_schema(&self, statement: &Prepared, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        match statement {
            Prepared::Session(session, statement) => session.fields(statement, format),
            Prepared::Engine { schema, .. } => numeric::fields(schema, format.unwrap_or(&Format::UnifiedText), None),
            Prepared::Deallocate(_) | Prepared::Nothing(_) => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl ExtendedQueryHandler for Queries {
    type Statement = Prepared;
    type QueryParser = Preparer;

    fn query_parser(&self) -> Arc<Preparer> {
        self.preparer.clone()
    }

    async fn on_execute<C>(&self, client: &mut C, mut message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // These are no limits either, and pgwire would reserve memory for so many rows.
        if !(0..i32::MAX).contains(&message.max_rows) {
            message.max_rows = 0;
        }
        self._on_execute(client, message).await
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Prepared>, max_rows: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let limits = Limits::of(client);
        match limits.in_time(self.answer(client, portal)).await? {
            Response::Query(rows) if max_rows == 0 => {
                // Executed once more, the portal has no rows left.
                portal.start(QueryResponse::new(rows.row_schema(), stream::empty())).await;
                limits.in_time(answer::send(client, rows)).await
            }
            response => Ok(limits.without_deadline().end(response)),
        }
    }
}
