//! Functions that clients of PostgreSQL call when they start, or psql for its backslash commands, and that `datafusion-postgres` lacks.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, AsArray, StringArray},
        compute::cast,
        datatypes::{DataType, Int64Type},
    },
    common::{ScalarValue, exec_err, plan_err},
    error::Result,
    logical_expr::{ColumnarValue, Signature, SimpleScalarUDF, TypeSignature, Volatility},
    prelude::SessionContext,
};

/// Shown to those who decide by it what they may ask; the same as the login tells.
const SERVER_VERSION: &str = "16.6";
const SERVER_VERSION_NUMBER: &str = "160006";

/// Ours: `(oid, name)`, the oid, or an error that says that nothing has that name.
pub const EXISTING: &str = "polybolos_existing";

/// How many arguments most of them take.
const ONE: [usize; 1] = [1];

const VISIBLE: [&str; 11] = [
    "pg_collation_is_visible",
    "pg_conversion_is_visible",
    "pg_opclass_is_visible",
    "pg_operator_is_visible",
    "pg_opfamily_is_visible",
    "pg_statistics_obj_is_visible",
    "pg_ts_config_is_visible",
    "pg_ts_dict_is_visible",
    "pg_ts_parser_is_visible",
    "pg_ts_template_is_visible",
    "pg_type_is_visible",
];

/// Nothing here has a description, an index, a rule or a trigger.
const NOTHING: [(&str, &[usize]); 10] = [
    ("obj_description", &[1, 2]),
    ("shobj_description", &[2]),
    ("col_description", &[2]),
    ("pg_get_function_arguments", &ONE),
    ("pg_get_function_identity_arguments", &ONE),
    ("pg_get_function_result", &ONE),
    ("pg_get_function_sqlbody", &ONE),
    ("pg_get_indexdef", &[1, 3]),
    ("pg_get_ruledef", &[1, 2]),
    ("pg_get_triggerdef", &[1, 2]),
];

/// Tables are topics, files or tables of another store, and none of them is measured.
const SIZES: [&str; 4] = ["pg_table_size", "pg_indexes_size", "pg_database_size", "pg_tablespace_size"];

pub fn register(session: &SessionContext) {
    function(session, "current_setting", &[1, 2], DataType::Utf8, current_setting);
    function(session, "set_config", &[3], DataType::Utf8, set_config);
    function(session, "pg_size_pretty", &ONE, DataType::Utf8, pg_size_pretty);
    function(session, "pg_get_functiondef", &ONE, DataType::Utf8, pg_get_functiondef);
    function(session, EXISTING, &[2], DataType::Int32, existing);
    // SQLAlchemy and others take a server without this word for none.
    let version = format!("PostgreSQL {SERVER_VERSION} (Polybolos {})", env!("CARGO_PKG_VERSION"));
    constant(session, "version", &[0], ScalarValue::from(version));
    constant(session, "pg_is_in_recovery", &[0], ScalarValue::from(false));
    for name in VISIBLE {
        constant(session, name, &ONE, ScalarValue::from(true));
    }
    // The catalog lists PostgreSQL's own functions, which drivers look types up by; they cannot be called.
    constant(session, "pg_function_is_visible", &ONE, ScalarValue::from(false));
    for (name, counts) in NOTHING {
        constant(session, name, counts, ScalarValue::Utf8(None));
    }
    for name in SIZES {
        constant(session, name, &ONE, ScalarValue::from(0_i64));
    }
    constant(session, "pg_tablespace_location", &ONE, ScalarValue::from(""));
}

/// Everything belongs to whoever is logged in.
pub fn register_owner(session: &SessionContext, owner: &str) {
    constant(session, "pg_get_userbyid", &ONE, ScalarValue::from(owner));
    constant(session, "session_user", &[0], ScalarValue::from(owner));
}

