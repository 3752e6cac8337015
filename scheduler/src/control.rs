//! The control stream, from the leader's side: who is here, who fell silent, and the messages in between. Knows nothing of jobs: events
//! go to whoever registered for an incarnation.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use polybolos_operators::epoch::peers::Peer;
use polybolos_persist::Store;
use polybolos_proto::executor::v1 as wire;
use polybolos_streaming::ids::{ExecutorId, Generation, Incarnation};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use wire::{attach_request::Message as Heard, attach_response::Message as Order};

use crate::ballista::Ballista;

mod stream;

pub use stream::{ControlService, other_machine};

/// No beat for so long: the executor is lost.
const LOST_AFTER: Duration = Duration::from_millis(1_200);

/// So long is an executor without tasks at most when Ballista has given it up.
const BALLISTA_BEAT: Duration = Duration::from_secs(10);

/// Events waiting for one job's coordinator.
pub const EVENTS: usize = 16_384;

/// What executors tell a job's coordinator.
#[derive(Clone, Debug)]
pub enum ExecutorEvent {
    Joined(ExecutorId),
    Lost(ExecutorId),
    Said(ExecutorId, Heard),
}

/// An executor as the console shows it.
#[derive(Clone, Debug)]
pub struct ExecutorInfo {
    pub id: ExecutorId,
    pub address: String,
    pub vcores: u32,
    pub resident_bytes: u64,
    pub buffered_bytes: u64,
    /// Share of one core over the last second or so.
    pub cpu: f64,
    pub since: Instant,
}

struct Connected {
    orders: mpsc::Sender<Result<wire::AttachResponse, Status>>,
    hello: wire::Hello,
    connection: u64,
    heard: Instant,
    since: Instant,
    beat: wire::Beat,
    cpu: f64,
    cpu_at: Instant,
}

/// Whether the catalog names an incarnation.
type IsKnown = Box<dyn Fn(&str) -> bool + Send + Sync>;

struct Leading {
    generation: Generation,
    is_known: IsKnown,
}

/// Why an executor is not here any more.
#[derive(Clone, Copy)]
enum Gone {
    Silent,
    Broken,
    /// It was stopped, in order.
    Stopped,
}

impl Gone {
    fn reason(self) -> &'static str {
        match self {
            Self::Silent => "no beat on the control stream",
            Self::Broken => "the control stream ended",
            Self::Stopped => "it was stopped",
        }
    }
}

/// All executors of this leader, and the jobs that listen to them.
pub struct Executors {
    ballista: Ballista,
    store: Arc<dyn Store>,
    leader: String,
    /// Until this scheduler leads, executors are sent away.
    leading: OnceLock<Leading>,
    connections: AtomicU64,
    connected: RwLock<BTreeMap<ExecutorId, Connected>>,
    listeners: Mutex<HashMap<Incarnation, mpsc::Sender<ExecutorEvent>>>,
    /// Why executors that do not fit were sent away, each told once: they come back again and again.
    mismatches: Mutex<BTreeSet<String>>,
    /// Cancelled when this scheduler leads no more: all streams end.
    resigned: CancellationToken,
}

impl Executors {
    pub fn new(ballista: Ballista, store: Arc<dyn Store>, leader: String) -> Arc<Self> {
        Arc::new(Self {
            ballista,
            store,
            leader,
            leading: OnceLock::new(),
            connections: AtomicU64::new(0),
            connected: RwLock::default(),
            listeners: Mutex::default(),
            mismatches: Mutex::default(),
            resigned: CancellationToken::new(),
        })
    }

    /// Takes executors from now on. `is_known` tells whether the catalog, as this leader found and changed it, names an
    /// incarnation: what executors hold of others is of no use any more.
    pub fn lead(&self, generation: Generation, is_known: impl Fn(&str) -> bool + Send + Sync + 'static) {
        // A process leads once.
        let _ = self.leading.set(Leading { generation, is_known: Box::new(is_known) });
    }

