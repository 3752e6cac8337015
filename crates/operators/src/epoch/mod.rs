//! An epoch of a job with state: a task that reads the ranges of its part of the frame, runs the job's dataflow upon its share of the state, and writes one part
//! file. As a rule there is one part; where a job is spread over executors, their tasks run at the same time and exchange rows ([`peers`]).
//!
//! Ballista sees one node, [`exec::EpochExec`], over a descriptor source. What it runs travels inside it as [`spec::EpochSpec`]: the job's physical plans as bytes, from
//! which an executor makes the dataflow once per job ([`flow`]) and keeps it beside the job's state ([`held`]). Exchanges stay inside
//! the stage: a stage boundary costs more than everything else (docs/adr/0009).
pub mod cases;
pub mod closed;
pub mod compact;
pub mod exec;
pub mod flow;
pub mod held;
pub mod lookup;
pub mod peers;
pub mod scan;
mod scratch;
pub mod sinks;
pub mod space;
pub mod spec;
