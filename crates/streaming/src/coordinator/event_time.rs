//! Event time: what each partition has seen of it, which partitions are silent, and the job's watermark. The watermark is the smallest event time of all
//! partitions that are not idle, over all sources that have a watermark; it never falls. A partition that has seen no event time yet holds it back
//! until it is idle. When all are idle, nothing holds it back: it is the largest event time, as if the partition that leads had fallen silent last.
//!
//! A partition is idle once the broker, asked for the second time [its timeout](CoordinatorConfig::watermarked) after its first answer, still says that there is
//! nothing to read, by the monotonic clock; and is awake again as soon as the broker or an executor tells of a record. Time that passes while nobody is
//! asked counts for nothing: a machine that is short of breath must not make records late.
use std::collections::BTreeMap;

use super::{
    config::{CoordinatorConfig, Rule},
    sources::{Activity, Sources},
};
use crate::{
    frame::SeenTime,
    ids::{SourceId, SourcePartition},
    manifest::Manifest,
};

#[derive(Debug)]
pub(super) struct EventTimes {
    partitions: BTreeMap<SourcePartition, Partition>,
    watermark_us: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Partition {
    event_time_us: Option<i64>,
    is_idle: bool,
    /// When the broker first said that there is nothing to read, with no record heard of since.
    quiet_since_us: Option<u64>,
}

impl EventTimes {
    pub fn new(manifest: &Manifest) -> Self {
        let mut partitions: BTreeMap<SourcePartition, Partition> = BTreeMap::new();
        for (&source, position) in &manifest.sources {
            for (&partition, &time) in &position.event_time_us {
                partitions.entry(SourcePartition { source, partition }).or_default().event_time_us = Some(time);
            }
            for &partition in &position.idle {
                partitions.entry(SourcePartition { source, partition }).or_default().is_idle = true;
            }
        }
        Self { partitions, watermark_us: manifest.watermark_us }
    }

    pub fn watermark_us(&self) -> Option<i64> {
        self.watermark_us
    }

    /// An epoch fired timers through this time: rows that it closed must not come any more, whoever wakes up now.
    pub fn fired(&mut self, through_us: Option<i64>) {
        self.watermark_us = self.watermark_us.max(through_us);
    }

    /// The partitions that the watermark waits for; `None`: it waits for a topic that is not there.
    pub fn awake(&self, config: &CoordinatorConfig) -> Option<Vec<SeenTime>> {
        let relevant = self.relevant(config)?.filter(|(_, it)| !it.is_idle);
        Some(relevant.map(|(key, it)| SeenTime { source: *key, event_time_us: it.event_time_us }).collect())
    }

    /// Those of the sources that have a watermark; `None`: one of these has no partitions, as nobody has made its topic yet.
    fn relevant(&self, config: &CoordinatorConfig) -> Option<impl Iterator<Item = (&SourcePartition, &Partition)> + Clone> {
        let is_there = |source: &SourceId| self.partitions.keys().any(|key| key.source == *source);
        let watermarked = config.watermarked.clone();
        let relevant = move |(key, _): &(&SourcePartition, &Partition)| watermarked.contains_key(&key.source);
        config.watermarked.keys().all(is_there).then(|| self.partitions.iter().filter(relevant))
    }

    /// What a recorded epoch has seen.
    pub fn reported(&mut self, times: &BTreeMap<SourcePartition, i64>) {
        for (key, time) in times {
            let partition = self.partitions.entry(*key).or_default();
            partition.event_time_us = partition.event_time_us.max(Some(*time));
        }
    }

    /// The source's topic is another one.
    pub fn forget(&mut self, source: SourceId) {
        self.partitions.retain(|key, _| key.source != source);
    }

    /// The broker has answered what was asked at `asked_us`.
    pub fn answered(&mut self, source: SourceId, sources: &Sources, asked_us: u64, now_us: u64, config: &CoordinatorConfig) {
        let Some(&timeout_us) = config.watermarked.get(&source) else { return };
        let activities = sources.activities().filter(|(key, _)| key.source == source);
        for (key, _) in activities.filter(|(_, activity)| *activity == Activity::Quiet) {
            self.partitions.entry(key).or_default().is_quiet(asked_us, now_us, timeout_us);
        }
    }

