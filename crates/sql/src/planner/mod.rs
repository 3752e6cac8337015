//! Statements → logical plans: queries as DataFusion plans them, INSERTs with the target's columns and types in front, jobs checked for
//! what a stream can do and optimised with settings that suit Ballista.
mod clauses;
mod constants;
mod event_time;
mod exact;
mod exists;
mod failing;
mod follow;
mod further_out;
mod headings;
mod in_subquery;
mod insert;
mod lateral;
mod lengths;
mod one_group;
mod over;
mod reading_order;
mod records;
mod refuse;
mod values;
mod views;

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use datafusion::{
    common::{DataFusionError, Result as DataFusionResult, SchemaError, tree_node::TreeNode},
    execution::{SessionState, SessionStateBuilder, context::SQLOptions},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, utils::grouping_set_to_exprlist},
    prelude::SessionConfig,
    sql::{parser, sqlparser::ast},
};

pub(crate) use self::clauses::refuse_misplaced;
use self::event_time::Lineage;
pub use self::{
    event_time::{EventTimeUse, WatermarkSource, WindowEnds},
    follow::FollowedQuery,
    insert::InsertPlan,
    reading_order::ReadingOrder,
};
use crate::{
    cast_types::CastTypes,
    catalog::{Catalog, JobDefinition, target},
    clock,
    error::SqlError,
    expansion, functions,
    limits::Limits,
    logical_rules,
    names::{CATALOG, DEFAULT_SCHEMA, RESERVED_SCHEMAS, RelationName},
    options::{job::JobOptions, kafka::StartupMode},
    parser::{parse_one, with_named_casts, with_negatives, with_places},
    schema::{CatalogsWithOurs, PolybolosCatalog, Providers, Use},
    statement::{CreateJob, CreateView, Emit, Explain, ExplainTarget, Insert, Query, StatementKind},
};

/// What a planner looks things up in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Planner {
    state: SessionState,
    catalog: Arc<Catalog>,
    providers: Arc<dyn Providers>,
    /// Plans of jobs are run as queries.
    verifies: bool,
}

/// A job, ready to be made physical.
#[derive(Clone, Debug)]
pub struct JobPlan {
    pub name: String,
    /// One per INSERT, in their order.
    pub inserts: Vec<InsertPlan>,
    pub options: JobOptions,
    /// The tables with a watermark that it reads.
    pub watermarks: Vec<WatermarkSource>,
    /// What it uses event time for, all INSERTs together.
    pub event_time: EventTimeUse,
    /// Whether it is more than projections and filters over one scan.
    pub is_stateful: bool,
}

impl JobPlan {
    /// That the job may begin there: a table that keeps a row per key is made of all its records.
    ///
    /// # Errors
    /// When it reads such a table, and would not begin with the earliest record.
    pub fn check_start(&self, start: Option<&StartupMode>) -> Result<(), SqlError> {
        if start.is_none_or(|start| *start == StartupMode::Earliest) {
            return Ok(());
        }
        let mut tables = self.inserts.iter().flat_map(|insert| &insert.sources);
        match tables.find(|table| table.keeps_last_record()) {
            Some(table) => Err(SqlError::unsupported(format!(
                "job {} reads {}, whose rows are made of all records of their keys; let the job begin with the earliest ones",
                self.name, table.name
            ))),
            None => Ok(()),
        }
    }
}

/// A state in which one statement is planned, with the catalog that its views go into.
struct Planning {
    state: SessionState,
    ours: Arc<PolybolosCatalog>,
    catalog: Arc<Catalog>,
    providers: Arc<dyn Providers>,
    usage: Use,
    verifies: bool,
}

/// What EXPLAIN answers with.
#[derive(Clone, Debug)]
pub enum Explained {
    /// Of a job: the answer itself, to which whoever can make the plan physical may add.
    Job { text: String, plan: Box<JobPlan> },
    /// Of a query: a plan to run, whose rows are the answer.
    Plan(LogicalPlan),
}

