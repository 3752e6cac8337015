//! What a job's INSERT that emits when windows close has given, as the plan of a query over all that the job has read: for whoever compares its table with that.
use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use datafusion::{
    common::Result,
    physical_plan::{ExecutionPlan, empty::EmptyExec, placeholder_row::PlaceholderRowExec},
};
use polybolos_dataflow::{SinkPlan, SourceLeaf, graph};

use super::{
    flow::times_of,
    lookup,
    spec::{EpochSpec, emit},
};
use crate::record_scan::{RecordScanExec, ScanSpec};

/// The plan without rows of windows that are open at the job's watermark. `plan` is the INSERT's as the job has it, but for what its scans read; `source_of` tells
/// the job's number of what a scan reads.
///
/// # Errors
/// When it is no plan of the job.
pub fn closed_rows(
    spec: &EpochSpec,
    plan: Arc<dyn ExecutionPlan>,
    source_of: &dyn Fn(&ScanSpec) -> Option<u32>,
    watermark_us: Option<i64>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let lateness = spec.lateness();
    let (leaves, failure) = (Cell::new(0), RefCell::new(None));
    let leaf = |times, whole| {
        let source = leaves.replace(leaves.get() + 1);
        Some(SourceLeaf { source, times, label: String::new(), whole })
    };
    let times = |scan: &RecordScanExec| {
        // One that no table of the job's reads has no event time.
        let source = source_of(scan.spec()).unwrap_or(u32::MAX);
        times_of(spec, &scan.with_spec(ScanSpec { source, ..scan.spec().as_ref().clone() }))
    };
    let find = |plan: &Arc<dyn ExecutionPlan>| {
        if let Some(scan) = plan.downcast_ref::<RecordScanExec>() {
            return leaf(times(scan), false);
        }
        match lookup::of_plan(plan) {
            Ok(Some((scan, stages))) => return leaf(lookup::times_of(&stages, times(&scan), lateness.as_ref()), false),
            Ok(None) => {}
            Err(error) => {
                failure.borrow_mut().get_or_insert(error);
            }
        }
        let is_constant = plan.is::<EmptyExec>() || plan.is::<PlaceholderRowExec>();
        if is_constant || !plan.children().is_empty() {
            return None;
        }
        // Files.
        leaf(vec![None; plan.schema().fields().len()], true)
    };
    let sink = SinkPlan { plan, emit: emit(true, spec.allowed_lateness_us) };
    let rows = graph::closed_rows(&sink, &find, lateness.as_ref(), watermark_us);
    match failure.into_inner() {
        Some(error) => Err(error),
        None => rows,
    }
}
