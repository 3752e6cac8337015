//! What a query leaves out. It has no dead letters, so whoever asks is told how many records could not be read.
use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::{dead_letters::DeadLetter, record_scan::ScanSpec};

/// Of one query; an extension of the configuration that it runs with.
#[derive(Debug, Default)]
pub struct LeftOut(Mutex<BTreeMap<String, OfTopic>>);

/// By scan: several scans of a topic find the same records.
type OfTopic = BTreeMap<usize, OfScan>;

/// The key of what was taken in, which is no scan's.
const ALL_SCANS: usize = 0;

#[derive(Debug)]
struct OfScan {
    records: u64,
    /// Partition and offset.
    first: (i32, i64),
    error: String,
}

impl LeftOut {
    pub(crate) fn add(&self, scan: &Arc<ScanSpec>, letters: &[DeadLetter]) {
        let mut topics = self.0.lock();
        for letter in letters {
            let (Some(partition), Some(offset)) = (letter.partition, letter.offset) else { continue };
            let first = (partition, offset);
            let of_topic = topics.entry(scan.topic.clone()).or_default();
            let unknown = || OfScan { records: 0, first, error: letter.error.clone() };
            let known = of_topic.entry(Arc::as_ptr(scan) as usize).or_insert_with(unknown);
            known.records += 1;
            if first < known.first {
                known.first = first;
                known.error.clone_from(&letter.error);
            }
        }
    }

    /// Counts what another one has found, of other records.
    pub fn take_in(&self, other: &Self) {
        let mut topics = self.0.lock();
        for (topic, scans) in other.0.lock().iter() {
            let Some(most) = scans.values().max_by_key(|scan| scan.records) else { continue };
            let scans = topics.entry(topic.clone()).or_default();
            let unknown = || OfScan { records: 0, first: most.first, error: most.error.clone() };
            scans.entry(ALL_SCANS).or_insert_with(unknown).records += most.records;
        }
    }

    /// One line for each topic, of what was read until now.
    pub fn notices(&self) -> Vec<String> {
        let topics = self.0.lock();
        let most = topics.iter().filter_map(|(topic, scans)| Some((topic, scans.values().max_by_key(|scan| scan.records)?)));
        most.map(|(topic, OfScan { records, first: (partition, offset), error })| {
            let (noun, are) = if *records == 1 { ("record", "is") } else { ("records", "are") };
            format!(
                "{records} {noun} of topic {topic} could not be read and {are} left out; the first: partition {partition} offset {offset}: {error}"
            )
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use polybolos_kafka::connection::Connection;

    use super::*;
    use crate::record_scan::OnError;

    #[test]
    fn records_are_counted_once_and_the_first_is_told() {
        let scan = |topic: &str| {
            Arc::new(ScanSpec {
                job: String::new(),
                incarnation: "i".into(),
                source: 0,
                connection: Connection::new("kafka"),
                topic: topic.into(),
                fields: vec![],
                options: Default::default(),
                on_error: OnError::DeadLetter,
                checks: vec![],
            })
        };
        let letter = |partition, offset, error: &str| DeadLetter {
            id: String::new(),
            job: String::new(),
            step: "decode",
            error: error.into(),
            topic: None,
            partition: Some(partition),
            offset: Some(offset),
            timestamp_ms: None,
            key: None,
            raw: None,
            raw_bytes: 0,
        };
        let left_out = LeftOut::default();
        assert!(left_out.notices().is_empty());
        let (a, again, b) = (scan("a"), scan("a"), scan("b"));
        left_out.add(&a, &[letter(1, 3, "later")]);
        left_out.add(&a, &[letter(0, 5, "first"), letter(0, 6, "second")]);
        left_out.add(&again, &[letter(0, 5, "first"), letter(0, 6, "second")]);
        left_out.add(&b, &[letter(2, 7, "alone")]);
        assert_eq!(
            left_out.notices(),
            [
                "3 records of topic a could not be read and are left out; the first: partition 0 offset 5: first",
                "1 record of topic b could not be read and is left out; the first: partition 2 offset 7: alone"
            ]
        );
        let (all, next) = (LeftOut::default(), LeftOut::default());
        all.take_in(&left_out);
        next.add(&scan("b"), &[letter(2, 9, "more"), letter(2, 10, "more")]);
        all.take_in(&next);
        let notices = all.notices();
        assert!(notices[0].starts_with("3 records of topic a"), "{notices:?}");
        assert!(
            notices[1].starts_with("3 records of topic b could not be read") && notices[1].ends_with("offset 7: alone"),
            "{notices:?}"
        );
    }
}