impl Planner {
    /// Plans in a copy of `state`, whose functions, rules and settings are used; its catalogs too, with ours as `polybolos`.
    pub fn new(state: &SessionState, catalog: Arc<Catalog>, providers: Arc<dyn Providers>) -> Self {
        let state = SessionStateBuilder::new_from_existing(state.clone())
            .with_type_planner(Arc::new(CastTypes))
            .with_optimizer_rules(logical_rules::keeping_types(state.optimizers()))
            .build();
        Self { state, catalog, providers, verifies: false }
    }

    /// One whose jobs' plans are run as queries, to verify what the jobs wrote: they leave out what became dead letters of theirs, where they can tell.
    #[must_use]
    pub fn to_verify(self) -> Self {
        Self { verifies: true, ..self }
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The same, with the tables that queries give options of their own.
    fn over<'a>(&self, queries: impl IntoIterator<Item = &'a ast::Query>) -> Result<Self, SqlError> {
        let mut planner = self.clone();
        if let Cow::Owned(catalog) = self.catalog.with_options_of(queries)? {
            planner.catalog = Arc::new(catalog);
        }
        Ok(planner)
    }

    /// A state in which tables are those of the catalog, for `usage`.
    fn state_for(&self, usage: Use, config: SessionConfig) -> Result<Planning, SqlError> {
        let mut state = self.state.clone();
        let catalog = self.catalog.clone();
        let ours = PolybolosCatalog::new(Arc::new(move || catalog.clone()), self.providers.clone(), usage)
            .above(self.state.catalog_list().catalog(CATALOG));
        let ours = Arc::new(ours);
        let others = self.state.catalog_list().clone();
        state.register_catalog_list(Arc::new(CatalogsWithOurs { ours: ours.clone(), others }));
        functions::register(&mut state)?;
        *state.config_mut() = config;
        expansion::declare(&mut state, &self.catalog.functions);
        let catalog_options = &mut state.config_mut().options_mut().catalog;
        CATALOG.clone_into(&mut catalog_options.default_catalog);
        DEFAULT_SCHEMA.clone_into(&mut catalog_options.default_schema);
        catalog_options.information_schema = true;
        // Places in error messages.
        state.config_mut().options_mut().sql_parser.collect_spans = true;
        state.mark_start_execution();
        Ok(Planning {
            state,
            ours,
            catalog: self.catalog.clone(),
            providers: self.providers.clone(),
            usage,
            verifies: self.verifies,
        })
    }

    /// A SELECT, WITH or VALUES, not yet optimised, its columns named as they are written. Placeholders (`$1`) stay for the caller to
    /// bind.
    ///
    /// # Errors
    /// When DataFusion refuses it, or it would change something.
    pub async fn plan_query(&self, query: &Query) -> Result<LogicalPlan, SqlError> {
        headings::name(self.plan_rows(&query.ast).await?, &query.headings)
    }

    /// A query whose columns have DataFusion's names.
    async fn plan_rows(&self, query: &ast::Query) -> Result<LogicalPlan, SqlError> {
        let planning = self.over([query])?.state_for(Use::Bounded, self.state.config().clone())?;
        planning.prepare(query).await?;
        let plan = insert::plan_nameless(&planning.state, query).await.map_err(|error| self.catalog.hinted(error))?;
        refuse::check_query(&plan, &planning.state)?;
        Ok(plan)
    }

    /// The columns of a view that exists or is to be: a query without rows.
    ///
    /// # Errors
    /// When its query cannot be planned.
    pub async fn plan_view(&self, view: &CreateView) -> Result<LogicalPlan, SqlError> {
        let planning = self.over([view.query.as_ref()])?.state_for(Use::Bounded, self.state.config().clone())?;
        planning.prepare(&view.query).await?;
        planning.view(view).await
    }

