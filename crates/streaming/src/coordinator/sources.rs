//! The sources' positions and what there is to read: new partitions, what retention took, topics that were made again.
//!
//! Offsets count in a *log*: the topic as it was made once, until its end is seen below what the job has read (an unclean election took its
//! tail); a tail that was lost before the job read it, or that others have written again by then, is not noticed. Each log has a name that
//! no other log had, not even under an earlier leader. The order to read ahead carries it and what was read repeats it, so that no
//! executor's buffer is taken for one of another log.
use std::collections::BTreeMap;

use super::{action::Log, config::OnDataLoss};
use crate::{
    frame::OffsetRange,
    ids::{Nonce, SourceId, SourcePartition},
    manifest::Manifest,
    pace::Backlog,
};

#[derive(Debug)]
pub(super) struct Sources {
    sources: BTreeMap<SourceId, Source>,
    partitions: BTreeMap<SourcePartition, Partition>,
    /// Records lost since the last swap was made: those known to have been there and not read. What came to a log after the broker was
    /// last asked, and went with it, nobody knows.
    lost: u64,
}

#[derive(Debug)]
struct Source {
    topic: String,
    topic_id: Option<String>,
    log: String,
    away: Option<String>,
    /// Where the topic began when it was made again.
    made_again: Option<BTreeMap<i32, i64>>,
    /// The broker has told of the topic since the job began to read or went on.
    is_known: bool,
}

#[derive(Debug)]
struct Partition {
    /// Next offset to compute: recorded, or about to be by the swap in flight.
    next: i64,
    /// `next` as it was at `read_us` (monotonic clock): an answer that was asked for since then knows these records, and only such a one moves
    /// both on. Answers wait while the leader is busy; an older one says nothing of what was read meanwhile.
    read: i64,
    read_us: u64,
    beginning: i64,
    /// The broker's end; may be behind what is available.
    end: i64,
    available: i64,
    bytes_per_record: u32,
}

impl Partition {
    fn at(next: i64, now_us: u64) -> Self {
        Self { next, read: next, read_us: now_us, beginning: i64::MIN, end: next, available: next, bytes_per_record: 0 }
    }

    /// Records that are known to be there.
    fn unread(&self) -> u64 {
        (self.end.max(self.available) - self.next).max(0) as u64
    }
}

impl Source {
    fn begin_log(&mut self, nonce: &Nonce) {
        self.log = format!("{}#{nonce}", self.topic_id.as_deref().unwrap_or_default());
    }

    /// The log, where it is another than the first of this topic.
    fn later_log(&self) -> Option<&str> {
        Some(self.log.as_str()).filter(|log| !log.is_empty() && Some(*log) != self.topic_id.as_deref())
    }
}

/// Whether a partition has something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Busy,
    Quiet,
    /// Kafka is away, or has not been asked yet.
    Unknown,
}

/// What the broker says of a topic.
pub(super) struct Answer {
    pub topic_id: Option<String>,
    pub beginnings: BTreeMap<i32, i64>,
    pub ends: BTreeMap<i32, i64>,
    /// When it was asked for, by the monotonic clock: what it says is no older.
    pub asked_us: u64,
    /// When it is taken in.
    pub now_us: u64,
}

/// What the broker's answer changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The set of partitions or a position is another.
    pub moved: bool,
    /// Whatever is being computed read a topic that is no more.
    pub recreated: bool,
}

/// Records that were there to be read and are no more. The text names topic, partition, offsets and remedy.
pub(super) struct DataLoss(pub String);

