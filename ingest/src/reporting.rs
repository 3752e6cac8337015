//! Writes what the feeds of this process tell of themselves into the topic of reports ([`polybolos_service::feeds`]). It has a client and a task of its
//! own: that it cannot write holds no feed up.
use std::{sync::Arc, time::Duration};

use polybolos_kafka::{admin::Admin, connection::Connection, error::KafkaError, produce::Producer};
use polybolos_service::feeds::{FeedReport, TOPIC, TOPIC_SETTINGS};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::account::Account;

/// Between two looks at what is new: a feed that fails and recovers all the time is told of no more often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After a report that could not be written.
const RETRY: Duration = Duration::from_secs(5);

/// For telling that the feeds stop; without it they fall silent.
const LAST_WORD: Duration = Duration::from_secs(1);

const PARTITION: i32 = 0;

pub struct Reporter {
    accounts: Vec<Arc<Account>>,
    connection: Connection,
    producer: Option<Producer>,
    /// The last that was tried.
    is_written: bool,
    complained: bool,
}

impl Reporter {
    pub fn new(accounts: Vec<Arc<Account>>, connection: Connection) -> Self {
        Self { accounts, connection, producer: None, is_written: false, complained: false }
    }

    /// Until `shutdown`, which is told last.
    pub async fn run(mut self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.write()).await;
        for account in &self.accounts {
            account.stopped();
        }
        if let (true, Some(producer)) = (self.is_written, &self.producer) {
            let _ = tokio::time::timeout(LAST_WORD, write_due(&self.accounts, producer)).await;
        }
    }

    /// Never ends.
    async fn write(&mut self) {
        loop {
            if let Err(error) = self.write_until_it_fails().await {
                self.give_up(&error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn write_until_it_fails(&mut self) -> Result<(), KafkaError> {
        Admin::connect(&self.connection)?.ensure_topic(TOPIC, Some(1), &TOPIC_SETTINGS).await?;
        let producer = self.producer.insert(Producer::connect(&self.connection)?);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            write_due(&self.accounts, producer).await?;
            self.is_written = true;
            if std::mem::take(&mut self.complained) {
                tracing::info!(topic = TOPIC, "what the feeds do is told again");
            }
        }
    }

    /// Another client tries next: this one may be of no use any more.
    fn give_up(&mut self, error: &KafkaError) {
        self.is_written = false;
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(topic = TOPIC, %error, "what the feeds do cannot be told, so that polybolos.feeds shows them as silent; they go on all the same");
        }
        if let Some(producer) = self.producer.take() {
            // It waits for what is under way.
            tokio::task::spawn_blocking(move || drop(producer));
        }
    }
}

/// All that is due, together.
async fn write_due(accounts: &[Arc<Account>], producer: &Producer) -> Result<(), KafkaError> {
    let due: Vec<_> = accounts.iter().filter_map(|account| Some((account, account.take_due()?))).collect();
    let writes = due.iter().map(|(account, report)| write_one(account, report, producer));
    for written in futures::future::join_all(writes).await {
        written?;
    }
    Ok(())
}

async fn write_one(account: &Account, report: &FeedReport, producer: &Producer) -> Result<(), KafkaError> {
    let (key, payload) = (report.key(), report.payload());
    let written = producer.send_to(TOPIC, Some(PARTITION), Some(key.as_bytes()), Some(&payload)).await;
    if written.is_err() {
        account.is_untold();
    }
    written.map(|_| ())
}
