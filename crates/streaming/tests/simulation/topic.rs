//! The log: a topic whose partitions grow, lose their beginning, and which is made again under the same name.
use std::collections::BTreeMap;

use polybolos_streaming::frame::OffsetRange;

#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub key: u32,
    pub value: u64,
    pub kind: Kind,
    pub time_us: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Good,
    /// The job's WHERE leaves it out.
    Filtered,
    /// Cannot be decoded.
    Bad,
    /// The sink will not have it.
    Refused,
}

/// One life of the topic. It keeps all records, for the oracle; those before `beginning` can no longer be read.
#[derive(Debug, Default)]
pub struct Topic {
    pub partitions: Vec<Partition>,
}

/// The life of the topic that a log or an id is of.
pub fn life_of(log: &str) -> Option<usize> {
    log.strip_prefix("topic-")?.split('#').next()?.parse().ok()
}

#[derive(Debug, Default)]
pub struct Partition {
    pub beginning: i64,
    pub records: Vec<Record>,
}

impl Partition {
    pub fn end(&self) -> i64 {
        self.records.len() as i64
    }
}

impl Topic {
    pub fn with_partitions(count: usize) -> Self {
        Self { partitions: (0..count).map(|_| Partition::default()).collect() }
    }

    pub fn beginnings(&self) -> BTreeMap<i32, i64> {
        self.partitions.iter().enumerate().map(|(i, partition)| (i as i32, partition.beginning)).collect()
    }

    pub fn ends(&self) -> BTreeMap<i32, i64> {
        self.partitions.iter().enumerate().map(|(i, partition)| (i as i32, partition.end())).collect()
    }

    pub fn can_read(&self, partition: i32, range: OffsetRange) -> bool {
        self.partitions.get(partition as usize).is_some_and(|it| it.beginning <= range.start && range.end <= it.end())
    }

    pub fn read(&self, partition: i32, range: OffsetRange) -> &[Record] {
        &self.partitions[partition as usize].records[range.start as usize..range.end as usize]
    }
}
