//! Aggregation of input that changes: rows are taken away again. A count, a sum, an average or bits add up and are kept as such; of every other aggregate the
//! values are remembered per group. Where these end by a TTL, the group keeps what came out last, which is taken back as it was.
use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, UInt32Array},
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    common::{Result, ScalarValue},
    logical_expr::EmitTo,
};
use hashbrown::HashSet;
use polybolos_state::{BucketTable, Table, TableKind};

use super::{
    EpochContext, Operator,
    aggregate::{Call, takes},
    buckets,
    grouping::{Grouping, Shown, Touched, changes, pick, sliced, values_end},
    linear::{Adding, Linear},
    multiset::Multiset,
    values,
};
use crate::{
    delta::Delta,
    keys::{RowFormat, typed},
};

#[derive(Debug)]
enum Keeping {
    /// Columns of the group's value.
    Linear(Linear),
    /// Of distinct values: a table of values in front.
    LinearOfDistinct(Linear),
    Multiset(Multiset),
}

impl Keeping {
    fn linear(&self) -> Option<Linear> {
        match self {
            Self::Linear(linear) | Self::LinearOfDistinct(linear) => Some(*linear),
            Self::Multiset(_) => None,
        }
    }

    fn has_table(&self) -> bool {
        !matches!(self, Self::Linear(_))
    }
}

#[derive(Debug)]
pub struct ChangingAggregate {
    grouping: Grouping,
    keeping: Vec<Keeping>,
}

/// Rows of a group, per group: groups without rows are no more.
const ROWS: usize = 0;

impl ChangingAggregate {
    pub fn try_new(grouping: Grouping) -> Result<Self> {
        let keeping = |call: &Call| {
            let linear = Linear::of(call)?;
            match linear {
                Some(_) => call.check()?,
                None => call.function.create_accumulator().map(drop)?,
            }
            Ok(match linear {
                Some(linear) if call.distinct => Keeping::LinearOfDistinct(linear),
                Some(linear) => Keeping::Linear(linear),
                None => Keeping::Multiset(Multiset::of(call)),
            })
        };
        let keeping = grouping.calls.iter().map(keeping).collect::<Result<_>>()?;
        let aggregate = Self { grouping, keeping };
        aggregate.grouping.key_format()?;
        aggregate.value_format(true)?;
        for (call, _) in aggregate.grouping.calls.iter().zip(&aggregate.keeping).filter(|(_, keeping)| keeping.has_table()) {
            RowFormat::new(&call.types)?;
        }
        Ok(aggregate)
    }

    /// Whether results that came out before are not to be computed of the state.
    fn keeps_results(&self, value_tables: &mut [Table]) -> bool {
        self.keeping.iter().any(|keeping| matches!(keeping, Keeping::Multiset(_))) && values_end(value_tables)
    }

    fn value_format(&self, keeps_results: bool) -> Result<RowFormat> {
        let linear = self.keeping.iter().filter_map(Keeping::linear).flat_map(Linear::state_types);
        let results = keeps_results.then_some(DataType::Binary);
        let types: Vec<DataType> = [DataType::Int64].into_iter().chain(linear).chain(results).collect();
        RowFormat::new(&types)
    }

    /// What is kept, in words.
    fn words(&self, keeps_results: bool) -> String {
        let calls = || self.grouping.calls.iter().zip(&self.keeping);
        let sum = |(call, keeping): (&Call, &Keeping)| Some(format!("{}{}", call.function.name(), keeping.linear()?.words()));
        let sums = calls().filter_map(sum).collect::<Vec<_>>().join(", ");
        let value = |(call, keeping): (&Call, &Keeping)| match keeping {
            Keeping::Multiset(multiset) => Some(format!("{}{}", call.function.name(), multiset.words())),
            Keeping::Linear(_) | Keeping::LinearOfDistinct(_) => None,
        };
        let remembered = calls().filter_map(value).collect::<Vec<_>>().join(", ");
        let mut words = vec![];
        if !sums.is_empty() || remembered.is_empty() {
            words.push(format!("running sums per group [{sums}]"));
        }
        if !remembered.is_empty() {
            words.push(format!("every value per group [{remembered}]"));
            words.extend(keeps_results.then(|| typed("last results", self.grouping.result_types())));
        }
        words.push(self.grouping.dropped());
        words.join(", ")
    }

    /// Results of linear calls from kept columns (`None` for the others), one row per group.
    fn linear_results(&self, kept: &[ArrayRef], count: usize) -> Result<Vec<Option<ArrayRef>>> {
        let groups: Vec<usize> = (0..count).collect();
        let mut rest = &kept[ROWS + 1..];
        let mut results = vec![];
        for (call, keeping) in self.grouping.calls.iter().zip(&self.keeping) {
            let Some(linear) = keeping.linear() else {
                results.push(None);
                continue;
            };
            let (mine, others) = rest.split_at(linear.state_types().len());
            rest = others;
            let mut accumulator = call.accumulator()?;
            accumulator.merge_batch(&linear.datafusion_states(mine)?, &groups, count)?;
            results.push(Some(accumulator.evaluate(EmitTo::All)?));
        }
        Ok(results)
    }

