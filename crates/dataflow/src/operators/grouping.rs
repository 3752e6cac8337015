//! What both kinds of aggregation share: the groups that an epoch touches, and their rows as they come out and are taken back.
use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, UInt32Array, new_null_array},
    compute::{concat_batches, take},
    datatypes::{DataType, FieldRef, Schema, SchemaRef},
};
use datafusion::{
    common::{DataFusionError, Result},
    logical_expr::EmitTo,
    physical_plan::aggregates::{group_values::new_group_values, order::GroupOrdering},
};
use polybolos_state::{Table, lane_of};

use super::{EpochContext, Operator, aggregate::Call, buckets, load, next_of, values};
use crate::{
    delta::{Delta, batch_of, take_rows},
    event_time::{TimeColumn, dropped, expiries},
    keys::{EncodedRows, RowFormat, typed},
};

/// What both kinds of aggregation share: what is grouped, and what comes out.
#[derive(Clone, Debug)]
pub struct Grouping {
    /// Columns of the input that make the group.
    pub columns: Vec<usize>,
    pub calls: Vec<Call>,
    pub input: SchemaRef,
    /// The group's columns, then one per call.
    pub output: SchemaRef,
    /// Group columns (by index among them) that tell when a group is closed.
    pub times: Vec<(usize, TimeColumn)>,
    /// Groups that are there from the first epoch on, though no row is in them: the one of an aggregate without GROUP BY, and those of empty grouping
    /// sets. Per group its columns, of one row each.
    pub standing: Vec<Vec<ArrayRef>>,
    /// Groups come out once, when they are closed, and never change after that.
    pub emit_on_close: bool,
}

/// The groups that an epoch touches.
pub(super) struct Touched {
    /// Per delta, the group of each row.
    pub groups: Vec<Vec<usize>>,
    pub columns: Vec<ArrayRef>,
    pub keys: EncodedRows,
    pub expiries: Vec<Option<i64>>,
    pub count: usize,
}

impl Touched {
    pub fn load(&self, tables: &mut [Table]) -> Result<()> {
        tables.iter_mut().try_for_each(|table| load(table, self.keys.rows(self.count)))
    }

    /// When values of a group end that change now; those of one that stands are not there for good, too.
    pub fn expiry_of_values(&self, group: usize) -> Option<i64> {
        self.expiries[group].filter(|at| *at != i64::MAX)
    }
}

impl Grouping {
    pub fn is_global(&self) -> bool {
        self.columns.is_empty()
    }

    fn key_fields(&self) -> Vec<FieldRef> {
        self.output.fields().iter().take(self.columns.len()).cloned().collect()
    }

    pub(super) fn key_format(&self) -> Result<RowFormat> {
        RowFormat::new(self.key_fields().iter().map(|field| field.data_type()))
    }

    pub(super) fn kept_keys(&self) -> Vec<String> {
        let keys = self.columns.iter().zip(self.key_fields());
        keys.map(|(&column, key)| typed(&format!("key {}", self.input.field(column).name()), [key.data_type()])).collect()
    }

    /// Standing groups of this lane that were never shown.
    pub(super) fn new_standing(&self, context: &EpochContext<'_>, table: &mut Table) -> Result<Vec<Vec<ArrayRef>>> {
        let mut new = vec![];
        for columns in &self.standing {
            let key = self.key_format()?.encode(columns)?;
            if lane_of(key.row(0), context.lanes) != context.lane {
                continue;
            }
            load(table, key.rows(1))?;
            if values(table).get(key.row(0)).is_none() {
                new.push(columns.clone());
            }
        }
        Ok(new)
    }

    /// The keys of standing groups, which stay when their last row goes.
    pub(super) fn standing_keys(&self) -> Result<Vec<EncodedRows>> {
        self.standing.iter().map(|columns| self.key_format()?.encode(columns)).collect()
    }

