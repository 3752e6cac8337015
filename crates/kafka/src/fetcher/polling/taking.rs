//! Takes records out of the client's queues and hands them over in chunks.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Timestamp,
    error::KafkaError as ClientError,
    message::{BorrowedMessage, Headers},
};

use super::Polling;
use crate::{
    fetcher::buffer::Fault,
    records::{ChunkBuilder, RawRecord, TimestampType},
};

/// A chunk is handed over when it has so many records or bytes, or when nothing more is waiting.
const CHUNK_RECORDS: usize = 4_096;
const CHUNK_BYTES: usize = 2 << 20;

/// What came through a queue that several partitions share.
#[derive(Default)]
struct Mixed {
    builders: BTreeMap<i32, ChunkBuilder>,
    ended: Vec<i32>,
    /// Some of it was handed over already.
    brought: bool,
}

impl Polling {
    pub(super) fn poll_main(&mut self) -> bool {
        self.take_main(Duration::ZERO)
    }

    /// Takes what is in the main queue: errors, and records that were fetched before a partition had its own queue.
    pub(super) fn take_main(&mut self, wait: Duration) -> bool {
        let consumer = self.consumer.clone();
        let mut mixed = Mixed::default();
        for _ in 0..CHUNK_RECORDS {
            match consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => self.mix(&mut mixed, &message),
                Some(Err(ClientError::PartitionEOF(partition))) => mixed.ended.push(partition),
                Some(Err(error)) => self.trouble(None, &error),
            }
        }
        self.settle(mixed)
    }

    fn mix(&self, mixed: &mut Mixed, message: &BorrowedMessage<'_>) {
        let builder = mixed.builders.entry(message.partition()).or_default();
        if !builder.takes(message.offset()) {
            mixed.brought |= self.hand_over(message.partition(), builder);
        }
        push(builder, message, self.source.headers());
    }

    fn settle(&mut self, mixed: Mixed) -> bool {
        let Mixed { builders, ended, mut brought } = mixed;
        for (partition, mut builder) in builders {
            if self.hand_over(partition, &mut builder) {
                self.brought.insert(partition, Instant::now());
                brought = true;
            }
        }
        // An end is only told after the records before it; those were handed over above.
        for partition in ended {
            if let Some(placement) = self.assigned.get(&partition) {
                self.source.reached_end(partition, *placement);
                brought = true;
            }
        }
        brought
    }

    /// A partition that was taken away and assigned again gets its own queue only if the client has stopped the old one by then. Otherwise its queue stays
    /// joined to the main one, and brings what is meant for others too.
    pub(super) fn poll_partition(&mut self, partition: i32, placement: u64) -> bool {
        let Some(queue) = self.queues.get(&partition) else { return false };
        // Most looks find nothing; the first record makes the room.
        let mut builder = ChunkBuilder::new();
        let mut others = Mixed::default();
        let mut trouble = None;
        let mut at_end = false;
        let headers = self.source.headers();
        while builder.len() < CHUNK_RECORDS && builder.bytes() < CHUNK_BYTES {
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) if message.partition() != partition => self.mix(&mut others, &message),
                Some(Ok(message)) => {
                    if builder.is_empty() {
                        let (records, bytes) = self.chunk_size;
                        builder = ChunkBuilder::with_capacity(records, bytes);
                    }
                    if !builder.takes(message.offset()) {
                        self.hand_over(partition, &mut builder);
                    }
                    push(&mut builder, &message, headers);
                }
                Some(Err(ClientError::PartitionEOF(other))) if other != partition => others.ended.push(other),
                Some(Err(ClientError::PartitionEOF(_))) => {
                    at_end = true;
                    break;
                }
                Some(Err(error)) => {
                    trouble = Some(error);
                    break;
                }
            }
        }
        self.has_more |= trouble.is_none() && (builder.len() >= CHUNK_RECORDS || builder.bytes() >= CHUNK_BYTES);
        let size = (builder.len(), builder.bytes() + builder.bytes() / 32);
        let mut brought = self.hand_over(partition, &mut builder);
        if brought {
            self.chunk_size = size;
            self.brought.insert(partition, Instant::now());
        }
        if at_end {
            self.source.reached_end(partition, placement);
            brought = true;
        }
        brought |= self.settle(others);
        if let Some(error) = trouble {
            self.trouble(Some((partition, placement)), &error);
        }
        brought
    }

    fn hand_over(&self, partition: i32, builder: &mut ChunkBuilder) -> bool {
        let Some(placement) = self.assigned.get(&partition) else { return false };
        if builder.is_empty() {
            return false;
        }
        if self.is_of_another_topic(partition) {
            builder.finish();
            self.source.fail(partition, *placement, Fault::NoSuchTopic);
            return true;
        }
        let (records, bytes) = self.source.add(partition, *placement, &builder.finish());
        self.metrics.fetched_records.inc_by(records);
        self.metrics.fetched_bytes.inc_by(bytes);
        true
    }
}

fn push(builder: &mut ChunkBuilder, message: &BorrowedMessage<'_>, headers: bool) {
    let timestamp = match message.timestamp() {
        Timestamp::NotAvailable => None,
        Timestamp::CreateTime(millis) => Some((TimestampType::CreateTime, millis)),
        Timestamp::LogAppendTime(millis) => Some((TimestampType::LogAppendTime, millis)),
    };
    let record = RawRecord { offset: message.offset(), timestamp, key: message.key(), payload: message.payload() };
    // Not even asked for where nobody wants them: the client looks for them in the record.
    match if headers { message.headers() } else { None } {
        None => builder.push(record, std::iter::empty()),
        Some(headers) => builder.push(record, headers.iter().map(|header| (header.key, header.value))),
    }
}
