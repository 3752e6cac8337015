//! The one node of an epoch of a job with state. Answers no rows: what happened travels by report, and counts only if the record names it.
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use datafusion::{
    arrow::{array::RecordBatch, datatypes::Schema, json::LineDelimitedWriter},
    common::{DataFusionError, Result, internal_err, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::EquivalenceProperties,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use parking_lot::Mutex;
use polybolos_dataflow::{Dataflow, Delta, EpochInput, FailedRow};
use polybolos_kafka::records::RecordChunk;
use polybolos_persist::{
    crash, keys,
    part::{self, Encoded, Sections},
};
use polybolos_state::end_of_run;
use polybolos_streaming::{
    frame::SourceRange,
    ids::{Nonce, SinkId, SourcePartition},
    manifest::{DEAD_LETTERS, LATE_ROWS},
    report::{Counts, PartFile, PartReport, StepTimes},
};
use polybolos_tables::plain::{plain, up_to};
use tokio::{runtime::Handle, sync::OwnedMutexGuard, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    compact::end_as_recorded,
    flow::Flow,
    held::HeldState,
    lookup::{self, Asking},
    peers::TaskPeers,
    spec::EpochSpec,
};
use crate::{
    dead_letters::{self, DeadLetter, cut},
    external,
    record_scan::{OnError, READ_DEADLINE, cancelled_error},
    services::ExecutorServices,
    steps::Step,
    task::{TaskDescriptor, read_descriptor},
};

/// Most characters of an operator that people are shown.
pub const SHOWN_OPERATOR: usize = 200;

#[derive(Debug, Clone)]
pub struct EpochExec {
    spec: Arc<EpochSpec>,
    /// The specification as it travels, made once.
    encoded: Arc<str>,
    child: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl EpochExec {
    pub fn new(spec: Arc<EpochSpec>, encoded: Arc<str>, child: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::new(Schema::empty())),
            Partitioning::UnknownPartitioning(child.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { spec, encoded, child, properties: Arc::new(properties) }
    }

    pub fn encoded(&self) -> &Arc<str> {
        &self.encoded
    }
}

impl DisplayAs for EpochExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "EpochExec: job={}, lanes={}, inserts={}", self.spec.job, self.spec.lanes, self.spec.sinks.len())
    }
}

impl ExecutionPlan for EpochExec {
    fn name(&self) -> &'static str {
        "EpochExec"
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
            (Some(child), true) => Ok(Arc::new(Self::new(self.spec.clone(), self.encoded.clone(), child))),
            _ => internal_err!("EpochExec has exactly one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let services = ExecutorServices::of(&context)?;
        let (spec, child, schema) = (self.spec.clone(), self.child.clone(), self.schema());
        let empty = schema.clone();
        let work = async move {
            let task = read_descriptor(&child, partition, context).await?;
            let flow = services.flows.of(&spec, &services.plan_context)?;
            run(task, flow, services).await?;
            Ok(RecordBatch::new_empty(empty))
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(work))))
    }
}

/// What an epoch computed, before it is written.
#[derive(Default)]
struct Outcome {
    sinks: BTreeMap<SinkId, Vec<RecordBatch>>,
    state: Vec<RecordBatch>,
    counts: Counts,
    times: StepTimes,
    event_time_us: BTreeMap<SourcePartition, i64>,
    fired_us: Option<i64>,
}

async fn run(task: TaskDescriptor, flow: Arc<Flow>, services: Arc<ExecutorServices>) -> Result<()> {
    let cancelled = services.begin(&task)?;
    if let Some(expected) = task.peers.get(usize::from(task.work.part.0)).filter(|peer| peer.executor != services.executor) {
        return Err(DataFusionError::Execution(format!(
            "part {} runs on executor {}, and the other parts look for it on {}",
            task.work.part, services.executor, expected.executor
        )));
    }
    let started = Instant::now();
    let records = tokio::select! {
        () = cancelled.cancelled() => return Err(cancelled_error(&task)),
        records = read(&task, &flow, &services) => records?,
    };
    let fetch_us = started.elapsed().as_micros() as u64;
    // One task of a job works at a time; an attempt that is given up is cancelled and lets go.
    let held = tokio::select! {
        () = cancelled.cancelled() => return Err(cancelled_error(&task)),
        held = flow.held.clone().lock_owned() => held,
    };
    let max_timestamp_ms = newest(&records);
    let (computed, mut held) = compute(&task, &flow, records, &services, held, cancelled.clone()).await?;
    let mut outcome = computed?;
    outcome.times.fetch_us = fetch_us;

    let started = Instant::now();
    let execution = Nonce(uuid::Uuid::new_v4().simple().to_string());
    let file = store_part(&task, &execution, &mut outcome, &services).await?;
    outcome.times.write_us = started.elapsed().as_micros() as u64;
    if cancelled.is_cancelled() {
        return Err(cancelled_error(&task));
    }
    if file.state_bytes > 0 {
        held.wrote(&file.name)
    } else {
        held.unchanged(&task)
    }
    drop(held);
    let report = PartReport {
        incarnation: task.incarnation,
        generation: task.generation,
        epoch: task.epoch,
        attempt: task.attempt,
        execution,
        executor: services.executor.clone(),
        work: task.work,
        file,
        counts: outcome.counts,
        times: outcome.times,
        max_timestamp_ms,
        event_time_us: outcome.event_time_us,
        fired_us: outcome.fired_us,
    };
    services.reports.send(report).await.map_err(|_| DataFusionError::Execution("the executor is shutting down".into()))
}

