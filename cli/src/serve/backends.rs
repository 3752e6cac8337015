//! The store and the tables of a service, which are waited for while they are away.
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use polybolos_cassandra::{CassandraBackend, CassandraConfig};
use polybolos_persist::{LocalStore, S3Address, S3Store, Store, StoreError};
use polybolos_tables::{TableBackend, TableError};
use tokio_util::sync::CancellationToken;

use super::{Config, RETRY};

/// While there are more, the log says so as often.
const REMINDER: Duration = Duration::from_secs(60);

impl Config {
    /// Waits for a store on S3 as long as it is away, and for one in a folder, which `in_folder` opens, as long as its disk is full; a wrong login, bucket or
    /// kind of server ends it.
    pub(super) async fn store(
        &self,
        stop: &CancellationToken,
        in_folder: impl AsyncFn() -> Result<LocalStore, StoreError>,
    ) -> anyhow::Result<Option<Arc<dyn Store>>> {
        if self.storage.url.is_empty() {
            let store = patiently("the store", stop, in_folder, StoreError::is_full).await?;
            return Ok(store.map(|store| Arc::new(store) as _));
        }
        let (address, settings) = (S3Address::parse(&self.storage.url).context("storage.url")?, self.s3.settings());
        let store = patiently("the store", stop, || S3Store::open(address.clone(), &settings), StoreError::is_away).await?;
        Ok(store.map(|store| Arc::new(store) as _))
    }

    /// Waits for Cassandra as long as it is away; a wrong password ends it.
    pub(super) async fn tables(&self, stop: &CancellationToken) -> anyhow::Result<Option<Arc<dyn TableBackend>>> {
        let config = CassandraConfig {
            contact_points: self.cassandra.contact_points.clone(),
            username: self.cassandra.username.clone(),
            password: self.cassandra.password.reveal().to_owned(),
            ca_file: Some(PathBuf::from(&self.cassandra.ca_file)).filter(|path| !path.as_os_str().is_empty()),
            ..CassandraConfig::default()
        };
        let backend = patiently("Cassandra", stop, || CassandraBackend::connect(&config), TableError::is_retryable).await?;
        Ok(backend.map(|backend| Arc::new(backend) as _))
    }
}

/// Tries until it connects, or says that waiting does not help; `None` when told to stop.
async fn patiently<T, E: std::error::Error + Send + Sync + 'static>(
    what: &str,
    stop: &CancellationToken,
    connect: impl AsyncFn() -> Result<T, E>,
    is_away: impl Fn(&E) -> bool,
) -> anyhow::Result<Option<T>> {
    let mut told: Option<Instant> = None;
    loop {
        match connect().await {
            Ok(connected) => return Ok(Some(connected)),
            Err(error) if is_away(&error) => {
                if told.is_none_or(|told| told.elapsed() >= REMINDER) {
                    tracing::warn!(%error, "waiting for {what}; nothing runs here before");
                    told = Some(Instant::now());
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}
