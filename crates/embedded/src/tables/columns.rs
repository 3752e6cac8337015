//! Arrow columns to stored bytes and back, a row at a time and without an allocation per value: [`ColumnReader`] looks into an
//! array's buffers, [`ColumnBuilder`] collects decoded values into the array of a scan.
use std::sync::Arc;

use arrow::{
    array::{Array, ArrayData, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, NullBufferBuilder, StringBuilder, make_array},
    buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer},
    datatypes::DataType,
};

use super::{
    Damage, key,
    types::{Layout, layout},
};

/// The values of one column of a batch, as bytes.
#[derive(Debug)]
pub(super) struct ColumnReader {
    layout: Layout,
    nulls: Option<NullBuffer>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// `start` is the byte at which row 0 begins.
    Fixed {
        buffer: Buffer,
        start: usize,
        width: usize,
    },
    Boolean(BooleanBuffer),
    Bytes {
        offsets: OffsetBuffer<i32>,
        buffer: Buffer,
    },
}

impl ColumnReader {
    /// `None` where the type cannot be stored.
    pub(super) fn new(array: &ArrayRef) -> Option<Self> {
        let layout = layout(array.data_type())?;
        let values = match layout {
            Layout::Fixed { width, .. } => {
                let data = array.to_data();
                Values::Fixed { buffer: data.buffers().first()?.clone(), start: data.offset() * width, width }
            }
            Layout::Boolean => Values::Boolean(array.as_boolean().values().clone()),
            Layout::Bytes { text: true } => {
                let array = array.as_string::<i32>();
                Values::Bytes { offsets: array.offsets().clone(), buffer: array.values().clone() }
            }
            Layout::Bytes { text: false } => {
                let array = array.as_binary::<i32>();
                Values::Bytes { offsets: array.offsets().clone(), buffer: array.values().clone() }
            }
        };
        Some(Self { layout, nulls: array.nulls().cloned(), values })
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Whether the value is a text or blob of no bytes.
    pub(super) fn is_empty(&self, row: usize) -> bool {
        matches!(self.values, Values::Bytes { .. }) && self.bytes(row).is_empty()
    }

    /// The value's bytes; meaningless for a null.
    pub(super) fn bytes(&self, row: usize) -> &[u8] {
        match &self.values {
            Values::Fixed { buffer, start, width } => &buffer[start + row * width..start + (row + 1) * width],
            Values::Boolean(bits) => {
                if bits.value(row) {
                    &[1]
                } else {
                    &[0]
                }
            }
            Values::Bytes { offsets, buffer } => &buffer[offsets[row] as usize..offsets[row + 1] as usize],
        }
    }

    /// Appends the value as a component of a key.
    pub(super) fn put_key(&self, row: usize, out: &mut Vec<u8>) {
        key::put(self.layout, self.bytes(row), out);
    }
}

/// Collects one column of a scan.
#[derive(Debug)]
pub(super) enum ColumnBuilder {
    Fixed { data_type: DataType, width: usize, values: MutableBuffer, nulls: NullBufferBuilder },
    Boolean(BooleanBuilder),
    Text(StringBuilder),
    Binary(BinaryBuilder),
}

impl ColumnBuilder {
    /// `None` where the type cannot be stored.
    pub(super) fn new(data_type: &DataType, rows: usize) -> Option<Self> {
        Some(match layout(data_type)? {
            Layout::Fixed { width, .. } => Self::Fixed {
                data_type: data_type.clone(),
                width,
                values: MutableBuffer::new(rows * width),
                nulls: NullBufferBuilder::new(rows),
            },
            Layout::Boolean => Self::Boolean(BooleanBuilder::with_capacity(rows)),
            Layout::Bytes { text: true } => Self::Text(StringBuilder::with_capacity(rows, rows * 16)),
            Layout::Bytes { text: false } => Self::Binary(BinaryBuilder::with_capacity(rows, rows * 16)),
        })
    }

    pub(super) fn push(&mut self, value: Option<&[u8]>) -> Result<(), Damage> {
        match (self, value) {
            (Self::Fixed { width, values, nulls, .. }, None) => {
                values.extend_zeros(*width);
                nulls.append_null();
            }
            (Self::Fixed { width, values, nulls, .. }, Some(bytes)) => {
                if bytes.len() != *width {
                    return Err(Damage("a value has the wrong width"));
                }
                values.extend_from_slice(bytes);
                nulls.append_non_null();
            }
            (Self::Boolean(builder), value) => builder.append_option(value.map(|bytes| bytes.first() == Some(&1))),
            (Self::Text(builder), None) => builder.append_null(),
            (Self::Text(builder), Some(bytes)) => {
                builder.append_value(std::str::from_utf8(bytes).map_err(|_| Damage("a text is not UTF-8"))?);
            }
            (Self::Binary(builder), value) => builder.append_option(value),
        }
        Ok(())
    }

    /// The array of everything pushed.
    pub(super) fn finish(self) -> Result<ArrayRef, Damage> {
        match self {
            Self::Fixed { data_type, width, values, mut nulls } => {
                let rows = values.len() / width;
                let data = ArrayData::builder(data_type)
                    .len(rows)
                    .add_buffer(values.into())
                    .nulls(nulls.finish())
                    .align_buffers(true)
                    .build()
                    .map_err(|_| Damage("values do not form a column"))?;
                Ok(make_array(data))
            }
            Self::Boolean(mut builder) => Ok(Arc::new(builder.finish())),
            Self::Text(mut builder) => Ok(Arc::new(builder.finish())),
            Self::Binary(mut builder) => Ok(Arc::new(builder.finish())),
        }
    }
}
