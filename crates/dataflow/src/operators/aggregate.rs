//! Aggregation of input that is only added to. DataFusion's own accumulators do it: the touched groups' partial states are merged in front of the new
//! rows, kept again, and evaluated; so every aggregate that merges is exactly what DataFusion says it is, user-defined ones included. Of those whose partial
//! states would grow with their group, the values are kept instead ([`super::remembered`]).
use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, Int64Array, RecordBatch, UInt32Array, new_empty_array},
    datatypes::{DataType, FieldRef, Int64Type},
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
    grouping::{Grouping, Shown, Touched, changes, pick, sliced, values_end},
    load,
    remembered::{CallRows, Remembered},
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

    /// There are so many groups. An accumulator takes it that each has rows in the batch at hand, unless it has seen a filter.
    pub(super) fn tell_of_groups(&self, accumulator: &mut dyn GroupsAccumulator, count: usize) -> Result<()> {
        let nothing: Vec<ArrayRef> = self.types.iter().map(new_empty_array).collect();
        accumulator.update_batch(&nothing, &[], Some(&BooleanArray::from(Vec::<bool>::new())), count)
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

/// Whether a call takes a row that its filter was asked about.
pub(super) fn takes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
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
    /// Fields of partial states, by call; none where its values are remembered.
    states: Vec<Vec<FieldRef>>,
    /// Calls with DISTINCT of the same arguments, by index: they share a table, in which each has a bit.
    distinct: Vec<Vec<usize>>,
    /// By call.
    remembered: Vec<Option<Remembered>>,
}

/// What a group keeps behind its partial states, where values are remembered: how many rows it has had, and where values end the results that came out last.
static REMEMBERING: [DataType; 2] = [DataType::Int64, DataType::Binary];

impl Aggregate {
    pub fn try_new(grouping: Grouping) -> Result<Self> {
        let (mut states, mut remembered) = (vec![], vec![]);
        for call in &grouping.calls {
            call.check()?;
            let fields = call.function.state_fields()?;
            let values = Remembered::of(call, &fields);
            if values.is_some() {
                RowFormat::new(&call.types)?;
            }
            states.push(if values.is_some() { vec![] } else { fields });
            remembered.push(values);
        }
        let mut distinct: Vec<Vec<usize>> = vec![];
        for (index, call) in grouping.calls.iter().enumerate().filter(|(_, call)| call.distinct) {
            let shares = |calls: &&mut Vec<usize>| calls.len() < BITS && grouping.calls[calls[0]].arguments == call.arguments;
            match distinct.iter_mut().find(shares) {
                Some(calls) => calls.push(index),
                None => distinct.push(vec![index]),
            }
        }
        let aggregate = Self { grouping, states, distinct, remembered };
        aggregate.grouping.key_format()?;
        aggregate.state_format()?;
        if aggregate.remembers() {
            aggregate.grouping.result_format()?;
        }
        Ok(aggregate)
    }

    fn remembers(&self) -> bool {
        self.remembered.iter().any(Option::is_some)
    }

    fn calls(&self) -> impl Iterator<Item = (&Call, Option<Remembered>)> {
        self.grouping.calls.iter().zip(self.remembered.iter().copied())
    }

