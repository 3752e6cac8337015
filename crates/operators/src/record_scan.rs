//! Reads one exact offset range per partition, decodes it column-wise and runs the stateless steps over it. Sits on a descriptor source
//! (see [`crate::task`]), never as a leaf. Records that fail go to the task's slot as dead letters, unless the job wants to fail;
//! a query counts them.
use std::{fmt, sync::Arc, time::Duration};

use datafusion::{
    arrow::{array::UInt32Array, datatypes::SchemaRef},
    common::{DataFusionError, Result, internal_err, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::EquivalenceProperties,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::TryStreamExt;
use polybolos_kafka::{
    connection::Connection,
    decode::{DecodeOptions, Field, JsonDecoder},
    fetcher::{FetchTopic, SourceKey},
    records::RecordChunk,
};
use polybolos_streaming::{frame::SourceRange, ids::SourcePartition};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    dead_letters::{DeadLetter, Place, cut, record_id},
    external,
    left_out::LeftOut,
    services::ExecutorServices,
    steps::{self, Check, Failure, Step},
    task::{TaskDescriptor, read_descriptor},
};

/// Records decoded and evaluated at once.
pub(crate) const BATCH_RECORDS: usize = 8_192;

/// How long a task waits for records of its range before it gives the attempt up; the coordinator's deadline is shorter as a rule.
pub(crate) const READ_DEADLINE: Duration = Duration::from_secs(60);

/// What to do with a record that cannot be processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    DeadLetter,
    Fail,
}

/// What a scan reads; the same for every epoch of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanSpec {
    pub job: String,
    pub incarnation: String,
    pub source: u32,
    pub connection: Connection,
    pub topic: String,
    /// One per decoded column.
    pub fields: Vec<Field>,
    pub options: DecodeOptions,
    pub on_error: OnError,
    pub checks: Vec<Check>,
}

impl ScanSpec {
    pub fn key(&self) -> SourceKey {
        SourceKey { incarnation: self.incarnation.clone(), source: self.source }
    }

    /// Whether its records are rows of a table that keeps the last of each key.
    pub fn keeps_last_record(&self) -> bool {
        self.options.tombstones.is_some()
    }

    /// What is fetched for it.
    pub fn fetched(&self) -> FetchTopic<'_> {
        let headers = self.fields.contains(&Field::Headers);
        FetchTopic { headers, ..FetchTopic::new(&self.connection, &self.topic) }
    }

    /// What becomes of record `record` of `chunk`.
    pub(crate) fn dead_letter(
        &self,
        step: &'static str,
        error: String,
        record: u32,
        chunk: &RecordChunk,
        place: Place<'_>,
    ) -> DeadLetter {
        let index = record as usize;
        let offset = chunk.offset(index);
        let (raw, raw_bytes) = cut(chunk.payload(index));
        DeadLetter {
            id: record_id(&self.incarnation, &self.topic, place, offset, self.keeps_last_record()),
            job: self.job.clone(),
            step,
            error,
            topic: Some(self.topic.clone()),
            partition: Some(place.partition),
            offset: Some(offset),
            timestamp_ms: chunk.timestamp_ms(index),
            key: chunk.key(index).map(<[u8]>::to_vec),
            raw,
            raw_bytes,
        }
    }
}

#[derive(Debug, Clone)]
pub struct RecordScanExec {
    spec: Arc<ScanSpec>,
    decoded: SchemaRef,
    steps: Arc<[Step]>,
    output: SchemaRef,
    child: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl RecordScanExec {
    /// `child` is a descriptor source; the scan has its partitions.
    pub fn new(spec: Arc<ScanSpec>, decoded: SchemaRef, steps: Arc<[Step]>, child: Arc<dyn ExecutionPlan>) -> Self {
        let output = steps.iter().fold(decoded.clone(), |schema, step| step.output(&schema));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(output.clone()),
            Partitioning::UnknownPartitioning(child.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { spec, decoded, steps, output, child, properties: Arc::new(properties) }
    }

    pub fn spec(&self) -> &Arc<ScanSpec> {
        &self.spec
    }

    pub fn decoded(&self) -> &SchemaRef {
        &self.decoded
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub fn child(&self) -> &Arc<dyn ExecutionPlan> {
        &self.child
    }

    /// The same scan with one step more.
    pub fn with_step(&self, step: Step) -> Self {
        let steps: Arc<[Step]> = self.steps.iter().cloned().chain([step]).collect();
        Self::new(self.spec.clone(), self.decoded.clone(), steps, self.child.clone())
    }

    /// The same scan with another specification, for a job's checks and identity.
    pub fn with_spec(&self, spec: ScanSpec) -> Self {
        Self { spec: Arc::new(spec), ..self.clone() }
    }
}

impl DisplayAs for RecordScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let columns: Vec<_> = self.decoded.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "RecordScanExec: topic={}, columns=[{}], steps={}", self.spec.topic, columns.join(", "), self.steps.len())
    }
}

impl ExecutionPlan for RecordScanExec {
    fn name(&self) -> &'static str {
        "RecordScanExec"
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
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for step in self.steps.iter() {
            match step {
                Step::Filter(expression) => {
                    visit(expression)?;
                }
                Step::Project { expressions, .. } => {
                    for (expression, _) in expressions {
                        visit(expression)?;
                    }
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    #[allow(deprecated)]
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(child), true) => Ok(Arc::new(Self::new(self.spec.clone(), self.decoded.clone(), self.steps.clone(), child))),
            _ => internal_err!("RecordScanExec has exactly one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let services = ExecutorServices::of(&context)?;
        let scan = self.clone();
        let batches = async move {
            let task = read_descriptor(&scan.child, partition, context.clone()).await?;
            scan.start(task, partition, context, services).await
        };
        let stream = futures::stream::once(batches).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.output.clone(), stream)))
    }
}