type Records = Vec<(SourceRange, Vec<RecordChunk>)>;

fn newest(records: &Records) -> Option<i64> {
    let chunks = records.iter().flat_map(|(_, chunks)| chunks);
    chunks.flat_map(|chunk| (0..chunk.len()).filter_map(|index| chunk.timestamp_ms(index))).max()
}

/// The records of all ranges.
async fn read(task: &TaskDescriptor, flow: &Flow, services: &Arc<ExecutorServices>) -> Result<Records> {
    let one = |range: SourceRange| async move {
        let scan = flow.scans.iter().find(|scan| scan.spec.source == range.source.source.0);
        let Some(spec) = scan.map(|scan| &scan.spec) else { return Ok((range, vec![])) };
        let key = spec.key();
        let read = services.fetcher.read(&key, spec.fetched(), range.source.partition, range.range, READ_DEADLINE);
        let chunks = read.await.map_err(external)?;
        Ok::<_, DataFusionError>((range, chunks))
    };
    futures::future::try_join_all(task.work.ranges.iter().map(|range| one(*range))).await
}

/// Brings the state to where the epoch begins, decodes and computes, on a thread of its own: it is all CPU and disk.
async fn compute(
    task: &TaskDescriptor,
    flow: &Arc<Flow>,
    records: Records,
    services: &Arc<ExecutorServices>,
    mut held: OwnedMutexGuard<HeldState>,
    cancelled: CancellationToken,
) -> Result<(Result<Outcome>, OwnedMutexGuard<HeldState>)> {
    let (task, flow, services) = (task.clone(), flow.clone(), services.clone());
    let computing = tokio::task::spawn_blocking(move || {
        let dataflow = flow.dataflow.of_share(task.share());
        held.hold(&dataflow, &flow);
        if let Err(error) = Handle::current().block_on(held.bring_to(&task, &flow, &services)) {
            return (Err(error), held);
        }
        let outcome = compute_now(&task, &flow, &dataflow, &records, &mut held, &services, &cancelled);
        if outcome.is_err() {
            held.state.discard();
        }
        (outcome, held)
    });
    computing.await.map_err(|error| DataFusionError::Execution(format!("an epoch's task ended early: {error}")))
}

