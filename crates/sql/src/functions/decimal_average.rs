//! `avg` of DECIMALs: DataFusion's, whose error says of what it is one.
use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray},
        datatypes::DataType,
    },
    common::{DataFusionError, Result, ScalarValue},
    logical_expr::{Accumulator, EmitTo, GroupsAccumulator, function::AccumulatorArgs},
};

/// DataFusion's accumulator of one group or of many, with what it says where an average does not fit.
#[derive(Debug)]
pub(super) struct Average<A: ?Sized> {
    inner: Box<A>,
    message: String,
}

impl<A: ?Sized> Average<A> {
    pub fn new(inner: Box<A>, message: String) -> Self {
        Self { inner, message }
    }

    fn told(&self, error: DataFusionError) -> DataFusionError {
        match error {
            DataFusionError::Execution(_) => DataFusionError::Execution(self.message.clone()),
            other => other,
        }
    }
}

/// What is said of an average of DECIMALs that does not fit; `None` where it is of something else.
pub(super) fn too_large(arguments: &AccumulatorArgs<'_>) -> Option<String> {
    let DataType::Decimal128(precision, scale) = arguments.return_field.data_type() else { return None };
    Some(format!("{} does not fit into DECIMAL({precision}, {scale}); CAST what it is of AS DOUBLE", arguments.name))
}

impl Accumulator for Average<dyn Accumulator> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.inner.evaluate().map_err(|error| self.told(error))
    }

    fn size(&self) -> usize {
        self.inner.size() + self.message.capacity()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

impl GroupsAccumulator for Average<dyn GroupsAccumulator> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.inner.update_batch(values, groups, filter, total_groups)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        self.inner.evaluate(emit).map_err(|error| self.told(error))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total_groups: usize) -> Result<()> {
        self.inner.merge_batch(states, groups, total_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.inner.size() + self.message.capacity()
    }
}
