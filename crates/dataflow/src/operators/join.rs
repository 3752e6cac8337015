//! Joins of two inputs by key, with a residual condition. Each side is kept; an epoch's new left rows meet the right rows kept before, then its new right
//! rows meet all left rows. Where one side is whole, it comes first, and of the other nothing is kept that only new rows of the whole side would need. For outer, semi, anti and mark joins each kept row counts its matches, and a row changes its answer when that count
//! leaves zero or comes back to it. Where the condition bounds a column of one side by one of the other, a key's rows are kept in the order of these
//! columns, and only those within the bounds are looked at. However many rows an epoch brings or pairs, no
//! batch has more than the offsets of its texts can say.
use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array},
    compute::{filter, take},
};
use datafusion::{
    common::{DataFusionError, JoinSide, JoinType, Result, cast::as_boolean_array},
    physical_plan::joins::utils::JoinFilter,
};
use polybolos_state::{BucketTable, Entry, Table, TableKind};

use super::{EpochContext, Operator, buckets, external};
use crate::{
    delta::{Delta, batch_of},
    evaluate,
    event_time::{TimeColumn, dropped, expiries},
    keys::{EncodedRows, all_valid, typed, typed_column},
    without_nulls,
};

mod answer;
mod spec;

use answer::Lone;
pub use spec::{JoinSpec, Side};

/// A batch has no more bytes than that, unless it has one row: the offsets of its texts and lists are 32 bits.
const BATCH_BYTES: usize = 1 << 30;

/// What becomes of a side's rows by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alone {
    No,
    /// Rows without a match, with NULLs for the other side.
    Unmatched,
    Semi,
    Anti,
    /// Every row, with whether it has a match.
    Mark,
}

impl Alone {
    /// Whether a row with or without matches is in the answer, for all but `Mark`.
    fn shows(self, matched: bool) -> bool {
        match self {
            Self::No => false,
            Self::Unmatched | Self::Anti => !matched,
            Self::Semi => matched,
            Self::Mark => true,
        }
    }
}

#[derive(Debug)]
pub struct Join {
    spec: JoinSpec,
    pairs: bool,
    left: Alone,
    right: Alone,
    batch_bytes: usize,
}

/// The rows that an epoch brings to one side, as keys and rows of bytes.
struct Arrivals {
    delta: Delta,
    keys: EncodedRows,
    rows: EncodedRows,
    /// Which have a key that can match; `None`: all.
    valid: Option<BooleanArray>,
    expiries: Vec<Option<i64>>,
}

impl Arrivals {
    fn can_match(&self, row: usize) -> bool {
        self.valid.as_ref().is_none_or(|valid| valid.value(row))
    }
}

/// Arrivals beside kept rows of the other side.
#[derive(Default)]
struct Pairs {
    arrivals: Vec<u32>,
    kept: Vec<u8>,
    ends: Vec<usize>,
    entries: Vec<Entry>,
    /// Of both sides' rows.
    bytes: usize,
}

impl Pairs {
    fn add(&mut self, arrival: u32, kept: &[u8], entry: Entry, bytes: usize) {
        self.arrivals.push(arrival);
        self.kept.extend_from_slice(kept);
        self.ends.push(self.kept.len());
        self.entries.push(entry);
        self.bytes += bytes;
    }

    fn row(&self, pair: usize) -> &[u8] {
        let start = if pair == 0 { 0 } else { self.ends[pair - 1] };
        &self.kept[start..self.ends[pair]]
    }

    fn rows(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).map(|pair| self.row(pair))
    }
}

/// Neighbours together, as long as they have no more bytes than `most`.
fn parts(bytes: impl Iterator<Item = usize>, most: usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = vec![];
    let mut sum = 0_usize;
    for (item, bytes) in bytes.enumerate() {
        sum = sum.saturating_add(bytes);
        match parts.last_mut().filter(|_| sum <= most) {
            Some(part) => part.end = item + 1,
            None => {
                parts.push(item..item + 1);
                sum = bytes;
            }
        }
    }
    parts
}

