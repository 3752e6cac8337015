//! Topics that a query follows: where each of their partitions is read from next, and as tables which read the ranges of the round at hand.
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use async_trait::async_trait;
use datafusion::{
    catalog::TableProvider,
    common::{DataFusionError, Result as DataFusionResult},
};
use parking_lot::Mutex;
use polybolos_kafka::{
    admin::{Admin, TopicDescription},
    error::KafkaError,
    fetcher::{Fetcher, SourceKey},
};
use polybolos_operators::{
    providers::{QueryRanges, Reading},
    task::TaskDescriptor,
};
use polybolos_sql::{
    catalog::{Connector, TableDefinition},
    names::RelationName,
    options::kafka::{KafkaOptions, StartupMode},
    schema::{Providers, Use},
};
use polybolos_streaming::{
    frame::OffsetRange,
    ids::{Incarnation, PartIndex},
};

use crate::providers::{PlatformTables, start_offsets};

/// The tables of one query.
#[derive(Debug)]
pub struct FollowedTables {
    platform: PlatformTables,
    topics: Mutex<BTreeMap<RelationName, Arc<FollowedTopic>>>,
}

impl FollowedTables {
    pub fn new(platform: PlatformTables) -> Self {
        Self { platform, topics: Mutex::default() }
    }

    /// Those of the tables that a plan reads; a query may name others.
    pub fn topics(&self, tables: &[RelationName]) -> Vec<Arc<FollowedTopic>> {
        let topics = self.topics.lock();
        tables.iter().filter_map(|table| topics.get(table).cloned()).collect()
    }

    /// However often a query names the table, its topic is followed once.
    fn topic(&self, table: &RelationName, options: &KafkaOptions) -> DataFusionResult<Arc<FollowedTopic>> {
        let mut topics = self.topics.lock();
        let topic = match topics.entry(table.clone()) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(unknown) => {
                let connection = self.platform.connection(options)?;
                let admin = Admin::connect(&connection).map_err(|error| DataFusionError::External(Box::new(error)))?;
                unknown.insert(Arc::new(FollowedTopic::new(admin, options))).clone()
            }
        };
        Ok(topic)
    }
}

#[async_trait]
impl Providers for FollowedTables {
    async fn provider(&self, table: &TableDefinition, usage: Use) -> DataFusionResult<Arc<dyn TableProvider>> {
        match &table.connector {
            Connector::Kafka(options) if usage == Use::Bounded => {
                let topic = self.topic(&table.name, options)?;
                self.platform.topic(table, options, topic.reader.0.clone(), Reading::Query(topic))
            }
            _ => self.platform.provider(table, usage).await,
        }
    }

    fn system(&self, table: &str) -> Option<Arc<dyn TableProvider>> {
        self.platform.system(table)
    }
}

/// One topic, from where its table's declaration says on.
#[derive(Debug)]
pub struct FollowedTopic {
    admin: Admin,
    topic: String,
    startup: StartupMode,
    /// Names the reader.
    reader: Incarnation,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Kafka's id of the topic, where it is known.
    topic_id: Option<String>,
    /// From which offset each partition is read next.
    positions: BTreeMap<i32, i64>,
    /// Where the partitions ended when that was asked last.
    ends: BTreeMap<i32, i64>,
    /// What the round at hand reads.
    round: Vec<(i32, OffsetRange)>,
}

impl FollowedTopic {
    fn new(admin: Admin, options: &KafkaOptions) -> Self {
        let reader = Incarnation(format!("query-{}", uuid::Uuid::new_v4().simple()));
        let (topic, startup) = (options.topic.clone(), options.startup.clone());
        Self { admin, topic, startup, reader, progress: Mutex::default() }
    }

    /// Finds where reading begins.
    pub async fn begin(&self) -> Result<(), KafkaError> {
        let TopicDescription { partitions, topic_id } = self.described().await?;
        let offsets = self.admin.offsets(&self.topic, &partitions).await?;
        let mut positions = start_offsets(&self.admin, &self.topic, &self.startup, &offsets.beginnings, &offsets.ends).await?;
        // Offsets may be given of partitions that are not there.
        positions.retain(|partition, _| partitions.contains(partition));
        *self.progress.lock() = Progress { topic_id, positions, ends: offsets.ends, round: vec![] };
        Ok(())
    }

