//! `polybolos up`: the whole platform in one process, without Docker and without a JVM. Everything it keeps is below the data folder.
use std::{
    collections::BTreeMap,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use polybolos_embedded::{Broker, BrokerConfig, EmbeddedTables};
use polybolos_executor::{ExecutorParts, ExecutorSettings, StateSpace};
use polybolos_ingest::demo;
use polybolos_kafka::{
    connection::Connection,
    fetcher::{Fetcher, FetcherConfig},
};
use polybolos_persist::{LocalStore, Place, Places, Store};
use polybolos_scheduler::{DoorTls, Scheduler, SchedulerParts, SchedulerSettings, catalog::CatalogStore};
use polybolos_service::{
    auth::{self, Users},
    endpoints::EndpointsFile,
    ports,
    telemetry::{self, LogSettings},
};
use polybolos_streaming::lease::LeaseConfig;
use polybolos_tables::TableBackend;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    data_folder,
    ending::{self, Ending},
    live_status, pipelines, serve,
};

/// What the parts of the platform get to end once they were told to.
const PATIENCE_AT_END: Duration = Duration::from_secs(5);

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Everything the platform keeps is below this folder.
    #[arg(long, env = "POLYBOLOS_DATA_DIR", default_value = ".polybolos")]
    data_dir: PathBuf,
    /// Pipeline folders to run.
    #[arg(long, num_args = 1.., default_value = "jobs/users")]
    pipelines: Vec<PathBuf>,
    /// Run no pipelines.
    #[arg(long)]
    no_pipelines: bool,
    /// Move every port by this.
    #[arg(long, default_value_t = 0)]
    port_offset: u16,
    /// TLS of the doors: a certificate chain, PEM.
    #[arg(long, requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// A folder or `s3://bucket/prefix` below which jobs may write files and SQL may read them ('connector' = 'filesystem'); may be repeated.
    #[arg(long, value_name = "PLACE", value_parser = Place::parse)]
    allow_location: Vec<Place>,
    /// Most memory for the state of jobs, in MiB; 0: half of what the machine has. What has no room goes to the data folder's disk.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    state_memory_mib: u64,
    /// Log lines as JSON.
    #[arg(long)]
    log_json: bool,
    /// Send traces to an OTLP collector, such as http://127.0.0.1:4317.
    #[arg(long)]
    otlp_endpoint: Option<String>,
    #[command(flatten)]
    ending: Ending,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let log = LogSettings { service: "up", json: arguments.log_json, otlp_endpoint: arguments.otlp_endpoint.clone() };
    telemetry::start(&log)?;
    let stop = arguments.ending.token()?;
    let folder = arguments.data_dir.clone();
    data_folder::make(&folder)?;
    // Held until this process is gone, however it ends.
    let _lock = data_folder::lock(&folder, data_folder::PATIENCE).await?;
    data_folder::check_room(&folder)?;
    let port = |port: u16| ports::offset(port, arguments.port_offset);
    let token = auth::token(&folder.join("token"))?;
    let registry = telemetry::metrics()?;

    let feed_address = SocketAddr::new(LOOPBACK, port(7490)?);
    let variables = pipelines::with_demo(feed_address, |name| std::env::var(name).ok());
    let folders = if arguments.no_pipelines { vec![] } else { arguments.pipelines.clone() };
    let feeds = pipelines::feeds(&folders, pipelines::OTHERS, &variables)?;
    let store: Arc<dyn Store> = Arc::new(LocalStore::open_to_lead(folder.join("store")).await?);
    let catalog = CatalogStore::open(store.clone()).await?.current();
    pipelines::check(&folders, Arc::unwrap_or_clone(catalog), pipelines::OTHERS).await?;

    // From here on others may notice.
    let feed_listener = ports::bind(LOOPBACK, feed_address.port(), "the demo feed", "--port-offset").await?;
    let broker = Broker::start(BrokerConfig::new(SocketAddr::new(LOOPBACK, port(9092)?), folder.join("broker"))).await?;
    let kafka = Connection::new(broker.address().to_string());
    // Whoever led here held the lock.
    polybolos_scheduler::leadership::vacate(&*store).await;
    let tables: Arc<dyn TableBackend> = Arc::new(EmbeddedTables::open(folder.join("tables")).await?);

    let places = Arc::new(Places::default());
    let parts = SchedulerParts {
        store: store.clone(),
        tables: tables.clone(),
        kafka: kafka.clone(),
        users: Users::new(&token, None)?,
        places: places.clone(),
        registry: registry.clone(),
    };
    let platform = CancellationToken::new();
    // Statements under way need the rest of the platform to come to their end.
    let scheduler_stop = platform.child_token();
    let scheduler = polybolos_scheduler::start(scheduler_settings(&arguments)?, parts, scheduler_stop.clone()).await?;
    tokio::select! {
        () = scheduler.leads() => {}
        () = stop.cancelled() => return Ok(()),
    }

    let executor_settings = executor_settings(&arguments)?;
    let state = StateSpace::new(serve::state_memory(arguments.state_memory_mib), folder.join("spill"));
    let executor_parts =
        ExecutorParts { fetcher: Fetcher::new(FetcherConfig::default(), &registry)?, store, tables, places, state };
    let mut services = JoinSet::new();
    let (joined, on_joined) = tokio::sync::oneshot::channel();
    let executor_stop = platform.clone();
    services.spawn(async move {
        let on_ready = move || {
            let _ = joined.send(());
        };
        match polybolos_executor::run(executor_settings, executor_parts, on_ready, executor_stop).await? {
            polybolos_executor::Ended::Shutdown => Ok(()),
            polybolos_executor::Ended::Restart(why) => bail!("the executor ended: {why}"),
        }
    });
    let feed_stop = platform.clone();
    services.spawn(async move { demo::serve(feed_listener, SystemTime::now(), feed_stop).await.context("the demo feed") });
    let (ingest_kafka, ingest_registry, ingest_stop) = (kafka.clone(), registry.clone(), platform.clone());
    let (topics, on_topics) = tokio::sync::oneshot::channel();
    services.spawn(async move {
        let on_ready = move || {
            let _ = topics.send(());
        };
        polybolos_ingest::service::run(feeds, ingest_kafka, &ingest_registry, on_ready, ingest_stop.clone()).await?;
        // Without feeds it has nothing to do; the platform goes on.
        ingest_stop.cancelled().await;
        Ok(())
    });

    let outcome = tokio::select! {
        outcome = begin(&arguments, &scheduler, &folders, &token, on_joined, on_topics) => outcome,
        () = stop.cancelled() => Err(anyhow::anyhow!("stopped while starting")),
    };
    let endpoints = match outcome {
        Ok(endpoints) => endpoints,
        Err(error) => {
            platform.cancel();
            return Err(error);
        }
    };

    let status = tokio::spawn(live_status::show(scheduler.engine.clone(), platform.clone()));
    let settled = scheduler.settled();
    let data_dir = folder.clone();
    services.spawn(async move {
        match scheduler.run().await? {
            polybolos_scheduler::Ended::Shutdown => Ok(()),
            polybolos_scheduler::Ended::Deposed => bail!(
                "the lease of {} ran out: its disk took no write for a day; start it again, nothing is lost",
                data_dir.display()
            ),
        }
    });
    let ended = tokio::select! {
        () = stop.cancelled() => {
            ending::tell(ending::STOPPING);
            scheduler_stop.cancel();
            // From here on jobs do nothing new.
            settled.await;
            Ok(())
        }
        Some(ended) = services.join_next() => ended.context("a service panicked").and_then(|ended| ended),
    };
    drop(endpoints);
    platform.cancel();
    let _ = status.await;
    // Whoever reads, writes and publishes ends before what it does that with.
    let wait_for_all = async { while services.join_next().await.is_some() {} };
    if tokio::time::timeout(PATIENCE_AT_END, wait_for_all).await.is_err() {
        tracing::warn!("a service did not end in time");
    }
    broker.stop().await;
    if ended.is_ok() {
        ending::tell(&ending::stopped(&folder));
    }
    ended
}

