//! What an executor offers to our nodes, handed to them as an extension of the session configuration, and the slot through which the
//! nodes of one task partition pass what does not flow as rows: the descriptor upwards, dead letters and times.
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use datafusion::{
    common::{DataFusionError, Result},
    execution::TaskContext,
    physical_plan::PhysicalExpr,
};
use parking_lot::Mutex;
use polybolos_kafka::fetcher::Fetcher;
use polybolos_persist::{Places, Store};
use polybolos_streaming::{
    ids::{Attempt, ExecutorId, Generation, Incarnation},
    report::{Counts, PartReport, StepTimes},
};
use polybolos_tables::TableBackend;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    attempts::Attempts,
    dead_letters::DeadLetter,
    epoch::{
        flow::Flows,
        peers::{Mailboxes, PeerLink},
        space::StateSpace,
    },
    record_scan::cancelled_error,
    task::TaskDescriptor,
};

/// Reports wait here for the control stream; one per part, so a few epochs of a few jobs fit. A full channel holds the task back.
pub const REPORT_CHANNEL: usize = 4096;

/// Most bytes of part files kept in memory for publishing; beyond it, publishers read the file.
const PART_CACHE_BYTES: usize = 16 << 20;

/// An expression with its readings of the clock replaced by the frame's time, in microseconds.
pub type Freeze = fn(&Arc<dyn PhysicalExpr>, i64) -> Result<Arc<dyn PhysicalExpr>>;

/// What an executor is made of. The caller connects stores and backends: services only wire.
#[derive(Debug)]
pub struct ExecutorParts {
    pub fetcher: Arc<Fetcher>,
    pub store: Arc<dyn Store>,
    pub tables: Arc<dyn TableBackend>,
    /// Where jobs write and read files.
    pub places: Arc<Places>,
    /// Where the state of jobs is kept.
    pub state: StateSpace,
}

/// An executor, as seen by the nodes that run on it.
pub struct ExecutorServices {
    pub executor: ExecutorId,
    pub fetcher: Arc<Fetcher>,
    pub store: Arc<dyn Store>,
    pub tables: Arc<dyn TableBackend>,
    /// Where files are that are not the platform's own.
    pub places: Arc<Places>,
    /// Where the state of jobs is kept.
    pub state: Arc<StateSpace>,
    pub reports: mpsc::Sender<PartReport>,
    pub parts: PartCache,
    /// Dataflows and state of jobs that run here.
    pub flows: Flows,
    /// The way to executors that compute other parts of the same epochs, and what they sent.
    pub link: Arc<dyn PeerLink>,
    pub mailboxes: Mailboxes,
    /// In which plans that travelled as bytes are read: it knows our functions.
    pub plan_context: Arc<TaskContext>,
    pub freeze: Freeze,
    generation: AtomicU64,
    slots: Mutex<HashMap<(String, usize), TaskSlot>>,
    attempts: Mutex<Attempts>,
}

/// What the nodes of one task partition share.
#[derive(Debug, Default)]
pub struct TaskSlot {
    pub descriptor: Option<TaskDescriptor>,
    pub dead_letters: Vec<DeadLetter>,
    pub counts: Counts,
    pub times: StepTimes,
    pub max_timestamp_ms: Option<i64>,
}

impl fmt::Debug for ExecutorServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorServices").field("executor", &self.executor).finish_non_exhaustive()
    }
}

impl ExecutorServices {
    pub fn new(
        executor: ExecutorId,
        parts: ExecutorParts,
        link: Arc<dyn PeerLink>,
        reports: mpsc::Sender<PartReport>,
        plan_context: Arc<TaskContext>,
        freeze: Freeze,
    ) -> Arc<Self> {
        let ExecutorParts { fetcher, store, tables, places, state } = parts;
        Arc::new(Self {
            executor,
            fetcher,
            store,
            tables,
            places,
            state: Arc::new(state),
            reports,
            parts: PartCache::default(),
            flows: Flows::default(),
            link,
            mailboxes: Mailboxes::default(),
            plan_context,
            freeze,
            generation: AtomicU64::new(0),
            slots: Mutex::default(),
            attempts: Mutex::default(),
        })
    }

