//! Transactions (KIP-98): the requests, and what is kept of each transactional id. One node has every partition, so a transaction ends in
//! one atomic write of its markers and its state: there is no moment at which it is half committed. A producer that begins anew under the
//! same id takes a higher epoch, which aborts what its predecessor left open and refuses all that it still sends.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    appender::Command,
    batch::Batch,
    codes::ErrorCode,
    connection::Request,
    log::{Log, LogError},
    wire::{Malformed, Reader},
};

/// Kafka's default of `transaction.max.timeout.ms`.
const TIMEOUT_MS_MAX: i32 = 900_000;
/// Kafka's default of `transactional.id.expiration.ms`.
const EXPIRATION_MS: i64 = 7 * 24 * 3600 * 1000;

/// A producer's number and epoch.
pub(super) type ProducerId = (i64, i16);
/// Topic number and partition.
pub(super) type PartitionKey = (u32, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// Nothing is open, and nothing ended under this epoch.
    Idle,
    Open {
        since_ms: i64,
    },
    /// The last one ended so; told again to a client that missed the answer.
    Ended {
        committed: bool,
    },
}

/// What is kept of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transaction {
    pub(super) producer: ProducerId,
    timeout_ms: i32,
    state: State,
    touched_ms: i64,
    /// Partitions of the open transaction, each with the offset of its first record there.
    partitions: Vec<(PartitionKey, Option<i64>)>,
}

impl Transaction {
    pub(super) fn new(producer: ProducerId, timeout_ms: i32, now_ms: i64) -> Self {
        Self { producer, timeout_ms, state: State::Idle, touched_ms: now_ms, partitions: Vec::new() }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    pub(super) fn is_overdue(&self, now_ms: i64) -> bool {
        matches!(self.state, State::Open { since_ms } if now_ms - since_ms > i64::from(self.timeout_ms))
    }

    /// Whether nothing is open under its id, and nothing was done for so long that it is forgotten. A producer that still has the id is refused
    /// then, and opens it again.
    fn is_idle(&self, now_ms: i64) -> bool {
        !self.is_open() && now_ms - self.touched_ms > EXPIRATION_MS
    }

    /// Partitions that have records of the open transaction, and their first offsets.
    pub(super) fn written(&self) -> impl Iterator<Item = (PartitionKey, i64)> {
        self.partitions.iter().filter_map(|(partition, first)| Some((*partition, (*first)?)))
    }

    pub(super) fn add(&mut self, partitions: &[PartitionKey], now_ms: i64) {
        if !self.is_open() {
            self.state = State::Open { since_ms: now_ms };
        }
        self.touched_ms = now_ms;
        for partition in partitions {
            if !self.partitions.iter().any(|(known, _)| known == partition) {
                self.partitions.push((*partition, None));
            }
        }
    }

    /// Whether ending it is to be done; it is not when it is a repetition of what was done.
    pub(super) fn ends(&self, committed: bool) -> Result<bool, ErrorCode> {
        match self.state {
            State::Open { .. } => Ok(true),
            State::Ended { committed: before } if before == committed => Ok(false),
            State::Idle | State::Ended { .. } => Err(ErrorCode::InvalidTxnState),
        }
    }

    pub(super) fn end(&mut self, committed: bool, now_ms: i64) {
        self.state = State::Ended { committed };
        self.touched_ms = now_ms;
        self.partitions.clear();
    }

    /// A new epoch, with nothing open.
    pub(super) fn renew(&mut self, producer: ProducerId, timeout_ms: i32, now_ms: i64) {
        *self = Self::new(producer, timeout_ms, now_ms);
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a transaction is plain data")
    }
}

/// All transactional ids. The appender has the only one.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    ids: HashMap<String, Transaction>,
    /// Those whose transaction is open: each record that is written asks for them, and there are few among all that ever were.
    open: HashSet<String>,
    producers: HashMap<i64, String>,
}

