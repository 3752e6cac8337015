//! One column's values as JSON.
use arrow::{
    array::{Array, ArrowPrimitiveType, AsArray, BooleanArray, ListArray, MapArray, PrimitiveArray, StructArray},
    datatypes::{
        DataType, Decimal128Type, Decimal256Type, DecimalType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::{EncodeOptions, Named, name, time, write_object};
use crate::error::{KafkaError, Result};

/// A column bound to its array.
pub(super) trait Value {
    fn is_null(&self, row: usize) -> bool;
    /// Writes a value that is not NULL.
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String>;
}

/// Text in quotes, escaped.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("text is written to memory");
}

pub(super) fn is_scalar(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Null
                | DataType::Boolean
                | DataType::Float32
                | DataType::Float64
                | DataType::Decimal128(..)
                | DataType::Decimal256(..)
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::Date32
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(..)
        )
}

/// A value that is written by a function of the array and the row.
struct Scalar<'a, F> {
    array: &'a dyn Array,
    write: F,
}

impl<F: Fn(usize, &mut Vec<u8>) -> Result<(), String>> Value for Scalar<'_, F> {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        (self.write)(row, out)
    }
}

pub(super) fn scalar<'a>(
    array: &'a dyn Array,
    write: impl Fn(usize, &mut Vec<u8>) -> Result<(), String> + 'a,
) -> Box<dyn Value + 'a> {
    Box::new(Scalar { array, write })
}

pub(super) fn bind(array: &dyn Array, options: EncodeOptions) -> Result<Box<dyn Value + '_>> {
    Ok(match array.data_type() {
        DataType::Int8 => integers::<Int8Type>(array.as_primitive()),
        DataType::Int16 => integers::<Int16Type>(array.as_primitive()),
        DataType::Int32 => integers::<Int32Type>(array.as_primitive()),
        DataType::Int64 => integers::<Int64Type>(array.as_primitive()),
        DataType::UInt8 => integers::<UInt8Type>(array.as_primitive()),
        DataType::UInt16 => integers::<UInt16Type>(array.as_primitive()),
        DataType::UInt32 => integers::<UInt32Type>(array.as_primitive()),
        DataType::UInt64 => integers::<UInt64Type>(array.as_primitive()),
        DataType::Null => Box::new(Nothing),
        DataType::Boolean => booleans(array.as_boolean()),
        DataType::Float32 => floats::<Float32Type>(array.as_primitive()),
        DataType::Float64 => floats::<Float64Type>(array.as_primitive()),
        DataType::Decimal128(..) => decimals::<Decimal128Type>(array.as_primitive()),
        DataType::Decimal256(..) => decimals::<Decimal256Type>(array.as_primitive()),
        DataType::Utf8 => texts(array, |row| array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => texts(array, |row| array.as_string::<i64>().value(row)),
        DataType::Utf8View => texts(array, |row| array.as_string_view().value(row)),
        DataType::Binary => blobs(array, |row| array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => blobs(array, |row| array.as_binary::<i64>().value(row)),
        DataType::BinaryView => blobs(array, |row| array.as_binary_view().value(row)),
        DataType::Date32 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..) => time::bind(array, options),
        DataType::List(_) => Box::new(Lists::new(array.as_list(), options)?),
        DataType::Struct(_) => Box::new(Structs::new(array.as_struct(), options)?),
        DataType::Map(..) => Box::new(Maps::new(array.as_map(), options)?),
        other => return Err(KafkaError::Bug(format!("a column of type {other} was to be written as JSON"))),
    })
}

fn integers<T: ArrowPrimitiveType<Native: serde::Serialize>>(array: &PrimitiveArray<T>) -> Box<dyn Value + '_> {
    scalar(array, move |row, out| {
        serde_json::to_writer(out, &array.value(row)).expect("a number is written to memory");
        Ok(())
    })
}

fn booleans(array: &BooleanArray) -> Box<dyn Value + '_> {
    scalar(array, move |row, out| {
        out.extend_from_slice(if array.value(row) { b"true" } else { b"false" });
        Ok(())
    })
}

fn floats<T: ArrowPrimitiveType<Native: serde::Serialize + Into<f64>>>(array: &PrimitiveArray<T>) -> Box<dyn Value + '_> {
    scalar(array, move |row, out| {
        let value = array.value(row);
        let wide: f64 = value.into();
        if wide.is_finite() {
            serde_json::to_writer(out, &value).expect("a number is written to memory");
        } else if wide.is_nan() {
            out.extend_from_slice(b"\"NaN\"");
        } else {
            out.extend_from_slice(if wide > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
        }
        Ok(())
    })
}

