//! A real Apache Kafka: one broker that is its own controller (KRaft), started from Maven Central's jars.
//!
//! The controller's address is given as a static voter, not recorded in the metadata log, so that a kept data folder can be
//! served on other ports later.
use crate::cancel::Cancel;
use crate::class_path::class_path;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::java::{find_java, java_arguments, prepare};
use crate::probe;
use crate::process::ProcessSpec;
use crate::server::{Launch, LocalServer};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const POM: &str = include_str!("../../../deploy/local/kafka/pom.xml");
const PROPERTIES: &str = include_str!("../../../deploy/local/kafka/server.properties");
const LOGGING: &str = include_str!("../../../deploy/local/kafka/log4j2.properties");
/// There is one of these clusters per data folder; they never meet, so they may all have the same id.
const CLUSTER_ID: &str = "cG9seWJvbG9zLWxvY2FsIQ";
/// Formatting takes a second or three of mostly JVM start.
const FORMAT_DEADLINE: Duration = Duration::from_secs(60);

/// How to start a Kafka. The default is for tests: free ports, a temporary data folder, 512 MB.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Data go to its subfolder `kafka` and are kept; without it they go to a temporary folder.
    pub data_dir: Option<PathBuf>,
    /// The port for clients; without it the one used last on this data folder, or a free one.
    pub port: Option<u16>,
    /// Partitions of topics that are created without saying how many.
    pub partitions: u32,
    /// Heap limit of the JVM.
    pub heap_mb: u32,
    /// More lines for `server.properties` (`message.max.bytes`, `log.retention.ms`, …); they win over ours.
    pub properties: Vec<(String, String)>,
    /// Another listener, with SASL/PLAIN login as this user with this password.
    pub sasl: Option<(String, String)>,
    /// Another listener, which tells clients to come back to this port of 127.0.0.1: that of a [`crate::FaultProxy`] whose
    /// upstream is [`LocalServer::proxied_address`]. (Kafka's clients go where the broker says, past any proxy, otherwise.)
    pub advertise_proxy: Option<u16>,
    pub start_deadline: Duration,
    pub cancel: Cancel,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            data_dir: None,
            port: None,
            partitions: 1,
            heap_mb: 512,
            properties: Vec::new(),
            sasl: None,
            advertise_proxy: None,
            start_deadline: Duration::from_secs(120),
            cancel: Cancel::default(),
        }
    }
}

/// The ports of one broker.
struct Ports {
    client: u16,
    controller: u16,
    sasl: u16,
    proxied: u16,
}

