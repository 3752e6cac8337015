//! A real Apache Cassandra: one node with password login, started from Maven Central's jars.
use crate::cancel::Cancel;
use crate::class_path::class_path;
use crate::error::Result;
use crate::home::Home;
use crate::java::{find_java, java_arguments, prepare};
use crate::probe;
use crate::process::ProcessSpec;
use crate::server::{Launch, LocalServer};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const POM: &str = include_str!("../../../deploy/local/cassandra/pom.xml");
const SETTINGS: &str = include_str!("../../../deploy/local/cassandra/cassandra.yaml");
const LOGGING: &str = include_str!("../../../deploy/local/cassandra/logback.xml");
const JVM_OPTIONS: &str = include_str!("../../../deploy/local/cassandra/jvm.options");

/// The administrator that a new Cassandra has.
pub const CASSANDRA_USER: &str = "cassandra";
/// The password of [`CASSANDRA_USER`].
pub const CASSANDRA_PASSWORD: &str = "cassandra";

/// How to start a Cassandra. The default is for tests: free ports, a temporary data folder, 1 GB.
#[derive(Clone, Debug)]
pub struct CassandraOptions {
    /// Data go to its subfolder `cassandra` and are kept; without it they go to a temporary folder.
    pub data_dir: Option<PathBuf>,
    /// The CQL port; without it the one used last on this data folder, or a free one.
    pub port: Option<u16>,
    /// Heap of the JVM (it takes as much again outside the heap when it is busy).
    pub heap_mb: u32,
    /// Settings for `cassandra.yaml` (top-level keys, values in YAML); they replace ours.
    pub settings: Vec<(String, String)>,
    pub start_deadline: Duration,
    pub cancel: Cancel,
}

impl Default for CassandraOptions {
    fn default() -> Self {
        Self {
            data_dir: None,
            port: None,
            heap_mb: 1024,
            settings: Vec::new(),
            start_deadline: Duration::from_secs(180),
            cancel: Cancel::default(),
        }
    }
}

impl CassandraOptions {
    /// Sets a top-level key of `cassandra.yaml`; one that Cassandra does not know keeps it from starting.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Starts the node; returns when [`CASSANDRA_USER`] can log in.
    pub fn start(&self) -> Result<LocalServer> {
        let java = find_java()?;
        let class_path = class_path("cassandra", POM, &self.cancel)?;
        let home = Home::open(self.data_dir.as_deref(), "cassandra")?;
        let ports = home.ports("cassandra", &[("cql", self.port), ("storage", None)], "--cassandra-port")?;
        let (cql, storage) = (ports[0], ports[1]);
        let settings = self.cassandra_yaml(cql, storage);
        prepare(home.path(), &[("cassandra.yaml", &settings), ("logback.xml", LOGGING), ("jvm.options", JVM_OPTIONS)])?;
        LocalServer::launch(Launch {
            spec: self.java_program(&java, &class_path, home.path()),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, cql)),
            sasl_address: None,
            proxied_address: None,
            home,
            ready: |address| probe::cassandra(address, CASSANDRA_USER, CASSANDRA_PASSWORD),
            start_deadline: self.start_deadline,
            cancel: self.cancel.clone(),
        })
    }

    fn java_program(&self, java: &Path, class_path: &str, home: &Path) -> ProcessSpec {
        let conf = home.join("conf");
        let memory = [format!("-Xms{}m", self.heap_mb), format!("-Xmx{}m", self.heap_mb)];
        let mut program = ProcessSpec::new("cassandra", java).args(java_arguments(&memory, home)).log_dir(home.join("logs"));
        // It measures the size of objects through this agent.
        if let Some(agent) = class_path.split(':').find(|jar| is_jamm(jar)) {
            program = program.arg(format!("-javaagent:{agent}"));
        }
        program
            .arg(format!("@{}", conf.join("jvm.options").display()))
            .arg(format!("-Dcassandra.storagedir={}", home.join("data").display()))
            .arg(format!("-Dcassandra.config=file:{}", conf.join("cassandra.yaml").display()))
            .arg("-cp")
            .arg(format!("{}:{class_path}", conf.display()))
            .arg("org.apache.cassandra.service.CassandraDaemon")
    }

    /// Our settings without those that the caller replaces, then the caller's.
    fn cassandra_yaml(&self, cql_port: u16, storage_port: u16) -> String {
        let replaced = |line: &&str| self.settings.iter().any(|(key, _)| line.split_once(':').is_some_and(|(ours, _)| ours == key));
        let mut yaml: String = SETTINGS.lines().filter(|line| !replaced(line)).map(|line| format!("{line}\n")).collect();
        yaml.push_str(&format!("native_transport_port: {cql_port}\nstorage_port: {storage_port}\n"));
        yaml.push_str("seed_provider:\n  - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n");
        yaml.push_str(&format!("    parameters:\n      - seeds: 127.0.0.1:{storage_port}\n"));
        for (key, value) in &self.settings {
            yaml.push_str(&format!("{key}: {value}\n"));
        }
        yaml
    }
}

fn is_jamm(jar: &str) -> bool {
    Path::new(jar).file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("jamm-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_settings_replace_ours() {
        let options = CassandraOptions::default()
            .setting("authenticator", "AllowAllAuthenticator")
            .setting("batch_size_fail_threshold", "10KiB");
        let yaml = options.cassandra_yaml(1, 2);
        let authenticators: Vec<_> = yaml.lines().filter(|line| line.starts_with("authenticator")).collect();
        assert_eq!(authenticators, ["authenticator: AllowAllAuthenticator"]);
        assert!(yaml.ends_with("batch_size_fail_threshold: 10KiB\n"));
        assert!(yaml.contains("seeds: 127.0.0.1:2"));
    }
}
