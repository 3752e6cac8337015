//! `polybolos ingest`.
use anyhow::bail;
use polybolos_service::telemetry;

use super::{Arguments, Config, INGEST};
use crate::pipelines;

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