    pub(super) fn intern(&self, deltas: &[Delta], standing: &[Vec<ArrayRef>]) -> Result<Touched> {
        if self.is_global() {
            let groups = deltas.iter().map(|delta| vec![0; delta.rows()]).collect();
            let keys = self.key_format()?.encode(&[])?;
            return Ok(Touched { groups, columns: vec![], keys, expiries: vec![None], count: 1 });
        }
        let schema = Arc::new(Schema::new(self.key_fields()));
        let mut interned = new_group_values(schema, &GroupOrdering::None)?;
        let mut groups = Vec::with_capacity(deltas.len());
        for delta in deltas {
            let columns: Vec<_> = self.columns.iter().map(|&column| delta.batch().column(column).clone()).collect();
            let mut of_delta = Vec::with_capacity(delta.rows());
            interned.intern(&columns, &mut of_delta)?;
            groups.push(of_delta);
        }
        for columns in standing {
            interned.intern(columns, &mut vec![])?;
        }
        let count = interned.len();
        let columns = interned.emit(EmitTo::All)?;
        let keys = self.key_format()?.encode(&columns)?;
        let times: Vec<_> = self.times.iter().map(|(index, time)| (columns[*index].clone(), *time)).collect();
        let mut expiries = if times.is_empty() { vec![None; count] } else { expiries(&times)? };
        // What stands is there for good, whatever the TTL.
        for key in self.standing_keys()? {
            (0..count).filter(|group| keys.row(*group) == key.row(0)).for_each(|group| expiries[group] = Some(i64::MAX));
        }
        Ok(Touched { groups, columns, keys, expiries, count })
    }

    /// Group columns and results as rows of the output.
    pub(super) fn rows(&self, groups: &[ArrayRef], results: Vec<ArrayRef>) -> Result<RecordBatch> {
        let columns = groups.iter().cloned().chain(results).collect();
        Ok(RecordBatch::try_new(self.output.clone(), columns)?)
    }

    pub(super) fn result_types(&self) -> impl Iterator<Item = &DataType> {
        self.output.fields().iter().skip(self.columns.len()).map(|field| field.data_type())
    }

    /// Of results that a group keeps.
    pub(super) fn result_format(&self) -> Result<RowFormat> {
        RowFormat::new(self.result_types())
    }

    /// What came out of groups, so many, as these keep it: NULL where nothing did.
    pub(super) fn kept_results(&self, shown: Option<&Shown>, count: usize) -> Result<ArrayRef> {
        let Some(shown) = shown else { return Ok(new_null_array(&DataType::Binary, count)) };
        let encoded = self.result_format()?.encode(&shown.rows.columns()[self.columns.len()..])?;
        let mut kept: Vec<Option<&[u8]>> = vec![None; count];
        shown.of.values().iter().enumerate().for_each(|(row, group)| kept[*group as usize] = Some(encoded.row(row)));
        Ok(Arc::new(BinaryArray::from(kept)))
    }

    /// What came out last of the groups `known`, by what they keep of it, and the group of each row.
    pub(super) fn came_out(&self, touched: &Touched, known: &[usize], kept: &ArrayRef) -> Result<(RecordBatch, UInt32Array)> {
        let kept = known.iter().zip(kept.as_binary::<i32>());
        let (groups, kept): (Vec<u32>, Vec<&[u8]>) = kept.filter_map(|(group, kept)| Some((*group as u32, kept?))).unzip();
        let groups = UInt32Array::from(groups);
        if kept.is_empty() {
            return Ok((RecordBatch::new_empty(self.output.clone()), groups));
        }
        let results = self.result_format()?.decode(kept)?;
        Ok((self.rows(&pick(&touched.columns, &groups)?, results)?, groups))
    }

