//! `polybolos executor`.
use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use polybolos_executor::{ExecutorParts, ExecutorSettings, StateSpace};
use polybolos_kafka::fetcher::{Fetcher, FetcherConfig};
use polybolos_persist::{LocalStore, Places};
use polybolos_service::{memory, telemetry};

use super::{Arguments, Config, EXECUTOR, restart};

pub async fn executor(arguments: Arguments) -> anyhow::Result<()> {
    let Some(config) = Config::load(&arguments, &EXECUTOR)? else { return Ok(()) };
    if config.executor.schedulers.is_empty() {
        bail!("executor.schedulers names no scheduler; write for example [\"127.0.0.1:7410\"]");
    }
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
