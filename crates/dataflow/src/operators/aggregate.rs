//! Aggregation of input that is only added to. DataFusion's own accumulators do it: the touched groups' partial states are merged in front of the new
//! rows, kept again, and evaluated; so every aggregate that merges is exactly what DataFusion says it is, user-defined ones included.
use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch, UInt32Array},
    datatypes::{DataType, FieldRef},
};
use datafusion::{
    common::Result,
    logical_expr::{EmitTo, GroupsAccumulator},
    physical_expr::{GroupsAccumulatorAdapter, aggregate::AggregateFunctionExpr},
    physical_plan::PhysicalExpr,
};
use polybolos_state::{BucketTable, Table, TableKind};

use super::{
    EpochContext, Operator, buckets,
    grouping::{Grouping, Shown, Touched, changes, pick, sliced},
    values,
};
use crate::{
    delta::Delta,
    evaluate,
    keys::{RowFormat, typed},
};

/// As many calls share a table of distinct values.
const BITS: usize = 63;

/// One aggregate function and what it is applied to.
#[derive(Clone, Debug)]
pub struct Call {
    /// Without DISTINCT where `distinct` is set.
    pub function: Arc<AggregateFunctionExpr>,
    pub arguments: Vec<Arc<dyn PhysicalExpr>>,
    /// Of the arguments.
    pub types: Vec<DataType>,
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Only the first row of each value of the arguments counts.
    pub distinct: bool,
}

impl Call {
    pub fn accumulator(&self) -> Result<Box<dyn GroupsAccumulator>> {
        if self.function.groups_accumulator_supported() {
            return self.function.create_groups_accumulator();
        }
        let function = self.function.clone();
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }

    /// Makes once what evaluates it: what DataFusion refuses then it refuses in every epoch.
    pub(super) fn check(&self) -> Result<()> {
        match self.function.groups_accumulator_supported() {
            true => self.function.create_groups_accumulator().map(drop),
            false => self.function.create_accumulator().map(drop),
        }
    }

    pub fn evaluate_arguments(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.arguments.iter().map(|argument| evaluated(argument, batch)).collect()
    }

    pub fn evaluate_filter(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(filter) = &self.filter else { return Ok(None) };
        Ok(Some(evaluated(filter, batch)?.as_boolean().clone()))
    }

    /// Of a table of the arguments' values.
    pub(super) fn kept_values(&self) -> String {
        typed(&format!("values of {}", self.function.name()), &self.types)
    }

    pub fn describe(&self) -> String {
        let distinct = if self.distinct { " (of distinct values)" } else { "" };
        format!("{}{distinct}", named(&self.function))
    }
}

/// An expression over rows that a guard let pass. They may fail beside others than the guard saw them with: AND and OR compute their
/// other side of all rows, or of those alone for which it counts, by how many these are.
fn evaluated(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    evaluate(expression, batch, |_, error| Err(error))
}

/// A function as layouts have it. What is taken back is computed of the state, so state of a version whose function answered otherwise
/// must not look the same: of `percentile_cont` those before 2026-11-29 knew six digits.
pub(super) fn named(function: &AggregateFunctionExpr) -> String {
    let exact = if function.fun().name() == "percentile_cont" { " (as exact as floats)" } else { "" };
    format!("{}{exact}", function.name())
}

#[derive(Debug)]
pub struct Aggregate {
    grouping: Grouping,
    /// Fields of partial states, by call.
    states: Vec<Vec<FieldRef>>,
    /// Calls with DISTINCT of the same arguments, by index: they share a table, in which each has a bit.
    distinct: Vec<Vec<usize>>,
}

impl Aggregate {
    pub fn try_new(grouping: Grouping) -> Result<Self> {
        let mut states = vec![];
        for call in &grouping.calls {
            call.check()?;
            states.push(call.function.state_fields()?);
        }
        let mut distinct: Vec<Vec<usize>> = vec![];
        for (index, call) in grouping.calls.iter().enumerate().filter(|(_, call)| call.distinct) {
            let shares = |calls: &&mut Vec<usize>| calls.len() < BITS && grouping.calls[calls[0]].arguments == call.arguments;
            match distinct.iter_mut().find(shares) {
                Some(calls) => calls.push(index),
                None => distinct.push(vec![index]),
            }
        }
        let aggregate = Self { grouping, states, distinct };
        aggregate.grouping.key_format()?;
        aggregate.state_format()?;
        Ok(aggregate)
    }

    fn state_format(&self) -> Result<RowFormat> {
        RowFormat::new(self.states.iter().flatten().map(|field| field.data_type()))
    }

