//! Arrow to JSON records: every row of a batch becomes one object, as [`crate::decode`] reads it back, byte for byte the same for the same
//! row. A column is bound to its array once per batch; after that a row is a walk over the columns into one buffer.
//!
//! Numbers are JSON numbers (decimals with all their digits), `NaN` and infinities stand in quotes, bytes are base64, times and timestamps
//! are Flink's notations. NULL is `null`, or left out on demand. What JSON's notations cannot say (years beyond 9999) is a failure of that
//! row alone.
mod time;
mod value;

use std::ops::Range;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Schema},
};
use serde::{Deserialize, Serialize};

use self::value::{Value, bind};
use crate::{
    decode::TimestampFormat,
    error::{KafkaError, Result},
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EncodeOptions {
    pub timestamp_format: TimestampFormat,
    /// A NULL field is left out instead of written as `null`.
    pub ignore_null_fields: bool,
}

/// Objects of some rows, in one buffer.
#[derive(Debug, Default)]
pub struct Encoded {
    bytes: Vec<u8>,
    rows: Vec<Result<Range<usize>, String>>,
}

impl Encoded {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row's object, or in one line why there is none.
    pub fn row(&self, row: usize) -> Result<&[u8], &str> {
        match &self.rows[row] {
            Ok(range) => Ok(&self.bytes[range.clone()]),
            Err(error) => Err(error),
        }
    }
}

/// That every column can be written.
pub fn check(schema: &Schema) -> Result<()> {
    match schema.fields().iter().find(|field| !is_supported(field.data_type())) {
        None => Ok(()),
        Some(field) => Err(KafkaError::UnwritableColumn {
            column: field.name().clone(),
            data_type: field.data_type().to_string(),
            reason: "JSON has objects with text keys only".into(),
        }),
    }
}

fn is_supported(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) => is_supported(item.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| is_supported(field.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                matches!(fields[0].data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
                    && is_supported(fields[1].data_type())
            }
            _ => false,
        },
        other => value::is_scalar(other),
    }
}

/// Every row of a batch as an object of its columns, in their order.
pub fn encode(batch: &RecordBatch, options: EncodeOptions) -> Result<Encoded> {
    let mut columns: Vec<(Vec<u8>, Box<dyn Value + '_>)> = Vec::with_capacity(batch.num_columns());
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        columns.push((name(field.name()), bind(array.as_ref(), options)?));
    }
    let mut encoded = Encoded { bytes: Vec::with_capacity(batch.num_rows() * 64), rows: Vec::with_capacity(batch.num_rows()) };
    for row in 0..batch.num_rows() {
        let start = encoded.bytes.len();
        let written = write_object(&columns, row, options, &mut encoded.bytes);
        encoded.rows.push(match written {
            Ok(()) => Ok(start..encoded.bytes.len()),
            Err(error) => {
                encoded.bytes.truncate(start);
                Err(error)
            }
        });
    }
    Ok(encoded)
}

/// Text or bytes as they are, without JSON around them.
pub fn encode_raw(column: &ArrayRef) -> Result<Encoded> {
    let column = cast(column, &DataType::Binary).map_err(|error| KafkaError::Bug(format!("a raw key: {error}")))?;
    let values = column.as_binary::<i32>();
    let mut encoded = Encoded { bytes: Vec::with_capacity(values.value_data().len()), rows: Vec::with_capacity(values.len()) };
    for row in 0..values.len() {
        let start = encoded.bytes.len();
        encoded.bytes.extend_from_slice(values.value(row));
        encoded.rows.push(if values.is_null(row) { Err("the key is NULL".into()) } else { Ok(start..encoded.bytes.len()) });
    }
    Ok(encoded)
}

type Named<'a> = (Vec<u8>, Box<dyn Value + 'a>);

fn write_object(columns: &[Named<'_>], row: usize, options: EncodeOptions, out: &mut Vec<u8>) -> Result<(), String> {
    out.push(b'{');
    let mut first = true;
    for (name, value) in columns {
        let is_null = value.is_null(row);
        if is_null && options.ignore_null_fields {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        out.extend_from_slice(name);
        if is_null {
            out.extend_from_slice(b"null");
        } else {
            value
                .write(row, out)
                .map_err(|error| format!("field {}: {error}", String::from_utf8_lossy(&name[..name.len() - 1])))?;
        }
    }
    out.push(b'}');
    Ok(())
}

/// `"name":`
fn name(name: &str) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(name.len() + 3);
    value::write_text(name, &mut quoted);
    quoted.push(b':');
    quoted
}

#[cfg(test)]
mod tests;