impl Sources {
    pub fn new(manifest: &Manifest, now_us: u64) -> Self {
        let mut sources = BTreeMap::new();
        let mut partitions = BTreeMap::new();
        for (&source, position) in &manifest.sources {
            sources.insert(
                source,
                Source {
                    topic: position.topic.clone(),
                    topic_id: position.topic_id.clone(),
                    log: match position.log.as_str() {
                        "" => position.topic_id.clone().unwrap_or_default(),
                        log => log.to_owned(),
                    },
                    away: None,
                    made_again: None,
                    is_known: false,
                },
            );
            for (&partition, &next) in &position.next {
                partitions.insert(SourcePartition { source, partition }, Partition::at(next, now_us));
            }
        }
        Self { sources, partitions, lost: 0 }
    }

    /// The manifest turned out to be another: its positions, and what is known of the topics.
    pub fn rebase(&mut self, manifest: &Manifest, now_us: u64) {
        let before = std::mem::replace(self, Self::new(manifest, now_us));
        for (key, known) in before.partitions {
            let is_same_log = before.sources.get(&key.source).is_some_and(|source| source.log == self.log(key.source));
            if let Some(partition) = self.partitions.get_mut(&key).filter(|_| is_same_log) {
                let Partition { beginning, end, available, bytes_per_record, .. } = known;
                *partition = Partition { beginning, end, available, bytes_per_record, ..Partition::at(partition.next, now_us) };
            }
        }
        for (id, known) in before.sources {
            self.set_away(id, known.away);
        }
    }

    pub fn available(&mut self, source: SourcePartition, end: i64, bytes_per_record: u32) {
        let Some(partition) = self.partitions.get_mut(&source) else {
            return;
        };
        partition.available = partition.available.max(end);
        if bytes_per_record > 0 {
            partition.bytes_per_record = bytes_per_record;
        }
    }

    pub fn set_away(&mut self, source: SourceId, message: Option<String>) {
        if let Some(source) = self.sources.get_mut(&source) {
            source.away = message;
        }
    }

    /// The job stood still: what was known of its topics may not hold any more.
    pub fn forget_topics(&mut self) {
        self.sources.values_mut().for_each(|source| source.is_known = false);
    }

    /// Until then records that arrive may be those of another topic of the same name.
    pub fn are_known(&self) -> bool {
        self.sources.values().all(|source| source.is_known)
    }

    pub fn away(&self) -> Option<(SourceId, &str)> {
        self.sources.iter().find_map(|(id, source)| Some((*id, source.away.as_deref()?)))
    }

    /// Takes in what the broker says of a topic. A log that begins is named by a new nonce.
    pub fn listed(
        &mut self,
        id: SourceId,
        answer: Answer,
        on_data_loss: OnDataLoss,
        new_nonce: &mut dyn FnMut() -> Nonce,
    ) -> Result<Changes, DataLoss> {
        let Answer { topic_id, beginnings, ends, asked_us, now_us } = answer;
        let mut changes = Changes::default();
        let Some(source) = self.sources.get_mut(&id) else {
            return Ok(changes);
        };
        source.away = None;
        source.is_known = true;
        if let (Some(now), Some(then)) = (&topic_id, &source.topic_id)
            && now != then
        {
            if on_data_loss == OnDataLoss::Fail {
                return Err(DataLoss(self.recreated_message(id, now)));
            }
            self.start_anew(id, topic_id, &beginnings, &ends, now_us, &new_nonce());
            return Ok(Changes { moved: true, recreated: true });
        }
        // Who reads ahead has to know it too.
        changes.moved = source.topic_id.is_none() && topic_id.is_some();
        source.topic_id = topic_id.or(source.topic_id.take());
        let topic = source.topic.clone();
        let id_is_known = source.topic_id.is_some();

        for (&number, &end) in &ends {
            let key = SourcePartition { source: id, partition: number };
            let Some(&beginning) = beginnings.get(&number) else {
                continue;
            };
            let Some(partition) = self.partitions.get_mut(&key) else {
                self.partitions.insert(key, Partition { beginning, end, ..Partition::at(beginning, now_us) });
                changes.moved = true;
                continue;
            };
            let knows_what_was_read = asked_us >= partition.read_us;
            if knows_what_was_read && end < partition.read {
                if on_data_loss == OnDataLoss::Fail {
                    let next = partition.next;
                    return Err(DataLoss(format!(
                        "topic \"{topic}\" partition {number} ends at offset {end}, and the job has read through {next}: the topic was truncated or made again under the same \
                         name; restart the job from an offset that exists, or set on_data_loss = 'continue'"
                    )));
                }
                if !id_is_known {
                    self.start_anew(id, None, &beginnings, &ends, now_us, &new_nonce());
                    return Ok(Changes { moved: true, recreated: true });
                }
                // The same topic lost its tail: other records will take these offsets.
                self.lost += partition.unread();
                *partition = Partition { beginning, end, ..Partition::at(end, now_us) };
                if let Some(source) = self.sources.get_mut(&id) {
                    source.begin_log(&new_nonce());
                }
                changes = Changes { moved: true, recreated: true };
                continue;
            }
            partition.beginning = partition.beginning.max(beginning);
            partition.end = end;
            if knows_what_was_read {
                (partition.read, partition.read_us) = (partition.next, now_us);
            }
        }
        Ok(changes)
    }

