//! Window functions (OVER): the partitions that an epoch touches are computed again, before and after, and the difference is the change. What is computed is
//! DataFusion's own window expressions, over a partition's rows in order. A partition on which they fail, as a sum does not fit its
//! type, gives no rows until other rows make it right.
//!
//! A partition need not be computed as a whole where rows come at its end:
//! * where rows keep their values when others come behind them ([`Appends`]), and only such come, these alone come out, computed of
//!   themselves and the rows before them that they need;
//! * where what the rows in front add up to is kept ([`Resuming`]), changes among the last peers and behind them take only these.
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
use polybolos_state::{BucketTable, Table, TableKind, ValueTable};

mod prefix;

use prefix::Prefix;
pub use prefix::Resuming;

use super::{
    Appends, EpochContext, Operator,
    aggregate::named,
    buckets, load,
    sorted::{Partition, SortedRows},
    values,
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
    /// `None`: rows at the end of a partition may change all of its rows, or `resuming` is there.
    pub appends: Option<Appends>,
    /// `None`: nothing is kept of the rows in front of a partition's last peers.
    pub resuming: Option<Resuming>,
    /// The kept columns, then one per expression.
    pub output: SchemaRef,
}

/// The end of a partition before an epoch changes it, from its last peers on.
struct Tail {
    prefix: Prefix,
    /// With those in front that are needed.
    rows: Vec<Box<[u8]>>,
    in_front: usize,
    /// `None`: no row is in the tail.
    computed: Option<RecordBatch>,
}

/// What was and what is of a partition, as far as it was computed.
struct Change {
    before: Option<RecordBatch>,
    after: Option<RecordBatch>,
    /// Of the partition as it is.
    prefix: Option<Prefix>,
}

/// Whether rows that come end when those of their partition do, which all end together: with a TTL, if they have changed lately.
fn end_together(table: &BucketTable, key: &[u8]) -> bool {
    let mut is_together = true;
    table.visit_backwards(key, |row, _| {
        is_together = table.ends_with_changes(key, row);
        false
    });
    is_together
}

impl Window {
    fn evaluate(&self, rows: &[Box<[u8]>]) -> Result<RecordBatch> {
        let batch = self.rows.batch(rows)?;
        let results = self.expressions.iter().map(|expression| expression.evaluate(&batch));
        let columns: Vec<ArrayRef> = batch.columns().iter().cloned().map(Ok).chain(results).collect::<Result<_>>()?;
        Ok(RecordBatch::try_new(self.output.clone(), columns)?)
    }

    /// All rows of a partition.
    fn compute(&self, rows: &[Box<[u8]>]) -> Result<(RecordBatch, Option<Prefix>)> {
        let Some(resuming) = &self.resuming else { return Ok((self.evaluate(rows)?, None)) };
        let (computed, prefix) = self.resume(resuming, None, rows, 0)?;
        Ok((computed, Some(prefix)))
    }

    /// The rows behind a prefix; `rows` begin with so many of those in front.
    fn resume(
        &self,
        resuming: &Resuming,
        prefix: Option<&Prefix>,
        rows: &[Box<[u8]>],
        in_front: usize,
    ) -> Result<(RecordBatch, Prefix)> {
        let (columns, prefix) = resuming.compute(&self.expressions, &self.rows, prefix, rows, in_front)?;
        Ok((RecordBatch::try_new(self.output.clone(), columns)?, prefix))
    }

    /// The end of a partition where all that changes is there; `None`: the whole partition has to be computed.
    fn tail(
        &self,
        table: &BucketTable,
        prefixes: Option<&ValueTable>,
        key: &[u8],
        changes: &[(&[u8], i64)],
    ) -> Result<Option<Tail>> {
        let (Some(resuming), Some(prefixes)) = (&self.resuming, prefixes) else { return Ok(None) };
        // Where there is none, the partition is new, or could not be computed.
        let Some(kept) = prefixes.get(key) else { return Ok(None) };
        let prefix = resuming.decode(kept)?;
        if changes.iter().any(|(row, _)| *row < &*prefix.end) || !end_together(table, key) {
            return Ok(None);
        }
        let (rows, in_front) = SortedRows::rows_from(table, key, &prefix.end, resuming.context);
        let mut computed = None;
        if rows.len() > in_front {
            let Ok((batch, _)) = self.resume(resuming, Some(&prefix), &rows, in_front) else { return Ok(None) };
            computed = Some(batch);
        }
        Ok(Some(Tail { prefix, rows, in_front, computed }))
    }

