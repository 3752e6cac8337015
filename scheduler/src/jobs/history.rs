//! The last two minutes of a job, one point per second, and totals: what the console, `job show` and metrics tell.
use std::{collections::VecDeque, time::Instant};

use polybolos_gateway::status::HISTORY_POINTS;
use polybolos_streaming::{
    coordinator::{EpochPublished, EpochRecorded},
    ids::Epoch,
};

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

/// A line of `polybolos.epochs`.
#[derive(Clone, Debug)]
pub struct EpochLine {
    pub recorded: EpochRecorded,
    pub published_us: Option<u64>,
}

#[derive(Debug)]
pub struct History {
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

impl Default for History {
    fn default() -> Self {
        Self {
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
}

fn millis(us: u64) -> f64 {
    us as f64 / 1_000.0
}

impl History {
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

    pub fn epochs(&self) -> impl Iterator<Item = &EpochLine> {
        self.epochs.iter()
    }
}
