//! Delivers a feed's records to Kafka, however long it is away.
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use polybolos_kafka::{error::KafkaError, produce::Producer};
use tokio_util::sync::CancellationToken;

use crate::{account::Account, config::Feed, mapping::Record};

/// How often it is told that records wait for Kafka, and looked whether they wait for ever.
const TELL: Duration = Duration::from_secs(10);

/// Delivers all records, however long the broker is away; false when shut down before that. The client itself sends them until they are there, since only it can do that
/// without writing one twice; what comes back here was never sent, or the client was given up.
pub(super) async fn deliver(
    feed: &Feed,
    records: Vec<Record>,
    producer: &Producer,
    account: &Account,
    shutdown: &CancellationToken,
) -> bool {
    let mut left = records;
    let mut pause = Duration::from_millis(100);
    loop {
        let Some(outcomes) = send_all(feed, &left, producer, account, shutdown).await else { return false };
        let mut failed = vec![];
        let mut last_error = None;
        for (record, outcome) in left.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) => account.delivered(record.payload.len()),
                Err(error) if error.is_retryable() => {
                    last_error = Some(error);
                    failed.push(record);
                }
                Err(error) => {
                    account.refused(&error.to_string());
                    tracing::error!(feed = %feed.name, topic = %feed.topic, %error, bytes = record.payload.len(), "record refused by Kafka");
                }
            }
        }
        let Some(error) = last_error else { return true };
        account.not_delivered(&error.to_string());
        tracing::warn!(feed = %feed.name, %error, records = failed.len(), "records not delivered yet; trying again");
        left = failed;
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// What became of each record; `None` when shut down before that. Tells, while they wait, how many do.
async fn send_all(
    feed: &Feed,
    records: &[Record],
    producer: &Producer,
    account: &Account,
    shutdown: &CancellationToken,
) -> Option<Vec<Result<(i32, i64), KafkaError>>> {
    let answered = AtomicUsize::new(0);
    let sends = records.iter().map(|record| send(feed, record, producer, &answered));
    let outcomes = futures::future::join_all(sends);
    tokio::select! {
        () = shutdown.cancelled() => None,
        outcomes = outcomes => Some(outcomes),
        () = tell(feed, records.len(), producer, account, &answered) => None,
        () = renew(feed, producer) => None,
    }
}

/// Never ends.
async fn tell(feed: &Feed, count: usize, producer: &Producer, account: &Account, answered: &AtomicUsize) {
    loop {
        tokio::time::sleep(TELL).await;
        account
            .not_delivered(&format!("Kafka at {} does not acknowledge records; they are kept until it does", producer.servers()));
        let records = count - answered.load(Ordering::Relaxed);
        tracing::warn!(feed = %feed.name, kafka = producer.servers(), records, "records not delivered yet; trying again");
    }
}

/// Never ends. What comes back from a client that is given up is sent again by [`deliver`].
async fn renew(feed: &Feed, producer: &Producer) {
    loop {
        tokio::time::sleep(TELL).await;
        if producer.renew_if_lost().await {
            let kafka = producer.servers();
            tracing::warn!(feed = %feed.name, kafka, "the client had lost its brokers; another one sends the records from now on");
        }
    }
}

async fn send(feed: &Feed, record: &Record, producer: &Producer, answered: &AtomicUsize) -> Result<(i32, i64), KafkaError> {
    let outcome = producer.send(&feed.topic, record.key.as_deref(), &record.payload).await;
    answered.fetch_add(1, Ordering::Relaxed);
    outcome
}