    /// What rows that all come behind those of their partition are, computed; `None`: the whole partition has to be.
    fn appended(&self, table: &BucketTable, key: &[u8], rows: &[(&[u8], i64)]) -> Option<RecordBatch> {
        let appends = self.appends.as_ref()?;
        if rows.iter().any(|(_, weight)| *weight <= 0) || !end_together(table, key) {
            return None;
        }
        let mut new: Vec<&[u8]> = rows.iter().flat_map(|(row, weight)| (0..*weight).map(move |_| *row)).collect();
        new.sort_unstable();
        let mut tail = SortedRows::rows_before(table, key, new.first()?, appends.context)?;
        let known = tail.len();
        tail.extend(new.iter().copied().map(Box::from));
        // What fails makes the partition fail, whose rows then have to be taken back.
        let mut columns = self.evaluate(&tail).ok()?.columns().to_vec();
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
            let stays = if end.is_some() { table.expiry(key, row) == end } else { table.ends_with_changes(key, row) };
            if !stays && let Some(entry) = table.get(key, row) {
                table.put(key, row, entry, end);
            }
        }
        Ok(())
    }

    /// Changes the rows of a partition.
    fn change(
        &self,
        context: &EpochContext<'_>,
        table: &mut BucketTable,
        prefixes: Option<&ValueTable>,
        partition: Partition<'_>,
    ) -> Result<Change> {
        let Partition { key, expiry, rows } = partition;
        let appended = self.appended(table, key, &rows);
        let tail = self.tail(table, prefixes, key, &rows)?;
        let is_short = appended.is_some() || tail.is_some();
        let mut old = if is_short { vec![] } else { SortedRows::rows_of(table, key, usize::MAX) };
        for (row, weight) in rows {
            table.add(key, row, weight, expiry);
        }
        if appended.is_some() {
            return Ok(Change { before: None, after: appended, prefix: None });
        }
        if let (Some(tail), Some(resuming)) = (tail, &self.resuming) {
            let (new, in_front) = SortedRows::rows_from(table, key, &tail.prefix.end, resuming.context);
            if new.len() == in_front {
                let prefix = Some(tail.prefix).filter(Prefix::has_rows);
                return Ok(Change { before: tail.computed, after: None, prefix });
            }
            if let Ok((after, prefix)) = self.resume(resuming, Some(&tail.prefix), &new, in_front) {
                return Ok(Change { before: tail.computed, after: Some(after), prefix: Some(prefix) });
            }
            // What fails makes the partition fail, whose rows have to be taken back.
            old = SortedRows::rows_until(table, key, &tail.prefix.end);
            old.extend(tail.rows.into_iter().skip(tail.in_front));
        }
        let new = SortedRows::rows_of(table, key, usize::MAX);
        let mut change = Change { before: None, after: None, prefix: None };
        if !old.is_empty() {
            // What could not be computed did not come out.
            change.before = self.compute(&old).ok().map(|(before, _)| before);
        }
        if !new.is_empty() {
            let computed = self.compute(&new);
            self.prolong(table, key, &new, computed.as_ref().ok().map(|(after, _)| after))?;
            match computed {
                Ok((after, prefix)) => (change.after, change.prefix) = (Some(after), prefix),
                Err(error) => context.fail(self, &Delta::added(self.rows.batch(&new[..1])?), &error),
            }
        }
        Ok(change)
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
        let prefixes = self.resuming.as_ref().map(|_| TableKind::Values);
        std::iter::once(TableKind::Buckets).chain(prefixes).collect()
    }

    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let deltas: Vec<Delta> = inputs.into_iter().flatten().filter(|delta| delta.rows() > 0).collect();
        if deltas.is_empty() {
            return Ok(vec![]);
        }
        let (mut before, mut after) = (vec![], vec![]);
        let encoded = self.rows.encode(&deltas)?;
        let partitions = encoded.partitions();
        for table in tables.iter_mut() {
            load(table, partitions.iter().map(|partition| partition.key))?;
        }
        let (rows, prefixes) = tables.split_at_mut(1);
        let (table, mut prefixes) = (buckets(&mut rows[0]), prefixes.first_mut().map(values));
        for partition in partitions {
            let (key, expiry) = (partition.key, partition.expiry);
            let change = self.change(context, table, prefixes.as_deref(), partition)?;
            if let (Some(prefixes), Some(resuming)) = (&mut prefixes, &self.resuming) {
                match &change.prefix {
                    Some(prefix) => prefixes.put(key, &resuming.encode(prefix)?, expiry),
                    None => prefixes.delete(key),
                }
            }
            before.extend(change.before);
            after.extend(change.after);
        }
        let (before, after) = (concat_batches(&self.output, &before)?, concat_batches(&self.output, &after)?);
        Ok(self.difference(&before, after)?.into_iter().collect())
    }

    fn describe(&self) -> String {
        let names: Vec<_> = self.expressions.iter().map(|expression| shown(expression.as_ref())).collect();
        format!("Window: [{}], {}", names.join(", "), self.rows.describe())
    }

    fn growing_tables(&self) -> Vec<bool> {
        vec![self.session.is_none() && self.rows.times.is_empty(); self.tables().len()]
    }

    fn kept(&self) -> Vec<String> {
        let mut kept = self.rows.kept();
        kept.extend(self.resuming.iter().flat_map(|resuming| resuming.kept(&self.expressions)));
        kept
    }

    fn state(&self) -> Option<String> {
        let dropped = match &self.session {
            Some(session) => dropped(&[("the session's end".into(), session.time)]),
            None => self.rows.dropped(),
        };
        let totals = if self.resuming.is_some() { " and its totals" } else { "" };
        Some(format!("all rows of each partition{totals}, {dropped}"))
    }
}

#[cfg(test)]
mod tests;