impl KafkaOptions {
    /// Sets one more line of `server.properties`.
    #[must_use]
    pub fn property(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Starts the broker; returns when it serves.
    pub fn start(&self) -> Result<LocalServer> {
        let java = find_java()?;
        let class_path = class_path("kafka", POM, &self.cancel)?;
        let home = Home::open(self.data_dir.as_deref(), "kafka")?;
        let wanted = [("client", self.port), ("controller", None), ("sasl", None), ("proxied", None)];
        let ports = home.ports("kafka", &wanted, "--kafka-port")?;
        let ports = Ports { client: ports[0], controller: ports[1], sasl: ports[2], proxied: ports[3] };
        prepare(
            home.path(),
            &[("server.properties", &self.server_properties(home.path(), &ports)), ("log4j2.properties", LOGGING)],
        )?;
        if !home.path().join("data/meta.properties").is_file() {
            self.format(&java, &class_path, home.path())?;
        }
        let spec =
            self.java_program("kafka", &java, &class_path, home.path(), "kafka.Kafka").arg(conf(home.path(), "server.properties"));
        LocalServer::launch(Launch {
            spec,
            address: loopback(ports.client),
            sasl_address: self.sasl.as_ref().map(|_| loopback(ports.sasl)),
            proxied_address: self.advertise_proxy.map(|_| loopback(ports.proxied)),
            home,
            ready: probe::kafka,
            start_deadline: self.start_deadline,
            cancel: self.cancel.clone(),
        })
    }

    /// Gives a new data folder its identity.
    fn format(&self, java: &Path, class_path: &str, home: &Path) -> Result<()> {
        let spec = self
            .java_program("kafka-format", java, class_path, home, "kafka.tools.StorageTool")
            .args(["format", "-t", CLUSTER_ID, "--ignore-formatted", "-c"])
            .arg(conf(home, "server.properties"));
        let mut formatting = spec.spawn()?;
        let status = formatting.wait_exit(FORMAT_DEADLINE)?;
        if status.success() {
            return Ok(());
        }
        let (log, tail) = (formatting.stdout_log().to_owned(), formatting.tail());
        Err(Error::Ended {
            name: "kafka-format".to_owned(),
            status: status.to_string(),
            waited_for: "success".to_owned(),
            log,
            tail,
        })
    }

    fn java_program(&self, name: &str, java: &Path, class_path: &str, home: &Path, main: &str) -> ProcessSpec {
        ProcessSpec::new(name, java)
            .args(java_arguments(&[format!("-Xmx{}m", self.heap_mb)], home))
            .arg(format!("-Dlog4j2.configurationFile={}", conf(home, "log4j2.properties").display()))
            .arg("-cp")
            .arg(class_path)
            .arg(main)
            .log_dir(home.join("logs"))
    }

    fn server_properties(&self, home: &Path, ports: &Ports) -> String {
        let (client, controller) = (loopback(ports.client), loopback(ports.controller));
        let mut listeners = format!("PLAINTEXT://{client}");
        let mut advertised = listeners.clone();
        let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
        let mut lines = String::from(PROPERTIES);
        let mut set = |key: &str, value: &str| lines.push_str(&format!("{key}={value}\n"));
        if let Some((user, password)) = &self.sasl {
            listeners.push_str(&format!(",SASL://{}", loopback(ports.sasl)));
            advertised.push_str(&format!(",SASL://{}", loopback(ports.sasl)));
            protocols.push_str(",SASL:SASL_PLAINTEXT");
            set("listener.name.sasl.sasl.enabled.mechanisms", "PLAIN");
            let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
            set("listener.name.sasl.plain.sasl.jaas.config", &format!("{module} required user_{user}=\"{password}\";"));
        }
        if let Some(proxy) = self.advertise_proxy {
            listeners.push_str(&format!(",PROXIED://{}", loopback(ports.proxied)));
            advertised.push_str(&format!(",PROXIED://{}", loopback(proxy)));
            protocols.push_str(",PROXIED:PLAINTEXT");
        }
        set("controller.quorum.voters", &format!("1@{controller}"));
        set("listeners", &format!("{listeners},CONTROLLER://{controller}"));
        set("advertised.listeners", &advertised);
        set("listener.security.protocol.map", &protocols);
        set("log.dirs", &home.join("data").display().to_string());
        set("num.partitions", &self.partitions.to_string());
        for (key, value) in &self.properties {
            set(key, value);
        }
        lines
    }
}

fn conf(home: &Path, file: &str) -> PathBuf {
    home.join("conf").join(file)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { client: 1, controller: 2, sasl: 3, proxied: 4 };

    fn value<'a>(properties: &'a str, key: &str) -> Option<&'a str> {
        properties.lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    #[test]
    fn listeners_appear_when_asked_for() {
        let plain = KafkaOptions::default().server_properties(Path::new("/h"), &PORTS);
        assert_eq!(value(&plain, "listeners"), Some("PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2"));
        assert_eq!(value(&plain, "advertised.listeners"), Some("PLAINTEXT://127.0.0.1:1"));

        let sasl = Some(("ann".to_owned(), "pw".to_owned()));
        let all = KafkaOptions { sasl, advertise_proxy: Some(9), ..KafkaOptions::default() };
        let all = all.server_properties(Path::new("/h"), &PORTS);
        let advertised = "PLAINTEXT://127.0.0.1:1,SASL://127.0.0.1:3,PROXIED://127.0.0.1:9";
        assert_eq!(value(&all, "advertised.listeners"), Some(advertised));
        assert!(value(&all, "listener.name.sasl.plain.sasl.jaas.config").unwrap().ends_with("required user_ann=\"pw\";"));
    }

    #[test]
    fn the_callers_properties_win() {
        let options = KafkaOptions::default().property("num.partitions", "7").property("message.max.bytes", "20000000");
        let properties = options.server_properties(Path::new("/h"), &PORTS);
        assert_eq!(value(&properties, "num.partitions"), Some("7"));
        assert_eq!(value(&properties, "message.max.bytes"), Some("20000000"));
    }
}
