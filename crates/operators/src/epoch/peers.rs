//! What the parts of an epoch that share a job's state send each other: at every exchange of the dataflow, to each other part the rows of its lanes.
//!
//! Nothing of it outlives the attempt: a part that gives up, or is lost, ends the attempt for all, and the next one computes everything anew. So parcels are
//! neither repeated nor acknowledged beyond their arrival, and what belongs to an earlier attempt is dropped.
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions},
        datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
        ipc::{reader::StreamReader, writer::StreamWriter},
    },
    common::{DataFusionError, Result, internal_datafusion_err},
};
use futures::future::{try_join, try_join_all};
use parking_lot::Mutex;
use polybolos_dataflow::{ByPart, Delta, Peers};
use polybolos_streaming::ids::{Attempt, Epoch, ExecutorId, Generation, Incarnation, PartIndex};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{record_scan::cancelled_error, task::TaskDescriptor};

/// Who computes a part, and where it takes parcels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub executor: ExecutorId,
    /// `host:port`.
    pub address: String,
}

/// What one part has for another at one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub epoch: Epoch,
    pub attempt: Attempt,
    pub from: PartIndex,
    pub to: PartIndex,
    pub step: u32,
    /// An Arrow stream: a batch for each lane of the part that it goes to.
    pub rows: Bytes,
}

/// The way to other executors.
#[async_trait]
pub trait PeerLink: fmt::Debug + Send + Sync {
    /// Ends when the parcel has arrived.
    ///
    /// # Errors
    /// When it has not, as far as is known here; one line.
    async fn send(&self, address: &str, parcel: Parcel) -> Result<(), String>;
}

/// Of a process that runs no jobs.
#[derive(Clone, Copy, Debug)]
pub struct NoLink;

#[async_trait]
impl PeerLink for NoLink {
    async fn send(&self, _: &str, _: Parcel) -> Result<(), String> {
        Err("this process runs no parts of jobs".into())
    }
}

/// Parcels that have arrived, for parts that run here or are about to.
#[derive(Debug, Default)]
pub struct Mailboxes {
    boxes: Mutex<HashMap<(Incarnation, PartIndex), Mailbox>>,
}

/// Of one part, in the newest attempt that is known.
#[derive(Debug)]
struct Mailbox {
    attempt: (Generation, Attempt),
    parcels: HashMap<(PartIndex, u32), Bytes>,
    arrived: Arc<Notify>,
}

impl Mailbox {
    fn of(attempt: (Generation, Attempt)) -> Self {
        Self { attempt, parcels: HashMap::new(), arrived: Arc::default() }
    }

    /// Makes room for a newer attempt; false: there is one already.
    fn follow(&mut self, attempt: (Generation, Attempt)) -> bool {
        if self.attempt < attempt {
            self.arrived.notify_waiters();
            *self = Self::of(attempt);
        }
        self.attempt == attempt
    }
}

impl Mailboxes {
    pub fn deliver(&self, parcel: Parcel) {
        let attempt = (parcel.generation, parcel.attempt);
        let mut boxes = self.boxes.lock();
        let mailbox = boxes.entry((parcel.incarnation, parcel.to)).or_insert_with(|| Mailbox::of(attempt));
        if mailbox.follow(attempt) {
            mailbox.parcels.insert((parcel.from, parcel.step), parcel.rows);
            mailbox.arrived.notify_waiters();
        }
    }

    /// Waits for what a part sends to the task's part at a step.
    async fn take(&self, task: &TaskDescriptor, from: PartIndex, step: u32) -> Result<Bytes> {
        let attempt = (task.generation, task.attempt);
        loop {
            let mut arrived = {
                let mut boxes = self.boxes.lock();
                let key = (task.incarnation.clone(), task.work.part);
                let mailbox = boxes.entry(key).or_insert_with(|| Mailbox::of(attempt));
                if !mailbox.follow(attempt) {
                    return Err(cancelled_error(task));
                }
                if let Some(rows) = mailbox.parcels.remove(&(from, step)) {
                    return Ok(rows);
                }
                // Told of everything from now on, before the lock is let go.
                Box::pin(mailbox.arrived.clone().notified_owned())
            };
            arrived.as_mut().enable();
            arrived.await;
        }
    }

    pub fn forget(&self, incarnation: &Incarnation) {
        self.boxes.lock().retain(|(of, _), mailbox| {
            if of == incarnation {
                mailbox.arrived.notify_waiters();
            }
            of != incarnation
        });
    }
}

/// The other parts, as one task sees them.
#[derive(Debug)]
pub struct TaskPeers<'a> {
    pub task: &'a TaskDescriptor,
    pub mailboxes: &'a Mailboxes,
    pub link: &'a dyn PeerLink,
    pub cancelled: &'a CancellationToken,
    /// Time that went by with waiting for them.
    pub waited_us: AtomicU64,
}

