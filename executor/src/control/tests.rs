//! An executor at the control streams of leaders that the tests play.
use std::net::Ipv4Addr;

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::Schema,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::ExecutionPlan,
    prelude::SessionConfig,
};
use futures::StreamExt;
use parking_lot::Mutex;
use polybolos_embedded::EmbeddedTables;
use polybolos_kafka::{
    connection::Connection,
    decode::DecodeOptions,
    fetcher::{Fetcher, FetcherConfig},
};
use polybolos_operators::{
    epoch::peers::NoLink,
    part_write::{Keeping, PartWriteExec, WriteSpec},
    publish::SinkSpec,
    record_scan::{OnError, RecordScanExec, ScanSpec},
    task::{TaskDescriptor, descriptor_source},
};
use polybolos_persist::{Expected, LocalStore, Places, Store};
use polybolos_proto::executor::v1::executor_control_service_server::{ExecutorControlService, ExecutorControlServiceServer};
use polybolos_sql::execution;
use polybolos_streaming::{
    frame::OffsetRange,
    ids::{Attempt, ExecutorId, Incarnation, PartIndex, SinkId},
    report::PartFile,
};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Status, Streaming, transport::Server};

use super::*;
use crate::{ExecutorParts, StateSpace};

const DEADLINE: Duration = Duration::from_secs(120);
const PROBE: &str = "probes/1";

/// Takes one stream, welcomes whoever comes, and gives its orders at once.
struct Leader {
    generation: u64,
    orders: Vec<Response>,
    heard: Mutex<Option<mpsc::UnboundedSender<Request>>>,
}

fn order(message: Response) -> Result<wire::AttachResponse, Status> {
    Ok(wire::AttachResponse { message: Some(message) })
}

#[async_trait]
impl ExecutorControlService for Leader {
    type AttachStream = ReceiverStream<Result<wire::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: tonic::Request<Streaming<wire::AttachRequest>>,
    ) -> Result<tonic::Response<Self::AttachStream>, Status> {
        let heard = self.heard.lock().take().ok_or_else(|| Status::internal("it has a stream"))?;
        let (orders, stream) = mpsc::channel(OUTGOING);
        let welcome = wire::Welcome {
            generation: self.generation,
            leader: "leader".into(),
            probe_key: PROBE.into(),
            version: BUILD.version.into(),
            protocol: BUILD.protocol.into(),
        };
        for message in [Response::Welcome(welcome)].into_iter().chain(self.orders.clone()) {
            let _ = orders.send(order(message)).await;
        }
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(wire::AttachRequest { message: Some(message) })) = incoming.message().await {
                // Without, the executor takes it for stopped.
                if let Request::Beat(beat) = &message {
                    let _ = orders.send(order(Response::Grant(wire::Grant { asked_us: beat.asked_us }))).await;
                }
                let is_last = matches!(message, Request::Farewell(_));
                let _ = heard.send(message);
                if is_last {
                    break;
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(stream)))
    }
}

/// Where a leader is, and what it hears, until the executor leaves.
async fn leader(generation: u64, orders: Vec<Response>) -> (String, mpsc::UnboundedReceiver<Request>) {
    let (heard, hears) = mpsc::unbounded_channel();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let service = ExecutorControlServiceServer::new(Leader { generation, orders, heard: Mutex::new(Some(heard)) });
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    (address, hears)
}

struct Executor {
    _folder: tempfile::TempDir,
    services: Arc<ExecutorServices>,
    control: Control,
}

impl Executor {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = LocalStore::open(folder.path().join("store")).await.expect("a store");
        store.put_if(PROBE, "written".into(), Expected::Absent).await.expect("a probe");
        let parts = ExecutorParts {
            fetcher: Fetcher::new(FetcherConfig::default(), &Registry::new()).expect("a fetcher"),
            store: Arc::new(store),
            tables: Arc::new(EmbeddedTables::open(folder.path().join("tables")).await.expect("tables")),
            places: Arc::new(Places::default()),
            state: StateSpace::none(),
        };
        let (reports, incoming) = mpsc::channel(1);
        let context = execution::plan_context().expect("a context");
        let id = ExecutorId::new("executor");
        let services = ExecutorServices::new(id, parts, Arc::new(NoLink), reports, context, execution::freeze);
        let settings = ExecutorSettings {
            schedulers: vec![],
            host: Ipv4Addr::LOCALHOST.into(),
            flight_port: 0,
            grpc_port: 0,
            vcores: 1,
            work_dir: folder.path().join("work"),
        };
        let mut control = Control::new(settings, 0, services.clone(), incoming);
        // Ballista's part runs, as if there had been a leader before.
        control.ballista = Some(tokio::spawn(std::future::pending()));
        Self { _folder: folder, services, control }
    }

    /// At a leader, until `stop`, or until it leaves by itself.
    async fn attach(&mut self, address: &str, stop: &CancellationToken) -> Outcome {
        let mut on_ready = Some(|| {});
        let attached = self.control.connect(address, ballista::Ports { flight: 1, grpc: 2 }, &mut on_ready, stop);
        timeout(DEADLINE, attached).await.expect("it ends in time")
    }

    /// At a leader, until a task ends: with which error.
    async fn attach_until_ended(&mut self, address: &str, mut task: SendableRecordBatchStream) -> String {
        let stop = CancellationToken::new();
        let ended = async {
            let ended = task.next().await;
            stop.cancel();
            ended
        };
        let (_, ended) = tokio::join!(self.attach(address, &stop), ended);
        ended.expect("an answer").expect_err("no rows").to_string()
    }

    /// A task that has begun, and waits for records that nobody has.
    async fn waiting(&self, task: &TaskDescriptor) -> SendableRecordBatchStream {
        let spec = ScanSpec {
            job: "job".into(),
            incarnation: "job".into(),
            source: 0,
            connection: Connection::new("127.0.0.1:1"),
            topic: "t".into(),
            fields: vec![],
            options: DecodeOptions::default(),
            on_error: OnError::Fail,
            checks: vec![],
        };
        let source = descriptor_source(std::slice::from_ref(task)).expect("a source");
        let scan = RecordScanExec::new(Arc::new(spec), Arc::new(Schema::empty()), Arc::from([]), source);
        let plan = PartWriteExec::new(WriteSpec { sink: SinkId(0), keeping: Keeping::All }, Arc::new(scan));
        let config = SessionConfig::new().with_extension(self.services.clone());
        let context = Arc::new(TaskContext::default().with_session_config(config));
        let mut running = plan.execute(0, context).expect("begins");
        assert!(futures::poll!(running.next()).is_pending(), "it waits");
        running
    }
}

