//! The one thread that writes. It takes what has queued up, writes it as one atomic batch, waits until that is on disk (one fsync for
//! all of it), and only then moves the high watermarks and answers: what a producer was told is written, a power cut cannot take.
//!
//! It also keeps what makes producers idempotent (for each, the last batches it wrote to a partition) and the transactions, whose ends it
//! writes; [`idle`] forgets those that are used no more.
mod idle;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use fjall::{OwnedWriteBatch, PersistMode};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    batch::{self, Batch},
    codes::ErrorCode,
    log::{CommittedOffset, Log, LogError, Partition, Topic, aborted_key, offset_key, offset_of},
    producers::{Producer, ProducerKey, load_producers, stored_key},
    transactions::{PartitionKey, ProducerId, Transaction, Transactions},
};
use crate::trouble::told;

/// Most commands, and most bytes, that share an fsync.
const GROUP_COMMANDS: usize = 1024;
const GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Commands that wait for the thread; beyond it connections wait.
const QUEUE: usize = 1024;
/// Kafka's default.
pub(super) const MESSAGE_BYTES_MAX: i64 = 1_048_588;
pub(super) const RETENTION_MS: i64 = 7 * 24 * 3600 * 1000;
/// Keys that are removed at once.
const REMOVE_CHUNK: usize = 1000;

const NEXT_TOPIC: &str = "next-topic";
const NEXT_PRODUCER: &str = "next-producer";
const DROPPED: &str = "dropped-";

/// The milliseconds since 1970, by somebody's clock.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;
type Answer<T> = oneshot::Sender<Result<T, ErrorCode>>;
/// Who waits for a batch, and what becomes of it once it is on disk.
type Appended = (Arc<Partition>, Answer<i64>, Result<i64, ErrorCode>);

pub(super) enum Command {
    /// Answers the base offset.
    Append {
        partition: Arc<Partition>,
        batch: Batch,
        answer: Answer<i64>,
    },
    CreateTopic {
        name: String,
        partitions: u32,
        config: BTreeMap<String, String>,
        answer: Answer<()>,
    },
    DeleteTopic {
        name: String,
        answer: Answer<()>,
    },
    CreatePartitions {
        name: String,
        count: u32,
        answer: Answer<()>,
    },
    /// Forgets records before an offset (-1: all); answers the new start.
    DeleteRecords {
        partition: Arc<Partition>,
        before: i64,
        answer: Answer<i64>,
    },
    CommitOffsets {
        group: String,
        offsets: Vec<(String, i32, CommittedOffset)>,
        answer: Answer<()>,
    },
    NewProducer {
        answer: Answer<i64>,
    },
    /// A new epoch of a transactional id, which aborts what is open under the one before.
    InitTransactions {
        id: String,
        timeout_ms: i32,
        answer: Answer<ProducerId>,
    },
    AddPartitions {
        id: String,
        producer: ProducerId,
        partitions: Vec<PartitionKey>,
        answer: Answer<()>,
    },
    EndTransaction {
        id: String,
        producer: ProducerId,
        committed: bool,
        answer: Answer<()>,
    },
    /// Aborts transactions that are open for longer than their producers asked for.
    ExpireTransactions,
    /// Forgets records that are older than their topic's retention, and producers that are idle for long.
    Retain,
}

pub(super) struct Appender {
    log: Arc<Log>,
    clock: Clock,
    producers: HashMap<ProducerKey, Producer>,
    transactions: Transactions,
    /// Ends of partitions that are ahead of their high watermarks, while a group is being written.
    ends: HashMap<(u32, u32), i64>,
}

impl Appender {
    /// Starts the thread; it ends when the last sender is gone.
    pub(super) fn start(log: Arc<Log>) -> Result<(mpsc::Sender<Command>, std::thread::JoinHandle<()>), LogError> {
        let mut appender = Self::new(log, Arc::new(system_clock_ms))?;
        appender.finish_drops()?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let run = move || appender.run(receiver);
        let thread = std::thread::Builder::new().name("broker-appender".into()).spawn(run).map_err(fjall::Error::Io)?;
        Ok((sender, thread))
    }

