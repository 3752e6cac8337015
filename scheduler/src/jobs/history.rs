//! The last two minutes of a job, one point per second, and totals: what the console, `job show` and metrics tell. Beside them what it went through, of
//! which [`super::chronicler`] keeps the end for the next leader.
use std::{collections::VecDeque, time::Instant};

use polybolos_gateway::status::HISTORY_POINTS;
use polybolos_streaming::{
    coordinator::{EpochPublished, EpochRecorded},
    ids::{Epoch, Generation},
};

use super::chronicle::{Beginning, Chronicle, EpochRow, JobEvent};

/// Milliseconds of one epoch, by step.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepMillis {
    pub fetch: f64,
    pub decode: f64,
    pub compute: f64,
    pub write: f64,
    pub record: f64,
    pub publish: f64,
}

/// One second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Point {
    pub at_ms: u64,
    pub rows_per_s: f64,
    pub bytes_per_s: f64,
    pub lag_records: u64,
    pub steps: StepMillis,
}

/// An epoch that this leader recorded.
#[derive(Clone, Debug)]
struct EpochLine {
    recorded: EpochRecorded,
    published_us: Option<u64>,
}

impl EpochLine {
    fn row(&self, generation: Generation) -> EpochRow {
        let recorded = &self.recorded;
        EpochRow {
            epoch: recorded.epoch,
            generation,
            recorded_at_us: recorded.recorded_at_us,
            records_in: recorded.counts.records_in,
            rows_out: recorded.counts.rows_out,
            dead_letters: recorded.counts.dead_letters,
            attempts: recorded.attempts,
            times: recorded.times,
            run_us: recorded.compute_us,
            record_us: recorded.record_us,
            published_us: self.published_us,
        }
    }
}

/// How often there was something to tell the next leader: in all, and when there was last something that cannot wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub all: u64,
    pub urgent: u64,
}

fn millis(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[derive(Debug)]
pub struct History {
    generation: Generation,
    /// All events, and the epochs of earlier leaders.
    chronicle: Chronicle,
    changes: Changes,
    points: VecDeque<Point>,
    epochs: VecDeque<EpochLine>,
    rows: u64,
    bytes: u64,
    steps: StepMillis,
    epochs_in_second: u32,
    publishes_in_second: u32,
    second_began: Instant,
    pub last_steps: StepMillis,
    pub retries: u64,
}

/// Epochs kept for `polybolos.epochs`.
const EPOCHS: usize = 1_000;

impl History {
    pub fn of(generation: Generation) -> Self {
        Self {
            generation,
            chronicle: Chronicle::default(),
            changes: Changes::default(),
            points: VecDeque::new(),
            epochs: VecDeque::new(),
            rows: 0,
            bytes: 0,
            steps: StepMillis::default(),
            epochs_in_second: 0,
            publishes_in_second: 0,
            second_began: Instant::now(),
            last_steps: StepMillis::default(),
            retries: 0,
        }
    }

    pub fn recorded(&mut self, epoch: &EpochRecorded) {
        self.rows += epoch.counts.records_in;
        self.bytes += epoch.counts.bytes_in;
        let times = epoch.times;
        let steps = StepMillis {
            fetch: millis(times.fetch_us),
            decode: millis(times.decode_us),
            compute: millis(times.compute_us),
            write: millis(times.write_us),
            record: millis(epoch.record_us),
            publish: self.last_steps.publish,
        };
        self.last_steps = steps;
        self.steps.fetch += steps.fetch;
        self.steps.decode += steps.decode;
        self.steps.compute += steps.compute;
        self.steps.write += steps.write;
        self.steps.record += steps.record;
        self.epochs_in_second += 1;
        self.changes.all += 1;
        self.epochs.push_back(EpochLine { recorded: epoch.clone(), published_us: None });
        if self.epochs.len() > EPOCHS {
            self.epochs.pop_front();
        }
    }

    pub fn published(&mut self, published: &EpochPublished) {
        self.last_steps.publish = millis(published.write_us);
        self.steps.publish += self.last_steps.publish;
        self.publishes_in_second += 1;
        self.retries += published.retries;
        self.changes.all += 1;
        if let Some(line) = self.epochs.iter_mut().rev().find(|line| line.recorded.epoch == published.epoch) {
            line.published_us = line.published_us.max(Some(published.latency_us));
        }
    }

    /// Ends a second; call about once per second. A lag that nobody knows is shown as the one before.
    pub fn tick(&mut self, at_ms: u64, lag_records: Option<u64>) {
        let elapsed = self.second_began.elapsed().as_secs_f64();
        if elapsed < 0.5 {
            return;
        }
        let mean = |sum: f64, count: u32| if count == 0 { 0.0 } else { sum / f64::from(count) };
        let epochs = self.epochs_in_second;
        let point = Point {
            at_ms,
            rows_per_s: self.rows as f64 / elapsed,
            bytes_per_s: self.bytes as f64 / elapsed,
            lag_records: lag_records.unwrap_or_else(|| self.newest().lag_records),
            steps: StepMillis {
                fetch: mean(self.steps.fetch, epochs),
                decode: mean(self.steps.decode, epochs),
                compute: mean(self.steps.compute, epochs),
                write: mean(self.steps.write, epochs),
                record: mean(self.steps.record, epochs),
                publish: mean(self.steps.publish, self.publishes_in_second),
            },
        };
        self.points.push_back(point);
        if self.points.len() > HISTORY_POINTS {
            self.points.pop_front();
        }
        (self.rows, self.bytes, self.steps) = (0, 0, StepMillis::default());
        (self.epochs_in_second, self.publishes_in_second) = (0, 0);
        self.second_began = Instant::now();
    }

    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.points.iter()
    }

    pub fn newest(&self) -> Point {
        self.points.back().copied().unwrap_or_default()
    }

    /// Event time through which the epochs up to this one hold all rows, as far as this leader saw it recorded.
    pub fn complete_through_us(&self, epoch: Epoch) -> Option<i64> {
        self.epochs.iter().rev().find(|line| line.recorded.epoch == epoch)?.recorded.complete_through_us
    }

    /// Something happened to the job. Its troubles can wait until they are written; what somebody did cannot, or why it failed.
    pub fn note(&mut self, event: JobEvent) {
        self.changes.all += 1;
        if !event.kind.is_trouble() {
            self.changes.urgent = self.changes.all;
        }
        self.chronicle.add(event);
    }

    /// Takes in what leaders before this one wrote; with how this one found the job when that is read for the first time.
    pub fn remember(&mut self, earlier: Chronicle, found: Option<&Beginning>) {
        self.chronicle.merge(earlier);
        if let Some(found) = found {
            self.changes.all += 1;
            self.chronicle.begin(found);
        }
    }

    pub fn changes(&self) -> Changes {
        self.changes
    }

    /// What the next leader is to be told.
    pub fn chronicle(&self) -> Chronicle {
        self.chronicle.with_epochs(self.epochs())
    }

    /// In order.
    pub fn events(&self) -> &[JobEvent] {
        self.chronicle.events()
    }

    /// In order: the last ones of earlier leaders, then those of this one.
    pub fn epochs(&self) -> impl Iterator<Item = EpochRow> {
        let generation = self.generation;
        let first = self.epochs.front().map_or(Epoch(u64::MAX), |line| line.recorded.epoch);
        let earlier = self.chronicle.epochs().iter().copied().filter(move |row| row.epoch < first);
        earlier.chain(self.epochs.iter().map(move |line| line.row(generation)))
    }
}

