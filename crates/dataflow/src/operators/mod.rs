//! The operators of a dataflow. Each is a description; what it remembers is in the tables it is given.
use std::{
    fmt::Debug,
    sync::{Mutex, PoisonError},
};

use arrow::array::RecordBatch;
use datafusion::common::{DataFusionError, Result};
use polybolos_state::{BucketTable, StateError, Table, TableKind, ValueTable, lane_of};

use crate::delta::Delta;

mod aggregate;
mod appends;
mod bits;
mod changing_aggregate;
mod constant;
mod exchange;
mod expand;
mod floats;
mod grouping;
mod join;
mod linear;
mod map;
mod multiset;
mod on_close;
mod once;
mod remembered;
mod sorted;
mod top_n;
mod union;
mod unnest;
mod window;

pub use aggregate::{Aggregate, Call};
pub use appends::Appends;
pub use changing_aggregate::ChangingAggregate;
pub use constant::Constant;
pub use exchange::{ByPart, Exchange, NoPeers, Peers};
pub use expand::Expand;
pub use grouping::Grouping;
pub use join::{Join, JoinSpec, Side, fulfilling};
pub use map::Map;
pub(crate) use map::may_fail;
pub use on_close::OnClose;
pub use once::Once;
pub use sorted::SortedRows;
pub use top_n::TopN;
pub use union::Union;
pub use unnest::Unnest;
pub use window::{Resuming, Session, Window};

/// A row on which an expression failed; the query goes on without it.
#[derive(Clone, Debug)]
pub struct FailedRow {
    /// The operator, by its number in the graph, and as EXPLAIN shows it.
    pub node: usize,
    pub operator: String,
    pub lane: usize,
    /// A batch of one: the operator's input.
    pub row: RecordBatch,
    pub error: String,
}

/// What an operator knows of the epoch it works in.
#[derive(Clone, Copy, Debug)]
pub struct EpochContext<'a> {
    /// The job's watermark that the epoch judges by, microseconds.
    pub watermark_us: Option<i64>,
    /// Among the lanes of all parts.
    pub lane: usize,
    /// How many there are, in all parts.
    pub lanes: usize,
    /// The operator's number.
    pub node: usize,
    /// Of all operators and lanes.
    pub failed: &'a Mutex<Vec<FailedRow>>,
}

impl EpochContext<'_> {
    /// Sets a row aside that an expression failed on. What takes it away again fails alike, and only counts once.
    pub(crate) fn fail(&self, operator: &dyn Operator, delta: &Delta, error: &DataFusionError) {
        if delta.weight(0) > 0 {
            let error = error.find_root().strip_backtrace().replace('\n', " ");
            let (row, operator) = (delta.batch().clone(), operator.describe());
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.push(FailedRow { node: self.node, operator, lane: self.lane, row, error });
        }
    }
}

/// A node of the graph that changes rows within its lane. Lanes are independent: an operator that needs all rows of a key stands above an exchange.
pub trait Operator: Debug + Send + Sync {
    /// The tables that it keeps, in each lane.
    fn tables(&self) -> Vec<TableKind> {
        vec![]
    }

    /// Takes one epoch's changes of its inputs and answers those of its output.
    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>>;

    /// Whether the watermark alone makes it change something.
    fn has_timers(&self) -> bool {
        false
    }

    /// Whether it answers otherwise each time it is asked.
    fn is_volatile(&self) -> bool {
        false
    }

    /// One line for EXPLAIN.
    fn describe(&self) -> String;

    /// Per table, whether it grows with its input and nothing of it is dropped by time. With a TTL, its entries end some time after their last change.
    fn growing_tables(&self) -> Vec<bool> {
        vec![false; self.tables().len()]
    }

    /// The columns of its keys and of what it keeps by them, with their types: who has others cannot read its state.
    fn kept(&self) -> Vec<String> {
        vec![]
    }

    /// What it keeps and when that is dropped, for EXPLAIN and the layout of state; `None`: nothing.
    fn state(&self) -> Option<String> {
        None
    }

    /// The same where entries end some time after their last change, and it keeps more for that.
    fn state_with_ttl(&self) -> Option<String> {
        self.state()
    }
}

/// Of two ascending lists side by side: whether the next step takes from the old one, and whether from the new one; from both where they are equal.
pub(crate) fn next_of<T: Ord>(old: Option<T>, new: Option<T>) -> (bool, bool) {
    match (old, new) {
        (Some(old), Some(new)) => (old <= new, new <= old),
        (old, new) => (old.is_some(), new.is_some()),
    }
}

/// Whether what happens once in a job's life happens now, in this lane: the first time that one lane, which stands for all, asks. `happened` remembers it.
pub(crate) fn happens_now(context: &EpochContext<'_>, happened: &mut ValueTable) -> bool {
    let now = context.lane == lane_of(&[], context.lanes) && happened.get(&[]).is_none();
    if now {
        happened.put(&[], &[], None);
    }
    now
}

pub(crate) fn external(error: StateError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Has what a table holds of these keys in memory. Each operator does so before it asks for a key or changes it.
pub(crate) fn load<'a>(table: &mut Table, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    table.load(keys).map_err(external)
}

pub(crate) fn values(table: &mut Table) -> &mut ValueTable {
    match table {
        Table::Values(table) => table,
        Table::Buckets(_) => unreachable!("the operator asked for a table of values here"),
    }
}

pub(crate) fn buckets(table: &mut Table) -> &mut BucketTable {
    match table {
        Table::Buckets(table) => table,
        Table::Values(_) => unreachable!("the operator asked for a table of buckets here"),
    }
}
