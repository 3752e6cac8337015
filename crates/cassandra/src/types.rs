//! CQL types in Arrow, both ways. Targets that republishing would damage (counters, collections that are not frozen) are refused.
use std::net::IpAddr;

use arrow::datatypes::{DataType, TimeUnit};
use polybolos_tables::{TableError, TableName};
use scylla::cluster::metadata::{ColumnType, NativeType};
use uuid::Uuid;

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

/// Whether a column keeps an address, which is text everywhere else.
pub(crate) fn is_inet(native: &ColumnType<'_>) -> bool {
    matches!(native, ColumnType::Native(NativeType::Inet))
}

/// The address that is read as this text. Others that mean the same are none, or two keys would be one there.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|address: &IpAddr| address.to_string() == text)
}

/// The UUID that is read as this text, in small letters; for the same reason.
pub(crate) fn uuid(text: &str) -> Option<Uuid> {
    let is_read_so = |uuid: &Uuid| *uuid.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == *text;
    Uuid::parse_str(text).ok().filter(is_read_so)
}

/// Whether values of a stored type are read as a declared one: the same, or one that has room for each of them. A varint may have more
/// digits than there is room for; then the row says so.
pub(crate) fn can_read(stored: &ColumnType<'_>, declared: &DataType) -> bool {
    use NativeType::{BigInt, Counter, Decimal, Double, Float, Int, SmallInt, Timestamp, TinyInt, Varint};
    let ColumnType::Native(native) = stored else { return false };
    match declared {
        DataType::Int16 => matches!(native, TinyInt | SmallInt),
        DataType::Int32 => matches!(native, TinyInt | SmallInt | Int),
        DataType::Int64 => matches!(native, TinyInt | SmallInt | Int | BigInt | Counter | Varint),
        DataType::Float64 => matches!(native, Float | Double),
        DataType::Decimal128(..) => matches!(native, Decimal | Varint),
        DataType::Timestamp(TimeUnit::Millisecond, _) => matches!(native, Timestamp),
        _ => to_arrow(stored).is_some_and(|read| read == *declared),
    }
}

/// What a statement calls a type.
fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "STRING".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Binary => "BYTES".into(),
        DataType::Date32 => "DATE".into(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Timestamp(_, None) => "TIMESTAMP".into(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP_LTZ".into(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".into(),
        other => other.to_string(),
    }
}

/// Of a column whose values cannot be read as what it is declared: why, and what to declare.
pub(crate) fn unreadable(table: &TableName, column: &str, stored: &ColumnType<'_>, declared: &DataType) -> TableError {
    let remedy = match (stored, to_arrow(stored)) {
        (ColumnType::Native(NativeType::Decimal), _) => "declare it DECIMAL(p, s)".to_owned(),
        (ColumnType::Native(NativeType::Varint), _) => "declare it DECIMAL(38, 0)".to_owned(),
        (ColumnType::Native(NativeType::Counter), _) => "declare it BIGINT".to_owned(),
        (_, Some(data_type)) => format!("declare it {}", sql_name(&data_type)),
        (_, None) => "leave it out of the declaration".to_owned(),
    };
    let native = native_name(stored);
    let native = native.strip_prefix("native(").and_then(|name| name.strip_suffix(')')).unwrap_or(&native);
    let declared = sql_name(declared);
    TableError::Unsupported {
        message: format!("column {column:?} of {table} is stored as {native} and declared {declared}; {remedy}"),
    }
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

    #[test]
    fn a_column_is_read_as_what_has_room_for_it() {
        let native = ColumnType::Native;
        let decimal = DataType::Decimal128(38, 0);
        for (stored, declared) in [
            (NativeType::TinyInt, DataType::Int32),
            (NativeType::SmallInt, DataType::Int32),
            (NativeType::Int, DataType::Int64),
            (NativeType::Counter, DataType::Int64),
            (NativeType::Varint, DataType::Int64),
            (NativeType::Varint, decimal.clone()),
            (NativeType::Float, DataType::Float64),
            (NativeType::Inet, DataType::Utf8),
            (NativeType::Timestamp, DataType::Timestamp(TimeUnit::Millisecond, None)),
        ] {
            assert!(can_read(&native(stored.clone()), &declared), "{stored:?} as {declared}");
        }
        for (stored, declared) in [
            (NativeType::Int, DataType::Int16),
            (NativeType::BigInt, DataType::Int32),
            (NativeType::Double, DataType::Float32),
            (NativeType::Int, DataType::Utf8),
            (NativeType::Duration, DataType::Utf8),
            (NativeType::BigInt, decimal),
        ] {
            assert!(!can_read(&native(stored.clone()), &declared), "{stored:?} as {declared}");
        }
        let error = unreadable(&TableName::new("ty", "all"), "v", &native(NativeType::Varint), &DataType::Utf8);
        let message = "column \"v\" of ty.all is stored as varint and declared STRING; declare it DECIMAL(38, 0)";
        assert_eq!(error.to_string(), message);
        let error = unreadable(&TableName::new("ty", "all"), "v", &native(NativeType::Duration), &DataType::Utf8);
        assert!(error.to_string().ends_with("stored as duration and declared STRING; leave it out of the declaration"), "{error}");
    }
}
