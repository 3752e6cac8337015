//! `typeof(x)`: the type of an expression, as columns are declared.
use datafusion::{
    arrow::datatypes::DataType,
    common::{Result, ScalarValue},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use crate::types::SqlType;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TypeOf {
    signature: Signature,
}

impl TypeOf {
    pub fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

/// Arrow's words where SQL has none.
fn name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        other => SqlType::of_arrow(other).map_or_else(|| other.to_string(), |known| known.to_string()),
    }
}

impl ScalarUDFImpl for TypeOf {
    fn name(&self) -> &str {
        "typeof"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::from(name(&arguments.args[0].data_type()))))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn types_are_named_as_they_are_declared() {
        assert_eq!(name(&DataType::Int64), "BIGINT");
        assert_eq!(name(&DataType::UInt64), "BIGINT");
        assert_eq!(name(&DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))), "TIMESTAMP_LTZ(3)");
        assert_eq!(name(&DataType::new_list(DataType::Utf8, true)), "ARRAY<STRING>");
        assert_eq!(name(&DataType::Null), "NULL");
    }
}
