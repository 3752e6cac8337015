//! The end of an epoch's stage: keeps the last change per key, writes the part file durably, and reports it. Answers no rows: what
//! happened travels by report, and counts only if the record names it.
use std::{collections::BTreeMap, fmt, sync::Arc};

use datafusion::{
    arrow::{array::RecordBatch, datatypes::Schema},
    common::{DataFusionError, Result, internal_datafusion_err, internal_err, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::EquivalenceProperties,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::TryStreamExt;
use polybolos_persist::{
    crash, keys,
    part::{self, Encoded, Sections},
};
use polybolos_streaming::{
    ids::{Nonce, SinkId},
    manifest::DEAD_LETTERS,
    report::{PartFile, PartReport},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    dead_letters, external,
    last_per_key::last_per_key,
    services::{ExecutorServices, TaskSlot},
    task::TaskDescriptor,
};

/// What becomes of a sink's rows inside a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeping {
    /// One change per key, the last; the key's column indexes.
    LastPerKey(Vec<usize>),
    /// Every row.
    All,
    /// None; only counted.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteSpec {
    pub sink: SinkId,
    pub keeping: Keeping,
}

#[derive(Debug, Clone)]
pub struct PartWriteExec {
    spec: WriteSpec,
    child: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl PartWriteExec {
    pub fn new(spec: WriteSpec, child: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::new(Schema::empty())),
            Partitioning::UnknownPartitioning(child.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { spec, child, properties: Arc::new(properties) }
    }

    pub fn spec(&self) -> &WriteSpec {
        &self.spec
    }
}

impl DisplayAs for PartWriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "PartWriteExec: sink={}, keeping={:?}", self.spec.sink, self.spec.keeping)
    }
}

impl ExecutionPlan for PartWriteExec {
    fn name(&self) -> &'static str {
        "PartWriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.child]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    #[allow(deprecated)]
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(child), true) => Ok(Arc::new(Self::new(self.spec.clone(), child))),
            _ => internal_err!("PartWriteExec has exactly one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let services = ExecutorServices::of(&context)?;
        // An earlier execution in this process may have left its slot behind when it failed.
        services.take_slot(&context, partition);
        let rows = self.child.execute(partition, context.clone())?;
        let spec = self.spec.clone();
        let schema = self.schema();
        let empty = schema.clone();
        let work = async move {
            let batches: Result<Vec<RecordBatch>> = rows.try_collect().await;
            let slot = services.take_slot(&context, partition);
            write_part(&spec, batches?, slot, &services).await?;
            Ok(RecordBatch::new_empty(empty))
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(work))))
    }
}

async fn write_part(spec: &WriteSpec, batches: Vec<RecordBatch>, mut slot: TaskSlot, services: &ExecutorServices) -> Result<()> {
    let task = slot.descriptor.take().ok_or_else(|| internal_datafusion_err!("the source left no descriptor"))?;
    let cancelled = services.admit(&task)?;

    let started = Instant::now();
    let computed: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let mut sinks: BTreeMap<SinkId, Vec<RecordBatch>> = BTreeMap::new();
    match &spec.keeping {
        Keeping::Nothing => slot.counts.rows_out = computed,
        Keeping::All => {
            slot.counts.rows_out = computed;
            if computed > 0 {
                sinks.insert(spec.sink, batches);
            }
        }
        Keeping::LastPerKey(key) => {
            if let Some(batch) = last_per_key(&batches, key)? {
                slot.counts.rows_out = batch.num_rows() as u64;
                sinks.insert(spec.sink, vec![batch]);
            }
        }
    }
    if !slot.dead_letters.is_empty() {
        sinks.insert(DEAD_LETTERS, vec![dead_letters::batch(&slot.dead_letters)?]);
    }
    slot.times.compute_us += started.elapsed().as_micros() as u64;

    let started = Instant::now();
    let execution = Nonce(uuid::Uuid::new_v4().simple().to_string());
    let file = store_part(&task, &execution, sinks, services).await?;
    slot.times.write_us = started.elapsed().as_micros() as u64;
    if cancelled.is_cancelled() {
        return Err(DataFusionError::Execution(format!("attempt {} of epoch {} was cancelled", task.attempt, task.epoch)));
    }

    let report = PartReport {
        incarnation: task.incarnation,
        generation: task.generation,
        epoch: task.epoch,
        attempt: task.attempt,
        execution,
        executor: services.executor.clone(),
        work: task.work,
        file,
        counts: slot.counts,
        times: slot.times,
        max_timestamp_ms: slot.max_timestamp_ms,
        event_time_us: BTreeMap::new(),
        fired_us: None,
    };
    services.reports.send(report).await.map_err(|_| DataFusionError::Execution("the executor is shutting down".into()))
}

/// Writes the part file, unless there is nothing to write.
async fn store_part(
    task: &TaskDescriptor,
    execution: &Nonce,
    sinks: BTreeMap<SinkId, Vec<RecordBatch>>,
    services: &ExecutorServices,
) -> Result<PartFile> {
    let part = task.work.part;
    if sinks.is_empty() {
        return Ok(PartFile::none(part));
    }
    let name = keys::part(&task.incarnation, task.epoch, task.attempt, part, execution);
    let rows: BTreeMap<SinkId, u64> =
        sinks.iter().map(|(sink, batches)| (*sink, batches.iter().map(|batch| batch.num_rows() as u64).sum())).collect();
    let encoded = part::encode(&Sections { sinks, state: vec![] }).map_err(external)?;
    let Encoded { bytes, crc32, state_bytes } = encoded;
    let file = PartFile { part, name: name.clone(), bytes: bytes.len() as u64, crc32, rows, state_bytes, state_end: None };
    services.parts.insert(&name, bytes.clone());
    services.store.create(&name, bytes).await.map_err(external)?;
    crash::point("part-synced");
    Ok(file)
}
