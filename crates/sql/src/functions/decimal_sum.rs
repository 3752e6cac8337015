//! `sum` of DECIMALs, which is an error where it has more digits than its type, and not another number: DataFusion's wraps around. What is kept of a group is
//! DataFusion's.
use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray},
        datatypes::{DataType, Decimal128Type, i256},
    },
    common::{Result, ScalarValue, exec_err},
    logical_expr::{Accumulator, EmitTo, GroupsAccumulator},
};
use datafusion_functions_aggregate_common::aggregate::{
    groups_accumulator::prim_op::PrimitiveGroupsAccumulator, sum_distinct::DistinctSumAccumulator,
};

/// Stands for a sum that has left 128 bits, and stays; no DECIMAL is so large.
const LOST: i128 = i128::MAX;

fn add(sum: &mut i128, value: i128) {
    let is_known = *sum != LOST && value != LOST;
    *sum = if is_known { sum.checked_add(value).unwrap_or(LOST) } else { LOST };
}

/// No sum of values comes back from where a lost one is.
fn wide(value: i128) -> i256 {
    if value == LOST { i256::from_parts(0, 1 << 72) } else { i256::from_i128(value) }
}

fn check(sum: i128, data_type: &DataType) -> Result<()> {
    let DataType::Decimal128(precision, scale) = data_type else { return Ok(()) };
    if sum.unsigned_abs() < 10_u128.pow(u32::from(*precision)) {
        return Ok(());
    }
    exec_err!("a sum does not fit into DECIMAL({precision}, {scale}); sum fewer rows, or CAST(x AS DOUBLE)")
}

/// Of one group, or of a frame that slides, which values leave again.
#[derive(Debug)]
pub(super) struct DecimalSum {
    count: usize,
    sum: i256,
    data_type: DataType,
}

impl DecimalSum {
    pub fn new(data_type: DataType) -> Self {
        Self { count: 0, sum: i256::ZERO, data_type }
    }

    fn kept(&self) -> Option<i128> {
        (self.count > 0).then(|| self.sum.to_i128().unwrap_or(LOST))
    }

    fn value(&self) -> Result<ScalarValue> {
        ScalarValue::new_primitive::<Decimal128Type>(self.kept(), &self.data_type)
    }
}

impl Accumulator for DecimalSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Decimal128Type>().iter().flatten() {
            self.count += 1;
            self.sum = self.sum.wrapping_add(wide(value));
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Decimal128Type>().iter().flatten() {
            self.count -= 1;
            self.sum = self.sum.wrapping_sub(wide(value));
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        check(self.kept().unwrap_or_default(), &self.data_type)?;
        self.value()
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

/// Of the different values of one group.
#[derive(Debug)]
pub(super) struct DistinctDecimalSum {
    values: DistinctSumAccumulator<Decimal128Type>,
    data_type: DataType,
}

impl DistinctDecimalSum {
    pub fn new(data_type: DataType) -> Self {
        Self { values: DistinctSumAccumulator::new(&data_type), data_type }
    }
}

impl Accumulator for DistinctDecimalSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = DecimalSum::new(self.data_type.clone());
        for state in self.values.state()? {
            if let ScalarValue::List(values) = state {
                sum.update_batch(&[values.value(0)])?;
            }
        }
        sum.evaluate()
    }

    fn size(&self) -> usize {
        self.values.size() + size_of::<DataType>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }
}

/// Of many groups.
pub(super) struct DecimalSums(Box<dyn GroupsAccumulator>);

impl DecimalSums {
    pub fn new(data_type: &DataType) -> Self {
        Self(Box::new(PrimitiveGroupsAccumulator::<Decimal128Type, _>::new(data_type, add)))
    }
}

impl GroupsAccumulator for DecimalSums {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, count: usize) -> Result<()> {
        self.0.update_batch(values, groups, filter, count)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let sums = self.0.evaluate(emit)?;
        for sum in sums.as_primitive::<Decimal128Type>().iter().flatten() {
            check(sum, sums.data_type())?;
        }
        Ok(sums)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.0.state(emit)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.0.merge_batch(states, groups, count)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.0.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