    /// Results of all calls for the groups `rows`: from kept columns, which have one row each, and of multisets looked up.
    fn results(&self, kept: &[ArrayRef], tables: &mut [Table], touched: &Touched, rows: &[usize]) -> Result<Vec<ArrayRef>> {
        let linear = self.linear_results(kept, rows.len())?;
        let mut tables = tables.iter_mut();
        let mut columns = vec![];
        for ((call, keeping), linear) in self.grouping.calls.iter().zip(&self.keeping).zip(linear) {
            let table = if keeping.has_table() { tables.next().map(buckets) } else { None };
            let column = match (keeping, table, linear) {
                (_, _, Some(column)) => column,
                (Keeping::Multiset(multiset), Some(table), None) => {
                    let format = multiset.format(call)?;
                    let result = |group: &usize| multiset.result(call, &format, table, touched.keys.row(*group));
                    let scalars = rows.iter().map(result).collect::<Result<Vec<_>>>()?;
                    if scalars.is_empty() {
                        arrow::array::new_empty_array(call.function.field().data_type())
                    } else {
                        ScalarValue::iter_to_array(scalars)?
                    }
                }
                _ => arrow::array::new_empty_array(call.function.field().data_type()),
            };
            columns.push(column);
        }
        Ok(columns)
    }

    /// Adds an epoch's rows to what is remembered and to `adding`.
    fn add(&self, tables: &mut [Table], touched: &Touched, deltas: &[Delta], adding: &mut [Option<Adding>]) -> Result<()> {
        let mut tables = tables.iter_mut();
        for ((call, keeping), adding) in self.grouping.calls.iter().zip(&self.keeping).zip(adding) {
            let mut table = if keeping.has_table() { tables.next().map(buckets) } else { None };
            for (delta, groups) in deltas.iter().zip(&touched.groups) {
                let arguments = call.evaluate_arguments(delta.batch())?;
                let filter = call.evaluate_filter(delta.batch())?;
                let counts = |row: usize| takes(filter.as_ref(), row);
                match (keeping, table.as_deref_mut(), adding.as_mut()) {
                    (Keeping::Linear(_), _, Some(adding)) => {
                        adding.add(&arguments, groups, filter.as_ref(), |row| delta.weight(row))?;
                    }
                    (Keeping::LinearOfDistinct(_), Some(table), Some(adding)) => {
                        let rows = RowFormat::new(&call.types)?.encode(&arguments)?;
                        let mut weights = vec![0; delta.rows()];
                        for row in (0..delta.rows()).filter(|row| counts(*row)) {
                            weights[row] = appearance(table, touched, groups[row], rows.row(row), delta.weight(row));
                        }
                        adding.add(&arguments, groups, None, |row| weights[row])?;
                    }
                    (Keeping::Multiset(multiset), Some(table), _) => {
                        let rows = multiset.encode(&multiset.format(call)?, &arguments)?;
                        for row in (0..delta.rows()).filter(|row| counts(*row) && multiset.remembers(call, &arguments, *row)) {
                            let group = groups[row];
                            table.add(touched.keys.row(group), rows.row(row), delta.weight(row), touched.expiry_of_values(group));
                        }
                    }
                    _ => unreachable!("tables and sums are made by what is kept"),
                }
            }
        }
        Ok(())
    }

    /// The groups `rows` with their results.
    fn shown(&self, kept: &[ArrayRef], tables: &mut [Table], touched: &Touched, rows: &[usize]) -> Result<Shown> {
        let groups = pick(&touched.columns, &numbers(rows))?;
        self.grouping.shown(&groups, rows.len(), |range| self.results(&sliced(kept, &range), tables, touched, &rows[range]))
    }
}

/// The kept columns of the touched groups after this epoch.
fn kept_after(rows: Vec<i64>, adding: Vec<Option<Adding>>) -> Vec<ArrayRef> {
    let rows: ArrayRef = Arc::new(Int64Array::from(rows));
    [rows].into_iter().chain(adding.into_iter().flatten().flat_map(Adding::columns)).collect()
}

fn numbers(groups: &[usize]) -> UInt32Array {
    UInt32Array::from_iter_values(groups.iter().map(|group| *group as u32))
}

