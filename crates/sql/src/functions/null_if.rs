//! DataFusion's `nullif`, to which -0.0 and 0.0 are equal, as they are to `=`.
use std::sync::Arc;

use datafusion::{
    arrow::{
        compute::{kernels::cmp::eq, nullif},
        datatypes::DataType,
    },
    common::{Result, utils::normalize_float_zero},
    logical_expr::{ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature},
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct NullIf {
    builtin: Arc<ScalarUDF>,
}

impl NullIf {
    pub fn new() -> Self {
        Self { builtin: datafusion::functions::core::nullif() }
    }
}

impl ScalarUDFImpl for NullIf {
    fn name(&self) -> &str {
        self.builtin.name()
    }

    fn signature(&self) -> &Signature {
        self.builtin.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.builtin.return_type(types)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match arguments.args.as_slice() {
            [value, other] if value.data_type().is_floating() && other.data_type().is_floating() => {
                let (value, other) = (value.to_array(arguments.number_rows)?, other.to_array(arguments.number_rows)?);
                let are_equal = eq(&normalize_float_zero(&value), &normalize_float_zero(&other))?;
                Ok(ColumnarValue::Array(nullif(&value, &are_equal)?))
            }
            _ => self.builtin.invoke_with_args(arguments),
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.builtin.documentation()
    }
}
