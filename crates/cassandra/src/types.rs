//! CQL types in Arrow, both ways. Targets that republishing would damage (counters, collections that are not frozen) are refused.
use arrow::datatypes::{DataType, TimeUnit};
use scylla::cluster::metadata::{ColumnType, NativeType};

/// The type of a decimal of which no declaration says how many digits it has.
const DECIMAL: DataType = DataType::Decimal128(38, 10);

/// The Arrow type of a column, or `None` for types that are not supported.
pub(crate) fn to_arrow(native: &ColumnType<'_>) -> Option<DataType> {
    let ColumnType::Native(native) = native else { return None };
    Some(match native {
        NativeType::Ascii | NativeType::Text | NativeType::Inet | NativeType::Uuid | NativeType::Timeuuid => DataType::Utf8,
        NativeType::Boolean => DataType::Boolean,
        NativeType::Blob => DataType::Binary,
        NativeType::Date => DataType::Date32,
        NativeType::Decimal => DECIMAL,
        NativeType::Double => DataType::Float64,
        NativeType::Float => DataType::Float32,
        NativeType::TinyInt => DataType::Int8,
        NativeType::SmallInt => DataType::Int16,
        NativeType::Int => DataType::Int32,
        NativeType::BigInt => DataType::Int64,
        NativeType::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        NativeType::Time => DataType::Time64(TimeUnit::Nanosecond),
        _ => return None,
    })
}

/// Whether a column keeps a UUID, which is text everywhere else.
pub(crate) fn is_uuid(native: &ColumnType<'_>) -> bool {
    matches!(native, ColumnType::Native(NativeType::Uuid | NativeType::Timeuuid))
}

/// A column's type as [`polybolos_tables::Column::native_type`] has it: `native(text)`.
pub(crate) fn native_name(native: &ColumnType<'_>) -> String {
    format!("{native:?}").to_lowercase()
}

/// A marker that stands for a value of a stored type and no other: `(text)?`. A table may be dropped and made again under a prepared
/// statement. The driver prepares it again and tells nobody, and values are bytes to it: with the type in the statement, the server refuses
/// it instead of taking a number's bytes for a text.
pub(crate) fn typed_mark(native: Option<&str>) -> String {
    match native.and_then(|native| native.strip_prefix("native(")?.strip_suffix(')')) {
        Some(native) => format!("({native})?"),
        None => "?".to_owned(),
    }
}

/// How a column of an Arrow type is created.
pub(crate) fn to_cql(data_type: &DataType) -> Option<&'static str> {
    Some(match data_type {
        DataType::Utf8 => "text",
        DataType::Boolean => "boolean",
        DataType::Binary => "blob",
        DataType::Date32 => "date",
        DataType::Decimal128(..) => "decimal",
        DataType::Float64 => "double",
        DataType::Float32 => "float",
        DataType::Int8 => "tinyint",
        DataType::Int16 => "smallint",
        DataType::Int32 => "int",
        DataType::Int64 => "bigint",
        DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => "timestamp",
        DataType::Time64(TimeUnit::Nanosecond) => "time",
        _ => return None,
    })
}

/// A name quoted for CQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_name_the_stored_type() {
        let mark = |native| typed_mark(Some(&native_name(&ColumnType::Native(native))));
        assert_eq!(
            [NativeType::BigInt, NativeType::Text, NativeType::Timeuuid].map(mark),
            ["(bigint)?", "(text)?", "(timeuuid)?"].map(str::to_owned)
        );
        assert_eq!(typed_mark(Some("uuid")), "?");
        assert_eq!(typed_mark(None), "?");
    }
}
