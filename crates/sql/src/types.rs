//! Column types, in Flink's words, and the Arrow types they mean.
//!
//! | SQL | Arrow | in a Cassandra table |
//! |---|---|---|
//! | `STRING`, `TEXT`, `VARCHAR`, `VARCHAR(n)`, `CHAR(n)` | Utf8 | text |
//! | `UUID` | Utf8 | uuid |
//! | `BOOLEAN` | Boolean | boolean |
//! | `TINYINT`, `SMALLINT`, `INT`, `BIGINT` | Int8, Int16, Int32, Int64 | tinyint, smallint, int, bigint |
//! | `FLOAT`/`REAL`, `DOUBLE` | Float32, Float64 | float, double |
//! | `DECIMAL(p, s)` (10, 0 when left out) | Decimal128(p, s) | decimal |
//! | `BYTES`, `VARBINARY`, `BINARY` | Binary | blob |
//! | `DATE` | Date32 | date |
//! | `TIME(p)` (0 when left out) | Time32(s, ms), Time64(us, ns) | Time64(ns): time |
//! | `TIMESTAMP(p)` (6 when left out) | Timestamp(s, ms, us, ns) for p = 0, 1–3, 4–6, 7–9 | Timestamp(ms, "UTC"): timestamp |
//! | `TIMESTAMP_LTZ(p)` | the same with time zone "UTC" | Timestamp(ms, "UTC"): timestamp |
//! | `ARRAY<t>`, `MAP<k, v>`, `ROW<a t, …>` | List, Map, Struct | refused |
use std::{fmt, sync::Arc};

use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::names::quoted;

/// The time zone of instants.
pub const UTC: &str = "UTC";

/// Whether a timestamp's zone is UTC, by either of its names.
pub(crate) fn is_utc(zone: &str) -> bool {
    zone.eq_ignore_ascii_case(UTC) || zone == "+00:00"
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SqlType {
    String,
    Uuid,
    Boolean,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Float,
    Double,
    Decimal { precision: u8, scale: i8 },
    Bytes,
    Date,
    Time { precision: u8 },
    Timestamp { precision: u8 },
    TimestampLtz { precision: u8 },
    Array(Box<SqlType>),
    Map(Box<SqlType>, Box<SqlType>),
    Row(Vec<(String, SqlType)>),
}

impl SqlType {
    pub fn arrow(&self) -> DataType {
        match self {
            Self::String | Self::Uuid => DataType::Utf8,
            Self::Boolean => DataType::Boolean,
            Self::TinyInt => DataType::Int8,
            Self::SmallInt => DataType::Int16,
            Self::Int => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time { precision } => match unit(*precision) {
                unit @ (TimeUnit::Second | TimeUnit::Millisecond) => DataType::Time32(unit),
                unit => DataType::Time64(unit),
            },
            Self::Timestamp { precision } => DataType::Timestamp(unit(*precision), None),
            Self::TimestampLtz { precision } => DataType::Timestamp(unit(*precision), Some(UTC.into())),
            Self::Array(item) => DataType::List(Arc::new(Field::new("item", item.arrow(), true))),
            Self::Map(key, value) => {
                let entries = vec![Field::new("keys", key.arrow(), false), Field::new("values", value.arrow(), true)];
                DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.into()), false)), false)
            }
            Self::Row(fields) => {
                let fields: Fields = fields.iter().map(|(name, kind)| Field::new(name, kind.arrow(), true)).collect();
                DataType::Struct(fields)
            }
        }
    }

    /// The Arrow type of a Cassandra column of this type; `None` where Cassandra cannot keep it as a cell of its own.
    pub fn cassandra(&self) -> Option<DataType> {
        match self {
            Self::Timestamp { .. } | Self::TimestampLtz { .. } => {
                Some(DataType::Timestamp(TimeUnit::Millisecond, Some(UTC.into())))
            }
            Self::Time { .. } => Some(DataType::Time64(TimeUnit::Nanosecond)),
            Self::Array(_) | Self::Map(..) | Self::Row(_) => None,
            other => Some(other.arrow()),
        }
    }

    /// The type that is `data_type` in Arrow; `None` where there is none.
    pub fn of_arrow(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => Self::String,
            DataType::Boolean => Self::Boolean,
            DataType::Int8 => Self::TinyInt,
            DataType::Int16 | DataType::UInt8 => Self::SmallInt,
            DataType::Int32 | DataType::UInt16 => Self::Int,
            // What counts is unsigned, and no count is beyond those of BIGINT.
            DataType::Int64 | DataType::UInt32 | DataType::UInt64 => Self::BigInt,
            DataType::Float32 => Self::Float,
            DataType::Float64 => Self::Double,
            DataType::Decimal128(precision, scale) => Self::Decimal { precision: *precision, scale: *scale },
            DataType::Binary | DataType::BinaryView => Self::Bytes,
            DataType::Date32 => Self::Date,
            DataType::Time32(unit) | DataType::Time64(unit) => Self::Time { precision: precision(*unit) },
            DataType::Timestamp(unit, None) => Self::Timestamp { precision: precision(*unit) },
            DataType::Timestamp(unit, Some(_)) => Self::TimestampLtz { precision: precision(*unit) },
            DataType::List(item) => Self::Array(Box::new(Self::of_arrow(item.data_type())?)),
            DataType::Struct(fields) => {
                let fields: Option<Vec<_>> =
                    fields.iter().map(|field| Some((field.name().clone(), Self::of_arrow(field.data_type())?))).collect();
                Self::Row(fields?)
            }
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => {
                    let part = |index: usize| Some(Box::new(Self::of_arrow(fields[index].data_type())?));
                    Self::Map(part(0)?, part(1)?)
                }
                _ => return None,
            },
            _ => return None,
        })
    }

    pub fn is_timestamp(&self) -> bool {
        matches!(self, Self::Timestamp { .. } | Self::TimestampLtz { .. })
    }
}