    fn new(log: Arc<Log>, clock: Clock) -> Result<Self, LogError> {
        let now_ms = clock();
        let (producers, transactions) = (load_producers(&log, now_ms)?, Transactions::load(&log, now_ms)?);
        Ok(Self { log, clock, producers, transactions, ends: HashMap::new() })
    }

    fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    Command::Append { partition, batch, answer } => {
                        bytes += batch.len();
                        group.push((partition, batch, answer));
                    }
                    other => {
                        self.append_all(std::mem::take(&mut group));
                        self.apply(other);
                    }
                }
                next = if group.len() < GROUP_COMMANDS && bytes < GROUP_BYTES { commands.try_recv().ok() } else { None };
            }
            self.append_all(group);
        }
    }

    fn append_all(&mut self, group: Vec<(Arc<Partition>, Batch, Answer<i64>)>) {
        if group.is_empty() {
            return;
        }
        let mut write = self.transaction();
        let mut results = Vec::with_capacity(group.len());
        for (partition, batch, answer) in group {
            let result = self.append(&mut write, &partition, &batch);
            results.push((partition, answer, result));
        }
        let written = write.commit();
        self.answer(results, &written);
    }

    fn answer(&mut self, results: Vec<Appended>, written: &fjall::Result<()>) {
        let ends = std::mem::take(&mut self.ends);
        if let Err(error) = written {
            // A batch that comes again is not on disk, whatever was noted of its producer.
            self.producers.clear();
            let (error, folder) = (told(error), self.log.folder.display());
            tracing::error!(%error, %folder, "records could not be written; nothing more is accepted");
        }
        for (partition, answer, result) in results {
            let result = match written {
                Ok(()) => {
                    let key = (partition.topic_number, partition.index);
                    if let Some(end) = ends.get(&key) {
                        partition.set_ends(*end, self.transactions.open_from(key));
                    }
                    result
                }
                Err(_) => Err(ErrorCode::KafkaStorageError),
            };
            // Whoever asked may be gone.
            _ = answer.send(result);
        }
        self.log.progress.send_replace(());
    }

    fn append(&mut self, write: &mut OwnedWriteBatch, partition: &Partition, batch: &Batch) -> Result<i64, ErrorCode> {
        if partition.is_gone() {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        let here = (partition.topic_number, partition.index);
        self.transactions.check(batch, here)?;
        let producer = (partition.topic_number, partition.index, batch.producer_id);
        let idempotent = batch.producer_id >= 0 && batch.base_sequence >= 0;
        if idempotent && let Some(written) = self.producers.get(&producer).map(|state| state.check(batch)).transpose()?.flatten() {
            return Ok(written);
        }
        let end = self.ends.entry((partition.topic_number, partition.index)).or_insert_with(|| partition.high());
        let base = *end;
        let last = base + i64::from(batch.last_offset_delta);
        *end = last + 1;
        write.insert(&self.log.store.records, partition.record_key(last), batch.at(base));
        if let Some(id) = self.transactions.wrote(batch, here, base).map(str::to_owned)
            && let Some(transaction) = self.transactions.get(&id)
        {
            write.insert(&self.log.store.transactions, id, transaction.encode());
        }
        if idempotent {
            let now_ms = self.now_ms();
            let state = self.producers.entry(producer).or_insert_with(|| Producer::new(batch.producer_epoch));
            state.wrote(batch, base, now_ms);
            write.insert(&self.log.store.producers, stored_key(producer), state.encode());
        }
        Ok(base)
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Append { .. } => unreachable!("appends are grouped"),
            Command::CreateTopic { name, partitions, config, answer } => {
                _ = answer.send(self.create_topic(name, partitions, config));
            }
            Command::DeleteTopic { name, answer } => _ = answer.send(self.delete_topic(&name)),
            Command::CreatePartitions { name, count, answer } => _ = answer.send(self.create_partitions(&name, count)),
            Command::DeleteRecords { partition, before, answer } => {
                let before = if before < 0 { partition.high() } else { before };
                _ = answer.send(self.delete_records(&partition, before));
            }
            Command::CommitOffsets { group, offsets, answer } => _ = answer.send(self.commit_offsets(&group, &offsets)),
            Command::NewProducer { answer } => {
                let mut write = self.transaction();
                let id = self.count(&mut write, NEXT_PRODUCER);
                _ = answer.send(id.and_then(|id| self.commit(write).map(|()| id)));
            }
            Command::InitTransactions { id, timeout_ms, answer } => _ = answer.send(self.init_transactions(&id, timeout_ms)),
            Command::AddPartitions { id, producer, partitions, answer } => {
                _ = answer.send(self.add_partitions(&id, producer, &partitions));
            }
            Command::EndTransaction { id, producer, committed, answer } => {
                _ = answer.send(self.end_transaction(&id, producer, committed));
            }
            Command::ExpireTransactions => self.expire_transactions(),
            Command::Retain => {
                self.retain();
                self.forget_idle();
            }
        }
    }

    fn init_transactions(&mut self, id: &str, timeout_ms: i32) -> Result<ProducerId, ErrorCode> {
        let mut write = self.transaction();
        let before = self.transactions.get(id).cloned();
        let producer = match before.as_ref().map(|before| before.producer) {
            // The last epoch stays free, as in Kafka, so that a fenced producer's is never the present one.
            Some((number, epoch)) if epoch < i16::MAX - 1 => (number, epoch + 1),
            _ => (self.count(&mut write, NEXT_PRODUCER)?, 0),
        };
        let mut transaction = before.unwrap_or_else(|| Transaction::new(producer, timeout_ms, self.now_ms()));
        let markers = self.put_markers(&mut write, &transaction, false);
        transaction.renew(producer, timeout_ms, self.now_ms());
        self.conclude(write, id, transaction, markers)?;
        Ok(producer)
    }

    fn add_partitions(&mut self, id: &str, producer: ProducerId, partitions: &[PartitionKey]) -> Result<(), ErrorCode> {
        let mut transaction = self.transactions.of(id, producer)?.clone();
        transaction.add(partitions, self.now_ms());
        let write = self.transaction();
        self.conclude(write, id, transaction, Vec::new())
    }

    fn end_transaction(&mut self, id: &str, producer: ProducerId, committed: bool) -> Result<(), ErrorCode> {
        let mut transaction = self.transactions.of(id, producer)?.clone();
        if !transaction.ends(committed)? {
            return Ok(());
        }
        let mut write = self.transaction();
        let markers = self.put_markers(&mut write, &transaction, committed);
        transaction.end(committed, self.now_ms());
        self.conclude(write, id, transaction, markers)
    }

    /// A producer that left a transaction open is gone: it is aborted, and the producer fenced should it wake up.
    fn expire_transactions(&mut self) {
        for id in self.transactions.overdue(self.now_ms()) {
            let Some(mut transaction) = self.transactions.get(&id).cloned() else { continue };
            let mut write = self.transaction();
            let markers = self.put_markers(&mut write, &transaction, false);
            let (number, epoch) = transaction.producer;
            transaction.end(false, self.now_ms());
            transaction.producer = (number, epoch.saturating_add(1));
            tracing::warn!(transactional_id = %id, "a transaction was open for too long and is aborted");
            if let Err(code) = self.conclude(write, &id, transaction, markers) {
                tracing::error!(?code, transactional_id = %id, "the transaction could not be aborted");
            }
        }
    }

    /// Ends a transaction in each of its partitions; answers those, with their new ends.
    fn put_markers(&self, write: &mut OwnedWriteBatch, transaction: &Transaction, committed: bool) -> Vec<(Arc<Partition>, i64)> {
        let mut ends = Vec::new();
        for ((topic, index), first) in transaction.written() {
            // A deleted topic needs none.
            let Some(partition) = self.log.numbered(topic, index) else { continue };
            let at = partition.high();
            let marker = batch::marker(at, transaction.producer, committed, self.now_ms());
            write.insert(&self.log.store.records, partition.record_key(at), marker);
            if !committed {
                let key = aborted_key(&partition, at, transaction.producer.0);
                write.insert(&self.log.store.aborted, key, first.to_be_bytes());
            }
            ends.push((partition, at + 1));
        }
        ends
    }

    /// Makes a transaction's new state durable, then visible.
    fn conclude(
        &mut self,
        mut write: OwnedWriteBatch,
        id: &str,
        transaction: Transaction,
        markers: Vec<(Arc<Partition>, i64)>,
    ) -> Result<(), ErrorCode> {
        write.insert(&self.log.store.transactions, id, transaction.encode());
        self.commit(write)?;
        self.transactions.put(id.to_owned(), transaction);
        for (partition, end) in markers {
            partition.set_ends(end, self.transactions.open_from((partition.topic_number, partition.index)));
        }
        self.log.progress.send_replace(());
        Ok(())
    }

    fn create_topic(&mut self, name: String, partitions: u32, config: BTreeMap<String, String>) -> Result<(), ErrorCode> {
        if self.log.topic(&name).is_some() {
            return Err(ErrorCode::TopicAlreadyExists);
        }
        let mut write = self.transaction();
        let number = self.count(&mut write, NEXT_TOPIC)? as u32;
        let partitions = (0..partitions).map(|index| Arc::new(Partition::new(number, index, 0, 0))).collect();
        let topic = Topic::new(Uuid::new_v4(), number, config, partitions);
        write.insert(&self.log.store.topics, name.as_str(), topic.entry());
        self.commit(write)?;
        self.log.topics.write().insert(name, Arc::new(topic));
        Ok(())
    }

    fn create_partitions(&mut self, name: &str, count: u32) -> Result<(), ErrorCode> {
        let topic = self.log.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let present = topic.partitions.len() as u32;
        if count <= present {
            return Err(ErrorCode::InvalidPartitions);
        }
        let new = (present..count).map(|index| Arc::new(Partition::new(topic.number, index, 0, 0)));
        let partitions = topic.partitions.iter().cloned().chain(new).collect();
        let topic = Topic::new(topic.id, topic.number, topic.config.clone(), partitions);
        let mut write = self.transaction();
        write.insert(&self.log.store.topics, name, topic.entry());
        self.commit(write)?;
        self.log.topics.write().insert(name.to_owned(), Arc::new(topic));
        Ok(())
    }

    fn delete_topic(&mut self, name: &str) -> Result<(), ErrorCode> {
        let topic = self.log.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let committed = self.log.committed_of(name).map_err(|error| self.failed(&error))?;
        let mut write = self.transaction();
        write.remove(&self.log.store.topics, name);
        // Offsets of this topic mean nothing in another of its name.
        committed.into_iter().for_each(|key| write.remove(&self.log.store.offsets, key));
        write.insert(&self.log.store.counters, format!("{DROPPED}{}", topic.number), b"");
        self.commit(write)?;
        topic.partitions.iter().for_each(|partition| partition.set_gone());
        self.log.topics.write().remove(name);
        self.log.progress.send_replace(());
        self.producers.retain(|(number, _, _), _| *number != topic.number);
        self.transactions.forget_topic(topic.number);
        // The topic is gone whatever happens to its records; what is left is removed at the next start.
        self.finish_drops().map_err(|error| self.failed(&error))
    }

    /// Removes the records of deleted topics.
    fn finish_drops(&mut self) -> Result<(), LogError> {
        let store = self.log.store.clone();
        for dropped in store.counters.prefix(DROPPED) {
            let key = dropped.key()?;
            let number = std::str::from_utf8(&key[DROPPED.len()..]).ok().and_then(|number| number.parse::<u32>().ok());
            let prefix = number.ok_or(LogError::Damage("a deleted topic's number"))?.to_be_bytes();
            for keyspace in [&store.records, &store.producers, &store.starts, &store.aborted] {
                self.remove(keyspace, keyspace.prefix(prefix).map(|entry| entry.key()))?;
            }
            store.counters.remove(key)?;
        }
        Ok(())
    }

    fn delete_records(&mut self, partition: &Partition, before: i64) -> Result<i64, ErrorCode> {
        if partition.is_gone() {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        if before > partition.high() {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if before <= partition.start() {
            return Ok(partition.start());
        }
        let mut write = self.transaction();
        write.insert(&self.log.store.starts, partition.key(), before.to_be_bytes());
        self.commit(write)?;
        partition.set_start(before);
        let records = self.log.store.records.clone();
        let forgotten = records.range(partition.record_key(0)..partition.record_key(before)).map(|entry| entry.key());
        self.remove(&records, forgotten).map_err(|error| self.failed(&error))?;
        let aborted = self.log.store.aborted.clone();
        let forgotten = aborted.range(partition.record_key(0)..partition.record_key(before)).map(|entry| entry.key());
        self.remove(&aborted, forgotten).map_err(|error| self.failed(&error))?;
        Ok(before)
    }

    fn remove(
        &self,
        keyspace: &fjall::Keyspace,
        keys: impl Iterator<Item = fjall::Result<fjall::UserKey>>,
    ) -> Result<(), LogError> {
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            let mut write = self.log.store.database.batch();
            for key in keys.by_ref().take(REMOVE_CHUNK) {
                write.remove(keyspace, key?);
            }
            write.commit()?;
        }
        Ok(())
    }

    fn commit_offsets(&mut self, group: &str, offsets: &[(String, i32, CommittedOffset)]) -> Result<(), ErrorCode> {
        let mut write = self.transaction();
        for (topic, partition, offset) in offsets {
            let entry = serde_json::to_vec(offset).expect("a committed offset is plain data");
            write.insert(&self.log.store.offsets, offset_key(group, topic, *partition), entry);
        }
        self.commit(write)
    }

    fn retain(&mut self) {
        let topics: Vec<_> = self.log.topics.read().values().cloned().collect();
        for topic in topics {
            // Of a compacted topic the last record of each key has to stay; we keep all.
            if topic.config.get("cleanup.policy").is_some_and(|policy| policy == "compact") {
                continue;
            }
            let (retention_ms, retention_bytes) =
                (topic.setting("retention.ms", RETENTION_MS), topic.setting("retention.bytes", -1));
            for partition in &topic.partitions {
                let by_age = if retention_ms < 0 { Ok(0) } else { self.first_kept(partition, self.now_ms() - retention_ms) };
                let by_size = if retention_bytes < 0 { Ok(0) } else { self.first_within(partition, retention_bytes) };
                let kept = by_age.and_then(|kept| Ok(kept.max(by_size?)));
                let forgotten = kept.map_err(|error| self.failed(&error)).and_then(|kept| self.delete_records(partition, kept));
                if let Err(code) = forgotten {
                    tracing::error!(?code, "old records could not be removed");
                }
            }
        }
    }

    /// The first offset of the batches at the partition's end that together have no more than so many bytes; the last batch stays.
    fn first_within(&self, partition: &Partition, bytes_max: i64) -> Result<i64, LogError> {
        let (mut kept, mut bytes) = (partition.high(), 0);
        let range = partition.record_key(partition.start())..partition.record_key(partition.high());
        for entry in self.log.store.records.range(range).rev() {
            let stored = entry.value()?;
            bytes += stored.len() as i64;
            if bytes > bytes_max && kept < partition.high() {
                break;
            }
            kept = batch::base_offset(&stored);
        }
        Ok(kept)
    }

    /// The first offset behind the batches at the partition's head that are older than `oldest_ms`.
    fn first_kept(&self, partition: &Partition, oldest_ms: i64) -> Result<i64, LogError> {
        let mut kept = partition.start();
        for entry in self.log.store.records.range(partition.record_key(kept)..partition.record_key(partition.high())) {
            let (key, stored) = entry.into_inner()?;
            if batch::max_timestamp_ms(&stored) >= oldest_ms {
                break;
            }
            kept = offset_of(&key)? + 1;
        }
        Ok(kept)
    }

    /// The next value of a counter, which is written with `write`.
    fn count(&self, write: &mut OwnedWriteBatch, counter: &str) -> Result<i64, ErrorCode> {
        let stored = self.log.store.counters.get(counter).map_err(|error| self.failed(&error.into()))?;
        let next = stored.and_then(|bytes| (*bytes).try_into().ok()).map_or(0, i64::from_be_bytes);
        write.insert(&self.log.store.counters, counter, (next + 1).to_be_bytes());
        Ok(next)
    }

    fn transaction(&self) -> OwnedWriteBatch {
        self.log.store.database.batch().durability(Some(PersistMode::SyncAll))
    }

    fn commit(&self, write: OwnedWriteBatch) -> Result<(), ErrorCode> {
        write.commit().map_err(|error| self.failed(&error.into()))
    }

    fn failed(&self, error: &LogError) -> ErrorCode {
        tracing::error!(%error, folder = %self.log.folder.display(), "the broker's store failed");
        ErrorCode::KafkaStorageError
    }
}

