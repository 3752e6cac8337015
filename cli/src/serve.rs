//! The services of a cluster: `polybolos scheduler`, `executor`, `ingest`.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use polybolos_cassandra::{CassandraBackend, CassandraConfig};
use polybolos_executor::{ExecutorParts, ExecutorSettings, StateSpace};
use polybolos_gateway::http;
use polybolos_kafka::{
    connection::Connection,
    fetcher::{Fetcher, FetcherConfig},
};
use polybolos_persist::{LocalStore, Place, Places, S3Address, S3Settings, S3Store, Store, StoreError};
use polybolos_scheduler::{DoorTls, SchedulerParts, SchedulerSettings};
use polybolos_service::{
    auth::{self, Users},
    config::{self, Secret},
    endpoints::EndpointsFile,
    memory, ports,
    telemetry::{self, LogSettings},
};
use polybolos_streaming::lease::LeaseConfig;
use polybolos_tables::{TableBackend, TableError};
use prometheus::Registry;
use serde::Deserialize;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{ending::Ending, pipelines};

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
/// While there are more, the log says so as often.
const REMINDER: Duration = Duration::from_secs(60);

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

    /// Opens the only door that executors and ingestors have for people, where it is set; it closes when dropped.
    async fn open_metrics_door(
        &self,
        key: &str,
        address: &str,
        registry: &Registry,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<AbortOnDropHandle<()>>> {
        let Some((address, users)) = metrics_door(key, address, self.roles_file())? else { return Ok(None) };
        let tls = self.tls.read()?.as_ref().map(DoorTls::http);
        let listener = ports::bind(address.ip(), address.port(), "metrics", key).await?;
        let registry = registry.clone();
        let shown = Arc::new(move || telemetry::encode(&registry));
        let served = http::metrics::serve(listener, Arc::new(users), shown, tls, stop.clone());
        Ok(Some(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "metrics are no longer served; start this process again");
            }
        }))))
    }

    fn allowed_locations(&self) -> anyhow::Result<Vec<Place>> {
        let parsed = self.sql.allowed_locations.iter().map(|url| Place::parse(url)).collect::<Result<_, _>>();
        parsed.context("sql.allowed_locations")
    }

    /// Waits for a store on S3 as long as it is away, and for one in a folder, which `in_folder` opens, as long as its disk is full; a wrong login, bucket or
    /// kind of server ends it.
    async fn store(
        &self,
        stop: &CancellationToken,
        in_folder: impl AsyncFn() -> Result<LocalStore, StoreError>,
    ) -> anyhow::Result<Option<Arc<dyn Store>>> {
        if self.storage.url.is_empty() {
            let store = patiently("the store", stop, in_folder, StoreError::is_full).await?;
            return Ok(store.map(|store| Arc::new(store) as _));
        }
        let (address, settings) = (S3Address::parse(&self.storage.url).context("storage.url")?, self.s3.settings());
        let store = patiently("the store", stop, || S3Store::open(address.clone(), &settings), StoreError::is_away).await?;
        Ok(store.map(|store| Arc::new(store) as _))
    }

    /// Waits for Cassandra as long as it is away; a wrong password ends it.
    async fn tables(&self, stop: &CancellationToken) -> anyhow::Result<Option<Arc<dyn TableBackend>>> {
        let config = CassandraConfig {
            contact_points: self.cassandra.contact_points.clone(),
            username: self.cassandra.username.clone(),
            password: self.cassandra.password.reveal().to_owned(),
            ca_file: Some(PathBuf::from(&self.cassandra.ca_file)).filter(|path| !path.as_os_str().is_empty()),
            ..CassandraConfig::default()
        };
        let backend = patiently("Cassandra", stop, || CassandraBackend::connect(&config), TableError::is_retryable).await?;
        Ok(backend.map(|backend| Arc::new(backend) as _))
    }
}

