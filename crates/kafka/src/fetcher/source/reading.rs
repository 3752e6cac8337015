//! A source's readers: each waits for all of its range, and is told of faults.
use std::time::Instant;

use polybolos_streaming::frame::OffsetRange;

use super::{Ending, Source};
use crate::{
    error::{KafkaError, Result},
    fetcher::buffer::{Buffer, Fault},
    records::RecordChunk,
};

impl Source {
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
