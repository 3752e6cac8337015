//! `required(value, 'what is wrong')` is the value; a NULL is an error of its row.
use datafusion::{
    arrow::{array::Array, datatypes::DataType},
    common::{Result, exec_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
    scalar::ScalarValue,
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Required {
    signature: Signature,
}

impl Required {
    pub fn new() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Required {
    fn name(&self) -> &str {
        "required"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value, what] = arguments.args.as_slice() else { return exec_err!("required takes two arguments") };
        let has_null = match value {
            ColumnarValue::Array(values) => values.logical_null_count() > 0,
            ColumnarValue::Scalar(value) => value.is_null() && arguments.number_rows > 0,
        };
        match what {
            _ if !has_null => Ok(value.clone()),
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(what)) | ScalarValue::Utf8View(Some(what))) => exec_err!("{what}"),
            _ => exec_err!("a value is missing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    #[tokio::test]
    async fn a_null_is_an_error_that_says_what_is_missing() {
        let mut context = SessionContext::new();
        crate::functions::register(&mut context).unwrap();
        let answer = async |query: &str| context.sql(query).await?.collect().await.map(|batches| batches[0].num_rows());
        assert_eq!(answer("SELECT required(x, 'no x') FROM (VALUES (1), (2)) AS t(x)").await.unwrap(), 2);
        let error = answer("SELECT required(x, 'no x') FROM (VALUES (1), (NULL)) AS t(x)").await.unwrap_err();
        assert!(error.to_string().contains("no x"), "{error}");
        let guarded = "SELECT CASE WHEN x > 1 THEN required(y, 'no y') END FROM (VALUES (1, NULL), (2, 3)) AS t(x, y)";
        assert_eq!(answer(guarded).await.unwrap(), 2);
    }
}