    /// Groups with their results, which `results` computes of some of them: one whose results cannot be computed, as they do not fit
    /// their types, has none.
    pub(super) fn shown(
        &self,
        groups: &[ArrayRef],
        count: usize,
        mut results: impl FnMut(Range<usize>) -> Result<Vec<ArrayRef>>,
    ) -> Result<Shown> {
        match results(0..count) {
            Ok(columns) => {
                let rows = self.rows(groups, columns)?;
                Ok(Shown { rows, of: UInt32Array::from_iter_values(0..count as u32), failed: vec![] })
            }
            Err(_) if count > 0 => {
                let (mut rows, mut of, mut failed) = (vec![], vec![], vec![]);
                for group in 0..count {
                    match results(group..group + 1) {
                        Ok(columns) => {
                            rows.push(self.rows(&sliced(groups, &(group..group + 1)), columns)?);
                            of.push(group as u32);
                        }
                        Err(error) => failed.push((group, error)),
                    }
                }
                Ok(Shown { rows: concat_batches(&self.output, &rows)?, of: of.into(), failed })
            }
            Err(error) => Err(error),
        }
    }

    /// Sets groups aside that have no results.
    pub(super) fn set_aside(
        &self,
        context: &EpochContext<'_>,
        operator: &dyn Operator,
        groups: &[ArrayRef],
        failed: &[(usize, DataFusionError)],
    ) -> Result<()> {
        let schema = Arc::new(Schema::new(self.key_fields()));
        for (group, error) in failed {
            let key = sliced(groups, &(*group..group + 1));
            context.fail(operator, &Delta::added(batch_of(schema.clone(), key, 1)?), error);
        }
        Ok(())
    }

    pub(super) fn describe(&self, kind: &str) -> String {
        let keys: Vec<_> = self.columns.iter().map(|&column| self.input.field(column).name().as_str()).collect();
        let calls: Vec<_> = self.calls.iter().map(Call::describe).collect();
        let emit = if self.emit_on_close { ", emitted on window close" } else { "" };
        format!("{kind}: by [{}], [{}]{emit}", keys.join(", "), calls.join(", "))
    }

    /// Per table, whether it grows with the input: the groups', of which a total has one, then those of their values.
    pub(super) fn growing(&self, tables: usize) -> Vec<bool> {
        (0..tables).map(|table| self.times.is_empty() && (table > 0 || !self.is_global())).collect()
    }

    pub(super) fn dropped(&self) -> String {
        let named = |(index, time): &(usize, TimeColumn)| (self.output.field(*index).name().clone(), *time);
        dropped(&self.times.iter().map(named).collect::<Vec<_>>())
    }
}

/// Whether values that are remembered end by a TTL, each by itself. Results that came out before are then not to be computed again: groups keep them.
pub(super) fn values_end(value_tables: &mut [Table]) -> bool {
    value_tables.first_mut().map(buckets).is_some_and(|table| table.has_ttl())
}

