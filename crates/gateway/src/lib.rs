//! The doors of Polybolos: PostgreSQL wire, Arrow Flight SQL, and HTTP with the web console, over one contract, [`engine::Engine`].
//! A door translates its protocol to that contract and back, checks who comes in, and bounds what one client can take; it knows nothing
//! of epochs, Kafka or Cassandra.
//!
//! * [`engine`], [`error`], [`status`], [`auth`]: the contract.
//! * [`postgres`]: PostgreSQL's wire protocol, with `pg_catalog` for tools.
//! * [`flight_sql`]: Arrow Flight SQL.
//! * [`tls`]: certificates of all doors.
//! * [`http`]: console, REST, events, metrics, health.
//!
//! Each door takes a bound listener and a [`tokio_util::sync::CancellationToken`], and serves until the token is cancelled:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use polybolos_gateway::{auth::Authenticate, engine::Engine, postgres};
//! # async fn example(engine: Arc<dyn Engine>, login: Arc<dyn Authenticate>) -> std::io::Result<()> {
//! let stop = tokio_util::sync::CancellationToken::new();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7432").await?;
//! postgres::serve(listener, engine, login, None, stop).await
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod auth;
pub mod engine;
pub mod error;
pub mod flight_sql;
pub mod http;
mod parameters;
pub mod postgres;
mod scan;
pub mod status;
pub mod tls;