    /// Takes note of who is awake, and moves the watermark on.
    pub fn look(&mut self, sources: &Sources, config: &CoordinatorConfig) {
        if config.watermarked.is_empty() {
            return;
        }
        self.partitions.retain(|key, _| sources.position(*key).is_some());
        for (key, activity) in sources.activities().filter(|(key, _)| config.watermarked.contains_key(&key.source)) {
            self.partitions.entry(key).or_default().look(activity);
        }
        let Some(relevant) = self.relevant(config) else { return };
        let now = watermark(relevant.map(|(_, partition)| *partition));
        self.watermark_us = if config.lacks(Rule::WatermarkAscends) { now } else { self.watermark_us.max(now) };
    }

    pub fn apply(&self, manifest: &mut Manifest) {
        for (id, position) in &mut manifest.sources {
            let of = self.partitions.iter().filter(|(key, _)| key.source == *id);
            position.event_time_us = of.clone().filter_map(|(key, it)| Some((key.partition, it.event_time_us?))).collect();
            position.idle = of.filter(|(_, it)| it.is_idle).map(|(key, _)| key.partition).collect();
        }
        manifest.watermark_us = self.watermark_us;
    }
}

impl Partition {
    fn look(&mut self, activity: Activity) {
        match activity {
            Activity::Busy => (self.is_idle, self.quiet_since_us) = (false, None),
            Activity::Unknown => self.quiet_since_us = None,
            Activity::Quiet => {}
        }
    }

    fn is_quiet(&mut self, asked_us: u64, now_us: u64, timeout_us: u64) {
        let since_us = *self.quiet_since_us.get_or_insert(now_us);
        self.is_idle |= asked_us >= since_us + timeout_us;
    }
}

fn watermark(partitions: impl Iterator<Item = Partition> + Clone) -> Option<i64> {
    let awake = partitions.clone().filter(|it| !it.is_idle).map(|it| it.event_time_us);
    // `None` is the smallest: nothing seen yet.
    awake.min().unwrap_or_else(|| partitions.map(|it| it.event_time_us).max().flatten())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partition(event_time_us: impl Into<Option<i64>>, is_idle: bool) -> Partition {
        Partition { event_time_us: event_time_us.into(), is_idle, quiet_since_us: None }
    }

    #[test]
    fn the_watermark_is_the_smallest_event_time_of_those_that_are_awake() {
        let of = |partitions: &[Partition]| watermark(partitions.iter().copied());
        assert_eq!(of(&[partition(5, false), partition(3, false)]), Some(3));
        assert_eq!(of(&[partition(5, false), partition(3, true)]), Some(5));
        assert_eq!(of(&[partition(5, false), partition(None, false)]), None, "it may still see anything");
        assert_eq!(of(&[partition(5, false), partition(None, true)]), Some(5));
        assert_eq!(of(&[partition(5, true), partition(3, true), partition(None, true)]), Some(5), "nobody holds it back");
        assert_eq!(of(&[partition(None, true)]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn only_time_that_is_known_to_be_quiet_counts() {
        let mut it = Partition::default();
        it.is_quiet(0, 1, 10);
        it.is_quiet(9, 10, 10);
        assert!(!it.is_idle);
        it.look(Activity::Unknown);
        it.is_quiet(12, 12, 10);
        assert!(!it.is_idle, "Kafka was away");
        it.is_quiet(21, 30, 10);
        assert!(!it.is_idle, "the answer may be as old as the question");
        it.look(Activity::Quiet);
        assert!(!it.is_idle, "nobody was asked");
        it.is_quiet(22, 31, 10);
        assert!(it.is_idle);
        it.look(Activity::Unknown);
        assert!(it.is_idle, "nothing says that it woke up");
        it.look(Activity::Busy);
        assert!(!it.is_idle);
    }

    proptest! {
        #[test]
        fn a_partition_that_falls_silent_never_takes_the_watermark_back(
            times in prop::collection::vec((proptest::option::of(-50i64..50), any::<bool>()), 1..8), silent: prop::sample::Index,
        ) {
            let mut partitions: Vec<Partition> = times.iter().map(|(time, idle)| partition(*time, *idle)).collect();
            let before = watermark(partitions.iter().copied());
            let awake = partitions.iter().filter(|it| !it.is_idle).count();
            let silent = silent.index(partitions.len());
            if awake > 0 {
                partitions[silent].is_idle = true;
                prop_assert!(watermark(partitions.iter().copied()) >= before);
            }
        }
    }
}
