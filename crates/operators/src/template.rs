//! A job's physical plan, built once and filled in with a frame for every epoch. Planning, optimising and fusing happen when the job
//! starts; an epoch only swaps the descriptor source.
use std::sync::Arc;

use datafusion::{
    common::{Result, internal_datafusion_err, internal_err, plan_err},
    execution::{SessionState, TaskContext},
    logical_expr::LogicalPlan,
    physical_expr::expressions::Column,
    physical_plan::{
        ExecutionPlan, PhysicalExpr, coalesce_partitions::CoalescePartitionsExec, coop::CooperativeExec, filter::FilterExec,
        projection::ProjectionExec,
    },
};
use polybolos_dataflow::graph::kept::{columns, layout};
use polybolos_streaming::{
    frame::{Frame, PartWork},
    ids::{Attempt, Generation, Incarnation},
    manifest::StateRun,
};

use crate::{
    codec::check_travels,
    epoch::{exec::EpochExec, flow::Flow, peers::Peer, spec::EpochSpec},
    part_write::{PartWriteExec, WriteSpec},
    record_scan::{OnError, RecordScanExec},
    steps::{Check, Step},
    task::{Recorded, TaskDescriptor, descriptor_source},
    wanted::prune,
};

/// What makes a job's plan the plan of this incarnation.
#[derive(Clone, Debug)]
pub struct JobIdentity {
    pub job: String,
    pub incarnation: Incarnation,
    pub on_error: OnError,
}

/// Which attempt a plan is of, and under whom.
#[derive(Clone, Debug)]
pub struct Run {
    pub generation: Generation,
    pub attempt: Attempt,
    /// Of the attempt's span; empty where nobody traces.
    pub trace_parent: String,
}