impl Transactions {
    /// Those that are not idle; what others left behind is removed. Partitions learn what is open in them.
    pub(super) fn load(log: &Log, now_ms: i64) -> Result<Self, LogError> {
        let mut loaded = Self::default();
        for entry in log.store.transactions.iter() {
            let (id, transaction) = entry.into_inner()?;
            let transaction: Transaction =
                serde_json::from_slice(&transaction).map_err(|_| LogError::Damage("a transaction's state"))?;
            if transaction.is_idle(now_ms) {
                log.store.transactions.remove(id)?;
                continue;
            }
            loaded.put(String::from_utf8_lossy(&id).into_owned(), transaction);
        }
        let open: Vec<PartitionKey> =
            loaded.ids.values().flat_map(|transaction| transaction.written().map(|(partition, _)| partition)).collect();
        for (topic, index) in open {
            if let Some(partition) = log.numbered(topic, index) {
                partition.set_ends(partition.high(), loaded.open_from((topic, index)));
            }
        }
        Ok(loaded)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Transaction> {
        self.ids.get(id)
    }

    pub(super) fn put(&mut self, id: String, transaction: Transaction) {
        if let Some(before) = self.ids.get(&id) {
            self.producers.remove(&before.producer.0);
        }
        self.producers.insert(transaction.producer.0, id.clone());
        match transaction.is_open() {
            true => self.open.insert(id.clone()),
            false => self.open.remove(&id),
        };
        self.ids.insert(id, transaction);
    }

    /// The transaction of a producer that is neither unknown nor fenced.
    pub(super) fn of(&self, id: &str, producer: ProducerId) -> Result<&Transaction, ErrorCode> {
        let transaction = self.ids.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        match transaction.producer {
            (number, _) if number != producer.0 => Err(ErrorCode::InvalidProducerIdMapping),
            (_, epoch) if epoch != producer.1 => Err(ErrorCode::InvalidProducerEpoch),
            _ => Ok(transaction),
        }
    }

    /// The first offset in a partition that belongs to an open transaction.
    pub(super) fn open_from(&self, partition: PartitionKey) -> Option<i64> {
        let written = self.open.iter().filter_map(|id| self.ids.get(id)).flat_map(Transaction::written);
        written.filter(|(written, _)| *written == partition).map(|(_, first)| first).min()
    }

    /// Whether a batch may be written: of an id's present producer, inside a transaction if and only if that is open here.
    pub(super) fn check(&self, batch: &Batch, partition: PartitionKey) -> Result<(), ErrorCode> {
        let Some(id) = self.producers.get(&batch.producer_id) else {
            return if batch.is_transactional { Err(ErrorCode::InvalidProducerIdMapping) } else { Ok(()) };
        };
        let transaction = self.of(id, (batch.producer_id, batch.producer_epoch))?;
        let is_part = transaction.is_open() && transaction.partitions.iter().any(|(known, _)| *known == partition);
        if batch.is_transactional && is_part { Ok(()) } else { Err(ErrorCode::InvalidTxnState) }
    }

    /// Notes where a transaction's records begin in a partition; answers its id when that is news.
    pub(super) fn wrote(&mut self, batch: &Batch, partition: PartitionKey, base: i64) -> Option<&str> {
        if !batch.is_transactional {
            return None;
        }
        let id = self.producers.get(&batch.producer_id)?;
        let transaction = self.ids.get_mut(id)?;
        let (_, first) = transaction.partitions.iter_mut().find(|(known, _)| *known == partition)?;
        if first.is_some() {
            return None;
        }
        *first = Some(base);
        Some(id)
    }

    pub(super) fn overdue(&self, now_ms: i64) -> Vec<String> {
        let is_overdue = |id: &&String| self.ids.get(*id).is_some_and(|transaction| transaction.is_overdue(now_ms));
        self.open.iter().filter(is_overdue).cloned().collect()
    }

    /// Ids that are used no more.
    pub(super) fn idle(&self, now_ms: i64) -> Vec<String> {
        self.ids.iter().filter(|(_, transaction)| transaction.is_idle(now_ms)).map(|(id, _)| id.clone()).collect()
    }

    /// Forgets an id under which nothing is open.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some(transaction) = self.ids.remove(id) {
            self.producers.remove(&transaction.producer.0);
        }
    }

    /// Forgets what was open in a topic that was deleted.
    pub(super) fn forget_topic(&mut self, number: u32) {
        for transaction in self.ids.values_mut() {
            transaction.partitions.retain(|((topic, _), _)| *topic != number);
        }
    }
}

/// A number for an idempotent producer, or the next epoch of a transactional one.
pub(super) async fn init_producer_id(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let (id, timeout_ms) = (request.body.nullable_string()?, request.body.i32()?);
    let producer = match id {
        None => shared.ask(|answer| Command::NewProducer { answer }).await.map(|number| (number, 0)),
        Some(id) if id.is_empty() => Err(ErrorCode::InvalidRequest),
        Some(_) if !(1..=TIMEOUT_MS_MAX).contains(&timeout_ms) => Err(ErrorCode::InvalidTransactionTimeout),
        Some(id) => shared.ask(|answer| Command::InitTransactions { id, timeout_ms, answer }).await,
    };
    let mut writer = request.response();
    writer.i32(0);
    writer.i16(producer.err().unwrap_or(ErrorCode::None) as i16);
    let (number, epoch) = producer.unwrap_or((-1, -1));
    writer.i64(number);
    writer.i16(epoch);
    Ok(Some(writer.into_frame()))
}

