//! What is kept of the rows of a partition in front of its last peers, those that the order does not tell apart: how many they are,
//! and the states of the accumulators that have taken them. With it, peers that change and rows behind them are computed of
//! themselves. Aggregates count of which a state that is merged goes on as if nothing had been cut, to the bit: what is taken back is
//! computed of all rows, or from other peers on.
use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, BinaryArray, UInt64Array},
    datatypes::{DataType, FieldRef, Schema, UInt64Type},
};
use datafusion::{
    common::{Result, ScalarValue, internal_datafusion_err},
    logical_expr::{Accumulator, WindowFrameBound, WindowFrameUnits},
    physical_expr::{
        aggregate::AggregateFunctionExpr,
        window::{PlainAggregateWindowExpr, StandardWindowExpr, WindowExpr},
    },
};

use crate::{
    keys::{RowFormat, typed},
    operators::{
        SortedRows,
        appends::{ALL, context_of, is_sure, name_of},
        grouping::sliced,
    },
};

/// How an expression is computed from some peers on.
#[derive(Debug)]
enum Kind {
    /// The row's number.
    Number,
    /// One more than there are rows before its peers.
    Rank,
    /// One more than there are orders before its own.
    DenseRank,
    /// An aggregate of all rows through its own, or through its peers.
    Total { by_peers: bool, state: Vec<FieldRef> },
    /// By DataFusion, of these rows and some before them.
    Evaluated,
}

impl Kind {
    fn state(&self) -> &[FieldRef] {
        match self {
            Self::Total { state, .. } => state,
            _ => &[],
        }
    }
}

/// Windows whose rows can be computed from a partition's last peers on.
#[derive(Debug)]
pub struct Resuming {
    /// Of each expression.
    kinds: Vec<Kind>,
    /// So many rows in front of those that are computed are needed.
    pub(super) context: usize,
    /// Of what is kept: where a prefix ends, its counts, the states.
    format: RowFormat,
}

/// What is known of the rows of a partition in front of some of its peers.
#[derive(Debug)]
pub(super) struct Prefix {
    /// What these peers begin with: rows are in front that come before it.
    pub end: Box<[u8]>,
    /// How many are in front, and of how many orders.
    rows: u64,
    orders: u64,
    /// The accumulators' states, of each expression.
    states: Vec<Vec<ArrayRef>>,
}

impl Prefix {
    pub fn has_rows(&self) -> bool {
        self.rows > 0
    }
}

impl Resuming {
    /// `None`: some expression needs all rows, changes when rows come behind, or none has anything to keep.
    pub fn of(expressions: &[Arc<dyn WindowExpr>], rows: &SortedRows) -> Option<Self> {
        let order = expressions.first()?.order_by();
        let is_ordered = !order.is_empty() && expressions.iter().all(|expression| expression.order_by() == order);
        if !is_ordered || !rows.order.iter().all(|(column, _)| is_its_bytes(rows.schema.field(*column).data_type())) {
            return None;
        }
        let (mut kinds, mut context) = (vec![], 0_usize);
        for expression in expressions {
            let (kind, needed) = kind_of(expression.as_ref(), &rows.schema)?;
            kinds.push(kind);
            context = context.max(needed);
        }
        if kinds.iter().all(|kind| matches!(kind, Kind::Evaluated)) {
            return None;
        }
        let states = kinds.iter().flat_map(Kind::state).map(|field| field.data_type());
        let format = RowFormat::new(COUNTS.iter().chain(states)).ok()?;
        Some(Self { kinds, context, format })
    }