fn system_clock_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::{super::batch::tests::batch, *};

    fn appender(folder: &std::path::Path) -> Appender {
        let log = Arc::new(Log::open(folder).unwrap());
        let mut appender = Appender::new(log, Arc::new(system_clock_ms)).unwrap();
        appender.create_topic("t".into(), 1, BTreeMap::new()).unwrap();
        appender
    }

    #[test]
    fn a_batch_that_could_not_be_written_is_not_there_when_it_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut appender = appender(folder.path());
        let partition = appender.log.partition("t", 0).unwrap();
        let batch = Batch::parse(batch(3, (9, 0, 0), 5)).unwrap();
        let (answer, mut told) = oneshot::channel();
        let mut lost = appender.transaction();
        let result = appender.append(&mut lost, &partition, &batch);
        assert_eq!(result, Ok(0));
        appender.answer(vec![(partition.clone(), answer, result)], &Err(fjall::Error::Poisoned));
        assert_eq!((told.try_recv().unwrap(), partition.high()), (Err(ErrorCode::KafkaStorageError), 0));

        let (answer, mut told) = oneshot::channel();
        appender.append_all(vec![(partition.clone(), batch, answer)]);
        assert_eq!((told.try_recv().unwrap(), partition.high()), (Ok(0), 3), "what is acknowledged is written");
        assert!(!appender.log.read(&partition, 0, 3, 1 << 20, true).unwrap().is_empty());
    }

    #[test]
    fn a_topic_takes_the_offsets_that_groups_committed_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut appender = appender(folder.path());
        appender.create_topic("tt".into(), 1, BTreeMap::new()).unwrap();
        let committed = |topic: &str| (topic.to_owned(), 0, CommittedOffset { offset: 7, metadata: None });
        appender.commit_offsets("t", &[committed("t"), committed("tt")]).unwrap();
        appender.delete_topic("t").unwrap();
        let offset = |topic: &str| appender.log.committed("t", topic, 0).unwrap().map(|committed| committed.offset);
        assert_eq!((offset("t"), offset("tt")), (None, Some(7)));
    }
}
