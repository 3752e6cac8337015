//! Window functions (OVER): the partitions that an epoch touches are computed again, before and after, and the difference is the change. What is computed is
//! DataFusion's own window expressions, over a partition's rows in order. A partition on which they fail, as a sum does not fit its
//! type, gives no rows until other rows make it right. Where rows keep their values when others come behind them ([`Appends`]), and
//! only such come, these alone come out, computed of themselves and the rows before them that they need.
use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, UInt64Array},
    compute::concat_batches,
    datatypes::{DataType, SchemaRef},
};
use datafusion::{
    common::Result,
    physical_expr::window::{PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr},
};
use hashbrown::HashMap;
use polybolos_state::{BucketTable, Table, TableKind};

use super::{
    Appends, EpochContext, Operator,
    aggregate::named,
    buckets, load,
    sorted::{Partition, SortedRows},
};
use crate::{
    delta::Delta,
    event_time::{TimeColumn, dropped, expiries},
    keys::RowFormat,
};

/// Windows that are sessions: once one is closed no row of it changes, whatever comes for others of its partition.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The expression that gives sessions' ends.
    pub end: usize,
    pub time: TimeColumn,
}

#[derive(Debug)]
pub struct Window {
    pub rows: SortedRows,
    pub expressions: Vec<Arc<dyn WindowExpr>>,
    pub session: Option<Session>,
    /// `None`: each change of a partition may change all of its rows.
    pub appends: Option<Appends>,
    /// The kept columns, then one per expression.
    pub output: SchemaRef,
}

impl Window {
    fn compute(&self, rows: &[Box<[u8]>]) -> Result<RecordBatch> {
        let batch = self.rows.batch(rows)?;
        let results = self.expressions.iter().map(|expression| expression.evaluate(&batch));
        let columns: Vec<ArrayRef> = batch.columns().iter().cloned().map(Ok).chain(results).collect::<Result<_>>()?;
        Ok(RecordBatch::try_new(self.output.clone(), columns)?)
    }

    /// What rows that all come behind those of their partition are, computed; `None`: the whole partition has to be.
    fn appended(&self, table: &BucketTable, key: &[u8], rows: &[(&[u8], i64)]) -> Option<RecordBatch> {
        // With a TTL all rows of a partition end together, so that each has to be touched.
        let appends = self.appends.as_ref().filter(|_| !table.has_ttl())?;
        if rows.iter().any(|(_, weight)| *weight <= 0) {
            return None;
        }
        let mut new: Vec<&[u8]> = rows.iter().flat_map(|(row, weight)| (0..*weight).map(move |_| *row)).collect();
        new.sort_unstable();
        let mut tail = SortedRows::rows_before(table, key, new.first()?, appends.context)?;
        let known = tail.len();
        tail.extend(new.iter().copied().map(Box::from));
        // What fails makes the partition fail, whose rows then have to be taken back.
        let mut columns = self.compute(&tail).ok()?.columns().to_vec();
        if !appends.numbers.is_empty() {
            // With fewer than could be needed they are all.
            let skipped = if known < appends.context { 0 } else { SortedRows::count(table, key) - known as u64 };
            let numbers = UInt64Array::from_iter_values((1..=tail.len() as u64).map(|number| skipped + number));
            let numbers: ArrayRef = Arc::new(numbers);
            appends.numbers.iter().for_each(|expression| columns[self.rows.columns + expression] = numbers.clone());
        }
        let computed = RecordBatch::try_new(self.output.clone(), columns).ok()?;
        Some(computed.slice(known, new.len()))
    }

    /// Gives rows the expiry of their session, or of the whole partition where that ends some time after its last change.
    fn prolong(&self, table: &mut BucketTable, key: &[u8], rows: &[Box<[u8]>], computed: Option<&RecordBatch>) -> Result<()> {
        let ends = match (&self.session, computed) {
            (Some(session), Some(computed)) => {
                expiries(&[(computed.column(self.rows.columns + session.end).clone(), session.time)])?
            }
            (None, _) if table.has_ttl() => vec![None; rows.len()],
            _ => return Ok(()),
        };
        for (row, end) in rows.iter().zip(ends) {
            if (end.is_none() || table.expiry(key, row) != end)
                && let Some(entry) = table.get(key, row)
            {
                table.put(key, row, entry, end);
            }
        }
        Ok(())
    }

