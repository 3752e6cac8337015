//! Statements → logical plans: queries as DataFusion plans them, INSERTs with the target's columns and types in front, jobs checked for
//! what a stream can do and optimised with settings that suit Ballista.
mod insert;
mod refuse;

use std::sync::Arc;

use datafusion::{
    execution::{SessionState, context::SQLOptions},
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    prelude::SessionConfig,
    sql::{parser, sqlparser::ast},
};

pub use self::insert::InsertPlan;
use crate::{
    catalog::{Catalog, JobDefinition},
    clock,
    error::SqlError,
    limits::Limits,
    names::{CATALOG, DEFAULT_SCHEMA},
    options::job::JobOptions,
    schema::{CatalogsWithOurs, PolybolosCatalog, Providers, Use},
    statement::{CreateJob, Explain, ExplainTarget, Insert},
};

/// What a planner looks things up in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Planner {
    state: SessionState,
    catalog: Arc<Catalog>,
    providers: Arc<dyn Providers>,
}

/// A job, ready to be made physical.
#[derive(Clone, Debug)]
pub struct JobPlan {
    pub name: String,
    pub inserts: Vec<InsertPlan>,
    pub options: JobOptions,
}

/// What EXPLAIN answers with.
#[derive(Clone, Debug)]
pub enum Explained {
    /// Of a job: the answer itself.
    Text(String),
    /// Of a query: a plan to run, whose rows are the answer.
    Plan(LogicalPlan),
}

impl Planner {
    /// Plans in a copy of `state`, whose functions, rules and settings are used; its catalogs too, with ours as `polybolos`.
    pub fn new(state: &SessionState, catalog: Arc<Catalog>, providers: Arc<dyn Providers>) -> Self {
        Self { state: state.clone(), catalog, providers }
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// A state in which tables are those of the catalog, for `usage`.
    fn state_for(&self, usage: Use, config: SessionConfig) -> SessionState {
        let mut state = self.state.clone();
        let catalog = self.catalog.clone();
        let ours = PolybolosCatalog::new(Arc::new(move || catalog.clone()), self.providers.clone(), usage)
            .above(self.state.catalog_list().catalog(CATALOG));
        let others = self.state.catalog_list().clone();
        state.register_catalog_list(Arc::new(CatalogsWithOurs { ours: Arc::new(ours), others }));
        *state.config_mut() = config;
        let catalog_options = &mut state.config_mut().options_mut().catalog;
        CATALOG.clone_into(&mut catalog_options.default_catalog);
        DEFAULT_SCHEMA.clone_into(&mut catalog_options.default_schema);
        catalog_options.information_schema = true;
        // Places in error messages.
        state.config_mut().options_mut().sql_parser.collect_spans = true;
        state.mark_start_execution();
        state
    }

    /// A SELECT, WITH or VALUES, not yet optimised. Placeholders (`$1`) stay for the caller to bind.
    ///
    /// # Errors
    /// When DataFusion refuses it, or it would change something.
    pub async fn plan_query(&self, query: &ast::Query) -> Result<LogicalPlan, SqlError> {
        let state = self.state_for(Use::Bounded, self.state.config().clone());
        plan_in(&state, query).await
    }

    /// A job of its own name: exactly one INSERT over an unbounded source, stateless, optimised.
    ///
    /// # Errors
    /// When something in it is not to be had; the message names it and says what to write instead.
    pub async fn plan_job(&self, job: &CreateJob, target_partitions: usize) -> Result<JobPlan, SqlError> {
        let options = JobOptions::read(&job.name, &job.options)?;
        let subject = format!("job {}", job.name);
        let insert = self.plan_stream_insert(&subject, &job.insert, target_partitions).await?;
        Ok(JobPlan { name: job.name.clone(), inserts: vec![insert], options })
    }

    /// A job that the catalog holds, from its text.
    ///
    /// # Errors
    /// As [`Self::plan_job`]; also when an earlier version took what this one refuses.
    pub async fn plan_stored_job(&self, job: &JobDefinition, target_partitions: usize) -> Result<JobPlan, SqlError> {
        self.plan_job(&job.statement(Limits::default())?, target_partitions).await
    }

    /// Whether an INSERT reads anything that never ends, so that it has to be a job.
    ///
    /// # Errors
    /// When it reads a table that does not exist.
    pub fn is_unbounded(&self, insert: &Insert) -> Result<bool, SqlError> {
        insert::is_unbounded(&self.catalog, insert)
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
        let state = self.state_for(Use::Bounded, self.state.config().clone());
        insert::plan(&state, &self.catalog, insert).await
    }

    async fn plan_stream_insert(&self, subject: &str, insert: &Insert, target_partitions: usize) -> Result<InsertPlan, SqlError> {
        insert::check_is_stream(&self.catalog, subject, insert)?;
        let config = clock::with_epoch_clock(job_config(self.state.config().clone(), target_partitions), None);
        let mut state = self.state_for(Use::Stream, config);
        clock::register(&mut state)?;
        let mut planned = insert::plan(&state, &self.catalog, insert).await?;
        refuse::check_stateless(subject, &planned.plan)?;
        planned.plan = state.optimize(&planned.plan)?;
        insert::check_optimised(subject, &planned)?;
        Ok(planned)
    }

    /// EXPLAIN of a query, an INSERT or a job, existing or not.
    ///
    /// # Errors
    /// As planning it would give.
    pub async fn explain(&self, explain: &Explain, target_partitions: usize) -> Result<Explained, SqlError> {
        let job = match &explain.target {
            ExplainTarget::Query(query) => {
                let plan = self.plan_query(query).await?;
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
                    insert: insert.clone(),
                };
                self.plan_job(&create, target_partitions).await?
            }
            ExplainTarget::Job(create) => self.plan_job(create, target_partitions).await?,
            ExplainTarget::ExistingJob(name) => self.plan_stored_job(self.catalog.job(name)?, target_partitions).await?,
        };
        Ok(Explained::Text(crate::explain::job(&job, explain.verbose)))
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
    // Scalar subqueries become joins, which a stream can keep up to date.
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    // Strings are Utf8 from the decoder to the sink: no conversion in between.
    options.sql_parser.map_string_types_to_utf8view = false;
    config
}

async fn plan_in(state: &SessionState, query: &ast::Query) -> Result<LogicalPlan, SqlError> {
    let statement = ast::Statement::Query(Box::new(query.clone()));
    let plan = state.statement_to_plan(parser::Statement::Statement(Box::new(statement))).await?;
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(&plan)?;
    Ok(plan)
}
