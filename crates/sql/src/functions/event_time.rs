//! `event_time(x)` is `x`. It marks the computed column that a table's watermark follows, so that it is found again in an optimised plan,
//! in which nothing else says where a column came from.
use datafusion::{
    arrow::datatypes::DataType,
    common::{Result, exec_err},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
        sort_properties::{ExprProperties, SortProperties},
    },
};

/// Its name in plans.
pub const EVENT_TIME: &str = "event_time";

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct EventTime {
    signature: Signature,
}

impl EventTime {
    pub fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for EventTime {
    fn name(&self) -> &str {
        EVENT_TIME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match arguments.args.into_iter().next() {
            Some(value) => Ok(value),
            None => exec_err!("{EVENT_TIME} takes one argument"),
        }
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        Ok(input[0].sort_properties)
    }
}
