//! How far apart the times of two joined rows can be, as the join's condition says: `a.ts BETWEEN b.ts - x AND b.ts + y` in whatever spelling. Comparisons
//! of one column of either side are read as sums; all else in the condition bounds nothing.
use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Int64Type, Schema, TimeUnit},
};
use datafusion::{
    common::{JoinSide, Result},
    logical_expr::Operator as BinaryOperator,
    physical_expr::{
        ScalarFunctionExpr,
        expressions::{BinaryExpr, CastExpr, Column, NegativeExpr, NotExpr},
        split_conjunction,
    },
    physical_plan::{PhysicalExpr, joins::utils::JoinFilter},
};

use crate::event_time::{is_utc, literal_us, unit_us};

/// A column of the left and one of the right, by index in their inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub left: usize,
    pub right: usize,
    /// The right's value is at most so much more than the left's.
    pub right_ahead_us: Option<i64>,
    /// The left's is at most so much more than the right's.
    pub left_ahead_us: Option<i64>,
}

impl Bound {
    pub fn equal(left: usize, right: usize) -> Self {
        Self { left, right, right_ahead_us: Some(0), left_ahead_us: Some(0) }
    }
}

/// Columns of the condition with their signs, and a constant that is between two values: casts round.
#[derive(Clone, Debug, Default)]
struct Sum {
    columns: Vec<(usize, i64)>,
    low_us: i64,
    high_us: i64,
}

impl Sum {
    fn of(expression: &Arc<dyn PhysicalExpr>) -> Option<Self> {
        if let Some(column) = expression.downcast_ref::<Column>() {
            return Some(Self { columns: vec![(column.index(), 1)], ..Self::default() });
        }
        if let Some(us) = literal_us(expression) {
            return Some(Self { columns: vec![], low_us: us, high_us: us });
        }
        if let Some(cast) = expression.downcast_ref::<CastExpr>() {
            let rounds_us = match cast.cast_type() {
                // A cast to another zone moves what has none.
                DataType::Timestamp(_, Some(zone)) if !is_utc(zone) => return None,
                DataType::Timestamp(unit, _) | DataType::Duration(unit) => unit_us(*unit) - 1,
                DataType::Interval(_) => unit_us(TimeUnit::Microsecond) - 1,
                _ => return None,
            };
            let mut sum = Self::of(cast.expr())?;
            sum.low_us = sum.low_us.checked_sub(rounds_us)?;
            sum.high_us = sum.high_us.checked_add(rounds_us)?;
            return Some(sum);
        }
        // Beneath a cast, which takes what it takes.
        if let Some(function) = expression.downcast_ref::<ScalarFunctionExpr>()
            && let ("whole_units", [_, time]) = (function.name(), function.args())
        {
            return Self::of(time);
        }
        if let Some(negative) = expression.downcast_ref::<NegativeExpr>() {
            return Self::default().minus(Self::of(negative.arg())?);
        }
        let binary = expression.downcast_ref::<BinaryExpr>()?;
        let (left, right) = (Self::of(binary.left())?, Self::of(binary.right())?);
        match binary.op() {
            BinaryOperator::Plus => left.minus(Self::default().minus(right)?),
            BinaryOperator::Minus => left.minus(right),
            _ => None,
        }
    }

    fn minus(mut self, other: Self) -> Option<Self> {
        self.low_us = self.low_us.checked_sub(other.high_us)?;
        self.high_us = self.high_us.checked_sub(other.low_us)?;
        for (column, count) in other.columns {
            match self.columns.iter_mut().find(|(known, _)| *known == column) {
                Some((_, known)) => *known -= count,
                None => self.columns.push((column, -count)),
            }
        }
        self.columns.retain(|(_, count)| *count != 0);
        Some(self)
    }
}

/// What the terms of a join's condition bound.
pub(crate) fn of_condition(filter: &JoinFilter) -> Vec<Bound> {
    split_conjunction(filter.expression()).into_iter().filter_map(|term| of_term(term, filter)).collect()
}

/// The pair of columns that bounds which rows of a key meet, where rows can be kept in the order of these columns: one that is bounded from both sides
/// before others.
pub(crate) fn band(filter: &JoinFilter, left: &Schema, right: &Schema) -> Option<Bound> {
    let mut bands: Vec<Bound> = vec![];
    let tighter = |one: Option<i64>, other: Option<i64>| one.into_iter().chain(other).min();
    for term in split_conjunction(filter.expression()) {
        let Some(bound) = of_term(term, filter).filter(|bound| is_ordered(term, bound, left, right)) else { continue };
        match bands.iter_mut().find(|known| (known.left, known.right) == (bound.left, bound.right)) {
            Some(known) => {
                known.right_ahead_us = tighter(known.right_ahead_us, bound.right_ahead_us);
                known.left_ahead_us = tighter(known.left_ahead_us, bound.left_ahead_us);
            }
            None => bands.push(bound),
        }
    }
    let is_open = |band: &Bound| band.right_ahead_us.is_none() || band.left_ahead_us.is_none();
    bands.into_iter().min_by_key(is_open)
}

