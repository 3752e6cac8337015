//! Where queries run: on threads of their own, so that one that computes for minutes keeps nothing else from its time, and within a memory of their own.
use std::{any::Any, sync::Arc};

use datafusion::{
    error::{DataFusionError, Result},
    execution::{
        SendableRecordBatchStream, SessionStateBuilder, TaskContext,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::FairSpillPool,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    logical_expr::LogicalPlan,
    optimizer::Optimizer,
    physical_expr::expressions::lit,
    physical_optimizer::optimizer::PhysicalOptimizer,
    physical_plan::{
        ExecutionPlan, execute_stream, filter::FilterExec, joins::NestedLoopJoinExec, replace_children_if_necessary,
        stream::RecordBatchStreamAdapter,
    },
    prelude::{SessionConfig, SessionContext},
};
use futures::{StreamExt, stream};
use polybolos_operators::{left_out::LeftOut, record_scan::RecordScanExec};
use polybolos_sql::logical_rules::keeping_types;
use tokio::{
    runtime::{Handle, Runtime},
    sync::mpsc,
};
use tokio_util::task::AbortOnDropHandle;

/// Memory of all queries of this process together.
const MEMORY: usize = 512 << 20;

/// Partitions of a query.
const PARTITIONS: usize = 4;

/// Batches that wait for whoever reads the answer.
const AHEAD: usize = 2;

/// More than there are processors: some joins compute for minutes before they look whether anybody still waits, and others must get their turn.
const THREADS: usize = 16;

/// So much less than everything else are queries' threads in a hurry.
const NICE: i32 = 5;

/// Nested queries go deep; only what is touched takes memory.
const STACK_BYTES: usize = 32 << 20;

pub struct Queries {
    session: SessionContext,
    memory_only: Arc<RuntimeEnv>,
    threads: Handle,
    /// Behind `threads`.
    _runtime: Background,
}

impl Queries {
    /// `config` says what the session knows besides.
    pub fn new(mut config: SessionConfig) -> anyhow::Result<Self> {
        // `a IS NOT FALSE` is never NULL as written, and may be so as computed, where `a` may be NULL; DataFusion takes that for an error.
        config.options_mut().execution.skip_physical_aggregate_schema_check = true;
        let memory = Arc::new(FairSpillPool::new(MEMORY));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(memory.clone());
        let no_disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let memory_only = RuntimeEnvBuilder::new().with_memory_pool(memory).with_disk_manager_builder(no_disk).build_arc()?;
        let state = SessionStateBuilder::new()
            .with_config(config.with_target_partitions(PARTITIONS))
            .with_runtime_env(runtime.build_arc()?)
            .with_default_features()
            .with_optimizer_rules(keeping_types(&Optimizer::new().rules))
            .with_physical_optimizer_rules(optimizer().rules)
            .build();
        let session = SessionContext::new_with_state(state);
        let threads = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .worker_threads(THREADS)
            .thread_name("queries")
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(|| {
                if let Err(error) = rustix::process::nice(NICE) {
                    tracing::debug!(%error, "queries run with the priority of everything else");
                }
            })
            .build()?;
        Ok(Self { session, memory_only, threads: threads.handle().clone(), _runtime: Background(Some(threads)) })
    }

    pub fn session(&self) -> &SessionContext {
        &self.session
    }

    pub async fn run(&self, plan: &LogicalPlan) -> Result<SendableRecordBatchStream> {
        self.run_telling(plan).await.map(|(rows, _)| rows)
    }

    /// The rows, and what is left out of them, if they are those of topics: all of it once the rows were read.
    pub async fn run_telling(&self, plan: &LogicalPlan) -> Result<(SendableRecordBatchStream, Option<Arc<LeftOut>>)> {
        let plan = self.session.state().create_physical_plan(plan).await?;
        let (reads_topics, left_out) = (reads_topics(&plan), Arc::default());
        let rows = self.run_with(plan, &left_out)?;
        Ok((rows, reads_topics.then_some(left_out)))
    }

    /// How a plan is run whose records stay in the order of their partition.
    pub async fn plan_in_order(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        let mut state = self.session.state();
        // Nothing shares a partition's rows out.
        let config = state.config().clone().with_target_partitions(1);
        *state.config_mut() = config;
        state.create_physical_plan(plan).await
    }

    /// The rows of a plan, and what is left out of them once they were read.
    pub fn execute_telling(&self, plan: Arc<dyn ExecutionPlan>) -> Result<(SendableRecordBatchStream, Arc<LeftOut>)> {
        let left_out = Arc::default();
        Ok((self.run_with(plan, &left_out)?, left_out))
    }

    /// The rows of a plan. It ends when they are dropped; what it panics with is an error.
    pub fn execute(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream> {
        self.run_with(plan, &Arc::default())
    }

    fn run_with(&self, plan: Arc<dyn ExecutionPlan>, left_out: &Arc<LeftOut>) -> Result<SendableRecordBatchStream> {
        let schema = plan.schema();
        let context = TaskContext::from(&self.session.state());
        let config = context.session_config().clone().with_extension(left_out.clone());
        let mut context = context.with_session_config(config);
        let (plan, joins) = without_spilling_joins(plan)?;
        if joins {
            context = context.with_runtime(self.memory_only.clone());
        }
        let (rows, answer) = mpsc::channel(AHEAD);
        let computing = async move {
            match execute_stream(plan, Arc::new(context)) {
                Ok(mut batches) => {
                    while let Some(batch) = batches.next().await {
                        if rows.send(batch).await.is_err() {
                            return;
                        }
                    }
                }
                // Whoever asked may be gone.
                Err(error) => drop(rows.send(Err(error)).await),
            }
        };
        let computing = AbortOnDropHandle::new(self.threads.spawn(computing));
        let batches = stream::unfold(Some((answer, computing)), |running| async move {
            let (mut answer, computing) = running?;
            match answer.recv().await {
                Some(batch) => Some((batch, Some((answer, computing)))),
                None => match computing.await {
                    Ok(()) => None,
                    Err(error) if error.is_panic() => Some((Err(panicked(&*error.into_panic())), None)),
                    Err(_) => Some((Err(DataFusionError::Execution("the scheduler is shutting down".into())), None)),
                },
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches.fuse())))
    }
}

/// The rules of DataFusion 55 without those that push filters down once more, by the names of columns: where both sides of an outer join have a column of one name, and the
/// join's sides were swapped, a filter over both becomes one over the first of the two, which drops rows. No table here takes such filters.
fn optimizer() -> PhysicalOptimizer {
    let mut optimizer = PhysicalOptimizer::new();
    optimizer.rules.retain(|rule| !rule.name().starts_with("FilterPushdown"));
    optimizer
}

fn reads_topics(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<RecordScanExec>() || plan.children().into_iter().any(reads_topics)
}

fn panicked(payload: &(dyn Any + Send)) -> DataFusionError {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    DataFusionError::Execution(format!("the query panicked: {}", text.unwrap_or("no reason given").replace('\n', " ")))
}

/// Nested-loop joins of DataFusion 55 that go to the disk emit rows without a match once per partition, and run their left side twice, which not every node can. So they
/// must not; and as small batches of a shared buffer count for that buffer each, what goes into memory is gathered before. Answers whether there are any.
fn without_spilling_joins(plan: Arc<dyn ExecutionPlan>) -> Result<(Arc<dyn ExecutionPlan>, bool)> {
    let is_join = plan.is::<NestedLoopJoinExec>();
    let mut found = is_join;
    let mut children = Vec::with_capacity(plan.children().len());
    for (place, child) in plan.children().into_iter().enumerate() {
        let (child, below) = without_spilling_joins(child.clone())?;
        found |= below;
        let gathered = is_join && place == 0;
        children.push(if gathered { Arc::new(FilterExec::try_new(lit(true), child)?) as Arc<dyn ExecutionPlan> } else { child });
    }
    Ok((replace_children_if_necessary(plan, children)?, found))
}

/// A runtime that may be dropped anywhere: it waits for nothing.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::arrow::{array::AsArray, datatypes::Int64Type};
    use futures::TryStreamExt;

    use super::*;

    async fn answer(queries: &Queries, sql: &str) -> Result<Vec<i64>> {
        let plan = queries.session().state().create_logical_plan(sql).await?;
        let batches: Vec<_> = queries.run(&plan).await?.try_collect().await?;
        Ok(batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
    }

    fn queries() -> Queries {
        Queries::new(SessionConfig::new()).expect("threads start")
    }

    #[tokio::test]
    async fn a_join_without_room_is_an_error_and_never_a_wrong_count() {
        let queries = queries();
        let join = |rows: u64| {
            format!("SELECT count(*) FROM generate_series(1,{rows}) a LEFT JOIN generate_series(1,2) b ON a.value < b.value")
        };
        assert_eq!(answer(&queries, &join(1_000_000)).await.expect("fits"), [1_000_000]);
        let error = answer(&queries, &join(80_000_000)).await.expect_err("640 MB do not fit");
        assert!(error.to_string().contains("Resources exhausted"), "{error}");
        // 8192 rows of room for each pair, if they were not gathered.
        let three = "SELECT count(*) FROM generate_series(1,20000) a, generate_series(1,2) b, generate_series(1,2) c WHERE a.value % 100 + b.value + c.value = 50";
        assert_eq!(answer(&queries, three).await.expect("fits"), [800]);
    }

    #[tokio::test]
    async fn a_filter_over_both_sides_of_an_outer_join_tells_their_columns_apart() {
        let queries = queries();
        let (one, three) = ("(VALUES (1, 'a')) AS y (id, s)", "(VALUES (1, 'b'), (2, 'c'), (3, 'd')) AS x (id, s)");
        for joined in [
            format!("{one} RIGHT JOIN {three}"),
            format!("{three} LEFT JOIN {one}"),
            format!("{one} FULL JOIN {three}"),
            format!("{three} FULL JOIN {one}"),
        ] {
            for and in ["", "AND upper(x.s) <> 'Z'"] {
                let sql = format!("SELECT x.id FROM {joined} ON x.id = y.id WHERE (y.s IS NULL OR y.s <> x.s) {and} ORDER BY x.id");
                assert_eq!(answer(&queries, &sql).await.expect("answers"), [1, 2, 3], "{sql}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_never_null_as_written_is_grouped_by() {
        let rows = "(SELECT CASE WHEN f IS NOT FALSE THEN 'a' ELSE 'b' END AS x FROM (VALUES (true), (NULL), (false)) AS t (f))";
        let sql = format!("SELECT count(*) FROM {rows} GROUP BY x ORDER BY 1");
        assert_eq!(answer(&queries(), &sql).await.expect("answers"), [1, 2]);
    }

    #[tokio::test]
    async fn a_sum_of_decimals_beside_a_distinct_count_is_compared() {
        let rows = "(VALUES ('x', 1.5, 'a'), ('x', 1.5, 'b'), ('y', 0.5, 'a')) AS t (g, d, k)";
        let sql = format!(
            "SELECT n FROM (SELECT g, sum(CAST(d AS DECIMAL(10, 2))) AS s, count(DISTINCT k) AS n FROM {rows} GROUP BY g) WHERE s > 1"
        );
        assert_eq!(answer(&queries(), &sql).await.expect("answers"), [2]);
    }

    #[tokio::test]
    async fn a_query_that_does_not_yield_keeps_nobody_from_working_and_need_not_be_waited_for() {
        let queries = queries();
        let sql =
            "SELECT count(*) FROM generate_series(1,3000000) a JOIN generate_series(1,300000) b ON (a.value * b.value) % 7 = 1";
        let endless = answer(&queries, sql);
        // On this thread alone, which the query would not give back.
        assert!(tokio::time::timeout(Duration::from_millis(500), endless).await.is_err());
        drop(queries);
    }

    #[tokio::test]
    async fn an_answer_without_rows_may_be_asked_again() {
        let queries = queries();
        let plan = queries.session().state().create_logical_plan("SELECT 1 WHERE 1 > 2").await.expect("plans");
        let mut rows = queries.run(&plan).await.expect("runs");
        assert!(rows.next().await.is_none() && rows.next().await.is_none());
    }
}
