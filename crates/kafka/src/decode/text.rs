//! Columns of text and of bytes. Bytes stand in JSON as base64, as Flink writes them. An object or list becomes text as it stands in the record.
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::column::Column;
use super::fault::{Fault, Outcome};
use super::scan::Scanner;
use super::validity::Validity;
use super::values::refuse;

pub(super) struct TextColumn {
    data: Vec<u8>,
    offsets: Vec<i32>,
    validity: Validity,
    data_type: DataType,
    is_text: bool,
    scalars_as_text: bool,
}

impl TextColumn {
    pub fn new(data_type: DataType, scalars_as_text: bool) -> Self {
        let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        Self { data: Vec::new(), offsets: vec![0], validity: Validity::default(), data_type, is_text, scalars_as_text }
    }

    /// Appends the content of a string whose opening quote has been passed.
    #[inline]
    pub fn read_string(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        let span = scanner.string()?;
        scanner.append_string(span, &mut self.data);
        self.close()
    }

    #[inline(always)]
    fn close(&mut self) -> Outcome {
        let Ok(end) = i32::try_from(self.data.len()) else {
            return Err(Fault::value("more than 2 GiB of text in one batch".into()));
        };
        self.offsets.push(end);
        self.validity.push_valid();
        Ok(())
    }

    fn read_base64(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        let span = scanner.string()?;
        let mut written = Vec::new();
        scanner.append_string(span, &mut written);
        STANDARD.decode_vec(&written, &mut self.data).map_err(|error| Fault::value(format!("not base64: {error}")))?;
        self.close()
    }

    /// Value `row`, as bytes.
    pub fn value(&self, row: usize) -> &[u8] {
        &self.data[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }
}

impl Column for TextColumn {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        match scanner.peek() {
            Some(b'"') => {
                scanner.advance();
                if self.is_text { self.read_string(scanner) } else { self.read_base64(scanner) }
            }
            Some(b'{' | b'[') if self.is_text => {
                self.data.extend_from_slice(scanner.value_text()?.as_bytes());
                self.close()
            }
            Some(b'-' | b'0'..=b'9') if self.is_text && self.scalars_as_text => {
                let number = scanner.number()?;
                self.data.extend_from_slice(number.text.as_bytes());
                self.close()
            }
            Some(first @ (b't' | b'f')) if self.is_text && self.scalars_as_text => {
                let literal = if first == b't' { "true" } else { "false" };
                scanner.literal(literal)?;
                self.data.extend_from_slice(literal.as_bytes());
                self.close()
            }
            _ => refuse(scanner, if self.is_text { "a string" } else { "a base64 string" }),
        }
    }

    fn append_null(&mut self) {
        let end = self.offsets.last().copied().expect("offsets start with 0");
        self.offsets.push(end);
        self.validity.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        if rows + 1 < self.offsets.len() {
            self.offsets.truncate(rows + 1);
        }
        // A value may have been half written after its predecessor's end.
        self.data.truncate(self.offsets.last().copied().expect("offsets start with 0") as usize);
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let room = Vec::with_capacity(self.data.len());
        let data = std::mem::replace(&mut self.data, room);
        let mut offsets = Vec::with_capacity(self.offsets.len());
        offsets.push(0);
        let offsets = std::mem::replace(&mut self.offsets, offsets);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let (data, nulls) = (Buffer::from_vec(data), self.validity.finish());
        let array: ArrayRef = if self.is_text {
            Arc::new(StringArray::try_new(offsets, data, nulls).expect("records are UTF-8 and strings end between characters"))
        } else {
            Arc::new(BinaryArray::try_new(offsets, data, nulls).expect("offsets ascend to the end of the data"))
        };
        as_type(array, &self.data_type)
    }
}

/// Another layout of the same values.
pub(super) fn as_type(array: ArrayRef, data_type: &DataType) -> ArrayRef {
    if array.data_type() == data_type {
        return array;
    }
    arrow::compute::cast(&array, data_type).expect("layouts of text and bytes cast into each other")
}