    /// Call it before a frame is chosen, with nothing being computed: records below the beginning are gone.
    pub fn skip_lost(&mut self, on_data_loss: OnDataLoss) -> Result<bool, DataLoss> {
        let (mut moved, mut all_lost) = (false, vec![]);
        for (key, partition) in &mut self.partitions {
            if partition.next >= partition.beginning {
                continue;
            }
            if on_data_loss == OnDataLoss::Fail {
                let topic = &self.sources[&key.source].topic;
                let lost =
                    format!("topic \"{topic}\" partition {}: records [{}, {})", key.partition, partition.next, partition.beginning);
                all_lost.push(lost);
                continue;
            }
            self.lost += (partition.beginning - partition.next) as u64;
            partition.next = partition.beginning;
            partition.available = partition.available.max(partition.next);
            moved = true;
        }
        if !all_lost.is_empty() {
            return Err(DataLoss(format!(
                "{} were deleted by retention before the job read them; raise the topic's retention and restart the job, or set \
                 on_data_loss = 'continue'",
                all_lost.join(", ")
            )));
        }
        Ok(moved)
    }

    fn start_anew(
        &mut self,
        id: SourceId,
        topic_id: Option<String>,
        beginnings: &BTreeMap<i32, i64>,
        ends: &BTreeMap<i32, i64>,
        now_us: u64,
        nonce: &Nonce,
    ) {
        self.lost += self.of(id).map(|(_, partition)| partition.unread()).sum::<u64>();
        self.partitions.retain(|key, _| key.source != id);
        for (&partition, &beginning) in beginnings {
            let end = ends.get(&partition).copied().unwrap_or(beginning);
            self.partitions.insert(
                SourcePartition { source: id, partition },
                Partition { beginning, end, ..Partition::at(beginning, now_us) },
            );
        }
        if let Some(source) = self.sources.get_mut(&id) {
            source.topic_id = topic_id;
            source.begin_log(nonce);
            source.made_again = Some(beginnings.clone());
        }
    }

    fn recreated_message(&self, id: SourceId, now: &str) -> String {
        let source = &self.sources[&id];
        let read: Vec<String> =
            self.of(id).map(|(key, partition)| format!("{} through {}", key.partition, partition.next)).collect();
        format!(
            "topic \"{}\" was deleted and made again (its id is {now}; the job read id {}, partitions {}); restart the job from the beginning, or set on_data_loss = 'continue'",
            source.topic,
            source.topic_id.as_deref().unwrap_or("unknown"),
            read.join(", ")
        )
    }

    fn of(&self, id: SourceId) -> impl Iterator<Item = (&SourcePartition, &Partition)> {
        self.partitions.iter().filter(move |(key, _)| key.source == id)
    }

