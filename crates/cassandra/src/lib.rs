//! Apache Cassandra as a keyed table: upserts with write timestamps in same-replica batches, scans by token range.
//!
//! * [`connect`]: a session with a cluster, with `tls` where it is asked for; [`catalog`]: its tables;
//! * [`types`]: CQL types in Arrow;
//! * [`writer`]: the sink;
//! * [`encode`]: Arrow values as CQL bytes, without a box per cell; [`decimal`]: of numbers with a point;
//! * [`scan`]: token ranges into batches; [`pushdown`]: which predicates the server applies.
#![forbid(unsafe_code)]

mod catalog;
pub mod connect;
mod decimal;
mod encode;
mod errors;
mod pushdown;
mod scan;
mod tls;
mod types;
mod writer;

pub use connect::{CassandraBackend, CassandraConfig};
