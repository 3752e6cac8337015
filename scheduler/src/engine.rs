//! What runs behind every door: statements parsed once, roles checked, definitions changed in the catalog, jobs made and ended, queries
//! answered.
use std::{sync::Arc, time::Duration};

use crate::{
    catalog::{CatalogError, CatalogStore},
    follow::Followers,
    jobs::{manager::JobManager, planning},
    providers::PlatformTables,
    queries::Queries,
    replay::{Replay, Wanted},
    savepoints::SavepointError,
    show,
    statements::Statements,
    status::StatusSource,
};
use async_trait::async_trait;
use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    common::TableReference,
    logical_expr::LogicalPlan,
    prelude::{SessionConfig, SessionContext},
};
use futures::StreamExt;
use polybolos_gateway::{
    auth::{Principal, Role},
    engine::{Answer, Archive, Engine, ToldLast, first_rows},
    error::{EngineError, ErrorKind},
    status::Status,
};
use polybolos_kafka::{error::KafkaError, fetcher::Fetcher};
use polybolos_operators::services::ExecutorServices;
use polybolos_sql::{
    catalog::{Catalog, Change, Connector, apply, apply_planned},
    error::SqlError,
    names::RelationName,
    parser::parse,
    planner::{Explained, Planner},
    schema::{PolybolosCatalog, Use},
    statement::{CreateTable, CreateView, Insert, SessionStatement, Statement, StatementKind},
};
use polybolos_tables::plain::plain_chain;
use tracing::{Instrument, Span, debug_span};

/// A query that runs longer is ended.
const QUERY_TIME: Duration = Duration::from_secs(300);

#[derive(Clone)]
pub struct PlatformEngine {
    pub(crate) catalog: Arc<CatalogStore>,
    pub(crate) platform: PlatformTables,
    pub(crate) queries: Arc<Queries>,
    /// `None` while this scheduler does not lead.
    jobs: Arc<parking_lot::RwLock<Option<Arc<JobManager>>>>,
    pub(crate) status: Arc<StatusSource>,
    pub(crate) replay: Arc<Replay>,
    pub(crate) statements: Statements,
    pub(crate) followers: Followers,
    /// By which queries read topics.
    pub(crate) fetcher: Arc<Fetcher>,
}

impl PlatformEngine {
    pub fn new(
        catalog: Arc<CatalogStore>,
        platform: PlatformTables,
        services: Arc<ExecutorServices>,
        jobs: Arc<parking_lot::RwLock<Option<Arc<JobManager>>>>,
        status: Arc<StatusSource>,
        statements: Statements,
    ) -> anyhow::Result<Self> {
        let fetcher = services.fetcher.clone();
        let mut config = SessionConfig::new()
            .with_information_schema(true)
            .with_default_catalog_and_schema("polybolos", "public")
            .with_extension(services);
        config.options_mut().sql_parser.collect_spans = true;
        let queries = Queries::new(config)?;
        let snapshots = catalog.clone();
        let live = PolybolosCatalog::new(Arc::new(move || snapshots.current()), Arc::new(platform.clone()), Use::Bounded);
        queries.session().register_catalog("polybolos", Arc::new(live));
        let replay = Arc::new(Replay::new(platform.tables.clone()));
        let (queries, followers) = (Arc::new(queries), Followers::default());
        Ok(Self { catalog, platform, queries, jobs, status, replay, statements, followers, fetcher })
    }

    fn planner(&self) -> Planner {
        self.planner_over(self.catalog.current())
    }

    fn planner_over(&self, catalog: Arc<Catalog>) -> Planner {
        Planner::new(&self.queries.session().state(), catalog, Arc::new(self.platform.clone()))
    }

    pub(crate) fn leader(&self) -> Result<Arc<JobManager>, EngineError> {
        self.jobs.read().clone().ok_or_else(|| {
            let at = self.status.leader_door().map(|door| format!(" at {door}")).unwrap_or_default();
            EngineError::new(ErrorKind::Unavailable, "this scheduler does not lead at the moment")
                .with_hint(format!("ask the leader{at}, or try again in a few seconds"))
        })
    }

