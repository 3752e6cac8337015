//! The session's own statements: settings, transactions, and queries over PostgreSQL's catalog, run here as `datafusion-postgres` runs
//! them, with rewrites of our own.
use std::{fmt::Debug, sync::Arc};

use datafusion::{
    arrow::datatypes::DataType,
    dataframe::DataFrame,
    error::DataFusionError,
    logical_expr::LogicalPlan,
    prelude::SessionContext,
    sql::{parser, sqlparser::ast},
};
use datafusion_postgres::{
    DfSessionService,
    arrow_pg::datatypes::df::{deserialize_parameters_with_server_types, encode_dataframe},
    datafusion_pg_catalog::sql::PostgresCompatibilityParser,
    hooks::{QueryHook, set_show::SetShowHook, transactions::TransactionStatementHook},
    pgwire::{
        api::{
            ClientInfo, ClientPortalStore, Type,
            portal::{Format, Portal},
            query::ExtendedQueryHandler,
            results::{FieldInfo, Response},
            stmt::QueryParser,
            store::PortalStore,
        },
        error::{PgWireError, PgWireResult},
        messages::PgWireBackendMessage,
        types::format::FormatOptions,
    },
};
use futures::Sink;

use super::rewrite::{name_values, rewrite};
use crate::scan;

/// The text, and what it parsed to.
type Planned = <DfSessionService as ExtendedQueryHandler>::Statement;

#[derive(Clone)]
pub struct Statement {
    planned: Planned,
    /// What clients are told of each parameter, and what the plan knows of it.
    parameters: Vec<(Type, Option<DataType>)>,
}

impl Statement {
    pub fn parameter_types(&self) -> Vec<Type> {
        self.parameters.iter().map(|(told, _)| told.clone()).collect()
    }
}

pub struct Session {
    context: Arc<SessionContext>,
    grammar: PostgresCompatibilityParser,
    service: DfSessionService,
    hooks: Vec<Arc<dyn QueryHook>>,
}

impl Session {
    pub fn new(context: SessionContext) -> Self {
        let context = Arc::new(context);
        let hooks: Vec<Arc<dyn QueryHook>> = vec![Arc::new(SetShowHook), Arc::new(TransactionStatementHook)];
        let service = DfSessionService::new_with_hooks(context.clone(), hooks.clone());
        Self { service, context, grammar: PostgresCompatibilityParser::new(), hooks }
    }

    /// The columns of an answer.
    pub fn fields(&self, statement: &Statement, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        self.service.query_parser().get_result_schema(&statement.planned, format)
    }

    /// Runs one statement.
    pub async fn run<C>(&self, client: &mut C, sql: &str) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let Some(parsed) = self.parse(sql)? else {
            return Ok(Response::EmptyQuery);
        };
        for hook in &self.hooks {
            if let Some(response) = hook.handle_simple_query(&parsed, &self.context, client).await {
                return response;
            }
        }
        let text = parsed.to_string();
        let frame = self.context.sql(&text).await.map_err(failed)?;
        respond(client, frame, &Format::UnifiedText).await
    }

    pub async fn prepare<C>(&self, client: &C, sql: &str) -> PgWireResult<Option<Statement>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let Some(parsed) = self.parse(sql)? else { return Ok(None) };
        let count = scan::parameter_count(sql);
        for hook in &self.hooks {
            if let Some(plan) = hook.handle_extended_parse_query(&parsed, &self.context, client).await {
                return self.planned(parsed, plan?, count).map(Some);
            }
        }
        let state = self.context.state();
        let plan = state.statement_to_plan(parser::Statement::Statement(Box::new(parsed.clone()))).await.map_err(failed)?;
        self.planned(parsed, plan, count).map(Some)
    }

    /// Each of `count` parameters has its place, also one that a rewrite took out of the query: its value is read by nothing.
    fn planned(&self, parsed: ast::Statement, plan: LogicalPlan, count: usize) -> PgWireResult<Statement> {
        let found = parameter_types(&plan)?;
        let planned: Planned = (parsed.to_string(), Some((parsed, plan)));
        let told = self.service.query_parser().get_parameter_types(&planned)?;
        let mut parameters = vec![(Type::TEXT, None); count];
        for ((number, data_type), told) in found.into_iter().zip(told) {
            if let Some(parameter) = number.checked_sub(1).and_then(|at| parameters.get_mut(at)) {
                *parameter = (told, data_type);
            }
        }
        Ok(Statement { planned, parameters })
    }

    fn parse(&self, sql: &str) -> PgWireResult<Option<ast::Statement>> {
        let mut statements = self.grammar.parse(sql).map_err(|error| failed(DataFusionError::from(error)))?;
        let mut statement = statements.pop();
        if let Some(statement) = &mut statement {
            name_values(statement);
            rewrite(statement);
        }
        Ok(statement)
    }

    pub async fn run_prepared<C, S>(&self, client: &mut C, statement: &Statement, portal: &Portal<S>) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
        S: Clone,
    {
        let (_, Some((parsed, plan))) = &statement.planned else {
            return Ok(Response::EmptyQuery);
        };
        let wire_types: Vec<Option<&Type>> = statement.parameters.iter().map(|(told, _)| Some(told)).collect();
        let plan_types: Vec<Option<&DataType>> = statement.parameters.iter().map(|(_, data_type)| data_type.as_ref()).collect();
        let values = deserialize_parameters_with_server_types(portal, &plan_types, &wire_types)?;
        for hook in &self.hooks {
            if let Some(response) = hook.handle_extended_query(parsed, plan, &values, &self.context, client).await {
                return response;
            }
        }
        let bound = plan.clone().replace_params_with_values(&values).map_err(failed)?;
        let frame = self.context.execute_logical_plan(bound).await.map_err(failed)?;
        respond(client, frame, &portal.result_column_format).await
    }
}

async fn respond<C: ClientInfo>(client: &C, frame: DataFrame, format: &Format) -> PgWireResult<Response> {
    let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
    Ok(Response::Query(encode_dataframe(frame, format, Some(options)).await?))
}

/// With their numbers, and in the order of these.
fn parameter_types(plan: &LogicalPlan) -> PgWireResult<Vec<(usize, Option<DataType>)>> {
    let found = plan.get_parameter_types().map_err(failed)?.into_iter();
    let numbered = found.map(|(name, data_type)| (name.trim_start_matches('$').parse().unwrap_or(usize::MAX), data_type));
    let mut numbered: Vec<(usize, Option<DataType>)> = numbered.collect();
    numbered.sort_by_key(|(number, _)| *number);
    Ok(numbered)
}

/// The door's error handler gives it a code.
fn failed(error: DataFusionError) -> PgWireError {
    PgWireError::ApiError(Box::new(error))
}
