//! Hosts Ballista's scheduler: our codec, our placement, clean-up within seconds, and no waiting for executors that the control stream
//! knows to be gone.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::{
    BALLISTA_PROTOCOL_VERSION, JobId,
    extension::SessionConfigExt,
    serde::protobuf::{
        ExecutorOperatingSystemSpecification, ExecutorRegistration, ExecutorResource, ExecutorSpecification, ExecutorStatus,
        ExecutorStoppedParams, HeartBeatParams, JobStatus, RegisterExecutorParams, executor_resource::Resource, executor_status,
        job_status::Status as QueryStatus, scheduler_grpc_server::SchedulerGrpc,
    },
};
use ballista_scheduler::{
    cluster::BallistaCluster,
    config::{SchedulerConfig, TaskDistributionPolicy},
    scheduler_process::create_scheduler,
    scheduler_server::{JobIdGenerator, SchedulerServer},
};
use datafusion::{
    execution::{SessionState, SessionStateBuilder},
    physical_plan::ExecutionPlan,
    prelude::{SessionConfig, SessionContext},
};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use polybolos_operators::codec::PolybolosCodec;
use polybolos_proto::executor::v1::Hello;
use tokio::sync::mpsc;

use crate::placement::{DataLocality, Placements};

type Server = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// Ballista's scheduler inside this process.
#[derive(Clone)]
pub struct Ballista {
    server: Server,
    pub placements: Arc<Placements>,
    /// One session for all epochs of all jobs: executors keep a runtime per session.
    session: Arc<SessionContext>,
}

/// Names of queries. Ballista's own generator keeps a thread that wakes a thousand times a second, a percent of a core for nothing.
struct RandomIds;

#[async_trait::async_trait]
impl JobIdGenerator for RandomIds {
    async fn next_id(&self) -> String {
        uuid::Uuid::new_v4().simple().to_string()
    }
}

/// Room for one message per stage and the last one, which would otherwise be lost.
const STATUS_CHANNEL: usize = 32;

/// Ballista plans a query within milliseconds, unless the machine is busy. One that it does not know any more is not waited for
/// longer.
const PLANNED_WITHIN: Duration = Duration::from_secs(2);

/// Between two looks whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

const NEVER_SECONDS: u64 = 365 * 24 * 60 * 60;

fn session_config() -> SessionConfig {
    SessionConfig::new_with_ballista().with_target_partitions(1).with_round_robin_repartition(false)
}

fn session_state(config: SessionConfig) -> datafusion::common::Result<SessionState> {
    Ok(SessionStateBuilder::new().with_default_features().with_config(config).build())
}

/// What jobs are planned in.
pub(crate) fn planning_session() -> datafusion::common::Result<SessionState> {
    session_state(session_config())
}

impl Ballista {
    pub async fn start(id: &str, host: &str, port: u16) -> anyhow::Result<Self> {
        let placements = Arc::new(Placements::default());
        let config = SchedulerConfig {
            scheduler_id: id.to_owned(),
            external_host: host.to_owned(),
            bind_host: host.to_owned(),
            bind_port: port,
            scheduling_policy: TaskSchedulingPolicy::PushStaged,
            task_distribution: TaskDistributionPolicy::Custom(Arc::new(DataLocality::new(placements.clone()))),
            event_loop_buffer_size: 1_000_000,
            finished_job_data_clean_up_interval_seconds: 1,
            finished_job_state_clean_up_interval_seconds: 1,
            // The control stream notices a lost executor. Ballista would also stop those that it counts as lost, and after a long sleep
            // that is all of them, though they serve another leader.
            executor_timeout_seconds: NEVER_SECONDS,
            expire_dead_executor_interval_seconds: 5,
            executor_termination_grace_period: 0,
            no_executors_grace_period_seconds: NEVER_SECONDS,
            job_id_generator: Some(Arc::new(RandomIds)),
            override_config_producer: Some(Arc::new(session_config)),
            override_session_builder: Some(Arc::new(session_state)),
            override_physical_codec: Some(Arc::new(PolybolosCodec::default())),
            ..Default::default()
        };
        let cluster = BallistaCluster::new_memory(id, Arc::new(session_state), Arc::new(session_config));
        let server = create_scheduler(cluster, Arc::new(config)).await.context("Ballista's scheduler does not start")?;
        let session = Arc::new(SessionContext::new_with_state(planning_session()?));
        Ok(Self { server, placements, session })
    }

    pub fn server(&self) -> Server {
        self.server.clone()
    }

    /// The planning session of jobs.
    pub fn session(&self) -> &Arc<SessionContext> {
        &self.session
    }

    /// Runs a plan; its status messages come through the answered channel, the last one being its end.
    pub async fn submit(&self, name: &str, plan: Arc<dyn ExecutionPlan>) -> anyhow::Result<(JobId, mpsc::Receiver<JobStatus>)> {
        let (sender, receiver) = mpsc::channel(STATUS_CHANNEL);
        let id = self.server.submit_physical_plan(name, self.session.clone(), plan, Some(sender)).await?;
        Ok((id, receiver))
    }

