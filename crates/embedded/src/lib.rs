//! What stands in for Kafka and Cassandra where the whole platform is one process.
//!
//! * [`broker`]: a broker that speaks the Kafka protocol;
//! * [`tables`]: keyed tables in a local folder, behind the same traits as Cassandra's.
//!
//! Both keep everything below a folder, and survive a power cut with all that they acknowledged.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use polybolos_embedded::{Broker, BrokerConfig, EmbeddedTables};
//!
//! let folder = tempfile::tempdir()?;
//! let broker = Broker::start(BrokerConfig::new("127.0.0.1:0".parse()?, folder.path().join("broker"))).await?;
//! let tables = EmbeddedTables::open(folder.path().join("tables")).await?;
//! println!("bootstrap.servers={}, {tables:?}", broker.address());
//! broker.stop().await;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```
#![forbid(unsafe_code)]

pub mod broker;
pub mod tables;
mod trouble;

pub use broker::{Broker, BrokerConfig, BrokerError};
pub use tables::EmbeddedTables;