    async fn carry_out(&self, statement: Statement) -> Result<Answer, EngineError> {
        if let StatementKind::Insert(insert) = &statement.kind
            && !self.planner().is_unbounded(insert).map_err(sql_error)?
        {
            // It takes as long as its query, and could not be ended if it went on by itself.
            return self.insert_once(insert).await;
        }
        let engine = self.clone();
        self.statements.carry_out(statement, move |statement| async move { engine.one(statement).await }).await
    }

    /// All but an INSERT that ends.
    async fn one(&self, statement: Statement) -> Result<Answer, EngineError> {
        let tag = statement.kind.tag();
        match &statement.kind {
            StatementKind::Query(query) => {
                let plan = self.planner().plan_query(query).await.map_err(sql_error)?;
                let notices = show::notices(&plan, &self.status);
                Ok(Answer { notices, ..self.rows(plan, tag).await? })
            }
            StatementKind::Explain(explain) => match self.planner().explain(explain, 1).await.map_err(sql_error)? {
                Explained::Job { mut text, plan } => {
                    let session = self.queries.session().state();
                    text.push_str(&planning::operators(&self.platform, &session, &plan).await.map_err(any_error)?);
                    show::text("plan", text.lines()).map_err(Into::into)
                }
                Explained::Plan(plan) => {
                    let answer = self.rows(plan, tag).await?;
                    let told = answer.batches.map(|batch| show::plans(&batch?).map_err(EngineError::from));
                    Ok(Answer { batches: told.boxed(), ..answer })
                }
            },
            StatementKind::Show(what) => show::show(what, &self.catalog.current(), &self.status).map_err(sql_error),
            StatementKind::Describe(name) => {
                let planner = self.planner();
                match planner.plan_described(name).await.map_err(sql_error)? {
                    Some(plan) => show::describe_plan(&plan).map_err(sql_error),
                    None => show::describe(planner.catalog(), name).map_err(sql_error),
                }
            }
            StatementKind::Session(session) => session_answer(session, tag),
            StatementKind::ControlJob { name, action } => self.control(name, *action, tag).await,
            StatementKind::RestartJob(restart) => self.restart_job(&statement, restart, tag).await,
            StatementKind::UpgradeJob(create) => self.upgrade_job(&statement, &create.name, tag).await,
            StatementKind::CreateSavepoint { name, job } => self.create_savepoint(name, job, tag).await,
            StatementKind::VerifyJob { name } => self.verify(name, tag),
            StatementKind::ReplayDeadLetters { job, id } => self.replay(Wanted { job: job.clone(), id: id.clone() }).await,
            StatementKind::DropSavepoint { name, if_exists } => self.drop_savepoint(name, *if_exists, tag).await,
            StatementKind::CreateView(view) => self.create_view(&statement, view, tag).await,
            StatementKind::CreateTable(create) => self.create_table(&statement, create, tag).await,
            StatementKind::DropTable { .. }
            | StatementKind::DropView { .. }
            | StatementKind::CreateFunction(_)
            | StatementKind::DropFunction { .. } => {
                self.leader()?;
                let change = change();
                self.catalog.change(|catalog| apply(catalog, &statement, &change)).await.map_err(catalog_error)?;
                Ok(Answer::done(tag))
            }
            StatementKind::CreateJob(_) | StatementKind::Insert(_) => self.create_job(&statement, tag).await,
            StatementKind::DropJob { name, .. } => self.drop_job(&statement, name, tag).await,
        }
    }

    async fn create_table(&self, statement: &Statement, create: &CreateTable, tag: &str) -> Result<Answer, EngineError> {
        self.leader()?;
        let (before, change) = (self.catalog.current(), change());
        let planned = apply(&before, statement, &change).map_err(sql_error)?;
        // One that is there already is told of when it is used: what is allowed may have changed since.
        if before.find_table(&create.name).is_none()
            && let Some(table) = planned.find_table(&create.name)
            && let Connector::Filesystem(options) = &table.connector
        {
            self.platform.place(table, &options.path).map_err(any_error)?;
        }
        self.catalog.change(|catalog| apply(catalog, statement, &change)).await.map_err(catalog_error)?;
        Ok(Answer::done(tag))
    }

