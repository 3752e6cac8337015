//! The engine itself, as the law drives it: what an executor does around it is done here in the plainest way, reading aside.
use std::{cell::RefCell, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, BooleanArray, Int64Array, RecordBatch},
        compute::filter_record_batch,
    },
    common::DataFusionError,
    physical_plan::ExecutionPlan,
    prelude::SessionContext,
};
use polybolos_dataflow::{
    Dataflow, Delta, Emit, EpochInput, EpochOutput, Graph, Lateness, SinkPlan, SourceLeaf,
    event_time::{microseconds, of_source},
};
use polybolos_state::{JobState, MemorySpill, Passed, Share, Spill, merge_runs};

use super::{
    cases::Case,
    engine::{Engine, Feed, Ran},
    oracle,
    peers::{Ends, mesh},
    stream::{Stream, scan_of},
};

struct Running {
    graph: Arc<Graph>,
    /// They share the job.
    parts: Vec<Part>,
    /// By source of the graph: table and columns.
    sources: Vec<(usize, Vec<usize>)>,
    /// By table: the column of its event time.
    event_times: Vec<usize>,
    ends: Option<Vec<(i64, i64)>>,
    lateness: Option<Lateness>,
    whole: Option<usize>,
    runs: Vec<Vec<RecordBatch>>,
    running: Passed,
    recorded: Passed,
    memory: Memory,
    fires_at_once: bool,
    seed: u64,
}

/// One of those that compute a job together.
struct Part {
    dataflow: Dataflow,
    state: JobState,
    spill: Arc<dyn Spill>,
}

/// How much of the state stays in memory between epochs.
#[derive(Clone, Copy)]
enum Memory {
    All,
    Half,
    /// What is needed comes back for its epoch.
    Nothing,
}

pub fn start(case: &Case) -> Result<Box<dyn Engine + '_>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let ends = case.window_ends();
    let lateness = ends.clone().and_then(Lateness::of);
    let leaves = RefCell::new(Vec::<(usize, Vec<usize>)>::new());
    let graph = runtime.block_on(async {
        let context = SessionContext::new_with_state(oracle::session());
        for (number, table) in case.tables.iter().enumerate() {
            let stream = Stream { number, schema: table.schema() };
            context.register_table(table.name.as_str(), Arc::new(stream)).map_err(|error| format!("register {error}"))?;
        }
        let mut sinks = Vec::new();
        for statement in &case.statements {
            let plan = context.sql(&statement.sql).await.map_err(|error| format!("plan {error}"))?;
            let plan = plan.into_optimized_plan().map_err(|error| format!("plan {error}"))?;
            let emit = match (&statement.closing, case.allowed_ms * 1_000) {
                (None, _) => Emit::OnUpdate,
                (Some(_), 0) => Emit::OnWindowClose,
                (Some(_), ahead_us) => Emit::OnWindowCloseThenUpdate { ahead_us },
            };
            sinks.push(SinkPlan { plan, emit });
        }
        let find = |plan: &Arc<dyn ExecutionPlan>| {
            let scan = scan_of(plan)?;
            let leaf = (scan.number, scan.columns.clone());
            let mut leaves = leaves.borrow_mut();
            let source = leaves.iter().position(|known| *known == leaf).unwrap_or_else(|| {
                leaves.push(leaf);
                leaves.len() - 1
            });
            let event_time = case.tables[scan.number].event_time().0;
            let whole = Some(scan.number) == case.whole;
            let times =
                scan.columns.iter().map(|column| lateness.as_ref().filter(|_| *column == event_time && !whole).map(of_source));
            Some(SourceLeaf { source, times: times.collect(), label: String::new(), whole })
        };
        Graph::build(&context.state(), sinks, &find, lateness.as_ref()).await.map_err(|error| format!("refused: {error}"))
    })?;
    let leaves = leaves.into_inner();
    let sources = graph.sources().iter().map(|source| leaves[*source].clone()).collect();
    let graph = Arc::new(graph.with_ttl(case.ttl_us));
    let event_times = case.tables.iter().map(|table| table.event_time().0).collect();
    Ok(Box::new(Running {
        parts: parts(&graph, case.seed, case.lanes),
        graph,
        sources,
        event_times,
        ends,
        lateness,
        whole: case.whole,
        runs: Vec::new(),
        running: Passed::default(),
        recorded: Passed::default(),
        seed: case.seed,
        fires_at_once: case.seed.is_multiple_of(2),
        memory: [Memory::All, Memory::Half, Memory::Nothing][case.seed as usize % 3],
    }))
}

