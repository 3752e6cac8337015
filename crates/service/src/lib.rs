//! What every service needs: configuration, secrets, tokens, logs and metrics, shutdown, endpoints, exit codes.
#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
pub mod endpoints;
pub mod exit;
pub mod memory;
pub mod ports;
pub mod shutdown;
pub mod telemetry;