fn task(generation: u64) -> TaskDescriptor {
    let of_query = TaskDescriptor::of_query(&Incarnation::new("job"), PartIndex(0), 0, OffsetRange::new(0, 1));
    TaskDescriptor { generation: Generation(generation), attempt: Attempt(3), ..of_query }
}

fn publish(generation: u64) -> Response {
    Response::Publish(wire::Publish {
        incarnation: "job".into(),
        generation,
        epoch: 1,
        sink: 0,
        file: Some(PartFile::none(PartIndex(0)).into()),
        timestamp_us: 1,
        sink_spec: serde_json::to_string(&SinkSpec::Blackhole).expect("plain data"),
        job: "job".into(),
        trace_parent: String::new(),
    })
}

#[test]
fn a_leader_of_a_lower_generation_is_not_followed() {
    assert_eq!(outdated(Generation(4), Generation(4)), None);
    assert_eq!(outdated(Generation(5), Generation(4)), None);
    let told = outdated(Generation(3), Generation(4)).expect("another has led since");
    assert!(told.contains("generation 3") && told.contains("generation 4"), "{told}");
}

/// EPOCHS rule 5.
#[tokio::test(flavor = "multi_thread")]
async fn orders_of_a_leader_of_a_lower_generation_are_not_obeyed() {
    let mut executor = Executor::new().await;
    let (address, mut hears) = leader(5, vec![publish(5)]).await;
    let stop = CancellationToken::new();
    let obeyed = async {
        let mut obeyed = false;
        while !obeyed {
            let Some(message) = hears.recv().await else { break };
            obeyed = matches!(message, Request::PublishReport(_));
        }
        stop.cancel();
        obeyed
    };
    let (outcome, obeyed) = tokio::join!(executor.attach(&address, &stop), obeyed);
    assert!(obeyed && matches!(outcome, Outcome::Shutdown), "a leader that is followed is obeyed");
    assert_eq!(executor.services.generation(), Generation(5));

    let (address, mut hears) = leader(4, vec![publish(4)]).await;
    let Outcome::Next(why) = executor.attach(&address, &CancellationToken::new()).await else { panic!("it stayed") };
    assert!(why.contains("generation 4") && why.contains("generation 5"), "{why}");
    while let Some(message) = hears.recv().await {
        assert!(matches!(message, Request::Hello(_) | Request::Beat(_)), "{message:?}");
    }
}

/// EPOCHS rule 5.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_leader_began_ends_when_a_later_one_is_followed() {
    let mut executor = Executor::new().await;
    let running = executor.waiting(&task(4)).await;
    let (address, _hears) = leader(5, vec![]).await;
    let error = executor.attach_until_ended(&address, running).await;
    assert!(error.contains("attempt 3 of epoch 1 was cancelled"), "{error}");
    let refused = executor.services.admit(&task(4)).expect_err("it is of an earlier generation").to_string();
    assert!(refused.contains("belongs to generation 4, but generation 5 leads now"), "{refused}");
}

/// EPOCHS rules 7 and 9.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_ends_with_its_attempt() {
    let mut executor = Executor::new().await;
    let running = executor.waiting(&task(5)).await;
    let cancel = wire::CancelAttempt { incarnation: "job".into(), attempt: 3 };
    let (address, _hears) = leader(5, vec![Response::CancelAttempt(cancel)]).await;
    let error = executor.attach_until_ended(&address, running).await;
    assert!(error.contains("attempt 3 of epoch 1 was cancelled"), "{error}");
}
