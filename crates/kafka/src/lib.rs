//! Kafka for Polybolos: exact offset ranges into Arrow. Bytes in, record batches out; no plan nodes here.
//!
//! * [`connection`]: how to reach a cluster;
//! * [`fetcher`]: long-lived consumers that read ahead, and exact ranges out of what they hold;
//! * [`records`], [`decode`]: raw records in columns, and their JSON decoded column-wise;
//! * [`admin`], [`produce`]: topics, offsets, and records into Kafka.
#![forbid(unsafe_code)]

pub mod admin;
pub mod connection;
mod context;
pub mod decode;
pub mod error;
pub mod fetcher;
mod metrics;
pub mod produce;
pub mod records;
mod topic_id;
