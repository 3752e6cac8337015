//! How to reach a Kafka cluster, as the `WITH` clause of a table says it. Secrets among the properties never reach a log.
use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

/// Bootstrap servers and `properties.*`, passed to librdkafka as given (SASL, TLS, …).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Connection {
    pub bootstrap_servers: String,
    /// Without the `properties.` in front.
    pub properties: BTreeMap<String, String>,
}

/// Properties whose values are shown; everything else might hold a secret.
const SHOWN: &[&str] = &["security.protocol", "sasl.mechanism", "sasl.mechanisms", "client.id", "group.id", "client.rack"];

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.properties.iter().map(|(name, value)| {
            let value = if SHOWN.contains(&name.as_str()) { value.as_str() } else { "…" };
            (name.as_str(), value)
        });
        f.debug_struct("Connection")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &shown.collect::<BTreeMap<_, _>>())
            .finish()
    }
}

impl Connection {
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self { bootstrap_servers: bootstrap_servers.into(), properties: BTreeMap::new() }
    }

    /// Our defaults, then what the user says, then what exactness needs and nobody may change.
    pub(crate) fn client_config(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "polybolos");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        // The other name of bootstrap.servers: which of both counted would be left to chance.
        for (name, value) in self.properties.iter().filter(|(name, _)| *name != "metadata.broker.list") {
            config.set(name, value);
        }
        for (name, value) in fixed {
            if self.properties.get(*name).is_some_and(|given| given != value) {
                tracing::debug!(property = name, "overridden: exact offset ranges need it otherwise");
            }
            config.set(*name, *value);
        }
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config
    }

    /// Whether a plain TCP connection without login reaches the brokers.
    pub(crate) fn is_plaintext(&self) -> bool {
        self.properties.get("security.protocol").is_none_or(|protocol| protocol.eq_ignore_ascii_case("plaintext"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::Admin,
        error::{Blame, KafkaError},
    };

    /// What making a client with these properties says.
    fn refused(properties: &[(&str, &str)]) -> KafkaError {
        let mut connection = Connection::new("localhost:9092");
        connection.properties.extend(properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Admin::connect(&connection).expect_err("it is refused")
    }

    #[test]
    fn a_property_that_librdkafka_refuses_is_the_users_fault_and_no_outage() {
        let error = refused(&[("bootstrap.server", "here:9092")]);
        assert!(error.to_string().starts_with("property 'properties.bootstrap.server' is refused: No such"), "{error}");
        assert!(error.blame() == Blame::User && !error.is_retryable());
        let error = refused(&[("security.protocol", "ssl"), ("ssl.ca.location", "/nowhere/at/all.pem")]);
        assert!(matches!(&error, KafkaError::Property { .. } | KafkaError::Properties { .. }), "{error}");
        assert!(error.blame() == Blame::User && !error.is_retryable());
    }

    #[test]
    fn the_servers_have_no_other_name() {
        let mut connection = Connection::new("localhost:9092");
        connection.properties.insert("metadata.broker.list".into(), "elsewhere:9092".into());
        let config = connection.client_config(&[], &[]);
        assert_eq!((config.get("metadata.broker.list"), config.get("bootstrap.servers")), (None, Some("localhost:9092")));
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut connection = Connection::new("localhost:9092");
        connection.properties.insert("sasl.password".into(), "hunter2".into());
        connection.properties.insert("security.protocol".into(), "SASL_SSL".into());
        let text = format!("{connection:?}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("sasl.password") && text.contains("SASL_SSL"), "{text}");
    }
}
