//! What the client's errors mean for the partitions that are read.
use rdkafka::{consumer::Consumer, error::KafkaError as ClientError, types::RDKafkaErrorCode as Code};

use super::{ANSWER, Polling};
use crate::{error::is_away, fetcher::buffer::Fault};

impl Polling {
    pub(super) fn trouble(&mut self, of: Option<(i32, u64)>, error: &ClientError) {
        let Some(code) = error.rdkafka_error_code() else {
            tracing::warn!(topic = self.source.topic(), %error, "consumer error; librdkafka tries again");
            return;
        };
        let each: Vec<(i32, u64)> = match of {
            Some(one) => vec![one],
            None => self.assigned.iter().map(|(partition, placement)| (*partition, *placement)).collect(),
        };
        match code {
            Code::OffsetOutOfRange | Code::AutoOffsetReset => {
                for (partition, placement) in each {
                    self.check_lost(partition, placement, of.is_some());
                }
                self.stopped = true;
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId => {
                for (partition, placement) in each {
                    self.source.fail(partition, placement, Fault::NoSuchTopic);
                }
            }
            Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed => {
                for (partition, placement) in each {
                    self.source.fail(partition, placement, Fault::Denied(code.to_string()));
                }
            }
            code if is_away(code) => self.suspected = Some(code.to_string()),
            code => tracing::warn!(topic = self.source.topic(), %code, "consumer error; librdkafka tries again"),
        }
    }

    /// The broker does not have the offset that comes next: what does it have? If it has it, the error is one of another partition
    /// or of an earlier placement, or the log has grown past the offset again: another client, which knows of no other error, finds
    /// out.
    fn check_lost(&self, partition: i32, placement: u64, is_named: bool) {
        let Some(offset) = self.source.position(partition, placement) else { return };
        match self.consumer.fetch_watermarks(self.source.topic(), partition, ANSWER).ok() {
            Some((first, end)) if (first..=end).contains(&offset) => {
                if is_named {
                    self.source.refuse(partition, placement, offset);
                }
            }
            kept => self.source.fail(partition, placement, Fault::Lost { offset, kept }),
        }
    }
}
