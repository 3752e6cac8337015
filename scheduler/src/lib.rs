//! The scheduler service: Ballista's scheduler, the coordinators of all streaming jobs, and the doors for people.
//!
//! A scheduler stands for election; the one that leads runs every job of the catalog, the others wait. Executors find the leader by its
//! control stream.
//!
//! * [`leadership`]: the election; [`clock`]: the leader's clocks;
//! * [`ballista`], [`placement`]: queries and where their tasks run;
//! * [`control`]: the executors that are here; [`feeds`]: what ingestors tell of theirs;
//! * [`jobs`]: coordinators and their shells; [`catalog`], [`ownership`], [`savepoints`]: what they are made from;
//! * [`engine`]: statements, those about jobs in `job_statements`; [`statements`]: those that go on without their caller;
//!   [`queries`]: those that read; `follow`: those whose rows have no end;
//! * [`replay`]: dead letters sent back;
//! * [`providers`]: the catalog's tables as DataFusion reads them; [`system`], [`system_tables`]: the schema `polybolos`;
//! * [`show`]: SHOW, DESCRIBE and EXPLAIN as rows; [`status`]: what the console shows; [`metrics`]: what Prometheus scrapes.
#![forbid(unsafe_code)]

pub mod ballista;
pub mod catalog;
pub mod clock;
pub mod control;
pub mod engine;
pub mod feeds;
mod follow;
mod job_statements;
pub mod jobs;
pub mod leadership;
pub mod metrics;
pub mod ownership;
pub mod placement;
pub mod providers;
pub mod queries;
pub mod replay;
pub mod savepoints;
pub mod show;
pub mod statements;
pub mod status;
pub mod system;
pub mod system_tables;

use std::{net::IpAddr, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpcServer;
use futures::StreamExt;
use parking_lot::RwLock;
use polybolos_gateway::{
    auth::{Principal, Role},
    flight_sql, http, postgres,
};
pub use polybolos_gateway::{engine::Engine, tls::DoorTls};
use polybolos_kafka::{
    connection::Connection,
    fetcher::{Fetcher, FetcherConfig},
};
use polybolos_operators::{
    epoch::{peers::NoLink, space::StateSpace},
    services::{ExecutorParts, ExecutorServices},
};
use polybolos_persist::{Place, Places, Store};
use polybolos_proto::executor::v1::executor_control_service_server::ExecutorControlServiceServer;
use polybolos_service::{auth::Users, ports, telemetry};
use polybolos_sql::execution;
use polybolos_streaming::{ids::ExecutorId, lease::LeaseConfig};
use polybolos_tables::TableBackend;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    ballista::Ballista,
    catalog::CatalogStore,
    clock::Clock,
    control::{ControlService, Executors},
    engine::PlatformEngine,
    feeds::Feeds,
    jobs::{manager::JobManager, runner::RunnerContext},
    leadership::{Addresses, Standing},
    metrics::Families,
    providers::PlatformTables,
    savepoints::Savepoints,
    statements::Statements,
    status::StatusSource,
    system::SystemTables,
};

/// The mode of a platform in one process.
pub const EMBEDDED: &str = "embedded";

/// What a scheduler is made of; the caller connects stores and backends.
pub struct SchedulerParts {
    pub store: Arc<dyn Store>,
    pub tables: Arc<dyn TableBackend>,
    pub kafka: Connection,
    pub users: Users,
    /// Where queries read files.
    pub places: Arc<Places>,
    pub registry: prometheus::Registry,
}

#[derive(Clone, Debug)]
pub struct SchedulerSettings {
    pub host: IpAddr,
    /// For executors: Ballista and the control stream.
    pub internal_port: u16,
    pub http_port: u16,
    pub postgres_port: u16,
    pub flight_sql_port: u16,
    /// [`EMBEDDED`] or `cluster`.
    pub mode: String,
    pub lease: LeaseConfig,
    /// Places below which SQL may write and read files.
    pub allowed_locations: Vec<Place>,
    /// For the doors of people; without it they speak in the clear.
    pub tls: Option<DoorTls>,
}

/// Why a scheduler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Shutdown,
    /// It led, and another may lead now: the process has to start anew.
    Deposed,
}

/// A scheduler whose doors are open.
pub struct Scheduler {
    pub engine: Arc<dyn Engine>,
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<Ended>>,
}

/// The doors for people, bound and not served yet.
struct Doors {
    console: TcpListener,
    postgres: TcpListener,
    flight_sql: TcpListener,
    tls: Option<DoorTls>,
}