    /// The rows of `after` that `before` has not, and the other way round.
    fn difference(&self, before: &RecordBatch, after: RecordBatch) -> Result<Option<Delta>> {
        if before.num_rows() == 0 {
            return Ok((after.num_rows() > 0).then(|| Delta::added(after)));
        }
        let format = RowFormat::of(self.output.fields())?;
        let (old, new) = (format.encode(before.columns())?, format.encode(after.columns())?);
        let mut weights: HashMap<&[u8], i64> = HashMap::new();
        (0..before.num_rows()).for_each(|row| *weights.entry(old.row(row)).or_default() -= 1);
        (0..after.num_rows()).for_each(|row| *weights.entry(new.row(row)).or_default() += 1);
        weights.retain(|_, weight| *weight != 0);
        if weights.is_empty() {
            return Ok(None);
        }
        let (rows, weights): (Vec<&[u8]>, Vec<i64>) = weights.into_iter().unzip();
        let batch = RecordBatch::try_new(self.output.clone(), format.decode(rows)?)?;
        Ok(Some(Delta::weighted(batch, Int64Array::from(weights))))
    }
}

/// An expression as layouts have it, see [`named`]: sums of DECIMALs over frames that slide wrapped around before 2026-11-29.
fn shown(expression: &dyn WindowExpr) -> String {
    if let Some(plain) = expression.as_any().downcast_ref::<PlainAggregateWindowExpr>() {
        return named(plain.get_aggregate_expr());
    }
    let Some(sliding) = expression.as_any().downcast_ref::<SlidingAggregateWindowExpr>() else {
        return expression.name().to_owned();
    };
    let function = sliding.get_aggregate_expr();
    let is_sum = function.fun().name() == "sum" && !function.is_distinct();
    let is_checked = is_sum && matches!(function.field().data_type(), DataType::Decimal128(..));
    format!("{}{}", named(function), if is_checked { " (checked)" } else { "" })
}

impl Operator for Window {
    fn tables(&self) -> Vec<TableKind> {
        vec![TableKind::Buckets]
    }

    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let deltas: Vec<Delta> = inputs.into_iter().flatten().filter(|delta| delta.rows() > 0).collect();
        if deltas.is_empty() {
            return Ok(vec![]);
        }
        let (mut before, mut after) = (vec![], vec![]);
        let encoded = self.rows.encode(&deltas)?;
        let partitions = encoded.partitions();
        load(&mut tables[0], partitions.iter().map(|partition| partition.key))?;
        let table = buckets(&mut tables[0]);
        for Partition { key, expiry, rows } in partitions {
            let appended = self.appended(table, key, &rows);
            let old = if appended.is_some() { vec![] } else { SortedRows::rows_of(table, key, usize::MAX) };
            for (row, weight) in rows {
                table.add(key, row, weight, expiry);
            }
            if let Some(appended) = appended {
                after.push(appended);
                continue;
            }
            let new = SortedRows::rows_of(table, key, usize::MAX);
            if !old.is_empty() {
                // What could not be computed did not come out.
                before.extend(self.compute(&old).ok());
            }
            if !new.is_empty() {
                let computed = self.compute(&new);
                self.prolong(table, key, &new, computed.as_ref().ok())?;
                match computed {
                    Ok(computed) => after.push(computed),
                    Err(error) => context.fail(self, &Delta::added(self.rows.batch(&new[..1])?), &error),
                }
            }
        }
        let (before, after) = (concat_batches(&self.output, &before)?, concat_batches(&self.output, &after)?);
        Ok(self.difference(&before, after)?.into_iter().collect())
    }

    fn describe(&self) -> String {
        let names: Vec<_> = self.expressions.iter().map(|expression| shown(expression.as_ref())).collect();
        format!("Window: [{}], {}", names.join(", "), self.rows.describe())
    }

    fn growing_tables(&self) -> Vec<bool> {
        vec![self.session.is_none() && self.rows.times.is_empty()]
    }

    fn kept(&self) -> Vec<String> {
        self.rows.kept()
    }

    fn state(&self) -> Option<String> {
        let dropped = match &self.session {
            Some(session) => dropped(&[("the session's end".into(), session.time)]),
            None => self.rows.dropped(),
        };
        Some(format!("all rows of each partition, {dropped}"))
    }
}

#[cfg(test)]
mod tests;
