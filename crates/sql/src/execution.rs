//! What an executor needs to run plans that were made here: our functions, and a clock that stands still for an epoch.
use std::sync::Arc;

use datafusion::{
    common::Result,
    execution::{SessionStateBuilder, TaskContext},
    physical_plan::PhysicalExpr,
};

use crate::{clock, functions};

/// A context that knows every function a plan may call.
///
/// # Errors
/// When two functions have one name.
pub fn plan_context() -> Result<Arc<TaskContext>> {
    let mut state = SessionStateBuilder::new().with_default_features().build();
    functions::register(&mut state)?;
    clock::register(&mut state)?;
    Ok(Arc::new(TaskContext::from(&state)))
}

/// `expression` with its readings of the clock replaced by `clock_us`; the same one when it has none.
pub fn freeze(expression: &Arc<dyn PhysicalExpr>, clock_us: i64) -> Result<Arc<dyn PhysicalExpr>> {
    if clock::reads_clock(expression) { clock::freeze(expression.clone(), clock_us) } else { Ok(expression.clone()) }
}