    /// The services in a task's context.
    pub fn of(context: &TaskContext) -> Result<Arc<Self>> {
        context.session_config().get_extension::<Self>().ok_or_else(|| {
            DataFusionError::Internal("this plan needs a Polybolos executor; a plain Ballista executor cannot run it".into())
        })
    }

    /// Follows the leader: work of lower generations ends, and is refused from now on (EPOCHS rule 5).
    pub fn follow(&self, generation: Generation) {
        if self.generation.fetch_max(generation.0, Ordering::SeqCst) < generation.0 {
            self.attempts.lock().follow(generation);
        }
    }

    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    /// The cancellation token of an attempt, or an error when its generation is fenced or a newer attempt is here. A query's tasks are fenced by nothing.
    pub fn admit(&self, task: &TaskDescriptor) -> Result<CancellationToken> {
        if task.is_of_query() {
            return Ok(CancellationToken::new());
        }
        let current = self.generation();
        if task.generation < current {
            return Err(DataFusionError::Execution(format!(
                "attempt {} of epoch {} belongs to generation {}, but generation {current} leads now",
                task.attempt, task.epoch, task.generation
            )));
        }
        let admitted = self.attempts.lock().admit(&task.incarnation, task.generation, task.attempt);
        admitted.ok_or_else(|| cancelled_error(task))
    }

    /// Admits a task of a job with state. A part that trades rows with others runs once in an attempt: they would have some rows
    /// of one run and some of the other (EPOCHS rule 7).
    pub fn begin(&self, task: &TaskDescriptor) -> Result<CancellationToken> {
        let token = self.admit(task)?;
        let TaskDescriptor { incarnation, generation, attempt, epoch, work, peers, .. } = task;
        if peers.len() > 1 && !self.attempts.lock().begin(incarnation, *generation, *attempt, work.part) {
            let part = work.part;
            return Err(DataFusionError::Execution(format!(
                "part {part} of epoch {epoch} has run in attempt {attempt}; the next one computes it"
            )));
        }
        Ok(token)
    }

    /// Ends the running tasks of an attempt of the leader's; one that has not started yet finds its token cancelled already.
    pub fn cancel(&self, incarnation: &Incarnation, attempt: Attempt) {
        self.attempts.lock().cancel(incarnation, self.generation(), attempt);
    }

    /// Ends everything about an incarnation on this executor.
    pub fn forget(&self, incarnation: &Incarnation) {
        self.attempts.lock().forget(incarnation);
        self.flows.forget(incarnation);
        self.mailboxes.forget(incarnation);
    }

    /// Works on the slot of one partition of one running task.
    pub fn with_slot<T>(&self, context: &TaskContext, partition: usize, work: impl FnOnce(&mut TaskSlot) -> T) -> T {
        let key = (context.task_id().unwrap_or_default(), partition);
        work(self.slots.lock().entry(key).or_default())
    }

    /// Takes the slot away, at the end of the task or before it starts.
    pub fn take_slot(&self, context: &TaskContext, partition: usize) -> TaskSlot {
        self.slots.lock().remove(&(context.task_id().unwrap_or_default(), partition)).unwrap_or_default()
    }
}

/// Encoded part files written by this executor, kept for publishing, oldest dropped first.
#[derive(Debug, Default)]
pub struct PartCache {
    inner: Mutex<PartCacheInner>,
}

#[derive(Debug, Default)]
struct PartCacheInner {
    files: HashMap<String, Bytes>,
    order: std::collections::VecDeque<String>,
    bytes: usize,
}

impl PartCache {
    pub fn insert(&self, name: &str, file: Bytes) {
        let mut inner = self.inner.lock();
        inner.bytes += file.len();
        inner.order.push_back(name.to_owned());
        inner.files.insert(name.to_owned(), file);
        while inner.bytes > PART_CACHE_BYTES {
            let Some(oldest) = inner.order.pop_front() else { break };
            if let Some(file) = inner.files.remove(&oldest) {
                inner.bytes -= file.len();
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<Bytes> {
        self.inner.lock().files.get(name).cloned()
    }

    /// A published file is not asked for again, as a rule.
    pub fn remove(&self, name: &str) {
        let mut inner = self.inner.lock();
        if let Some(file) = inner.files.remove(name) {
            inner.bytes -= file.len();
            inner.order.retain(|other| other != name);
        }
    }
}
