//! All feeds of a process: makes their topics, then runs each until shutdown.
use std::{sync::Arc, time::Duration};

use anyhow::Context;
use polybolos_kafka::{admin::Admin, connection::Connection, produce::Producer};
use polybolos_service::feeds::now_ms;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    account::{Account, Ingestor},
    config::Feed,
    http_poll,
    metrics::Metrics,
    reporting::Reporter,
};

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
    let (ingestor, clock) = (Ingestor::of_this_process(), now_ms);
    let accounts: Vec<_> = feeds.iter().map(|feed| Arc::new(Account::new(feed, &ingestor, metrics.clone(), clock))).collect();
    let admin = Admin::connect(&connection)?;
    let producer = Arc::new(Producer::connect_patient(&connection)?);
    let tasks = TaskTracker::new();
    tasks.spawn(Reporter::new(accounts.clone(), connection).run(shutdown.clone()));
    if wait_for_topics(&admin, &feeds, &accounts, &shutdown).await {
        on_ready();
        for (index, (feed, account)) in feeds.into_iter().zip(accounts).enumerate() {
            tracing::info!(feed = %feed.name, topic = %feed.topic, "feed starts");
            tasks.spawn(http_poll::run(feed, account, producer.clone(), index as u64, shutdown.clone()));
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Whether all feeds have their topics; false when shut down before that.
async fn wait_for_topics(admin: &Admin, feeds: &[Feed], accounts: &[Arc<Account>], shutdown: &CancellationToken) -> bool {
    let mut complained = false;
    while let Err(error) = make_topics(admin, feeds).await {
        let message = format!("{error:#}");
        for account in accounts {
            account.has_no_topic(&message);
        }
        if !complained {
            tracing::warn!(error = %message, "topics cannot be made yet; trying again");
            complained = true;
        }
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    true
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
