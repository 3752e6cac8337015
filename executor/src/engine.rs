//! How stages are executed here. A stage of an epoch answers no rows: what it did travels by report. Ballista's own way is to make two folders and a file for them, to be
//! removed a second later; at a hundred epochs a second that was a fifth of an executor's time.
use std::{fmt, sync::Arc};

use ballista_core::{JobId, execution_plans::ShuffleWriterExec, serde::protobuf::ShuffleWritePartition, utils};
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use datafusion::{
    common::{DataFusionError, Result, internal_err},
    execution::TaskContext,
    physical_plan::{ExecutionPlan, ExecutionPlanProperties, metrics::MetricsSet},
    prelude::SessionConfig,
};
use futures::{TryFutureExt, TryStreamExt, future};
use polybolos_operators::{epoch::exec::EpochExec, part_write::PartWriteExec, task::read_descriptor};
use polybolos_service::{exit::chained, telemetry};
use polybolos_tables::plain::plain;
use tokio::task::JoinSet;
use tracing::{
    Instrument, Span, debug_span,
    field::{Empty, display},
};

/// Runs epochs without shuffle files, and all else as Ballista does.
#[derive(Default)]
pub struct EpochEngine {
    ballista: DefaultExecutionEngine,
}

impl ExecutionEngine for EpochEngine {
    fn create_query_stage_exec(
        &self,
        job: JobId,
        stage: usize,
        task: usize,
        partitions: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let answers_no_rows = plan.is::<ShuffleWriterExec>()
            && plan.children().iter().all(|child| child.is::<EpochExec>() || child.is::<PartWriteExec>());
        if answers_no_rows {
            return Ok(Arc::new(EpochStage { plan, partitions }));
        }
        self.ballista.create_query_stage_exec(job, stage, task, partitions, plan, work_dir, config)
    }
}

#[derive(Debug)]
struct EpochStage {
    /// With the writer at its top, which is not executed.
    plan: Arc<dyn ExecutionPlan>,
    /// The stage's partitions that are this task's, in the order of the plan's own.
    partitions: Vec<usize>,
}

impl fmt::Display for EpochStage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "EpochStage: partitions={:?}", self.partitions)
    }
}

#[async_trait::async_trait]
impl QueryStageExecutor for EpochStage {
    async fn execute_query_stage(&self, task: usize, context: Arc<TaskContext>) -> Result<Vec<ShuffleWritePartition>> {
        let work = self.plan.children()[0];
        let count = work.output_partitioning().partition_count();
        if count != self.partitions.len() {
            return internal_err!("a task of {} partitions has a plan of {count}", self.partitions.len());
        }
        let mut running = JoinSet::new();
        for (local, global) in self.partitions.iter().enumerate() {
            let span = task_span(work, local, &context).await;
            let rows = work.execute(local, context.clone())?;
            let answer = ShuffleWritePartition { partition_id: *global as u64, file_id: Some(task as u64), ..Default::default() };
            let part = rows.try_for_each(|_| future::ok(())).map_ok(move |()| answer).map_err(in_words);
            running.spawn(part.instrument(span));
        }
        let mut answers = Vec::with_capacity(count);
        while let Some(ended) = running.join_next().await {
            answers.push(ended.map_err(|error| DataFusionError::Execution(format!("a part's task ended early: {error}")))??);
        }
        Ok(answers)
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        utils::collect_plan_metrics(self.plan.as_ref())
    }
}

/// Of one part, in the trace of the attempt that ordered it. Its descriptor is read only where somebody wants the span.
async fn task_span(work: &Arc<dyn ExecutionPlan>, partition: usize, context: &Arc<TaskContext>) -> Span {
    let span = debug_span!("task", incarnation = Empty, epoch = Empty, attempt = Empty, part = Empty);
    if span.is_disabled() {
        return span;
    }
    // What is wrong with it is said when it is executed.
    if let Ok(task) = read_descriptor(leaf(work), partition, context.clone()).await {
        telemetry::follow(&span, task.trace_parent);
        span.record("incarnation", display(&task.incarnation));
        span.record("epoch", task.epoch.0 as i64);
        span.record("attempt", task.attempt.0 as i64);
        span.record("part", i64::from(task.work.part.0));
    }
    span
}

fn leaf(plan: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
    match plan.children().into_iter().next() {
        Some(child) => leaf(child),
        None => plan,
    }
}

/// Errors of our own crates say what happened and what to do, in words; Ballista would show them as Rust does to programmers.
fn in_words(error: DataFusionError) -> DataFusionError {
    match error.find_root() {
        DataFusionError::External(cause) => DataFusionError::Execution(plain(&chained(cause.as_ref()))),
        DataFusionError::Execution(_)
        | DataFusionError::Internal(_)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Plan(_) => DataFusionError::Execution(plain(&error.to_string())),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::RecordBatch,
            datatypes::{Schema, SchemaRef},
        },
        execution::SendableRecordBatchStream,
        physical_plan::{
            coalesce_partitions::CoalescePartitionsExec,
            stream::RecordBatchStreamAdapter,
            streaming::{PartitionStream, StreamingTableExec},
        },
    };

    use super::*;

    /// A part that answers no rows, or panics in the middle of its work.
    #[derive(Debug)]
    struct Work {
        schema: SchemaRef,
        panics: bool,
    }

    impl PartitionStream for Work {
        fn schema(&self) -> &SchemaRef {
            &self.schema
        }

        fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
            let (empty, panics) = (self.schema.clone(), self.panics);
            let work = async move {
                tokio::task::yield_now().await;
                assert!(!panics, "a bug of the plan");
                Ok(RecordBatch::new_empty(empty))
            };
            Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::once(work)))
        }
    }

    fn stage(parts: &[bool]) -> EpochStage {
        let schema: SchemaRef = Arc::new(Schema::empty());
        let part = |panics: &bool| Arc::new(Work { schema: schema.clone(), panics: *panics }) as Arc<dyn PartitionStream>;
        let work = StreamingTableExec::try_new(schema.clone(), parts.iter().map(part).collect(), None, None, false, None);
        // As its writer would be, the node at the top is not executed.
        let plan = Arc::new(CoalescePartitionsExec::new(Arc::new(work.expect("a plan"))));
        EpochStage { plan, partitions: (0..parts.len()).collect() }
    }

    #[tokio::test]
    async fn a_plan_that_panics_fails_its_task_in_its_words_and_no_other() {
        let context = Arc::new(TaskContext::default());
        let error = stage(&[false, true]).execute_query_stage(0, context.clone()).await.expect_err("it panics");
        assert!(
            error.to_string().contains("a part's task ended early") && error.to_string().contains("a bug of the plan"),
            "{error}"
        );
        let answers = stage(&[false, false]).execute_query_stage(1, context).await.expect("others go on");
        assert_eq!(answers.len(), 2);
    }

    #[test]
    fn our_own_errors_travel_in_words() {
        let error = std::io::Error::other("the disk is full");
        let told = in_words(DataFusionError::External(Box::new(error)).context("an epoch"));
        assert!(matches!(&told, DataFusionError::Execution(words) if words == "the disk is full"), "{told:?}");
        let told = in_words(DataFusionError::Plan("no such node".into()).context("looking up rows of t"));
        assert!(matches!(&told, DataFusionError::Execution(words) if words == "looking up rows of t: no such node"), "{told:?}");
        let io = in_words(DataFusionError::IoError(std::io::Error::other("gone")));
        assert!(matches!(io, DataFusionError::IoError(_)), "Ballista tries again after those");
    }
}
