//! The contract of a column under construction, and which column serves which type.
use arrow::array::ArrayRef;
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};

use super::fault::Outcome;
use super::nested::{ListColumn, MapColumn, StructColumn};
use super::scan::Scanner;
use super::text::TextColumn;
use super::time::{DateColumn, TimeColumn, TimestampColumn};
use super::values::{BooleanColumn, DecimalColumn, FloatColumn, IntegerColumn, NullColumn};

/// Values of one column, appended record by record. After an error the column may hold a part of the record; its owner truncates.
pub(super) trait Column: Send {
    /// Reads one JSON value that is not `null` and appends it; stands on its first byte.
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome;
    fn append_null(&mut self);
    fn truncate(&mut self, rows: usize);
    /// What was collected; the column is empty afterwards.
    fn finish(&mut self) -> ArrayRef;
}

/// `None` when JSON cannot be read into the type.
pub(super) fn column_for(data_type: &DataType, options: &super::DecodeOptions) -> Option<Box<dyn Column>> {
    Some(match data_type {
        DataType::Null => Box::new(NullColumn::default()),
        DataType::Boolean => Box::new(BooleanColumn::default()),
        DataType::Int8 => Box::new(IntegerColumn::<Int8Type>::default()),
        DataType::Int16 => Box::new(IntegerColumn::<Int16Type>::default()),
        DataType::Int32 => Box::new(IntegerColumn::<Int32Type>::default()),
        DataType::Int64 => Box::new(IntegerColumn::<Int64Type>::default()),
        DataType::UInt8 => Box::new(IntegerColumn::<UInt8Type>::default()),
        DataType::UInt16 => Box::new(IntegerColumn::<UInt16Type>::default()),
        DataType::UInt32 => Box::new(IntegerColumn::<UInt32Type>::default()),
        DataType::UInt64 => Box::new(IntegerColumn::<UInt64Type>::default()),
        DataType::Float32 => Box::new(FloatColumn::<Float32Type>::default()),
        DataType::Float64 => Box::new(FloatColumn::<Float64Type>::default()),
        DataType::Decimal128(precision, scale) => Box::new(DecimalColumn::<Decimal128Type>::new(*precision, *scale)),
        DataType::Decimal256(precision, scale) => Box::new(DecimalColumn::<Decimal256Type>::new(*precision, *scale)),
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => Box::new(TextColumn::new(data_type.clone(), options.scalars_as_text)),
        DataType::Date32 => Box::new(DateColumn::default()),
        DataType::Time32(_) | DataType::Time64(_) => Box::new(TimeColumn::new(data_type.clone())),
        DataType::Timestamp(unit, zone) => Box::new(TimestampColumn::new(*unit, zone.clone(), options.timestamp_format)),
        DataType::Struct(fields) => Box::new(StructColumn::new(fields.clone(), options)?),
        DataType::List(item) => Box::new(ListColumn::new(item.clone(), options)?),
        DataType::Map(entries, _) => Box::new(MapColumn::new(entries.clone(), options)?),
        _ => return None,
    })
}