/// Which of these pairs fulfil the condition. One that it fails on does not, and is told by its number.
///
/// # Errors
/// When it is no condition.
pub fn fulfilling(
    condition: &JoinFilter,
    pairs: &RecordBatch,
    mut fail: impl FnMut(usize, &DataFusionError),
) -> Result<BooleanArray> {
    let mask = evaluate(condition.expression(), pairs, |pair, error| {
        fail(pair, &error);
        Ok(Arc::new(BooleanArray::from(vec![false])))
    })?;
    Ok(without_nulls(as_boolean_array(&mask)?))
}

impl Join {
    pub fn new(spec: JoinSpec) -> Self {
        use Alone::{Anti, Mark, No, Semi, Unmatched};
        let (pairs, left, right) = match spec.join_type {
            JoinType::Inner => (true, No, No),
            JoinType::Left => (true, Unmatched, No),
            JoinType::Right => (true, No, Unmatched),
            JoinType::Full => (true, Unmatched, Unmatched),
            JoinType::LeftSemi => (false, Semi, No),
            JoinType::LeftAnti => (false, Anti, No),
            JoinType::LeftMark => (false, Mark, No),
            JoinType::RightSemi => (false, No, Semi),
            JoinType::RightAnti => (false, No, Anti),
            JoinType::RightMark => (false, No, Mark),
        };
        Self { spec, pairs, left, right, batch_bytes: BATCH_BYTES }
    }

    fn side(&self, is_left: bool) -> (&Side, Alone) {
        if is_left { (&self.spec.left, self.left) } else { (&self.spec.right, self.right) }
    }

    fn arrivals(&self, is_left: bool, delta: Delta) -> Result<Arrivals> {
        let (side, _) = self.side(is_left);
        let keys: Vec<ArrayRef> = side.keys.iter().map(|&key| delta.batch().column(key).clone()).collect();
        let compared = side.compared.iter().map(|&column| delta.batch().column(column).clone());
        let needed: Vec<ArrayRef> = if self.spec.null_equals_null { vec![] } else { keys.clone() };
        let valid = all_valid(&needed.into_iter().chain(compared).collect::<Vec<_>>());
        let times: Vec<_> = side.times.iter().map(|(column, time)| (delta.batch().column(*column).clone(), *time)).collect();
        let expiries = if times.is_empty() { vec![None; delta.rows()] } else { expiries(&times)? };
        Ok(Arrivals {
            keys: side.key_format()?.encode(&keys)?,
            rows: self.spec.kept_rows(is_left)?.encode(&delta.batch().columns()[..side.columns])?,
            delta,
            valid,
            expiries,
        })
    }

    /// All pairs of arrivals and kept rows of the other side, batch by batch.
    fn meet(&self, arrivals: &Arrivals, is_left: bool, kept: &BucketTable) -> Result<Vec<Pairs>> {
        let (mut met, mut pairs) = (vec![], Pairs::default());
        let mut reach = self.spec.reach(arrivals, is_left)?;
        for row in (0..arrivals.delta.rows()).filter(|row| arrivals.can_match(*row)) {
            let (low, end) = reach.of(row);
            let own = arrivals.rows.row(row).len();
            kept.visit_between(arrivals.keys.row(row), low, end, |other, entry| {
                let bytes = own + other.len();
                if pairs.bytes + bytes > self.batch_bytes && !pairs.ends.is_empty() {
                    met.push(std::mem::take(&mut pairs));
                }
                pairs.add(row as u32, other, entry, bytes);
                true
            });
        }
        if !pairs.ends.is_empty() {
            met.push(pairs);
        }
        Ok(met)
    }