    /// Lets the executors go, for good: from here on no order is given, and no grant to write by one. They look for the next leader with what
    /// they hold.
    pub fn resign(&self) {
        let mut connected = self.connected.write();
        self.resigned.cancel();
        connected.clear();
    }

    /// Listens to everything about an incarnation; the executors present come as `Joined` first.
    pub fn listen(&self, incarnation: &Incarnation) -> mpsc::Receiver<ExecutorEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        // Held all the while: of one that joins between the look and the entry nobody would tell.
        let mut listeners = self.listeners.lock();
        for executor in self.connected.read().keys() {
            let _ = sender.try_send(ExecutorEvent::Joined(executor.clone()));
        }
        listeners.insert(incarnation.clone(), sender);
        receiver
    }

    pub fn unlisten(&self, incarnation: &Incarnation) {
        self.listeners.lock().remove(incarnation);
    }

    /// Ends an incarnation's work at the executors, and gives up the state that they hold of it. Those that are away are told when
    /// they join, if the catalog does not name it any more; so say it once more after that has changed.
    pub fn forget(&self, incarnation: &Incarnation) {
        self.order_all(Order::Forget(wire::Forget { incarnation: incarnation.0.clone() }));
    }

    pub fn present(&self) -> Vec<ExecutorId> {
        self.connected.read().keys().cloned().collect()
    }

    /// Parts of a job's state that executors had in memory when they joined.
    pub fn held(&self, incarnation: &Incarnation) -> Vec<(ExecutorId, wire::HeldState)> {
        let connected = self.connected.read();
        let all = connected.iter().flat_map(|(executor, connected)| connected.hello.held.iter().map(move |held| (executor, held)));
        let of_job = all.filter(|(_, held)| held.incarnation == incarnation.as_str());
        of_job.map(|(executor, held)| (executor.clone(), held.clone())).collect()
    }

    /// Where executors take rows of an exchange; `None`: one is not here.
    pub fn peers(&self, executors: &[ExecutorId]) -> Option<Vec<Peer>> {
        let connected = self.connected.read();
        let peer = |executor: &ExecutorId| {
            let hello = &connected.get(executor)?.hello;
            Some(Peer { executor: executor.clone(), address: format!("{}:{}", hello.host, hello.exchange_port) })
        };
        executors.iter().map(peer).collect()
    }

    pub fn list(&self) -> Vec<ExecutorInfo> {
        let connected = self.connected.read();
        let info = connected.iter().map(|(id, executor)| ExecutorInfo {
            id: id.clone(),
            address: format!("{}:{}", executor.hello.host, executor.hello.grpc_port),
            vcores: executor.hello.vcores,
            resident_bytes: executor.beat.resident_bytes,
            buffered_bytes: executor.beat.buffered_bytes,
            cpu: executor.cpu,
            since: executor.since,
        });
        info.collect()
    }

    /// Sends an order; false when the executor is not here or hangs.
    pub fn order(&self, executor: &ExecutorId, order: Order) -> bool {
        let connected = self.connected.read();
        let Some(executor) = connected.get(executor) else { return false };
        executor.orders.try_send(Ok(wire::AttachResponse { message: Some(order) })).is_ok()
    }

    pub fn order_all(&self, order: Order) {
        for executor in self.present() {
            self.order(&executor, order.clone());
        }
    }

    /// Looks for executors that fell silent, and tells Ballista of the others, for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        let mut beats = tokio::time::interval(BALLISTA_BEAT);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = beats.tick() => {
                    tokio::spawn(self.clone().beat_for_all());
                    continue;
                }
            }
            let silent: Vec<(ExecutorId, u64)> = {
                let connected = self.connected.read();
                let late = connected.iter().filter(|(_, executor)| executor.heard.elapsed() > LOST_AFTER);
                late.map(|(id, executor)| (id.clone(), executor.connection)).collect()
            };
            for (executor, connection) in silent {
                self.lose(&executor, connection, Gone::Silent).await;
            }
        }
    }

    async fn beat_for_all(self: Arc<Self>) {
        let hellos: Vec<wire::Hello> = self.connected.read().values().map(|executor| executor.hello.clone()).collect();
        for hello in &hellos {
            self.ballista.beat(hello).await;
        }
    }

    async fn lose(&self, executor: &ExecutorId, connection: u64, gone: Gone) {
        {
            let mut connected = self.connected.write();
            if connected.get(executor).is_none_or(|present| present.connection != connection) {
                return;
            }
            connected.remove(executor);
        }
        let reason = gone.reason();
        match gone {
            Gone::Stopped => tracing::info!(%executor, "executor left"),
            Gone::Silent | Gone::Broken => tracing::warn!(%executor, reason, "executor lost"),
        }
        self.tell_all(&ExecutorEvent::Lost(executor.clone()));
        self.ballista.lost(executor.as_str(), reason).await;
    }

    fn tell_all(&self, event: &ExecutorEvent) {
        for listener in self.listeners.lock().values() {
            if listener.try_send(event.clone()).is_err() {
                tracing::error!("a job's coordinator does not take its events; it will be fenced by its own deadlines");
            }
        }
    }

    fn hear(&self, executor: &ExecutorId, connection: u64, message: Heard) {
        if let Some(present) = self.connected.write().get_mut(executor)
            && present.connection == connection
        {
            present.heard = Instant::now();
            if let Heard::Beat(beat) = &message {
                present.take_beat(*beat);
            }
        }
        let incarnation = match &message {
            Heard::Beat(beat) => {
                let grant = wire::Grant { asked_us: beat.asked_us };
                self.order(executor, Order::Grant(grant));
                return;
            }
            Heard::Available(available) => available.source.as_ref().map(|source| &source.incarnation),
            Heard::SourceState(state) => state.source.as_ref().map(|source| &source.incarnation),
            Heard::PartReport(report) => Some(&report.incarnation),
            Heard::PublishReport(report) => Some(&report.incarnation),
            Heard::PublishFailure(failure) => Some(&failure.incarnation),
            Heard::StateCompacted(report) => Some(&report.incarnation),
            Heard::CompactFailed(failure) => Some(&failure.incarnation),
            Heard::Hello(_) | Heard::ProbeAnswer(_) | Heard::Farewell(_) => None,
        };
        let Some(incarnation) = incarnation.map(|text| Incarnation(text.clone())) else { return };
        let listener = self.listeners.lock().get(&incarnation).cloned();
        if let Some(listener) = listener
            && listener.try_send(ExecutorEvent::Said(executor.clone(), message)).is_err()
        {
            tracing::error!(%incarnation, "a job's coordinator does not take its events; its deadlines will repair it");
        }
    }

    fn join(
        &self,
        executor: &ExecutorId,
        connection: u64,
        hello: &wire::Hello,
        orders: &mpsc::Sender<Result<wire::AttachResponse, Status>>,
    ) {
        let now = Instant::now();
        let present = Connected {
            orders: orders.clone(),
            hello: hello.clone(),
            connection,
            heard: now,
            since: now,
            beat: wire::Beat::default(),
            cpu: 0.0,
            cpu_at: now,
        };
        let before = {
            let mut connected = self.connected.write();
            if self.resigned.is_cancelled() {
                return;
            }
            connected.insert(executor.clone(), present)
        };
        if before.is_some() {
            // The old stream has not been noticed to be dead: what ran there may have lost its reports.
            self.tell_all(&ExecutorEvent::Lost(executor.clone()));
        }
        tracing::info!(%executor, host = %hello.host, vcores = hello.vcores, "executor joined");
        // Only now that it is here: what ends from now on, it is told by `forget`.
        for incarnation in &hello.incarnations {
            if self.leading.get().is_some_and(|leading| !(leading.is_known)(incarnation)) {
                self.order(executor, Order::Forget(wire::Forget { incarnation: incarnation.clone() }));
            }
        }
        self.tell_all(&ExecutorEvent::Joined(executor.clone()));
    }
}

