//! Rows as columns of Arrow. What a column has no room for is an error that names the table, the column, and how to declare it.
use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
        Int8Builder, Int16Builder, Int32Builder, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder,
        Time64NanosecondBuilder, TimestampMillisecondBuilder,
    },
    datatypes::{DataType, SchemaRef, TimeUnit},
};
use polybolos_tables::{TableError, TableName};
use scylla::value::{CqlValue, CqlVarint, Row};

use crate::decimal;

pub(super) fn batch(table: &TableName, schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch, TableError> {
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| {
            let values = rows.iter().map(|row| row.columns.get(index).and_then(Option::as_ref));
            let unread = |why: String| TableError::Unsupported { message: format!("column {:?} of {table} {why}", field.name()) };
            let column = column(field.data_type(), values).map_err(unread)?;
            if column.null_count() > 0 && !field.is_nullable() {
                return Err(unread(
                    "is NULL in a row and declared part of the primary key; declare the key as it is stored".into(),
                ));
            }
            Ok(column)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|error| TableError::Bug(error.to_string()))
}

/// A varint's digits.
fn digits(value: &CqlVarint, precision: u8, scale: i8) -> Result<i128, String> {
    let read = decimal::from_cql(value.as_signed_bytes_be_slice(), 0, precision, scale);
    read.map_err(|_| format!("has a varint that does not fit DECIMAL({precision}, {scale}); declare more digits"))
}

/// A varint where there is room for a BIGINT.
fn whole(value: &CqlVarint) -> Result<i64, String> {
    let read = digits(value, 38, 0).ok().and_then(|digits| i64::try_from(digits).ok());
    read.ok_or_else(|| "has a varint that does not fit BIGINT; declare it DECIMAL(38, 0)".to_owned())
}

/// A column of values. An error says what is wrong with it: `has …`.
fn column<'a>(data_type: &DataType, values: impl Iterator<Item = Option<&'a CqlValue>>) -> Result<ArrayRef, String> {
    // Types are checked before; a table may be made again between two pages.
    let other = |value: &CqlValue| format!("has {value:?} in a row, which is no {data_type}");
    macro_rules! build {
        ($builder:expr, $($pattern:pat => $value:expr),+) => {{
            let mut builder = $builder;
            for value in values {
                match value {
                    None => builder.append_null(),
                    $(Some($pattern) => builder.append_value($value),)+
                    Some(value) => return Err(other(value)),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    Ok(match data_type {
        DataType::Utf8 => build!(
            StringBuilder::new(),
            CqlValue::Text(text) | CqlValue::Ascii(text) => text,
            CqlValue::Inet(address) => address.to_string(),
            CqlValue::Uuid(uuid) => uuid.to_string(),
            CqlValue::Timeuuid(uuid) => uuid.to_string()
        ),
        DataType::Boolean => build!(BooleanBuilder::new(), CqlValue::Boolean(value) => *value),
        DataType::Binary => build!(BinaryBuilder::new(), CqlValue::Blob(value) => value),
        DataType::Date32 => build!(Date32Builder::new(), CqlValue::Date(value) => (i64::from(value.0) - (1 << 31)) as i32),
        DataType::Decimal128(precision, scale) => build!(
            Decimal128Builder::new().with_data_type(data_type.clone()),
            CqlValue::Decimal(value) => {
                let (bytes, stored) = value.as_signed_be_bytes_slice_and_exponent();
                decimal::from_cql(bytes, stored, *precision, *scale).map_err(|error| format!("has {error}"))?
            },
            CqlValue::Varint(value) => digits(value, *precision, *scale)?
        ),
        DataType::Float32 => build!(Float32Builder::new(), CqlValue::Float(value) => *value),
        DataType::Float64 => build!(
            Float64Builder::new(),
            CqlValue::Double(value) => *value,
            CqlValue::Float(value) => f64::from(*value)
        ),
        DataType::Int8 => build!(Int8Builder::new(), CqlValue::TinyInt(value) => *value),
        DataType::Int16 => build!(
            Int16Builder::new(),
            CqlValue::SmallInt(value) => *value,
            CqlValue::TinyInt(value) => i16::from(*value)
        ),
        DataType::Int32 => build!(
            Int32Builder::new(),
            CqlValue::Int(value) => *value,
            CqlValue::SmallInt(value) => i32::from(*value),
            CqlValue::TinyInt(value) => i32::from(*value)
        ),
        DataType::Int64 => build!(
            Int64Builder::new(),
            CqlValue::BigInt(value) => *value,
            CqlValue::Int(value) => i64::from(*value),
            CqlValue::SmallInt(value) => i64::from(*value),
            CqlValue::TinyInt(value) => i64::from(*value),
            CqlValue::Counter(value) => value.0,
            CqlValue::Varint(value) => whole(value)?
        ),
        DataType::Timestamp(TimeUnit::Millisecond, zone) => {
            build!(TimestampMillisecondBuilder::new().with_timezone_opt(zone.clone()), CqlValue::Timestamp(value) => value.0)
        }
        DataType::Time64(TimeUnit::Nanosecond) => build!(Time64NanosecondBuilder::new(), CqlValue::Time(value) => value.0),
        other => return Err(format!("is declared {other}, which cannot be read from Cassandra")),
    })
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::AsArray,
        datatypes::{Decimal128Type, Field, Float64Type, Int32Type, Int64Type, Schema},
    };
    use scylla::value::Counter;

    use super::*;

    #[test]
    fn values_are_read_as_what_has_room_for_them() {
        let varint = |digits: i128| CqlValue::Varint(CqlVarint::from_signed_bytes_be_slice(decimal::to_cql(digits, 0).digits()));
        let read = |data_type: DataType, value: CqlValue| {
            let read = column(&data_type, [Some(&value), None].into_iter())?;
            assert!(read.len() == 2 && read.null_count() == 1 && read.is_null(1));
            Ok::<ArrayRef, String>(read)
        };
        for value in [
            CqlValue::TinyInt(-7),
            CqlValue::SmallInt(-7),
            CqlValue::Int(-7),
            CqlValue::BigInt(-7),
            CqlValue::Counter(Counter(-7)),
            varint(-7),
        ] {
            assert_eq!(read(DataType::Int64, value).expect("a number").as_primitive::<Int64Type>().value(0), -7);
        }
        let read_int = read(DataType::Int32, CqlValue::SmallInt(-7)).expect("a number");
        assert_eq!(read_int.as_primitive::<Int32Type>().value(0), -7);
        let read_double = read(DataType::Float64, CqlValue::Float(1.5)).expect("a number");
        assert!((read_double.as_primitive::<Float64Type>().value(0) - 1.5).abs() < f64::EPSILON);
        let large = 10_i128.pow(37);
        let read_decimal = read(DataType::Decimal128(38, 0), varint(large)).expect("a number");
        assert_eq!(read_decimal.as_primitive::<Decimal128Type>().value(0), large);
        assert!(read(DataType::Int64, varint(large)).is_err_and(|why| why.contains("does not fit BIGINT")));
        assert!(read(DataType::Decimal128(5, 0), varint(100_000)).is_err_and(|why| why.contains("DECIMAL(5, 0)")));
        assert!(read(DataType::Int32, CqlValue::BigInt(1)).is_err());
    }

    #[test]
    fn a_row_that_cannot_be_read_names_its_table_and_column() {
        let field = |is_nullable| Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, is_nullable)]));
        let table = TableName::new("k", "t");
        let row = Row { columns: vec![Some(CqlValue::Text("no number".into()))] };
        let error = batch(&table, &field(true), &[row]).expect_err("a text").to_string();
        assert!(error.starts_with("column \"v\" of k.t has Text"), "{error}");
        let error = batch(&table, &field(false), &[Row { columns: vec![None] }]).expect_err("no key").to_string();
        assert!(error.starts_with("column \"v\" of k.t is NULL in a row"), "{error}");
    }
}
