//! Plain DataFusion over tables in memory: the answer that a job's table must equal.
use std::sync::Arc;

use datafusion::{
    arrow::array::RecordBatch,
    datasource::MemTable,
    execution::{FunctionRegistry, SessionState, SessionStateBuilder},
    prelude::{SessionConfig, SessionContext},
};
use polybolos_sql::{functions, planner::job_config};

use super::{aggregates::spread, cases::Case, changes::Answer};

/// Settings of a job's plan, which keep strings as Utf8 and leave out filters that fill themselves while running.
pub fn session() -> SessionState {
    let mut config = job_config(SessionConfig::new(), 1);
    // As jobs and queries are planned.
    config.options_mut().execution.skip_physical_aggregate_schema_check = true;
    let mut session = SessionStateBuilder::new().with_config(config).with_default_features().build();
    functions::register(&mut session).expect("a session takes functions");
    session.register_udaf(Arc::new(spread())).expect("a session takes an aggregate");
    session
}

/// The rules of the physical optimiser that only make a plan run as it must; the others have been wrong (filters over outer joins).
pub fn careful() -> SessionState {
    let session = session();
    let needed = |name: &str| {
        ["OutputRequirements", "EnforceDistribution", "EnforceSorting", "EnsureRequirements", "SanityCheckPlan"].contains(&name)
    };
    let rules = session.physical_optimizers().iter().filter(|rule| needed(rule.name())).cloned().collect();
    SessionStateBuilder::new_from_existing(session).with_physical_optimizer_rules(rules).build()
}

/// A context in which the case's tables hold these rows, by table.
pub fn context(case: &Case, rows: &[Vec<usize>]) -> Result<SessionContext, String> {
    context_in(session(), case, rows)
}

fn context_in(session: SessionState, case: &Case, rows: &[Vec<usize>]) -> Result<SessionContext, String> {
    let context = SessionContext::new_with_state(session);
    for (table, rows) in case.tables.iter().zip(rows) {
        let batches: Vec<RecordBatch> = if rows.is_empty() { Vec::new() } else { vec![table.batch(rows)] };
        let memory = MemTable::try_new(table.schema(), vec![batches]).map_err(|error| error.to_string())?;
        context.register_table(table.name.as_str(), Arc::new(memory)).map_err(|error| error.to_string())?;
    }
    Ok(context)
}

/// The rows of each table that came up to and with `epoch` and were not late. `ends`: when the windows of the job end, every so often, so much after multiples
/// of that; a row is late when the first end after it passed longer ago than lateness is allowed.
pub fn on_time(case: &Case, epoch: usize, ends: Option<&[(i64, i64)]>) -> (Vec<Vec<usize>>, usize) {
    let watermarks = case.watermarks_us();
    let mut rows = vec![Vec::new(); case.tables.len()];
    let mut late = 0;
    for arrival in case.arrivals.iter().filter(|arrival| arrival.epoch <= epoch) {
        let time_ms = case.tables[arrival.table].event_time_ms(arrival.row).filter(|_| Some(arrival.table) != case.whole);
        let time_us = time_ms.map(|ms| ms * 1_000);
        let is_late = match (ends, time_us, watermarks[arrival.epoch]) {
            (Some(ends), Some(time), Some(watermark)) => {
                let next = |(every, offset): &(i64, i64)| (time - offset).div_euclid(*every) * every + offset + every;
                ends.iter().any(|end| next(end) + case.allowed_ms * 1_000 <= watermark)
            }
            _ => false,
        };
        if is_late {
            late += 1;
        } else {
            rows[arrival.table].push(arrival.row);
        }
    }
    (rows, late)
}

/// `watermark_us`: rows of windows that are open by it are left out, of a statement that emits on close.
pub async fn answer(case: &Case, statement: usize, rows: &[Vec<usize>], watermark_us: Option<i64>) -> Result<Answer, String> {
    answer_in(session(), case, statement, rows, watermark_us).await
}

/// A second opinion, for answers that differ: without most of the physical optimiser.
pub async fn careful_answer(
    case: &Case,
    statement: usize,
    rows: &[Vec<usize>],
    watermark_us: Option<i64>,
) -> Result<Answer, String> {
    answer_in(careful(), case, statement, rows, watermark_us).await
}

async fn answer_in(
    session: SessionState,
    case: &Case,
    statement: usize,
    rows: &[Vec<usize>],
    watermark_us: Option<i64>,
) -> Result<Answer, String> {
    Answer::of(&collected(context_in(session, case, rows)?, &closed(case, statement, watermark_us)).await?)
}

/// The statement, without rows of windows that are open.
fn closed(case: &Case, statement: usize, watermark_us: Option<i64>) -> String {
    let statement = &case.statements[statement];
    match &statement.closing {
        Some(closing) => format!("SELECT * FROM ({}) WHERE {closing} <= {}", statement.sql, watermark_us.unwrap_or(i64::MIN / 2)),
        None => statement.sql.clone(),
    }
}

async fn collected(context: SessionContext, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let frame = context.sql(sql).await.map_err(|error| format!("the oracle refuses: {error}"))?;
    frame.collect().await.map_err(|error| format!("the oracle fails: {error}"))
}

/// The careful answer to a query that `wrap` puts around the statement.
pub async fn wrapped(
    case: &Case,
    statement: usize,
    rows: &[Vec<usize>],
    watermark_us: Option<i64>,
    wrap: &dyn Fn(String) -> String,
) -> Result<Vec<RecordBatch>, String> {
    collected(context_in(careful(), case, rows)?, &wrap(closed(case, statement, watermark_us))).await
}
