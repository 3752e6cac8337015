//! `to_json(value)`: any value as a text of JSON, as a topic's records have it: a ROW or a MAP as an object with all its members, an array as an
//! array, times as text, numbers as they are.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::StringBuilder,
        datatypes::{DataType, Field},
        json::writer::{EncoderOptions, make_encoder},
    },
    common::{Result, exec_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ToJson {
    signature: Signature,
}

impl ToJson {
    pub fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ToJson {
    fn name(&self) -> &str {
        "to_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = arguments.args.as_slice() else { return exec_err!("to_json takes one value") };
        let rows = arguments.number_rows;
        let values = value.to_array(rows)?;
        let field = Arc::new(Field::new("value", values.data_type().clone(), true));
        let options = EncoderOptions::default()
            .with_explicit_nulls(true)
            .with_timestamp_format("%Y-%m-%d %H:%M:%S%.f".into())
            .with_timestamp_tz_format("%Y-%m-%d %H:%M:%S%.fZ".into());
        let mut encoder = make_encoder(&field, &values, &options)?;
        let mut texts = StringBuilder::with_capacity(rows, rows * 32);
        let mut bytes = Vec::new();
        for row in 0..rows {
            if encoder.is_null(row) {
                texts.append_null();
                continue;
            }
            bytes.clear();
            encoder.encode(row, &mut bytes);
            match std::str::from_utf8(&bytes) {
                Ok(text) => texts.append_value(text),
                Err(error) => return exec_err!("to_json: {error}"),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(texts.finish())))
    }
}
