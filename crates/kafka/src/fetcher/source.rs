//! What a source's readers and its consumer thread share.
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use polybolos_streaming::frame::OffsetRange;
use tokio::sync::Notify;

use super::{
    FetchTopic,
    buffer::{Buffer, Fault, Placement},
};
use crate::{
    connection::Connection,
    error::{KafkaError, Result},
    records::RecordChunk,
};

/// Wakes the consumer thread: something to fetch, or something to do.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    condition: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *self.rung.lock() = true;
        self.condition.notify_one();
    }

    /// Until it rings, or for this time.
    pub fn wait(&self, at_most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.condition.wait_for(&mut rung, at_most);
        }
        *rung = false;
    }
}

/// Why a source's thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Nobody read for a while.
    Idle,
    Closed,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<i32, Buffer>,
    /// Placement numbers go on where a dropped partition had left off.
    highest_placement: u64,
    /// `prefetch` was called: it lives until it is forgotten.
    lasting: bool,
    read_at: Option<Instant>,
    away: Option<String>,
    ending: Option<Ending>,
}

pub(super) struct Source {
    connection: Connection,
    topic: String,
    headers: bool,
    state: Mutex<State>,
    arrived: Notify,
    pub bell: Arc<Bell>,
}

/// What the thread has to do now.
pub(super) struct Plan {
    /// Partitions that nobody wants any more.
    pub dropped: Vec<i32>,
    pub placements: Vec<(i32, Placement)>,
    /// Partitions to take records of, and their placements.
    pub open: Vec<(i32, u64)>,
    /// Partitions whose log's end has to be asked for.
    pub questions: Vec<i32>,
    /// The same, once they are quiet.
    pub quiet_questions: Vec<i32>,
}

impl Source {
    pub fn new(FetchTopic { connection, name, headers }: FetchTopic<'_>) -> Arc<Self> {
        let state = Mutex::new(State { read_at: Some(Instant::now()), ..State::default() });
        let (connection, topic) = (connection.clone(), name.to_owned());
        Arc::new(Self { connection, topic, headers, state, arrived: Notify::new(), bell: Arc::default() })
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn headers(&self) -> bool {
        self.headers
    }

    /// Whether it still runs, and reads this.
    pub fn reads(&self, topic: FetchTopic<'_>) -> bool {
        let is_enough = self.headers || !topic.headers;
        is_enough && self.topic == topic.name && self.connection == *topic.connection && self.state.lock().ending.is_none()
    }

    pub fn prefetch(&self, starts: &BTreeMap<i32, i64>) {
        let mut state = self.state.lock();
        state.lasting = true;
        state.partitions.retain(|partition, buffer| starts.contains_key(partition) || *buffer.readers() > 0);
        for (partition, start) in starts {
            let number = state.highest_placement;
            let buffer = state.partitions.entry(*partition).or_insert_with(|| Buffer::at(*start, number));
            if buffer.covers(*start) {
                buffer.release(*start);
            } else if *buffer.readers() == 0 {
                buffer.move_to(*start);
            }
        }
        drop(state);
        self.bell.ring();
    }

    pub fn release(&self, partition: i32, through: i64) {
        if let Some(buffer) = self.state.lock().partitions.get_mut(&partition) {
            buffer.release(through);
        }
        self.bell.ring();
    }

    pub fn close(&self) {
        self.state.lock().ending = Some(Ending::Closed);
        self.arrived.notify_waiters();
        self.bell.ring();
    }

    /// For a thread that ends without having been told to.
    pub fn close_if_running(&self) {
        self.state.lock().ending.get_or_insert(Ending::Closed);
        self.arrived.notify_waiters();
    }

    pub fn away(&self) -> Option<String> {
        self.state.lock().away.clone()
    }

    pub fn each_readable(&self, mut visit: impl FnMut(i32, i64, usize)) {
        for (partition, buffer) in &self.state.lock().partitions {
            if buffer.fault().is_none() {
                visit(*partition, buffer.end(), buffer.bytes());
            }
        }
    }

    /// The range, once all of it is here; `None` when the consumer ended for want of readers.
    pub async fn read(&self, partition: i32, range: OffsetRange) -> Result<Option<Vec<RecordChunk>>> {
        let mut waiting = Waiting { source: self, partition, counted: false };
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(outcome) = self.try_read(&mut waiting, range) {
                return outcome;
            }
            arrived.await;
        }
    }

    fn try_read(&self, waiting: &mut Waiting<'_>, range: OffsetRange) -> Option<Result<Option<Vec<RecordChunk>>>> {
        let partition = waiting.partition;
        let mut state = self.state.lock();
        match state.ending {
            None => {}
            Some(Ending::Idle) => return Some(Ok(None)),
            Some(Ending::Closed) => return Some(Err(KafkaError::Closed)),
        }
        state.read_at = Some(Instant::now());
        let number = state.highest_placement;
        let buffer = state.partitions.entry(partition).or_insert_with(|| Buffer::at(range.start, number));
        if let Some(chunks) = buffer.get(range) {
            return Some(Ok(Some(chunks)));
        }
        let alone = *buffer.readers() == usize::from(waiting.counted);
        if let (Some(fault), true) = (buffer.fault().cloned(), waiting.counted) {
            if alone {
                state.partitions.remove(&partition);
                waiting.counted = false;
            }
            return Some(Err(self.error(partition, fault)));
        }
        if !buffer.covers(range.start) {
            // Others still wait for what is there: their ranges first.
            if !alone {
                return None;
            }
            buffer.move_to(range.start);
        }
        buffer.need(range.end);
        if !waiting.counted {
            *buffer.readers() += 1;
            waiting.counted = true;
        }
        drop(state);
        self.bell.ring();
        None
    }