    /// What DESCRIBE shows the columns of where it is no declared table: a view, or a table of the system's schemas.
    ///
    /// # Errors
    /// When it does not exist, or the view's query cannot be planned.
    pub async fn plan_described(&self, name: &RelationName) -> Result<Option<LogicalPlan>, SqlError> {
        if let Some(view) = self.catalog.find_view(name) {
            let plan = self.plan_view(&view.statement(Limits::default())?).await?;
            return Ok(Some(insert::settled(&self.state, &plan).unwrap_or(plan)));
        }
        if !RESERVED_SCHEMAS.contains(&name.schema.as_str()) {
            return Ok(None);
        }
        match parse_one(&format!("TABLE {name}"), Limits::default())?.kind {
            StatementKind::Query(query) => self.plan_query(&query).await.map(Some),
            _ => Ok(None),
        }
    }

    /// A job of its own name: its INSERTs over unbounded sources, optimised.
    ///
    /// # Errors
    /// When something in it is not to be had; the message names it and says what to write instead.
    pub async fn plan_job(&self, job: &CreateJob, target_partitions: usize) -> Result<JobPlan, SqlError> {
        let options = JobOptions::read(&job.name, &job.options)?;
        let subject = format!("job {}", job.name);
        let mut plan = JobPlan {
            name: job.name.clone(),
            inserts: Vec::with_capacity(job.inserts.len()),
            options,
            watermarks: Vec::new(),
            event_time: EventTimeUse::default(),
            is_stateful: job.inserts.len() > 1,
        };
        let planner = self.over(job.inserts.iter().map(|insert| insert.query.as_ref()))?;
        for insert in &job.inserts {
            planner.plan_stream_insert(&subject, insert, target_partitions, &mut plan).await?;
        }
        plan.check_start(plan.options.start.as_ref())?;
        // Without a use of event time no row is late, and nobody has to follow it.
        if plan.event_time.granule_us.is_none() {
            plan.watermarks.clear();
        }
        Ok(plan)
    }

    /// A job that the catalog holds, from its text, its INSERTs in the order of the tables that they fill.
    ///
    /// # Errors
    /// As [`Self::plan_job`]; also when an earlier version took what this one refuses.
    pub async fn plan_stored_job(&self, job: &JobDefinition, target_partitions: usize) -> Result<JobPlan, SqlError> {
        let create = job.statement_in_order(&self.catalog, Limits::default())?;
        self.plan_job(&create, target_partitions).await
    }

    /// Whether an INSERT reads anything that never ends, so that it has to be a job.
    ///
    /// # Errors
    /// When it reads a table that does not exist.
    pub fn is_unbounded(&self, insert: &Insert) -> Result<bool, SqlError> {
        insert::is_unbounded(&self.over([insert.query.as_ref()])?.catalog, insert)
    }

    /// A bare INSERT over bounded sources, which runs once to its end: any query, not yet optimised.
    ///
    /// # Errors
    /// When a source is unbounded ([`Self::is_unbounded`]), or the INSERT does not fit its target.
    pub async fn plan_bounded_insert(&self, insert: &Insert) -> Result<InsertPlan, SqlError> {
        if self.is_unbounded(insert)? {
            return Err(SqlError::unsupported_at(
                insert.at,
                "the INSERT reads a stream, so it is a job; write CREATE JOB name AS INSERT …",
            ));
        }
        if insert.emit == Emit::OnWindowClose {
            let message =
                "EMIT ON WINDOW CLOSE is for jobs, whose windows close; this INSERT runs once to the end, so leave EMIT out";
            return Err(SqlError::unsupported_at(insert.at, message));
        }
        let target = target(&self.catalog, insert)?;
        if let Some(job) = self.catalog.job_that_fills(&target) {
            let message = format!(
                "table {target} is filled by job {}, which takes no rows beside it; drop that job, or insert into another table",
                job.name
            );
            return Err(SqlError::invalid_at(insert.at, message));
        }
        let planning = self.over([insert.query.as_ref()])?.state_for(Use::Bounded, self.state.config().clone())?;
        planning.prepare(&insert.query).await?;
        let planned = insert::plan(&planning.state, &planning.catalog, insert).await?;
        refuse::check_query(&planned.plan, &planning.state)?;
        Ok(planned)
    }

