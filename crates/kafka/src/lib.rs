//! Kafka for Polybolos: exact offset ranges into Arrow, and recorded rows into topics, exactly once. No plan nodes here.
//!
//! * [`connection`]: how to reach a cluster;
//! * [`fetcher`]: long-lived consumers that read ahead, and exact ranges out of what they hold;
//! * [`records`], [`decode`]: raw records in columns, and their JSON decoded column-wise;
//! * [`encode`]: Arrow as JSON records;
//! * [`publish`], `transaction`: parts of epochs into a topic, each exactly once;
//! * [`settled`]: when all that was committed can be read;
//! * [`admin`], [`produce`]: topics, offsets, and single records into Kafka; `topic_id`: whether a topic is still the same one;
//! * `context`, `renewal`: what librdkafka tells of its connections, and when a client is given up for a new one.
#![forbid(unsafe_code)]

pub mod admin;
pub mod connection;
mod context;
pub mod decode;
pub mod encode;
pub mod error;
pub mod fetcher;
mod metrics;
pub mod produce;
pub mod publish;
pub mod records;
mod renewal;
pub mod settled;
mod topic_id;
mod transaction;
