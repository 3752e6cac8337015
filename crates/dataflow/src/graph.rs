//! DataFusion's physical plans as one graph of incremental operators. Plans are those that DataFusion makes before its physical optimiser runs
//! ([`crate::planning`]): one partition, no sorts, no exchanges but ours.
//!
//! * `plans`: which operators are for which plan; `aggregates`, `joins`, `windows`, `top`: plans of more than one; `closing`: EMIT ON WINDOW CLOSE;
//! * `nodes`: how nodes are added; `times`: what they tell of time;
//! * `explain`: a graph for people; [`kept`]: what two graphs must have in common to go on with each other's state.
use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use arrow::datatypes::SchemaRef;
use datafusion::{common::Result, execution::SessionState, logical_expr::LogicalPlan, physical_plan::ExecutionPlan};
use polybolos_state::TableSpec;

mod aggregates;
mod closing;
mod explain;
mod joins;
pub mod kept;
mod nodes;
mod plans;
mod times;
mod top;
mod windows;

pub(crate) use windows::windows_of;

pub use closing::closed_rows;

use crate::{
    event_time::{Lateness, TimeColumns},
    operators::{Exchange, Operator},
    planning,
};

/// When the rows of windows come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// With every change.
    #[default]
    OnUpdate,
    /// Once, when the window is closed.
    OnWindowClose,
    /// When the window is closed, and with every change after that. The watermark that windows close by is so far ahead of the one that the dataflow is given,
    /// by which rows are late and state is dropped.
    OnWindowCloseThenUpdate { ahead_us: i64 },
}

/// One INSERT of a job.
#[derive(Clone, Debug)]
pub struct SinkPlan<Plan = LogicalPlan> {
    pub plan: Plan,
    pub emit: Emit,
}

/// What a leaf of a plan reads.
#[derive(Clone, Debug)]
pub struct SourceLeaf {
    /// Leaves with one number are one source: their rows are given once.
    pub source: usize,
    pub times: TimeColumns,
    /// What is done to its rows before they come, for EXPLAIN; empty: nothing.
    pub label: String,
    /// All its rows come in the first epoch, when [`crate::Dataflow::awaits`] them, and none after it.
    pub whole: bool,
}

/// Tells the sources among a plan's nodes.
pub type FindSource<'a> = dyn Fn(&Arc<dyn ExecutionPlan>) -> Option<SourceLeaf> + 'a;

#[derive(Debug)]
pub enum NodeKind {
    /// Index among the graph's sources.
    Source(usize),
    Exchange {
        exchange: Exchange,
        input: usize,
    },
    Operator {
        operator: Arc<dyn Operator>,
        inputs: Vec<usize>,
        tables: Range<usize>,
    },
}

#[derive(Debug)]
pub struct Node {
    pub kind: NodeKind,
    pub schema: SchemaRef,
    /// Rows may be taken away again.
    pub changing: bool,
    pub times: TimeColumns,
    /// All its rows come in the first epoch.
    whole: bool,
    /// Exchanges on the way from a source.
    level: usize,
    /// Of a source, what is done to its rows; of an operator, what EXPLAIN calls it instead of its own words.
    label: String,
    /// EXPLAIN passes it over: it makes rows of records, which the query does not say.
    is_hidden: bool,
}

impl Node {
    /// As EXPLAIN shows it.
    fn shown(&self, operator: &dyn Operator) -> String {
        if self.label.is_empty() { operator.describe() } else { self.label.clone() }
    }

    /// Of each table of its operator, whether it grows without bound. What is whole grows no more after the first epoch.
    fn growing_tables(&self, operator: &dyn Operator) -> Vec<bool> {
        operator.growing_tables().into_iter().map(|grows| grows && !self.whole).collect()
    }
}

#[derive(Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    levels: Vec<Vec<usize>>,
    sinks: Vec<usize>,
    /// The caller's number of each source.
    sources: Vec<usize>,
    tables: Vec<TableSpec>,
    /// Of sources that are whole, the table that tells whether they came.
    came: BTreeMap<usize, usize>,
    last_readers: Vec<Option<usize>>,
    ttl_us: Option<i64>,
}