impl Doors {
    /// Serves each as a task of its own, until `door` is stopped; all ask the same engine.
    fn serve(self, door: http::HttpDoor, tasks: &mut JoinSet<anyhow::Result<Ended>>) {
        let Self { console, postgres, flight_sql, tls } = self;
        let (engine, login, stop) = (door.engine.clone(), door.login.clone(), door.stop.clone());
        let postgres_tls = tls.as_ref().map(DoorTls::postgres);
        tasks.spawn(async move {
            let served = postgres::serve(postgres, engine, login, postgres_tls, stop).await;
            served.map(|()| Ended::Shutdown).context("the PostgreSQL door")
        });
        let (engine, login, stop) = (door.engine.clone(), door.login.clone(), door.stop.clone());
        let flight_sql_tls = tls.as_ref().map(DoorTls::flight_sql);
        tasks.spawn(async move {
            let served = flight_sql::serve(flight_sql, engine, login, flight_sql_tls, stop).await;
            served.map(|()| Ended::Shutdown).context("the Flight SQL door")
        });
        let console_tls = tls.as_ref().map(DoorTls::http);
        tasks.spawn(async move {
            http::serve(console, door, console_tls).await.map(|()| Ended::Shutdown).context("the console's door")
        });
    }
}

/// Opens all doors and stands for election.
pub async fn start(settings: SchedulerSettings, parts: SchedulerParts, shutdown: CancellationToken) -> anyhow::Result<Scheduler> {
    let stop = CancellationToken::new();
    let bound = async |port: u16, door: &str, key: &str| {
        let flag = if settings.mode == EMBEDDED { "--port-offset".to_owned() } else { format!("scheduler.{key}") };
        ports::bind(settings.host, port, door, &flag).await
    };
    let internal = bound(settings.internal_port, "executors", "internal_port").await?;
    let doors = Doors {
        console: bound(settings.http_port, "the console", "http_port").await?,
        postgres: bound(settings.postgres_port, "PostgreSQL clients", "postgres_port").await?,
        flight_sql: bound(settings.flight_sql_port, "Flight SQL clients", "flight_sql_port").await?,
        tls: settings.tls.clone(),
    };
    let console = doors.console.local_addr()?;
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let addresses = Addresses { internal: internal.local_addr()?.to_string(), door: leadership::door(scheme, console) };

    let leader_id = uuid::Uuid::new_v4().simple().to_string();
    let clock = Arc::new(Clock::anchored(&*parts.tables).await);
    let ballista = Ballista::start(&leader_id, &settings.host.to_string(), internal.local_addr()?.port()).await?;
    let executors = Executors::new(ballista.clone(), parts.store.clone(), leader_id.clone());
    let catalog = Arc::new(CatalogStore::open(parts.store.clone()).await?);
    let system = Arc::new(SystemTables::default());
    system.store(parts.tables.clone());
    let platform = PlatformTables {
        kafka: parts.kafka.clone(),
        tables: parts.tables.clone(),
        system: system.clone(),
        allowed_locations: settings.allowed_locations.clone().into(),
        places: parts.places.clone(),
    };
    let jobs: Arc<RwLock<Option<Arc<JobManager>>>> = Arc::default();
    let savepoints = Arc::new(Savepoints::new(parts.store.clone()));
    let feeds = Arc::new(Feeds::default());
    let status = Arc::new(StatusSource {
        mode: settings.mode.clone(),
        leader_id,
        started: Instant::now(),
        catalog: catalog.clone(),
        executors: executors.clone(),
        feeds: feeds.clone(),
        jobs: jobs.clone(),
        savepoints: savepoints.clone(),
        verifications: Arc::default(),
        leading_since_ms: RwLock::default(),
        followed: Arc::default(),
    });
    system_tables::register(&system, &status);
    let services = query_services(&parts)?;
    let statements = Statements::new(stop.clone());
    let (known, led) = (catalog.clone(), jobs.clone());
    let engine = PlatformEngine::new(known, platform.clone(), services, led, status.clone(), statements.clone())?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let families = Families::register(&parts.registry)?;

    let mut tasks = JoinSet::new();
    let (stopped, stops) = (stop.clone(), stop.clone().drop_guard());
    tasks.spawn(async move {
        // Everything else goes on until statements have come to their end, and stops then.
        let _stops = stops;
        if stopped.run_until_cancelled(shutdown.cancelled()).await.is_some() {
            statements.finish().await;
        }
        Ok(Ended::Shutdown)
    });
    tasks.spawn(serve_internal(internal, ballista.clone(), executors.clone(), stop.clone()));
    let watched = executors.clone();
    tasks.spawn(until(stop.clone(), async move { watched.watch().await }));
    let (followed, store) = (clock.clone(), parts.tables.clone());
    tasks.spawn(until(stop.clone(), async move { followed.follow(&*store).await }));
    let kafka = parts.kafka.clone();
    tasks.spawn(until(stop.clone(), async move { feeds.follow(&kafka).await }));
    let (sender, standing) = watch::channel(Standing::Standby);
    let ready_standing = standing.clone();
    let registry = parts.registry.clone();
    let door = http::HttpDoor {
        engine: engine.clone(),
        login: Arc::new(parts.users),
        metrics: Arc::new(move || telemetry::encode(&registry)),
        ready: Arc::new(move || match &*ready_standing.borrow() {
            Standing::Leader(_) => Ok(()),
            Standing::Standby => Err("standing by: another scheduler leads".into()),
            Standing::Deposed => Err("deposed".into()),
            Standing::Refused(reason) => Err(reason.clone()),
        }),
        port: console.port(),
        https: settings.tls.is_some(),
        stop: stop.clone(),
    };
    doors.serve(door, &mut tasks);

    let release = CancellationToken::new();
    tokio::spawn(leadership::run(
        parts.store.clone(),
        clock.clone(),
        settings.lease,
        addresses,
        sender,
        status.followed.clone(),
        release.clone(),
    ));
    let leader = Leading { ballista, executors, store: parts.store, savepoints, clock, catalog, platform, families, jobs, status };
    tasks.spawn(leader.follow(standing.clone(), stop.clone(), release.drop_guard()));
    Ok(Scheduler { engine, standing, stop, tasks })
}