    async fn plan_stream_insert(
        &self,
        subject: &str,
        insert: &Insert,
        target_partitions: usize,
        job: &mut JobPlan,
    ) -> Result<(), SqlError> {
        insert::check_is_stream(&self.catalog, subject, insert)?;
        let config = clock::with_epoch_clock(job_config(self.state.config().clone(), target_partitions), None);
        let mut planning = self.state_for(Use::Stream, config)?;
        clock::register(&mut planning.state)?;
        planning.prepare(&insert.query).await?;
        let state = &planning.state;
        let mut planned = insert::plan(state, &self.catalog, insert).await?;
        planned.plan = values::as_selects(planned.plan)?;
        refuse::check_written(subject, &planned.plan, &planned.sources)?;
        planned.plan = state.optimize(&planned.plan)?;
        let with_constants = constants::propagate(planned.plan)?;
        // What a constant decides goes away, and with it the columns that were read for it.
        planned.plan = match with_constants.transformed {
            true => state.optimize(&with_constants.data)?,
            false => with_constants.data,
        };
        planned.plan = over::as_it_travels(lengths::of_fixed_length(planned.plan)?)?;
        insert::check_optimised(subject, &planned)?;
        refuse::check_optimised(subject, &planned.plan)?;
        failing::refuse(subject, &planned.plan, state)?;
        planned.is_stateful = refuse::is_stateful(&planned.plan);
        let lineage = Lineage { tables: &planned.sources };
        if insert.emit == Emit::OnWindowClose && !lineage.closes_windows(&planned.plan)? {
            let unwatched = event_time::without_watermark(&planned.sources);
            let remedy = if lineage.joins_windows(&planned.plan)? {
                "what an inner join gives never changes, and rows of an outer join within an interval are written as they change: leave EMIT out"
                    .to_owned()
            } else if unwatched.is_empty() {
                "GROUP BY window_start, window_end of TABLE(TUMBLE(…)) over the watermark's column, or compare those of both sides in the ON of an outer join, or leave EMIT out"
                    .to_owned()
            } else {
                format!(
                    "declare WATERMARK FOR column AS column - INTERVAL '5' SECOND in {}, and group by a window over it",
                    unwatched.into_iter().collect::<Vec<_>>().join(", ")
                )
            };
            let message = format!("{subject} has EMIT ON WINDOW CLOSE and groups by no window that a watermark closes; {remedy}");
            return Err(SqlError::unsupported_at(insert.at, message));
        }
        let usage = lineage.usage(&planned.plan)?;
        planned.judges_time = usage.granule_us.is_some();
        job.event_time = std::mem::take(&mut job.event_time).and(usage);
        for source in event_time::sources(state, &planned.sources)? {
            if !job.watermarks.contains(&source) {
                job.watermarks.push(source);
            }
        }
        job.is_stateful |= planned.is_stateful;
        job.inserts.push(planned);
        Ok(())
    }

    /// EXPLAIN of a query, an INSERT or a job, existing or not.
    ///
    /// # Errors
    /// As planning it would give.
    pub async fn explain(&self, explain: &Explain, target_partitions: usize) -> Result<Explained, SqlError> {
        let job = match &explain.target {
            ExplainTarget::Query(query) => {
                let plan = self.plan_rows(query).await?;
                let plan = LogicalPlanBuilder::from(plan).explain(explain.verbose, explain.analyze)?.build()?;
                return Ok(Explained::Plan(plan));
            }
            ExplainTarget::Insert(insert) if !self.is_unbounded(insert)? => {
                let planned = self.plan_bounded_insert(insert).await?;
                let plan = LogicalPlanBuilder::from(planned.plan).explain(explain.verbose, false)?.build()?;
                return Ok(Explained::Plan(plan));
            }
            ExplainTarget::Insert(insert) => {
                let create = CreateJob {
                    name: format!("insert_into_{}", insert.target.name),
                    if_not_exists: false,
                    options: Vec::new(),
                    inserts: vec![insert.clone()],
                };
                self.plan_job(&create, target_partitions).await?
            }
            ExplainTarget::Job(create) => self.plan_job(create, target_partitions).await?,
            ExplainTarget::ExistingJob(name) => self.plan_stored_job(self.catalog.job(name)?, target_partitions).await?,
        };
        Ok(Explained::Job { text: crate::explain::job(&job, explain.verbose), plan: Box::new(job) })
    }
}