impl Connected {
    fn take_beat(&mut self, beat: wire::Beat) {
        let now = Instant::now();
        let elapsed = now.duration_since(self.cpu_at).as_secs_f64();
        if elapsed >= 1.0 {
            self.cpu = (beat.cpu_ms.saturating_sub(self.beat.cpu_ms)) as f64 / 1_000.0 / elapsed;
            self.cpu_at = now;
            self.beat = beat;
        } else {
            // The CPU share is taken over a second; the rest is the newest.
            self.beat = wire::Beat { cpu_ms: self.beat.cpu_ms, ..beat };
        }
    }
}

#[cfg(test)]
mod tests {
    use polybolos_persist::LocalStore;

    use super::*;

    /// A leader with one executor, and the stream of its orders.
    async fn leader(folder: &std::path::Path) -> (Arc<Executors>, mpsc::Receiver<Result<wire::AttachResponse, Status>>) {
        let store = Arc::new(LocalStore::open(folder).await.expect("a store"));
        let ballista = Ballista::start("leader", "127.0.0.1", 0).await.expect("Ballista's scheduler");
        let executors = Executors::new(ballista, store, "leader".into());
        executors.lead(Generation(1), |incarnation| incarnation == "job");
        let (orders, ordered) = mpsc::channel(8);
        executors.join(&ExecutorId::new("there"), 0, &wire::Hello::default(), &orders);
        (executors, ordered)
    }