#[cfg(test)]
mod tests {
    use polybolos_streaming::{
        ids::SinkId,
        manifest::Life,
        report::{Counts, StepTimes},
    };

    use super::*;
    use crate::jobs::chronicle::EventKind;

    fn recorded(epoch: u64) -> EpochRecorded {
        EpochRecorded {
            epoch: Epoch(epoch),
            attempts: 1,
            counts: Counts::default(),
            bytes_out: 0,
            times: StepTimes::default(),
            compute_us: 0,
            record_us: 0,
            through: std::collections::BTreeMap::new(),
            max_timestamp_ms: None,
            complete_through_us: None,
            recorded_at_us: epoch as i64,
        }
    }

    #[test]
    fn what_a_leader_tells_the_next_one_is_shown_before_what_that_one_sees() {
        let mut first = History::of(Generation(1));
        first.recorded(&recorded(1));
        first.recorded(&recorded(2));
        assert_eq!(first.changes(), Changes { all: 2, urgent: 0 }, "epochs can wait");
        first.note(JobEvent::new(Generation(1), 5, EventKind::Trouble, Epoch(2), "away"));
        assert_eq!(first.changes(), Changes { all: 3, urgent: 0 });
        first.note(JobEvent::new(Generation(1), 6, EventKind::Paused, Epoch(2), ""));
        assert_eq!(first.changes(), Changes { all: 4, urgent: 4 });

        let mut second = History::of(Generation(2));
        second.recorded(&recorded(3));
        let (earlier, life) = (Generation(1), Life::Paused);
        let found = Beginning { generation: Generation(2), earlier, at_us: 7, epoch: Epoch(2), life, recorded_at_us: 6 };
        second.remember(first.chronicle(), Some(&found));
        let kinds: Vec<EventKind> = second.events().iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Trouble, EventKind::Paused, EventKind::TakenOver]);
        let published = EpochPublished { sink: SinkId(0), epoch: Epoch(3), rows: 1, retries: 0, write_us: 1, latency_us: 9 };
        second.published(&published);
        let epochs = |history: &History| {
            let rows = history.epochs().map(|row| (row.epoch.0, row.generation.0, row.published_us));
            rows.collect::<Vec<_>>()
        };
        let told = [(1, 1, None), (2, 1, None), (3, 2, Some(9))];
        assert_eq!(epochs(&second), told);
        // It reads what it wrote itself.
        second.remember(second.chronicle(), None);
        assert_eq!(epochs(&second), told);
        assert_eq!(second.events().len(), 3);
    }
}
