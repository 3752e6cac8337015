//! Functions that clients of PostgreSQL call when they start and that `datafusion-postgres` lacks.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, AsArray, StringArray},
        compute::cast,
        datatypes::DataType,
    },
    common::ScalarValue,
    error::Result,
    logical_expr::{ColumnarValue, Signature, SimpleScalarUDF, Volatility},
    prelude::SessionContext,
};

/// Shown to those who decide by it what they may ask; the same as the login tells.
const SERVER_VERSION_NUMBER: &str = "160006";

pub fn register(session: &SessionContext) {
    for (name, arguments, implementation) in [
        ("current_setting", vec![1, 2], current_setting as fn(&[ColumnarValue]) -> Result<ColumnarValue>),
        ("set_config", vec![3], set_config),
    ] {
        let signature = Signature::one_of(
            arguments.into_iter().map(datafusion::logical_expr::TypeSignature::Any).collect(),
            Volatility::Stable,
        );
        let function = SimpleScalarUDF::new_with_signature(name, signature, DataType::Utf8, Arc::new(implementation));
        session.register_udf(function.into());
    }
    let in_recovery = SimpleScalarUDF::new(
        "pg_is_in_recovery",
        vec![],
        DataType::Boolean,
        Volatility::Stable,
        Arc::new(|_| Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(false))))),
    );
    session.register_udf(in_recovery.into());
}

fn current_setting(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    each(&arguments[0], |name| match name.to_ascii_lowercase().as_str() {
        "server_version_num" => Some(SERVER_VERSION_NUMBER),
        "server_version" => Some("16.6"),
        "search_path" => Some("public"),
        "timezone" => Some("UTC"),
        "is_superuser" => Some("off"),
        "max_index_keys" => Some("32"),
        "standard_conforming_strings" | "integer_datetimes" => Some("on"),
        "server_encoding" | "client_encoding" => Some("UTF8"),
        _ => None,
    })
}

/// Settings are kept by SET alone; the answer is the value that was asked for, as PostgreSQL answers.
fn set_config(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    Ok(arguments[1].clone())
}

fn each(names: &ColumnarValue, of: impl Fn(&str) -> Option<&'static str>) -> Result<ColumnarValue> {
    match names {
        ColumnarValue::Scalar(name) => {
            let value = name.try_as_str().flatten().and_then(of);
            Ok(ColumnarValue::Scalar(ScalarValue::Utf8(value.map(str::to_owned))))
        }
        ColumnarValue::Array(names) => {
            let names = cast(names, &DataType::Utf8)?;
            let values: StringArray = names.as_string::<i32>().iter().map(|name| name.and_then(&of)).collect();
            debug_assert_eq!(values.len(), names.len());
            Ok(ColumnarValue::Array(Arc::new(values)))
        }
    }
}
