//! The topics and their records on disk, and everything that reads them. Writing goes through the one thread of [`super::appender`],
//! so readers never wait for it: they see a partition up to its high watermark, which moves only over records that are on disk.
//!
//! Records are kept as the producer's batches. A batch's key is (topic number, partition, offset of its last record), big endian, so
//! the batch that holds an offset is the first at or above it. Topic numbers are never used twice.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable, UserKey};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::{BrokerError, batch};
use crate::trouble::told;

const MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
const JOURNAL_BYTES: u64 = 128 * 1024 * 1024;

/// Where committed records can be read.
pub(super) struct Log {
    pub(super) folder: PathBuf,
    pub(super) store: Store,
    pub(super) topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    /// Moves whenever a high watermark does, for fetches that wait.
    pub(super) progress: watch::Sender<()>,
}

/// The keyspaces of the store.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) database: Database,
    /// Topic name to [`TopicEntry`].
    pub(super) topics: Keyspace,
    /// Partition to its first offset, where it is not 0.
    pub(super) starts: Keyspace,
    pub(super) records: Keyspace,
    /// (partition, producer id) to what that producer wrote last.
    pub(super) producers: Keyspace,
    /// Transactional id to its [`super::transactions::Transaction`].
    pub(super) transactions: Keyspace,
    /// (partition, last offset, producer id) of aborted transactions to their first offset there.
    pub(super) aborted: Keyspace,
    /// Group, topic and partition to the committed offset.
    pub(super) offsets: Keyspace,
    /// Counters, and the numbers of deleted topics whose records are still there.
    pub(super) counters: Keyspace,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) id: Uuid,
    pub(super) number: u32,
    pub(super) config: BTreeMap<String, String>,
    pub(super) partitions: Vec<Arc<Partition>>,
}

/// What the catalog keeps of a topic.
#[derive(Serialize, Deserialize)]
pub(super) struct TopicEntry {
    id: String,
    number: u32,
    partitions: u32,
    config: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic_number: u32,
    pub(super) index: u32,
    /// The first offset that is kept.
    start: AtomicI64,
    /// One past the last offset that is on disk.
    high: AtomicI64,
    /// The last stable offset: no transaction is open below it.
    stable: AtomicI64,
    /// The topic was deleted.
    gone: AtomicBool,
}

impl Topic {
    pub(super) fn new(id: Uuid, number: u32, config: BTreeMap<String, String>, partitions: Vec<Arc<Partition>>) -> Self {
        Self { id, number, config, partitions }
    }

    pub(super) fn partition(&self, index: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    pub(super) fn entry(&self) -> Vec<u8> {
        let entry = TopicEntry {
            id: self.id.to_string(),
            number: self.number,
            partitions: self.partitions.len() as u32,
            config: self.config.clone(),
        };
        serde_json::to_vec(&entry).expect("a topic entry is plain data")
    }

    /// A number among the topic's settings, or its default.
    pub(super) fn setting(&self, name: &str, default: i64) -> i64 {
        self.config.get(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }
}

impl Partition {
    pub(super) fn new(topic_number: u32, index: u32, start: i64, high: i64) -> Self {
        Self { topic_number, index, start: start.into(), high: high.into(), stable: high.into(), gone: false.into() }
    }

    pub(super) fn start(&self) -> i64 {
        self.start.load(Ordering::Acquire)
    }

    pub(super) fn high(&self) -> i64 {
        self.high.load(Ordering::Acquire)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn set_start(&self, start: i64) {
        self.start.store(start, Ordering::Release);
    }

    pub(super) fn stable(&self) -> i64 {
        self.stable.load(Ordering::Acquire)
    }

    /// The high watermark, and the first offset of the oldest transaction that is open, if any.
    pub(super) fn set_ends(&self, high: i64, open_from: Option<i64>) {
        self.high.store(high, Ordering::Release);
        self.stable.store(open_from.unwrap_or(high), Ordering::Release);
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(super) fn key(&self) -> [u8; 8] {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&self.topic_number.to_be_bytes());
        key[4..].copy_from_slice(&self.index.to_be_bytes());
        key
    }

    /// The key of a batch whose last record is at `offset`.
    pub(super) fn record_key(&self, offset: i64) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.key());
        key[8..].copy_from_slice(&offset.to_be_bytes());
        key
    }
}

impl Store {
    fn open(folder: &Path) -> fjall::Result<Self> {
        let database =
            Database::builder(folder).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES).worker_threads(1).open()?;
        let keyspace = |name: &str| database.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES));
        Ok(Self {
            topics: keyspace("topics")?,
            starts: keyspace("starts")?,
            records: keyspace("records")?,
            producers: keyspace("producers")?,
            transactions: keyspace("transactions")?,
            aborted: keyspace("aborted")?,
            offsets: keyspace("offsets")?,
            counters: keyspace("counters")?,
            database,
        })
    }

    /// A partition as it is on disk.
    fn partition(&self, topic_number: u32, index: u32) -> Result<Partition, LogError> {
        let partition = Partition::new(topic_number, index, 0, 0);
        let start = match self.starts.get(partition.key())? {
            Some(bytes) => i64::from_be_bytes((*bytes).try_into().map_err(|_| LogError::Damage("a partition's start"))?),
            None => 0,
        };
        let last = self.records.range(partition.record_key(0)..=partition.record_key(i64::MAX)).next_back();
        let end = match last {
            Some(last) => offset_of(&last.key()?)? + 1,
            None => 0,
        };
        partition.set_start(start);
        partition.set_ends(start.max(end), None);
        Ok(partition)
    }
}