    /// Splits the columns of all states by call.
    fn by_call<'a>(&self, states: &'a [ArrayRef]) -> Vec<&'a [ArrayRef]> {
        let mut rest = states;
        let mut split = Vec::with_capacity(self.states.len());
        for fields in &self.states {
            let (head, tail) = rest.split_at(fields.len());
            split.push(head);
            rest = tail;
        }
        split
    }

    /// What partial states say, group by group.
    fn results(&self, states: &[ArrayRef], count: usize) -> Result<Vec<ArrayRef>> {
        let groups: Vec<usize> = (0..count).collect();
        let by_call = self.by_call(states);
        let result = |(call, states): (&Call, &[ArrayRef])| {
            let mut accumulator = call.accumulator()?;
            accumulator.merge_batch(states, &groups, count)?;
            accumulator.evaluate(EmitTo::All)
        };
        self.grouping.calls.iter().zip(by_call).map(result).collect()
    }

    fn shown(&self, groups: &[ArrayRef], states: &[ArrayRef], count: usize) -> Result<Shown> {
        self.grouping.shown(groups, count, |rows| self.results(&sliced(states, &rows), rows.len()))
    }

    /// For each of these calls with DISTINCT, which rows have values that it has not seen in their group.
    fn firsts(
        calls: &[usize],
        table: &mut BucketTable,
        touched: &Touched,
        groups: &[usize],
        arguments: &[ArrayRef],
        filters: &[Option<BooleanArray>],
    ) -> Result<Vec<BooleanArray>> {
        let rows = RowFormat::new(arguments.iter().map(|column| column.data_type()))?.encode(arguments)?;
        let counts =
            |filter: &Option<BooleanArray>, row| filter.as_ref().is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        let mut firsts: Vec<_> = calls.iter().map(|_| BooleanBufferBuilder::new(groups.len())).collect();
        for (row, &group) in groups.iter().enumerate() {
            let mut bits = 0;
            if arguments.iter().all(|column| column.is_valid(row)) {
                calls.iter().enumerate().for_each(|(bit, call)| bits |= i64::from(counts(&filters[*call], row)) << bit);
            }
            if bits != 0 {
                bits &= !table.mark(touched.keys.row(group), rows.row(row), bits, touched.expiries[group]);
            }
            firsts.iter_mut().enumerate().for_each(|(bit, first)| first.append(bits >> bit & 1 == 1));
        }
        Ok(firsts.into_iter().map(|mut first| BooleanArray::new(first.finish(), None)).collect())
    }

    /// The groups that are closed, where they come out then.
    fn closed(&self, context: &EpochContext<'_>, table: &mut Table) -> Result<Vec<Delta>> {
        let Some(watermark) = context.watermark_us.filter(|_| self.grouping.emit_on_close) else { return Ok(vec![]) };
        let (keys, states): (Vec<_>, Vec<_>) = values(table).due(watermark).unzip();
        if keys.is_empty() {
            return Ok(vec![]);
        }
        let columns = self.grouping.key_format()?.decode(keys.iter().copied())?;
        let shown = self.shown(&columns, &self.state_format()?.decode(states)?, keys.len())?;
        self.grouping.set_aside(context, self, &columns, &shown.failed)?;
        Ok(vec![Delta::added(shown.rows)])
    }
}

impl Operator for Aggregate {
    fn tables(&self) -> Vec<TableKind> {
        [TableKind::Values].into_iter().chain(self.distinct.iter().map(|_| TableKind::Buckets)).collect()
    }

    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let deltas =
            inputs.into_iter().flatten().filter(|delta| delta.rows() > 0).map(Delta::repeated).collect::<Result<Vec<_>>>()?;
        let standing = self.grouping.new_standing(context, &mut tables[0])?;
        if deltas.is_empty() && standing.is_empty() {
            return self.closed(context, &mut tables[0]);
        }
        let touched = self.grouping.intern(&deltas, &standing)?;
        touched.load(tables)?;
        let Some((groups_table, distinct_tables)) = tables.split_first_mut() else { return Ok(vec![]) };
        let count = touched.count;

        let mut known = vec![];
        let mut old_states = vec![];
        let table = values(groups_table);
        for group in 0..count {
            if let Some(state) = table.get(touched.keys.row(group)) {
                known.push(group);
                old_states.push(state);
            }
        }
        let old_states = if known.is_empty() { vec![] } else { self.state_format()?.decode(old_states)? };