    async fn described(&self) -> Result<TopicDescription, KafkaError> {
        let described = self.admin.describe(&self.topic).await?;
        described.ok_or_else(|| KafkaError::NoSuchTopic { topic: self.topic.clone() })
    }

    /// That it is the same topic still. Partitions that it has got since are read from their beginning.
    pub async fn describe(&self) -> Result<(), KafkaError> {
        let TopicDescription { mut partitions, topic_id } = self.described().await?;
        {
            let progress = self.progress.lock();
            let is_other = topic_id.is_some() && progress.topic_id.is_some() && topic_id != progress.topic_id;
            if is_other {
                return Err(self.is_another());
            }
            partitions.retain(|partition| !progress.positions.contains_key(partition));
        }
        if partitions.is_empty() {
            return Ok(());
        }
        let offsets = self.admin.offsets(&self.topic, &partitions).await?;
        self.progress.lock().positions.extend(offsets.beginnings);
        Ok(())
    }

    /// Looks where the topic ends, and chooses what the next round reads, so many records at most. Answers whether it is anything.
    pub async fn next_round(&self, records: usize) -> Result<bool, KafkaError> {
        let partitions: Vec<i32> = self.progress.lock().positions.keys().copied().collect();
        let ends = self.admin.ends(&self.topic, &partitions).await?;
        let mut progress = self.progress.lock();
        let has_fallen = |(partition, end): (&i32, &i64)| progress.ends.get(partition).is_some_and(|before| end < before);
        if ends.iter().any(has_fallen) {
            return Err(self.is_another());
        }
        progress.round = ranges(&progress.positions, &ends, records);
        progress.ends.extend(ends);
        Ok(!progress.round.is_empty())
    }

    /// The rows of the round were taken: the next one reads on.
    pub fn end_round(&self, fetcher: &Fetcher) {
        let mut progress = self.progress.lock();
        for (partition, range) in std::mem::take(&mut progress.round) {
            progress.positions.insert(partition, range.end);
            fetcher.release(&self.key(), partition, range.end);
        }
    }

    /// Nobody reads it any more.
    pub fn forget(&self, fetcher: &Fetcher) {
        fetcher.forget(&self.key());
    }

    fn key(&self) -> SourceKey {
        SourceKey { incarnation: self.reader.0.clone(), source: 0 }
    }

    fn is_another(&self) -> KafkaError {
        KafkaError::Refused {
            action: format!("following topic {:?}", self.topic),
            reason: "it was made again, or lost its end; ask again, for the topic as it is now".into(),
        }
    }
}

#[async_trait]
impl QueryRanges for FollowedTopic {
    async fn ranges(&self) -> DataFusionResult<Vec<TaskDescriptor>> {
        let progress = self.progress.lock();
        let tasks = progress.round.iter().enumerate();
        Ok(tasks
            .map(|(index, (partition, range))| TaskDescriptor::of_query(&self.reader, PartIndex(index as u16), *partition, *range))
            .collect())
    }
}

/// What there is from the positions on, so many records at most; each partition that has any gets its share.
fn ranges(positions: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, i64>, records: usize) -> Vec<(i32, OffsetRange)> {
    let there = positions.iter().filter_map(|(partition, position)| {
        let end = *ends.get(partition)?;
        (end > *position).then_some((*partition, *position, end))
    });
    let there: Vec<(i32, i64, i64)> = there.collect();
    let share = (records / there.len().max(1)).max(1) as i64;
    there.into_iter().map(|(partition, start, end)| (partition, OffsetRange::new(start, end.min(start + share)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_reads_what_came_and_no_more_than_its_share() {
        let positions = BTreeMap::from([(0, 10), (1, 5), (2, 7), (3, 9)]);
        // Of the last one nothing is known yet; the third is read from an offset that is still to come.
        let ends = BTreeMap::from([(0, 12), (1, 1_000), (2, 6)]);
        let range = |partition, start, end| (partition, OffsetRange::new(start, end));
        assert_eq!(ranges(&positions, &ends, 100), [range(0, 10, 12), range(1, 5, 55)]);
        assert_eq!(ranges(&positions, &ends, 1), [range(0, 10, 11), range(1, 5, 6)]);
        assert!(ranges(&positions, &BTreeMap::from([(0, 10), (1, 5)]), 100).is_empty());
    }
}
