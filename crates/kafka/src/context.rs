//! What librdkafka tells beside answers: its own log, and errors that also come as results. Reaching the end of a partition is no error.
use rdkafka::{
    ClientContext,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};

/// The context of our consumers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct QuietContext;

impl ClientContext for QuietContext {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::debug!(%error, reason, "librdkafka");
        }
    }
}

impl ConsumerContext for QuietContext {}
