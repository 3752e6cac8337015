//! Which column types the embedded tables store, what they are called, and how wide their values are. The names are Cassandra's, so
//! that `DESCRIBE` reads alike over both stores; they are also what the catalog keeps on disk.
use arrow::datatypes::{DataType, TimeUnit};

/// How values of a type look in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `width` bytes each, little endian, as in Arrow's buffers.
    Fixed { width: usize, order: Order },
    /// One byte, 0 or 1.
    Boolean,
    /// Any number of bytes; `text` says that they are UTF-8.
    Bytes { text: bool },
}

/// How fixed-width values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Two's complement.
    Signed,
    /// IEEE 754 total order, as Arrow compares floats.
    Float,
    /// Byte by byte (uuid).
    Raw,
}

/// The layout of a type, or `None` where the type cannot be stored.
pub(super) fn layout(data_type: &DataType) -> Option<Layout> {
    let signed = |width| Some(Layout::Fixed { width, order: Order::Signed });
    let float = |width| Some(Layout::Fixed { width, order: Order::Float });
    match data_type {
        DataType::Utf8 => Some(Layout::Bytes { text: true }),
        DataType::Binary => Some(Layout::Bytes { text: false }),
        DataType::Boolean => Some(Layout::Boolean),
        DataType::Int8 => signed(1),
        DataType::Int16 => signed(2),
        DataType::Int32 | DataType::Date32 => signed(4),
        DataType::Int64 | DataType::Time64(TimeUnit::Nanosecond) => signed(8),
        DataType::Timestamp(TimeUnit::Millisecond, Some(zone)) if is_utc(zone) => signed(8),
        DataType::Decimal128(_, _) => signed(16),
        DataType::Float32 => float(4),
        DataType::Float64 => float(8),
        DataType::FixedSizeBinary(16) => Some(Layout::Fixed { width: 16, order: Order::Raw }),
        _ => None,
    }
}

fn is_utc(zone: &str) -> bool {
    zone == "UTC" || zone == "+00:00"
}

/// The stored name of a type, or `None` where the type cannot be stored.
pub(super) fn type_name(data_type: &DataType) -> Option<String> {
    layout(data_type)?;
    Some(match data_type {
        DataType::Utf8 => "text".into(),
        DataType::Binary => "blob".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "tinyint".into(),
        DataType::Int16 => "smallint".into(),
        DataType::Int32 => "int".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Date32 => "date".into(),
        DataType::Time64(_) => "time".into(),
        DataType::FixedSizeBinary(_) => "uuid".into(),
        DataType::Timestamp(_, Some(zone)) if zone.as_ref() == "UTC" => "timestamp".into(),
        DataType::Timestamp(_, Some(zone)) => format!("timestamp({zone})"),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        _ => return None,
    })
}

/// The type of a stored name; the inverse of [`type_name`].
pub(super) fn parse_type(name: &str) -> Option<DataType> {
    let data_type = match name {
        "text" => DataType::Utf8,
        "blob" => DataType::Binary,
        "boolean" => DataType::Boolean,
        "tinyint" => DataType::Int8,
        "smallint" => DataType::Int16,
        "int" => DataType::Int32,
        "bigint" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "time" => DataType::Time64(TimeUnit::Nanosecond),
        "uuid" => DataType::FixedSizeBinary(16),
        "timestamp" => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        _ => parse_parametric(name)?,
    };
    layout(&data_type).map(|_| data_type)
}

fn parse_parametric(name: &str) -> Option<DataType> {
    let (base, parameters) = name.strip_suffix(')')?.split_once('(')?;
    match base {
        "timestamp" => Some(DataType::Timestamp(TimeUnit::Millisecond, Some(parameters.into()))),
        "decimal" => {
            let (precision, scale) = parameters.split_once(',')?;
            Some(DataType::Decimal128(precision.parse().ok()?, scale.parse().ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) fn every_type() -> Vec<DataType> {
    vec![
        DataType::Utf8,
        DataType::Binary,
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Float32,
        DataType::Float64,
        DataType::Date32,
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::FixedSizeBinary(16),
        DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into())),
        DataType::Decimal128(20, 3),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types_read_back() {
        for data_type in every_type() {
            let name = type_name(&data_type).unwrap();
            assert_eq!(parse_type(&name), Some(data_type), "{name}");
        }
    }

    #[test]
    fn other_types_have_no_name() {
        for data_type in [
            DataType::UInt64,
            DataType::LargeUtf8,
            DataType::FixedSizeBinary(3),
            DataType::Timestamp(TimeUnit::Microsecond, None),
            DataType::Timestamp(TimeUnit::Millisecond, Some("Europe/Berlin".into())),
        ] {
            assert_eq!(type_name(&data_type), None, "{data_type}");
        }
        assert_eq!(parse_type("decimal(x,1)"), None);
        assert_eq!(parse_type("timestamp(Mars/Olympus)"), None);
    }
}
