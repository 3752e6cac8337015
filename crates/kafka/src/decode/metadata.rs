//! Columns that come from a record's coordinates instead of its payload.
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, MapBuilder, MapFieldNames, StringArray, StringBuilder,
    TimestampMillisecondArray,
};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Field as Column, Schema, TimeUnit};

use super::Field;
use super::fault::{Fault, Outcome};
use crate::error::{KafkaError, Result};
use crate::records::RecordChunk;

/// Which metadata can make a record fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    text_key: bool,
    text_value: bool,
    key: bool,
    value: bool,
    timestamp: bool,
    /// The finest column of the record's timestamp has so many ticks in a millisecond.
    ticks_per_ms: i64,
}

impl Needs {
    pub fn of(schema: &Schema, fields: &[Field]) -> Self {
        let any = |wanted: Field, test: fn(&Column) -> bool| {
            schema.fields().iter().zip(fields).any(|(column, field)| *field == wanted && test(column))
        };
        let text = |column: &Column| is_text(column.data_type());
        let required = |column: &Column| !column.is_nullable();
        let timestamps = schema.fields().iter().zip(fields).filter(|(_, field)| **field == Field::Timestamp);
        let ticks_per_ms = timestamps.map(|(column, _)| ticks_per_ms(column.data_type())).max().unwrap_or(1);
        Self {
            text_key: any(Field::Key, text),
            text_value: any(Field::Value, text),
            key: any(Field::Key, required),
            value: any(Field::Value, required),
            timestamp: any(Field::Timestamp, required),
            ticks_per_ms,
        }
    }

    #[inline(always)]
    pub fn check(self, chunk: &RecordChunk, record: usize) -> Outcome {
        let any = self.text_key || self.text_value || self.key || self.value || self.timestamp || self.ticks_per_ms > 1;
        if any { self.check_each(chunk, record) } else { Ok(()) }
    }

    fn check_each(self, chunk: &RecordChunk, record: usize) -> Outcome {
        let (key, value) = (chunk.key(record), chunk.payload(record));
        let missing = |what: &str| Err(Fault::value(format!("the record has no {what}, and its column is NOT NULL")));
        if self.key && key.is_none() {
            return missing("key");
        }
        if self.value && value.is_none() {
            return missing("payload");
        }
        if self.timestamp && chunk.timestamp_ms(record).is_none() {
            return missing("timestamp");
        }
        if let Some(ms) = chunk.timestamp_ms(record)
            && ms.checked_mul(self.ticks_per_ms).is_none()
        {
            return Err(Fault::value(format!("the record's timestamp, {ms} ms since 1970, does not fit its column")));
        }
        for (wanted, bytes, what) in [(self.text_key, key, "key"), (self.text_value, value, "payload")] {
            if wanted && bytes.is_some_and(|bytes| std::str::from_utf8(bytes).is_err()) {
                return Err(Fault::value(format!("the {what} is not UTF-8; declare its column as BYTES")));
            }
        }
        Ok(())
    }
}

