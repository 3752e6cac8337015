//! What a source's consumer thread asks for and tells: where to read on, what came, and what cannot be read.
use std::{collections::BTreeMap, time::Duration};

use super::{Ending, Source};
use crate::{
    fetcher::{
        buffer::{Buffer, Fault, Placement},
        comeback::Failed,
    },
    records::RecordChunk,
};

/// What the thread has to do now.
pub(in crate::fetcher) struct Plan {
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
}