fn compute_now(
    task: &TaskDescriptor,
    flow: &Flow,
    dataflow: &Dataflow,
    records: &Records,
    held: &mut HeldState,
    services: &ExecutorServices,
    cancelled: &CancellationToken,
) -> Result<Outcome> {
    let freeze = services.freeze;
    let lanes = dataflow.lanes();
    let mut outcome = Outcome::default();
    for (_, chunks) in records {
        outcome.counts.records_in += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        outcome.counts.bytes_in += chunks.iter().map(|chunk| chunk.bytes() as u64).sum::<u64>();
    }
    let mut letters = Letters::default();
    let sources = vec![vec![vec![]; lanes]; dataflow.graph().sources().len()];
    let mut input = EpochInput { sources, watermark_us: task.watermark_us, clock_us: Some(task.state_clock_us) };
    for scan in &flow.scans {
        let frozen = |step: &Step| step.map_expressions(|expression| freeze(expression, task.clock_us));
        let steps =
            scan.readers.iter().map(|reader| reader.steps.iter().map(frozen).collect()).collect::<Result<Vec<Vec<Step>>>>()?;
        let mine = records.iter().filter(|(range, _)| range.source.source.0 == scan.spec.source);
        let together = outcome.counts.bytes_in < ALONE_BYTES;
        let scanned = scan_all(mine, together, |(range, chunks)| {
            if cancelled.is_cancelled() {
                return Err(cancelled_error(task));
            }
            Ok((range.source, scan.run(chunks, task.place(range.source), &steps, task.watermark_us)?))
        });
        let mut rows = vec![vec![vec![]; lanes]; scan.readers.len()];
        for (index, scanned) in scanned.into_iter().enumerate() {
            let (partition, scanned) = scanned?;
            if let Some(at) = scanned.event_time_us {
                let known = outcome.event_time_us.entry(partition).or_insert(at);
                *known = at.max(*known);
            }
            outcome.times.decode_us += scanned.decode_us;
            outcome.times.compute_us += scanned.compute_us;
            letters.add(scanned.dead_letters, scanned.late_rows);
            for (rows, batches) in rows.iter_mut().zip(scanned.batches) {
                rows[index % lanes].extend(batches);
            }
        }
        for (reader, mut rows) in scan.readers.iter().zip(rows) {
            if !reader.stages.is_empty() {
                let unfit = Mutex::default();
                let asking = Asking { tables: &services.tables, cancelled, unfit: &unfit };
                rows = Handle::current().block_on(lookup::resolve(&reader.stages, rows, &asking))?;
                for (place, unfit) in unfit.into_inner().into_iter().enumerate() {
                    if scan.spec.on_error == OnError::Fail {
                        return Err(unprocessed(&unfit.error));
                    }
                    let part = task.work.part;
                    let id = format!("{}/lookup-{}/{}/{part}/{place}", task.incarnation, reader.source, task.epoch);
                    letters.dead.push(letter_of_row(id, &flow.spec.job, &unfit.row, unfit.error)?);
                }
            }
            let added = |batches: Vec<RecordBatch>| batches.into_iter().map(Delta::added).collect();
            input.sources[reader.source] = rows.into_iter().map(added).collect();
        }
    }
    for files in flow.files.iter().filter(|files| dataflow.awaits(&held.state, files.source)) {
        let rows = Handle::current().block_on(async {
            tokio::select! {
                () = cancelled.cancelled() => Err(cancelled_error(task)),
                rows = files.table.all(&services.places, &files.columns) => rows,
            }
        })?;
        input.sources[files.source][0] = rows.into_iter().map(Delta::added).collect();
    }
    if cancelled.is_cancelled() {
        return Err(cancelled_error(task));
    }
    let started = Instant::now();
    let (mailboxes, link) = (&services.mailboxes, services.link.as_ref());
    let peers = TaskPeers { task, mailboxes, link, cancelled, waited_us: AtomicU64::new(0) };
    let (watermark_us, clock_us) = (input.watermark_us, input.clock_us);
    let mut output = dataflow.run_among(&mut held.state, input, &peers)?;
    outcome.fired_us = task.closing.as_ref().and_then(|closing| closing.watermark_us(watermark_us, &outcome.event_time_us));
    if outcome.fired_us.is_some() {
        // As the next epoch would begin, upon what this one has made.
        output.append(dataflow.pass_time(&mut held.state, outcome.fired_us, clock_us)?);
    }
    letters_of_failures(task, flow, output.failed, &mut letters)?;
    take_changes(task, flow, dataflow, output.sinks, &mut outcome, &mut letters)?;
    outcome.state = held.state.changes().map_err(external)?;
    outcome.times.compute_us += started.elapsed().as_micros() as u64 - peers.waited_us.into_inner();
    outcome.counts.dead_letters += letters.dead.len() as u64;
    outcome.counts.late = letters.late.len() as u64;
    if !letters.dead.is_empty() {
        outcome.sinks.insert(DEAD_LETTERS, vec![dead_letters::batch(&letters.dead)?]);
    }
    if !letters.late.is_empty() {
        outcome.sinks.insert(LATE_ROWS, vec![dead_letters::batch(&letters.late)?]);
    }
    Ok(outcome)
}

/// Rows on which an expression failed become dead letters, or stop the job, as its `on_error` says.
fn letters_of_failures(task: &TaskDescriptor, flow: &Flow, failed: Vec<FailedRow>, letters: &mut Letters) -> Result<()> {
    let fails = flow.scans.iter().any(|scan| scan.spec.on_error == OnError::Fail);
    let mut of_operator = (0, 0);
    for failed in failed {
        let error = format!("{}: {}", up_to(&failed.operator, SHOWN_OPERATOR), plain(&failed.error));
        if fails {
            return Err(unprocessed(&error));
        }
        of_operator = (failed.node, if of_operator.0 == failed.node { of_operator.1 + 1 } else { 1 });
        let part = task.work.part;
        let id = format!("{}/operator-{}/{}/{part}/{}", task.incarnation, failed.node, task.epoch, of_operator.1 - 1);
        letters.dead.push(letter_of_row(id, &flow.spec.job, &failed.row, error)?);
    }
    Ok(())
}

