//! What a trace shows of a job: an epoch with its attempts (the plan of each, and its tasks on executors), its record, and what is published at each sink. Where nobody
//! traces, none of these spans exists.
use std::collections::BTreeMap;

use polybolos_streaming::{
    coordinator::{EpochPublished, EpochRecorded},
    frame::Frame,
    ids::{Attempt, Epoch, SinkId},
};
use tracing::{Span, debug_span, field::Empty};

/// Spans of epochs that are under way. A parent that is given up here ends with its last child.
#[derive(Debug, Default)]
pub struct EpochSpans {
    epochs: BTreeMap<Epoch, Span>,
    publishing: BTreeMap<(Epoch, SinkId), Span>,
}

impl EpochSpans {
    pub fn attempt(&mut self, job: &str, attempt: Attempt, frame: &Frame) -> Span {
        let epoch = self.epochs.entry(frame.epoch).or_insert_with(|| {
            let number = frame.epoch.0 as i64;
            debug_span!(parent: None, "epoch", job, epoch = number, attempts = Empty, records_in = Empty, rows_out = Empty)
        });
        let (number, rows) = (attempt.0 as i64, frame.rows() as i64);
        debug_span!(parent: &*epoch, "attempt", attempt = number, parts = frame.parts.len() as i64, rows)
    }

    /// One try at recording an epoch.
    pub fn record(&self, epoch: Epoch) -> Span {
        self.epochs.get(&epoch).map_or_else(Span::none, |epoch| debug_span!(parent: epoch, "record"))
    }

    pub fn recorded(&self, recorded: &EpochRecorded) {
        let Some(span) = self.epochs.get(&recorded.epoch) else { return };
        span.record("attempts", recorded.attempts as i64);
        span.record("records_in", recorded.counts.records_in as i64);
        span.record("rows_out", recorded.counts.rows_out as i64);
    }

    /// All parts of an epoch for one sink, from the first order on.
    pub fn publish(&mut self, epoch: Epoch, sink: SinkId, name: &str) -> Span {
        let Some(parent) = self.epochs.get(&epoch) else { return Span::none() };
        let begin = || debug_span!(parent: parent, "publish", sink = name, rows = Empty, retries = Empty);
        self.publishing.entry((epoch, sink)).or_insert_with(begin).clone()
    }

    pub fn published(&mut self, published: &EpochPublished) {
        if let Some(span) = self.publishing.remove(&(published.epoch, published.sink)) {
            span.record("rows", published.rows as i64);
            span.record("retries", published.retries as i64);
        }
    }

    /// Ends those of epochs that are published everywhere; `halted`: and of those after `recorded`, which are not computed.
    pub fn end(&mut self, published: Epoch, recorded: Epoch, halted: bool) {
        self.epochs.retain(|epoch, _| *epoch > published && !(halted && *epoch > recorded));
        self.publishing.retain(|(epoch, _), _| self.epochs.contains_key(epoch));
    }
}