    async fn create_view(&self, statement: &Statement, view: &CreateView, tag: &str) -> Result<Answer, EngineError> {
        self.leader()?;
        let (before, change) = (self.catalog.current(), change());
        self.planner_over(before.clone()).plan_view(view).await.map_err(sql_error)?;
        let planned = apply(&before, statement, &change).map_err(sql_error)?;
        self.catalog.change(|catalog| apply_planned(catalog, statement, &change, &planned)).await.map_err(catalog_error)?;
        Ok(Answer::done(tag))
    }

    async fn rows(&self, plan: LogicalPlan, tag: &str) -> Result<Answer, EngineError> {
        let (stream, left_out) = self.queries.run_telling(&plan).await?;
        let schema = stream.schema();
        let deadline = tokio::time::Instant::now() + QUERY_TIME;
        // The statement's span lasts as long as its rows.
        let batches = futures::stream::unfold(Some((stream, Span::current())), move |stream| async move {
            let (mut stream, span) = stream?;
            match tokio::time::timeout_at(deadline, stream.next()).await {
                Ok(Some(Ok(batch))) => Some((Ok(batch), Some((stream, span)))),
                Ok(Some(Err(error))) => Some((Err(error.into()), None)),
                Ok(None) => None,
                Err(_) => {
                    let message = format!("the query ran longer than {} s and was ended", QUERY_TIME.as_secs());
                    Some((Err(EngineError::new(ErrorKind::LimitExceeded, message)), None))
                }
            }
        });
        let told_last = left_out.map(|left_out| Box::new(move || left_out.notices()) as ToldLast);
        let batches = batches.fuse().boxed();
        Ok(Answer { schema, batches, tag: tag.to_owned(), notices: vec![], told_last, is_endless: false })
    }

    /// An INSERT over sources that end: computed here, written by the table's own writer, done when it is written.
    async fn insert_once(&self, insert: &Insert) -> Result<Answer, EngineError> {
        let jobs = self.leader()?;
        let planned = self.planner().plan_bounded_insert(insert).await.map_err(sql_error)?;
        let (rows, left_out) = self.queries.run_telling(&planned.plan).await?;
        let rows = jobs.insert(&planned, rows).await.map_err(any_error)?;
        let notices = left_out.map(|left_out| left_out.notices()).unwrap_or_default();
        Ok(Answer { notices, ..Answer::done(format!("INSERT 0 {rows}")) })
    }
}

#[async_trait]
impl Engine for PlatformEngine {
    async fn execute(&self, principal: &Principal, sql: &str) -> Result<Vec<Answer>, EngineError> {
        let statements = parse(sql).map_err(sql_error)?;
        let mut answers = Vec::with_capacity(statements.len());
        for statement in statements {
            check_role(principal, &statement)?;
            let tag = statement.kind.tag();
            // Not its text, in which there may be a password.
            let span = debug_span!("statement", kind = tag, user = principal.name);
            if let StatementKind::Query(query) = &statement.kind
                && query.emit_changes
            {
                answers.push(self.follow(principal, query, tag).instrument(span).await?);
                continue;
            }
            answers.push(self.carry_out(statement).instrument(span).await?);
        }
        Ok(answers)
    }

    async fn describe(&self, principal: &Principal, sql: &str) -> Result<SchemaRef, EngineError> {
        let mut statements = parse(sql).map_err(sql_error)?;
        let (Some(statement), true) = (statements.pop(), statements.is_empty()) else {
            return Err(EngineError::new(ErrorKind::Invalid, "exactly one statement can be described"));
        };
        match &statement.kind {
            StatementKind::Query(query) => {
                let planner = self.planner();
                let plan = match query.emit_changes {
                    true => planner.plan_followed(query).await.map(|followed| followed.plan),
                    false => planner.plan_query(query).await,
                };
                Ok(Arc::new(plan.map_err(sql_error)?.schema().as_arrow().clone()))
            }
            kind if kind.is_read_only() => {
                check_role(principal, &statement)?;
                Ok(self.one(statement.clone()).await?.schema)
            }
            _ => Ok(SchemaRef::new(datafusion::arrow::datatypes::Schema::empty())),
        }
    }