/// The last offset of a batch, from its key.
pub(super) fn offset_of(key: &[u8]) -> Result<i64, LogError> {
    let offset = key.get(8..).and_then(|bytes| bytes.try_into().ok()).ok_or(LogError::Damage("a record's key"))?;
    Ok(i64::from_be_bytes(offset))
}

/// What can go wrong below the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("{}", told(.0))]
    Store(#[from] fjall::Error),
    #[error("{0} cannot be read")]
    Damage(&'static str),
}

impl Log {
    pub(super) fn open(folder: &Path) -> Result<Self, BrokerError> {
        let store = Store::open(folder).map_err(|error| BrokerError::store(folder, error.into()))?;
        let topics = Self::load(&store).map_err(|error| BrokerError::store(folder, error))?;
        Ok(Self { folder: folder.to_path_buf(), store, topics: RwLock::new(topics), progress: watch::Sender::new(()) })
    }

    fn load(store: &Store) -> Result<BTreeMap<String, Arc<Topic>>, LogError> {
        let mut topics = BTreeMap::new();
        for topic in store.topics.iter() {
            let (name, entry) = topic.into_inner()?;
            let name = std::str::from_utf8(&name).map_err(|_| LogError::Damage("a topic's name"))?;
            let entry: TopicEntry = serde_json::from_slice(&entry).map_err(|_| LogError::Damage("a topic's entry"))?;
            let id = Uuid::parse_str(&entry.id).map_err(|_| LogError::Damage("a topic's id"))?;
            let partition = |index| store.partition(entry.number, index).map(Arc::new);
            let partitions = (0..entry.partitions).map(partition).collect::<Result<_, _>>()?;
            topics.insert(name.to_owned(), Arc::new(Topic::new(id, entry.number, entry.config, partitions)));
        }
        Ok(topics)
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().get(name).cloned()
    }

    pub(super) fn partition(&self, topic: &str, index: i32) -> Option<Arc<Partition>> {
        self.topics.read().get(topic)?.partition(index).cloned()
    }

    /// The partition that these numbers name.
    pub(super) fn numbered(&self, topic_number: u32, index: u32) -> Option<Arc<Partition>> {
        let topics = self.topics.read();
        let topic = topics.values().find(|topic| topic.number == topic_number)?;
        topic.partition(index as i32).cloned()
    }

    /// Whole batches from the one that holds `offset` to before `end`, up to `max_bytes`; with `one_at_least` the first however large
    /// it is.
    pub(super) fn read(
        &self,
        partition: &Partition,
        offset: i64,
        end: i64,
        max_bytes: usize,
        one_at_least: bool,
    ) -> Result<Vec<u8>, LogError> {
        let mut bytes = Vec::new();
        let snapshot = self.store.database.snapshot();
        for batch in snapshot.range(&self.store.records, partition.record_key(offset)..partition.record_key(end)) {
            let batch = batch.value()?;
            let first = bytes.is_empty() && one_at_least;
            if bytes.len() + batch.len() > max_bytes && !first {
                break;
            }
            bytes.extend_from_slice(&batch);
        }
        Ok(bytes)
    }

    /// Aborted transactions with records between two offsets, as producer id and first offset.
    pub(super) fn aborted(&self, partition: &Partition, from: i64, end: i64) -> Result<Vec<(i64, i64)>, LogError> {
        const DAMAGE: LogError = LogError::Damage("an aborted transaction");
        let mut found = Vec::new();
        for entry in self.store.aborted.range(partition.record_key(from).to_vec()..=aborted_key(partition, i64::MAX, i64::MAX)) {
            let (key, first) = entry.into_inner()?;
            let producer_id = key.get(16..).and_then(|bytes| bytes.try_into().ok()).ok_or(DAMAGE)?;
            let first = i64::from_be_bytes((*first).try_into().map_err(|_| DAMAGE)?);
            if first < end {
                found.push((i64::from_be_bytes(producer_id), first));
            }
        }
        Ok(found)
    }

    /// The first record at or after a time, or its batch where that is compressed: timestamp and offset. Reads the partition up to there.
    pub(super) fn offset_at(&self, partition: &Partition, timestamp_ms: i64) -> Result<Option<(i64, i64)>, LogError> {
        let snapshot = self.store.database.snapshot();
        let range = partition.record_key(partition.start())..partition.record_key(partition.high());
        for stored in snapshot.range(&self.store.records, range) {
            if let Some(found) = batch::record_at(&stored.value()?, timestamp_ms, partition.start()) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The offset a group committed, and its note.
    pub(super) fn committed(&self, group: &str, topic: &str, partition: i32) -> Result<Option<CommittedOffset>, LogError> {
        let Some(entry) = self.store.offsets.get(offset_key(group, topic, partition))? else { return Ok(None) };
        serde_json::from_slice(&entry).map(Some).map_err(|_| LogError::Damage("a committed offset"))
    }

    /// Every topic-partition that a group committed an offset of.
    pub(super) fn committed_partitions(&self, group: &str) -> Result<BTreeMap<String, Vec<i32>>, LogError> {
        let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for key in self.store.offsets.prefix([group.as_bytes(), b"\0"].concat()) {
            let key = key.key()?;
            let parts: Vec<_> = key.splitn(3, |byte| *byte == 0).collect();
            let [_, topic, partition] = parts[..] else { return Err(LogError::Damage("a committed offset's key")) };
            let topic = String::from_utf8_lossy(topic).into_owned();
            let partition = partition.try_into().map_err(|_| LogError::Damage("a committed offset's key"))?;
            topics.entry(topic).or_default().push(i32::from_be_bytes(partition));
        }
        Ok(topics)
    }

    /// The keys of all offsets that groups committed of a topic.
    pub(super) fn committed_of(&self, topic: &str) -> Result<Vec<UserKey>, LogError> {
        let mut found = Vec::new();
        for entry in self.store.offsets.iter() {
            let key = entry.key()?;
            if key.splitn(3, |byte| *byte == 0).nth(1) == Some(topic.as_bytes()) {
                found.push(key);
            }
        }
        Ok(found)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CommittedOffset {
    pub(super) offset: i64,
    pub(super) metadata: Option<String>,
}

/// The key of a transaction that a producer aborted with a marker at `last`.
pub(super) fn aborted_key(partition: &Partition, last: i64, producer_id: i64) -> Vec<u8> {
    [&partition.record_key(last)[..], &producer_id.to_be_bytes()].concat()
}

/// Group and topic names hold no 0 byte.
pub(super) fn offset_key(group: &str, topic: &str, partition: i32) -> Vec<u8> {
    [group.as_bytes(), b"\0", topic.as_bytes(), b"\0", &partition.to_be_bytes()].concat()
}