    fn told(ordered: &mut mpsc::Receiver<Result<wire::AttachResponse, Status>>) -> Option<Order> {
        ordered.try_recv().ok()?.expect("an order").message
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn state_stays_with_executors_unless_its_job_has_ended() {
        let folder = tempfile::tempdir().expect("folder");
        let (executors, mut ordered) = leader(folder.path()).await;
        let job = Incarnation::new("job");
        let _events = executors.listen(&job);
        executors.unlisten(&job);
        assert_eq!(told(&mut ordered), None, "whoever leads the job next finds it there");
        executors.forget(&job);
        assert_eq!(told(&mut ordered), Some(Order::Forget(wire::Forget { incarnation: "job".into() })));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_was_away_is_told_what_has_ended_meanwhile() {
        let folder = tempfile::tempdir().expect("folder");
        let (executors, _ordered) = leader(folder.path()).await;
        let (orders, mut ordered) = mpsc::channel(8);
        let incarnations = ["dropped", "job", "restarted"].map(String::from).to_vec();
        executors.join(&ExecutorId::new("back"), 1, &wire::Hello { incarnations, ..wire::Hello::default() }, &orders);
        for ended in ["dropped", "restarted"] {
            assert_eq!(told(&mut ordered), Some(Order::Forget(wire::Forget { incarnation: ended.into() })));
        }
        assert_eq!(told(&mut ordered), None, "what the catalog names goes on");
    }

    /// What is granted after it would outlive the lease by more than a grant's time.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_resigns_grants_nothing_and_lets_the_executors_go() {
        let folder = tempfile::tempdir().expect("folder");
        let (executors, mut ordered) = leader(folder.path()).await;
        let there = ExecutorId::new("there");
        let beat = || Heard::Beat(wire::Beat { asked_us: 7, ..wire::Beat::default() });
        executors.hear(&there, 0, beat());
        assert_eq!(told(&mut ordered), Some(Order::Grant(wire::Grant { asked_us: 7 })));
        executors.resign();
        executors.hear(&there, 0, beat());
        assert!(!executors.order(&there, Order::Forget(wire::Forget { incarnation: "job".into() })));
        assert!(ordered.recv().await.is_none(), "the stream ends");
        let (orders, _ordered) = mpsc::channel(8);
        executors.join(&there, 1, &wire::Hello::default(), &orders);
        assert!(executors.present().is_empty(), "nobody is taken any more");
    }
}
