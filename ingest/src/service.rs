//! All feeds of a process: makes their topics, then runs each until shutdown.
use std::{sync::Arc, time::Duration};

use anyhow::Context;
use polybolos_kafka::{admin::Admin, connection::Connection, produce::Producer};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Feed, http_poll, metrics::Metrics};

/// Between two tries to make topics while Kafka is away.
const RETRY: Duration = Duration::from_secs(1);

/// Runs feeds until `shutdown`; calls `on_ready` once their topics exist.
pub async fn run(
    feeds: Vec<Feed>,
    connection: Connection,
    registry: &prometheus::Registry,
    on_ready: impl FnOnce() + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if feeds.is_empty() {
        on_ready();
        return Ok(());
    }
    let metrics = Metrics::register(registry)?;
    let admin = Admin::connect(&connection)?;
    let mut complained = false;
    while let Err(error) = make_topics(&admin, &feeds).await {
        if !complained {
            tracing::warn!(error = %format!("{error:#}"), "topics cannot be made yet; trying again");
            complained = true;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    on_ready();
    let producer = Arc::new(Producer::connect_patient(&connection)?);
    let tasks = TaskTracker::new();
    for (index, feed) in feeds.into_iter().enumerate() {
        tracing::info!(feed = %feed.name, topic = %feed.topic, "feed starts");
        tasks.spawn(http_poll::run(feed, producer.clone(), metrics.clone(), index as u64, shutdown.clone()));
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn make_topics(admin: &Admin, feeds: &[Feed]) -> anyhow::Result<()> {
    for feed in feeds {
        let exists = admin.describe(&feed.topic).await.with_context(|| format!("topic {:?}", feed.topic))?.is_some();
        if !exists {
            let created = admin.create_topic(&feed.topic, feed.partitions, feed.replication, &[]).await;
            created.with_context(|| format!("topic {:?} cannot be created", feed.topic))?;
        }
    }
    Ok(())
}
