//! `polybolos cluster`: a cluster of processes on this machine against a Kafka and a Cassandra that run already: a scheduler, executors,
//! an ingestor and the demo's feed. A service that dies is started again after a second; Ctrl-C ends all of it. Services
//! end with this process even when it is killed.
use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context;
use polybolos_ingest::demo;
use polybolos_service::{
    endpoints::EndpointsFile,
    ports, shutdown,
    telemetry::{self, LogSettings},
};
use tokio::{process::Command, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Connect, client::Client};

/// A service that died is started again after this.
const RESTART: Duration = Duration::from_secs(1);

/// A service that does not end by itself is killed.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Everything the cluster keeps on this machine is below this folder.
    #[arg(long, default_value = ".polybolos-cluster")]
    data_dir: PathBuf,
    /// Kafka's bootstrap servers.
    #[arg(long, env = "POLYBOLOS_TEST_KAFKA")]
    kafka: String,
    /// Cassandra's host:port.
    #[arg(long, env = "POLYBOLOS_TEST_CASSANDRA")]
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
    let feed = demo::bind(port(7490)?).await.context("the demo feed's port is taken; choose others with --port-offset")?;
    let users_api = format!("http://{}/api/", feed.local_addr()?);
    let pipelines = if arguments.no_pipelines { vec![] } else { arguments.pipelines.clone() };

    let shown = |path: &std::path::Path| path.display().to_string();
    let environment = BTreeMap::from([
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
        ("USERS_API_URL", users_api),
    ]);
    let (executors, ingestors) = (arguments.executors, usize::from(!pipelines.is_empty()));
    // Until the scheduler listens, its ports are free, too.
    let doors = [port(7400)?, port(7410)?, port(7432)?, port(7433)?];
    let free = ports::free(Ipv4Addr::LOCALHOST.into(), executors + ingestors + doors.len())?;
    let free = free.into_iter().filter(|port| !doors.contains(port)).take(executors + ingestors);
    let metrics: Vec<String> = free.map(|port| format!("127.0.0.1:{port}")).collect();
    let services_stop = CancellationToken::new();
    let mut services = JoinSet::new();
    let mut start = |verb: &'static [&'static str], name: String, metrics: &str| {
        let mut environment = environment.clone();
        let keys = ["POLYBOLOS_EXECUTOR_METRICS_ADDRESS", "POLYBOLOS_INGEST_METRICS_ADDRESS"];
        environment.extend(keys.map(|key| (key, metrics.to_owned())));
        services.spawn(supervise(verb, name, folder.clone(), environment, services_stop.clone()));
    };
    start(&["scheduler", "--no-endpoints"], "scheduler".into(), "");
    for (number, address) in (1..=executors).zip(&metrics) {
        start(&["executor"], format!("executor-{number}"), address);
    }
    for address in &metrics[executors..] {
        start(&["ingest"], "ingest".into(), address);
    }
    let feed_task = tokio::spawn(demo::serve(feed, 42, services_stop.clone()));

    let outcome = tokio::select! {
        ready = begin(&arguments, &folder, &pipelines, metrics.join(",")) => ready,
        () = stop.cancelled() => Err(anyhow::anyhow!("stopped while starting")),
    };
    let outcome = match outcome {
        Ok(endpoints) => {
            stop.cancelled().await;
            drop(endpoints);
            Ok(())
        }
        Err(error) => Err(error),
    };
    services_stop.cancel();
    while services.join_next().await.is_some() {}
    feed_task.abort();
    outcome
}

/// Keeps one service running; its output goes to a log file.
async fn supervise(
    verb: &'static [&'static str],
    name: String,
    folder: PathBuf,
    environment: BTreeMap<&'static str, String>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    loop {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log").join(format!("{name}.log")))?;
        let mut child = Command::new(&program)
            .args(verb)
            .arg("--end-with-input")
            .envs(&environment)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .process_group(0)
            .spawn()?;
        // The system closes it when this process ends, in whatever way, and the service ends, too. Left in the child, waiting closes it.
        let _input = child.stdin.take();
        let pid = child.id();
        if let Some(pid) = pid {
            std::fs::write(folder.join(format!("{name}.pid")), pid.to_string())?;
        }
        tokio::select! {
            ended = child.wait() => tracing::warn!(%name, status = %ended?, "service ended; starting it again"),
            () = stop.cancelled() => {
                if let Some(pid) = pid {
                    // SIGTERM by the system's own tool: the standard library only knows SIGKILL.
                    let _ = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await;
                }
                if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                    child.kill().await?;
                }
                return Ok(());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RESTART) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
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
    let client = loop {
        if let Ok(client) = Client::connect(&connect)
            && let Ok(rows) = client.sql("SELECT count(*) FROM polybolos.executors", 1).await
            && rows.rows.first().and_then(|row| row.first()?.as_u64()).unwrap_or(0) >= arguments.executors as u64
        {
            break client;
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