    /// Those of the pairs that fulfil the condition, and the other side's columns of them.
    fn fitting(
        &self,
        context: &EpochContext<'_>,
        arrivals: &Arrivals,
        is_left: bool,
        pairs: Pairs,
    ) -> Result<(Pairs, Vec<ArrayRef>)> {
        if self.spec.filter.is_none() && !self.pairs {
            return Ok((pairs, vec![]));
        }
        let columns = self.spec.kept_rows(!is_left)?.decode(pairs.rows())?;
        let Some(condition) = &self.spec.filter else { return Ok((pairs, columns)) };
        let chosen = UInt32Array::from(pairs.arrivals.clone());
        let mut inputs = vec![];
        for column in condition.column_indices() {
            let is_of_arrivals = (column.side == JoinSide::Left) == is_left;
            inputs.push(if is_of_arrivals {
                take(arrivals.delta.batch().column(column.index), &chosen, None)?
            } else {
                columns[column.index].clone()
            });
        }
        let batch = batch_of(condition.schema().clone(), inputs, pairs.ends.len())?;
        let mask = fulfilling(condition, &batch, |pair, error| {
            context.fail(self, &arrivals.delta.slice(pairs.arrivals[pair] as usize, 1), error);
        })?;
        if mask.true_count() == mask.len() {
            return Ok((pairs, columns));
        }
        let mut fitting = Pairs::default();
        for pair in mask.values().set_indices() {
            fitting.add(pairs.arrivals[pair], pairs.row(pair), pairs.entries[pair], 0);
        }
        let columns = columns.iter().map(|column| Ok(filter(column, &mask)?)).collect::<Result<_>>()?;
        Ok((fitting, columns))
    }

    /// One side's arrivals meet what is kept of the other side, and are kept.
    fn arrive(
        &self,
        context: &EpochContext<'_>,
        is_left: bool,
        deltas: &[Delta],
        mine: &mut BucketTable,
        other: &mut BucketTable,
    ) -> Result<Vec<Delta>> {
        let schema = &self.side(is_left).0.schema;
        let deltas: Vec<Delta> = deltas.iter().filter(|delta| delta.rows() > 0).cloned().collect();
        let bytes = deltas.iter().map(Delta::bytes).collect::<Result<Vec<_>>>()?;
        let mut output = vec![];
        for part in parts(bytes.into_iter(), self.batch_bytes) {
            let arrivals = self.arrivals(is_left, Delta::concat(schema, &deltas[part])?)?;
            output.extend(self.arrive_together(context, is_left, &arrivals, mine, other)?);
        }
        Ok(output)
    }

    fn arrive_together(
        &self,
        context: &EpochContext<'_>,
        is_left: bool,
        arrivals: &Arrivals,
        mine: &mut BucketTable,
        other: &mut BucketTable,
    ) -> Result<Vec<Delta>> {
        let ((_, alone), (_, other_alone)) = (self.side(is_left), self.side(!is_left));
        let keys = || arrivals.keys.rows(arrivals.delta.rows());
        mine.load(keys()).and_then(|()| other.load(keys())).map_err(external)?;
        let (mut met, mut output) = (vec![], vec![]);
        for pairs in self.meet(arrivals, is_left, other)? {
            let (pairs, columns) = self.fitting(context, arrivals, is_left, pairs)?;
            if self.pairs && !pairs.ends.is_empty() {
                output.push(self.paired(arrivals, is_left, &pairs, columns)?);
            }
            met.push(pairs);
        }

        let mut matches = vec![0; if alone == Alone::No { 0 } else { arrivals.delta.rows() }];
        if alone != Alone::No {
            for pairs in &met {
                for (arrival, entry) in pairs.arrivals.iter().zip(&pairs.entries) {
                    matches[*arrival as usize] += entry.weight;
                }
            }
        }
        let mut lone = Lone::default();
        let is_kept = !self.spec.is_settled(is_left);
        for row in 0..arrivals.delta.rows() {
            let (key, bytes, weight) = (arrivals.keys.row(row), arrivals.rows.row(row), arrivals.delta.weight(row));
            let found = matches.get(row).copied().unwrap_or(0);
            lone.add(alone, bytes, weight, found > 0);
            if is_kept && arrivals.can_match(row) {
                mine.add_matched(key, bytes, weight, found, arrivals.expiries[row]);
            }
        }
        output.extend(self.alone(is_left, &lone)?);
        if other_alone != Alone::No {
            output.extend(self.turn_others(arrivals, is_left, other_alone, &met, other)?);
        }
        Ok(output)
    }
}