/// Of a scheduler that nobody stands by for.
fn scheduler_settings(arguments: &Arguments) -> anyhow::Result<SchedulerSettings> {
    let port = |port: u16| ports::offset(port, arguments.port_offset);
    Ok(SchedulerSettings {
        host: LOOPBACK,
        internal_port: port(7410)?,
        http_port: port(7400)?,
        postgres_port: port(7432)?,
        flight_sql_port: port(7433)?,
        mode: polybolos_scheduler::EMBEDDED.into(),
        allowed_locations: arguments.allow_location.clone(),
        // Nobody else can lead in a locked folder, so neither a disk that takes its time to sync nor a pause deposes anybody.
        lease: LeaseConfig { lease_us: 24 * 3_600_000_000, renew_us: 10_000_000, look_us: 50_000, ..LeaseConfig::default() },
        tls: match (&arguments.tls_certificate, &arguments.tls_key) {
            (Some(certificate), Some(key)) => Some(DoorTls::read(certificate, key)?),
            _ => None,
        },
    })
}

fn executor_settings(arguments: &Arguments) -> anyhow::Result<ExecutorSettings> {
    let port = |port: u16| ports::offset(port, arguments.port_offset);
    Ok(ExecutorSettings {
        schedulers: vec![format!("127.0.0.1:{}", port(7410)?)],
        host: LOOPBACK,
        flight_port: 0,
        grpc_port: 0,
        vcores: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
        work_dir: arguments.data_dir.join("work"),
    })
}

