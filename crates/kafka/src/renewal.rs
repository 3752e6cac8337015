//! When a client that nobody answers is given up for a new one. librdkafka may lose its connections for good while any other client reaches the
//! brokers: a broker that has only just woken up may name no brokers at all, and the client forgets those that it knew (its issue 5301). The decision
//! is pure: no Kafka, no clock.
use std::{
    ops::Deref,
    time::{Duration, Instant},
};

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

/// So long nobody answers, before the first new client.
const PATIENCE: Duration = Duration::from_secs(8);

/// Doubled up to this with each new client that is not answered either: there may be nobody, and connecting takes time.
const MAX_PATIENCE: Duration = Duration::from_secs(32);

/// At least, however long they took.
const FAILURES: u32 = 2;

/// What came of the questions over one client.
#[derive(Debug)]
pub(crate) struct Answers {
    /// The last one came, or the client was made.
    last: Instant,
    /// When the first of the questions was asked that failed since.
    failing: Option<Instant>,
    failures: u32,
    patience: Duration,
}

impl Answers {
    pub fn new(now: Instant) -> Self {
        Self { last: now, failing: None, failures: 0, patience: PATIENCE }
    }

    pub fn came(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// Nobody answered what was asked then. Whether a new client has to take this one's place now; it is counted anew from there.
    pub fn failed(&mut self, asked: Instant, now: Instant) -> bool {
        let since = *self.failing.get_or_insert(asked.max(self.last));
        self.failures += 1;
        let is_over = self.failures >= FAILURES && now.saturating_duration_since(since) >= self.patience;
        if is_over {
            *self = Self { patience: self.patience.saturating_mul(2).min(MAX_PATIENCE), ..Self::new(now) };
        }
        is_over
    }
}

/// Whether an error says that no answer came, rather than what a broker answered.
pub(crate) fn is_unanswered(error: &KafkaError) -> bool {
    let code = match error {
        // Its own function has no code for these.
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    };
    let unanswered = |code| {
        matches!(
            code,
            Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::TimedOutQueue
                | Code::WaitingForCoordinator
        )
    };
    code.is_some_and(unanswered)
}

/// A client that [`end_apart`] ends once nobody has it any more, wherever that is.
pub(crate) struct EndsApart<T: Send + 'static> {
    /// Always there, until it is dropped.
    client: Option<T>,
}

impl<T: Send + 'static> EndsApart<T> {
    pub fn new(client: T) -> Self {
        Self { client: Some(client) }
    }
}

impl<T: Send + 'static> Deref for EndsApart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.client.as_ref().expect("a client is there until it is dropped")
    }
}

impl<T: Send + 'static> Drop for EndsApart<T> {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            end_apart(client);
        }
    }
}

/// Ends a client on a thread of its own: it takes a moment, and whoever gives the client up may not block.
pub(crate) fn end_apart(client: impl Send + 'static) {
    apart(move || drop(client));
}

/// The same where more is to be done than to drop it.
pub(crate) fn apart(end: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name("kafka-end".into()).spawn(end) {
        tracing::warn!(%error, "no thread to end clients of Kafka on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_client_is_given_up_after_failures_that_lasted() {
        let begun = Instant::now();
        let at = |seconds: u32| begun + SECOND * seconds;
        let mut answers = Answers::new(begun);
        // One question that took long is no reason.
        assert!(!answers.failed(at(0), at(20)));
        answers.came(at(21));
        // Failures that came one upon the other neither, long after the last answer.
        assert!(!answers.failed(at(3_600), at(3_605)));
        assert!(!answers.failed(at(3_601), at(3_605)));
        assert!(answers.failed(at(3_606), at(3_611)), "the first of them was asked eleven seconds ago");
    }

    #[test]
    fn an_answer_between_failures_begins_the_count_anew() {
        let begun = Instant::now();
        let at = |seconds: u32| begun + SECOND * seconds;
        let mut answers = Answers::new(begun);
        for round in 0..10 {
            assert!(!answers.failed(at(10 * round), at(10 * round + 4)));
            assert!(!answers.failed(at(10 * round + 4), at(10 * round + 7)));
            answers.came(at(10 * round + 8));
        }
        // What was asked before the last answer counts from that answer.
        assert!(!answers.failed(at(0), at(99)));
        assert!(!answers.failed(at(0), at(100)));
        assert!(answers.failed(at(0), at(106)));
    }

    #[test]
    fn new_clients_are_made_at_a_bounded_rate() {
        let begun = Instant::now();
        let at = |seconds: u32| begun + SECOND * seconds;
        let mut answers = Answers::new(begun);
        // Ten ask every second, and none is answered.
        let mut made = vec![];
        for second in 0..120 {
            for _ in 0..10 {
                if answers.failed(at(second), at(second)) {
                    made.push(second);
                }
            }
        }
        assert_eq!(made, [8, 24, 56, 88], "after 8, 16, 32 and 32 seconds");
        answers.came(at(120));
        assert!(!answers.failed(at(121), at(125)) && answers.failed(at(126), at(130)), "as quickly as the first time");
    }

    /// Says on which thread it ends.
    struct Client(std::sync::mpsc::Sender<Option<String>>);

    impl Drop for Client {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().name().map(str::to_owned));
        }
    }

    #[test]
    fn whoever_drops_a_client_does_not_wait_for_its_end() {
        let (told, ended) = std::sync::mpsc::channel();
        drop(EndsApart::new(Client(told)));
        assert_eq!(ended.recv().expect("it ends").as_deref(), Some("kafka-end"));
    }

    #[test]
    fn a_refusal_is_an_answer() {
        for code in [Code::BrokerTransportFailure, Code::OperationTimedOut, Code::AllBrokersDown] {
            assert!(is_unanswered(&KafkaError::MetadataFetch(code)) && is_unanswered(&KafkaError::AdminOp(code)), "{code}");
        }
        for code in [Code::TopicAuthorizationFailed, Code::LeaderNotAvailable, Code::UnknownTopicOrPartition] {
            assert!(!is_unanswered(&KafkaError::MetadataFetch(code)) && !is_unanswered(&KafkaError::AdminOp(code)), "{code}");
        }
    }
}