impl Running {
    fn spill(&mut self) -> Result<(), String> {
        for part in &mut self.parts {
            let most = match self.memory {
                Memory::All => continue,
                Memory::Half => part.state.bytes() / 2,
                Memory::Nothing => 0,
            };
            part.state.spill(&part.spill, most).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Each part in a thread of its own, where there are several.
    fn compute(&mut self, inputs: Vec<EpochInput>) -> Result<Vec<EpochOutput>, String> {
        let ends = mesh(self.parts.len());
        let error = |error: DataFusionError| format!("run: {error}\n{}", self.graph);
        std::thread::scope(|scope| {
            let mut running = vec![];
            for ((part, input), end) in self.parts.iter_mut().zip(inputs).zip(ends) {
                running.push(scope.spawn(move || part.dataflow.run_among(&mut part.state, input, &Ends(&end))));
            }
            let ended = running.into_iter().map(|part| part.join().map_err(|_| "a part panicked".to_owned()));
            ended.map(|ended| ended?.map_err(error)).collect()
        })
    }

    /// The rows that are not late, and how many are.
    fn on_time(&self, table: usize, batch: &RecordBatch, watermark_us: Option<i64>) -> Result<(RecordBatch, usize), String> {
        let lateness = self.lateness.as_ref().filter(|_| Some(table) != self.whole);
        let (Some(lateness), Some(watermark)) = (lateness, watermark_us) else { return Ok((batch.clone(), 0)) };
        let times = microseconds(batch.column(self.event_times[table])).map_err(|error| error.to_string())?;
        let times = times.as_any().downcast_ref::<Int64Array>().ok_or("event times are no integers")?;
        let late_before_us = lateness.late_before_us(watermark);
        let kept: BooleanArray =
            (0..times.len()).map(|row| Some(times.is_null(row) || times.value(row) >= late_before_us)).collect();
        let on_time = filter_record_batch(batch, &kept).map_err(|error| error.to_string())?;
        let late = batch.num_rows() - on_time.num_rows();
        Ok((on_time, late))
    }
}

impl Engine for Running {
    fn held(&self) -> usize {
        self.parts.iter().map(|part| part.state.entries()).sum()
    }

    fn growing(&self) -> Vec<String> {
        self.graph.growing()
    }

    fn window_ends(&self) -> Option<Vec<(i64, i64)>> {
        self.ends.clone()
    }

    fn run(&mut self, feed: &Feed) -> Result<Ran, String> {
        let (parts, lanes) = (self.parts.len(), self.parts[0].dataflow.lanes());
        let mut late = 0;
        let mut tables = Vec::new();
        for (table, batches) in feed.tables.iter().enumerate() {
            let mut kept = Vec::new();
            for (partition, batch) in batches {
                let (batch, more) = self.on_time(table, batch, feed.watermark_us)?;
                late += more;
                kept.push((*partition, batch));
            }
            tables.push(kept);
        }
        let input = EpochInput { sources: Vec::new(), watermark_us: feed.watermark_us, clock_us: Some(feed.clock_us) };
        let mut inputs = vec![input; parts];
        for (place, (table, columns)) in self.sources.iter().enumerate() {
            let awaits = |part: &&Part| part.dataflow.awaits(&part.state, place);
            let awaiting = self.parts.iter().filter(awaits).count();
            if awaiting != usize::from(Some(*table) == self.whole && feed.clock_us == 0) {
                return Err(format!("rows of source {place} are awaited when they came, or not before\n{}", self.graph));
            }
            let mut given = vec![vec![Vec::new(); lanes]; parts];
            for (partition, batch) in &tables[*table] {
                let batch = batch.project(columns).map_err(|error| error.to_string())?;
                let reader = self.parts.iter().position(|part| awaits(&part)).unwrap_or(partition % parts);
                given[reader][partition / parts % lanes].push(Delta::added(batch));
            }
            inputs.iter_mut().zip(given).for_each(|(input, given)| input.sources.push(given));
        }
        let mut outputs = self.compute(inputs)?;
        let clock_us = Some(feed.clock_us);
        // A job that is not shared may fire the timers that the epoch's own records make due.
        let mut fired_us = feed.watermark_us;
        if let ([part], [output], true) = (self.parts.as_mut_slice(), outputs.as_mut_slice(), self.fires_at_once) {
            fired_us = feed.after_us;
            let later = part.dataflow.pass_time(&mut part.state, fired_us, clock_us);
            output.append(later.map_err(|error| format!("pass time: {error}\n{}", self.graph))?);
        }
        self.running = Passed { watermark_us: fired_us, clock_us };
        let weighted = |delta: Delta| {
            let weights = (0..delta.rows()).map(|row| delta.weight(row)).collect();
            (delta.batch().clone(), weights)
        };
        let mut ran = Ran { deltas: vec![Vec::new(); self.graph.sinks().len()], late, fired_us, failed: Vec::new() };
        for output in outputs {
            for (all, deltas) in ran.deltas.iter_mut().zip(output.sinks) {
                all.extend(deltas.into_iter().map(weighted));
            }
            ran.failed.extend(output.failed.into_iter().map(|row| row.error));
        }
        Ok(ran)
    }

    fn explain(&self) -> String {
        self.graph.to_string()
    }

    fn discard(&mut self) {
        self.parts.iter_mut().for_each(|part| part.state.discard());
    }

    fn record(&mut self) -> Result<(), String> {
        for part in &mut self.parts {
            self.runs.push(part.state.changes().map_err(|error| error.to_string())?);
            part.state.commit();
        }
        self.recorded = self.running;
        self.spill()
    }

    /// The older half of the runs is merged first, as compaction does; in half of the cases.
    fn reload(&mut self, lanes: usize) -> Result<(), String> {
        if lanes.is_multiple_of(2) && self.runs.len() > 2 {
            let rest = self.runs.split_off(self.runs.len() / 2);
            let merged = merge_runs(&self.runs, true, self.recorded).map_err(|error| error.to_string())?;
            self.runs = std::iter::once(merged).chain(rest).collect();
        }
        self.parts = parts(&self.graph, self.seed, lanes);
        for run in self.runs.clone() {
            for part in &mut self.parts {
                part.state.apply(&run).map_err(|error| error.to_string())?;
            }
            self.spill()?;
        }
        let recorded = self.recorded;
        self.parts.iter_mut().try_for_each(|part| part.state.drop_due(recorded).map_err(|error| error.to_string()))
    }
}

/// One to three parts with so many lanes together, or a few more.
fn parts(graph: &Arc<Graph>, seed: u64, lanes: usize) -> Vec<Part> {
    let parts = 1 + (seed as usize + lanes) % 3;
    let part = |part| {
        let dataflow = dataflow(graph.clone(), lanes).of_share(Share { part, parts });
        Part { state: dataflow.new_state(), dataflow, spill: Arc::new(MemorySpill::default()) }
    };
    (0..parts).map(part).collect()
}

/// Odd numbers of lanes run in threads, however few the rows.
fn dataflow(graph: Arc<Graph>, lanes: usize) -> Dataflow {
    Dataflow::new(graph, lanes).with_parallel_from(if lanes % 2 == 1 { 0 } else { usize::MAX })
}
