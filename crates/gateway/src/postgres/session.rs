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
            results::Response,
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

/// The text, and what it parsed to.
pub type Statement = <DfSessionService as ExtendedQueryHandler>::Statement;
type Parser = <DfSessionService as ExtendedQueryHandler>::QueryParser;

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

    /// Tells types of what [`Session::prepare`] made.
    pub fn parser(&self) -> Arc<Parser> {
        self.service.query_parser()
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
        let text = parsed.to_string();
        for hook in &self.hooks {
            if let Some(plan) = hook.handle_extended_parse_query(&parsed, &self.context, client).await {
                return Ok(Some((text, Some((parsed, plan?)))));
            }
        }
        let state = self.context.state();
        let plan = state.statement_to_plan(parser::Statement::Statement(Box::new(parsed.clone()))).await.map_err(failed)?;
        Ok(Some((text, Some((parsed, plan)))))
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
        let (_, Some((parsed, plan))) = statement else {
            return Ok(Response::EmptyQuery);
        };
        let wire_types = self.parser().get_parameter_types(statement)?;
        let wire_types: Vec<Option<&Type>> = wire_types.iter().map(Some).collect();
        let plan_types = parameter_types(plan)?;
        let plan_types: Vec<Option<&DataType>> = plan_types.iter().map(Option::as_ref).collect();
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

/// In the order of their numbers.
fn parameter_types(plan: &LogicalPlan) -> PgWireResult<Vec<Option<DataType>>> {
    let mut found: Vec<(String, Option<DataType>)> = plan.get_parameter_types().map_err(failed)?.into_iter().collect();
    found.sort_by_key(|(name, _)| name.trim_start_matches('$').parse().unwrap_or(u32::MAX));
    Ok(found.into_iter().map(|(_, data_type)| data_type).collect())
}

/// The door's error handler gives it a code.
fn failed(error: DataFusionError) -> PgWireError {
    PgWireError::ApiError(Box::new(error))
}
