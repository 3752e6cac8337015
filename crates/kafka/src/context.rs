//! What librdkafka tells beside answers: its own log, and errors that also come as results.
use parking_lot::Mutex;
use rdkafka::{ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError, types::RDKafkaErrorCode};

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

/// The same, and it keeps why a connection failed last, which comes with the next poll: who asks is only told that no broker answered.
#[derive(Debug, Default)]
pub(crate) struct FailureContext {
    last: Mutex<Option<String>>,
}

impl FailureContext {
    pub fn last(&self) -> Option<String> {
        self.last.lock().clone()
    }

    pub fn forget(&self) {
        *self.last.lock() = None;
    }
}

impl ClientContext for FailureContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        QuietContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.last.lock() = Some(without_place(reason).to_owned());
        }
        QuietContext.error(error, reason);
    }
}

impl ConsumerContext for FailureContext {}

/// `place: reason`.
fn without_place(told: &str) -> &str {
    told.split_once(": ").map_or(told, |(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_without_its_place() {
        let place = "sasl_ssl://127.0.0.1:9093/bootstrap";
        let told = "SASL authentication error: Authentication failed: Invalid username or password (after 3ms)";
        assert_eq!(without_place(&format!("{place}: {told}")), told);
        assert_eq!(without_place("gone"), "gone");
    }
}
