//! What is read ahead: which executor reads which partition from where, how far it has come, and what lag tools are told.
use std::{collections::BTreeMap, sync::Arc, time::Instant};

use polybolos_kafka::admin::Admin;
use polybolos_proto::executor::v1::{self as wire, attach_response::Message as Order};
use polybolos_streaming::{
    coordinator::{Event, Log, PartLayout},
    ids::{ExecutorId, SourceId, SourcePartition},
};

use super::Runner;
use crate::jobs::assignment::{assign, holders, members};

impl Runner {
    /// Gives partitions to executors and tells each what to read ahead.
    pub(super) fn reassign(&mut self) {
        let partitions = self.wanted.keys().copied();
        self.assigned = match self.spec.config.layout {
            PartLayout::PerPartition => assign(partitions, &self.executors, &self.assigned),
            layout @ PartLayout::Shared { .. } => {
                let count = layout.sharing(self.executors.len());
                if !self.has_computed {
                    self.members = holders(&self.context.executors.held(&self.incarnation), count, &self.members);
                }
                self.members = members(&self.members, &self.executors, count.into(), self.incarnation.as_str());
                let member = |partition| self.members.get(usize::from(PartLayout::reader(partition, count).0)).cloned();
                partitions.filter_map(|partition| Some((partition, member(partition)?))).collect()
            }
        };
        for executor in &self.executors {
            for (source, spec) in &self.spec.sources {
                let mine = self
                    .wanted
                    .iter()
                    .filter(|(partition, _)| partition.source == *source && self.assigned.get(partition) == Some(executor));
                let starts = mine.map(|(partition, start)| (partition.partition, *start)).collect();
                let connection = match serde_json::to_string(&spec.connection) {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::error!(%error, "a connection cannot be sent");
                        continue;
                    }
                };
                let Log { name: log, topic_id } = self.logs.get(source).cloned().unwrap_or_default();
                let (source, topic) = (Some(self.wire_source(*source)), spec.topic.clone());
                let prefetch = wire::Prefetch { source, connection, topic, starts, headers: spec.headers, log, topic_id };
                self.context.executors.order(executor, Order::Prefetch(prefetch));
            }
        }
    }

    pub(super) fn available(&mut self, executor: &ExecutorId, available: &wire::Available) -> Option<Event> {
        let partition = SourcePartition { source: SourceId(available.source.as_ref()?.source), partition: available.partition };
        // Another executor may still tell of what it once read ahead.
        if self.assigned.get(&partition) != Some(executor) {
            return None;
        }
        let start = self.wanted.get(&partition).copied().unwrap_or(available.end);
        let records = available.end.saturating_sub(start).max(1) as u64;
        self.buffered.insert(partition, (available.end, available.bytes));
        let bytes_per_record = (available.bytes / records).min(u64::from(u32::MAX)) as u32;
        Some(Event::Available { partition, log: available.log.clone(), end: available.end, bytes_per_record })
    }

    pub(super) fn release(&mut self, through: BTreeMap<SourcePartition, i64>) {
        for (partition, through) in through {
            self.wanted.insert(partition, through);
            let Some(executor) = self.assigned.get(&partition) else { continue };
            let release =
                wire::Release { source: Some(self.wire_source(partition.source)), partition: partition.partition, through };
            self.context.executors.order(executor, Order::Release(release));
        }
    }

    fn wire_source(&self, source: SourceId) -> wire::SourceKey {
        wire::SourceKey { incarnation: self.incarnation.0.clone(), source: source.0 }
    }

    pub(super) fn commit_offsets(&mut self, source: SourceId) {
        let Some(spec) = self.spec.sources.get(&source).cloned() else { return };
        let Some((since, offsets)) = self.committing.get_mut(&source) else { return };
        let offsets = std::mem::take(offsets);
        *since = Instant::now();
        let admin = match self.admins.get(&source) {
            Some(admin) => admin.clone(),
            None => match Admin::connect(&spec.connection) {
                Ok(admin) => self.admins.entry(source).or_insert(Arc::new(admin)).clone(),
                Err(error) => {
                    tracing::debug!(%error, "offsets not committed");
                    return;
                }
            },
        };
        self.tasks.spawn(async move {
            if let Err(error) = admin.commit_offsets(&spec.group, &spec.topic, &offsets).await {
                tracing::debug!(%error, group = %spec.group, "offsets not committed; only lag tools miss them");
            }
        });
    }
}
