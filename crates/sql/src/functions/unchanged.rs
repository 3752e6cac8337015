//! Functions that are their argument, and say something of it that plans do not: `event_time(x)` marks the computed column that a table's
//! watermark follows, so that it is found again in an optimised plan; `or_null(x)` may be NULL whatever the type of `x` says, as the value
//! of a subquery without rows is.
use datafusion::{
    arrow::datatypes::DataType,
    common::{Result, exec_err},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
        sort_properties::{ExprProperties, SortProperties},
    },
};

/// Their names in plans.
pub const EVENT_TIME: &str = "event_time";
pub(crate) const OR_NULL: &str = "or_null";

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Unchanged {
    name: &'static str,
    signature: Signature,
}

impl Unchanged {
    pub fn new(name: &'static str) -> Self {
        Self { name, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Unchanged {
    fn name(&self) -> &str {
        self.name
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
            None => exec_err!("{} takes one argument", self.name),
        }
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        Ok(input[0].sort_properties)
    }
}
