//! The pair of servers that end-to-end tests share.
//!
//! A test asks for [`Servers::shared`]. Under `polybolos-local-servers -- cargo test …` all test binaries use the pair that it
//! started and named in two environment variables; without it, each test binary starts a pair of its own on first use, which
//! ends with the binary.
use crate::cancel::Cancel;
use crate::cassandra::CassandraOptions;
use crate::error::{Error, Result};
use crate::kafka::KafkaOptions;
use crate::server::LocalServer;
use std::sync::{Mutex, PoisonError};

/// Names the address of the Kafka to test with.
pub const KAFKA_VARIABLE: &str = "POLYBOLOS_TEST_KAFKA";
/// Names the address of the Cassandra to test with (login: [`crate::CASSANDRA_USER`]).
pub const CASSANDRA_VARIABLE: &str = "POLYBOLOS_TEST_CASSANDRA";

/// A Kafka and a Cassandra to test with.
pub struct Servers {
    kafka: Slot,
    cassandra: Slot,
}

enum Slot {
    Ours(LocalServer),
    Given(String),
}

impl Slot {
    fn address(&self) -> String {
        match self {
            Slot::Ours(server) => server.address(),
            Slot::Given(address) => address.clone(),
        }
    }
}

impl Servers {
    /// The pair for this test run; every call returns the same. A start that failed is tried again by the next call.
    ///
    /// Others use it at the same time: take names of topics and keyspaces of your own, and do not stop it.
    /// A test that restarts a server starts its own with [`KafkaOptions::start`] or [`CassandraOptions::start`].
    pub fn shared() -> Result<&'static Servers> {
        static SHARED: Mutex<Option<&'static Servers>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(servers) = *shared {
            return Ok(servers);
        }
        // Leaked, as a static's value would be: the processes end with this one (see `spawner`).
        let servers: &'static Servers = Box::leak(Box::new(Self::given_or_started()?));
        *shared = Some(servers);
        Ok(servers)
    }

    /// Starts both at the same time.
    pub fn start(kafka: &KafkaOptions, cassandra: &CassandraOptions) -> Result<(LocalServer, LocalServer)> {
        std::thread::scope(|scope| {
            let kafka_thread = scope.spawn(|| kafka.start());
            let cassandra = cassandra.start();
            let kafka = kafka_thread.join().expect("starting Kafka does not panic");
            Ok((kafka?, cassandra?))
        })
    }

    /// Kafka's bootstrap server, `host:port`.
    pub fn kafka(&self) -> String {
        self.kafka.address()
    }

    /// Cassandra's contact point, `host:port`.
    pub fn cassandra(&self) -> String {
        self.cassandra.address()
    }

    fn given_or_started() -> Result<Self> {
        let given = (given(KAFKA_VARIABLE)?, given(CASSANDRA_VARIABLE)?);
        let cancel = Cancel::default();
        // Larger than the broker's default of 1 MB, so that a test can send a record that is too large for the job, not for Kafka.
        let kafka = KafkaOptions { cancel: cancel.clone(), ..KafkaOptions::default() }.property("message.max.bytes", "33554432");
        let cassandra = CassandraOptions { cancel, ..CassandraOptions::default() };
        let (kafka, cassandra) = match given {
            (Some(kafka), Some(cassandra)) => (Slot::Given(kafka), Slot::Given(cassandra)),
            (Some(given), None) => (Slot::Given(given), Slot::Ours(cassandra.start()?)),
            (None, Some(given)) => (Slot::Ours(kafka.start()?), Slot::Given(given)),
            (None, None) => {
                let (kafka, cassandra) = Self::start(&kafka, &cassandra)?;
                (Slot::Ours(kafka), Slot::Ours(cassandra))
            }
        };
        Ok(Self { kafka, cassandra })
    }
}

fn given(variable: &'static str) -> Result<Option<String>> {
    let value = std::env::var(variable).unwrap_or_default();
    if value.is_empty() {
        return Ok(None);
    }
    let well_formed = value.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !well_formed {
        return Err(Error::BadAddress { variable, value });
    }
    Ok(Some(value))
}
