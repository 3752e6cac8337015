//! Errors of the Kafka side, with whose fault they are and whether trying again can help.
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode as Code;
use thiserror::Error;

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The statement, its options or the data: somebody must write something else.
    User,
    /// A broker, the network: it may pass.
    Environment,
    /// Us.
    Bug,
}

pub type Result<T, E = KafkaError> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum KafkaError {
    /// librdkafka does not know a property or refuses its value. The value is not shown: it may be a secret.
    #[error("property 'properties.{name}' is refused: {reason}; librdkafka's CONFIGURATION page lists what there is")]
    Property { name: String, reason: String },
    /// librdkafka knows each property, and refuses them together: one lacks another, or names a file that is not there.
    #[error("no client for Kafka at {servers} can be made: {reason}; correct 'properties.*'")]
    Properties { servers: String, reason: String },
    #[error("topic {topic:?} does not exist; create it (`polybolos topic create {topic}`), start its feed, or correct 'topic'")]
    NoSuchTopic { topic: String },
    #[error("topic {topic:?} has no partition {partition}")]
    NoSuchPartition { topic: String, partition: i32 },
    /// Records inside a range are gone: retention, `delete_records`, or a topic made again under the same name.
    #[error(
        "records of topic {topic:?} partition {partition} from offset {offset} on are gone (the broker keeps {}); \
         raise the topic's retention, or set 'on_data_loss' = 'continue'",
        kept_text(kept)
    )]
    DataLost { topic: String, partition: i32, offset: i64, kept: Option<(i64, i64)> },
    /// Brokers do not agree: the same offset may be read later.
    #[error(
        "topic {topic:?} partition {partition}: the broker refuses offset {offset}, and says that it keeps it; it is tried again, \
         and the broker's log says more"
    )]
    OffsetRefused { topic: String, partition: i32, offset: i64 },
    #[error("topic {topic:?} may not be read or written with these credentials: {reason}; grant it, or correct properties.sasl.*")]
    Denied { topic: String, reason: String },
    /// No broker answered in time: the same request may succeed later.
    #[error("Kafka at {servers} is not answering: {reason}")]
    Away { servers: String, reason: String },
    #[error(
        "topic {topic:?} partition {partition}: offsets {start} to {end} did not arrive within {} ms{}",
        waited.as_millis(), away_text(away)
    )]
    Late { topic: String, partition: i32, start: i64, end: i64, waited: Duration, away: Option<String> },
    /// Whoever reads ahead turned to another log in the middle of a read.
    #[error(
        "the order to read topic {topic:?} ahead turned to another log while its partition {partition} was read; it is read anew"
    )]
    OtherLog { topic: String, partition: i32 },
    #[error("a record of {bytes} bytes is refused by topic {topic:?}: {limit}; make it smaller, or raise max.message.bytes")]
    TooLarge { topic: String, bytes: usize, limit: String },
    /// The broker answered, and the answer is no. `action` names the object.
    #[error("{action} failed: {reason}")]
    Refused { action: String, reason: String },
    #[error("column {column:?} of type {data_type} cannot be read from {from}; choose another type")]
    UnsupportedColumn { column: String, data_type: String, from: &'static str },
    #[error("column {column:?} of type {data_type} cannot be written: {reason}; choose another type")]
    UnwritableColumn { column: String, data_type: String, reason: String },
    /// Another producer works under our transactional id now.
    #[error(
        "transactional id {id:?} is used by another producer now; nothing of this attempt is visible to readers of committed records"
    )]
    Fenced { id: String },
    /// A topic that is gone, or one so new that the broker which leads a partition does not know it yet.
    #[error("no broker takes records under transactional id {id:?}: {reason}; the topic may have been made a moment ago")]
    Unled { id: String, reason: String },
    #[error("the fetcher was closed while offsets were read; this process is ending")]
    Closed,
    #[error("internal error: {0}")]
    Bug(String),
}

fn kept_text(kept: &Option<(i64, i64)>) -> String {
    match kept {
        Some((first, end)) if first < end => format!("offsets {first} to {}", end - 1),
        Some((first, _)) => format!("none, its next offset is {first}"),
        None => "others".into(),
    }
}

fn away_text(away: &Option<String>) -> String {
    away.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

impl KafkaError {
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Away { .. }
                | Self::Late { .. }
                | Self::OtherLog { .. }
                | Self::OffsetRefused { .. }
                | Self::Fenced { .. }
                | Self::Unled { .. }
        )
    }

    pub fn blame(&self) -> Blame {
        match self {
            Self::Property { .. }
            | Self::Properties { .. }
            | Self::NoSuchTopic { .. }
            | Self::NoSuchPartition { .. }
            | Self::Denied { .. }
            | Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::UnsupportedColumn { .. }
            | Self::UnwritableColumn { .. } => Blame::User,
            Self::DataLost { .. }
            | Self::Away { .. }
            | Self::Late { .. }
            | Self::OtherLog { .. }
            | Self::OffsetRefused { .. }
            | Self::Fenced { .. }
            | Self::Unled { .. }
            | Self::Closed => Blame::Environment,
            Self::Bug(_) => Blame::Bug,
        }
    }

    /// What librdkafka says about an action on the servers, in our words.
    pub(crate) fn from_client(error: rdkafka::error::KafkaError, servers: &str, action: impl Into<String>) -> Self {
        use rdkafka::error::KafkaError as Client;
        match error {
            Client::ClientConfig(_, reason, name, _) => Self::Property { name, reason },
            Client::ClientCreation(reason) => Self::Properties { servers: servers.into(), reason },
            // Its own function has no code for these.
            Client::AdminOp(code) => Self::from_code(code, servers, action),
            other => match other.rdkafka_error_code() {
                Some(code) => Self::from_code(code, servers, action),
                None => Self::Refused { action: action.into(), reason: other.to_string() },
            },
        }
    }

    pub(crate) fn from_code(code: Code, servers: &str, action: impl Into<String>) -> Self {
        match is_away(code) {
            true => Self::Away { servers: servers.into(), reason: format!("{}: {code}", action.into()) },
            false => Self::Refused { action: action.into(), reason: code.to_string() },
        }
    }
}

/// Whether a code says that no broker could be asked, rather than that one refused.
pub(crate) fn is_away(code: Code) -> bool {
    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::KafkaStorageError
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::CoordinatorLoadInProgress
            | Code::WaitingForCoordinator
            | Code::ConcurrentTransactions
            | Code::NodeUpdate
            | Code::SSL
            | Code::Authentication
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::error::KafkaError as Client;

    use super::*;

    #[test]
    fn an_admin_request_that_nobody_answers_is_no_refusal() {
        let told = |code| KafkaError::from_client(Client::AdminOp(code), "here:9092", "asking");
        for code in [Code::OperationTimedOut, Code::BrokerTransportFailure, Code::LeaderNotAvailable] {
            assert!(told(code).is_retryable(), "{code}");
        }
        // While the leader of a partition moves.
        for code in [
            Code::ReplicaNotAvailable,
            Code::KafkaStorageError,
            Code::FencedLeaderEpoch,
            Code::UnknownLeaderEpoch,
            Code::OffsetNotAvailable,
        ] {
            assert!(told(code).is_retryable(), "{code}");
        }
        assert!(matches!(told(Code::TopicAuthorizationFailed), KafkaError::Refused { .. }));
    }
}
