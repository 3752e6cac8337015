//! One executor's stream: whether it fits and sees the leader's store (EPOCHS rule 19), and what is said until it ends.
use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::Stream;
use polybolos_persist::{Expected, Store};
use polybolos_proto::{
    build::{BUILD, Build, mismatch, shown},
    executor::v1::{self as wire, executor_control_service_server::ExecutorControlService},
};
use polybolos_streaming::ids::ExecutorId;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use wire::{attach_request::Message as Heard, attach_response::Message as Order};

use super::{Executors, Gone};

/// Orders waiting for one executor's stream. A full one means that it hangs, and it will be lost in a moment.
const ORDERS: usize = 8192;

/// More reasons than that are not remembered: they name what others say of themselves.
const MAX_MISMATCHES: usize = 64;

/// The service, next to Ballista's on the internal port.
pub struct ControlService(pub Arc<Executors>);

#[tonic::async_trait]
impl ExecutorControlService for ControlService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<wire::AttachResponse, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<wire::AttachRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        let (orders, outgoing) = mpsc::channel(ORDERS);
        let (executors, resigned) = (self.0.clone(), self.0.resigned.clone());
        tokio::spawn(resigned.run_until_cancelled_owned(executors.serve(request.into_inner(), orders)));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

impl Executors {
    /// The whole life of one stream.
    async fn serve(
        self: Arc<Self>,
        mut incoming: Streaming<wire::AttachRequest>,
        orders: mpsc::Sender<Result<wire::AttachResponse, Status>>,
    ) {
        let send = async |order: Order| orders.send(Ok(wire::AttachResponse { message: Some(order) })).await.is_ok();
        let Some(generation) = self.leading.get().map(|leading| leading.generation) else {
            send(Order::Refusal(refusal("this scheduler does not lead".into()))).await;
            return;
        };
        let hello = match next(&mut incoming).await {
            Some(Heard::Hello(hello)) => hello,
            _ => return,
        };
        let other_build = mismatch(&hello.host, Build { version: &hello.version, protocol: &hello.protocol }, BUILD);
        let misfit = other_build.or_else(|| {
            let executor = format!("the executor on {}", shown(&hello.host));
            let scheduler = ("the scheduler", polybolos_persist::machine_id());
            other_machine((executor.as_str(), hello.machine_id.as_str()), scheduler, self.store.as_ref())
        });
        if let Some(reason) = misfit {
            if is_new(&mut self.mismatches.lock(), &reason) {
                tracing::error!("{reason}");
            }
            send(Order::Refusal(wire::Refusal { reason, misfit: true })).await;
            return;
        }
        let executor = ExecutorId(hello.executor_id.clone());
        // Rule 19: both must see the same store.
        let (probe_key, probe) = (format!("probes/{}", executor), uuid::Uuid::new_v4().to_string());
        if let Err(error) = self.write_probe(&probe_key, &probe).await {
            send(Order::Refusal(refusal(format!("the leader cannot write its store: {error}")))).await;
            return;
        }
        let welcome = wire::Welcome {
            generation: generation.0,
            leader: self.leader.clone(),
            probe_key: probe_key.clone(),
            version: BUILD.version.into(),
            protocol: BUILD.protocol.into(),
        };
        if !send(Order::Welcome(welcome)).await {
            return;
        }
        let answer = loop {
            match next(&mut incoming).await {
                Some(Heard::ProbeAnswer(answer)) => break answer.content,
                Some(Heard::Beat(beat)) => {
                    send(Order::Grant(wire::Grant { asked_us: beat.asked_us })).await;
                }
                Some(Heard::Farewell(_)) | None => return,
                Some(_) => {}
            }
        };
        let _ = self.store.delete(&[probe_key]).await;
        if let Some(reason) = other_store(&executor, &answer, &probe, self.store.as_ref()) {
            tracing::error!(%reason, "executor refused");
            send(Order::Refusal(refusal(reason))).await;
            return;
        }
        if hello.rejoining
            && !self.ballista.knows(executor.as_str()).await
            && let Err(error) = self.ballista.register(&hello).await
        {
            send(Order::Refusal(refusal(format!("{error:#}")))).await;
            return;
        }
        let connection = self.connections.fetch_add(1, Ordering::SeqCst);
        let mut joined = false;
        let mut waited = Instant::now();
        let gone = loop {
            // Work is given only once Ballista knows the executor too.
            if !joined && self.ballista.knows(executor.as_str()).await {
                joined = true;
                self.join(&executor, connection, &hello, &orders);
            }
            let message = tokio::select! {
                message = next(&mut incoming) => message,
                () = tokio::time::sleep(Duration::from_millis(50)), if !joined => continue,
            };
            match message {
                Some(Heard::Farewell(_)) => break Gone::Stopped,
                Some(message) if joined => self.hear(&executor, connection, message),
                Some(Heard::Beat(beat)) => {
                    send(Order::Grant(wire::Grant { asked_us: beat.asked_us })).await;
                    if waited.elapsed() > Duration::from_secs(10) {
                        tracing::warn!(%executor, "the executor's Ballista part has not registered yet");
                        waited = Instant::now();
                    }
                }
                Some(_) => {}
                None => break Gone::Broken,
            }
        };
        self.lose(&executor, connection, gone).await;
        if !joined && !self.connected.read().contains_key(&executor) && self.ballista.knows(executor.as_str()).await {
            self.ballista.lost(executor.as_str(), "it did not join").await;
        }
    }

