//! The services of a cluster, `polybolos scheduler`, `executor` and `ingest`, and the configuration that they share.
mod backends;
mod executor;
mod ingest;
mod metrics;
mod scheduler;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use polybolos_kafka::connection::Connection;
use polybolos_persist::{Place, S3Settings};
use polybolos_scheduler::DoorTls;
use polybolos_service::{
    config::{self, Secret},
    telemetry::{self, LogSettings},
};
use serde::Deserialize;

pub use self::{
    executor::{executor, state_memory},
    ingest::ingest,
    scheduler::scheduler,
};
use crate::ending::Ending;

/// The commented default file of all services.
pub const DEFAULTS: &str = include_str!("../config/cluster.toml");

/// A service, and the sections of that file that it reads.
struct Service {
    name: &'static str,
    sections: &'static [&'static str],
}

const SCHEDULER: Service = Service {
    name: "scheduler",
    sections: &["storage", "s3", "kafka", "kafka.properties", "cassandra", "scheduler", "sql", "tls", "log"],
};
const EXECUTOR: Service = Service { name: "executor", sections: &["storage", "s3", "cassandra", "tls", "executor", "log"] };
const INGEST: Service = Service { name: "ingest", sections: &["kafka", "kafka.properties", "tls", "ingest", "log"] };

/// Between two tries to reach Cassandra or the store at the start.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file; `--print-config` shows the default one.
    #[arg(long, env = "POLYBOLOS_CONFIG")]
    config: Option<PathBuf>,
    /// Print the commented default configuration of this service.
    #[arg(long)]
    print_config: bool,
    /// Leave endpoints.json to whoever started this.
    #[arg(long, hide = true)]
    no_endpoints: bool,
    #[command(flatten)]
    ending: Ending,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    storage: Storage,
    s3: S3,
    kafka: Kafka,
    cassandra: Cassandra,
    scheduler: Scheduler,
    sql: Sql,
    tls: Tls,
    executor: Executor,
    ingest: Ingest,
    log: Log,
}

#[derive(Debug, Deserialize)]
struct Storage {
    path: PathBuf,
    url: String,
}

#[derive(Debug, Deserialize)]
struct S3 {
    endpoint: String,
    region: String,
    access_key_id: String,
    secret_access_key: Secret,
}

impl S3 {
    fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.reveal().to_owned(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Kafka {
    bootstrap_servers: String,
    properties: BTreeMap<String, Secret>,
}

impl Kafka {
    fn connection(&self) -> Connection {
        let revealed = self.properties.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned()));
        Connection { bootstrap_servers: self.bootstrap_servers.clone(), properties: revealed.collect() }
    }
}

#[derive(Debug, Deserialize)]
struct Cassandra {
    contact_points: Vec<String>,
    username: String,
    password: Secret,
    ca_file: String,
}

#[derive(Debug, Deserialize)]
struct Scheduler {
    host: IpAddr,
    internal_port: u16,
    http_port: u16,
    postgres_port: u16,
    flight_sql_port: u16,
    data_dir: PathBuf,
    roles_file: String,
}

#[derive(Debug, Deserialize)]
struct Sql {
    allowed_locations: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Tls {
    certificate_file: String,
    key_file: String,
}

impl Tls {
    fn read(&self) -> anyhow::Result<Option<DoorTls>> {
        match (self.certificate_file.as_str(), self.key_file.as_str()) {
            ("", "") => Ok(None),
            ("", _) | (_, "") => bail!("tls.certificate_file and tls.key_file go together; set both or none"),
            (certificate, key) => Ok(Some(DoorTls::read(certificate.as_ref(), key.as_ref())?)),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Executor {
    host: IpAddr,
    schedulers: Vec<String>,
    vcores: NonZeroUsize,
    state_memory_mib: u64,
    work_dir: PathBuf,
    metrics_address: String,
}

#[derive(Debug, Deserialize)]
struct Ingest {
    pipelines: Vec<PathBuf>,
    metrics_address: String,
}

#[derive(Debug, Deserialize)]
struct Log {
    json: bool,
    otlp_endpoint: String,
}

impl Service {
    /// The head of the default file, and its sections.
    fn defaults(&self) -> String {
        let is_read = |block: &&str| match block.strip_prefix('[').and_then(|block| block.split_once(']')) {
            Some((section, _)) => self.sections.contains(&section),
            None => true,
        };
        DEFAULTS.trim_end().split("\n\n").filter(is_read).collect::<Vec<_>>().join("\n\n")
    }
}

impl Config {
    /// `None` when the default configuration was printed instead.
    fn load(arguments: &Arguments, service: &Service) -> anyhow::Result<Option<Self>> {
        if arguments.print_config {
            println!("{}", service.defaults());
            return Ok(None);
        }
        let config: Self = config::load(DEFAULTS, arguments.config.as_deref())?;
        let otlp_endpoint = Some(config.log.otlp_endpoint.clone()).filter(|endpoint| !endpoint.is_empty());
        telemetry::start(&LogSettings { service: service.name, json: config.log.json, otlp_endpoint })?;
        Ok(Some(config))
    }

    /// For the command line on this machine.
    fn endpoints(&self) -> BTreeMap<&'static str, String> {
        let Scheduler { host, http_port, postgres_port, flight_sql_port, .. } = self.scheduler;
        let host = if host.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { host };
        let door = |port| SocketAddr::new(host, port).to_string();
        BTreeMap::from([
            ("http", door(http_port)),
            ("postgres", door(postgres_port)),
            ("flight_sql", door(flight_sql_port)),
            ("kafka", self.kafka.bootstrap_servers.clone()),
        ])
    }

    fn roles_file(&self) -> Option<&Path> {
        Some(Path::new(&self.scheduler.roles_file)).filter(|path| !path.as_os_str().is_empty())
    }

    fn allowed_locations(&self) -> anyhow::Result<Vec<Place>> {
        let parsed = self.sql.allowed_locations.iter().map(|url| Place::parse(url)).collect::<Result<_, _>>();
        parsed.context("sql.allowed_locations")
    }
}

/// The same process starts anew: what it held in memory belongs to a leader that is gone.
fn restart(why: &str) -> anyhow::Result<()> {
    tracing::warn!(why, "starting anew");
    // What is wrong may not be over at once.
    std::thread::sleep(RETRY);
    let program = std::env::current_exe()?;
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
    Err(error).context("cannot start anew")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_prints_what_it_reads() {
        let all: Vec<&str> = DEFAULTS.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']')).collect();
        let mut printed = vec![];
        for service in [SCHEDULER, EXECUTOR, INGEST] {
            let defaults = service.defaults();
            assert!(defaults.starts_with("# Polybolos on a cluster"), "{defaults}");
            let shown: Vec<&str> = defaults.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']')).collect();
            assert_eq!(shown, service.sections, "in the file's order");
            printed.extend(service.sections.iter().copied());
        }
        assert!(all.iter().all(|section| printed.contains(section)), "{all:?} {printed:?}");
    }
}