        let mut accumulators = self.grouping.calls.iter().map(Call::accumulator).collect::<Result<Vec<_>>>()?;
        // An accumulator takes it that every group it is told of has rows in the batch at hand, unless it has seen a filter. Groups of this epoch may have
        // theirs in another batch, or none.
        if deltas.len() != 1 || !known.is_empty() || !standing.is_empty() {
            let (nothing, filter) = (RecordBatch::new_empty(self.grouping.input.clone()), BooleanArray::from(Vec::<bool>::new()));
            for (call, accumulator) in self.grouping.calls.iter().zip(&mut accumulators) {
                accumulator.update_batch(&call.evaluate_arguments(&nothing)?, &[], Some(&filter), count)?;
            }
        }
        if !known.is_empty() {
            for (accumulator, states) in accumulators.iter_mut().zip(self.by_call(&old_states)) {
                accumulator.merge_batch(states, &known, count)?;
            }
        }
        for (delta, groups) in deltas.iter().zip(&touched.groups) {
            let calls = self.grouping.calls.iter();
            let arguments = calls.clone().map(|call| call.evaluate_arguments(delta.batch())).collect::<Result<Vec<_>>>()?;
            let mut filters = calls.map(|call| call.evaluate_filter(delta.batch())).collect::<Result<Vec<_>>>()?;
            for (calls, table) in self.distinct.iter().zip(distinct_tables.iter_mut()) {
                let found = Self::firsts(calls, buckets(table), &touched, groups, &arguments[calls[0]], &filters)?;
                calls.iter().zip(found).for_each(|(call, found)| filters[*call] = Some(found));
            }
            for ((accumulator, arguments), filter) in accumulators.iter_mut().zip(&arguments).zip(&filters) {
                accumulator.update_batch(arguments, groups, filter.as_ref(), count)?;
            }
        }
        let mut states = vec![];
        for accumulator in &mut accumulators {
            states.extend(accumulator.state(EmitTo::All)?);
        }
        let rows = self.state_format()?.encode(&states)?;
        let table = values(groups_table);
        for group in 0..count {
            table.put(touched.keys.row(group), rows.row(group), touched.expiries[group]);
        }
        if self.grouping.emit_on_close {
            // Among them those whose rows came as they closed, as results of windows do.
            return self.closed(context, groups_table);
        }
        let new = self.shown(&touched.columns, &states, count)?;
        self.grouping.set_aside(context, self, &touched.columns, &new.failed)?;
        let old = if known.is_empty() {
            None
        } else {
            let groups = UInt32Array::from_iter_values(known.iter().map(|group| *group as u32));
            Some(self.shown(&pick(&touched.columns, &groups)?, &old_states, known.len())?.numbered(&groups))
        };
        changes(old, new.rows, &new.of)
    }

    fn has_timers(&self) -> bool {
        self.grouping.emit_on_close
    }

    fn describe(&self) -> String {
        self.grouping.describe("Aggregate (merging)")
    }

    fn growing_tables(&self) -> Vec<bool> {
        self.grouping.growing(self.tables().len())
    }

    fn kept(&self) -> Vec<String> {
        let mut kept = self.grouping.kept_keys();
        let states = self.grouping.calls.iter().zip(&self.states);
        kept.extend(states.map(|(call, fields)| typed(&call.describe(), fields.iter().map(|field| field.data_type()))));
        kept.extend(self.distinct.iter().map(|calls| self.grouping.calls[calls[0]].kept_values()));
        kept
    }

    fn state(&self) -> Option<String> {
        Some(format!("one partial state per group, {}", self.grouping.dropped()))
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::Int64Array,
        datatypes::{Field, Schema},
    };
    use datafusion::{
        logical_expr::Operator::{And, Divide, Gt, NotEq},
        physical_expr::expressions::{binary, col, lit},
    };

    use super::*;

    #[test]
    fn rows_that_fail_only_together_are_evaluated_apart() {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, false)]);
        let values = Int64Array::from(vec![0, 5, 0, 20]);
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::new(values)]).unwrap();
        let a = || col("a", &schema).unwrap();
        let is_there = binary(a(), NotEq, lit(0_i64), &schema).unwrap();
        let share = binary(lit(10_i64), Divide, a(), &schema).unwrap();
        let is_large = binary(share, Gt, lit(1_i64), &schema).unwrap();
        let both = binary(is_there, And, is_large, &schema).unwrap();
        assert!(both.evaluate(&batch).is_err(), "the share is computed of all rows");
        let found = evaluated(&both, &batch).unwrap();
        assert_eq!(found.as_boolean().values().iter().collect::<Vec<_>>(), [false, true, false, false]);
    }
}
