//! What librdkafka tells beside answers: its own log, and errors that also come as results.
use rdkafka::{ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError};

/// The context of our consumers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", facility, message);
            }
            // Brokers that cannot be reached are reported by us, once; librdkafka repeats itself.
            _ => tracing::debug!(target: "librdkafka", facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::trace!(target: "librdkafka", %error, reason);
    }
}

impl ConsumerContext for QuietContext {}
