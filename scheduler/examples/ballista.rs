//! What `make bench-epochs` needs: `ballista files|none JOBS RATE` runs so many trivial queries, so many a second, on a Ballista
//! scheduler as the platform starts it and on one executor in the same process, and prints a line of JSON with CPU-seconds and
//! seconds. A query is one stage of one task, which reads one row from its plan. With `files` the executor puts the answer into a
//! shuffle file, as Ballista does; with `none` it drops it, as the platform does with an epoch's.
use std::{
    error::Error,
    fmt, fs,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use ballista_core::{
    JobId,
    config::TaskSchedulingPolicy,
    serde::protobuf::{ShuffleWritePartition, job_status::Status, scheduler_grpc_server::SchedulerGrpcServer},
};
use ballista_executor::{
    execution_engine::{ExecutionEngine, QueryStageExecutor},
    executor_process::{ExecutorProcessConfig, start_executor_process},
};
use datafusion::{
    arrow::{
        array::{Int64Array, RecordBatch},
        datatypes::{DataType, Field, Schema},
    },
    common::Result as DataFusionResult,
    datasource::memory::MemorySourceConfig,
    execution::{TaskContext, runtime_env::RuntimeEnvBuilder},
    physical_plan::{ExecutionPlan, metrics::MetricsSet},
    prelude::SessionConfig,
};
use futures::{TryStreamExt, future};
use polybolos_operators::codec::PolybolosCodec;
use polybolos_scheduler::ballista::Ballista;
use polybolos_service::ports;
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

/// As the platform's own binary has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const EXECUTOR: &str = "executor";
/// Queries before the clock starts.
const WARM_UP: usize = 100;
const USAGE: &str = "usage: ballista files|none JOBS RATE";
const PATIENCE: Duration = Duration::from_secs(30);

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() {
    let outcome = bench().await;
    if let Err(error) = &outcome {
        eprintln!("{error}");
    }
    // Ballista's executor ends only by a signal.
    std::process::exit(i32::from(outcome.is_err()))
}

async fn bench() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [files, jobs, rate] = arguments.as_slice() else { return Err(USAGE.into()) };
    let engine: Option<Arc<dyn ExecutionEngine>> = match files.as_str() {
        "files" => None,
        "none" => Some(Arc::new(NoFiles)),
        _ => return Err(USAGE.into()),
    };
    let (jobs, rate): (usize, f64) = (jobs.parse()?, rate.parse()?);
    let folder = tempfile::tempdir()?;
    let ballista = start(engine, folder.path().to_str().ok_or("the temporary folder's name is not UTF-8")?).await?;
    for number in 0..WARM_UP {
        run(&ballista, number).await?;
    }
    let (began, cpu_began) = (Instant::now(), cpu_seconds()?);
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(rate.recip()));
    for number in 0..jobs {
        ticks.tick().await;
        run(&ballista, number).await?;
    }
    let (cpu, seconds) = (cpu_seconds()? - cpu_began, began.elapsed().as_secs_f64());
    println!("{{\"jobs\": {jobs}, \"cpu_s\": {cpu:.2}, \"seconds\": {seconds:.2}}}");
    Ok(folder.close()?)
}

/// A scheduler, and an executor that it knows.
async fn start(engine: Option<Arc<dyn ExecutionEngine>>, work_dir: &str) -> Outcome<Ballista> {
    let listener = TcpListener::bind((HOST, 0)).await?;
    let scheduler_port = listener.local_addr()?.port();
    let ballista = Ballista::start("bench", &HOST.to_string(), scheduler_port).await?;
    let service = Server::builder().add_service(SchedulerGrpcServer::new(ballista.server()));
    tokio::spawn(service.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));

    let ports = ports::free(HOST, 2)?;
    let runtime = RuntimeEnvBuilder::new().with_temp_file_path(work_dir).build_arc()?;
    let config = ExecutorProcessConfig {
        executor_id: EXECUTOR.into(),
        bind_host: HOST.to_string(),
        external_host: Some(HOST.to_string()),
        port: ports[0],
        grpc_port: ports[1],
        scheduler_host: HOST.to_string(),
        scheduler_port,
        scheduler_connect_timeout_seconds: 10,
        vcores: 2,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(work_dir.to_owned()),
        override_runtime_producer: Some(Arc::new(move |_| Ok(runtime.clone()))),
        override_execution_engine: engine,
        override_physical_codec: Some(Arc::new(PolybolosCodec::default())),
        ..Default::default()
    };
    tokio::spawn(async move {
        if let Err(error) = start_executor_process(Arc::new(config)).await {
            eprintln!("Ballista's executor ended: {error}");
        }
    });
    let began = Instant::now();
    while !ballista.knows(EXECUTOR).await {
        if began.elapsed() > PATIENCE {
            return Err("the executor did not register".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(ballista)
}

async fn run(ballista: &Ballista, number: usize) -> Outcome<()> {
    let schema = Arc::new(Schema::new(vec![Field::new("number", DataType::Int64, false)]));
    let row = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![number as i64]))])?;
    let plan = MemorySourceConfig::try_new_exec(&[vec![row]], schema, None)?;
    let (_, mut statuses) = ballista.submit("trivial", plan).await?;
    while let Some(status) = tokio::time::timeout(PATIENCE, statuses.recv()).await? {
        match status.status {
            Some(Status::Successful(_)) => return Ok(()),
            Some(Status::Failed(failed)) => return Err(failed.error.into()),
            _ => {}
        }
    }
    Err("Ballista lost the query".into())
}

/// Executes stages, and drops what they answer.
struct NoFiles;

impl ExecutionEngine for NoFiles {
    fn create_query_stage_exec(
        &self,
        _: JobId,
        _: usize,
        _: usize,
        partitions: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        _: &str,
        _: &SessionConfig,
    ) -> DataFusionResult<Arc<dyn QueryStageExecutor>> {
        Ok(Arc::new(Dropping { plan, partitions }))
    }
}

#[derive(Debug)]
struct Dropping {
    /// With the writer of files at its top, which is not executed.
    plan: Arc<dyn ExecutionPlan>,
    partitions: Vec<usize>,
}

impl fmt::Display for Dropping {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Dropping: partitions={:?}", self.partitions)
    }
}

#[async_trait::async_trait]
impl QueryStageExecutor for Dropping {
    async fn execute_query_stage(&self, task: usize, context: Arc<TaskContext>) -> DataFusionResult<Vec<ShuffleWritePartition>> {
        let mut answers = Vec::with_capacity(self.partitions.len());
        for (local, global) in self.partitions.iter().enumerate() {
            self.plan.children()[0].execute(local, context.clone())?.try_for_each(|_| future::ok(())).await?;
            answers.push(ShuffleWritePartition { partition_id: *global as u64, file_id: Some(task as u64), ..Default::default() });
        }
        Ok(answers)
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        ballista_core::utils::collect_plan_metrics(self.plan.as_ref())
    }
}

/// CPU time of this process, all threads.
fn cpu_seconds() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("an unknown form of /proc/self/stat")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
