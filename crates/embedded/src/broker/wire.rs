//! The primitive types of the Kafka protocol, in their classic and their "flexible" form (compact lengths and tagged fields, as
//! KIP-482 has them). A message says once which form its version has; after that one piece of code reads or writes both.
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A request that does not follow the protocol; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request does not follow the Kafka protocol: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Reads one request.
#[derive(Debug)]
pub(super) struct Reader {
    bytes: Bytes,
    flexible: bool,
}

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, flexible: false }
    }

    pub(super) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    fn need(&self, bytes: usize) -> Result<(), Malformed> {
        if self.bytes.len() < bytes { Err(Malformed("it is too short")) } else { Ok(()) }
    }

    pub(super) fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.i8()? != 0)
    }

    pub(super) fn i8(&mut self) -> Result<i8, Malformed> {
        self.need(1)?;
        Ok(self.bytes.get_i8())
    }

    pub(super) fn i16(&mut self) -> Result<i16, Malformed> {
        self.need(2)?;
        Ok(self.bytes.get_i16())
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        self.need(4)?;
        Ok(self.bytes.get_i32())
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        self.need(8)?;
        Ok(self.bytes.get_i64())
    }

    pub(super) fn uuid(&mut self) -> Result<uuid::Uuid, Malformed> {
        self.need(16)?;
        Ok(uuid::Uuid::from_u128(self.bytes.get_u128()))
    }

    fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.i8()? as u8;
            value |= u32::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is too long"))
    }

    /// A length; `None` is null. `classic` reads it in its classic form.
    fn length(&mut self, classic: fn(&mut Self) -> Result<i64, Malformed>) -> Result<Option<usize>, Malformed> {
        let length = if self.flexible { i64::from(self.varint()?) - 1 } else { classic(self)? };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Malformed("a length is negative")),
        }
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<String>, Malformed> {
        let Some(length) = self.length(|reader| reader.i16().map(i64::from))? else { return Ok(None) };
        self.need(length)?;
        let text = std::str::from_utf8(&self.bytes[..length]).map_err(|_| Malformed("a text is not UTF-8"))?.to_owned();
        self.bytes.advance(length);
        Ok(Some(text))
    }

    pub(super) fn string(&mut self) -> Result<String, Malformed> {
        self.nullable_string()?.ok_or(Malformed("a text is null"))
    }

    pub(super) fn nullable_bytes(&mut self) -> Result<Option<Bytes>, Malformed> {
        let Some(length) = self.length(|reader| reader.i32().map(i64::from))? else { return Ok(None) };
        self.need(length)?;
        Ok(Some(self.bytes.split_to(length)))
    }

    /// An array whose elements `read` reads; `None` is null.
    pub(super) fn nullable_array<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<Vec<T>>, Malformed> {
        let Some(length) = self.length(|reader| reader.i32().map(i64::from))? else { return Ok(None) };
        // Every element has at least a byte, so a length from a stranger cannot make us allocate more than he sent.
        self.need(length)?;
        (0..length).map(|_| read(self)).collect::<Result<_, _>>().map(Some)
    }

    /// An array; null reads as empty.
    pub(super) fn array<T>(&mut self, read: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        Ok(self.nullable_array(read)?.unwrap_or_default())
    }

    /// Skips tagged fields where the message has them.
    pub(super) fn tags(&mut self) -> Result<(), Malformed> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = self.varint()? as usize;
            self.need(length)?;
            self.bytes.advance(length);
        }
        Ok(())
    }
}

/// Writes one response.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: BytesMut,
    flexible: bool,
}

impl Writer {
    /// A response frame: room for its length, then the correlation id.
    pub(super) fn response(correlation_id: i32) -> Self {
        let mut writer = Self::default();
        writer.i32(0);
        writer.i32(correlation_id);
        writer
    }

    /// The finished frame, with its length in front.
    pub(super) fn into_frame(mut self) -> Bytes {
        let length = (self.bytes.len() - 4) as i32;
        self.bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.bytes.freeze()
    }

    pub(super) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.bytes.put_u8(value.into());
    }

    pub(super) fn i8(&mut self, value: i8) {
        self.bytes.put_i8(value);
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.bytes.put_i16(value);
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.bytes.put_i32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.bytes.put_i64(value);
    }

    pub(super) fn uuid(&mut self, value: uuid::Uuid) {
        self.bytes.put_slice(value.as_bytes());
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }

    pub(super) fn nullable_string(&mut self, text: Option<&str>) {
        match (self.flexible, text) {
            (true, None) => self.varint(0),
            (true, Some(text)) => self.varint(text.len() as u32 + 1),
            (false, None) => self.i16(-1),
            (false, Some(text)) => self.i16(text.len() as i16),
        }
        self.bytes.put_slice(text.unwrap_or_default().as_bytes());
    }

    pub(super) fn string(&mut self, text: &str) {
        self.nullable_string(Some(text));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if self.flexible {
            self.varint(bytes.len() as u32 + 1);
        } else {
            self.i32(bytes.len() as i32);
        }
        self.bytes.put_slice(bytes);
    }

    pub(super) fn array<T>(
        &mut self,
        elements: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        let elements = elements.into_iter();
        if self.flexible {
            self.varint(elements.len() as u32 + 1);
        } else {
            self.i32(elements.len() as i32);
        }
        elements.for_each(|element| write(self, element));
    }

    /// No tagged fields, where the message could have them.
    pub(super) fn tags(&mut self) {
        if self.flexible {
            self.varint(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(flexible: bool, text in "\\PC{0,200}", numbers in prop::collection::vec(any::<i64>(), 0..200)) {
            let mut writer = Writer::response(7);
            writer.set_flexible(flexible);
            writer.string(&text);
            writer.nullable_string(None);
            writer.bytes(text.as_bytes());
            writer.array(&numbers, |writer, number| writer.i64(*number));
            writer.tags();
            let frame = writer.into_frame();
            let mut reader = Reader::new(frame);
            prop_assert!(reader.i32().is_ok());
            prop_assert_eq!(reader.i32(), Ok(7));
            reader.set_flexible(flexible);
            prop_assert_eq!(reader.string(), Ok(text.clone()));
            prop_assert_eq!(reader.nullable_string(), Ok(None));
            prop_assert_eq!(reader.nullable_bytes(), Ok(Some(Bytes::from(text))));
            prop_assert_eq!(reader.array(Reader::i64), Ok(numbers));
            prop_assert_eq!(reader.tags(), Ok(()));
            prop_assert_eq!(reader.i8(), Err(Malformed("it is too short")));
        }

        #[test]
        fn noise_is_an_error_not_a_panic(flexible: bool, noise in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(Bytes::from(noise));
            reader.set_flexible(flexible);
            _ = reader.nullable_string();
            _ = reader.array(|reader| reader.array(Reader::string));
            _ = reader.nullable_bytes();
            _ = reader.tags();
        }
    }
}
