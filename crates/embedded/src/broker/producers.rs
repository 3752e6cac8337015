//! What makes producers idempotent: for each producer and partition, the last batches that it wrote there. A batch that comes again is
//! answered as before, and one out of order is refused.
use std::collections::{HashMap, VecDeque};

use super::{
    appender::RETENTION_MS,
    batch::Batch,
    codes::ErrorCode,
    log::{Log, LogError},
};

/// What a producer may repeat: librdkafka and Kafka keep at most five batches under way.
const RECENT_BATCHES: usize = 5;

/// What a producer wrote last to a partition.
pub(super) struct Producer {
    epoch: i16,
    /// First and last sequence number and base offset of its last batches.
    recent: VecDeque<(i32, i32, i64)>,
}

impl Producer {
    pub(super) fn new(epoch: i16) -> Self {
        Self { epoch, recent: VecDeque::new() }
    }

    /// Whether a batch is the producer's next; `Some` is the base offset of one that is already written.
    pub(super) fn check(&self, batch: &Batch) -> Result<Option<i64>, ErrorCode> {
        if batch.producer_epoch < self.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if batch.producer_epoch > self.epoch {
            return if batch.base_sequence == 0 { Ok(None) } else { Err(ErrorCode::OutOfOrderSequenceNumber) };
        }
        let same = |recent: &&(i32, i32, i64)| (recent.0, recent.1) == (batch.base_sequence, batch.last_sequence());
        if let Some((_, _, base_offset)) = self.recent.iter().find(same) {
            return Ok(Some(*base_offset));
        }
        let Some((_, last, _)) = self.recent.back() else { return Ok(None) };
        // Of a lower number too: clients take a batch that is called a duplicate for written, and one that was refused before never was.
        let next = last.checked_add(1).unwrap_or(0);
        if batch.base_sequence == next { Ok(None) } else { Err(ErrorCode::OutOfOrderSequenceNumber) }
    }

    pub(super) fn wrote(&mut self, batch: &Batch, base_offset: i64) {
        if batch.producer_epoch != self.epoch {
            self.epoch = batch.producer_epoch;
            self.recent.clear();
        }
        if self.recent.len() == RECENT_BATCHES {
            self.recent.pop_front();
        }
        self.recent.push_back((batch.base_sequence, batch.last_sequence(), base_offset));
    }

    pub(super) fn encode(&self, written_ms: i64) -> Vec<u8> {
        let mut out = written_ms.to_be_bytes().to_vec();
        out.extend_from_slice(&self.epoch.to_be_bytes());
        for (first, last, base_offset) in &self.recent {
            out.extend_from_slice(&first.to_be_bytes());
            out.extend_from_slice(&last.to_be_bytes());
            out.extend_from_slice(&base_offset.to_be_bytes());
        }
        out
    }

    /// The producer, and when it wrote last.
    fn decode(bytes: &[u8]) -> Option<(Self, i64)> {
        let (written_ms, rest) = bytes.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let recent = rest.chunks(16).map(|entry| {
            let (first, entry) = entry.split_first_chunk()?;
            let (last, entry) = entry.split_first_chunk()?;
            Some((i32::from_be_bytes(*first), i32::from_be_bytes(*last), i64::from_be_bytes(entry.try_into().ok()?)))
        });
        let producer = Self { epoch: i16::from_be_bytes(*epoch), recent: recent.collect::<Option<_>>()? };
        Some((producer, i64::from_be_bytes(*written_ms)))
    }
}

/// The producers of the last week; what others left behind is removed.
pub(super) fn load_producers(log: &Log, now_ms: i64) -> Result<HashMap<(u32, u32, i64), Producer>, LogError> {
    const DAMAGE: LogError = LogError::Damage("a producer's state");
    let oldest_ms = now_ms - RETENTION_MS;
    let mut producers = HashMap::new();
    for entry in log.store.producers.iter() {
        let (key, state) = entry.into_inner()?;
        let (producer, written_ms) = Producer::decode(&state).ok_or(DAMAGE)?;
        if written_ms < oldest_ms {
            log.store.producers.remove(key)?;
            continue;
        }
        let (topic, rest) = key.split_first_chunk().ok_or(DAMAGE)?;
        let (index, rest) = rest.split_first_chunk().ok_or(DAMAGE)?;
        let id = rest.try_into().map_err(|_| DAMAGE)?;
        producers.insert((u32::from_be_bytes(*topic), u32::from_be_bytes(*index), i64::from_be_bytes(id)), producer);
    }
    Ok(producers)
}

#[cfg(test)]
mod tests {
    use super::{super::batch::tests, *};

    #[test]
    fn only_what_is_known_to_be_written_is_a_repetition() {
        let batch = |records, epoch, sequence| Batch::parse(tests::batch(records, (9, epoch, sequence), 5)).unwrap();
        let mut producer = Producer::new(0);
        // The first batch, of numbers 0 to 4, was too large; the next one came behind it.
        producer.wrote(&batch(3, 0, 5), 40);
        assert_eq!(producer.check(&batch(3, 0, 5)), Ok(Some(40)));
        assert_eq!(producer.check(&batch(2, 0, 0)), Err(ErrorCode::OutOfOrderSequenceNumber), "it was never written");
        assert_eq!(producer.check(&batch(1, 0, 8)), Ok(None));
        assert_eq!(producer.check(&batch(1, 0, 9)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(producer.check(&batch(1, 1, 9)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(producer.check(&batch(1, 1, 0)), Ok(None));
        producer.wrote(&batch(1, 1, i32::MAX), 43);
        assert_eq!(producer.check(&batch(1, 0, 8)), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(producer.check(&batch(2, 1, 0)), Ok(None), "numbers begin again behind the last");
    }
}