    fn error(&self, partition: i32, fault: Fault) -> KafkaError {
        let topic = self.topic.clone();
        match fault {
            Fault::Lost { offset, kept } => KafkaError::DataLost { topic, partition, offset, kept },
            Fault::NoSuchTopic => KafkaError::NoSuchTopic { topic },
            Fault::Denied(reason) => KafkaError::Denied { topic, reason },
            Fault::Disorder(offset) => {
                KafkaError::Bug(format!("topic {topic:?} partition {partition}: offset {offset} came out of order"))
            }
        }
    }

    /// What the thread does next; `None` when it ends.
    pub fn plan(&self, assigned: &BTreeMap<i32, u64>, partition_bytes: usize, source_bytes: usize, idle: Duration) -> Option<Plan> {
        let mut state = self.state.lock();
        if state.ending.is_none() && !state.lasting && state.read_at.is_none_or(|read_at| read_at.elapsed() > idle) {
            let waits = state.partitions.values_mut().any(|buffer| *buffer.readers() > 0);
            state.ending = (!waits).then_some(Ending::Idle);
        }
        if state.ending.is_some() {
            return None;
        }
        let limit = partition_bytes.min(source_bytes / state.partitions.len().max(1));
        let dropped = assigned.keys().filter(|partition| !state.partitions.contains_key(partition)).copied().collect();
        let mut plan = Plan { dropped, placements: vec![], open: vec![], questions: vec![], quiet_questions: vec![] };
        let (mut highest, lasting) = (state.highest_placement, state.lasting);
        for (partition, buffer) in &mut state.partitions {
            if let Some(placement) = buffer.next_placement() {
                highest = highest.max(placement.number);
                plan.placements.push((*partition, placement));
            }
            if buffer.open_question().is_some() {
                plan.questions.push(*partition);
            }
            if lasting && buffer.may_end_in_hole() {
                plan.quiet_questions.push(*partition);
            }
            let number = plan.placements.last().filter(|(placed, _)| placed == partition).map(|(_, placement)| placement.number);
            if let Some(number) = number.or_else(|| assigned.get(partition).copied())
                && buffer.has_room(limit)
            {
                plan.open.push((*partition, number));
            }
        }
        state.highest_placement = highest;
        Some(plan)
    }

    /// Adds what a placement brought; answers records and bytes.
    pub fn add(&self, partition: i32, placement: u64, chunk: &RecordChunk) -> (u64, u64) {
        let mut state = self.state.lock();
        state.away = None;
        let added = state.partitions.get_mut(&partition).map_or((0, 0), |buffer| buffer.add(placement, chunk));
        drop(state);
        self.arrived.notify_waiters();
        added
    }

    pub fn reached_end(&self, partition: i32, placement: u64) {
        let mut state = self.state.lock();
        state.away = None;
        if let Some(buffer) = state.partitions.get_mut(&partition) {
            buffer.reached_end(placement);
        }
        drop(state);
        self.arrived.notify_waiters();
    }

    pub fn log_reaches(&self, partition: i32, log_end: i64) {
        if let Some(buffer) = self.state.lock().partitions.get_mut(&partition) {
            buffer.log_reaches(log_end);
        }
    }

    pub fn quiet_log_reaches(&self, partition: i32, log_end: i64) {
        if let Some(buffer) = self.state.lock().partitions.get_mut(&partition) {
            buffer.quiet_log_reaches(log_end);
        }
    }

    /// Next offset of a placement that is still the running one.
    pub fn position(&self, partition: i32, placement: u64) -> Option<i64> {
        let state = self.state.lock();
        state.partitions.get(&partition).filter(|buffer| buffer.is_placed(placement)).map(Buffer::end)
    }

    pub fn fail(&self, partition: i32, placement: u64, fault: Fault) {
        let mut state = self.state.lock();
        if let Some(buffer) = state.partitions.get_mut(&partition).filter(|buffer| buffer.is_placed(placement)) {
            tracing::warn!(topic = %self.topic, partition, ?fault, "partition cannot be read on");
            buffer.fail(fault);
        }
        drop(state);
        self.arrived.notify_waiters();
    }

    pub fn set_away(&self, away: Option<String>) {
        let mut state = self.state.lock();
        if state.away.is_some() != away.is_some() {
            match &away {
                Some(reason) => {
                    tracing::warn!(topic = %self.topic, servers = %self.connection.bootstrap_servers, %reason, "Kafka is away")
                }
                None => tracing::info!(topic = %self.topic, "Kafka is back"),
            }
        }
        state.away = away;
    }
}

/// A reader that waits; counted until it is dropped.
struct Waiting<'a> {
    source: &'a Source,
    partition: i32,
    counted: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        if let Some(buffer) = self.source.state.lock().partitions.get_mut(&self.partition) {
            *buffer.readers() = buffer.readers().saturating_sub(1);
        }
        // One that wants another place may go now.
        self.source.arrived.notify_waiters();
    }
}
