//! Runs a graph over one epoch. Lanes are independent between exchanges; an exchange hands rows from every lane to every other, in the order of the lanes,
//! so that an epoch's result does not depend on timing. A job may be shared by several parts, each with lanes of its own, which then exchange rows with each
//! other ([`Peers`]) and are one dataflow in all else.
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::Result;
use polybolos_state::{JobState, LaneState, Passed, Share};

use crate::{
    delta::Delta,
    graph::{Graph, NodeKind},
    operators::{EpochContext, Exchange, FailedRow, NoPeers, Once, Peers, external},
};

/// Below this many rows in an epoch, lanes are run one after the other: threads would cost more than they bring.
const PARALLEL_FROM_ROWS: usize = 8_192;

/// What one epoch brings.
#[derive(Clone, Debug, Default)]
pub struct EpochInput {
    /// Per source of the graph, and per lane, its rows.
    pub sources: Vec<Vec<Vec<Delta>>>,
    /// What the epoch judges by, microseconds.
    pub watermark_us: Option<i64>,
    /// Processing time, which never falls from one recorded epoch to the next: what a TTL counts by.
    pub clock_us: Option<i64>,
}

/// What an epoch came to.
#[derive(Clone, Debug, Default)]
pub struct EpochOutput {
    /// Per sink of the graph, the changes of its query's answer.
    pub sinks: Vec<Vec<Delta>>,
    /// Rows that are missing in it because an expression failed on them, in the order of operators and lanes.
    pub failed: Vec<FailedRow>,
}

impl EpochOutput {
    /// What came to pass after it.
    pub fn append(&mut self, later: Self) {
        self.sinks.iter_mut().zip(later.sinks).for_each(|(changes, more)| changes.extend(more));
        self.failed.extend(later.failed);
        self.failed.sort_by_key(|row| row.node);
    }
}

#[derive(Clone, Debug)]
pub struct Dataflow {
    graph: Arc<Graph>,
    /// Of this part.
    lanes: usize,
    share: Share,
    /// Per sink, how its changes come together by the keys of its table.
    last: Arc<[Option<Exchange>]>,
    parallel_from_rows: usize,
}

impl Dataflow {
    pub fn new(graph: Arc<Graph>, lanes: usize) -> Self {
        Self { graph, lanes: lanes.max(1), share: Share::WHOLE, last: [].into(), parallel_from_rows: PARALLEL_FROM_ROWS }
    }

    /// Parts bring the changes of each sink together by these keys, in the end; without any, each keeps what it has.
    #[must_use]
    pub fn with_last_exchanges(mut self, last: Vec<Option<Exchange>>) -> Self {
        self.last = last.into();
        self
    }

    /// The dataflow of one part, with its share of the lanes.
    #[must_use]
    pub fn of_share(&self, share: Share) -> Self {
        Self { lanes: self.lanes.div_ceil(share.parts), share, ..self.clone() }
    }

    pub fn share(&self) -> Share {
        self.share
    }

    /// Epochs of fewer rows run on one thread.
    #[must_use]
    pub fn with_parallel_from(mut self, rows: usize) -> Self {
        self.parallel_from_rows = rows;
        self
    }

    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    pub fn lanes(&self) -> usize {
        self.lanes
    }

    pub fn new_state(&self) -> JobState {
        JobState::of_share(self.graph.tables(), self.lanes, self.share)
    }

    /// Whether the rows of a source that is whole are still to be given, by its place among the graph's.
    pub fn awaits(&self, state: &JobState, source: usize) -> bool {
        self.graph.came(source).is_some_and(|table| Once::awaits(state, table))
    }

    /// Computes one epoch on top of `state`'s base; changes only its overlay.
    ///
    /// # Errors
    /// When something fails that cannot be put down to single rows. The overlay is then to be discarded.
    pub fn run(&self, state: &mut JobState, input: EpochInput) -> Result<EpochOutput> {
        self.run_among(state, input, &NoPeers)
    }

    /// Lets the watermark pass on top of the overlay of the epoch that was run last, as an epoch without rows would on top of what that one leaves; both are
    /// then one. Of a job that is not shared.
    ///
    /// # Errors
    /// As above.
    pub fn pass_time(&self, state: &mut JobState, watermark_us: Option<i64>, clock_us: Option<i64>) -> Result<EpochOutput> {
        let sources = vec![vec![]; self.graph.sources().len()];
        self.run(state, EpochInput { sources, watermark_us, clock_us })
    }

