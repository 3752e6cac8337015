//! What a source's readers and its consumer thread share.
mod fetching;
mod reading;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub(super) use self::fetching::Plan;
use super::{
    FetchTopic,
    bell::Bell,
    buffer::{Buffer, Fault},
};
use crate::connection::Connection;

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

    /// Whether its thread is to end, or has ended: what brokers do then is nobody's trouble any more.
    pub fn is_ending(&self) -> bool {
        self.state.lock().ending.is_some()
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

    pub fn set_away(&self, away: Option<String>) {
        let mut state = self.state.lock();
        if state.ending.is_none() && state.away.is_some() != away.is_some() {
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

#[cfg(test)]
mod tests;
