//! A world for coordinators: a store, a log, executors, a sink, and everything that goes wrong between them. Deterministic: one seed, one run.
pub mod executors;
pub mod faults;
pub mod kafka;
pub mod leaders;
pub mod oracle;
pub mod store;
pub mod world;

pub use faults::{ALL, Counters, Fault, Plan, Sabotage};
pub use world::{Outcome, run};