    fn outlives_call(&self, sql: &str) -> bool {
        let goes_on = |statement: &Statement| match &statement.kind {
            StatementKind::Insert(insert) => self.planner().is_unbounded(insert).unwrap_or(true),
            kind => !kind.is_read_only(),
        };
        parse(sql).is_ok_and(|statements| statements.iter().any(goes_on))
    }

    async fn export_savepoint(&self, principal: &Principal, name: &str) -> Result<Archive, EngineError> {
        needs(principal, Role::Admin, "exporting a savepoint")?;
        let archive = self.leader()?.export_savepoint(name).map_err(any_error)?;
        Ok(archive.map(|piece| piece.map_err(|error| any_error(error.into()))).boxed())
    }

    async fn import_savepoint(&self, principal: &Principal, name: Option<&str>, archive: Archive) -> Result<String, EngineError> {
        needs(principal, Role::Admin, "importing a savepoint")?;
        // The same names as SQL's.
        if let Some(name) = name {
            parse(&format!("DROP SAVEPOINT {}", polybolos_sql::names::quoted(name))).map_err(sql_error)?;
        }
        let (jobs, name) = (self.leader()?, name.map(str::to_owned));
        // An archive that breaks off is an error, after which its files are deleted.
        let work = async move { jobs.import_savepoint(name.as_deref(), archive).await.map_err(any_error) };
        let savepoint = self.statements.to_its_end("the import of a savepoint".into(), work).await?;
        Ok(savepoint.name)
    }

    /// A query as it is going to be run, over views and functions that users have created.
    async fn planned(&self, sql: &str) -> Result<LogicalPlan, EngineError> {
        let statements = parse(sql).map_err(sql_error)?;
        if let [Statement { kind: StatementKind::Query(query), .. }] = statements.as_slice() {
            return self.planner().plan_query(query).await.map_err(sql_error);
        }
        let state = self.queries.session().state();
        Ok(state.create_logical_plan(sql).await?)
    }

    fn session(&self) -> SessionContext {
        self.queries.session().clone()
    }

    fn primary_key(&self, schema: &str, table: &str) -> Vec<String> {
        let catalog = self.catalog.current();
        let table = catalog.find_table(&RelationName::new(schema, table));
        let columns = table.and_then(|table| table.primary_key.as_ref()).into_iter().flat_map(|key| key.columns());
        columns.map(str::to_owned).collect()
    }

    async fn status(&self) -> Status {
        self.status.status()
    }

    async fn latest_rows(
        &self,
        principal: &Principal,
        table: &str,
        limit: usize,
    ) -> Result<(SchemaRef, Vec<RecordBatch>), EngineError> {
        let (schema, first) = first_rows(self, principal, table, limit).await?;
        let catalog = self.catalog.current();
        let jobs = self.jobs.read().clone();
        let (Some(jobs), Some(table)) = (jobs, catalog.find_table(&RelationName::from(&TableReference::parse_str(table)))) else {
            return Ok((schema, first));
        };
        if table.primary_key.is_none() {
            return Ok((schema, first));
        }
        let newest = jobs.newest_first(&catalog, table, (&schema, first.as_slice()), limit).await.unwrap_or_else(|error| {
            tracing::debug!(table = %table.name, %error, "rows are shown as the store has them");
            first
        });
        Ok((schema, newest))
    }
}

pub(crate) fn change() -> Change {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Change { now_us: now.as_micros() as i64, incarnation: uuid::Uuid::new_v4().simple().to_string() }
}

