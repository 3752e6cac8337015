//! Intervals of fixed length added to times, as durations: arrow adds those as the numbers they are, while an interval goes through the calendar row by row.
use datafusion::{
    arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit},
    common::{
        ExprSchema, Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, expr_rewriter::NamePreserver},
};

/// The same plan with `time ± INTERVAL` as `time ± duration` wherever the interval has no months and is a whole number of the time's unit.
pub(super) fn of_fixed_length(plan: LogicalPlan) -> Result<LogicalPlan> {
    let node = |plan: LogicalPlan| {
        let mut schema = datafusion::common::DFSchema::empty();
        plan.inputs().into_iter().for_each(|input| schema.merge(input.schema()));
        // A column keeps the name that the interval gave it.
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expression| {
            let name = names.save(&expression);
            Ok(expression.transform_up(|part| Ok(rewrite(part, &schema)))?.update_data(|changed| name.restore(changed)))
        })
    };
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

fn rewrite(expression: Expr, schema: &impl ExprSchema) -> Transformed<Expr> {
    let duration = match &expression {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            left.get_type(schema).ok().zip(right.as_literal()).and_then(|(data_type, interval)| as_duration(&data_type, interval))
        }
        _ => None,
    };
    match (expression, duration) {
        (Expr::BinaryExpr(BinaryExpr { left, op, .. }), Some(duration)) => {
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right: Box::new(Expr::Literal(duration, None)) }))
        }
        (expression, _) => Transformed::no(expression),
    }
}

fn as_duration(time: &DataType, interval: &ScalarValue) -> Option<ScalarValue> {
    // Days are as long as the clock says only without a time zone.
    let DataType::Timestamp(unit, None) = time else { return None };
    let ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months: 0, days, nanoseconds })) = interval else {
        return None;
    };
    let nanos = i64::from(*days).checked_mul(86_400_000_000_000)?.checked_add(*nanoseconds)?;
    let whole = |of: i64| (nanos % of == 0).then_some(Some(nanos / of));
    Some(match unit {
        TimeUnit::Second => ScalarValue::DurationSecond(whole(1_000_000_000)?),
        TimeUnit::Millisecond => ScalarValue::DurationMillisecond(whole(1_000_000)?),
        TimeUnit::Microsecond => ScalarValue::DurationMicrosecond(whole(1_000)?),
        TimeUnit::Nanosecond => ScalarValue::DurationNanosecond(Some(nanos)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_intervals_of_fixed_length_are_durations() {
        let interval =
            |months, days, nanoseconds| ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds }));
        let time = |unit| DataType::Timestamp(unit, None);
        let of = |data_type: DataType, interval: ScalarValue| as_duration(&data_type, &interval);
        assert_eq!(
            of(time(TimeUnit::Millisecond), interval(0, 1, 5_000_000)),
            Some(ScalarValue::DurationMillisecond(Some(86_400_005)))
        );
        assert_eq!(of(time(TimeUnit::Second), interval(0, 0, 2_000_000_000)), Some(ScalarValue::DurationSecond(Some(2))));
        assert_eq!(of(time(TimeUnit::Millisecond), interval(0, 0, 5)), None, "not a whole number of milliseconds");
        assert_eq!(of(time(TimeUnit::Nanosecond), interval(1, 0, 0)), None, "months differ");
        assert_eq!(of(DataType::Timestamp(TimeUnit::Second, Some("Europe/Paris".into())), interval(0, 1, 0)), None, "days differ");
    }
}
