//! The plan nodes that an epoch needs inside a Ballista query, and what they find on an executor.
//!
//! An epoch of a stateless job is one stage: `PartWriteExec(RecordScanExec(descriptors))`. Ballista cuts a stage into tasks by slicing
//! its leaves, but only leaves it knows; a leaf of ours would silently run whole in every task. So the leaf is a memory source with one
//! row per part, the [`task::TaskDescriptor`], and our nodes sit on top and read it.
//!
//! * [`task`]: the descriptor and its source;
//! * `attempts`: which attempt of each job runs here;
//! * [`services`]: what the executor offers to nodes (consumers, store, reports), and the slot that nodes of one task share;
//! * [`wanted`]: which parts of its records a job reads; [`last_per_key`]: of several changes to a key, the last;
//! * [`steps`]: filters, projections and checks, evaluated batch-wise and bisected to the row that fails;
//! * [`record_scan`], [`part_write`], [`table_scan`], [`lookup_scan`], [`file_scan`]: the nodes;
//! * [`epoch`]: the epoch of a job with state, as one task;
//! * [`codec`]: how they travel;
//! * [`template`]: a job's physical plan, built once and filled in per epoch;
//! * [`files`]: files as rows;
//! * [`providers`]: Kafka topics and keyed tables as DataFusion tables;
//! * [`dead_letters`], [`changes`], [`publish`]: what happens to bad rows, and to changes after the record;
//! * [`left_out`]: what happens to bad rows of a query.
#![forbid(unsafe_code)]

mod attempts;
pub mod changes;
pub mod codec;
pub mod dead_letters;
pub mod epoch;
pub mod file_scan;
pub mod files;
pub mod last_per_key;
pub mod left_out;
pub mod lookup_scan;
pub mod part_write;
pub mod providers;
pub mod publish;
pub mod record_scan;
pub mod services;
pub mod steps;
pub mod table_scan;
pub mod task;
pub mod template;
pub mod wanted;

use datafusion::error::DataFusionError;

/// An error of our own crates, for DataFusion to carry.
pub(crate) fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