    fn state_format(&self) -> Result<RowFormat> {
        let more: &[DataType] = if self.remembers() { &REMEMBERING } else { &[] };
        RowFormat::new(self.states.iter().flatten().map(|field| field.data_type()).chain(more))
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

    /// What partial states, and the values remembered of these keys, say, group by group.
    fn results(&self, states: &[ArrayRef], keys: &[&[u8]], value_tables: &mut [Table]) -> Result<Vec<ArrayRef>> {
        let groups: Vec<usize> = (0..keys.len()).collect();
        let mut tables = value_tables.iter_mut();
        let mut results = vec![];
        for ((call, remembered), states) in self.calls().zip(self.by_call(states)) {
            if let Some(remembered) = remembered {
                let Some(table) = tables.next() else { unreachable!("what is remembered has a table") };
                results.push(remembered.results(call, buckets(table), keys)?);
                continue;
            }
            let mut accumulator = call.accumulator()?;
            accumulator.merge_batch(states, &groups, keys.len())?;
            results.push(accumulator.evaluate(EmitTo::All)?);
        }
        Ok(results)
    }

    fn shown(&self, groups: &[ArrayRef], states: &[ArrayRef], keys: &[&[u8]], value_tables: &mut [Table]) -> Result<Shown> {
        self.grouping.shown(groups, keys.len(), |rows| self.results(&sliced(states, &rows), &keys[rows], value_tables))
    }

    /// What came out last of the groups `known`, and the group of each row.
    fn shown_before(
        &self,
        touched: &Touched,
        known: &[usize],
        states: &[ArrayRef],
        value_tables: &mut [Table],
    ) -> Result<(RecordBatch, UInt32Array)> {
        if values_end(value_tables) {
            let Some(kept) = states.last() else { unreachable!("what remembers values keeps results") };
            return self.grouping.came_out(touched, known, kept);
        }
        let groups = UInt32Array::from_iter_values(known.iter().map(|group| *group as u32));
        let keys: Vec<&[u8]> = known.iter().map(|group| touched.keys.row(*group)).collect();
        Ok(self.shown(&pick(&touched.columns, &groups)?, states, &keys, value_tables)?.numbered(&groups))
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
        let mut firsts: Vec<_> = calls.iter().map(|_| BooleanBufferBuilder::new(groups.len())).collect();
        for (row, &group) in groups.iter().enumerate() {
            let mut bits = 0;
            if arguments.iter().all(|column| column.is_valid(row)) {
                calls.iter().enumerate().for_each(|(bit, call)| bits |= i64::from(takes(filters[*call].as_ref(), row)) << bit);
            }
            if bits != 0 {
                bits &= !table.mark(touched.keys.row(group), rows.row(row), bits, touched.expiry_of_values(group));
            }
            firsts.iter_mut().enumerate().for_each(|(bit, first)| first.append(bits >> bit & 1 == 1));
        }
        Ok(firsts.into_iter().map(|mut first| BooleanArray::new(first.finish(), None)).collect())
    }

    /// The groups that are closed, where they come out then.
    fn closed(&self, context: &EpochContext<'_>, tables: &mut [Table]) -> Result<Vec<Delta>> {
        let Some(watermark) = context.watermark_us.filter(|_| self.grouping.emit_on_close) else { return Ok(vec![]) };
        let Some((groups_table, more_tables)) = tables.split_first_mut() else { return Ok(vec![]) };
        let (keys, states): (Vec<_>, Vec<_>) = values(groups_table).due(watermark).unzip();
        if keys.is_empty() {
            return Ok(vec![]);
        }
        let value_tables = &mut more_tables[self.distinct.len()..];
        value_tables.iter_mut().try_for_each(|table| load(table, keys.iter().copied()))?;
        let columns = self.grouping.key_format()?.decode(keys.iter().copied())?;
        let shown = self.shown(&columns, &self.state_format()?.decode(states)?, &keys, value_tables)?;
        self.grouping.set_aside(context, self, &columns, &shown.failed)?;
        Ok(vec![Delta::added(shown.rows)])
    }
}

impl Operator for Aggregate {
    fn tables(&self) -> Vec<TableKind> {
        let of_values = self.distinct.len() + self.remembered.iter().flatten().count();
        [TableKind::Values].into_iter().chain(std::iter::repeat_n(TableKind::Buckets, of_values)).collect()
    }

    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let deltas =
            inputs.into_iter().flatten().filter(|delta| delta.rows() > 0).map(Delta::repeated).collect::<Result<Vec<_>>>()?;
        let standing = self.grouping.new_standing(context, &mut tables[0])?;
        if deltas.is_empty() && standing.is_empty() {
            return self.closed(context, tables);
        }
        let touched = self.grouping.intern(&deltas, &standing)?;
        touched.load(tables)?;
        let Some((groups_table, more_tables)) = tables.split_first_mut() else { return Ok(vec![]) };
        let (distinct_tables, value_tables) = more_tables.split_at_mut(self.distinct.len());
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
        let old = match known.is_empty() || self.grouping.emit_on_close {
            true => None,
            false => Some(self.shown_before(&touched, &known, &old_states, value_tables)?),
        };