/// Settings under which a job's plan is made, logical and physical: what Ballista's static planner copes with.
pub fn job_config(config: SessionConfig, target_partitions: usize) -> SessionConfig {
    let mut config = config.with_target_partitions(target_partitions).with_round_robin_repartition(false);
    let options = config.options_mut();
    // A filter that fills itself while running may never arrive in another stage.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    options.optimizer.prefer_hash_join = false;
    // Scalar subqueries become joins, all of them, so that a change in one reaches the rows that it is compared with.
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    // Strings are Utf8 from the decoder to the sink: no conversion in between.
    options.sql_parser.map_string_types_to_utf8view = false;
    config
}

async fn plan_in(state: &SessionState, query: &ast::Query) -> Result<LogicalPlan, SqlError> {
    let planned = async |query: ast::Query| {
        let statement = ast::Statement::Query(Box::new(query));
        state.statement_to_plan(parser::Statement::Statement(Box::new(statement))).await
    };
    let written_out = expansion::written_out(query, state)?;
    let query = &*written_out;
    refuse_misplaced(query, state)?;
    let query = &in_subquery::of_several_columns(query)?;
    let plan = match planned(query.clone()).await {
        Ok(plan) if groups_by_twins(&plan)? => planned(with_named_casts(query)).await.unwrap_or(plan),
        Err(error) if has_twins(&error) => planned(with_named_casts(query)).await.map_err(|_| error)?,
        Err(error) if negates_counts(&error) => planned(with_negatives(query)).await.map_err(|_| error)?,
        Err(error) if lacks_order(&error) => planned(with_places(query)).await.map_err(|_| error)?,
        planned => planned?,
    };
    refuse::refuse_windows(&plan)?;
    let plan = further_out::brought_near(plan)?;
    exists::refuse_aggregates(&plan)?;
    let plan = exact::put_right(lateral::numbered(in_subquery::told_apart(plan)?)?)?;
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(&plan)?;
    Ok(plan)
}

/// Whether two expressions have one name, as a cast has to DataFusion that of what is cast.
fn has_twins(error: &DataFusionError) -> bool {
    let root = error.find_root();
    let is_twin = |message: &str| message.contains("require unique expression names");
    match root {
        DataFusionError::SchemaError(schema, _) => {
            matches!(schema.as_ref(), SchemaError::DuplicateUnqualifiedField { .. } | SchemaError::DuplicateQualifiedField { .. })
        }
        DataFusionError::Plan(message) => is_twin(message),
        _ => false,
    }
}

/// Whether a column and a cast of it are groups, to DataFusion by one name: its optimiser leaves the cast out of the groups, computes it above them, and would stop at the two.
fn groups_by_twins(plan: &LogicalPlan) -> DataFusionResult<bool> {
    plan.exists(|node| {
        let LogicalPlan::Aggregate(aggregate) = node else { return Ok(false) };
        let groups = grouping_set_to_exprlist(&aggregate.group_expr)?;
        let (columns, others): (Vec<&Expr>, Vec<&Expr>) = groups.into_iter().partition(|group| matches!(group, Expr::Column(_)));
        let names: HashSet<String> = columns.into_iter().map(|column| column.schema_name().to_string()).collect();
        Ok(others.into_iter().any(|group| names.contains(&group.schema_name().to_string())))
    })
}

/// Whether something without a sign is negated, as what counts is to DataFusion.
fn negates_counts(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::Plan(message) if message.contains("Unary operator '-'"))
}

/// Whether rows of SELECT DISTINCT seem to be ordered by what is not selected.
fn lacks_order(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::Plan(message) if message.contains("For SELECT DISTINCT, ORDER BY"))
}

#[cfg(test)]
mod tests;
