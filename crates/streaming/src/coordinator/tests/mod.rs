//! Schedules that the simulation (`tests/simulation`) found to go wrong, each as short as it gets.
mod attempts;
mod life;
mod logs;
mod sinks;
mod state;

use std::collections::BTreeMap;

use super::*;
use crate::{
    frame::Frame,
    ids::{Incarnation, JobName, PartIndex, SourceId, SourcePartition},
    manifest::SourcePosition,
    report::{PartReport, StepTimes},
};

const SOURCE: SourceId = SourceId(0);
const SINK: SinkId = SinkId(0);

/// A new job that reads two partitions.
pub(in crate::coordinator) fn manifest() -> Manifest {
    let next = BTreeMap::from([(0, 0), (1, 0)]);
    let topic_id = Some("first".to_owned());
    let position = SourcePosition { topic: "readings".into(), topic_id, next, ..SourcePosition::default() };
    Manifest {
        sources: BTreeMap::from([(SOURCE, position)]),
        published: BTreeMap::from([(SINK, Epoch(0)), (DEAD_LETTERS, Epoch(0))]),
        ..Manifest::new(JobName::new("job"), Incarnation::new("incarnation"), Generation(0), Nonce::new("created"))
    }
}

/// A leading coordinator and all that it has done since it was last asked.
struct Bench {
    coordinator: JobCoordinator,
    now: Now,
    swaps: u64,
    done: Vec<Action>,
}

impl Bench {
    fn leading() -> Self {
        Self::leading_as(manifest(), CoordinatorConfig { on_data_loss: OnDataLoss::Continue, ..CoordinatorConfig::default() })
    }

    /// Leads the job, with its topic known.
    fn leading_as(manifest: Manifest, config: CoordinatorConfig) -> Self {
        let ends = manifest.sources[&SOURCE].next.clone();
        let mut bench = Self::taking_over(manifest, config);
        bench.store();
        bench.list(&ends);
        bench
    }

    /// The first swap is under way.
    fn taking_over(manifest: Manifest, config: CoordinatorConfig) -> Self {
        let generation = manifest.generation.next();
        let mut count = 0;
        let nonces = move || {
            count += 1;
            Nonce(format!("nonce-{generation}-{count}"))
        };
        let now = Now { monotonic_us: 1, wall_us: 1 };
        let (coordinator, done) = JobCoordinator::recover(manifest, Version::new("0"), generation, config, nonces, now);
        Self { coordinator, now, swaps: 0, done }
    }

    /// What the broker tells.
    fn list(&mut self, ends: &BTreeMap<i32, i64>) {
        self.list_asked(self.now.monotonic_us, ends);
    }

    /// What the broker told, asked then.
    fn list_asked(&mut self, asked_us: u64, ends: &BTreeMap<i32, i64>) {
        let beginnings = ends.keys().map(|partition| (*partition, 0)).collect();
        self.send(Event::Partitions { source: SOURCE, asked_us, topic_id: Some("first".into()), beginnings, ends: ends.clone() });
    }

    fn send(&mut self, event: Event) {
        self.done.extend(self.coordinator.on_event(self.now, event));
    }

    /// The store takes the last swap.
    fn store(&mut self) {
        let swap = |action: &Action| if let Action::Swap { manifest, .. } = action { Some(manifest.nonce.clone()) } else { None };
        let nonce = self.done.iter().rev().find_map(swap).expect("a swap");
        self.swaps += 1;
        self.done.clear();
        self.send(Event::SwapReplied { nonce, reply: SwapReply::Stored { version: Version(self.swaps.to_string()) } });
    }

    /// The store takes all swaps, until there is nothing more to say.
    fn store_all(&mut self) {
        while self.done.iter().any(|action| matches!(action, Action::Swap { .. })) {
            self.store();
        }
    }

    /// Three records of each partition are computed, each part with three rows; the record is under way.
    fn compute(&mut self) {
        let (attempt, frame) = self.begin();
        self.finish(attempt, &frame);
    }

    /// All parts of an attempt are computed; the record is under way.
    fn finish(&mut self, attempt: Attempt, frame: &Frame) {
        for part in 0..frame.parts.len() {
            self.send(reported(attempt, frame, part, &format!("{attempt}-{part}")));
        }
    }

    /// Records of each partition are there to be read, up to `end`.
    fn arrive(&mut self, end: i64) {
        for partition in 0..2 {
            let partition = SourcePartition { source: SOURCE, partition };
            self.send(Event::Available { partition, log: "first".into(), end, bytes_per_record: 1 });
        }
    }

    /// Three records of each partition are there to be read, and an executor.
    fn begin(&mut self) -> (Attempt, Frame) {
        self.arrive(3);
        self.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
        self.submitted().expect("an attempt")
    }

    fn submitted(&mut self) -> Option<(Attempt, Frame)> {
        let at = self.done.iter().position(|action| matches!(action, Action::Submit { .. }))?;
        let Action::Submit { attempt, frame, .. } = self.done.remove(at) else { return None };
        Some((attempt, frame))
    }

    /// What is to be read ahead.
    fn log(&self) -> Log {
        let log = |action: &Action| if let Action::Prefetch { logs, .. } = action { Some(logs[&SOURCE].clone()) } else { None };
        self.done.iter().rev().find_map(log).expect("an order to read ahead")
    }

    fn orders(&self) -> Vec<PublishOrder> {
        let order = |action: &Action| if let Action::Publish(order) = action { Some(order.clone()) } else { None };
        self.done.iter().filter_map(order).collect()
    }

    fn published(&mut self, order: &PublishOrder, refused: Option<PartFile>) {
        self.send(Event::PublishReported(PublishReport {
            incarnation: Incarnation::new("incarnation"),
            generation: Generation(1),
            epoch: order.epoch,
            sink: order.sink,
            part: order.part.part,
            rows: 3,
            retries: 0,
            write_us: 1,
            refused,
        }));
    }
}

/// An execution of a part has written a file of its name.
fn reported(attempt: Attempt, frame: &Frame, part: usize, execution: &str) -> Event {
    let work = frame.parts[part].clone();
    Event::PartReported(PartReport {
        incarnation: Incarnation::new("incarnation"),
        generation: Generation(1),
        epoch: frame.epoch,
        attempt,
        execution: Nonce::new(execution),
        executor: ExecutorId::new("executor"),
        file: file(work.part, execution, SINK),
        work,
        counts: Counts::default(),
        times: StepTimes::default(),
        max_timestamp_ms: None,
        event_time_us: BTreeMap::new(),
        fired_us: None,
    })
}

fn file(part: PartIndex, name: &str, sink: SinkId) -> PartFile {
    PartFile { part, name: name.to_owned(), bytes: 1, crc32: 0, rows: BTreeMap::from([(sink, 3)]), state_bytes: 0, state_end: None }
}
