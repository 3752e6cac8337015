//! A broker in place of Kafka, for one process: it speaks the Kafka protocol on a socket and keeps records in a local folder.
//!
//! Any client of the protocol can produce (idempotently, in transactions too), consume (read committed or not), commit offsets, and make,
//! grow, empty and delete topics. What it acknowledges survives a power cut, and nothing is served before it would. Consumer-group
//! membership (`subscribe`) and offsets inside transactions are not offered; a client that asks for them is told so by the versions of the
//! protocol.
//!
//! * [`wire`], [`codes`], [`batch`]: the protocol's types, numbers and record batches;
//! * [`connection`]: frames and dispatch; [`produce`], [`consume`], [`metadata`], [`admin`], [`groups`],
//!   [`transactions`]: the requests;
//! * [`log`]: topics and records on disk, and reading them; [`appender`]: the one thread that writes; [`producers`]: what it knows of
//!   who writes.
mod admin;
mod appender;
mod batch;
mod codes;
mod connection;
mod consume;
mod groups;
mod log;
mod metadata;
mod produce;
mod producers;
mod transactions;
mod wire;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use appender::{Appender, Command};
use codes::ErrorCode;
use fjall::LsmError;
use log::{Log, LogError};
use polybolos_tables::Blame;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::trouble::{POISONED, remedy};

/// How often records beyond their retention, and producers that are idle for long, are looked for.
const RETAIN_EVERY: Duration = Duration::from_secs(300);
/// How often transactions that were left open are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// Where a broker listens and where it keeps its records.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Port 0 takes a free one, see [`Broker::address`].
    pub listen: SocketAddr,
    /// Made where missing; one broker at a time.
    pub data_dir: PathBuf,
    /// Partitions of a topic that a producer's first record makes.
    pub auto_create_partitions: u32,
}

impl BrokerConfig {
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>) -> Self {
        Self { listen, data_dir: data_dir.into(), auto_create_partitions: 4 }
    }
}

#[derive(Debug, Error)]
pub enum BrokerError {
    #[error("port {port} of the embedded broker is taken; stop what uses it, or choose another with --port-offset", port = .0.port())]
    PortTaken(SocketAddr),
    #[error("the embedded broker cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the embedded broker's folder {} is open in another process; stop it or choose another data folder", folder.display())]
    InUse { folder: PathBuf },
    #[error("the embedded broker's records in {} are damaged: {message}; restore the folder from a copy", folder.display())]
    Damaged { folder: PathBuf, message: String },
    #[error("the embedded broker cannot use {}: {source}{}", folder.display(), remedy(source))]
    Store { folder: PathBuf, source: io::Error },
}

impl BrokerError {
    fn store(folder: &Path, error: LogError) -> Self {
        let folder = folder.to_path_buf();
        match error {
            LogError::Store(fjall::Error::Locked) => Self::InUse { folder },
            LogError::Store(fjall::Error::Io(source) | fjall::Error::Storage(LsmError::Io(source))) => {
                Self::Store { folder, source }
            }
            LogError::Store(fjall::Error::Poisoned) => Self::Store { folder, source: io::Error::other(POISONED) },
            damage => Self::Damaged { folder, message: damage.to_string() },
        }
    }

    /// Whether the same start may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::PortTaken(_) | Self::Listen { .. } | Self::InUse { .. } | Self::Store { .. })
    }

    pub fn blame(&self) -> Blame {
        Blame::Environment
    }
}

/// A running broker. Dropping it ends it too, in the background; [`Broker::stop`] waits until its folder is free again.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    cancelled: CancellationToken,
    tasks: TaskTracker,
    appender: Option<std::thread::JoinHandle<()>>,
}

/// What every connection works with.
struct Shared {
    log: Arc<Log>,
    commands: mpsc::Sender<Command>,
    address: SocketAddr,
    auto_create_partitions: u32,
}

impl Shared {
    async fn command(&self, command: Command) -> Result<(), ErrorCode> {
        self.commands.send(command).await.map_err(|_| ErrorCode::KafkaStorageError)
    }

    /// Has the appender do something, and waits for its answer.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, ErrorCode>>) -> Command) -> Result<T, ErrorCode> {
        let (answer, answered) = oneshot::channel();
        self.command(command(answer)).await?;
        answered.await.unwrap_or(Err(ErrorCode::KafkaStorageError))
    }
}

impl Broker {
    /// Opens the folder and listens; clients can connect as soon as this returns.
    pub async fn start(config: BrokerConfig) -> Result<Self, BrokerError> {
        let listener = TcpListener::bind(config.listen).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => BrokerError::PortTaken(config.listen),
            _ => BrokerError::Listen { address: config.listen, source },
        })?;
        let address = listener.local_addr().map_err(|source| BrokerError::Listen { address: config.listen, source })?;
        let folder = config.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let log = Arc::new(Log::open(&folder)?);
            let (commands, thread) = Appender::start(Arc::clone(&log)).map_err(|error| BrokerError::store(&folder, error))?;
            Ok((log, commands, thread))
        });
        let (log, commands, thread) = opened.await.expect("opening the log does not panic")?;
        let shared = Arc::new(Shared { log, commands, address, auto_create_partitions: config.auto_create_partitions });
        let (cancelled, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(Arc::clone(&shared), listener, cancelled.clone(), tasks.clone()));
        tasks.spawn(command_every(RETAIN_EVERY, || Command::Retain, Arc::clone(&shared), cancelled.clone()));
        tasks.spawn(command_every(EXPIRE_EVERY, || Command::ExpireTransactions, shared, cancelled.clone()));
        tracing::info!(%address, folder = %config.data_dir.display(), "embedded broker ready");
        Ok(Self { address, cancelled, tasks, appender: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Disconnects everybody, finishes what was begun, and frees port and folder.
    pub async fn stop(mut self) {
        self.cancelled.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(appender) = self.appender.take() {
            // The thread ends when the last connection is gone.
            let joined = tokio::task::spawn_blocking(move || appender.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the embedded broker's appender died");
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, cancelled: CancellationToken, tasks: TaskTracker) {
    /// So that running out of file descriptors does not become a busy loop.
    const AFTER_FAILURE: Duration = Duration::from_millis(100);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancelled.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, cancelled) = (Arc::clone(&shared), cancelled.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = connection::serve(shared, stream) => {}
                        () = cancelled.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the embedded broker could not accept a connection");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn command_every(period: Duration, command: fn() -> Command, shared: Arc<Shared>, cancelled: CancellationToken) {
    let mut every = tokio::time::interval(period);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = cancelled.cancelled() => return,
        }
        if shared.command(command()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_takes_no_writes_is_told_with_what_to_do() {
        let full = || io::Error::from_raw_os_error(28);
        for error in [fjall::Error::Io(full()), fjall::Error::Storage(full().into())] {
            let told = BrokerError::store(Path::new("here"), error.into()).to_string();
            let expected =
                "the embedded broker cannot use here: No space left on device (os error 28); free some space, then start again";
            assert_eq!(told, expected);
        }
    }
}
