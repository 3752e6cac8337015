//! Which rows of a query have closed by a watermark: as [`expiries`](super::expiries) says of rows that are there, for a plan to ask of those that come.
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::{
    common::{Result, ScalarValue, not_impl_err},
    logical_expr::Operator,
    physical_expr::expressions::{BinaryExpr, Column, Literal, lit},
    physical_plan::PhysicalExpr,
};

use super::TimeColumn;

/// Whether a row has closed by the watermark, by the column that closes it first.
pub(crate) fn has_closed(
    columns: &[(usize, TimeColumn)],
    schema: &Schema,
    watermark_us: Option<i64>,
) -> Result<Arc<dyn PhysicalExpr>> {
    let mut by_any: Option<Arc<dyn PhysicalExpr>> = None;
    for &(index, time) in columns {
        let Some(watermark_us) = watermark_us else { break };
        let steps = watermark_us.saturating_sub(time.closes_after_us).div_euclid(time.step_us);
        let first_open_us = steps.saturating_add(1).saturating_mul(time.step_us);
        let field = schema.field(index);
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
        let first_open: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(first_value(first_open_us, field.data_type())?));
        let by_this: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(column, Operator::Lt, first_open));
        by_any = Some(match by_any {
            None => by_this,
            Some(others) => Arc::new(BinaryExpr::new(others, Operator::Or, by_this)),
        });
    }
    Ok(by_any.unwrap_or_else(|| lit(false)))
}

/// Of a column of this type, the first value that is not before a time.
fn first_value(at_us: i64, data_type: &DataType) -> Result<ScalarValue> {
    let whole = |unit_us: i64| at_us.div_euclid(unit_us) + i64::from(at_us.rem_euclid(unit_us) > 0);
    Ok(match data_type {
        DataType::Int64 => ScalarValue::Int64(Some(at_us)),
        DataType::Timestamp(TimeUnit::Second, zone) => ScalarValue::TimestampSecond(Some(whole(1_000_000)), zone.clone()),
        DataType::Timestamp(TimeUnit::Millisecond, zone) => ScalarValue::TimestampMillisecond(Some(whole(1_000)), zone.clone()),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => ScalarValue::TimestampMicrosecond(Some(at_us), zone.clone()),
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            ScalarValue::TimestampNanosecond(Some(at_us.saturating_mul(1_000)), zone.clone())
        }
        other => return not_impl_err!("when rows close by a column of type {other}"),
    })
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{ArrayRef, AsArray, RecordBatch, TimestampMillisecondArray, TimestampSecondArray},
        datatypes::Field,
    };

    use super::{super::expiries, *};

    const SECOND_US: i64 = 1_000_000;

    fn time(closes_after_us: i64, step_us: i64) -> TimeColumn {
        TimeColumn { closes_after_us, step_us, is_source: false }
    }

    #[test]
    fn a_query_asks_for_what_expiries_say() {
        let at = [-31_i64, -30, -11, -10, -1, 0, 1, 9, 10, 19, 20, 59, 60];
        let seconds: ArrayRef = Arc::new(TimestampSecondArray::from_iter(at.iter().map(|at| Some(*at)).chain([None, Some(0)])));
        let millis: ArrayRef =
            Arc::new(TimestampMillisecondArray::from_iter(at.iter().map(|at| Some(*at * 1_000 + 1)).chain([Some(5), None])));
        let field = |name: &str, column: &ArrayRef| Field::new(name, column.data_type().clone(), true);
        let schema = Arc::new(Schema::new(vec![field("s", &seconds), field("ms", &millis)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![seconds.clone(), millis.clone()]).unwrap();
        let times = [time(10 * SECOND_US, 10 * SECOND_US), time(-3_000_500, 1), time(1, 1), time(0, 60 * SECOND_US)];
        for of_seconds in times {
            for of_millis in times {
                let expiries = expiries(&[(seconds.clone(), of_seconds), (millis.clone(), of_millis)]).unwrap();
                for watermark_us in (-40..80).flat_map(|at| [at * SECOND_US - 1, at * SECOND_US, at * SECOND_US + 1_001]) {
                    let asked = has_closed(&[(0, of_seconds), (1, of_millis)], &schema, Some(watermark_us)).unwrap();
                    let answer = asked.evaluate(&batch).unwrap().into_array(batch.num_rows()).unwrap();
                    let answer: Vec<bool> = answer.as_boolean().iter().map(|closed| closed == Some(true)).collect();
                    let expected: Vec<bool> =
                        expiries.iter().map(|expiry| expiry.is_some_and(|expiry| expiry <= watermark_us)).collect();
                    assert_eq!(answer, expected, "{of_seconds:?} {of_millis:?} at {watermark_us}");
                }
            }
        }
        let never = has_closed(&[(0, times[0])], &schema, None).unwrap().evaluate(&batch).unwrap();
        assert_eq!(never.into_array(batch.num_rows()).unwrap().as_boolean().true_count(), 0);
    }
}