    pub(super) fn encode(&self, prefix: &Prefix) -> Result<Box<[u8]>> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(BinaryArray::from_vec(vec![&*prefix.end])),
            Arc::new(UInt64Array::from(vec![prefix.rows])),
            Arc::new(UInt64Array::from(vec![prefix.orders])),
        ];
        columns.extend(prefix.states.iter().flatten().cloned());
        let encoded = self.format.encode(&columns)?;
        Ok(encoded.row(0).into())
    }

    pub(super) fn decode(&self, kept: &[u8]) -> Result<Prefix> {
        let columns = self.format.decode([kept])?;
        let mut states = columns[COUNTS.len()..].iter().cloned();
        Ok(Prefix {
            end: columns[0].as_binary::<i32>().value(0).into(),
            rows: columns[1].as_primitive::<UInt64Type>().value(0),
            orders: columns[2].as_primitive::<UInt64Type>().value(0),
            states: self.kinds.iter().map(|kind| states.by_ref().take(kind.state().len()).collect()).collect(),
        })
    }

    /// The columns of rows behind a prefix, the kept ones and one for each expression; and the prefix that ends at the last peers
    /// among them. `rows`: with those in front, so many, that are needed.
    pub(super) fn compute(
        &self,
        expressions: &[Arc<dyn WindowExpr>],
        sorted: &SortedRows,
        prefix: Option<&Prefix>,
        rows: &[Box<[u8]>],
        in_front: usize,
    ) -> Result<(Vec<ArrayRef>, Prefix)> {
        let (all, order) = sorted.batch_and_order(rows)?;
        let count = rows.len() - in_front;
        let batch = all.slice(in_front, count);
        let (peers, end) = sorted.peers(&sliced(&order, &(in_front..rows.len())), count)?;
        let (last, others) = peers.split_last().ok_or_else(|| internal_datafusion_err!("windows are computed of no rows"))?;
        let (known, orders) = prefix.map_or((0, 0), |prefix| (prefix.rows, prefix.orders));
        let mut columns = batch.columns().to_vec();
        let mut states = vec![];
        for (at, (expression, kind)) in expressions.iter().zip(&self.kinds).enumerate() {
            let mut state = vec![];
            let column: ArrayRef = match kind {
                Kind::Number => Arc::new(UInt64Array::from_iter_values((1..=count as u64).map(|number| known + number))),
                Kind::Rank => of_peers(&peers, |_, peers| known + peers.start as u64 + 1),
                Kind::DenseRank => of_peers(&peers, |place, _| orders + place as u64 + 1),
                Kind::Evaluated => expression.evaluate(&all)?.slice(in_front, count),
                Kind::Total { by_peers, .. } => {
                    let mut total = Total::resume(expression.as_ref(), prefix.map(|prefix| prefix.states[at].as_slice()))?;
                    let arguments = expression.evaluate_args(&batch)?;
                    let mut values = Vec::with_capacity(count);
                    total.take(&arguments, others, *by_peers, &mut values)?;
                    state = total.state()?;
                    let mut total = Total::resume(expression.as_ref(), Some(state.as_slice()))?;
                    total.take(&arguments, std::slice::from_ref(last), *by_peers, &mut values)?;
                    ScalarValue::iter_to_array(values)?
                }
            };
            columns.push(column);
            states.push(state);
        }
        let (rows, orders) = (known + last.start as u64, orders + others.len() as u64);
        Ok((columns, Prefix { end, rows, orders, states }))
    }

    /// What is kept, with its types.
    pub(super) fn kept(&self, expressions: &[Arc<dyn WindowExpr>]) -> Vec<String> {
        let total = |(expression, kind): (&Arc<dyn WindowExpr>, &Kind)| {
            let function = aggregate_of(expression.as_ref()).filter(|_| !kind.state().is_empty())?;
            let types = kind.state().iter().map(|field| field.data_type());
            Some(typed(&format!("{} before the last peers", function.fun().name()), types))
        };
        let counts = typed("rows before the last peers", &COUNTS);
        std::iter::once(counts).chain(expressions.iter().zip(&self.kinds).filter_map(total)).collect()
    }
}

static COUNTS: [DataType; 3] = [DataType::Binary, DataType::UInt64, DataType::UInt64];

/// An accumulator on its way through a partition.
struct Total(Box<dyn Accumulator>);