/// +1 when a value appears in its group, -1 when the last of it goes.
fn appearance(table: &mut BucketTable, touched: &Touched, group: usize, value: &[u8], weight: i64) -> i64 {
    let (before, after) = table.add(touched.keys.row(group), value, weight, touched.expiry_of_values(group));
    i64::from(after > 0) - i64::from(before > 0)
}

impl Operator for ChangingAggregate {
    fn tables(&self) -> Vec<TableKind> {
        let more = self.keeping.iter().filter(|keeping| keeping.has_table()).map(|_| TableKind::Buckets);
        [TableKind::Values].into_iter().chain(more).collect()
    }

    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let deltas: Vec<Delta> = inputs.into_iter().flatten().filter(|delta| delta.rows() > 0).collect();
        let standing = self.grouping.new_standing(context, &mut tables[0])?;
        if deltas.is_empty() && standing.is_empty() {
            return Ok(vec![]);
        }
        let standing_keys = self.grouping.standing_keys()?;
        let touched = self.grouping.intern(&deltas, &standing)?;
        touched.load(tables)?;
        let Some((groups_table, more_tables)) = tables.split_first_mut() else { return Ok(vec![]) };
        let count = touched.count;
        let keeps_results = self.keeps_results(more_tables);
        let format = self.value_format(keeps_results)?;

        let mut known = vec![];
        let mut loaded = vec![];
        let table = values(groups_table);
        for group in 0..count {
            if let Some(value) = table.get(touched.keys.row(group)) {
                known.push(group);
                loaded.push(value);
            }
        }
        let loaded = if known.is_empty() { vec![] } else { format.decode(loaded)? };

        let mut rows = vec![0_i64; count];
        let mut adding: Vec<Option<Adding>> =
            self.keeping.iter().map(|keeping| keeping.linear().map(|linear| Adding::new(linear, count))).collect();
        let mut old = None;
        if !known.is_empty() {
            let counts = loaded[ROWS].as_primitive::<Int64Type>();
            known.iter().enumerate().for_each(|(row, group)| rows[*group] = counts.value(row));
            let mut rest = &loaded[ROWS + 1..];
            for (adding, keeping) in adding.iter_mut().zip(&self.keeping) {
                let (Some(adding), Some(linear)) = (adding, keeping.linear()) else { continue };
                let (mine, others) = rest.split_at(linear.state_types().len());
                rest = others;
                adding.load(&known, mine)?;
            }
            old = Some(match loaded.last().filter(|_| keeps_results) {
                Some(results) => self.grouping.came_out(&touched, &known, results)?,
                // What could not be computed did not come out.
                None => self.shown(&loaded, more_tables, &touched, &known)?.numbered(&numbers(&known)),
            });
        }
        for (delta, groups) in deltas.iter().zip(&touched.groups) {
            groups.iter().enumerate().for_each(|(row, group)| rows[*group] += delta.weight(row));
        }
        self.add(more_tables, &touched, &deltas, &mut adding)?;

        let alive: Vec<usize> = (0..count)
            .filter(|group| rows[*group] > 0 || standing_keys.iter().any(|key| key.row(0) == touched.keys.row(*group)))
            .collect();
        let living = numbers(&alive);
        let mut kept = pick(&kept_after(rows, adding), &living)?;
        let new = self.shown(&kept, more_tables, &touched, &alive)?;
        if keeps_results {
            kept.push(self.grouping.kept_results(Some(&new), alive.len())?);
        }
        let encoded = format.encode(&kept)?;
        let table = values(groups_table);
        table.reserve(alive.len());
        for (row, &group) in alive.iter().enumerate() {
            table.put(touched.keys.row(group), encoded.row(row), touched.expiries[group]);
        }
        let is_alive: HashSet<usize> = alive.into_iter().collect();
        (0..count).filter(|group| !is_alive.contains(group)).for_each(|group| table.delete(touched.keys.row(group)));
        self.grouping.set_aside(context, self, &pick(&touched.columns, &living)?, &new.failed)?;
        let (new, groups) = new.numbered(&living);
        changes(self.grouping.columns.len(), old, new, &groups)
    }

    fn describe(&self) -> String {
        self.grouping.describe("Aggregate (of changing rows)")
    }

    fn growing_tables(&self) -> Vec<bool> {
        self.grouping.growing(self.tables().len())
    }

    fn kept(&self) -> Vec<String> {
        let mut kept = self.grouping.kept_keys();
        for (call, keeping) in self.grouping.calls.iter().zip(&self.keeping) {
            kept.extend(keeping.linear().map(|linear| typed(&call.describe(), &linear.state_types())));
            kept.extend(keeping.has_table().then(|| call.kept_values()));
        }
        kept
    }

    fn state(&self) -> Option<String> {
        Some(self.words(false))
    }

    fn state_with_ttl(&self) -> Option<String> {
        Some(self.words(true))
    }
}
