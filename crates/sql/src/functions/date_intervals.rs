//! `date ± INTERVAL`. PostgreSQL makes a TIMESTAMP of it, Flink keeps a DATE, and arrow keeps a DATE and forgets the hours. Here a DATE stays one
//! where the interval is written as whole days, months or years; with hours in it, or where it differs from row to row, the date is the
//! TIMESTAMP at its midnight.
use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    common::{DFSchema, Result, ScalarValue},
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, Operator, cast,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
    },
    sql::sqlparser::ast::BinaryOperator,
};

#[derive(Debug)]
pub(super) struct DateIntervals;

impl ExprPlanner for DateIntervals {
    fn plan_binary_op(&self, expression: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, mut left, mut right } = expression;
        let is_plus = matches!(op, BinaryOperator::Plus);
        if (is_plus || matches!(op, BinaryOperator::Minus)) && needs_a_time(&left, &right, schema) {
            left = at_midnight(left);
        } else if is_plus && needs_a_time(&right, &left, schema) {
            right = at_midnight(right);
        }
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

fn needs_a_time(date: &Expr, interval: &Expr, schema: &DFSchema) -> bool {
    matches!(interval.get_type(schema), Ok(DataType::Interval(_)))
        && matches!(date.get_type(schema), Ok(DataType::Date32))
        && !is_whole_days(interval)
}

fn is_whole_days(interval: &Expr) -> bool {
    match interval {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(length), _) => length.is_none_or(|length| length.nanoseconds == 0),
        Expr::Negative(inner) => is_whole_days(inner),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            is_whole_days(left) && is_whole_days(right)
        }
        _ => false,
    }
}

fn at_midnight(date: Expr) -> Expr {
    cast(date, DataType::Timestamp(TimeUnit::Microsecond, None))
}
