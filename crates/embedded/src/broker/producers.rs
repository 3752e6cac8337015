//! What makes producers idempotent: for each producer and partition, the last batches that it wrote there. A batch that comes again is
//! answered as before, and one out of order is refused.
use std::collections::{HashMap, VecDeque};

use super::{
    batch::Batch,
    codes::ErrorCode,
    log::{Log, LogError},
};

/// What a producer may repeat: librdkafka and Kafka keep at most five batches under way.
const RECENT_BATCHES: usize = 5;
/// Kafka's default of `producer.id.expiration.ms`: no client repeats a batch after that.
const EXPIRATION_MS: i64 = 24 * 3600 * 1000;

/// Topic number, partition and the producer's number.
pub(super) type ProducerKey = (u32, u32, i64);

/// What a producer wrote last to a partition.
pub(super) struct Producer {
    epoch: i16,
    written_ms: i64,
    /// First and last sequence number and base offset of its last batches.
    recent: VecDeque<(i32, i32, i64)>,
}

impl Producer {
    pub(super) fn new(epoch: i16) -> Self {
        Self { epoch, written_ms: 0, recent: VecDeque::new() }
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

    /// Whether it wrote nothing for so long that it is forgotten. Should it come back, it goes on with any number.
    pub(super) fn is_idle(&self, now_ms: i64) -> bool {
        now_ms - self.written_ms > EXPIRATION_MS
    }

    pub(super) fn wrote(&mut self, batch: &Batch, base_offset: i64, now_ms: i64) {
        self.written_ms = now_ms;
        if batch.producer_epoch != self.epoch {
            self.epoch = batch.producer_epoch;
            self.recent.clear();
        }
        if self.recent.len() == RECENT_BATCHES {
            self.recent.pop_front();
        }
        self.recent.push_back((batch.base_sequence, batch.last_sequence(), base_offset));
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.written_ms.to_be_bytes().to_vec();
        out.extend_from_slice(&self.epoch.to_be_bytes());
        for (first, last, base_offset) in &self.recent {
            out.extend_from_slice(&first.to_be_bytes());
            out.extend_from_slice(&last.to_be_bytes());
            out.extend_from_slice(&base_offset.to_be_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (written_ms, rest) = bytes.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let recent = rest.chunks(16).map(|entry| {
            let (first, entry) = entry.split_first_chunk()?;
            let (last, entry) = entry.split_first_chunk()?;
            Some((i32::from_be_bytes(*first), i32::from_be_bytes(*last), i64::from_be_bytes(entry.try_into().ok()?)))
        });
        let (epoch, written_ms) = (i16::from_be_bytes(*epoch), i64::from_be_bytes(*written_ms));
        Some(Self { epoch, written_ms, recent: recent.collect::<Option<_>>()? })
    }
}

/// What the store calls it; of a topic's producers it begins with the topic's number.
pub(super) fn stored_key((topic, index, id): ProducerKey) -> Vec<u8> {
    [&topic.to_be_bytes()[..], &index.to_be_bytes(), &id.to_be_bytes()].concat()
}

/// The producers that are not idle; what others left behind is removed.
pub(super) fn load_producers(log: &Log, now_ms: i64) -> Result<HashMap<ProducerKey, Producer>, LogError> {
    const DAMAGE: LogError = LogError::Damage("a producer's state");
    let mut producers = HashMap::new();
    for entry in log.store.producers.iter() {
        let (key, state) = entry.into_inner()?;
        let producer = Producer::decode(&state).ok_or(DAMAGE)?;
        if producer.is_idle(now_ms) {
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
        producer.wrote(&batch(3, 0, 5), 40, 0);
        assert_eq!(producer.check(&batch(3, 0, 5)), Ok(Some(40)));
        assert_eq!(producer.check(&batch(2, 0, 0)), Err(ErrorCode::OutOfOrderSequenceNumber), "it was never written");
        assert_eq!(producer.check(&batch(1, 0, 8)), Ok(None));
        assert_eq!(producer.check(&batch(1, 0, 9)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(producer.check(&batch(1, 1, 9)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(producer.check(&batch(1, 1, 0)), Ok(None));
        producer.wrote(&batch(1, 1, i32::MAX), 43, 0);
        assert_eq!(producer.check(&batch(1, 0, 8)), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(producer.check(&batch(2, 1, 0)), Ok(None), "numbers begin again behind the last");
    }
}
