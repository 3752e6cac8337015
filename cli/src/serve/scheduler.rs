//! `polybolos scheduler`.
use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use polybolos_persist::{LocalStore, Places};
use polybolos_scheduler::{SchedulerParts, SchedulerSettings};
use polybolos_service::{
    auth::{self, Users},
    endpoints::EndpointsFile,
    telemetry,
};
use polybolos_streaming::lease::LeaseConfig;

use super::{Arguments, Config, SCHEDULER, restart};

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