/// What the dataflow changed, as each sink's table takes it; rows that a table is known to refuse become dead letters.
fn take_changes(
    task: &TaskDescriptor,
    flow: &Flow,
    dataflow: &Dataflow,
    sinks: Vec<Vec<Delta>>,
    outcome: &mut Outcome,
    letters: &mut Letters,
) -> Result<()> {
    for (index, (section, deltas)) in flow.spec.sinks.iter().zip(sinks).enumerate() {
        let changes = section.changes(deltas, dataflow.graph().is_changing(index))?;
        outcome.counts.rows_out += changes.rows;
        outcome.counts.dead_letters += changes.refused_rows - changes.refused.len() as u64;
        for (row, refused) in changes.refused.into_iter().enumerate() {
            let place = match refused.key {
                Some(key) => format!("key-{key}"),
                None => format!("{}/{}/{row}", task.epoch, task.work.part),
            };
            let id = format!("{}/sink-{}/{place}", task.incarnation, section.sink);
            letters.dead.push(letter_of_row(id, &flow.spec.job, &refused.row, refused.why)?);
        }
        if !changes.batches.is_empty() {
            outcome.sinks.insert(section.sink, changes.batches);
        }
    }
    Ok(())
}

fn unprocessed(error: &str) -> DataFusionError {
    DataFusionError::Execution(format!("a row cannot be processed: {error}; correct the query, or set 'on_error' = 'dead_letter'"))
}

/// So little is decoded sooner by one thread than several are started.
const ALONE_BYTES: u64 = 256 << 10;

/// Runs `work` over the items: all on this thread, or a few at once, each on its own.
fn scan_all<'a, T: Sync + 'a, R: Send>(
    items: impl Iterator<Item = &'a T>,
    together: bool,
    work: impl Fn(&'a T) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    let items: Vec<&T> = items.collect();
    if together || items.len() == 1 {
        return items.into_iter().map(work).collect();
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut results = Vec::with_capacity(items.len());
    for several in items.chunks(cores) {
        std::thread::scope(|scope| {
            let running: Vec<_> = several.iter().map(|item| scope.spawn(|| work(item))).collect();
            for thread in running {
                let ended = thread.join();
                results.push(ended.unwrap_or_else(|_| Err(DataFusionError::Execution("decoding panicked".into()))));
            }
        });
    }
    results
}

/// Dead letters and late rows, each once, however many scans of a record failed.
#[derive(Default)]
struct Letters {
    dead: Vec<DeadLetter>,
    late: Vec<DeadLetter>,
    known: HashSet<String>,
}

impl Letters {
    fn add(&mut self, dead: Vec<DeadLetter>, late: Vec<DeadLetter>) {
        for letter in dead {
            if self.known.insert(letter.id.clone()) {
                self.dead.push(letter);
            }
        }
        for letter in late {
            if self.known.insert(format!("late {}", letter.id)) {
                self.late.push(letter);
            }
        }
    }
}

/// Of a row that is no record: a batch of one.
fn letter_of_row(id: String, job: &str, batch: &RecordBatch, error: String) -> Result<DeadLetter> {
    let mut json = LineDelimitedWriter::new(Vec::new());
    json.write(batch)?;
    json.finish()?;
    let (raw, raw_bytes) = cut(Some(&json.into_inner()));
    Ok(DeadLetter {
        id,
        job: job.to_owned(),
        step: "compute",
        error,
        topic: None,
        partition: None,
        offset: None,
        timestamp_ms: None,
        key: None,
        raw,
        raw_bytes,
    })
}

async fn store_part(
    task: &TaskDescriptor,
    execution: &Nonce,
    outcome: &mut Outcome,
    services: &ExecutorServices,
) -> Result<PartFile> {
    let part = task.work.part;
    let sections = Sections { sinks: std::mem::take(&mut outcome.sinks), state: std::mem::take(&mut outcome.state) };
    if sections.sinks.is_empty() && sections.state.is_empty() {
        return Ok(PartFile::none(part));
    }
    let rows = |batches: &Vec<RecordBatch>| batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let rows = sections.sinks.iter().map(|(sink, batches)| (*sink, rows(batches))).collect();
    let Encoded { bytes, crc32, state_bytes } = part::encode(&sections).map_err(external)?;
    let name = keys::part(&task.incarnation, task.epoch, task.attempt, part, execution);
    let state_end = end_of_run(&sections.state).map_err(external)?.map(end_as_recorded);
    let file = PartFile { part, name: name.clone(), bytes: bytes.len() as u64, crc32, rows, state_bytes, state_end };
    services.parts.insert(&name, bytes.clone());
    services.store.create(&name, bytes).await.map_err(external)?;
    crash::point("state-part-synced");
    Ok(file)
}
