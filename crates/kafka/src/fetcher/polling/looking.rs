//! Questions between two looks at the queues: how far logs reach, whether partitions are back, whether brokers answer.
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer};

use super::{ANSWER, Polling};
use crate::{fetcher::source::Plan, renewal::is_unanswered};

/// Between two looks whether partitions are back that could not be read.
const LOOK: Duration = Duration::from_millis(500);

/// Between two questions for the end of a log, and two looks whether brokers are back.
const ASK: Duration = Duration::from_millis(250);

/// A partition that brought nothing for so long is quiet: looking for its end disturbs nobody.
const QUIET: Duration = Duration::from_millis(500);

/// A source that brought nothing for so long, not even the end of a partition: its client may have lost the brokers without an error.
const SILENCE: Duration = Duration::from_secs(5);

impl Polling {
    /// Asks how far logs reach whose last offsets may be holes.
    pub(super) fn ask(&mut self, plan: &Plan) {
        let is_quiet = |partition: &&i32| self.brought.get(partition).is_none_or(|brought| brought.elapsed() > QUIET);
        let quiet: Vec<i32> = plan.quiet_questions.iter().filter(is_quiet).copied().collect();
        let nothing = plan.questions.is_empty() && quiet.is_empty();
        if nothing || self.asked.is_some_and(|asked| asked.elapsed() < ASK) {
            return;
        }
        self.asked = Some(Instant::now());
        let mut list = TopicPartitionList::new();
        for partition in plan.questions.iter().chain(&quiet) {
            if list.add_partition_offset(self.source.topic(), *partition, Offset::End).is_err() {
                return;
            }
        }
        let Ok(ends) = self.consumer.offsets_for_times(list, ANSWER) else { return };
        for element in ends.elements() {
            let Offset::Offset(end) = element.offset() else { continue };
            if quiet.contains(&element.partition()) {
                self.source.quiet_log_reaches(element.partition(), end);
            } else {
                self.source.log_reaches(element.partition(), end);
            }
        }
        self.source.bell.ring();
    }

    /// Partitions that could not be read: are they back?
    pub(super) fn look_back(&mut self, plan: &Plan) {
        self.comebacks.keep(&plan.failed);
        if plan.failed.is_empty() || self.looked_back.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        let there = self.partitions_there();
        let now = Instant::now();
        self.looked_back = Some(now);
        let mut due = plan.failed.clone();
        due.retain(|failed| self.comebacks.is_due(*failed, there.contains(&failed.partition), now));
        if !due.is_empty() && self.is_ordered_topic() {
            for failed in due {
                self.source.begin_again(failed.partition);
            }
        }
    }

    /// None while nobody answers.
    fn partitions_there(&self) -> BTreeSet<i32> {
        let Ok(metadata) = self.consumer.fetch_metadata(Some(self.source.topic()), ANSWER) else { return BTreeSet::new() };
        let topics = metadata.topics().iter().filter(|topic| topic.name() == self.source.topic() && topic.error().is_none());
        topics.flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect()
    }

    /// After an error or a long silence: are the brokers away? While they are: are they back?
    pub(super) fn look(&mut self) {
        let away = self.source.away().is_some();
        let is_silent = self.heard.elapsed() >= SILENCE;
        let is_due = self.suspected.is_some() || away || is_silent;
        if !is_due || self.looked.is_some_and(|looked| looked.elapsed() < ASK) {
            return;
        }
        let reason = self.suspected.take();
        let asked = Instant::now();
        let answer = self.consumer.fetch_metadata(Some(self.source.topic()), ANSWER);
        let (now, is_lost) = (Instant::now(), answer.as_ref().is_err_and(is_unanswered));
        self.looked = Some(now);
        match answer {
            Ok(_) => {
                self.heard = now;
                self.source.set_away(None);
            }
            // A silent source is often one without news: only a second look without an answer says more.
            Err(error) if reason.is_none() && !away => self.suspected = Some(error.to_string()),
            Err(error) => self.source.set_away(Some(reason.unwrap_or_else(|| error.to_string()))),
        }
        if !is_lost {
            self.answers.came(now);
        } else if self.answers.failed(asked, now) && !self.source.is_ending() {
            tracing::warn!(topic = self.source.topic(), "nobody has answered for a while; another client reads on");
            self.turn_to_another_client();
        }
    }
}