    /// The same as one part among `peers`.
    ///
    /// # Errors
    /// As above, and when a peer fails.
    pub fn run_among(&self, state: &mut JobState, input: EpochInput, peers: &dyn Peers) -> Result<EpochOutput> {
        state
            .begin(Passed { watermark_us: input.watermark_us, clock_us: input.clock_us }, self.graph.ttl_us())
            .map_err(external)?;
        let rows: usize = input.sources.iter().flatten().flatten().map(Delta::rows).sum();
        let parallel = self.lanes > 1 && rows >= self.parallel_from_rows;
        let nodes = self.graph.nodes();
        let failed = Mutex::default();
        // Per node and lane, what it gave. Kept until its last reader has it.
        let mut outputs: Vec<Vec<Vec<Delta>>> = vec![vec![]; nodes.len()];
        let mut sources: Vec<Option<Vec<Vec<Delta>>>> = input.sources.into_iter().map(Some).collect();
        for level in self.graph.levels() {
            for &node in level {
                match &nodes[node].kind {
                    NodeKind::Source(source) => {
                        let mut given = sources[*source].take().unwrap_or_default();
                        given.resize(self.lanes, vec![]);
                        outputs[node] = given;
                    }
                    NodeKind::Exchange { exchange, input } => {
                        let given = self.take_or_clone(&mut outputs, *input, node);
                        outputs[node] = exchange.run(node, given, self.share, peers)?;
                    }
                    NodeKind::Operator { .. } => outputs[node] = vec![vec![]; self.lanes],
                }
            }
            let lanes = self.lanes * self.share.parts;
            let context = EpochContext { watermark_us: input.watermark_us, lane: 0, lanes, node: 0, failed: &failed };
            self.run_level(level, state, &mut outputs, context, parallel)?;
        }
        let mut sinks = vec![];
        for (index, &node) in self.graph.sinks().iter().enumerate() {
            let again = self.graph.sinks()[index + 1..].contains(&node);
            let mut lanes = if again { outputs[node].clone() } else { std::mem::take(&mut outputs[node]) };
            if let Some(exchange) = self.last.get(index).and_then(Option::as_ref).filter(|_| self.share != Share::WHOLE) {
                lanes = exchange.run(nodes.len() + index, lanes, self.share, peers)?;
            }
            sinks.push(lanes.into_iter().flatten().collect());
        }
        let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Within an operator and lane they are in the order in which they came.
        failed.sort_by_key(|row: &FailedRow| (row.node, row.lane));
        Ok(EpochOutput { sinks, failed })
    }

    /// The last reader takes, others copy (which copies no rows).
    fn take_or_clone(&self, outputs: &mut [Vec<Vec<Delta>>], node: usize, reader: usize) -> Vec<Vec<Delta>> {
        if self.graph.last_reader(node) == Some(reader) { std::mem::take(&mut outputs[node]) } else { outputs[node].clone() }
    }

    /// Runs the operators of a level in every lane.
    fn run_level(
        &self,
        level: &[usize],
        state: &mut JobState,
        outputs: &mut [Vec<Vec<Delta>>],
        context: EpochContext<'_>,
        parallel: bool,
    ) -> Result<()> {
        let operators: Vec<usize> =
            level.iter().copied().filter(|&node| matches!(self.graph.nodes()[node].kind, NodeKind::Operator { .. })).collect();
        if operators.is_empty() {
            return Ok(());
        }
        // Each lane's view: what every node gave in this lane.
        let mut by_lane: Vec<Vec<Vec<Delta>>> = vec![Vec::with_capacity(outputs.len()); self.lanes];
        for node in outputs.iter_mut() {
            node.resize(self.lanes, vec![]);
            for (lane, deltas) in std::mem::take(node).into_iter().enumerate() {
                by_lane[lane].push(deltas);
            }
        }
        let work = |lane: usize, state: &mut LaneState, view: &mut Vec<Vec<Delta>>| -> Result<()> {
            let context = EpochContext { lane: self.share.part * self.lanes + lane, ..context };
            operators.iter().try_for_each(|&node| self.run_operator(node, &context, state, view))
        };
        let work = &work;
        let lanes = state.lanes_mut().iter_mut().zip(&mut by_lane).enumerate();
        if parallel {
            std::thread::scope(|scope| {
                let running: Vec<_> = lanes.map(|(lane, (state, view))| scope.spawn(move || work(lane, state, view))).collect();
                running.into_iter().try_for_each(|lane| {
                    lane.join().unwrap_or_else(|_| Err(datafusion::common::exec_datafusion_err!("an operator panicked")))
                })
            })?;
        } else {
            for (lane, (state, view)) in lanes {
                work(lane, state, view)?;
            }
        }
        for view in by_lane {
            for (node, deltas) in view.into_iter().enumerate() {
                outputs[node].push(deltas);
            }
        }
        Ok(())
    }

    fn run_operator(&self, node: usize, context: &EpochContext<'_>, state: &mut LaneState, view: &mut [Vec<Delta>]) -> Result<()> {
        let NodeKind::Operator { operator, inputs, tables } = &self.graph.nodes()[node].kind else { return Ok(()) };
        let mut given = Vec::with_capacity(inputs.len());
        for (index, &input) in inputs.iter().enumerate() {
            let again = inputs[index + 1..].contains(&input);
            let last = self.graph.last_reader(input) == Some(node) && !again;
            given.push(if last { std::mem::take(&mut view[input]) } else { view[input].clone() });
        }
        view[node] = operator.step(&EpochContext { node, ..*context }, &mut state.tables[tables.clone()], given)?;
        Ok(())
    }
}