impl Run {
    /// The task of one part of a frame, of a job without state.
    fn task(&self, incarnation: &Incarnation, frame: &Frame, work: &PartWork, state: &[StateRun]) -> TaskDescriptor {
        TaskDescriptor {
            incarnation: incarnation.clone(),
            generation: self.generation,
            epoch: frame.epoch,
            attempt: self.attempt,
            clock_us: frame.clock_us,
            watermark_us: frame.watermark_us,
            closing: None,
            state_clock_us: frame.window_start_us,
            recorded: Recorded::default(),
            logs: frame.logs.clone(),
            work: work.clone(),
            peers: vec![],
            state: state.to_vec(),
            trace_parent: self.trace_parent.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct PlanTemplate {
    incarnation: Incarnation,
    scan: Arc<RecordScanExec>,
    write: WriteSpec,
}

impl PlanTemplate {
    /// Plans one INSERT of a job. `plan` is optimised and reads exactly one streaming source.
    pub async fn build(
        session: &SessionState,
        plan: &LogicalPlan,
        identity: JobIdentity,
        write: WriteSpec,
        checks: Vec<Check>,
    ) -> Result<Self> {
        let physical = session.query_planner().create_physical_plan(plan, session).await?;
        let scan = prune(&fuse(&physical)?)?;
        let mut spec = scan.spec().as_ref().clone();
        spec.job = identity.job;
        spec.incarnation = identity.incarnation.0.clone();
        spec.on_error = identity.on_error;
        spec.checks = checks;
        Ok(Self { incarnation: identity.incarnation, scan: Arc::new(scan.with_spec(spec)), write })
    }

    /// Reads the plan as an executor does, so that what it could not open is refused when the job is made. `context` knows our functions.
    pub fn check(&self, context: &TaskContext) -> Result<()> {
        check_travels(&self.scan, context)
    }

    pub fn scan(&self) -> &RecordScanExec {
        &self.scan
    }

    pub fn write(&self) -> &WriteSpec {
        &self.write
    }

    /// The plan of one attempt: one partition per part of the frame, upon the given runs of state. `freeze` replaces what an expression reads of the frame (its clock).
    pub fn fill(
        &self,
        frame: &Frame,
        run: &Run,
        state: &[StateRun],
        freeze: impl Fn(&Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let task = |work: &PartWork| run.task(&self.incarnation, frame, work, state);
        let tasks: Vec<_> = frame.parts.iter().map(task).collect();
        let steps = self.scan.steps().iter().map(|step| step.map_expressions(&freeze)).collect::<Result<Vec<_>>>()?;
        let scan =
            RecordScanExec::new(self.scan.spec().clone(), self.scan.decoded().clone(), steps.into(), descriptor_source(&tasks)?);
        Ok(Arc::new(PartWriteExec::new(self.write.clone(), Arc::new(scan))))
    }
}

/// The plan of a job with state: what an executor runs travels in it as it is, an epoch only swaps the descriptor.
#[derive(Clone, Debug)]
pub struct EpochTemplate {
    spec: Arc<EpochSpec>,
    encoded: Arc<str>,
    flow: Arc<Flow>,
}

impl EpochTemplate {
    /// Makes the dataflow once, so that what has no incremental operator is refused when the job is made. `context` knows our functions.
    pub fn build(spec: EpochSpec, context: &TaskContext) -> Result<Self> {
        let encoded = serde_json::to_string(&spec).map_err(|error| internal_datafusion_err!("the plan of a job: {error}"))?;
        let flow = Flow::build(Arc::new(spec), context)?;
        Ok(Self { spec: flow.spec.clone(), encoded: encoded.into(), flow: Arc::new(flow) })
    }

    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The plan of one attempt. `peers`: who computes which part, where there are several.
    pub fn fill(
        &self,
        frame: &Frame,
        run: &Run,
        state: &[StateRun],
        recorded: Recorded,
        peers: &[Peer],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if frame.parts.len() != peers.len().max(1) {
            return internal_err!("an epoch of {} parts has {} executors", frame.parts.len(), peers.len());
        }
        let task = |work: &PartWork| TaskDescriptor {
            closing: frame.closing.clone(),
            recorded,
            peers: peers.to_vec(),
            ..run.task(&self.spec.incarnation, frame, work, state)
        };
        let tasks: Vec<_> = frame.parts.iter().map(task).collect();
        Ok(Arc::new(EpochExec::new(self.spec.clone(), self.encoded.clone(), descriptor_source(&tasks)?)))
    }
}

/// A job's plan, of either kind.
#[derive(Clone, Debug)]
pub enum JobTemplate {
    Stateless(PlanTemplate),
    Stateful(EpochTemplate),
}

impl JobTemplate {
    /// What the job's state must have been written by, a line each; nothing where it has none.
    pub fn layout(&self) -> Vec<String> {
        match self {
            Self::Stateless(_) => vec![],
            Self::Stateful(template) => layout(&template.flow().kept()),
        }
    }

    /// The columns that its state must have been written of, with their types, a line each.
    pub fn kept_columns(&self) -> Vec<String> {
        match self {
            Self::Stateless(_) => vec![],
            Self::Stateful(template) => columns(&template.flow().kept()),
        }
    }
}

/// Folds filters and projections into the scan below them, so that a batch passes them without leaving the task, and so that a row that
/// fails can be told apart and named by its record.
pub fn fuse(plan: &Arc<dyn ExecutionPlan>) -> Result<RecordScanExec> {
    if let Some(scan) = plan.downcast_ref::<RecordScanExec>() {
        return Ok(scan.clone());
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let scan = fuse(projection.input())?;
        let expressions = projection.expr().iter().map(|item| (item.expr.clone(), item.alias.clone())).collect();
        let step = Step::project(expressions, &projection.input().schema())?;
        return Ok(scan.with_step(step));
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let scan = fuse(filter.input())?.with_step(Step::Filter(filter.predicate().clone()));
        let Some(kept) = filter.projection().as_ref() else { return Ok(scan) };
        let input = filter.input().schema();
        let columns = kept.iter().map(|&index| {
            let name = input.field(index).name().clone();
            (Arc::new(Column::new(&name, index)) as Arc<dyn PhysicalExpr>, name)
        });
        return Ok(scan.with_step(Step::project(columns.collect(), &input)?));
    }
    let passes_rows_through = plan.is::<CoalescePartitionsExec>() || plan.is::<CooperativeExec>();
    match plan.children().as_slice() {
        [child] if passes_rows_through => fuse(child),
        _ => plan_err!("{} is not supported in a streaming job yet; a job may filter and project one Kafka table", plan.name()),
    }
}