/// One partition's progress through its chunks.
struct Scanning {
    scan: RecordScanExec,
    task: TaskDescriptor,
    partition: usize,
    context: Arc<TaskContext>,
    services: Arc<ExecutorServices>,
    decoder: JsonDecoder,
    chunks: std::vec::IntoIter<RecordChunk>,
    current: Option<(RecordChunk, usize)>,
    cancelled: tokio_util::sync::CancellationToken,
    source: SourcePartition,
}

impl RecordScanExec {
    async fn start(
        self,
        task: TaskDescriptor,
        partition: usize,
        context: Arc<TaskContext>,
        services: Arc<ExecutorServices>,
    ) -> Result<impl futures::Stream<Item = Result<datafusion::arrow::array::RecordBatch>>> {
        let cancelled = services.admit(&task)?;
        let SourceRange { source, range } = *task.only_range()?;
        let started = Instant::now();
        let spec = self.spec.clone();
        let key = spec.key();
        let read = services.fetcher.read(&key, spec.fetched(), source.partition, range, READ_DEADLINE);
        let chunks = tokio::select! {
            () = cancelled.cancelled() => return Err(cancelled_error(&task)),
            chunks = read => chunks.map_err(external)?,
        };
        services.with_slot(&context, partition, |slot| {
            slot.descriptor = Some(task.clone());
            slot.times.fetch_us = started.elapsed().as_micros() as u64;
            slot.counts.records_in = chunks.iter().map(|chunk| chunk.len() as u64).sum();
            slot.counts.bytes_in = chunks.iter().map(|chunk| chunk.bytes() as u64).sum();
            let newest = chunks.iter().flat_map(|chunk| (0..chunk.len()).filter_map(|index| chunk.timestamp_ms(index)));
            slot.max_timestamp_ms = newest.max();
        });
        let decoder = JsonDecoder::new(self.decoded.clone(), spec.fields.clone(), spec.options.clone()).map_err(external)?;
        let state = Scanning {
            scan: self,
            task,
            partition,
            context,
            services,
            decoder,
            chunks: chunks.into_iter(),
            current: None,
            cancelled,
            source,
        };
        Ok(futures::stream::try_unfold(state, |mut state| async move {
            let batches = state.next()?;
            Ok::<_, DataFusionError>(batches.map(|batches| (futures::stream::iter(batches.into_iter().map(Ok)), state)))
        })
        .try_flatten())
    }
}

impl Scanning {
    /// Decodes and evaluates the next run of records; `None` at the end of the range.
    fn next(&mut self) -> Result<Option<Vec<datafusion::arrow::array::RecordBatch>>> {
        if self.cancelled.is_cancelled() {
            return Err(cancelled_error(&self.task));
        }
        let (chunk, start) = match self.current.take() {
            Some(current) => current,
            None => match self.chunks.next() {
                Some(chunk) => (chunk, 0),
                None => return Ok(None),
            },
        };
        let end = chunk.len().min(start + BATCH_RECORDS);
        if end < chunk.len() {
            self.current = Some((chunk.clone(), end));
        }
        let spec = self.scan.spec.clone();
        let started = Instant::now();
        let decoded = self.decoder.decode(&chunk, start..end, &spec.topic, self.source.partition).map_err(external)?;
        let decode_us = started.elapsed().as_micros() as u64;
        let decode_failures: Vec<Failure> =
            decoded.failures.into_iter().map(|failure| Failure { record: failure.record, error: failure.error }).collect();

        let started = Instant::now();
        let mut failures = vec![];
        let records = UInt32Array::from(decoded.records);
        let output = steps::run(&self.scan.steps, &spec.checks, decoded.batch, records, &mut failures)?;
        let compute_us = started.elapsed().as_micros() as u64;

        let letters: Vec<_> = decode_failures
            .iter()
            .map(|failure| self.dead_letter("decode", failure, &chunk))
            .chain(failures.iter().map(|failure| self.dead_letter("compute", failure, &chunk)))
            .collect();
        if let (OnError::Fail, Some(letter)) = (spec.on_error, letters.first()) {
            return Err(DataFusionError::Execution(format!(
                "record {} cannot be processed: {}; correct or skip it, or set 'on_error' = 'dead_letter'",
                letter.id, letter.error
            )));
        }
        if let Some(left_out) = self.context.session_config().get_extension::<LeftOut>() {
            left_out.add(&spec, &letters);
            return Ok(Some(output));
        }
        self.services.with_slot(&self.context, self.partition, |slot| {
            slot.times.decode_us += decode_us;
            slot.times.compute_us += compute_us;
            slot.counts.dead_letters += letters.len() as u64;
            slot.dead_letters.extend(letters);
        });
        Ok(Some(output))
    }

    fn dead_letter(&self, step: &'static str, failure: &Failure, chunk: &RecordChunk) -> DeadLetter {
        self.scan.spec.dead_letter(step, failure.error.clone(), failure.record, chunk, self.task.place(self.source))
    }
}

pub(crate) fn cancelled_error(task: &TaskDescriptor) -> DataFusionError {
    DataFusionError::Execution(format!("attempt {} of epoch {} was cancelled", task.attempt, task.epoch))
}