impl Graph {
    /// Plans and lowers the INSERTs of a job.
    ///
    /// # Errors
    /// When DataFusion cannot plan one, or something in it has no incremental operator; the message names it.
    pub async fn build(
        session: &SessionState,
        sinks: Vec<SinkPlan>,
        find_source: &FindSource<'_>,
        lateness: Option<&Lateness>,
    ) -> Result<Self> {
        let mut physical = Vec::with_capacity(sinks.len());
        for sink in sinks {
            physical.push(SinkPlan { plan: planning::plan(session, &sink.plan).await?, emit: sink.emit });
        }
        Self::lower(&physical, find_source, lateness)
    }

    /// Lowers planned INSERTs. `lateness`: by which windows' ends a row is late; `None`: no row is.
    pub fn lower(
        sinks: &[SinkPlan<Arc<dyn ExecutionPlan>>],
        find_source: &FindSource<'_>,
        lateness: Option<&Lateness>,
    ) -> Result<Self> {
        let mut builder = Builder::new(find_source, lateness);
        let mut ends = vec![];
        for sink in sinks {
            (builder.emit, builder.spans_windows) = (sink.emit, false);
            ends.push(builder.lower_closing(&sink.plan)?);
        }
        Ok(builder.finish(ends))
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Nodes in an order in which inputs come first, cut where exchanges are.
    pub(crate) fn levels(&self) -> &[Vec<usize>] {
        &self.levels
    }

    /// The last node of each sink.
    pub fn sinks(&self) -> &[usize] {
        &self.sinks
    }

    pub fn sources(&self) -> &[usize] {
        &self.sources
    }

    pub fn tables(&self) -> &[TableSpec] {
        &self.tables
    }

    /// The table that tells whether the rows of a source came that is whole.
    pub(crate) fn came(&self, source: usize) -> Option<usize> {
        self.came.get(&source).copied()
    }

    /// What nothing else bounds ends so long after its last change.
    #[must_use]
    pub fn with_ttl(mut self, ttl_us: Option<i64>) -> Self {
        self.ttl_us = ttl_us;
        let mut specs = vec![];
        for node in &self.nodes {
            let NodeKind::Operator { operator, tables, .. } = &node.kind else { continue };
            specs.extend(tables.clone().zip(node.growing_tables(operator.as_ref())));
        }
        specs.into_iter().for_each(|(table, grows)| self.tables[table].has_ttl = grows && ttl_us.is_some());
        self
    }

    pub fn ttl_us(&self) -> Option<i64> {
        self.ttl_us
    }

    pub fn is_changing(&self, sink: usize) -> bool {
        self.nodes[self.sinks[sink]].changing
    }

    /// Whether the watermark alone can make changes: an epoch without rows is of use then.
    pub fn has_timers(&self) -> bool {
        self.nodes.iter().any(|node| matches!(&node.kind, NodeKind::Operator { operator, .. } if operator.has_timers()))
    }

    /// Operators whose state grows without bound, as EXPLAIN shows them.
    pub fn growing(&self) -> Vec<String> {
        if self.ttl_us.is_some() {
            return vec![];
        }
        let growing = self.nodes.iter().filter_map(|node| match &node.kind {
            NodeKind::Operator { operator, .. } if node.growing_tables(operator.as_ref()).contains(&true) => {
                Some(node.shown(operator.as_ref()))
            }
            _ => None,
        });
        growing.collect()
    }

    /// What an operator with these tables keeps, in its words.
    fn state_of(&self, operator: &dyn Operator, tables: &Range<usize>) -> Option<String> {
        let has_ttl = self.tables[tables.clone()].iter().any(|table| table.has_ttl);
        if has_ttl { operator.state_with_ttl() } else { operator.state() }
    }

    pub(crate) fn last_reader(&self, node: usize) -> Option<usize> {
        self.last_readers[node]
    }
}

struct Builder<'a> {
    nodes: Vec<Node>,
    sources: Vec<usize>,
    tables: Vec<TableSpec>,
    /// By source that is whole: the node that passes its rows.
    whole: BTreeMap<usize, usize>,
    /// By all that there is to tell of a node: what is said twice is computed once.
    known: HashMap<String, usize>,
    find_source: &'a FindSource<'a>,
    lateness: Option<Lateness>,
    emit: Emit,
    /// Rows are ranked, or computed OVER others, of more than one window: they change whenever a row comes between them.
    spans_windows: bool,
}

