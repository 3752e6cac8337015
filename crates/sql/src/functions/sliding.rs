//! Sums and averages of floats over a frame that slides. What leaves is taken away again, and of a sum that once was infinite, or had a value beside which others have no digits left,
//! nothing true would remain. So what is not finite is counted, and what adding rounds off is kept (A. Neumaier, 1974).
use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        datatypes::{DataType, Float64Type},
    },
    common::{Result, ScalarValue, exec_err},
    logical_expr::Accumulator,
};

#[derive(Debug, Default)]
pub(super) struct SlidingSum {
    averages: bool,
    count: i64,
    sum: f64,
    rounded_off: f64,
    infinite: i64,
    below: i64,
    nan: i64,
}

impl SlidingSum {
    pub fn new(averages: bool) -> Self {
        Self { averages, ..Self::default() }
    }

    fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        let rest = if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.rounded_off += rest;
        self.sum = sum;
    }

    fn change(&mut self, values: &[ArrayRef], by: i64) -> Result<()> {
        if *values[0].data_type() != DataType::Float64 {
            return exec_err!("a sliding sum of floats was given {}", values[0].data_type());
        }
        for value in values[0].as_primitive::<Float64Type>().iter().flatten() {
            self.count += by;
            match value {
                value if value.is_nan() => self.nan += by,
                f64::INFINITY => self.infinite += by,
                f64::NEG_INFINITY => self.below += by,
                value => self.add(if by > 0 { value } else { -value }),
            }
        }
        if self.count == 0 {
            (self.sum, self.rounded_off) = (0.0, 0.0);
        }
        Ok(())
    }
}

impl Accumulator for SlidingSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, 1)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, -1)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.count == 0 {
            return Ok(ScalarValue::Float64(None));
        }
        let sum = match (self.nan > 0, self.infinite > 0, self.below > 0) {
            (false, false, false) => self.sum + self.rounded_off,
            (false, true, false) => f64::INFINITY,
            (false, false, true) => f64::NEG_INFINITY,
            _ => f64::NAN,
        };
        Ok(ScalarValue::Float64(Some(if self.averages { sum / self.count as f64 } else { sum })))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("a sliding sum is not merged with others")
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("a sliding sum is not merged with others")
    }
}
