//! Tells the topic that is to be read from another of its name, by its id.
use std::time::{Duration, Instant};

use super::Polling;
use crate::topic_id::{Asker, Unreachable};

/// A topic is not deleted, made again and written to in a shorter time than this.
const REPLACED: Duration = Duration::from_millis(50);

/// So long an answer for the topic's id holds, for what other partitions bring in the same moment.
const SAME_MOMENT: Duration = Duration::from_millis(10);

/// Before the id is asked for again where nobody could be asked.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// Tells the topic that is to be read from another of its name.
#[derive(Default)]
pub(super) struct Ids {
    asker: Asker,
    /// When it last was the one that is to be read.
    right_at: Option<Instant>,
    /// When nobody could be asked: to try takes long.
    unreachable_at: Option<Instant>,
}

impl Polling {
    /// The client says nothing when a topic is deleted and made again quickly: it reads the new one from the old one's offset. So after each pause, in which that may
    /// have happened, the topic's id is asked for once the first records are here, before anybody is told of them.
    pub(super) fn is_of_another_topic(&self, partition: i32) -> bool {
        if self.brought.get(&partition).is_some_and(|brought| brought.elapsed() < REPLACED) {
            return false;
        }
        let Some(ordered) = self.source.topic_id() else { return false };
        let mut ids = self.ids.borrow_mut();
        let is_known = |at: Option<Instant>, holds: Duration| at.is_some_and(|at| at.elapsed() < holds);
        if is_known(ids.right_at, SAME_MOMENT) || is_known(ids.unreachable_at, UNREACHABLE) {
            return false;
        }
        match ids.asker.of(self.source.connection(), self.source.topic()) {
            Ok(Some(found)) if found != ordered => return true,
            Ok(Some(_)) => (ids.right_at, ids.unreachable_at) = (Some(Instant::now()), None),
            // It is being deleted: these are its last records.
            Ok(None) => {}
            Err(Unreachable) => ids.unreachable_at = Some(Instant::now()),
        }
        false
    }

    /// Whether what has the topic's name now is what is to be read, as far as that can be told. While it is another, or there is none, the leader's word is waited for.
    pub(super) fn is_ordered_topic(&self) -> bool {
        let Some(ordered) = self.source.topic_id() else { return true };
        match self.ids.borrow_mut().asker.of(self.source.connection(), self.source.topic()) {
            Ok(found) => found == Some(ordered),
            // Only the client reaches brokers, and they have the topic.
            Err(Unreachable) => true,
        }
    }
}