impl<'a> Builder<'a> {
    fn new(find_source: &'a FindSource<'a>, lateness: Option<&Lateness>) -> Self {
        Self {
            nodes: vec![],
            sources: vec![],
            tables: vec![],
            whole: BTreeMap::new(),
            known: HashMap::new(),
            find_source,
            lateness: lateness.cloned(),
            emit: Emit::OnUpdate,
            spans_windows: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, Int64Array, RecordBatch},
        datatypes::{DataType, Field, Int64Type, Schema},
    };
    use datafusion::{catalog::MemTable, prelude::SessionContext};

    use super::*;
    use crate::{Dataflow, Delta, EpochInput};

    /// Of `t`, whose column is `a`, and `u`, whose column is `b`: both are one source.
    fn dataflow(sql: &str) -> Dataflow {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let graph = runtime.block_on(async {
            let context = SessionContext::new();
            for (table, column) in [("t", "a"), ("u", "b")] {
                let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Int64, false)]));
                context.register_table(table, Arc::new(MemTable::try_new(schema, vec![vec![]]).unwrap())).unwrap();
            }
            let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
            let find = |plan: &Arc<dyn ExecutionPlan>| {
                let leaf = || SourceLeaf { source: 0, times: vec![None], label: String::new(), whole: false };
                plan.children().is_empty().then(leaf)
            };
            let sinks = vec![SinkPlan { plan, emit: Emit::OnUpdate }];
            Graph::build(&context.state(), sinks, &find, None).await.unwrap()
        });
        Dataflow::new(Arc::new(graph), 1)
    }

    /// Why these rows cannot come out when windows close.
    fn refused_on_close(sql: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let context = SessionContext::new();
            let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
            context.register_table("t", Arc::new(MemTable::try_new(schema, vec![vec![]]).unwrap())).unwrap();
            let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
            let find = |plan: &Arc<dyn ExecutionPlan>| {
                let leaf = || SourceLeaf { source: 0, times: vec![None], label: String::new(), whole: false };
                plan.children().is_empty().then(leaf)
            };
            let sinks = vec![SinkPlan { plan, emit: Emit::OnWindowClose }];
            Graph::build(&context.state(), sinks, &find, None).await.unwrap_err().to_string()
        })
    }

    #[test]
    fn what_is_not_final_when_a_window_closes_is_refused_with_its_own_remedy() {
        for sql in [
            "SELECT a, lag(a) OVER (ORDER BY a) AS b FROM t",
            "SELECT a % 3 AS k, count(*) AS n FROM (SELECT a, row_number() OVER (PARTITION BY a % 2 ORDER BY a) AS r FROM t) AS s WHERE r = 1 GROUP BY a % 3",
            "SELECT a FROM t ORDER BY a LIMIT 2",
        ] {
            let message = refused_on_close(sql);
            assert!(message.contains("among PARTITION BY, or leave EMIT out"), "{sql}: {message}");
        }
        let message = refused_on_close("SELECT a % 3 AS k, count(*) AS n FROM t GROUP BY a % 3");
        assert!(message.contains("select the window's bounds too"), "{message}");
    }

    /// What comes of these rows in one epoch.
    fn changes(dataflow: &Dataflow, rows: Vec<i64>) -> Vec<Delta> {
        epochs(dataflow, vec![rows]).0
    }

    /// What comes of the last of these epochs, and how many bytes of state each of them records.
    fn epochs(dataflow: &Dataflow, epochs: Vec<Vec<i64>>) -> (Vec<Delta>, Vec<usize>) {
        let schema = dataflow.graph().nodes()[0].schema.clone();
        let mut state = dataflow.new_state();
        let (mut changes, mut recorded) = (vec![], vec![]);
        for rows in epochs {
            let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(rows))]).unwrap();
            let input = EpochInput { sources: vec![vec![vec![Delta::added(rows)]]], watermark_us: None, clock_us: None };
            changes = dataflow.run(&mut state, input).unwrap().sinks.remove(0);
            let bytes: usize = state.changes().unwrap().into_iter().map(|batch| Delta::added(batch).bytes().unwrap()).sum();
            recorded.push(bytes);
            state.commit();
        }
        (changes, recorded)
    }

    #[test]
    fn an_epoch_records_the_values_that_came_however_many_a_group_has() {
        for (call, kept) in [
            ("median(a)", "every value per group ["),
            ("percentile_cont(0.9) WITHIN GROUP (ORDER BY a)", "every value per group ["),
            ("array_agg(a)", "every value per group as it came ["),
            ("array_agg(a ORDER BY a % 7, a)", "every value per group as it came ["),
            ("array_agg(a ORDER BY a DESC)", "every value per group ["),
            ("string_agg(CAST(a AS VARCHAR), ',')", "every value per group as it came ["),
            ("array_agg(DISTINCT a) AS y, sum(DISTINCT a % 3)", "every distinct value per group ["),
            ("median(a) AS y, max(a)", "one partial state per group [max(t.a)], every value per group ["),
        ] {
            for group in ["", " GROUP BY a % 2"] {
                let dataflow = dataflow(&format!("SELECT {call} AS x FROM t{group}"));
                let explained = dataflow.graph().to_string();
                assert!(explained.contains(kept), "{call}: {explained}");
                let ten = |epoch: i64| -> Vec<i64> { (100 + epoch * 10..110 + epoch * 10).collect() };
                let (_, recorded) = epochs(&dataflow, (0..60).map(ten).collect());
                assert!(recorded[59] <= recorded[1] + recorded[1] / 10, "{call}{group}: {recorded:?}");
            }
        }
    }

    #[test]
    fn values_of_an_array_are_in_the_order_in_which_they_came() {
        for (call, expected) in [
            ("array_agg(a)", vec![3, 1, 2, 3, 0]),
            ("array_agg(a ORDER BY a DESC)", vec![3, 3, 2, 1, 0]),
            // DataFusion puts these in an order of its own.
            ("array_sort(array_agg(DISTINCT a)) AS x, sum(DISTINCT a % 3)", vec![0, 1, 2, 3]),
        ] {
            let dataflow = dataflow(&format!("SELECT {call} AS y FROM t"));
            let (changes, _) = epochs(&dataflow, vec![vec![3, 1], vec![2, 3], vec![0]]);
            let arrays: Vec<(Vec<i64>, i64)> = changes
                .iter()
                .map(|delta| {
                    let array = delta.batch().column(0).as_list::<i32>().value(0);
                    (array.as_primitive::<Int64Type>().values().to_vec(), delta.weight(0))
                })
                .collect();
            assert_eq!(arrays.len(), 2, "{call}: {arrays:?}");
            assert_eq!(arrays[1], (expected, 1), "{call}: {arrays:?}");
            assert_eq!(arrays[0].1, -1, "{call}: {arrays:?}");
        }
    }

    #[test]
    fn each_leaf_of_a_source_has_its_rows_whatever_their_columns_are_called() {
        let dataflow = dataflow("SELECT a, b FROM t JOIN u ON a = b");
        let met = changes(&dataflow, vec![1, 2]);
        assert_eq!(met.iter().map(Delta::rows).sum::<usize>(), 2, "each row meets itself\n{}", dataflow.graph());
    }

    #[test]
    fn an_offset_around_a_limit_adds_no_rows() {
        let dataflow = dataflow("SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 3) AS s OFFSET 1");
        let shown = changes(&dataflow, vec![5, 4, 3, 2, 1]);
        let values = shown.iter().flat_map(|delta| delta.batch().column(0).as_primitive::<Int64Type>().values().to_vec());
        let mut values: Vec<i64> = values.collect();
        values.sort_unstable();
        assert_eq!(values, [2, 3], "{}", dataflow.graph());
    }
}