pub(super) fn pick(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>> {
    columns.iter().map(|column| Ok(take(column, rows, None)?)).collect()
}

pub(super) fn sliced(columns: &[ArrayRef], rows: &Range<usize>) -> Vec<ArrayRef> {
    columns.iter().map(|column| column.slice(rows.start, rows.len())).collect()
}

/// Old rows taken away, new rows added; rows that did not change are left out. `old` names the group of each of its rows, as `new_groups` does of the
/// new ones, both ascending. Rows of a group have the same group columns, which are the first so many: only results are compared.
pub(super) fn changes(
    group_columns: usize,
    old: Option<(RecordBatch, UInt32Array)>,
    new: RecordBatch,
    new_groups: &UInt32Array,
) -> Result<Vec<Delta>> {
    let Some((old, old_groups)) = old.filter(|(old, _)| old.num_rows() > 0) else {
        return Ok(if new.num_rows() > 0 { vec![Delta::added(new)] } else { vec![] });
    };
    let schema = new.schema();
    let format = RowFormat::new(schema.fields().iter().skip(group_columns).map(|field| field.data_type()))?;
    let (before, after) = (format.encode(&old.columns()[group_columns..])?, format.encode(&new.columns()[group_columns..])?);
    let (mut gone, mut added) = (vec![], vec![]);
    let (mut i, mut j) = (0, 0);
    while i < old_groups.len() || j < new_groups.len() {
        let old_group = (i < old_groups.len()).then(|| old_groups.value(i));
        let new_group = (j < new_groups.len()).then(|| new_groups.value(j));
        let (takes_old, takes_new) = next_of(old_group, new_group);
        if !(takes_old && takes_new && before.row(i) == after.row(j)) {
            gone.extend(takes_old.then_some(i as u32));
            added.extend(takes_new.then_some(j as u32));
        }
        i += usize::from(takes_old);
        j += usize::from(takes_new);
    }
    let mut deltas = vec![];
    if !gone.is_empty() {
        let weights = Int64Array::from_value(-1, gone.len());
        deltas.push(Delta::weighted(taken(old, gone)?, weights));
    }
    if !added.is_empty() {
        deltas.push(Delta::added(taken(new, added)?));
    }
    Ok(deltas)
}

/// These rows of a batch, each once and in order: often all, as where a count is among the results. Those are not copied.
fn taken(batch: RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    if rows.len() == batch.num_rows() { Ok(batch) } else { take_rows(&batch, &UInt32Array::from(rows)) }
}

/// Groups and their results.
pub(super) struct Shown {
    pub rows: RecordBatch,
    /// The group of each row, ascending.
    pub of: UInt32Array,
    pub failed: Vec<(usize, DataFusionError)>,
}

impl Shown {
    /// The rows, with the groups as `groups` numbers them, ascending.
    pub fn numbered(self, groups: &UInt32Array) -> (RecordBatch, UInt32Array) {
        let of = self.of.values().iter().map(|row| groups.value(*row as usize));
        (self.rows, UInt32Array::from_iter_values(of))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::{array::StringArray, datatypes::Int64Type};

    use super::*;

    type Results = BTreeMap<u32, Option<i64>>;

    /// Three groups: each is not there, has no result, or has one of two.
    fn results(number: u32) -> Results {
        let result = |group: u32| match (number >> (2 * group)) & 3 {
            0 => None,
            1 => Some((group, None)),
            result => Some((group, Some(i64::from(result)))),
        };
        (0..3).filter_map(result).collect()
    }

    fn rows(results: &Results) -> (RecordBatch, UInt32Array) {
        let keys: StringArray = results.keys().map(|group| Some(format!("key {group}"))).collect();
        let numbers: Int64Array = results.values().copied().collect();
        let (keys, numbers): (ArrayRef, ArrayRef) = (Arc::new(keys), Arc::new(numbers));
        let batch = RecordBatch::try_from_iter_with_nullable([("k", keys, true), ("n", numbers, true)]).unwrap();
        (batch, UInt32Array::from_iter_values(results.keys().copied()))
    }

    /// Weight, key and result of each row.
    fn told(deltas: &[Delta]) -> Vec<(i64, String, Option<i64>)> {
        let mut told = vec![];
        for delta in deltas {
            let keys = delta.batch().column(0).as_string::<i32>();
            let numbers = delta.batch().column(1).as_primitive::<Int64Type>();
            for (row, (key, number)) in keys.iter().zip(numbers).enumerate() {
                told.push((delta.weight(row), key.unwrap().to_owned(), number));
            }
        }
        told
    }

    #[test]
    fn what_changed_of_groups_is_taken_away_and_added() {
        let only_in = |weight: i64, some: &Results, others: &Results| -> Vec<(i64, String, Option<i64>)> {
            let changed = some.iter().filter(|(group, result)| others.get(*group) != Some(*result));
            changed.map(|(group, result)| (weight, format!("key {group}"), *result)).collect()
        };
        for (before, after) in (0..64).flat_map(|before| (0..64).map(move |after| (results(before), results(after)))) {
            let (new, new_groups) = rows(&after);
            let found = changes(1, Some(rows(&before)), new, &new_groups).unwrap();
            assert_eq!(told(&found), [only_in(-1, &before, &after), only_in(1, &after, &before)].concat());
        }
    }
}
