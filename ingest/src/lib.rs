//! The ingest service: feeds become records in Kafka. A record counts as delivered when the broker has acknowledged it; until then the
//! feed keeps it and tries again, so a broker that is away delays records and loses none.
//!
//! * [`config`]: `ingest.toml` of a pipeline;
//! * [`mapping`]: an answer's JSON becomes records; [`json`]: numbers in it stay as they are written;
//! * [`target`]: which addresses a feed may call;
//! * [`http_poll`]: one polled HTTP API; [`cause`]: why it failed, in words;
//! * [`account`]: what a feed has done; [`reporting`]: telling it to whoever asks by SQL;
//! * [`service`]: all feeds of a process;
//! * [`demo`]: a small server that speaks the randomuser.me API, for `up` and tests.
#![forbid(unsafe_code)]

pub mod account;
pub mod cause;
pub mod config;
pub mod demo;
pub mod http_poll;
pub mod json;
pub mod mapping;
pub mod metrics;
pub mod reporting;
pub mod service;
pub mod target;