impl Operator for Join {
    fn tables(&self) -> Vec<TableKind> {
        vec![TableKind::Buckets, TableKind::Buckets]
    }

    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let ([left, right], [left_deltas, right_deltas]) = (tables, inputs.as_slice()) else {
            return datafusion::common::internal_err!("a join has two tables and two inputs");
        };
        let (left, right) = (buckets(left), buckets(right));
        if self.spec.is_settled(true) {
            let mut output = self.arrive(context, false, right_deltas, right, left)?;
            output.extend(self.arrive(context, true, left_deltas, left, right)?);
            return Ok(output);
        }
        let mut output = self.arrive(context, true, left_deltas, left, right)?;
        output.extend(self.arrive(context, false, right_deltas, right, left)?);
        Ok(output)
    }

    fn describe(&self) -> String {
        let name = |side: &Side| side.keys.iter().map(|&key| side.schema.field(key).name().clone()).collect::<Vec<_>>().join(", ");
        let condition = self.spec.filter.as_ref().map_or(String::new(), |filter| format!(", where {}", filter.expression()));
        format!("Join ({}): [{}] = [{}]{condition}", self.spec.join_type, name(&self.spec.left), name(&self.spec.right))
    }

    fn growing_tables(&self) -> Vec<bool> {
        let grows = |is_left: bool| {
            let (side, _) = self.side(is_left);
            side.times.is_empty() && !side.whole && !self.spec.is_settled(is_left)
        };
        vec![grows(true), grows(false)]
    }

    fn kept(&self) -> Vec<String> {
        let mut kept = vec![];
        for (is_left, name) in [(true, "left"), (false, "right")].into_iter().filter(|(is_left, _)| !self.spec.is_settled(*is_left))
        {
            let (side, _) = self.side(is_left);
            let keys = side.keys.iter().map(|&key| side.schema.field(key));
            kept.extend(keys.map(|key| typed(&format!("{name} key {}", key.name()), [key.data_type()])));
            let columns = side.kept_fields(self.spec.first_kept(is_left)).into_iter();
            kept.extend(columns.map(|field| typed_column(&format!("{name} column"), field)));
        }
        kept
    }

    fn state(&self) -> Option<String> {
        let kept = |(is_left, name): (bool, &str)| {
            let (side, _) = self.side(is_left);
            let named = |(column, time): &(usize, TimeColumn)| (side.schema.field(*column).name().clone(), *time);
            let until = match side.whole {
                true => "all there are".to_owned(),
                false => dropped(&side.times.iter().map(named).collect::<Vec<_>>()),
            };
            (!self.spec.is_settled(is_left)).then(|| format!("of the {name} ({until})"))
        };
        let kept: Vec<String> = [(true, "left"), (false, "right")].into_iter().filter_map(kept).collect();
        Some(format!("rows {}", kept.join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use arrow::{
        array::{Int64Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;
    use crate::keys::RowFormat;

    fn side(columns: [&str; 2]) -> Side {
        let fields = vec![Field::new(columns[0], DataType::Int64, true), Field::new(columns[1], DataType::Utf8, true)];
        Side { schema: Arc::new(Schema::new(fields)), columns: 2, keys: vec![0], times: vec![], compared: vec![], whole: false }
    }

    fn join(join_type: JoinType, batch_bytes: usize) -> Join {
        let (left, right) = (side(["a", "s"]), side(["b", "t"]));
        let fields = match join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => left.schema.fields().to_vec(),
            _ => left.schema.fields().iter().chain(right.schema.fields()).cloned().collect(),
        };
        let schema = Arc::new(Schema::new(fields));
        let (filter, band, projection) = (None, None, None);
        let spec = JoinSpec {
            join_type,
            left,
            right,
            filter,
            band,
            null_equals_null: false,
            schema: schema.clone(),
            projection,
            output: schema,
        };
        Join { batch_bytes, ..Join::new(spec) }
    }

    /// Rows of keys 0 and 1 in batches of three.
    fn rows(side: &Side, range: Range<usize>, weight: i64) -> Vec<Delta> {
        let all: Vec<usize> = range.collect();
        let delta = |rows: &[usize]| {
            let keys: ArrayRef = Arc::new(rows.iter().map(|row| Some((row % 2) as i64)).collect::<Int64Array>());
            let texts: ArrayRef = Arc::new(rows.iter().map(|row| Some(format!("text {row}"))).collect::<StringArray>());
            let batch = batch_of(side.schema.clone(), vec![keys, texts], rows.len()).unwrap();
            Delta::weighted(batch, Int64Array::from_value(weight, rows.len()))
        };
        all.chunks(3).map(delta).collect()
    }

    /// What the epochs come to, and how many rows the largest batch has.
    fn answer(join: &Join) -> (BTreeMap<Vec<u8>, i64>, usize) {
        let mut tables = [Table::Buckets(BucketTable::default()), Table::Buckets(BucketTable::default())];
        let failed = Mutex::default();
        let context = EpochContext { watermark_us: None, lane: 0, lanes: 1, node: 0, failed: &failed };
        let (left, right) = (&join.spec.left, &join.spec.right);
        let epochs = [
            [rows(left, 0..9, 1), rows(right, 0..1, 1)],
            [rows(left, 9..12, 1), rows(right, 1..8, 1)],
            [rows(left, 2..5, -1), rows(right, 1..8, -1)],
        ];
        let (mut sum, mut largest) = (BTreeMap::<Vec<u8>, i64>::new(), 0);
        for epoch in epochs {
            for delta in join.step(&context, &mut tables, epoch.into()).unwrap() {
                largest = largest.max(delta.rows());
                let rows = RowFormat::of(delta.batch().schema().fields()).unwrap().encode(delta.batch().columns()).unwrap();
                for row in 0..delta.rows() {
                    *sum.entry(rows.row(row).to_vec()).or_default() += delta.weight(row);
                }
            }
        }
        sum.retain(|_, weight| *weight != 0);
        (sum, largest)
    }

    #[test]
    fn batches_end_before_their_offsets_do() {
        for join_type in [JoinType::Inner, JoinType::Left, JoinType::Full, JoinType::LeftSemi, JoinType::LeftAnti] {
            let (expected, largest) = answer(&join(join_type, BATCH_BYTES));
            assert!(largest > 3, "{join_type}: {largest} rows");
            // Of the nine left rows that stay, four have the key of the right one.
            let count = match join_type {
                JoinType::Inner | JoinType::LeftSemi => 4,
                JoinType::LeftAnti => 5,
                _ => 9,
            };
            assert_eq!(expected.values().sum::<i64>(), count, "{join_type}");
            let (found, largest) = answer(&join(join_type, 1));
            assert_eq!((found, largest), (expected.clone(), 1), "{join_type}");
            assert_eq!(answer(&join(join_type, 150)).0, expected, "{join_type}");
        }
    }

    #[test]
    fn neighbours_are_together_as_far_as_they_fit() {
        assert_eq!(parts([3, 3, 4, 11, 1, 9].into_iter(), 10), [0..3, 3..4, 4..6]);
        assert!(parts(std::iter::empty(), 10).is_empty());
    }
}