    async fn write_probe(&self, key: &str, content: &str) -> Result<(), polybolos_persist::StoreError> {
        let expected = match self.store.get(key).await? {
            Some((_, version)) => Expected::Version(version),
            None => Expected::Absent,
        };
        self.store.put_if(key, content.to_owned().into(), expected).await.map(|_| ())
    }
}

/// Whether a reason was not told yet; from now on it was.
fn is_new(told: &mut BTreeSet<String>, reason: &str) -> bool {
    if told.contains(reason) {
        return false;
    }
    if told.len() >= MAX_MISMATCHES {
        told.clear();
    }
    told.insert(reason.to_owned())
}

/// Why two processes, each with its machine, cannot share a store, by rule 19: a folder may be seen on another machine, but is not locked there.
pub fn other_machine((one, there): (&str, &str), (other, here): (&str, &str), store: &dyn Store) -> Option<String> {
    if !store.serves_one_machine() || there == here {
        return None;
    }
    let (there, here) = (shown(there), shown(here));
    let unknown = if there.starts_with("unknown") || here.starts_with("unknown") {
        "; a machine that is unknown needs an id in /etc/machine-id"
    } else {
        ""
    };
    Some(format!(
        "{one} is on machine {there} and {other} on machine {here}, and the store {} serves one machine; run both on one, or set storage.url \
         to a bucket on S3{unknown}",
        store.describe()
    ))
}

/// Why an executor that read this where the leader wrote `probe` is refused, by rule 19.
fn other_store(executor: &ExecutorId, answer: &str, probe: &str, store: &dyn Store) -> Option<String> {
    (answer != probe).then(|| {
        format!(
            "executor {executor} does not see the leader's store {}; give both the same storage location (file: storage serves one host)",
            store.describe()
        )
    })
}

fn refusal(reason: String) -> wire::Refusal {
    wire::Refusal { reason, misfit: false }
}

async fn next(incoming: &mut Streaming<wire::AttachRequest>) -> Option<Heard> {
    loop {
        match incoming.next().await? {
            Ok(wire::AttachRequest { message: Some(message) }) => return Some(message),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use polybolos_persist::LocalStore;

    use super::*;

    #[tokio::test]
    async fn a_store_in_a_folder_is_not_shared_with_another_machine() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("a store");
        let other = |machine: &str| other_machine(("the executor on elsewhere", machine), ("the scheduler", "here"), &store);
        assert_eq!(other("here"), None);
        let told = other("there").expect("another machine");
        let place = store.describe();
        let named = ["elsewhere", "machine there", "machine here", place.as_str(), "storage.url"];
        assert!(named.iter().all(|name| told.contains(*name)) && !told.contains('\n'), "{told}");
        assert!(!told.contains("/etc/machine-id"), "{told}");
        let unknown = other("").expect("an unknown machine");
        assert!(unknown.contains("machine unknown ") && unknown.contains("/etc/machine-id"), "{unknown}");
    }

    #[tokio::test]
    async fn who_does_not_read_what_the_leader_wrote_sees_another_store() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("a store");
        let other = |answer: &str| other_store(&ExecutorId::new("there"), answer, "written", &store);
        assert_eq!(other("written"), None);
        for answer in ["", "of an earlier trial"] {
            let told = other(answer).expect("another store");
            assert!(told.contains("executor there") && told.contains(&store.describe()), "{told}");
        }
    }

    #[test]
    fn reasons_are_told_once_and_not_kept_without_end() {
        let mut told = BTreeSet::new();
        assert!(is_new(&mut told, "other") && !is_new(&mut told, "other"));
        for number in 0..10 * MAX_MISMATCHES {
            is_new(&mut told, &number.to_string());
        }
        assert!(told.len() <= MAX_MISMATCHES);
    }
}
