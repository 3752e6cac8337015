//! `session_start(ts, gap)` and `session_end(ts, gap)` OVER (PARTITION BY key ORDER BY ts): the bounds of the session that a row is in. A row
//! that is at most `gap` microseconds after the one before it belongs to the same session, as in Flink; a session ends `gap` after its
//! last row. Rows without a time have no session. The window's frame does not matter: all rows of the partition count.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        compute::cast,
        datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit},
    },
    common::{Result, ScalarValue, exec_err, plan_err},
    logical_expr::{
        LimitEffect, PartitionEvaluator, ReversedUDWF, Signature, Volatility, WindowUDFImpl,
        function::{PartitionEvaluatorArgs, WindowUDFFieldArgs},
    },
    physical_plan::PhysicalExpr,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionBound {
    Start,
    End,
}

impl SessionBound {
    /// The function's name in plans.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "session_start",
            Self::End => "session_end",
        }
    }

    /// The bounds of the sessions of sorted `times`, row by row.
    fn of(self, times: &[Option<i64>], gap: i64) -> Vec<Option<i64>> {
        let mut bounds = vec![None; times.len()];
        let mut session: Option<(usize, i64, i64)> = None;
        let (mut previous, reach) = (0, gap.max(0).unsigned_abs());
        let fill = |bounds: &mut [Option<i64>], (first, start, last): (usize, i64, i64), after: usize| {
            let bound = match self {
                Self::Start => start,
                Self::End => last.saturating_add(gap),
            };
            for (row, time) in times.iter().enumerate().take(after).skip(first) {
                bounds[row] = time.map(|_| bound);
            }
        };
        for (row, time) in times.iter().enumerate() {
            let Some(time) = *time else { continue };
            session = match session {
                // Sorted either way: the distance counts.
                Some((first, start, last)) if time.abs_diff(previous) <= reach => Some((first, start.min(time), last.max(time))),
                Some(ended) => {
                    fill(&mut bounds, ended, row);
                    Some((row, time, time))
                }
                None => Some((row, time, time)),
            };
            previous = time;
        }
        if let Some(last) = session {
            fill(&mut bounds, last, times.len());
        }
        bounds
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionFunction {
    bound: SessionBound,
    signature: Signature,
}

impl SessionFunction {
    pub fn new(bound: SessionBound) -> Self {
        Self { bound, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl WindowUDFImpl for SessionFunction {
    fn name(&self) -> &str {
        self.bound.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [time @ DataType::Timestamp(..), _] => Ok(vec![time.clone(), DataType::Int64]),
            [other, _] => plan_err!(
                "a window is over a TIMESTAMP or TIMESTAMP_LTZ column; DESCRIPTOR names one that is {other}: CAST it in a subquery, or declare a computed column"
            ),
            _ => plan_err!("{} takes a time and a gap in microseconds", self.bound.name()),
        }
    }

    fn field(&self, arguments: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        let Some(time) = arguments.input_fields().first() else { return plan_err!("{} takes a time", self.bound.name()) };
        Ok(Arc::new(Field::new(arguments.name(), time.data_type().clone(), true)))
    }

    fn partition_evaluator(&self, _: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(SessionEvaluator { bound: self.bound }))
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        ReversedUDWF::Identical
    }

    fn limit_effect(&self, _: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        LimitEffect::Unknown
    }
}

#[derive(Debug)]
struct SessionEvaluator {
    bound: SessionBound,
}

impl PartitionEvaluator for SessionEvaluator {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let [times, gaps] = values else { return exec_err!("{} takes a time and a gap", self.bound.name()) };
        let data_type = times.data_type().clone();
        if rows == 0 {
            return Ok(times.slice(0, 0));
        }
        let ScalarValue::Int64(Some(gap_us)) = ScalarValue::try_from_array(&cast(gaps, &DataType::Int64)?, 0)? else {
            return exec_err!("the gap of {} is NULL; it is a number of microseconds", self.bound.name());
        };
        let gap = match &data_type {
            DataType::Timestamp(TimeUnit::Second, _) => gap_us / 1_000_000,
            DataType::Timestamp(TimeUnit::Millisecond, _) => gap_us / 1_000,
            DataType::Timestamp(TimeUnit::Nanosecond, _) => gap_us.saturating_mul(1_000),
            _ => gap_us,
        };
        let numbers = cast(times, &DataType::Int64)?;
        let times: Vec<Option<i64>> = numbers.as_primitive::<Int64Type>().iter().collect();
        let bounds = datafusion::arrow::array::Int64Array::from(self.bound.of(&times, gap));
        Ok(cast(&(Arc::new(bounds) as ArrayRef), &data_type)?)
    }

    fn uses_window_frame(&self) -> bool {
        false
    }

    fn supports_bounded_execution(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_within_the_gap_are_one_session() {
        let times = [Some(0), Some(5), Some(15), Some(26), Some(30), None];
        let starts = SessionBound::Start.of(&times, 10);
        assert_eq!(starts, [Some(0), Some(0), Some(0), Some(26), Some(26), None]);
        let ends = SessionBound::End.of(&times, 10);
        assert_eq!(ends, [Some(25), Some(25), Some(25), Some(40), Some(40), None]);
        assert_eq!(SessionBound::End.of(&[Some(i64::MIN), Some(i64::MAX)], 10), [Some(i64::MIN + 10), Some(i64::MAX)]);
        let reversed: Vec<Option<i64>> = times.iter().rev().copied().collect();
        let starts: Vec<Option<i64>> = SessionBound::Start.of(&reversed, 10).into_iter().rev().collect();
        assert_eq!(starts, [Some(0), Some(0), Some(0), Some(26), Some(26), None]);
    }
}