        let merging = |(call, remembered): (&Call, Option<Remembered>)| match remembered {
            Some(_) => Ok(None),
            None => call.accumulator().map(Some),
        };
        let mut accumulators = self.calls().map(merging).collect::<Result<Vec<_>>>()?;
        // Groups of this epoch may have their rows in another batch than the one at hand, or none.
        if deltas.len() != 1 || !known.is_empty() || !standing.is_empty() {
            for (call, accumulator) in self.grouping.calls.iter().zip(&mut accumulators) {
                if let Some(accumulator) = accumulator {
                    call.tell_of_groups(accumulator.as_mut(), count)?;
                }
            }
        }
        let mut rows_of = vec![0_i64; count];
        if !known.is_empty() {
            for (accumulator, states) in accumulators.iter_mut().zip(self.by_call(&old_states)) {
                if let Some(accumulator) = accumulator {
                    accumulator.merge_batch(states, &known, count)?;
                }
            }
            if self.remembers() {
                let counts = old_states[old_states.len() - REMEMBERING.len()].as_primitive::<Int64Type>();
                known.iter().zip(counts.values().iter()).for_each(|(group, rows)| rows_of[*group] = *rows);
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
            let number = |group: &usize| {
                rows_of[*group] += 1;
                rows_of[*group]
            };
            let numbers: Vec<i64> = if self.remembers() { groups.iter().map(number).collect() } else { vec![] };
            let mut tables = value_tables.iter_mut();
            for (place, (call, remembered)) in self.calls().enumerate() {
                let (arguments, filter) = (&arguments[place], filters[place].as_ref());
                if let Some(accumulator) = &mut accumulators[place] {
                    accumulator.update_batch(arguments, groups, filter, count)?;
                } else if let (Some(remembered), Some(table)) = (remembered, tables.next()) {
                    let rows = CallRows { groups, numbers: &numbers, arguments, filter };
                    remembered.add(call, buckets(table), &touched, &rows)?;
                }
            }
        }
        let mut states = vec![];
        for accumulator in accumulators.iter_mut().flatten() {
            states.extend(accumulator.state(EmitTo::All)?);
        }
        let new = match self.grouping.emit_on_close {
            true => None,
            false => {
                let keys: Vec<&[u8]> = touched.keys.rows(count).collect();
                Some(self.shown(&touched.columns, &states, &keys, value_tables)?)
            }
        };
        if self.remembers() {
            states.push(Arc::new(Int64Array::from(rows_of)));
            states.push(self.grouping.kept_results(new.as_ref().filter(|_| values_end(value_tables)), count)?);
        }
        let rows = self.state_format()?.encode(&states)?;
        let table = values(groups_table);
        table.reserve(count);
        for group in 0..count {
            table.put(touched.keys.row(group), rows.row(group), touched.expiries[group]);
        }
        let Some(new) = new else {
            // Among them those whose rows came as they closed, as results of windows do.
            return self.closed(context, tables);
        };
        self.grouping.set_aside(context, self, &touched.columns, &new.failed)?;
        changes(self.grouping.columns.len(), old, new.rows, &new.of)
    }

    fn has_timers(&self) -> bool {
        self.grouping.emit_on_close
    }

    fn describe(&self) -> String {
        self.grouping.describe(match (self.remembers(), self.remembered.contains(&None)) {
            (false, _) => "Aggregate (merging)",
            (true, true) => "Aggregate (merging, and of remembered values)",
            (true, false) => "Aggregate (of remembered values)",
        })
    }

    fn growing_tables(&self) -> Vec<bool> {
        self.grouping.growing(self.tables().len())
    }

    fn kept(&self) -> Vec<String> {
        let mut kept = self.grouping.kept_keys();
        let merged = self.calls().zip(&self.states).filter(|((_, remembered), _)| remembered.is_none());
        kept.extend(merged.map(|((call, _), fields)| typed(&call.describe(), fields.iter().map(|field| field.data_type()))));
        kept.extend(self.distinct.iter().map(|calls| self.grouping.calls[calls[0]].kept_values()));
        kept.extend(self.calls().filter(|(_, remembered)| remembered.is_some()).map(|(call, _)| call.kept_values()));
        kept.extend(self.remembers().then(|| typed("last results", self.grouping.result_types())));
        kept
    }

    fn state(&self) -> Option<String> {
        let merged = "one partial state per group";
        let dropped = self.grouping.dropped();
        if !self.remembers() {
            return Some(format!("{merged}, {dropped}"));
        }
        let mut kept = vec![];
        for way in [None, Some(Remembered::Multiset), Some(Remembered::Distinct), Some(Remembered::AsTheyCame)] {
            let calls = self.calls().filter(|(_, remembered)| *remembered == way);
            let calls: Vec<&str> = calls.map(|(call, _)| call.function.name()).collect();
            if !calls.is_empty() {
                kept.push(format!("{} [{}]", way.map_or(merged, Remembered::words), calls.join(", ")));
            }
        }
        kept.push(dropped);
        Some(kept.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
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