/// Whether the columns' values compare as their bytes in a row do, and as the bound says: sums of numbers may overflow.
fn is_ordered(term: &Arc<dyn PhysicalExpr>, bound: &Bound, left: &Schema, right: &Schema) -> bool {
    let (one, other) = (left.field(bound.left).data_type(), right.field(bound.right).data_type());
    let is_plain = || term.children().iter().all(|operand| operand.is::<Column>());
    one == other
        && match one {
            DataType::Timestamp(_, _) => true,
            DataType::Date32 | DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Decimal128(_, _) => is_plain(),
            other => other.is_integer() && is_plain(),
        }
}

/// By no more than this are the clocks of a zone moved: from one side of the date line to the other.
const MOVED_CLOCKS_US: i64 = 2 * 86_400_000_000;

/// The values moved so far up (`sign` 1) or down (-1), and further where a condition in microseconds does not tell some apart.
pub(crate) fn moved(column: &ArrayRef, by_us: i64, sign: i64) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, zone) = column.data_type() else { return Ok(column.clone()) };
    // Days of a zone are longer or shorter than others where its clocks are moved.
    let by_us = if zone.as_ref().is_none_or(|zone| is_utc(zone)) { by_us } else { by_us.saturating_add(MOVED_CLOCKS_US) };
    let by = match unit {
        TimeUnit::Nanosecond => by_us.saturating_mul(1_000).saturating_add(999),
        unit => by_us.div_euclid(unit_us(*unit)),
    };
    if by == 0 {
        return Ok(column.clone());
    }
    let moved = cast(column, &DataType::Int64)?
        .as_primitive::<Int64Type>()
        .unary::<_, Int64Type>(|at| at.saturating_add(by.saturating_mul(sign)));
    Ok(cast(&moved, column.data_type())?)
}

