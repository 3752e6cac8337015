//! The engine itself, as the law drives it: what an executor does around it is done here in the plainest way, reading aside.
use std::{cell::RefCell, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, BooleanArray, Int64Array, RecordBatch},
        compute::filter_record_batch,
    },
    physical_plan::ExecutionPlan,
    prelude::SessionContext,
};
use polybolos_dataflow::{
    Dataflow, Delta, Emit, EpochInput, Graph, SinkPlan, SourceLeaf,
    event_time::{microseconds, of_source},
};
use polybolos_state::{JobState, MemorySpill, Passed, Spill, merge_runs};

use super::{
    cases::Case,
    engine::{Engine, Feed, Ran},
    oracle,
    stream::{Stream, scan_of},
};

struct Running {
    graph: Arc<Graph>,
    dataflow: Dataflow,
    state: JobState,
    /// By source of the graph: table and columns.
    sources: Vec<(usize, Vec<usize>)>,
    /// By table: the column of its event time.
    event_times: Vec<usize>,
    granule_us: Option<i64>,
    whole: Option<usize>,
    runs: Vec<Vec<RecordBatch>>,
    running: Passed,
    recorded: Passed,
    memory: Memory,
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
    let granule_us = case.granule_us();
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
            let emit = if statement.closing.is_some() { Emit::OnWindowClose } else { Emit::OnUpdate };
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
            let times = scan.columns.iter().map(|column| granule_us.filter(|_| *column == event_time && !whole).map(of_source));
            Some(SourceLeaf { source, times: times.collect(), label: String::new(), whole })
        };
        Graph::build(&context.state(), sinks, &find, granule_us).await.map_err(|error| format!("refused: {error}"))
    })?;
    let leaves = leaves.into_inner();
    let sources = graph.sources().iter().map(|source| leaves[*source].clone()).collect();
    let graph = Arc::new(graph.with_ttl(case.ttl_us));
    let dataflow = dataflow(graph.clone(), case.lanes);
    let state = dataflow.new_state();
    let event_times = case.tables.iter().map(|table| table.event_time().0).collect();
    Ok(Box::new(Running {
        graph,
        dataflow,
        state,
        sources,
        event_times,
        granule_us,
        whole: case.whole,
        runs: Vec::new(),
        running: Passed::default(),
        recorded: Passed::default(),
        spill: Arc::new(MemorySpill::default()),
        memory: [Memory::All, Memory::Half, Memory::Nothing][case.seed as usize % 3],
    }))
}

impl Running {
    fn spill(&mut self) -> Result<(), String> {
        let most = match self.memory {
            Memory::All => return Ok(()),
            Memory::Half => self.state.bytes() / 2,
            Memory::Nothing => 0,
        };
        self.state.spill(&self.spill, most).map_err(|error| error.to_string())
    }

    /// The rows that are not late, and how many are.
    fn on_time(&self, table: usize, batch: &RecordBatch, watermark_us: Option<i64>) -> Result<(RecordBatch, usize), String> {
        let granule_us = self.granule_us.filter(|_| Some(table) != self.whole);
        let (Some(granule), Some(watermark)) = (granule_us, watermark_us) else { return Ok((batch.clone(), 0)) };
        let times = microseconds(batch.column(self.event_times[table])).map_err(|error| error.to_string())?;
        let times = times.as_any().downcast_ref::<Int64Array>().ok_or("event times are no integers")?;
        let kept: BooleanArray =
            (0..times.len()).map(|row| Some(times.is_null(row) || !is_late(times.value(row), granule, watermark))).collect();
        let on_time = filter_record_batch(batch, &kept).map_err(|error| error.to_string())?;
        let late = batch.num_rows() - on_time.num_rows();
        Ok((on_time, late))
    }
}

fn is_late(at: i64, granule: i64, watermark: i64) -> bool {
    if granule == 0 { at < watermark } else { at.div_euclid(granule) * granule + granule <= watermark }
}

impl Engine for Running {
    fn held(&self) -> usize {
        self.state.entries()
    }

    fn growing(&self) -> Vec<String> {
        self.graph.growing()
    }

    fn granule_us(&self) -> Option<i64> {
        self.granule_us
    }

    fn run(&mut self, feed: &Feed) -> Result<Ran, String> {
        let lanes = self.dataflow.lanes();
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
        let mut input = EpochInput { sources: Vec::new(), watermark_us: feed.watermark_us, clock_us: Some(feed.clock_us) };
        for (place, (table, columns)) in self.sources.iter().enumerate() {
            if self.dataflow.awaits(&self.state, place) != (Some(*table) == self.whole && feed.clock_us == 0) {
                return Err(format!("rows of source {place} are awaited when they came, or not before\n{}", self.graph));
            }
            let mut given = vec![Vec::new(); lanes];
            for (partition, batch) in &tables[*table] {
                let batch = batch.project(columns).map_err(|error| error.to_string())?;
                given[partition % lanes].push(Delta::added(batch));
            }
            input.sources.push(given);
        }
        self.running = Passed { watermark_us: feed.watermark_us, clock_us: Some(feed.clock_us) };
        let output = self.dataflow.run(&mut self.state, input).map_err(|error| format!("run: {error}\n{}", self.graph))?;
        let weighted = |delta: Delta| {
            let weights = (0..delta.rows()).map(|row| delta.weight(row)).collect();
            (delta.batch().clone(), weights)
        };
        let deltas = output.sinks.into_iter().map(|deltas| deltas.into_iter().map(weighted).collect()).collect();
        Ok(Ran { deltas, late, failed: output.failed.into_iter().map(|row| row.error).collect() })
    }

    fn explain(&self) -> String {
        self.graph.to_string()
    }

    fn discard(&mut self) {
        self.state.discard();
    }

    fn record(&mut self) -> Result<(), String> {
        self.runs.push(self.state.changes().map_err(|error| error.to_string())?);
        self.state.commit();
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
        self.dataflow = dataflow(self.graph.clone(), lanes);
        self.state = self.dataflow.new_state();
        self.spill = Arc::new(MemorySpill::default());
        for run in self.runs.clone() {
            self.state.apply(&run).map_err(|error| error.to_string())?;
            self.spill()?;
        }
        self.state.drop_due(self.recorded).map_err(|error| error.to_string())
    }
}

/// Odd numbers of lanes run in threads, however few the rows.
fn dataflow(graph: Arc<Graph>, lanes: usize) -> Dataflow {
    Dataflow::new(graph, lanes).with_parallel_from(if lanes % 2 == 1 { 0 } else { usize::MAX })
}