impl Scheduler {
    /// Waits until this scheduler leads.
    pub async fn leads(&self) {
        self.elected().await;
    }

    /// Whether this scheduler leads, once it does or never will.
    pub fn elected(&self) -> impl Future<Output = bool> + use<> {
        let mut standing = self.standing.clone();
        // The sender lives as long as the election; when it is gone, so is everything else.
        async move { standing.wait_for(|standing| matches!(standing, Standing::Leader(_))).await.is_ok() }
    }

    /// Waits until it was told to stop, and has no statement under way that it would still wait for.
    pub fn settled(&self) -> impl Future<Output = ()> + use<> {
        self.stop.clone().cancelled_owned()
    }

    /// Carries out statements as the platform itself, each to its end.
    pub async fn execute_as_admin(&self, sql: &str) -> anyhow::Result<()> {
        let principal = Principal { name: "platform".into(), role: Role::Admin };
        for answer in self.engine.execute(&principal, sql).await? {
            answer.must_end()?;
            let mut batches = answer.batches;
            while let Some(batch) = batches.next().await {
                batch?;
            }
        }
        Ok(())
    }

    /// Runs until shutdown, until deposed, or until a part fails.
    pub async fn run(mut self) -> anyhow::Result<Ended> {
        let mut outcome = Ok(Ended::Shutdown);
        // Set when the first part has ended: the others get so long. A control stream ends only when its executor lets go of it.
        let mut deadline = None;
        loop {
            let next = match deadline {
                None => self.tasks.join_next().await,
                Some(at) => match tokio::time::timeout_at(at, self.tasks.join_next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        tracing::warn!("a part of the scheduler did not end in time");
                        break;
                    }
                },
            };
            let Some(ended) = next else { break };
            deadline.get_or_insert_with(|| tokio::time::Instant::now() + PATIENCE_AT_END);
            let ended = ended.context("a part of the scheduler panicked").and_then(|ended| ended);
            if !matches!(ended, Ok(Ended::Shutdown)) && matches!(outcome, Ok(Ended::Shutdown)) {
                outcome = ended;
            }
            self.stop.cancel();
        }
        // Jobs that take long to end may hide it.
        if matches!(outcome, Ok(Ended::Shutdown)) && *self.standing.borrow() == Standing::Deposed {
            return Ok(Ended::Deposed);
        }
        outcome
    }
}

/// What a leader needs to lead.
struct Leading {
    ballista: Ballista,
    executors: Arc<Executors>,
    store: Arc<dyn Store>,
    savepoints: Arc<Savepoints>,
    clock: Arc<Clock>,
    catalog: Arc<CatalogStore>,
    platform: PlatformTables,
    families: Families,
    jobs: Arc<RwLock<Option<Arc<JobManager>>>>,
    status: Arc<StatusSource>,
}