pub(super) async fn add_partitions(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let body = &mut request.body;
    let (id, producer) = (body.string()?, (body.i64()?, body.i16()?));
    let topics = body.array(|body| Ok((body.string()?, body.array(Reader::i32)?)))?;
    let mut known = BTreeMap::new();
    for (name, partitions) in &topics {
        for index in partitions {
            if let Some(partition) = shared.log.partition(name, *index) {
                known.insert((name.clone(), *index), (partition.topic_number, partition.index));
            }
        }
    }
    let asked: usize = topics.iter().map(|(_, partitions)| partitions.len()).sum();
    // All of them or none.
    let outcome = if known.len() < asked {
        Err(ErrorCode::UnknownTopicOrPartition)
    } else {
        let partitions = known.into_values().collect();
        shared.ask(|answer| Command::AddPartitions { id, producer, partitions, answer }).await
    };
    let mut writer = request.response();
    writer.i32(0);
    writer.array(topics, |writer, (name, partitions)| {
        writer.string(&name);
        writer.array(partitions, |writer, index| {
            writer.i32(index);
            writer.i16(outcome.err().unwrap_or(ErrorCode::None) as i16);
        });
    });
    Ok(Some(writer.into_frame()))
}

pub(super) async fn end(shared: Arc<Shared>, mut request: Request) -> Result<Option<Bytes>, Malformed> {
    let body = &mut request.body;
    let (id, producer, committed) = (body.string()?, (body.i64()?, body.i16()?), body.bool()?);
    let outcome = shared.ask(|answer| Command::EndTransaction { id, producer, committed, answer }).await;
    let mut writer = request.response();
    writer.i32(0);
    writer.i16(outcome.err().unwrap_or(ErrorCode::None) as i16);
    Ok(Some(writer.into_frame()))
}

#[cfg(test)]
mod tests {
    use super::{super::batch::tests::transactional_batch, *};

    const HERE: PartitionKey = (1, 0);

    fn batch(producer: ProducerId) -> Batch {
        Batch::parse(transactional_batch(2, (producer.0, producer.1, 0), 5)).unwrap()
    }

    #[test]
    fn only_the_present_producer_writes_and_only_where_it_said() {
        let mut transactions = Transactions::default();
        assert_eq!(transactions.check(&batch((7, 0)), HERE), Err(ErrorCode::InvalidProducerIdMapping));
        let mut transaction = Transaction::new((7, 1), 1_000, 0);
        transactions.put("a".into(), transaction.clone());
        assert_eq!(transactions.check(&batch((7, 1)), HERE), Err(ErrorCode::InvalidTxnState));
        transaction.add(&[HERE], 0);
        transactions.put("a".into(), transaction);
        assert_eq!(transactions.check(&batch((7, 1)), HERE), Ok(()));
        assert_eq!(transactions.check(&batch((7, 0)), HERE), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(transactions.check(&batch((7, 1)), (1, 1)), Err(ErrorCode::InvalidTxnState));
        assert_eq!(transactions.open_from(HERE), None);
        assert_eq!(transactions.wrote(&batch((7, 1)), HERE, 40), Some("a"));
        assert_eq!(transactions.wrote(&batch((7, 1)), HERE, 42), None);
        assert_eq!(transactions.open_from(HERE), Some(40));
        assert_eq!(transactions.overdue(1_000), [""; 0]);
        assert_eq!(transactions.overdue(1_001), ["a"]);
        let mut transaction = transactions.get("a").cloned().unwrap();
        transaction.end(true, 0);
        transactions.put("a".into(), transaction);
        assert_eq!((transactions.open_from(HERE), transactions.open.len()), (None, 0), "what has ended is not looked through");
    }

    #[test]
    fn an_end_is_done_once_and_told_again() {
        let mut transaction = Transaction::new((7, 1), 1_000, 0);
        assert_eq!(transaction.ends(true), Err(ErrorCode::InvalidTxnState));
        transaction.add(&[HERE], 0);
        assert_eq!(transaction.ends(true), Ok(true));
        transaction.end(true, 0);
        assert_eq!((transaction.ends(true), transaction.ends(false)), (Ok(false), Err(ErrorCode::InvalidTxnState)));
        let back: Transaction = serde_json::from_slice(&transaction.encode()).unwrap();
        assert_eq!(back, transaction);
    }
}