fn unit(precision: u8) -> TimeUnit {
    match precision {
        0 => TimeUnit::Second,
        1..=3 => TimeUnit::Millisecond,
        4..=6 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    }
}

fn precision(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// As one writes it in `CREATE TABLE`.
impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("STRING"),
            Self::Uuid => f.write_str("UUID"),
            Self::Boolean => f.write_str("BOOLEAN"),
            Self::TinyInt => f.write_str("TINYINT"),
            Self::SmallInt => f.write_str("SMALLINT"),
            Self::Int => f.write_str("INT"),
            Self::BigInt => f.write_str("BIGINT"),
            Self::Float => f.write_str("FLOAT"),
            Self::Double => f.write_str("DOUBLE"),
            Self::Decimal { precision, scale } => write!(f, "DECIMAL({precision}, {scale})"),
            Self::Bytes => f.write_str("BYTES"),
            Self::Date => f.write_str("DATE"),
            Self::Time { precision } => write!(f, "TIME({precision})"),
            Self::Timestamp { precision } => write!(f, "TIMESTAMP({precision})"),
            Self::TimestampLtz { precision } => write!(f, "TIMESTAMP_LTZ({precision})"),
            Self::Array(item) => write!(f, "ARRAY<{item}>"),
            Self::Map(key, value) => write!(f, "MAP<{key}, {value}>"),
            Self::Row(fields) => {
                f.write_str("ROW<")?;
                for (index, (name, kind)) in fields.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{} {kind}", quoted(name))?;
                }
                f.write_str(">")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_choose_the_unit() {
        assert_eq!(SqlType::Timestamp { precision: 3 }.arrow(), DataType::Timestamp(TimeUnit::Millisecond, None));
        assert_eq!(SqlType::TimestampLtz { precision: 6 }.arrow(), DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
        assert_eq!(SqlType::Time { precision: 9 }.arrow(), DataType::Time64(TimeUnit::Nanosecond));
        assert_eq!(
            SqlType::Timestamp { precision: 6 }.cassandra(),
            Some(DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())))
        );
        assert_eq!(SqlType::Array(Box::new(SqlType::Int)).cassandra(), None);
    }

    #[test]
    fn types_are_written_as_they_are_read() {
        let kind = SqlType::Row(vec![
            ("a".into(), SqlType::Map(Box::new(SqlType::String), Box::new(SqlType::Decimal { precision: 10, scale: 2 }))),
            ("Order".into(), SqlType::Array(Box::new(SqlType::TimestampLtz { precision: 3 }))),
        ]);
        assert_eq!(kind.to_string(), "ROW<a MAP<STRING, DECIMAL(10, 2)>, \"Order\" ARRAY<TIMESTAMP_LTZ(3)>>");
    }
}