/// Tries until it connects, or says that waiting does not help; `None` when told to stop.
async fn patiently<T, E: std::error::Error + Send + Sync + 'static>(
    what: &str,
    stop: &CancellationToken,
    connect: impl AsyncFn() -> Result<T, E>,
    is_away: impl Fn(&E) -> bool,
) -> anyhow::Result<Option<T>> {
    let mut told: Option<Instant> = None;
    loop {
        match connect().await {
            Ok(connected) => return Ok(Some(connected)),
            Err(error) if is_away(&error) => {
                if told.is_none_or(|told| told.elapsed() >= REMINDER) {
                    tracing::warn!(%error, "waiting for {what}; nothing runs here before");
                    told = Some(Instant::now());
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

pub async fn scheduler(arguments: Arguments) -> anyhow::Result<()> {
    let Some(config) = Config::load(&arguments, &SCHEDULER)? else { return Ok(()) };
    let stop = arguments.ending.token()?;
    let folder = &config.scheduler.data_dir;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create the data folder {}", folder.display()))?;
    let token = auth::token(&folder.join("token"))?;
    let users = Users::new(&token, config.roles_file()).context("scheduler.roles_file")?;
    let settings = SchedulerSettings {
        host: config.scheduler.host,
        internal_port: config.scheduler.internal_port,
        http_port: config.scheduler.http_port,
        postgres_port: config.scheduler.postgres_port,
        flight_sql_port: config.scheduler.flight_sql_port,
        mode: "cluster".into(),
        allowed_locations: config.allowed_locations()?,
        lease: LeaseConfig::default(),
        tls: config.tls.read()?,
    };
    // What is wrong here is told before anything is waited for.
    let store = config.store(&stop, || LocalStore::open_to_lead(&config.storage.path)).await?;
    let Some(store) = store else { return Ok(()) };
    let Some(tables) = config.tables(&stop).await? else { return Ok(()) };
    let parts = SchedulerParts {
        store,
        tables,
        kafka: config.kafka.connection(),
        users,
        places: Arc::new(Places::new(config.s3.settings())),
        registry: telemetry::metrics()?,
    };
    let scheduler = polybolos_scheduler::start(settings, parts, stop).await?;
    let own =
        (!arguments.no_endpoints).then(|| EndpointsFile::new(folder.join("endpoints.json"), &config.endpoints())).transpose()?;
    // Of schedulers that share the folder the one that leads is told of; until one does, the first.
    if let Some(own) = &own
        && !own.exists()
    {
        tell(own);
    }
    println!("ready scheduler http={}", SocketAddr::new(config.scheduler.host, config.scheduler.http_port));
    let (elected, running) = (scheduler.elected(), scheduler.run());
    tokio::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended?,
        leads = elected => {
            if let (true, Some(own)) = (leads, &own) {
                tell(own);
            }
            running.await?
        }
    };
    match ended {
        polybolos_scheduler::Ended::Shutdown => Ok(()),
        polybolos_scheduler::Ended::Deposed => restart("another scheduler may lead now"),
    }
}

/// A scheduler works without the file: only the command line misses it.
fn tell(own: &EndpointsFile) {
    if let Err(error) = own.write() {
        tracing::warn!(%error, "endpoints.json cannot be written in scheduler.data_dir; make room or give the right to write there, or give --http to the command line");
    }
}

/// What is set, or half of what there is.
pub fn state_memory(mib: u64) -> u64 {
    if mib > 0 { mib << 20 } else { memory::available().map_or(u64::MAX, |bytes| bytes / 2) }
}

/// Removes folders of executors that were killed.
fn remove_of_dead(work_dir: &Path) {
    let is_dead = |name: &str| name.parse::<u32>().is_ok() && !Path::new("/proc").join(name).exists();
    for entry in std::fs::read_dir(work_dir).into_iter().flatten().flatten() {
        if Path::new("/proc/self").exists() && entry.file_name().to_str().is_some_and(is_dead) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Where metrics are served, and to whom besides this machine; `None` where `address` is empty. The token is on the scheduler's machine only.
fn metrics_door(key: &str, address: &str, roles: Option<&Path>) -> anyhow::Result<Option<(SocketAddr, Users)>> {
    if address.is_empty() {
        return Ok(None);
    }
    let parsed = address.parse::<SocketAddr>();
    let parsed = parsed.map_err(|_| anyhow!("{key}: {address:?} is not IP:port; write for example \"127.0.0.1:7411\""))?;
    let users = match roles {
        Some(roles) => Users::of_roles(roles).with_context(|| {
            format!("{key}: the users of scheduler.roles_file are not known here; put a copy of the scheduler's file there, or set that key to \"\" and {key} to a loopback address")
        })?,
        None if parsed.ip().is_loopback() => Users::default(),
        None => bail!(
            "{key}: nobody could log in on {address} from another machine; set scheduler.roles_file to a file with a user for Prometheus, or take 127.0.0.1"
        ),
    };
    Ok(Some((parsed, users)))
}

pub async fn executor(arguments: Arguments) -> anyhow::Result<()> {
    let Some(config) = Config::load(&arguments, &EXECUTOR)? else { return Ok(()) };
    if let Some(wrong) = config.executor.schedulers.iter().find(|address| !is_host_and_port(address)) {
        bail!("executor.schedulers: {wrong:?} is not host:port; write for example \"127.0.0.1:7410\"");
    }
    let stop = arguments.ending.token()?;
    let registry = telemetry::metrics()?;
    let _door = config.open_metrics_door("executor.metrics_address", &config.executor.metrics_address, &registry, &stop).await?;
    let store = config.store(&stop, || LocalStore::open(&config.storage.path)).await?;
    let Some(store) = store else { return Ok(()) };
    let Some(tables) = config.tables(&stop).await? else { return Ok(()) };
    let places = Arc::new(Places::new(config.s3.settings()));
    // One for each executor on this machine; what is in it is of no use to anybody after its end.
    let own_folder = config.executor.work_dir.join(std::process::id().to_string());
    remove_of_dead(&config.executor.work_dir);
    std::fs::create_dir_all(&own_folder)
        .with_context(|| format!("cannot create the work folder {}; set executor.work_dir to another", own_folder.display()))?;
    let state = StateSpace::new(state_memory(config.executor.state_memory_mib), own_folder.join("spill"));
    let parts = ExecutorParts { fetcher: Fetcher::new(FetcherConfig::default(), &registry)?, store, tables, places, state };
    let settings = ExecutorSettings {
        schedulers: config.executor.schedulers.clone(),
        host: config.executor.host,
        flight_port: 0,
        grpc_port: 0,
        vcores: config.executor.vcores.get(),
        work_dir: own_folder.join("shuffle"),
    };
    let ended = polybolos_executor::run(settings, parts, || println!("ready executor"), stop).await;
    let _ = std::fs::remove_dir_all(own_folder);
    match ended? {
        polybolos_executor::Ended::Shutdown => Ok(()),
        polybolos_executor::Ended::Restart(why) => restart(&why),
    }
}

pub async fn ingest(arguments: Arguments) -> anyhow::Result<()> {
    const REMEDY: &str = "set ingest.pipelines to folders with an ingest.toml";
    let Some(config) = Config::load(&arguments, &INGEST)? else { return Ok(()) };
    let stop = arguments.ending.token()?;
    let feeds = pipelines::feeds(&config.ingest.pipelines, REMEDY, &|name| std::env::var(name).ok())?;
    if feeds.is_empty() {
        bail!("no feed to run: none of the folders of ingest.pipelines has one, or it names none; {REMEDY}");
    }
    let registry = telemetry::metrics()?;
    let _door = config.open_metrics_door("ingest.metrics_address", &config.ingest.metrics_address, &registry, &stop).await?;
    polybolos_ingest::service::run(feeds, config.kafka.connection(), &registry, || println!("ready ingest"), stop).await
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

    #[test]
    fn metrics_are_served_where_it_is_set_and_somebody_can_ask() {
        let config: Config = config::load(DEFAULTS, None).expect("loads");
        for unset in [&config.executor.metrics_address, &config.ingest.metrics_address] {
            assert!(metrics_door("key", unset, config.roles_file()).expect("is valid").is_none());
        }
        let (address, users) = metrics_door("key", "[::1]:7411", None).expect("is valid").expect("is set");
        assert_eq!((address.port(), users.check(None, "")), (7411, None));
        let told = |address: &str, roles: Option<&Path>| {
            format!("{:#}", metrics_door("executor.metrics_address", address, roles).expect_err("is refused"))
        };
        assert!(told("7411", None).starts_with("executor.metrics_address: \"7411\" is not IP:port"));
        assert!(told("0.0.0.0:7411", None).contains("set scheduler.roles_file"));
        let unread = told("0.0.0.0:7411", Some(Path::new("/nowhere/roles")));
        assert!(unread.starts_with("executor.metrics_address: ") && unread.contains("scheduler.roles_file"), "{unread}");
        assert!(unread.contains("put a copy") && unread.contains("/nowhere/roles") && !unread.contains('\n'), "{unread}");
    }
}
