//! What every service needs, and no library does.
//!
//! * [`config`]: files, environment and flags; [`auth`]: tokens and who they belong to;
//! * [`telemetry`]: logs, metrics and traces;
//! * [`ports`], [`endpoints`]: where it listens, and how others learn of it;
//! * [`feeds`]: what ingestors tell schedulers;
//! * [`memory`]: how much it may have;
//! * [`shutdown`], [`exit`]: how it ends, and with which code.
#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
pub mod endpoints;
pub mod exit;
pub mod feeds;
pub mod memory;
pub mod ports;
pub mod shutdown;
pub mod telemetry;