fn ticks_per_ms(data_type: &DataType) -> i64 {
    match data_type {
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 1_000_000,
        _ => 1,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The type a field has by itself; a column of another type is cast from it.
fn natural_type(column: &Column, field: &Field) -> DataType {
    match field {
        Field::Key | Field::Value if is_text(column.data_type()) => DataType::Utf8,
        Field::Json { .. } | Field::KeyJson { .. } | Field::Key | Field::Value => DataType::Binary,
        Field::Tombstone => DataType::Boolean,
        Field::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, zone(column.data_type())),
        Field::TimestampType | Field::Topic => DataType::Utf8,
        Field::Offset => DataType::Int64,
        Field::Partition => DataType::Int32,
        Field::Headers => column.data_type().clone(),
    }
}

fn zone(data_type: &DataType) -> Option<Arc<str>> {
    match data_type {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    }
}

/// Whether the column's type can hold the field.
pub(super) fn check(column: &Column, field: &Field) -> Result<()> {
    let data_type = column.data_type();
    let (fits, from) = match field {
        Field::Key => (is_text(data_type) || is_bytes(data_type), "a record's key"),
        Field::Value => (is_text(data_type) || is_bytes(data_type), "a record's payload"),
        Field::Timestamp => (matches!(data_type, DataType::Timestamp(..) | DataType::Int64), "a record's timestamp"),
        Field::TimestampType => (is_text(data_type), "a timestamp's type"),
        Field::Offset => (*data_type == DataType::Int64, "an offset"),
        Field::Partition => (matches!(data_type, DataType::Int32 | DataType::Int64), "a partition"),
        Field::Topic => (is_text(data_type), "a topic"),
        Field::Headers => (header_fields(data_type).is_some(), "headers"),
        Field::Tombstone => (*data_type == DataType::Boolean, "whether a payload is null"),
        Field::Json { .. } | Field::KeyJson { .. } => (true, "JSON"),
    };
    if fits && (matches!(field, Field::Headers) || can_cast_types(&natural_type(column, field), data_type)) {
        return Ok(());
    }
    Err(KafkaError::UnsupportedColumn { column: column.name().clone(), data_type: data_type.to_string(), from })
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// Entry, key and value field of `MAP<STRING, BYTES>`.
fn header_fields(data_type: &DataType) -> Option<(&Arc<Column>, &Arc<Column>, &Arc<Column>)> {
    let DataType::Map(entries, false) = data_type else { return None };
    let DataType::Struct(fields) = entries.data_type() else { return None };
    let [key, value] = fields.as_ref() else { return None };
    let fits = *key.data_type() == DataType::Utf8 && *value.data_type() == DataType::Binary && value.is_nullable();
    fits.then_some((entries, key, value))
}

/// The column for the records that became rows.
pub(super) fn column(column: &Column, field: &Field, chunk: &RecordChunk, rows: &[u32], topic: &str, partition: i32) -> ArrayRef {
    let records = || rows.iter().map(|row| *row as usize);
    let array: ArrayRef = match field {
        Field::Key => bytes(column.data_type(), rows, |record| chunk.key(record)),
        Field::Value => bytes(column.data_type(), rows, |record| chunk.payload(record)),
        Field::Timestamp => {
            let array: TimestampMillisecondArray = records().map(|record| chunk.timestamp_ms(record)).collect();
            Arc::new(array.with_timezone_opt(zone(column.data_type())))
        }
        Field::TimestampType => {
            Arc::new(records().map(|record| Some(chunk.timestamp_type(record).as_str())).collect::<StringArray>())
        }
        Field::Offset => Arc::new(Int64Array::from_iter_values(records().map(|record| chunk.offset(record)))),
        Field::Partition => Arc::new(Int32Array::from_value(partition, rows.len())),
        Field::Topic => Arc::new(StringArray::new_repeated(topic, rows.len())),
        Field::Headers => headers(column.data_type(), chunk, rows),
        Field::Json { .. } | Field::KeyJson { .. } | Field::Tombstone => unreachable!("what is decoded is not looked up"),
    };
    if array.data_type() == column.data_type() {
        return array;
    }
    cast(&array, column.data_type()).expect("types were checked when the decoder was made")
}

fn bytes<'a>(data_type: &DataType, rows: &[u32], get: impl Fn(usize) -> Option<&'a [u8]>) -> ArrayRef {
    let values = rows.iter().map(|row| get(*row as usize));
    if is_text(data_type) {
        let text = values.map(|value| value.map(|value| std::str::from_utf8(value).expect("records were checked")));
        Arc::new(text.collect::<StringArray>())
    } else {
        let mut builder = BinaryBuilder::with_capacity(rows.len(), 0);
        values.for_each(|value| builder.append_option(value));
        Arc::new(builder.finish())
    }
}

fn headers(data_type: &DataType, chunk: &RecordChunk, rows: &[u32]) -> ArrayRef {
    let (entries, key, value) = header_fields(data_type).expect("types were checked when the decoder was made");
    let names = MapFieldNames { entry: entries.name().clone(), key: key.name().clone(), value: value.name().clone() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new())
        .with_keys_field(key.clone())
        .with_values_field(value.clone());
    let mut last: Vec<(&str, Option<&[u8]>)> = Vec::new();
    for row in rows {
        last.clear();
        for (name, value) in chunk.headers(*row as usize) {
            match last.iter_mut().find(|(known, _)| *known == name) {
                Some(known) => known.1 = value,
                None => last.push((name, value)),
            }
        }
        for (name, value) in &last {
            builder.keys().append_value(name);
            builder.values().append_option(*value);
        }
        builder.append(true).expect("as many keys as values");
    }
    Arc::new(builder.finish())
}