impl TaskPeers<'_> {
    async fn exchange(&self, step: u32, schema: &SchemaRef, mut rows: ByPart) -> Result<ByPart> {
        let task = self.task;
        let mine = std::mem::take(&mut rows[usize::from(task.work.part.0)]);
        let lanes = mine.len();
        let others = || (0..task.peers.len() as u16).map(PartIndex).filter(|part| *part != task.work.part);
        let send = |to: PartIndex| {
            let rows = encode(schema, &rows[usize::from(to.0)]);
            async move {
                let parcel = Parcel {
                    incarnation: task.incarnation.clone(),
                    generation: task.generation,
                    epoch: task.epoch,
                    attempt: task.attempt,
                    from: task.work.part,
                    to,
                    step,
                    rows: rows?,
                };
                let peer = &task.peers[usize::from(to.0)];
                self.link.send(&peer.address, parcel).await.map_err(|why| {
                    DataFusionError::Execution(format!(
                        "executor {} at {} does not take rows of an exchange: {why}",
                        peer.executor, peer.address
                    ))
                })
            }
        };
        let sending = try_join_all(others().map(send));
        let taking = try_join_all(others().map(|from| self.mailboxes.take(task, from, step)));
        let (_, taken) = try_join(sending, taking).await?;
        let mut arrived = Vec::with_capacity(task.peers.len());
        for rows in taken {
            arrived.push(decode(schema, &rows, lanes)?);
        }
        arrived.insert(usize::from(task.work.part.0), mine);
        Ok(arrived)
    }
}

impl Peers for TaskPeers<'_> {
    fn trade(&self, step: usize, schema: &SchemaRef, rows: ByPart) -> Result<ByPart> {
        let started = Instant::now();
        let traded = Handle::current().block_on(async {
            tokio::select! {
                () = self.cancelled.cancelled() => Err(cancelled_error(self.task)),
                traded = self.exchange(step as u32, schema, rows) => traded,
            }
        });
        self.waited_us.fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        traded
    }
}

const WEIGHT: &str = "weight";

/// One batch per lane; the weights are a last column, where rows have any.
fn encode(schema: &SchemaRef, lanes: &[Vec<Delta>]) -> Result<Bytes> {
    let weighted = schema.fields().is_empty() || lanes.iter().flatten().any(|delta| delta.weights().is_some());
    let mut fields: Vec<_> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    fields.extend(weighted.then(|| Field::new(WEIGHT, DataType::Int64, true)));
    let wire: SchemaRef = Arc::new(Schema::new(fields));
    let mut writer = StreamWriter::try_new(Vec::new(), &wire)?;
    for deltas in lanes {
        if deltas.iter().all(|delta| delta.rows() == 0) {
            writer.write(&RecordBatch::new_empty(wire.clone()))?;
            continue;
        }
        let delta = Delta::concat(schema, deltas)?;
        let mut columns = delta.batch().columns().to_vec();
        if weighted {
            let weights = delta.weights().cloned().unwrap_or_else(|| Int64Array::from_value(1, delta.rows()));
            columns.push(Arc::new(weights) as ArrayRef);
        }
        writer.write(&RecordBatch::try_new(wire.clone(), columns)?)?;
    }
    Ok(writer.into_inner()?.into())
}

