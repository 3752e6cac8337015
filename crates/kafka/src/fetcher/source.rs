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
    comeback::Failed,
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
    /// The client may hold something of a topic that is no more: faults it has yet to tell of, leaders, how far logs reached. The next placement needs another one.
    stale: bool,
    ending: Option<Ending>,
    /// The log that is read, by the name that `prefetch` gave it.
    log: String,
    /// Of the topic that is to be read, where it is known.
    topic_id: Option<String>,
    /// How often another log was turned to.
    turns: u64,
}

impl State {
    /// Offsets of one log mean nothing in another: nothing that was read stays, and who waits for it is told.
    fn turn_to(&mut self, log: &str) {
        if self.log == log {
            return;
        }
        log.clone_into(&mut self.log);
        if !self.partitions.is_empty() {
            self.partitions.clear();
            self.turns += 1;
            self.stale = true;
        }
    }

    /// Begins anew elsewhere; what is in fault, only after the topic's id was asked for. Back goes nobody in one and the same topic.
    fn move_to(&mut self, partition: i32, start: i64) {
        let is_known = self.topic_id.is_some();
        let Some(buffer) = self.partitions.get_mut(&partition) else { return };
        self.stale |= start < buffer.start();
        if is_known && buffer.fault().is_some_and(Fault::may_pass) {
            buffer.begin_later_at(start);
        } else {
            buffer.move_to(start);
        }
    }
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
    /// A new client has to make the placements, which are all there are.
    pub renew: bool,
    /// Partitions that nobody wants any more.
    pub dropped: Vec<i32>,
    pub placements: Vec<(i32, Placement)>,
    /// Partitions to take records of, and their placements.
    pub open: Vec<(i32, u64)>,
    /// Partitions whose log's end has to be asked for.
    pub questions: Vec<i32>,
    /// The same, once they are quiet.
    pub quiet_questions: Vec<i32>,
    /// Partitions that are to be read ahead and cannot be, for a reason that may pass.
    pub failed: Vec<Failed>,
}