impl Leading {
    /// Leads when elected, until deposed or stopped; the lease is kept until then.
    async fn follow(
        self,
        mut standing: watch::Receiver<Standing>,
        stop: CancellationToken,
        lease: DropGuard,
    ) -> anyhow::Result<Ended> {
        let generation = loop {
            match &*standing.borrow_and_update() {
                Standing::Leader(generation) => break *generation,
                Standing::Deposed => return Ok(Ended::Deposed),
                Standing::Refused(reason) => bail!("{reason}"),
                Standing::Standby => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Shutdown),
                changed = standing.changed() => changed.context("the election ended")?,
            }
        };
        tracing::info!(%generation, "this scheduler leads");
        self.catalog.refresh().await?;
        self.savepoints.refresh().await?;
        let catalog = self.catalog.clone();
        let is_known = move |incarnation: &str| catalog.current().jobs.iter().any(|job| job.incarnation == incarnation);
        self.executors.lead(generation, is_known);
        let context = RunnerContext {
            ballista: self.ballista,
            executors: self.executors.clone(),
            store: self.store,
            savepoints: self.savepoints,
            clock: self.clock.clone(),
            generation,
        };
        let manager = JobManager::new(context, self.catalog, self.platform, self.families, stop.clone());
        *self.jobs.write() = Some(manager.clone());
        *self.status.leading_since_ms.write() = Some((self.clock.now().wall_us / 1_000) as u64);
        manager.start_all();
        manager.remove_leftovers();
        let ended = tokio::select! {
            () = stop.cancelled() => Ended::Shutdown,
            _ = standing.wait_for(|standing| *standing == Standing::Deposed) => Ended::Deposed,
        };
        *self.jobs.write() = None;
        stop.cancel();
        // Grants given until now outlive the lease, as they do that of a leader which is deposed: what they are for is recorded, with times and
        // transactions by which it can be written late (EPOCHS rules 12 and 16), and REPLACE waits for them to end. None is given after it.
        self.executors.resign();
        drop(lease);
        manager.join().await;
        let given_back = async {
            // The election may have ended otherwise.
            let _ = standing.wait_for(|standing| !matches!(standing, Standing::Leader(_))).await;
        };
        let _ = tokio::time::timeout(PATIENCE_FOR_LEASE, given_back).await;
        Ok(ended)
    }
}

/// A part of the scheduler that goes on as long as that does.
async fn until(stop: CancellationToken, part: impl Future<Output = ()>) -> anyhow::Result<Ended> {
    stop.run_until_cancelled(part).await;
    Ok(Ended::Shutdown)
}

/// Ballista's scheduler and the control stream on one port, without Nagle's delays.
async fn serve_internal(
    listener: TcpListener,
    ballista: Ballista,
    executors: Arc<Executors>,
    stop: CancellationToken,
) -> anyhow::Result<Ended> {
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let ballista = SchedulerGrpcServer::new(ballista.server())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let served = tonic::transport::Server::builder()
        .add_service(ballista)
        .add_service(ExecutorControlServiceServer::new(ControlService(executors)))
        .serve_with_incoming_shutdown(incoming, async move {
            stop.cancelled().await;
            // Streams that never end by themselves would hold the shutdown up.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        });
    tokio::pin!(served);
    served.await.context("the executors' door")?;
    Ok(Ended::Shutdown)
}

/// What the parts of a scheduler get to end after the first of them has.
const PATIENCE_AT_END: std::time::Duration = std::time::Duration::from_secs(3);

/// For the store to take the lease back; without that a standby waits until it runs out.
const PATIENCE_FOR_LEASE: std::time::Duration = std::time::Duration::from_secs(1);

/// Plans and statuses between scheduler and executors.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// For queries that run in this process: they read topics with a fetcher of their own.
fn query_services(parts: &SchedulerParts) -> anyhow::Result<Arc<ExecutorServices>> {
    let registry = prometheus::Registry::new();
    let fetcher = Fetcher::new(FetcherConfig::default(), &registry)?;
    let (reports, _nobody) = mpsc::channel(1);
    let id = ExecutorId::new("queries");
    let context = execution::plan_context()?;
    let parts = ExecutorParts {
        fetcher,
        store: parts.store.clone(),
        tables: parts.tables.clone(),
        places: parts.places.clone(),
        // Queries keep none.
        state: StateSpace::none(),
    };
    Ok(ExecutorServices::new(id, parts, Arc::new(NoLink), reports, context, execution::freeze))
}
