//! Hosts Ballista's executor. It takes tasks from any scheduler, and sends their statuses to the one that each came from, so that it
//! stays when another scheduler leads. Liveness is the control stream's business.
use std::{path::Path, sync::Arc};

use anyhow::Context;
use ballista_core::{config::TaskSchedulingPolicy, extension::SessionConfigExt, registry::BallistaFunctionRegistry};
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use datafusion::{
    execution::{TaskContext, runtime_env::RuntimeEnvBuilder},
    prelude::SessionConfig,
};
use polybolos_operators::{codec::PolybolosCodec, services::ExecutorServices};
use polybolos_service::ports;
use tokio::task::JoinHandle;

use crate::{ExecutorSettings, engine::EpochEngine};

/// Never, as it were: beats go to the scheduler that led first and is gone perhaps, and five missed ones end an executor. The leader beats
/// in its stead while the control stream lasts.
const HEARTBEAT_SECONDS: u64 = 24 * 60 * 60;

/// The ports that Ballista's executor listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub flight: u16,
    pub grpc: u16,
}

impl Ports {
    /// The settings' ports, with free ones for zeros: Ballista takes numbers, and binds them when it starts.
    pub fn choose(settings: &ExecutorSettings) -> anyhow::Result<Self> {
        let chosen = |port: u16| match port {
            0 => ports::free(settings.host, 1).map(|ports| ports[0]).context("no port for the executor"),
            port => Ok(port),
        };
        Ok(Self { flight: chosen(settings.flight_port)?, grpc: chosen(settings.grpc_port)? })
    }
}

/// Starts Ballista's executor against one scheduler; the task ends when Ballista ends it.
pub fn start(
    settings: &ExecutorSettings,
    ports: Ports,
    scheduler_host: &str,
    scheduler_port: u16,
    services: Arc<ExecutorServices>,
) -> anyhow::Result<JoinHandle<Result<(), String>>> {
    std::fs::create_dir_all(&settings.work_dir)
        .with_context(|| format!("cannot create the work folder {}", settings.work_dir.display()))?;
    clean(&settings.work_dir);
    let work_dir = settings.work_dir.to_str().context("the work folder's name is not UTF-8")?.to_owned();
    let executor_id = services.executor.0.clone();
    let runtime = RuntimeEnvBuilder::new().with_temp_file_path(&settings.work_dir).build_arc()?;
    let functions = functions_of(&services.plan_context);
    let config = ExecutorProcessConfig {
        executor_id,
        bind_host: settings.host.to_string(),
        external_host: Some(settings.host.to_string()),
        port: ports.flight,
        grpc_port: ports.grpc,
        scheduler_host: scheduler_host.to_owned(),
        scheduler_port,
        scheduler_connect_timeout_seconds: 10,
        vcores: settings.vcores,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(work_dir),
        executor_heartbeat_interval_seconds: HEARTBEAT_SECONDS,
        override_config_producer: Some(Arc::new(move || SessionConfig::new_with_ballista().with_extension(services.clone()))),
        // One for all: Ballista would make a temporary folder for every task.
        override_runtime_producer: Some(Arc::new(move |_| Ok(runtime.clone()))),
        override_execution_engine: Some(Arc::new(EpochEngine::default())),
        override_physical_codec: Some(Arc::new(PolybolosCodec::default())),
        override_function_registry: Some(Arc::new(functions)),
        ..Default::default()
    };
    Ok(tokio::spawn(async move { start_executor_process(Arc::new(config)).await.map_err(|error| error.to_string()) }))
}

/// Ballista reads a task's plan by its own registry, which knows none of our functions.
fn functions_of(context: &TaskContext) -> BallistaFunctionRegistry {
    BallistaFunctionRegistry {
        scalar_functions: context.scalar_functions().clone(),
        aggregate_functions: context.aggregate_functions().clone(),
        window_functions: context.window_functions().clone(),
        higher_order_functions: context.higher_order_functions().clone(),
    }
}

/// Shuffle files of an earlier process are of no use to anybody.
fn clean(work_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(work_dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir()
            && let Err(error) = std::fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove old shuffle files");
        }
    }
}
