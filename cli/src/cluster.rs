//! `polybolos cluster`: a cluster of processes on this machine against a Kafka and a Cassandra that run already: a scheduler, executors,
//! an ingestor and the demo's feed. Ctrl-C ends all of it.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use polybolos_ingest::demo;
use polybolos_service::{
    endpoints::EndpointsFile,
    ports, shutdown,
    telemetry::{self, LogSettings},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Connect,
    client::Client,
    pipelines,
    services::{Environment, Services},
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Ports of the scheduler, and who comes there.
const DOORS: [(u16, &str); 4] =
    [(7400, "the console"), (7410, "executors"), (7432, "PostgreSQL clients"), (7433, "Flight SQL clients")];

/// While services wait for something, which their logs tell, we say so as often.
const REMINDER: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Everything the cluster keeps on this machine is below this folder.
    #[arg(long, default_value = ".polybolos-cluster")]
    data_dir: PathBuf,
    /// Kafka's bootstrap servers.
    #[arg(long, env = "POLYBOLOS_KAFKA_BOOTSTRAP_SERVERS")]
    kafka: String,
    /// host:port of some nodes of Cassandra, separated by commas.
    #[arg(long, env = "POLYBOLOS_CASSANDRA_CONTACT_POINTS")]
    cassandra: String,
    /// The user who logs in at Cassandra.
    #[arg(long, default_value = "cassandra")]
    cassandra_username: String,
    /// The password of that user.
    #[arg(long, env = "POLYBOLOS_CASSANDRA_PASSWORD", default_value = "cassandra", hide_env_values = true)]
    cassandra_password: String,
    /// Keep manifests, state and the catalog on S3 (`s3://bucket/prefix`) instead of in the data folder; login and endpoint from the environment.
    #[arg(long, env = "POLYBOLOS_STORAGE_URL", default_value = "")]
    storage_url: String,
    /// Number of executors.
    #[arg(long, default_value_t = 3)]
    executors: usize,
    /// Pipeline folders to run.
    #[arg(long, num_args = 1.., default_value = "jobs/users")]
    pipelines: Vec<PathBuf>,
    /// Run no pipelines.
    #[arg(long)]
    no_pipelines: bool,
    /// Move every port by this.
    #[arg(long, default_value_t = 0)]
    port_offset: u16,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    telemetry::start(&LogSettings::default())?;
    let stop = shutdown::on_signals()?;
    let folder = std::path::absolute(&arguments.data_dir)?;
    std::fs::create_dir_all(folder.join("log")).with_context(|| format!("cannot create {}", folder.display()))?;
    let port = |port: u16| ports::offset(port, arguments.port_offset);
    let feed = ports::bind(LOOPBACK, port(7490)?, "the demo feed", "--port-offset").await?;
    let mut doors = vec![];
    for (number, door) in DOORS {
        // The scheduler listens there in a moment; until then the port is free again.
        drop(ports::bind(LOOPBACK, port(number)?, door, "--port-offset").await?);
        doors.push(port(number)?);
    }
    let pipelines = if arguments.no_pipelines { vec![] } else { arguments.pipelines.clone() };
    let variables = pipelines::with_demo(feed.local_addr()?, |name| std::env::var(name).ok());
    let feeds = pipelines::feeds(&pipelines, pipelines::OTHERS, &variables)?;

    let shown = |path: &std::path::Path| path.display().to_string();
    let environment = Environment::from([
        ("POLYBOLOS_STORAGE_PATH", shown(&folder.join("store"))),
        ("POLYBOLOS_STORAGE_URL", arguments.storage_url.clone()),
        ("POLYBOLOS_KAFKA_BOOTSTRAP_SERVERS", arguments.kafka.clone()),
        ("POLYBOLOS_CASSANDRA_CONTACT_POINTS", arguments.cassandra.clone()),
        ("POLYBOLOS_CASSANDRA_USERNAME", arguments.cassandra_username.clone()),
        ("POLYBOLOS_CASSANDRA_PASSWORD", arguments.cassandra_password.clone()),
        ("POLYBOLOS_SCHEDULER_INTERNAL_PORT", port(7410)?.to_string()),
        ("POLYBOLOS_SCHEDULER_HTTP_PORT", port(7400)?.to_string()),
        ("POLYBOLOS_SCHEDULER_POSTGRES_PORT", port(7432)?.to_string()),
        ("POLYBOLOS_SCHEDULER_FLIGHT_SQL_PORT", port(7433)?.to_string()),
        ("POLYBOLOS_SCHEDULER_DATA_DIR", shown(&folder)),
        ("POLYBOLOS_EXECUTOR_SCHEDULERS", format!("127.0.0.1:{}", port(7410)?)),
        ("POLYBOLOS_EXECUTOR_WORK_DIR", shown(&folder.join("work"))),
        ("POLYBOLOS_INGEST_PIPELINES", pipelines.iter().map(|path| shown(path)).collect::<Vec<_>>().join(",")),
        (pipelines::USERS_API, variables(pipelines::USERS_API).unwrap_or_default()),
    ]);
    let (executors, ingestors) = (arguments.executors, usize::from(!feeds.is_empty()));
    let free = ports::free(LOOPBACK, executors + ingestors + doors.len())?;
    let free = free.into_iter().filter(|port| !doors.contains(port)).take(executors + ingestors);
    let metrics: Vec<String> = free.map(|port| format!("127.0.0.1:{port}")).collect();
    let mut services = Services::new(std::env::current_exe()?, folder.clone());
    let mut start = |name: String, arguments: &[&str], metrics: &str| {
        let mut environment = environment.clone();
        let keys = ["POLYBOLOS_EXECUTOR_METRICS_ADDRESS", "POLYBOLOS_INGEST_METRICS_ADDRESS"];
        environment.extend(keys.map(|key| (key, metrics.to_owned())));
        services.start(name, arguments, environment);
    };
    start("scheduler".into(), &["scheduler", "--no-endpoints"], "");
    for (number, address) in (1..=executors).zip(&metrics) {
        start(format!("executor-{number}"), &["executor"], address);
    }
    for address in &metrics[executors..] {
        start("ingest".into(), &["ingest"], address);
    }
    let _feed = AbortOnDropHandle::new(tokio::spawn(demo::serve(feed, SystemTime::now(), CancellationToken::new())));

    let outcome = tokio::select! {
        ready = begin(&arguments, &folder, &pipelines, metrics.join(",")) => ready,
        error = services.broken() => Err(error),
        () = stop.cancelled() => Err(anyhow::anyhow!("stopped while starting")),
    };
    let outcome = match outcome {
        Ok(_endpoints) => {
            services.are_ready();
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                error = services.broken() => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    services.end().await;
    outcome
}

/// Once the scheduler leads and executors are here: pipelines, endpoints, where to look.
async fn begin(
    arguments: &Arguments,
    folder: &std::path::Path,
    pipelines: &[PathBuf],
    metrics: String,
) -> anyhow::Result<EndpointsFile> {
    let address = |port: u16| anyhow::Ok(format!("127.0.0.1:{}", ports::offset(port, arguments.port_offset)?));
    let endpoints = BTreeMap::from([
        ("http", address(7400)?),
        ("postgres", address(7432)?),
        ("flight_sql", address(7433)?),
        ("kafka", arguments.kafka.clone()),
        ("cassandra", arguments.cassandra.clone()),
        // Of executors, then of the ingestor.
        ("metrics", metrics),
    ]);
    let connect = Connect {
        data_dir: folder.to_owned(),
        http: Some(endpoints["http"].clone()),
        token: None,
        ca_file: std::env::var_os("POLYBOLOS_CA_FILE").map(PathBuf::from),
    };
    let mut told = Instant::now();
    let client = loop {
        if let Ok(client) = Client::connect(&connect)
            && let Ok(rows) = client.sql("SELECT count(*) FROM polybolos.executors", 1).await
            && rows.rows.first().and_then(|row| row.first()?.as_u64()).unwrap_or(0) >= arguments.executors as u64
        {
            break client;
        }
        if told.elapsed() >= REMINDER {
            tracing::warn!(
                "still waiting for the scheduler and {} executors; {}/log says for what",
                arguments.executors,
                folder.display()
            );
            told = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    for pipeline in pipelines {
        for file in polybolos_sql::validate::read_folder(pipeline)? {
            client.sql(&file.text, 1).await.with_context(|| format!("{}/{}", pipeline.display(), file.name))?;
        }
    }
    let file = EndpointsFile::new(folder.join("endpoints.json"), &endpoints)?;
    file.write()?;
    let token = std::fs::read_to_string(folder.join("token"))?;
    println!("ready http=http://{}/?token={}", endpoints["http"], token.trim());
    println!("  prompt  polybolos sql --data-dir {}", folder.display());
    println!("  logs    {}/log", folder.display());
    Ok(file)
}
