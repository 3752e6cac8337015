//! How far apart the times of two joined rows can be, as the join's condition says: `a.ts BETWEEN b.ts - x AND b.ts + y` in whatever spelling. Comparisons
//! of one column of either side are read as sums; all else in the condition bounds nothing.
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::{
    common::JoinSide,
    logical_expr::Operator as BinaryOperator,
    physical_expr::{
        expressions::{BinaryExpr, CastExpr, Column, NegativeExpr, NotExpr},
        split_conjunction,
    },
    physical_plan::{PhysicalExpr, joins::utils::JoinFilter},
};

use crate::event_time::{literal_us, unit_us};

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
                DataType::Timestamp(unit, _) | DataType::Duration(unit) => unit_us(*unit) - 1,
                DataType::Interval(_) => unit_us(TimeUnit::Microsecond) - 1,
                _ => return None,
            };
            let mut sum = Self::of(cast.expr())?;
            sum.low_us = sum.low_us.checked_sub(rounds_us)?;
            sum.high_us = sum.high_us.checked_add(rounds_us)?;
            return Some(sum);
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

    fn bounds(condition: &str) -> Vec<Bound> {
        let field = |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), true);
        let schema = Arc::new(Schema::new(vec![field("a"), field("b"), field("c")]));
        let columns = DFSchema::try_from(schema.clone()).unwrap();
        let context = SessionContext::new();
        let expression = context.parse_sql_expr(condition, &columns).unwrap();
        let expression = context.create_physical_expr(expression, &columns).unwrap();
        let column = |side, index| ColumnIndex { side, index };
        let columns = vec![column(JoinSide::Left, 3), column(JoinSide::Right, 5), column(JoinSide::Right, 6)];
        of_condition(&JoinFilter::new(expression, columns, schema))
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