fn check_role(principal: &Principal, statement: &Statement) -> Result<(), EngineError> {
    let needed = match &statement.kind {
        kind if kind.is_read_only() => Role::Reader,
        StatementKind::ControlJob { .. }
        | StatementKind::RestartJob(_)
        | StatementKind::VerifyJob { .. }
        | StatementKind::ReplayDeadLetters { .. }
        | StatementKind::CreateSavepoint { .. }
        | StatementKind::DropSavepoint { .. } => Role::Operator,
        _ => Role::Admin,
    };
    needs(principal, needed, statement.kind.tag())
}

fn needs(principal: &Principal, needed: Role, what: &str) -> Result<(), EngineError> {
    if principal.role >= needed {
        return Ok(());
    }
    let message = format!("{what} needs the role {needed:?}, and {} is {:?}", principal.name, principal.role);
    Err(EngineError::new(ErrorKind::Forbidden, message).with_hint("ask an administrator"))
}

fn session_answer(session: &SessionStatement, tag: &str) -> Result<Answer, EngineError> {
    match session {
        SessionStatement::ShowVariable { name } => {
            let value = if name == "timezone" { "UTC" } else { "read committed" };
            Ok(show::text(name, [value].into_iter())?)
        }
        SessionStatement::Set { name, .. } if name.contains('.') => {
            let mut answer = Answer::done(tag);
            answer.notices.push(format!(
                "SET {name} changes nothing here; a job's options stand in its statement, for example CREATE JOB j WITH ('state.ttl' = '1 h', 'parallelism' = '2') AS …"
            ));
            Ok(answer)
        }
        _ => Ok(Answer::done(tag)),
    }
}

/// One line, with its place, and the kind that doors translate.
pub fn sql_error(error: SqlError) -> EngineError {
    let kind = match &error {
        SqlError::Syntax { .. } => ErrorKind::Syntax,
        SqlError::TooLarge { .. } => ErrorKind::LimitExceeded,
        SqlError::Unsupported { .. } => ErrorKind::Unsupported,
        SqlError::Invalid { .. } | SqlError::InUse { .. } => ErrorKind::Invalid,
        SqlError::NoSuch { .. } => ErrorKind::NotFound,
        SqlError::Exists { .. } => ErrorKind::AlreadyExists,
        SqlError::Plan { .. } | SqlError::Read { .. } => ErrorKind::Failed,
    };
    let (message, code) = (error.placed(), error.sqlstate());
    match error {
        SqlError::Plan { source, .. } => EngineError::from(*source).with_message(message),
        _ => EngineError::new(kind, message).with_sqlstate(code),
    }
}

pub(crate) fn catalog_error(error: CatalogError) -> EngineError {
    match error {
        CatalogError::Sql(error) => sql_error(error),
        CatalogError::Store(error) => EngineError::new(ErrorKind::Unavailable, error.to_string()),
        CatalogError::Busy => EngineError::new(ErrorKind::Unavailable, error.to_string()),
    }
}

pub(crate) fn any_error(error: anyhow::Error) -> EngineError {
    match error.downcast::<SqlError>() {
        Ok(error) => sql_error(error),
        Err(error) => {
            let kind = match error.downcast_ref::<SavepointError>() {
                Some(SavepointError::Exists { .. }) => Some(ErrorKind::AlreadyExists),
                Some(SavepointError::NoSuch { .. }) => Some(ErrorKind::NotFound),
                Some(SavepointError::Store(_)) => Some(ErrorKind::Unavailable),
                None => None,
            };
            if let Some(kind) = kind {
                return EngineError::new(kind, plain_chain(&*error));
            }
            let away = error.chain().any(|cause| {
                cause.downcast_ref::<polybolos_tables::TableError>().is_some_and(polybolos_tables::TableError::is_retryable)
                    || matches!(cause.downcast_ref::<KafkaError>(), Some(KafkaError::Unled { .. }))
            });
            let kind = if away { ErrorKind::Unavailable } else { ErrorKind::Invalid };
            EngineError::new(kind, plain_chain(&*error))
        }
    }
}