impl Source {
    pub fn new(FetchTopic { connection, name, headers, .. }: FetchTopic<'_>) -> Arc<Self> {
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

    pub fn prefetch(&self, log: &str, topic_id: Option<&str>, starts: &BTreeMap<i32, i64>) {
        let mut state = self.state.lock();
        state.lasting = true;
        state.turn_to(log);
        // Where it cannot be asked for, it is of no use.
        state.topic_id = topic_id.filter(|_| self.connection.is_plaintext()).map(str::to_owned);
        state.partitions.retain(|partition, buffer| starts.contains_key(partition) || *buffer.readers() > 0);
        for (partition, start) in starts {
            let number = state.highest_placement;
            let buffer = state.partitions.entry(*partition).or_insert_with(|| Buffer::at(*start, number));
            if buffer.covers(*start) {
                *buffer.later() = None;
                buffer.release(*start);
            } else if *buffer.readers() == 0 {
                state.move_to(*partition, *start);
            } else {
                *buffer.later() = Some(*start);
            }
        }
        drop(state);
        // Readers of a log that is no more.
        self.arrived.notify_waiters();
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

    /// Of the topic that is to be read ahead, where it is known.
    pub fn topic_id(&self) -> Option<String> {
        self.state.lock().topic_id.clone()
    }

    /// Visits log, partition, end and bytes.
    pub fn each_readable(&self, mut visit: impl FnMut(&str, i32, i64, usize)) {
        let state = self.state.lock();
        for (partition, buffer) in &state.partitions {
            if buffer.fault().is_none() {
                visit(&state.log, *partition, buffer.end(), buffer.bytes());
            }
        }
    }

    /// The range, once all of it is here; `None`: ask again, the consumer ended for want of readers, or the first order to read ahead came.
    pub async fn read(&self, partition: i32, range: OffsetRange) -> Result<Option<Vec<RecordChunk>>> {
        let (turns, ordered) = {
            let state = self.state.lock();
            (state.turns, state.lasting)
        };
        let mut waiting = Waiting { source: self, partition, turns, ordered, counted: false };
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
        if state.turns != waiting.turns {
            // Before the first order, no log was another than the one that it names.
            let other = KafkaError::OtherLog { topic: self.topic.clone(), partition };
            return Some(if waiting.ordered { Err(other) } else { Ok(None) });
        }
        state.read_at = Some(Instant::now());
        let (number, is_known) = (state.highest_placement, state.lasting && state.topic_id.is_some());
        let buffer = state.partitions.entry(partition).or_insert_with(|| Buffer::at(range.start, number));
        if let Some(chunks) = buffer.get(range) {
            return Some(Ok(Some(chunks)));
        }
        let alone = *buffer.readers() == usize::from(waiting.counted);
        if let (Some(fault), true) = (buffer.fault().cloned(), waiting.counted) {
            // What is read ahead stays, to be tried again.
            if alone && !state.lasting {
                state.partitions.remove(&partition);
                waiting.counted = false;
            }
            return Some(Err(self.error(partition, fault)));
        }
        // What has the topic's name now may be another: its id is asked for before anything is read again.
        if is_known && buffer.fault().is_some_and(Fault::may_pass) {
            return None;
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
            Fault::Refused(offset) => KafkaError::OffsetRefused { topic, partition, offset },
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
        let renew = state.stale && state.partitions.values().any(Buffer::wants_placement);
        if renew {
            state.stale = false;
            state.partitions.values_mut().for_each(Buffer::place_again);
        }
        let limit = partition_bytes.min(source_bytes / state.partitions.len().max(1));
        let dropped = assigned.keys().filter(|partition| !state.partitions.contains_key(partition)).copied().collect();
        let mut plan =
            Plan { renew, dropped, placements: vec![], open: vec![], questions: vec![], quiet_questions: vec![], failed: vec![] };
        let (mut highest, lasting, is_known) = (state.highest_placement, state.lasting, state.topic_id.is_some());
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
            if lasting && *buffer.readers() == 0 && buffer.fault().is_some_and(Fault::may_pass) {
                let (start, failures) = (buffer.start(), buffer.failures());
                plan.failed.push(Failed { partition: *partition, start, failures, is_known });
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
        let mut is_stale = false;
        if let Some(buffer) = state.partitions.get_mut(&partition).filter(|buffer| buffer.is_placed(placement)) {
            if buffer.failures() == 0 {
                tracing::warn!(topic = %self.topic, partition, ?fault, "partition cannot be read on");
            } else {
                tracing::debug!(topic = %self.topic, partition, ?fault, failures = buffer.failures(), "partition still cannot be read");
            }
            is_stale = fault == Fault::NoSuchTopic;
            buffer.fail(fault);
        }
        state.stale |= is_stale;
        drop(state);
        self.arrived.notify_waiters();
    }

    /// The broker refused the offset that comes next, and says that it keeps it. Where it lost the end of the log, other records
    /// have taken the offsets since.
    pub fn refuse(&self, partition: i32, placement: u64, offset: i64) {
        tracing::warn!(topic = %self.topic, partition, offset, "the broker refused an offset that it keeps; it is asked again");
        let refused_too_often = {
            let mut state = self.state.lock();
            let buffer = state.partitions.get_mut(&partition).filter(|buffer| buffer.is_placed(placement));
            buffer.is_some_and(Buffer::refuse)
        };
        if refused_too_often {
            self.fail(partition, placement, Fault::Refused(offset));
        }
    }

    /// Another client takes the place of the one that reads: all goes on where it is. What the old one still brings counts no more.
    pub fn place_again(&self) {
        self.state.lock().partitions.values_mut().for_each(Buffer::place_again);
    }

    /// Reads a partition again that was in fault, unless somebody did that already.
    pub fn begin_again(&self, partition: i32) {
        let mut state = self.state.lock();
        let Some(buffer) = state.partitions.get_mut(&partition) else { return };
        if buffer.fault().is_some_and(Fault::may_pass) && *buffer.readers() == 0 {
            tracing::info!(topic = %self.topic, partition, offset = buffer.start(), "partition is read again");
            buffer.begin_again();
        }
        drop(state);
        // Readers that came while it was in fault.
        self.arrived.notify_waiters();
        self.bell.ring();
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
    /// When it began: its count is one of the buffers that there were then.
    turns: u64,
    /// There had been an order to read ahead by then.
    ordered: bool,
    counted: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        let mut state = self.source.state.lock();
        if state.turns == self.turns
            && let Some(buffer) = state.partitions.get_mut(&self.partition)
        {
            *buffer.readers() = buffer.readers().saturating_sub(1);
            if *buffer.readers() == 0
                && let Some(start) = buffer.later().take()
                && !buffer.covers(start)
            {
                state.move_to(self.partition, start);
            }
        }
        drop(state);
        // One that wants another place may go now.
        self.source.arrived.notify_waiters();
        self.source.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{ChunkBuilder, RawRecord};

    fn source() -> Arc<Source> {
        Source::new(FetchTopic::new(&Connection::new("nowhere:9092"), "t"))
    }

    fn chunk(offsets: std::ops::Range<i64>) -> RecordChunk {
        let mut builder = ChunkBuilder::new();
        for offset in offsets {
            builder.push(RawRecord { offset, timestamp: None, key: None, payload: Some(b"{}") }, std::iter::empty());
        }
        builder.finish()
    }

    /// What the thread would do, done.
    fn planned(source: &Source, assigned: &mut BTreeMap<i32, u64>) -> Plan {
        let plan = source.plan(assigned, 1 << 20, 1 << 20, Duration::from_secs(60)).expect("it runs");
        if plan.renew {
            assigned.clear();
        }
        for partition in &plan.dropped {
            assigned.remove(partition);
        }
        assigned.extend(plan.placements.iter().map(|(partition, placement)| (*partition, placement.number)));
        plan
    }

    fn offsets(plan: &Plan) -> Vec<(i32, i64)> {
        plan.placements.iter().map(|(partition, placement)| (*partition, placement.offset)).collect()
    }

    #[test]
    fn a_topic_made_again_is_read_by_another_client_however_late_the_old_one_tells() {
        let (source, mut assigned) = (source(), BTreeMap::new());
        source.prefetch("first", None, &BTreeMap::from([(0, 0), (1, 0)]));
        assert!(!planned(&source, &mut assigned).renew);
        source.add(0, assigned[&0], &chunk(0..5));
        source.release(0, 5);
        let old = assigned.clone();
        for (partition, placement) in &old {
            source.fail(*partition, *placement, Fault::NoSuchTopic);
        }
        let plan = planned(&source, &mut assigned);
        assert_eq!((plan.renew, plan.placements.len()), (false, 0), "nothing is wanted yet");
        assert_eq!(plan.failed.iter().map(|failed| failed.start).collect::<Vec<_>>(), [5, 0]);
        // The leader has found the new topic.
        source.prefetch("first", None, &BTreeMap::from([(0, 0), (1, 0)]));
        let plan = planned(&source, &mut assigned);
        assert_eq!((plan.renew, offsets(&plan)), (true, vec![(0, 0), (1, 0)]));
        source.fail(0, old[&0], Fault::NoSuchTopic);
        assert_eq!(source.position(0, assigned[&0]), Some(0), "what is told of an old placement counts no more");
        // A fault of the new placement is not the end: nobody will ask for the partition once more.
        source.fail(0, assigned[&0], Fault::NoSuchTopic);
        let plan = planned(&source, &mut assigned);
        assert_eq!(plan.failed, [Failed { partition: 0, start: 0, failures: 1, is_known: false }]);
        source.add(1, assigned[&1], &chunk(0..3));
        source.begin_again(0);
        let plan = planned(&source, &mut assigned);
        assert_eq!((plan.renew, offsets(&plan)), (true, vec![(0, 0), (1, 3)]), "the other one goes on");
        assert!(plan.failed.is_empty());
        source.add(0, assigned[&0], &chunk(0..25));
        assert_eq!(source.position(0, assigned[&0]), Some(25));
        assert!(!planned(&source, &mut assigned).renew);
    }

    #[tokio::test]
    async fn what_is_in_fault_is_read_again_only_after_the_topics_id_was_asked_for() {
        let (source, mut assigned) = (source(), BTreeMap::new());
        let order = |start| source.prefetch("first", Some("id"), &BTreeMap::from([(0, start)]));
        order(0);
        planned(&source, &mut assigned);
        source.add(0, assigned[&0], &chunk(0..5));
        source.fail(0, assigned[&0], Fault::NoSuchTopic);
        let mut reading = Box::pin(source.read(0, OffsetRange::new(2, 9)));
        assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
        // Another executor has come, and all are told again.
        order(2);
        let plan = planned(&source, &mut assigned);
        assert!(plan.placements.is_empty(), "what has its name may be another topic");
        assert_eq!(plan.failed, [Failed { partition: 0, start: 2, failures: 1, is_known: true }]);
        source.begin_again(0);
        assert_eq!(offsets(&planned(&source, &mut assigned)), [(0, 2)]);
        assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
        source.add(0, assigned[&0], &chunk(2..9));
        assert_eq!(reading.await.expect("it is there").expect("it runs").len(), 1);
    }

    #[test]
    fn another_client_goes_on_where_the_old_one_was_lost() {
        let (source, mut assigned) = (source(), BTreeMap::new());
        source.prefetch("first", None, &BTreeMap::from([(0, 0), (1, 7)]));
        planned(&source, &mut assigned);
        source.add(0, assigned[&0], &chunk(0..5));
        let old = std::mem::take(&mut assigned);
        source.place_again();
        let plan = planned(&source, &mut assigned);
        assert_eq!((plan.renew, offsets(&plan)), (false, vec![(0, 5), (1, 7)]));
        assert_eq!(source.add(0, old[&0], &chunk(5..9)), (0, 0), "what the old one still brings counts no more");
        assert_eq!(source.add(0, assigned[&0], &chunk(5..9)).0, 4);
        assert_eq!(source.position(0, assigned[&0]), Some(9));
    }

    #[test]
    fn an_id_that_nobody_can_be_asked_for_is_not_waited_for() {
        let mut connection = Connection::new("nowhere:9092");
        connection.properties.insert("security.protocol".into(), "ssl".into());
        let (source, mut assigned) = (Source::new(FetchTopic::new(&connection, "t")), BTreeMap::new());
        source.prefetch("first", Some("id"), &BTreeMap::from([(0, 0)]));
        planned(&source, &mut assigned);
        source.fail(0, assigned[&0], Fault::NoSuchTopic);
        let plan = planned(&source, &mut assigned);
        assert_eq!(plan.failed, [Failed { partition: 0, start: 0, failures: 1, is_known: false }]);
    }

    #[test]
    fn going_back_without_a_fault_needs_another_client_too() {
        let (source, mut assigned) = (source(), BTreeMap::new());
        source.prefetch("first", None, &BTreeMap::from([(0, 7)]));
        planned(&source, &mut assigned);
        source.prefetch("first", None, &BTreeMap::from([(0, 9)]));
        assert!(!planned(&source, &mut assigned).renew, "retention took something");
        source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
        let plan = planned(&source, &mut assigned);
        assert_eq!((plan.renew, offsets(&plan)), (true, vec![(0, 0)]));
    }

    #[tokio::test]
    async fn a_start_that_came_while_somebody_read_is_kept_to_afterwards() {
        let (source, mut assigned) = (source(), BTreeMap::new());
        source.prefetch("first", None, &BTreeMap::from([(0, 5)]));
        planned(&source, &mut assigned);
        let reading = source.read(0, OffsetRange::new(5, 9));
        assert!(tokio::time::timeout(Duration::from_millis(1), reading).await.is_err(), "there is nothing to read");
        {
            let mut reading = Box::pin(source.read(0, OffsetRange::new(5, 9)));
            assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
            source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
            assert!(planned(&source, &mut assigned).placements.is_empty(), "it is still read");
        }
        assert_eq!(offsets(&planned(&source, &mut assigned)), [(0, 0)]);
    }

    #[tokio::test]
    async fn what_is_read_ahead_outlives_a_reader_that_met_a_fault() {
        let (source, mut assigned) = (source(), BTreeMap::new());
        source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
        planned(&source, &mut assigned);
        let mut reading = Box::pin(source.read(0, OffsetRange::new(0, 9)));
        assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
        source.fail(0, assigned[&0], Fault::NoSuchTopic);
        assert!(planned(&source, &mut assigned).failed.is_empty(), "the reader is told first");
        assert!(matches!(reading.await, Err(KafkaError::NoSuchTopic { .. })));
        assert_eq!(planned(&source, &mut assigned).failed.len(), 1);
    }

    #[test]
    fn what_was_read_of_a_topic_is_not_taken_for_its_successors() {
        let (source, mut assigned) = (source(), BTreeMap::new());
        source.prefetch("first", None, &BTreeMap::from([(0, 0), (1, 0)]));
        planned(&source, &mut assigned);
        source.add(0, assigned[&0], &chunk(0..5));
        let old = assigned.clone();
        let ends = |source: &Source| {
            let mut ends = vec![];
            source.each_readable(|log, partition, end, _| ends.push((log.to_owned(), partition, end)));
            ends
        };
        assert_eq!(ends(&source), [("first".to_owned(), 0, 5), ("first".to_owned(), 1, 0)]);
        // Nothing was recorded: the new topic is read from the same offset.
        source.prefetch("second", None, &BTreeMap::from([(0, 0), (1, 0)]));
        assert_eq!(ends(&source), [("second".to_owned(), 0, 0), ("second".to_owned(), 1, 0)]);
        let plan = planned(&source, &mut assigned);
        assert_eq!((plan.renew, offsets(&plan)), (true, vec![(0, 0), (1, 0)]), "by a client that knows nothing of the old one");
        assert_eq!(source.add(0, old[&0], &chunk(5..9)), (0, 0), "what is still on its way counts no more");
        assert_eq!(source.add(0, assigned[&0], &chunk(0..3)).0, 3);
        // The same order again, of another leader: nothing is fetched twice.
        source.prefetch("second", None, &BTreeMap::from([(0, 0), (1, 0)]));
        assert_eq!(source.position(0, assigned[&0]), Some(3));
        assert!(!planned(&source, &mut assigned).renew);
    }

    #[tokio::test]
    async fn a_reader_that_came_before_the_order_to_read_ahead_asks_again() {
        let (source, mut assigned) = (source(), BTreeMap::new());
        let mut reading = Box::pin(source.read(0, OffsetRange::new(0, 2)));
        assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
        planned(&source, &mut assigned);
        source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
        assert_eq!(reading.await.expect("it is no error").map(|chunks| chunks.len()), None);
        planned(&source, &mut assigned);
        source.add(0, assigned[&0], &chunk(0..2));
        assert_eq!(source.read(0, OffsetRange::new(0, 2)).await.expect("it is there").expect("it runs").len(), 1);
    }

    #[tokio::test]
    async fn a_reader_of_a_topic_that_is_no_more_is_told() {
        let (source, mut assigned) = (source(), BTreeMap::new());
        source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
        planned(&source, &mut assigned);
        let mut reading = Box::pin(source.read(0, OffsetRange::new(0, 9)));
        assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
        source.prefetch("second", None, &BTreeMap::from([(0, 0)]));
        planned(&source, &mut assigned);
        let mut next = Box::pin(source.read(0, OffsetRange::new(0, 2)));
        assert!(tokio::time::timeout(Duration::from_millis(1), next.as_mut()).await.is_err());
        let told = reading.await;
        assert!(matches!(&told, Err(error @ KafkaError::OtherLog { .. }) if error.is_retryable()));
        // Only the second reader is counted.
        source.prefetch("second", None, &BTreeMap::from([(0, 7)]));
        assert!(planned(&source, &mut assigned).placements.is_empty(), "it still reads");
        source.add(0, assigned[&0], &chunk(0..2));
        assert_eq!(next.await.expect("it is there").expect("it runs").len(), 1);
    }
}
