//! What `VERIFY JOB` goes by: a statement's plan without rows of open windows answers, as a query over all rows that were on time, what plain DataFusion
//! answers of the windows that are closed.
use std::{cell::Cell, sync::Arc};

use datafusion::{
    arrow::array::RecordBatch,
    datasource::memory::MemorySourceConfig,
    physical_plan::{ExecutionPlan, collect, replace_children_if_necessary},
    physical_planner::DefaultPhysicalPlanner,
    prelude::SessionContext,
};
use polybolos_dataflow::{Emit, Lateness, SinkPlan, SourceLeaf, event_time::of_source, graph::closed_rows, planning};

use super::{
    REFUSED,
    cases::Case,
    changes::Answer,
    oracle,
    stream::{Stream, scan_of},
};

const SEEDS: u64 = 300;

/// The plan over the rows themselves, in place of streams of them.
fn over_rows(plan: &Arc<dyn ExecutionPlan>, case: &Case, rows: &[Vec<usize>]) -> Result<Arc<dyn ExecutionPlan>, String> {
    if let Some(scan) = scan_of(plan) {
        let (table, rows) = (&case.tables[scan.number], &rows[scan.number]);
        let batches: Vec<RecordBatch> = if rows.is_empty() { Vec::new() } else { vec![table.batch(rows)] };
        let memory = MemorySourceConfig::try_new_exec(&[batches], table.schema(), Some(scan.columns.clone()));
        let memory: Arc<dyn ExecutionPlan> = memory.map_err(|error| error.to_string())?;
        return Ok(memory);
    }
    let children = plan.children().into_iter().map(|child| over_rows(child, case, rows)).collect::<Result<Vec<_>, _>>()?;
    if children.is_empty() {
        return Ok(plan.clone());
    }
    replace_children_if_necessary(plan.clone(), children).map_err(|error| error.to_string())
}

async fn answer(case: &Case, statement: usize, rows: &[Vec<usize>], watermark_us: Option<i64>) -> Result<Answer, String> {
    let context = SessionContext::new_with_state(oracle::session());
    for (number, table) in case.tables.iter().enumerate() {
        let stream = Stream { number, schema: table.schema() };
        context.register_table(table.name.as_str(), Arc::new(stream)).map_err(|error| error.to_string())?;
    }
    let plan = context.sql(&case.statements[statement].sql).await.map_err(|error| error.to_string())?;
    let plan = plan.into_optimized_plan().map_err(|error| error.to_string())?;
    let plan = planning::plan(&context.state(), &plan).await.map_err(|error| error.to_string())?;
    let emit = match case.allowed_ms * 1_000 {
        0 => Emit::OnWindowClose,
        ahead_us => Emit::OnWindowCloseThenUpdate { ahead_us },
    };
    let lateness = case.window_ends().and_then(Lateness::of);
    let leaves = Cell::new(0);
    let find = |plan: &Arc<dyn ExecutionPlan>| {
        let scan = scan_of(plan)?;
        let (event_time, _) = case.tables[scan.number].event_time();
        let times = scan.columns.iter().map(|column| lateness.as_ref().filter(|_| *column == event_time).map(of_source));
        let source = leaves.replace(leaves.get() + 1);
        Some(SourceLeaf { source, times: times.collect(), label: String::new(), whole: false })
    };
    let closed = closed_rows(&SinkPlan { plan, emit }, &find, lateness.as_ref(), case.given_us(watermark_us));
    let plan = over_rows(&closed.map_err(|error| error.to_string())?, case, rows)?;
    let state = oracle::careful();
    let plan = DefaultPhysicalPlanner::default().optimize_physical_plan(plan, &state, |_, _| {});
    let batches = collect(plan.map_err(|error| error.to_string())?, state.task_ctx()).await;
    Answer::of(&batches.map_err(|error| error.to_string())?)
}

#[tokio::test]
async fn a_query_answers_what_closed_windows_gave() {
    let mut compared = 0;
    for case in (1..=SEEDS).map(|seed| Case::random(seed, REFUSED)) {
        let (ends, watermarks) = (case.window_ends(), case.watermarks_us());
        for statement in (0..case.statements.len()).filter(|&statement| case.statements[statement].closing.is_some()) {
            let last = case.epochs.len() - 1;
            for epoch in [last / 3, last] {
                let (rows, _) = oracle::on_time(&case, epoch, ends.as_deref());
                let watermark_us = watermarks[epoch + 1];
                // What plain DataFusion has no answer to is counted by the law.
                let Ok(expected) = oracle::answer(&case, statement, &rows, watermark_us).await else { continue };
                let found = answer(&case, statement, &rows, watermark_us).await;
                let found = found.unwrap_or_else(|error| panic!("seed {}: {error}\n{}", case.seed, case.describe()));
                let Some(difference) = found.difference(&expected) else {
                    compared += 1;
                    continue;
                };
                let careful = oracle::careful_answer(&case, statement, &rows, watermark_us).await;
                let is_wrong = careful.is_ok_and(|careful| found.difference(&careful).is_none());
                assert!(is_wrong, "seed {} after epoch {epoch}:\n{difference}\n{}", case.seed, case.describe());
            }
        }
    }
    assert!(compared > 20, "only {compared} answers of windows were compared");
}