fn of_term(term: &Arc<dyn PhysicalExpr>, filter: &JoinFilter) -> Option<Bound> {
    let negated = term.downcast_ref::<NotExpr>().map(NotExpr::arg);
    let binary = negated.unwrap_or(term).downcast_ref::<BinaryExpr>()?;
    // left - right + low <= difference <= left - right + high
    let mut difference = Sum::of(binary.left())?.minus(Sum::of(binary.right())?)?;
    let mut op = if negated.is_some() { binary.op().negate()? } else { *binary.op() };
    let side = |index: usize| filter.column_indices().get(index).map(|column| (column.side, column.index));
    let [(first, one), (second, other)] = difference.columns.as_slice() else { return None };
    let (first, second) = ((side(*first)?, *one), (side(*second)?, *other));
    let (((left_side, left), sign), ((right_side, right), other_sign)) =
        if first.0.0 == JoinSide::Left { (first, second) } else { (second, first) };
    if (left_side, right_side) != (JoinSide::Left, JoinSide::Right) || sign + other_sign != 0 || sign.abs() != 1 {
        return None;
    }
    if sign == -1 {
        difference = Sum::default().minus(difference)?;
        op = op.swap()?;
    }
    // difference <= 0: left <= right - low. difference >= 0: right <= left + high.
    let (left_ahead_us, right_ahead_us) = (difference.low_us.checked_neg()?, difference.high_us);
    let bound = Bound { left, right, right_ahead_us: None, left_ahead_us: None };
    match op {
        BinaryOperator::Lt | BinaryOperator::LtEq => Some(Bound { left_ahead_us: Some(left_ahead_us), ..bound }),
        BinaryOperator::Gt | BinaryOperator::GtEq => Some(Bound { right_ahead_us: Some(right_ahead_us), ..bound }),
        BinaryOperator::Eq => Some(Bound { left_ahead_us: Some(left_ahead_us), right_ahead_us: Some(right_ahead_us), ..bound }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::datatypes::{Field, Schema},
        common::DFSchema,
        physical_plan::joins::utils::ColumnIndex,
        prelude::SessionContext,
    };

    use super::*;

    const TIME: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

    fn bounds(condition: &str) -> Vec<Bound> {
        of_condition(&filter(condition, TIME))
    }

    /// Of columns 3 of the left, 5 and 6 of the right.
    fn filter(condition: &str, data_type: DataType) -> JoinFilter {
        let field = |name: &str| Field::new(name, data_type.clone(), true);
        let schema = Arc::new(Schema::new(vec![field("a"), field("b"), field("c")]));
        let columns = DFSchema::try_from(schema.clone()).unwrap();
        let mut state = SessionContext::new().state();
        polybolos_sql::functions::register(&mut state).unwrap();
        let context = SessionContext::new_with_state(state);
        let expression = context.parse_sql_expr(condition, &columns).unwrap();
        let expression = context.create_physical_expr(expression, &columns).unwrap();
        let column = |side, index| ColumnIndex { side, index };
        let columns = vec![column(JoinSide::Left, 3), column(JoinSide::Right, 5), column(JoinSide::Right, 6)];
        JoinFilter::new(expression, columns, schema)
    }

    #[test]
    fn rows_are_kept_in_the_order_of_columns_that_the_condition_compares() {
        let found = |condition: &str, data_type: DataType| {
            let fields: Vec<_> = (0..7).map(|index| Field::new(index.to_string(), data_type.clone(), true)).collect();
            let schema = Schema::new(fields);
            band(&filter(condition, data_type), &schema, &schema).map(|it| (it.left, it.right, it.left_ahead_us, it.right_ahead_us))
        };
        assert_eq!(found("a >= b", DataType::Int64), Some((3, 5, None, Some(0))));
        assert_eq!(found("b > a AND a <> c", DataType::Utf8), Some((3, 5, Some(0), None)));
        assert_eq!(found("a - b >= 0", DataType::Int64), None, "a difference of numbers may overflow");
        assert_eq!(found("a > b", DataType::Float64), None, "-0.0 is 0.0, and not its bytes");
        assert_eq!(found("a > b OR a > c", DataType::Int64), None);
        let both = "a > c AND a BETWEEN b - INTERVAL '3' SECOND AND b + INTERVAL '5' SECOND AND a <= b + INTERVAL '1' SECOND";
        assert_eq!(found(both, TIME), Some((3, 5, Some(1_000_000), Some(3_000_000))));
    }

    #[test]
    fn bounds_of_times_are_in_their_units() {
        let moved_in = |zone: &str, unit: TimeUnit, at: i64, by_us: i64, sign: i64| {
            let column = cast(&arrow::array::Int64Array::from(vec![at]), &DataType::Timestamp(unit, Some(zone.into()))).unwrap();
            let moved = super::moved(&column, by_us, sign).unwrap();
            assert_eq!(moved.data_type(), column.data_type());
            cast(&moved, &DataType::Int64).unwrap().as_primitive::<Int64Type>().value(0)
        };
        let moved = |unit: TimeUnit, at: i64, by_us: i64, sign: i64| moved_in("UTC", unit, at, by_us, sign);
        assert_eq!(moved_in("Europe/Berlin", TimeUnit::Second, 0, 86_400_000_000, -1), -3 * 86_400, "a day may have 25 hours");
        assert_eq!(moved(TimeUnit::Millisecond, 10_000, 2_500_900, 1), 12_500);
        assert_eq!(moved(TimeUnit::Millisecond, 10_000, 2_500_900, -1), 7_500);
        assert_eq!(moved(TimeUnit::Millisecond, 10_000, -1_500, -1), 10_002, "whole milliseconds that are at least 1.5 later");
        assert_eq!(moved(TimeUnit::Microsecond, 10, i64::MAX, 1), i64::MAX);
        assert_eq!(moved(TimeUnit::Nanosecond, 10_000, 1, 1), 11_999);
    }

    #[test]
    fn whole_units_beneath_a_cast_change_no_bound() {
        let whole = bounds("CAST(whole_units('second', a) AS TIMESTAMP(0)) <= b + INTERVAL '5' SECOND");
        assert_eq!(whole, bounds("CAST(a AS TIMESTAMP(0)) <= b + INTERVAL '5' SECOND"));
        assert_eq!(whole.len(), 1);
    }

    #[test]
    fn spellings_of_one_interval_are_one_interval() {
        for condition in [
            "a BETWEEN b - INTERVAL '10' SECOND AND b + INTERVAL '5' SECOND",
            "b <= a + INTERVAL '10' SECOND AND b >= a - INTERVAL '5' SECOND",
            "a - b >= -INTERVAL '10' SECOND AND a - b <= INTERVAL '5' SECOND",
            "INTERVAL '10' SECOND + a >= b AND INTERVAL '5' SECOND + b > a",
            "b - INTERVAL '2' SECOND < a + INTERVAL '8' SECOND AND NOT (a > b + INTERVAL '5' SECOND)",
        ] {
            let found = bounds(condition);
            let right = found.iter().find_map(|bound| bound.right_ahead_us);
            let left = found.iter().find_map(|bound| bound.left_ahead_us);
            assert_eq!((right, left), (Some(10_000_000), Some(5_000_000)), "{condition}: {found:?}");
            assert!(found.iter().all(|bound| (bound.left, bound.right) == (3, 5)), "{condition}");
        }
    }

    #[test]
    fn what_bounds_nothing_is_left_out() {
        assert_eq!(bounds("a = b"), [Bound::equal(3, 5)]);
        assert_eq!(bounds("b < c"), []);
        assert_eq!(bounds("a < b OR a > b"), []);
        assert_eq!(bounds("a <> b"), []);
        assert_eq!(bounds("a > TIMESTAMP '2020-01-01 00:00:00'"), []);
        let only = bounds("a > b");
        assert_eq!((only[0].right_ahead_us, only[0].left_ahead_us), (Some(0), None));
    }
}
