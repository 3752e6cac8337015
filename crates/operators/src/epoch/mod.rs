//! An epoch of a job with state: one task that reads all ranges of the frame, runs the job's dataflow upon its state, and writes one part file.
//!
//! Ballista sees one node, [`exec::EpochExec`], over a descriptor source. What it runs travels inside it as [`spec::EpochSpec`]: the job's physical plans as bytes, from
//! which an executor makes the dataflow once per job ([`flow`]) and keeps it beside the job's state ([`held`]). Exchanges between lanes stay inside
//! the task: a stage boundary costs more than everything else while a job fits one executor (docs/adr/0009).
pub mod compact;
pub mod exec;
pub mod flow;
pub mod held;
pub mod lookup;
pub mod scan;
pub mod sinks;
pub mod space;
pub mod spec;
