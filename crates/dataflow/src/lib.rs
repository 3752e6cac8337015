//! Incremental execution of a streaming query: each epoch's new rows in, the changes of the answer out.
//!
//! *The law*: after any sequence of epochs, the sum of all changes that came out equals what plain DataFusion answers to the same query over all rows
//! that went in. Operators work on [`Delta`]s, batches of rows with weights (a Z-set: +1 added, -1 taken away), and keep what they must remember in
//! the keyed tables of `polybolos-state`. Work is proportional to what changed.
//!
//! * [`planning`]: the physical plans that can be lowered; [`delta`]: batches of changes; `evaluate`: expressions that fail on some rows, conditions that are NULL;
//! * [`graph`]: DataFusion's physical plan → a graph of operators; what is not supported is refused by name;
//! * [`operators`]: one file per operator; they hold no state themselves;
//! * [`dataflow`]: runs a graph over one epoch, in lanes by key;
//! * [`event_time`]: which columns tell that a group is closed once the watermark has passed; `bounds`: how far apart joined rows can be.
//!
//! Pure: no I/O and no clock. What reads topics and writes part files is in `polybolos-operators`.
#![forbid(unsafe_code)]

mod bounds;
pub mod dataflow;
pub mod delta;
mod evaluate;
pub mod event_time;
pub mod graph;
mod keys;
pub mod operators;
pub mod planning;

pub use dataflow::{Dataflow, EpochInput, EpochOutput};
pub use delta::Delta;
pub use evaluate::{evaluate, without_nulls};
pub use event_time::{Lateness, TimeColumn};
pub use graph::{Emit, Graph, SinkPlan, SourceLeaf};
pub use operators::{ByPart, Exchange, FailedRow, NoPeers, Peers};