fn decode(schema: &SchemaRef, rows: &Bytes, lanes: usize) -> Result<Vec<Vec<Delta>>> {
    let mut decoded = Vec::with_capacity(lanes);
    for batch in StreamReader::try_new(rows.as_ref(), None)? {
        let batch = batch?;
        let (count, mut columns) = (batch.num_rows(), batch.columns().to_vec());
        if count == 0 {
            decoded.push(vec![]);
            continue;
        }
        let weights = if columns.len() > schema.fields().len() { columns.pop() } else { None };
        let weights = weights.map(|weights| weights.as_primitive::<Int64Type>().clone());
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
        decoded.push(vec![Delta::with_weights(batch, weights)]);
    }
    if decoded.len() == lanes {
        Ok(decoded)
    } else {
        Err(internal_datafusion_err!("{} lanes came from another part, and this one has {lanes}", decoded.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Weak, time::Duration};

    use datafusion::arrow::array::StringArray;
    use polybolos_streaming::frame::PartWork;

    use super::*;
    use crate::task::Recorded;

    /// Executors of this process.
    #[derive(Debug, Default)]
    struct Here(HashMap<String, Weak<Mailboxes>>);

    #[async_trait]
    impl PeerLink for Here {
        async fn send(&self, address: &str, parcel: Parcel) -> Result<(), String> {
            let there = self.0.get(address).and_then(Weak::upgrade).ok_or("nobody is there")?;
            there.deliver(parcel);
            Ok(())
        }
    }

    fn task(part: u16, attempt: u64) -> TaskDescriptor {
        let peer = |part: u16| Peer { executor: ExecutorId(format!("executor-{part}")), address: format!("{part}") };
        TaskDescriptor {
            incarnation: Incarnation::new("incarnation"),
            generation: Generation(1),
            epoch: Epoch(1),
            attempt: Attempt(attempt),
            clock_us: 0,
            watermark_us: None,
            closing: None,
            state_clock_us: 0,
            recorded: Recorded::default(),
            logs: std::collections::BTreeMap::new(),
            work: PartWork { part: PartIndex(part), ranges: vec![] },
            peers: (0..3).map(peer).collect(),
            state: vec![],
            trace_parent: String::new(),
        }
    }

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, false)]))
    }

    fn delta(name: &str, weight: Option<i64>) -> Delta {
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(StringArray::from(vec![name]))]).expect("a batch");
        Delta::with_weights(batch, weight.map(|weight| Int64Array::from(vec![weight])))
    }

    fn shown(lanes: &[Vec<Delta>]) -> Vec<Vec<(String, i64)>> {
        let rows = |delta: &Delta| {
            let names = delta.batch().column(0).as_string::<i32>().clone();
            (0..delta.rows()).map(|row| (names.value(row).to_owned(), delta.weight(row))).collect::<Vec<_>>()
        };
        lanes.iter().map(|deltas| deltas.iter().flat_map(rows).collect()).collect()
    }

    #[test]
    fn rows_and_weights_arrive_as_they_were_also_without_columns() {
        let lanes = [vec![delta("a", None), delta("b", Some(-2))], vec![], vec![delta("c", None)]];
        let arrived = decode(&schema(), &encode(&schema(), &lanes).expect("encodes"), 3).expect("decodes");
        assert_eq!(shown(&arrived), shown(&lanes));
        assert!(decode(&schema(), &encode(&schema(), &lanes).expect("encodes"), 2).is_err());
        let unweighted = decode(&schema(), &encode(&schema(), &lanes[1..]).expect("encodes"), 2).expect("decodes");
        assert!(unweighted[1][0].weights().is_none(), "rows that are only added stay so");

        let none: SchemaRef = Arc::new(Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let counted = RecordBatch::try_new_with_options(none.clone(), vec![], &options).expect("a batch");
        let rows = encode(&none, &[vec![Delta::added(counted)]]).expect("encodes");
        assert_eq!(decode(&none, &rows, 1).expect("decodes")[0][0].rows(), 3);
    }

    #[test]
    fn each_part_gets_what_the_others_have_for_it_in_their_order() {
        let mailboxes: Vec<Arc<Mailboxes>> = (0..3).map(|_| Arc::default()).collect();
        let link = Here(mailboxes.iter().enumerate().map(|(part, of)| (part.to_string(), Arc::downgrade(of))).collect());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let cancelled = CancellationToken::new();
        let trade = |part: u16| {
            let _entered = runtime.enter();
            let (task, mailboxes) = (task(part, 1), &mailboxes[usize::from(part)]);
            let peers = TaskPeers { task: &task, mailboxes, link: &link, cancelled: &cancelled, waited_us: AtomicU64::new(0) };
            let for_each = |step: usize| (0..3).map(|to| vec![vec![delta(&format!("{step}: {part} to {to}"), None)]]).collect();
            // Part 2 is behind the others by two steps.
            std::thread::sleep(Duration::from_millis(if part == 2 { 50 } else { 0 }));
            (0..2).map(|step| peers.trade(step, &schema(), for_each(step)).expect("trades")).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..3).map(|part| scope.spawn(move || trade(part))).collect();
            for (to, part) in running.into_iter().enumerate() {
                for (step, arrived) in part.join().expect("no panic").into_iter().enumerate() {
                    let names: Vec<_> = arrived.iter().map(|lanes| shown(lanes)[0][0].0.clone()).collect();
                    assert_eq!(names, (0..3).map(|from| format!("{step}: {from} to {to}")).collect::<Vec<_>>());
                }
            }
        });
    }

    #[tokio::test]
    async fn what_belongs_to_an_earlier_attempt_is_dropped_and_a_later_one_ends_it() {
        let mailboxes = Arc::new(Mailboxes::default());
        let parcel = |attempt: u64, rows: &'static [u8]| Parcel {
            incarnation: Incarnation::new("incarnation"),
            generation: Generation(1),
            epoch: Epoch(1),
            attempt: Attempt(attempt),
            from: PartIndex(1),
            to: PartIndex(0),
            step: 7,
            rows: Bytes::from_static(rows),
        };
        mailboxes.deliver(parcel(2, b"second"));
        mailboxes.deliver(parcel(1, b"first"));
        assert!(mailboxes.take(&task(0, 1), PartIndex(1), 7).await.is_err());
        assert_eq!(mailboxes.take(&task(0, 2), PartIndex(1), 7).await.expect("arrived"), "second");
        let (waiting, there) = (mailboxes.clone(), task(0, 2));
        let waiting = tokio::spawn(async move { waiting.take(&there, PartIndex(1), 8).await });
        tokio::task::yield_now().await;
        mailboxes.deliver(parcel(3, b"third"));
        assert!(waiting.await.expect("no panic").is_err());
    }
}