fn function(
    session: &SessionContext,
    name: &str,
    counts: &[usize],
    answer: DataType,
    implementation: impl Fn(&[ColumnarValue]) -> Result<ColumnarValue> + Send + Sync + 'static,
) {
    let arguments = |count: &usize| if *count == 0 { TypeSignature::Nullary } else { TypeSignature::Any(*count) };
    let signature = Signature::one_of(counts.iter().map(arguments).collect(), Volatility::Stable);
    session.register_udf(SimpleScalarUDF::new_with_signature(name, signature, answer, Arc::new(implementation)).into());
}

fn constant(session: &SessionContext, name: &str, counts: &[usize], value: ScalarValue) {
    function(session, name, counts, value.data_type(), move |_| Ok(ColumnarValue::Scalar(value.clone())));
}

/// Settings that clients ask for, and that nothing changes.
pub const SETTINGS: [(&str, &str); 15] = [
    ("client_encoding", "UTF8"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("integer_datetimes", "on"),
    ("is_superuser", "off"),
    ("lc_collate", "C.UTF-8"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", SERVER_VERSION_NUMBER),
    ("standard_conforming_strings", "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
];

pub fn setting(name: &str) -> Option<&'static str> {
    SETTINGS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

fn current_setting(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    each(&arguments[0], setting)
}

/// Settings are kept by SET alone; the answer is the value that was asked for, as PostgreSQL answers.
fn set_config(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    Ok(arguments[1].clone())
}

fn pg_size_pretty(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    let bytes = cast(&arguments[0].to_array(1)?, &DataType::Int64)?;
    let pretty: StringArray = bytes.as_primitive::<Int64Type>().iter().map(|bytes| bytes.map(size)).collect();
    match arguments[0] {
        ColumnarValue::Scalar(_) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&pretty, 0)?)),
        ColumnarValue::Array(_) => Ok(ColumnarValue::Array(Arc::new(pretty))),
    }
}

/// In the greatest unit that leaves ten of it, as PostgreSQL does.
fn size(bytes: i64) -> String {
    let (mut number, mut units) = (bytes, ["kB", "MB", "GB", "TB", "PB"].into_iter());
    let mut unit = "bytes";
    while number.abs() >= 10 * 1024
        && let Some(greater) = units.next()
    {
        (number, unit) = ((number + 512 * number.signum()) / 1024, greater);
    }
    format!("{number} {unit}")
}

fn pg_get_functiondef(_: &[ColumnarValue]) -> Result<ColumnarValue> {
    exec_err!("functions are built in and have no text")
}

fn existing(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    let is_missing = match &arguments[0] {
        ColumnarValue::Scalar(oid) => oid.is_null(),
        ColumnarValue::Array(oids) => oids.null_count() > 0,
    };
    if is_missing {
        let name = match &arguments[1] {
            ColumnarValue::Scalar(name) => name.to_string(),
            ColumnarValue::Array(_) => "the name".to_owned(),
        };
        return plan_err!("\"{name}\" not found");
    }
    Ok(arguments[0].clone())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_great_units() {
        for (bytes, expected) in
            [(0, "0 bytes"), (10_239, "10239 bytes"), (10_240, "10 kB"), (1 << 30, "1024 MB"), (-20_480, "-20 kB")]
        {
            assert_eq!(size(bytes), expected);
        }
    }

    #[tokio::test]
    async fn functions_answer_for_rows_and_for_values() {
        let session = SessionContext::new();
        register(&session);
        register_owner(&session, "ada");
        let sql =
            "SELECT pg_size_pretty(n), pg_table_size(n), obj_description(n, 'pg_class'), pg_get_userbyid(n), pg_size_pretty(7),
                          polybolos_existing(arrow_cast(n, 'Int32'), 'x'), session_user
                   FROM (VALUES (20480), (1)) AS t (n)";
        let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
        let shown = datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
        assert!(
            shown.contains("| 20 kB") && shown.contains("| 1 bytes") && shown.contains("| 7 bytes") && shown.contains("| ada"),
            "{shown}"
        );
        let missing = session.sql("SELECT polybolos_existing(NULL, 'x')").await.unwrap().collect().await;
        assert!(missing.unwrap_err().to_string().contains("not found"));
    }
}
