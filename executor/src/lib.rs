//! The executor service: a Ballista executor that runs our nodes, and the control stream that ties it to the leading scheduler.
//!
//! * [`ballista`]: hosts Ballista's executor and hands our services to its tasks;
//! * `engine`: executes stages, those of epochs without shuffle files;
//! * `exchange`: rows from and to executors that compute other parts of the same epochs;
//! * [`control`]: the stream: join, beat, reports, orders;
//! * [`grants`]: the right to publish;
//! * [`publishing`]: carries out publish orders.
#![forbid(unsafe_code)]

pub mod ballista;
pub mod control;
mod engine;
mod exchange;
pub mod grants;
pub mod publishing;

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use polybolos_operators::services::{ExecutorServices, REPORT_CHANNEL};
pub use polybolos_operators::{epoch::space::StateSpace, services::ExecutorParts};
use polybolos_sql::execution;
use polybolos_streaming::ids::ExecutorId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
pub struct ExecutorSettings {
    /// `host:port` of every scheduler; one of them leads.
    pub schedulers: Vec<String>,
    /// Where Ballista's ports listen, and what others dial.
    pub host: IpAddr,
    /// Ballista's Flight and gRPC ports; 0 takes free ones.
    pub flight_port: u16,
    pub grpc_port: u16,
    pub vcores: usize,
    /// Shuffle files; ephemeral.
    pub work_dir: PathBuf,
}

/// Why an executor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Shutdown,
    /// Its Ballista part ended: the process has to start anew.
    Restart(String),
}

/// Runs an executor until `shutdown`, or until it has to be started anew. Calls `on_ready` when it has joined a leader for the first time.
pub async fn run(
    settings: ExecutorSettings,
    parts: ExecutorParts,
    on_ready: impl FnOnce() + Send,
    shutdown: CancellationToken,
) -> anyhow::Result<Ended> {
    let id = ExecutorId(uuid::Uuid::new_v4().simple().to_string());
    let (reports, incoming) = mpsc::channel(REPORT_CHANNEL);
    let context = execution::plan_context()?;
    let link = Arc::new(exchange::Connections::default());
    let state = parts.state.of(&format!("executor {} on {}", id.0, settings.host));
    let fetcher = parts.fetcher.clone();
    let parts = ExecutorParts { state, ..parts };
    let services = ExecutorServices::new(id, parts, link, reports, context, execution::freeze);
    let exchange_port = exchange::serve(settings.host, services.clone(), shutdown.clone()).await?;
    let ended = control::Control::new(settings, exchange_port, services, incoming).run(on_ready, shutdown).await;
    // Ballista's part has it still, and the broker may be about to end, too.
    fetcher.close();
    ended
}
