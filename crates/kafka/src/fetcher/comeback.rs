//! When a partition that could not be read is tried again. Nobody else would: who reads ahead is told once where to begin. Pure: no Kafka, no clock.
//!
//! A topic that was gone may come back as another of the same name, and offsets of the old one mean nothing there. The leader finds that out and says where to begin
//! anew. Whoever knows the topic's id asks for it when a partition is due; otherwise the leader gets the time to see offsets that do not fit, and at the first offset, which
//! fits every topic, there is nothing to wait for.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The leader looks at the topic's offsets every second.
const SETTLE: Duration = Duration::from_secs(5);

/// Brokers learn one after the other that a topic is no more, and any of them may be asked for its id.
const AGREE: Duration = Duration::from_secs(1);

/// After a second failure in a row; doubled with each that follows, up to `MAX_PAUSE`.
const PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(8);

/// A partition that is read ahead, and cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub partition: i32,
    /// Where reading would begin again.
    pub start: i64,
    /// In a row, with nothing brought in between.
    pub failures: u32,
    /// The id of the topic that is to be read is known.
    pub is_known: bool,
}

#[derive(Debug, Default)]
pub(super) struct Comebacks {
    /// When partitions that failed were first looked at, or last seen to be missing.
    missing: BTreeMap<i32, Instant>,
}

impl Comebacks {
    /// Others are read.
    pub fn keep(&mut self, failed: &[Failed]) {
        self.missing.retain(|partition, _| failed.iter().any(|failed| failed.partition == *partition));
    }

    /// The broker was asked just now, and has the partition or not.
    pub fn is_due(&mut self, failed: Failed, is_there: bool, now: Instant) -> bool {
        let missing = self.missing.entry(failed.partition).or_insert(now);
        if !is_there {
            *missing = now;
            return false;
        }
        let is_due = now.saturating_duration_since(*missing) >= wait(failed);
        if is_due {
            self.missing.remove(&failed.partition);
        }
        is_due
    }
}

fn wait(failed: Failed) -> Duration {
    let pause = match failed.failures {
        0 | 1 => Duration::ZERO,
        failures => PAUSE.saturating_mul(1 << (failures - 2).min(8)).min(MAX_PAUSE),
    };
    if failed.is_known {
        pause.max(AGREE)
    } else if failed.start > 0 {
        pause.max(SETTLE)
    } else {
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(start: i64, failures: u32) -> Failed {
        Failed { partition: 0, start, failures, is_known: false }
    }

    #[test]
    fn a_partition_at_the_first_offset_comes_back_with_its_topic() {
        let (mut comebacks, now) = (Comebacks::default(), Instant::now());
        assert!(!comebacks.is_due(failed(0, 1), false, now), "the topic is gone");
        assert!(comebacks.is_due(failed(0, 1), true, now));
        assert!(!comebacks.is_due(failed(0, 2), true, now), "it failed again at once");
        assert!(comebacks.is_due(failed(0, 2), true, now + PAUSE));
        assert!(!comebacks.is_due(failed(0, 100), true, now), "pauses grow");
        assert!(comebacks.is_due(failed(0, 100), true, now + MAX_PAUSE), "and end");
    }

    #[test]
    fn a_topics_id_is_asked_for_when_all_brokers_know_of_its_end() {
        for start in [0, 5] {
            let (mut comebacks, begun) = (Comebacks::default(), Instant::now());
            let known = Failed { is_known: true, ..failed(start, 1) };
            assert!(!comebacks.is_due(known, true, begun));
            assert!(!comebacks.is_due(known, true, begun + AGREE / 2));
            assert!(comebacks.is_due(known, true, begun + AGREE));
            assert!(!comebacks.is_due(known, true, begun + AGREE), "if it is another one, it is asked for again as late");
            assert!(comebacks.is_due(known, true, begun + 2 * AGREE));
        }
    }

    #[test]
    fn an_offset_may_be_one_of_the_old_topic() {
        let (mut comebacks, begun) = (Comebacks::default(), Instant::now());
        assert!(!comebacks.is_due(failed(5, 1), true, begun));
        let gone = begun + SETTLE / 2;
        assert!(!comebacks.is_due(failed(5, 1), false, gone));
        assert!(!comebacks.is_due(failed(5, 1), true, begun + SETTLE), "the topic has only just come back");
        assert!(comebacks.is_due(failed(5, 1), true, gone + SETTLE));
        assert!(!comebacks.is_due(failed(5, 1), true, gone + SETTLE), "counted from the next look");
        comebacks.keep(&[]);
        assert!(comebacks.missing.is_empty());
    }
}
