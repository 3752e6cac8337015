//! `or_null(value)` is the value, which may be NULL whatever its type says: what a subquery without rows gives.
use datafusion::{
    arrow::datatypes::DataType,
    common::{Result, exec_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

pub(crate) const OR_NULL: &str = "or_null";

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct OrNull {
    signature: Signature,
}

impl OrNull {
    pub fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for OrNull {
    fn name(&self) -> &str {
        OR_NULL
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
            None => exec_err!("{OR_NULL} takes one argument"),
        }
    }
}
