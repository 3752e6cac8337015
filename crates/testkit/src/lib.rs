//! What tests and `make cluster` need around us: a real Apache Kafka and a real Apache Cassandra without Docker, processes
//! that die with whoever started them, a proxy that breaks connections on purpose, free ports, and waiting with a deadline.
//!
//! | file | holds |
//! |---|---|
//! | `kafka`, `cassandra` | options and start-up of one real server as a Java process |
//! | `server` | [`LocalServer`]: stop, kill, pause, restart on the same ports and data |
//! | `control` | [`Order`]: a server stopped and started at the word of another process |
//! | `servers` | [`Servers`]: the pair, one per test run, or the pair that an outer runner started |
//! | `process` | [`Process`]: any program, its output in files, its life bound to ours |
//! | `spawner` | how a child's life is bound to ours, even when we are killed |
//! | [`orphans`] | how the children of a command that died are ended |
//! | `proxy` | [`FaultProxy`]: cut, refuse, delay, swallow; seeded, and it counts what it did |
//! | `class_path`, `java`, `home`, `probe` | Maven resolution, Java 17, data folders, "does it really answer?" |
//! | [`nexmark`] | Nexmark's events as the records of one topic |
//! | `ports`, `wait` | [`free_ports`], [`wait_until`] |
//!
//! Everything is synchronous (it blocks the calling thread), and the proxy runs on a thread of its own, so that plain and
//! `#[tokio::test]` tests can use it alike.
//!
//! ```
//! use polybolos_testkit::ProcessSpec;
//! use std::time::Duration;
//!
//! let logs = tempfile::tempdir()?;
//! let mut echo = ProcessSpec::new("echo", "sh").args(["-c", "echo ready on 1234; sleep 60"]).log_dir(logs.path()).spawn()?;
//! assert_eq!(echo.wait_ready(Duration::from_secs(10))?, "ready on 1234");
//! echo.kill()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod cancel;
mod cassandra;
mod class_path;
mod control;
mod error;
mod home;
mod java;
mod kafka;
pub mod nexmark;
pub mod orphans;
mod ports;
pub mod probe;
mod process;
mod proxy;
mod server;
mod servers;
mod spawner;
mod wait;

pub use cancel::Cancel;
pub use cassandra::{CASSANDRA_PASSWORD, CASSANDRA_USER, CassandraOptions};
pub use control::{Order, Verb};
pub use error::{Error, Result};
pub use kafka::KafkaOptions;
pub use ports::free_ports;
pub use process::{Process, ProcessSpec};
pub use proxy::{Direction, FaultCounts, FaultProxy};
pub use server::LocalServer;
pub use servers::{CASSANDRA_VARIABLE, KAFKA_VARIABLE, Servers};
pub use wait::{wait_until, wait_until_async};