impl Total {
    fn resume(expression: &dyn WindowExpr, state: Option<&[ArrayRef]>) -> Result<Self> {
        let function = aggregate_of(expression).ok_or_else(|| internal_datafusion_err!("{} is no aggregate", expression.name()))?;
        let mut accumulator = function.create_accumulator()?;
        if let Some(state) = state {
            accumulator.merge_batch(state)?;
        }
        Ok(Self(accumulator))
    }

    /// Adds rows in the steps in which DataFusion does, as sums of floats depend on them, and one value for each.
    fn take(
        &mut self,
        arguments: &[ArrayRef],
        peers: &[Range<usize>],
        by_peers: bool,
        values: &mut Vec<ScalarValue>,
    ) -> Result<()> {
        for peers in peers {
            let step = if by_peers { peers.len() } else { 1 };
            for start in peers.clone().step_by(step) {
                self.0.update_batch(&sliced(arguments, &(start..start + step)))?;
                values.extend(std::iter::repeat_n(self.0.evaluate()?, step));
            }
        }
        Ok(())
    }

    fn state(mut self) -> Result<Vec<ArrayRef>> {
        self.0.state()?.iter().map(ScalarValue::to_array).collect()
    }
}

/// A number for each row, by the place of its peers and the rows that they are.
fn of_peers(peers: &[Range<usize>], number: impl Fn(usize, &Range<usize>) -> u64) -> ArrayRef {
    let numbers = peers.iter().enumerate().flat_map(|(place, rows)| std::iter::repeat_n(number(place, rows), rows.len()));
    Arc::new(UInt64Array::from_iter_values(numbers))
}

fn aggregate_of(expression: &dyn WindowExpr) -> Option<&AggregateFunctionExpr> {
    Some(expression.as_any().downcast_ref::<PlainAggregateWindowExpr>()?.get_aggregate_expr())
}

/// How an expression is computed, and how many rows in front that takes.
fn kind_of(expression: &dyn WindowExpr, input: &Schema) -> Option<(Kind, usize)> {
    match expression.as_any().downcast_ref::<StandardWindowExpr>().and_then(name_of) {
        Some("row_number") => return Some((Kind::Number, 0)),
        Some("rank") => return Some((Kind::Rank, 0)),
        Some("dense_rank") => return Some((Kind::DenseRank, 0)),
        _ => {}
    }
    let frame = expression.get_window_frame();
    let is_total = frame.start_bound.is_unbounded() && matches!(frame.end_bound, WindowFrameBound::CurrentRow);
    if let Some(function) = aggregate_of(expression).filter(|function| is_total && is_exact(function)) {
        let is_sure = expression.expressions().iter().all(|argument| is_sure(argument, input));
        let by_peers = frame.units != WindowFrameUnits::Rows;
        let state = function.state_fields().ok().filter(|_| is_sure && !has_filter(expression))?;
        return Some((Kind::Total { by_peers, state }, 0));
    }
    let context = context_of(expression, input).filter(|context| *context != ALL)?;
    Some((Kind::Evaluated, context))
}

/// Plans of DataFusion's may have a filter, which it shows nowhere else. Those of jobs have CASE in its place.
fn has_filter(aggregate: &dyn WindowExpr) -> bool {
    !format!("{aggregate:?}").ends_with("filter: None }")
}

/// Whether nothing is lost between an accumulator and one that its state is merged into.
fn is_exact(function: &AggregateFunctionExpr) -> bool {
    let field = function.field();
    let data_type = field.data_type();
    let is_number = data_type.is_integer() || *data_type == DataType::Float64;
    let is_known = match function.fun().name() {
        "count" => true,
        "sum" => is_number,
        "avg" => *data_type == DataType::Float64,
        "min" | "max" => is_number || is_its_bytes(data_type),
        _ => false,
    };
    is_known && !function.is_distinct()
}

/// Whether values are equal where their bytes are, and only there: zeros of both signs are peers.
fn is_its_bytes(data_type: &DataType) -> bool {
    let is_plain = data_type.is_integer() || data_type.is_temporal() || data_type.is_decimal();
    is_plain || data_type.is_string() || *data_type == DataType::Boolean
}