    pub fn backlog(&self) -> Vec<Backlog> {
        let offer = |(key, partition): (&SourcePartition, &Partition)| Backlog {
            source: *key,
            available: OffsetRange::new(partition.next, partition.available.max(partition.next)),
            bytes_per_record: partition.bytes_per_record,
        };
        self.partitions.iter().map(offer).filter(|offer| !offer.available.is_empty()).collect()
    }

    pub fn has_backlog(&self) -> bool {
        self.partitions.values().any(|partition| partition.available > partition.next)
    }

    /// The swap that is being made says so, and nothing else can be recorded instead.
    pub fn computed_through(&mut self, key: SourcePartition, end: i64) {
        if let Some(partition) = self.partitions.get_mut(&key) {
            partition.next = end;
        }
    }

    pub fn positions(&self) -> BTreeMap<SourcePartition, i64> {
        self.partitions.iter().map(|(key, partition)| (*key, partition.next)).collect()
    }

    pub fn position(&self, key: SourcePartition) -> Option<i64> {
        self.partitions.get(&key).map(|partition| partition.next)
    }

    /// What is known of each partition at this moment; records that are being computed count until they are recorded.
    pub fn activities(&self) -> impl Iterator<Item = (SourcePartition, Activity)> {
        self.partitions.iter().map(|(key, partition)| {
            let is_heard = self.sources.get(&key.source).is_some_and(|source| source.is_known && source.away.is_none());
            let activity = match partition.unread() > 0 {
                true => Activity::Busy,
                false if is_heard => Activity::Quiet,
                false => Activity::Unknown,
            };
            (*key, activity)
        })
    }

    /// Records that wait, as far as the broker told.
    pub fn lag(&self) -> u64 {
        self.partitions.values().map(Partition::unread).sum()
    }

    /// The same; `None` while a topic cannot be looked at, or was not yet: nobody knows what waits there.
    pub fn known_lag(&self) -> Option<u64> {
        let is_told = |id: SourceId| {
            let mut partitions = self.of(id).peekable();
            partitions.peek().is_some() && partitions.all(|(_, partition)| partition.beginning > i64::MIN)
        };
        let is_known = |(id, source): (&SourceId, &Source)| source.away.is_none() && (source.is_known || is_told(*id));
        self.sources.iter().all(is_known).then(|| self.lag())
    }

    /// The log that a source's offsets count in; a name that says nothing else.
    pub fn log(&self, id: SourceId) -> &str {
        self.sources.get(&id).map_or("", |source| &source.log)
    }

    pub fn logs(&self) -> BTreeMap<SourceId, Log> {
        let log = |source: &Source| Log { name: source.log.clone(), topic_id: source.topic_id.clone() };
        self.sources.iter().map(|(id, source)| (*id, log(source))).collect()
    }

    /// Those that count offsets which an earlier log of the topic had too.
    pub fn later_logs(&self) -> BTreeMap<SourceId, String> {
        self.sources.iter().filter_map(|(id, source)| Some((*id, source.later_log()?.to_owned()))).collect()
    }

    pub fn topic(&self, id: SourceId) -> &str {
        self.sources.get(&id).map_or("?", |source| &source.topic)
    }

    /// Writes positions and losses into the next manifest.
    pub fn apply(&mut self, manifest: &mut Manifest) {
        manifest.counts.lost += std::mem::take(&mut self.lost);
        for (id, source) in &self.sources {
            let Some(position) = manifest.sources.get_mut(id) else {
                continue;
            };
            position.topic_id.clone_from(&source.topic_id);
            position.log = source.later_log().unwrap_or_default().to_owned();
            if let Some(beginnings) = &source.made_again {
                position.was_made_again = true;
                position.first = position.first.take().map(|_| beginnings.clone());
            }
            position.next = self.of(*id).map(|(key, partition)| (key.partition, partition.next)).collect();
            let next = &position.next;
            position.max_timestamp_ms.retain(|partition, _| next.contains_key(partition));
        }
    }
}