/// The unscaled value of a decimal, as digits.
trait Unscaled {
    fn digits(self) -> String;
}

impl Unscaled for i128 {
    fn digits(self) -> String {
        self.to_string()
    }
}

impl Unscaled for i256 {
    fn digits(self) -> String {
        self.to_string()
    }
}

fn decimals<T: DecimalType<Native: Unscaled>>(array: &PrimitiveArray<T>) -> Box<dyn Value + '_> {
    let scale = match array.data_type() {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    };
    scalar(array, move |row, out| {
        let digits = array.value(row).digits();
        let (sign, digits) = match digits.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", digits.as_str()),
        };
        out.extend_from_slice(sign.as_bytes());
        if scale <= 0 {
            out.extend_from_slice(digits.as_bytes());
            // A negative scale counts zeros, of which zero itself has none.
            out.extend(std::iter::repeat_n(b'0', if digits == "0" { 0 } else { usize::from(scale.unsigned_abs()) }));
            return Ok(());
        }
        let scale = scale as usize;
        let padded = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = padded.split_at(padded.len() - scale);
        out.extend_from_slice(whole.as_bytes());
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
        Ok(())
    })
}

fn texts<'a>(array: &'a dyn Array, value: impl Fn(usize) -> &'a str + 'a) -> Box<dyn Value + 'a> {
    scalar(array, move |row, out| {
        write_text(value(row), out);
        Ok(())
    })
}

fn blobs<'a>(array: &'a dyn Array, value: impl Fn(usize) -> &'a [u8] + 'a) -> Box<dyn Value + 'a> {
    scalar(array, move |row, out| {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode(value(row)).as_bytes());
        out.push(b'"');
        Ok(())
    })
}

struct Nothing;

impl Value for Nothing {
    fn is_null(&self, _: usize) -> bool {
        true
    }

    fn write(&self, _: usize, out: &mut Vec<u8>) -> Result<(), String> {
        out.extend_from_slice(b"null");
        Ok(())
    }
}

struct Lists<'a> {
    array: &'a ListArray,
    items: Box<dyn Value + 'a>,
}

impl<'a> Lists<'a> {
    fn new(array: &'a ListArray, options: EncodeOptions) -> Result<Self> {
        Ok(Self { array, items: bind(array.values().as_ref(), options)? })
    }
}

impl Value for Lists<'_> {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let offsets = self.array.value_offsets();
        out.push(b'[');
        for item in offsets[row]..offsets[row + 1] {
            if item > offsets[row] {
                out.push(b',');
            }
            write_or_null(self.items.as_ref(), item as usize, out)?;
        }
        out.push(b']');
        Ok(())
    }
}

fn write_or_null(value: &dyn Value, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if value.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    value.write(row, out)
}

struct Structs<'a> {
    array: &'a StructArray,
    fields: Vec<Named<'a>>,
    options: EncodeOptions,
}

impl<'a> Structs<'a> {
    fn new(array: &'a StructArray, options: EncodeOptions) -> Result<Self> {
        let fields = array.fields().iter().zip(array.columns());
        let fields = fields.map(|(field, values)| Ok((name(field.name()), bind(values.as_ref(), options)?)));
        Ok(Self { array, fields: fields.collect::<Result<_>>()?, options })
    }
}

impl Value for Structs<'_> {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        write_object(&self.fields, row, self.options, out)
    }
}

/// Maps with text for keys, as objects. A NULL value is always written: the key is there.
struct Maps<'a> {
    array: &'a MapArray,
    keys: Box<dyn Value + 'a>,
    values: Box<dyn Value + 'a>,
}

impl<'a> Maps<'a> {
    fn new(array: &'a MapArray, options: EncodeOptions) -> Result<Self> {
        Ok(Self { array, keys: bind(array.keys().as_ref(), options)?, values: bind(array.values().as_ref(), options)? })
    }
}

impl Value for Maps<'_> {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let offsets = self.array.value_offsets();
        out.push(b'{');
        for entry in offsets[row]..offsets[row + 1] {
            if entry > offsets[row] {
                out.push(b',');
            }
            self.keys.write(entry as usize, out)?;
            out.push(b':');
            write_or_null(self.values.as_ref(), entry as usize, out)?;
        }
        out.push(b'}');
        Ok(())
    }
}
