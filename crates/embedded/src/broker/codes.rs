//! Numbers of the Kafka protocol: the requests we answer, in which versions, and the error codes we use.

/// Error codes, as the protocol numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub(super) enum ErrorCode {
    UnknownServerError = -1,
    None = 0,
    OffsetOutOfRange = 1,
    CorruptMessage = 2,
    UnknownTopicOrPartition = 3,
    MessageTooLarge = 10,
    InvalidTopic = 17,
    UnsupportedVersion = 35,
    TopicAlreadyExists = 36,
    InvalidPartitions = 37,
    InvalidReplicationFactor = 38,
    InvalidRequest = 42,
    UnsupportedForMessageFormat = 43,
    OutOfOrderSequenceNumber = 45,
    InvalidProducerEpoch = 47,
    InvalidTxnState = 48,
    InvalidProducerIdMapping = 49,
    InvalidTransactionTimeout = 50,
    KafkaStorageError = 56,
    InvalidRecord = 87,
    UnknownTopicId = 100,
}

/// Requests, as the protocol numbers them.
pub(super) mod api {
    pub(in crate::broker) const PRODUCE: i16 = 0;
    pub(in crate::broker) const FETCH: i16 = 1;
    pub(in crate::broker) const LIST_OFFSETS: i16 = 2;
    pub(in crate::broker) const METADATA: i16 = 3;
    pub(in crate::broker) const OFFSET_COMMIT: i16 = 8;
    pub(in crate::broker) const OFFSET_FETCH: i16 = 9;
    pub(in crate::broker) const FIND_COORDINATOR: i16 = 10;
    pub(in crate::broker) const API_VERSIONS: i16 = 18;
    pub(in crate::broker) const CREATE_TOPICS: i16 = 19;
    pub(in crate::broker) const DELETE_TOPICS: i16 = 20;
    pub(in crate::broker) const DELETE_RECORDS: i16 = 21;
    pub(in crate::broker) const INIT_PRODUCER_ID: i16 = 22;
    pub(in crate::broker) const ADD_PARTITIONS_TO_TXN: i16 = 24;
    pub(in crate::broker) const END_TXN: i16 = 26;
    pub(in crate::broker) const DESCRIBE_CONFIGS: i16 = 32;
    pub(in crate::broker) const CREATE_PARTITIONS: i16 = 37;
}

/// The requests we answer: number, lowest and highest version, and the first version in flexible form.
pub(super) const APIS: [(i16, i16, i16, i16); 16] = [
    (api::PRODUCE, 3, 7, 9),
    (api::FETCH, 4, 11, 12),
    (api::LIST_OFFSETS, 1, 5, 6),
    (api::METADATA, 1, 12, 9),
    (api::OFFSET_COMMIT, 2, 7, 8),
    (api::OFFSET_FETCH, 1, 5, 6),
    (api::FIND_COORDINATOR, 0, 2, 3),
    (api::API_VERSIONS, 0, 3, 3),
    (api::CREATE_TOPICS, 2, 4, 5),
    (api::DELETE_TOPICS, 1, 3, 4),
    (api::DELETE_RECORDS, 0, 1, 2),
    (api::INIT_PRODUCER_ID, 0, 1, 2),
    (api::ADD_PARTITIONS_TO_TXN, 0, 2, 3),
    (api::END_TXN, 0, 2, 3),
    (api::DESCRIBE_CONFIGS, 1, 3, 4),
    (api::CREATE_PARTITIONS, 0, 1, 2),
];