    /// Ends a query. One that Ballista is still planning it would run all the same, so that is waited for.
    pub async fn cancel(&self, job: JobId) {
        let patience_ends = Instant::now() + PLANNED_WITHIN;
        while !self.has_planned(&job).await && Instant::now() < patience_ends {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if let Err(error) = self.server.cancel_job(job).await {
            tracing::debug!(%error, "a query could not be cancelled; it may have ended");
        }
    }

    /// Whether a query runs or has ended.
    async fn has_planned(&self, job: &JobId) -> bool {
        let tasks = &self.server.state.task_manager;
        // A query's own status says that it runs a moment before it can be cancelled.
        if tasks.get_running_job_cache().contains_key(job) {
            return true;
        }
        let status = tasks.get_job_status(job).await;
        matches!(status, Ok(Some(JobStatus { status: Some(QueryStatus::Successful(_) | QueryStatus::Failed(_)), .. })))
    }

    /// Whether Ballista can give tasks to the executor.
    pub async fn knows(&self, executor: &str) -> bool {
        self.server.state.executor_manager.get_executor_metadata(executor).await.is_ok()
    }

    /// Registers an executor that runs already and knew an earlier leader.
    pub async fn register(&self, hello: &Hello) -> anyhow::Result<()> {
        let request = tonic::Request::new(RegisterExecutorParams { metadata: Some(registration(hello)) });
        self.server.register_executor(request).await.context("Ballista refuses the executor")?;
        Ok(())
    }

    /// Says in an executor's stead that it is alive; one that Ballista has given up, because a task could not be handed to it, is taken again.
    pub async fn beat(&self, hello: &Hello) {
        let params = HeartBeatParams {
            executor_id: hello.executor_id.clone(),
            metrics: Vec::new(),
            status: Some(ExecutorStatus { status: Some(executor_status::Status::Active(String::new())) }),
            metadata: Some(registration(hello)),
        };
        if let Err(error) = self.server.heart_beat_from_executor(tonic::Request::new(params)).await {
            tracing::warn!(executor = %hello.executor_id, %error, "Ballista did not take the beat of an executor");
        }
    }

    /// Tells Ballista that an executor is gone: its tasks run elsewhere at once.
    pub async fn lost(&self, executor: &str, reason: &str) {
        let params = ExecutorStoppedParams { executor_id: executor.to_owned(), reason: reason.to_owned() };
        if let Err(error) = self.server.executor_stopped(tonic::Request::new(params)).await {
            tracing::warn!(%executor, %error, "Ballista did not take the loss of an executor");
        }
    }
}

fn registration(hello: &Hello) -> ExecutorRegistration {
    ExecutorRegistration {
        id: hello.executor_id.clone(),
        host: Some(hello.host.clone()),
        port: hello.flight_port,
        grpc_port: hello.grpc_port,
        specification: Some(ExecutorSpecification {
            resources: vec![ExecutorResource { resource: Some(Resource::Vcores(hello.vcores)) }],
        }),
        os_info: Some(ExecutorOperatingSystemSpecification::default()),
        ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
    }
}

/// What a task of ours said, of the message that Ballista wraps it in as Rust shows it to programmers.
pub fn said(message: &str) -> String {
    let Some((_, said)) = message.split_once("DataFusionError(Execution(\"") else { return message.replace('\n', " ") };
    let said = said.rsplit_once("\"))").map_or(said, |(said, _)| said);
    let mut plain = String::with_capacity(said.len());
    let mut characters = said.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('n' | 'r' | 't') | None => ' ',
                Some(escaped) => escaped,
            },
            character => character,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::datatypes::{DataType, Field, Schema},
        physical_plan::empty::EmptyExec,
    };

    use super::*;

    /// On one thread, so that Ballista takes notice of the cancelling before it comes to plan.
    #[tokio::test]
    async fn a_query_ends_that_is_cancelled_before_it_is_planned() {
        let ballista = Ballista::start("leader", "127.0.0.1", 0).await.expect("Ballista's scheduler");
        let schema = Schema::new(vec![Field::new("number", DataType::Int64, false)]);
        let (id, mut statuses) = ballista.submit("query", Arc::new(EmptyExec::new(Arc::new(schema)))).await.expect("submitted");
        ballista.cancel(id).await;
        // Nobody is here to run it.
        let status = tokio::time::timeout(Duration::from_secs(10), statuses.recv()).await.expect("it ends").expect("its end");
        assert!(matches!(&status.status, Some(QueryStatus::Failed(failed)) if failed.error == "Cancelled"), "{status:?}");
    }

    #[test]
    fn a_task_s_words_are_told_without_their_wrapping() {
        let wrapped = r#"Job failed due to stage 1 failed: Task failed due to runtime execution error: DataFusionError(Execution("file \"a\" of table t:\nline 3"))"#;
        assert_eq!(said(&format!("{wrapped}\n")), "file \"a\" of table t: line 3");
        assert_eq!(said("the executor\nis gone"), "the executor is gone");
    }
}