/// Once the executor has joined: pipelines, endpoints, the lines that tell where to look.
async fn begin(
    arguments: &Arguments,
    scheduler: &Scheduler,
    folders: &[PathBuf],
    token: &str,
    joined: tokio::sync::oneshot::Receiver<()>,
    topics: tokio::sync::oneshot::Receiver<()>,
) -> anyhow::Result<EndpointsFile> {
    joined.await.context("the executor did not start")?;
    topics.await.context("the feeds did not start")?;
    for folder in folders {
        pipelines::apply(scheduler, folder).await?;
    }
    let address = |port: u16| anyhow::Ok(format!("127.0.0.1:{}", ports::offset(port, arguments.port_offset)?));
    let endpoints = BTreeMap::from([
        ("http", address(7400)?),
        ("postgres", address(7432)?),
        ("flight_sql", address(7433)?),
        ("kafka", address(9092)?),
    ]);
    let file = EndpointsFile::new(arguments.data_dir.join("endpoints.json"), &endpoints)?;
    file.write()?;
    let folder = arguments.data_dir.display();
    let mut out = std::io::stdout();
    let scheme = if arguments.tls_certificate.is_some() { "https" } else { "http" };
    writeln!(out, "ready http={scheme}://{}/?token={token}", endpoints["http"])?;
    writeln!(out, "  console     {scheme}://{}/?token={token}", endpoints["http"])?;
    writeln!(out, "  prompt      polybolos sql --data-dir {folder}")?;
    writeln!(
        out,
        "  psql        PGPASSWORD=$(cat {folder}/token) psql -h 127.0.0.1 -p {} -U admin polybolos",
        endpoints["postgres"].rsplit(':').next().unwrap_or("")
    )?;
    writeln!(out, "  Flight SQL  {}   Kafka  {}", endpoints["flight_sql"], endpoints["kafka"])?;
    writeln!(out, "  Ctrl-C stops it; started again on {folder} it goes on where it was")?;
    out.flush()?;
    Ok(file)
}
