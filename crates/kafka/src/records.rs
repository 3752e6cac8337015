//! Raw records of one topic-partition in columnar form: one byte buffer and one small entry per record, shared by slices. Nothing is
//! allocated per record.
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use polybolos_streaming::frame::OffsetRange;

/// Where a record's timestamp comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    None,
    CreateTime,
    LogAppendTime,
}

impl TimestampType {
    /// As Flink SQL names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NoTimestampType",
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
        }
    }
}

/// Lengths of what lies in `bytes` from `start` on: key, payload, headers. `ABSENT` is Kafka's null.
#[derive(Clone, Copy)]
struct Entry {
    offset: i64,
    timestamp_ms: i64,
    start: u32,
    key: u32,
    payload: u32,
    headers: u32,
    timestamp_type: TimestampType,
}

const ABSENT: u32 = u32::MAX;

fn length(field: u32) -> usize {
    if field == ABSENT { 0 } else { field as usize }
}

#[derive(Default)]
struct Store {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Records by ascending offset; cloning and slicing share the bytes.
#[derive(Clone)]
pub struct RecordChunk {
    store: Arc<Store>,
    range: Range<usize>,
}

impl fmt::Debug for RecordChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordChunk").field("records", &self.len()).field("offsets", &self.offsets()).finish()
    }
}

impl RecordChunk {
    pub fn len(&self) -> usize {
        self.range.len()
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// From the first record's offset to one past the last one's; `None` when there are no records.
    pub fn offsets(&self) -> Option<OffsetRange> {
        let entries = &self.store.entries[self.range.clone()];
        Some(OffsetRange::new(entries.first()?.offset, entries.last()?.offset + 1))
    }

    pub fn offset(&self, record: usize) -> i64 {
        self.entry(record).offset
    }

    pub fn timestamp_ms(&self, record: usize) -> Option<i64> {
        let entry = self.entry(record);
        (entry.timestamp_type != TimestampType::None).then_some(entry.timestamp_ms)
    }

    pub fn timestamp_type(&self, record: usize) -> TimestampType {
        self.entry(record).timestamp_type
    }

    /// `None` is a null payload (a tombstone).
    pub fn payload(&self, record: usize) -> Option<&[u8]> {
        let entry = self.entry(record);
        let start = entry.start as usize + length(entry.key);
        (entry.payload != ABSENT).then(|| &self.store.bytes[start..start + entry.payload as usize])
    }

    pub fn key(&self, record: usize) -> Option<&[u8]> {
        let entry = self.entry(record);
        let start = entry.start as usize;
        (entry.key != ABSENT).then(|| &self.store.bytes[start..start + entry.key as usize])
    }

    /// Names and values in the order they were produced in; a value may be null.
    pub fn headers(&self, record: usize) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let entry = self.entry(record);
        let start = entry.start as usize + length(entry.key) + length(entry.payload);
        Headers { rest: &self.store.bytes[start..start + entry.headers as usize] }
    }

    /// Bytes of keys, payloads and headers of these records.
    pub fn bytes(&self) -> usize {
        let entries = &self.store.entries[self.range.clone()];
        entries.iter().map(|entry| length(entry.key) + length(entry.payload) + entry.headers as usize).sum()
    }

    /// What holding these records costs: their bytes, and an entry for each.
    pub(crate) fn footprint(&self) -> usize {
        self.bytes() + self.len() * std::mem::size_of::<Entry>()
    }

    /// The records whose offsets lie in `range`.
    #[must_use]
    pub fn slice(&self, range: OffsetRange) -> Self {
        let entries = &self.store.entries[self.range.clone()];
        let first = entries.partition_point(|entry| entry.offset < range.start);
        let last = entries.partition_point(|entry| entry.offset < range.end);
        Self { store: self.store.clone(), range: self.range.start + first..self.range.start + last.max(first) }
    }

    fn entry(&self, record: usize) -> &Entry {
        &self.store.entries[self.range.clone()][record]
    }
}

struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Headers<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        taken
    }

    fn take_length(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes were taken"))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let name = self.take_length() as usize;
        let name = std::str::from_utf8(self.take(name)).expect("the builder was given a str");
        let value = self.take_length();
        let value = (value != ABSENT).then(|| self.take(value as usize));
        Some((name, value))
    }
}

/// Collects records into a [`RecordChunk`].
#[derive(Default)]
pub struct ChunkBuilder {
    store: Store,
}

/// One record on its way into a chunk.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    pub offset: i64,
    pub timestamp: Option<(TimestampType, i64)>,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
}

impl ChunkBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// With room for so much: growing would copy all of it again and again.
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        Self { store: Store { bytes: Vec::with_capacity(bytes), entries: Vec::with_capacity(records) } }
    }

    pub fn len(&self) -> usize {
        self.store.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.store.entries.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.store.bytes.len()
    }

    /// Whether a record of this offset may follow.
    pub fn takes(&self, offset: i64) -> bool {
        self.store.entries.last().is_none_or(|last| last.offset < offset)
    }

    /// # Panics
    /// When offsets do not ascend, or a chunk would grow past 4 GiB.
    pub fn push<'h>(&mut self, record: RawRecord<'_>, headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>) {
        let Store { bytes, entries } = &mut self.store;
        assert!(entries.last().is_none_or(|last| last.offset < record.offset), "offset {} does not ascend", record.offset);
        let start = u32::try_from(bytes.len()).expect("a chunk stays below 4 GiB");
        let key = append(bytes, record.key);
        let payload = append(bytes, record.payload);
        let before = bytes.len();
        for (name, value) in headers {
            bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&value.map_or(ABSENT, |value| value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value.unwrap_or_default());
        }
        let headers = (bytes.len() - before) as u32;
        let (timestamp_type, timestamp_ms) = record.timestamp.unwrap_or((TimestampType::None, 0));
        entries.push(Entry { offset: record.offset, timestamp_ms, start, key, payload, headers, timestamp_type });
    }

    /// What was collected; the builder is empty afterwards.
    pub fn finish(&mut self) -> RecordChunk {
        let store = std::mem::take(&mut self.store);
        let range = 0..store.entries.len();
        RecordChunk { store: Arc::new(store), range }
    }
}

fn append(bytes: &mut Vec<u8>, field: Option<&[u8]>) -> u32 {
    match field {
        Some(field) => {
            bytes.extend_from_slice(field);
            u32::try_from(field.len()).expect("a record stays below 4 GiB")
        }
        None => ABSENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> RecordChunk {
        let mut builder = ChunkBuilder::new();
        for offset in [3i64, 4, 7, 9] {
            let payload = format!("payload {offset}");
            let record = RawRecord {
                offset,
                timestamp: (offset != 4).then_some((TimestampType::CreateTime, offset * 10)),
                key: (offset != 7).then_some(b"k".as_slice()),
                payload: (offset != 9).then_some(payload.as_bytes()),
            };
            let headers = [("a", Some(b"1".as_slice())), ("b", None)];
            builder.push(record, headers.into_iter().take(if offset == 3 { 2 } else { 0 }));
        }
        builder.finish()
    }

    #[test]
    fn fields_come_back() {
        let chunk = chunk();
        assert_eq!(chunk.len(), 4);
        assert_eq!(chunk.offsets(), Some(OffsetRange::new(3, 10)));
        assert_eq!(chunk.payload(0), Some(b"payload 3".as_slice()));
        assert_eq!(chunk.payload(3), None);
        assert_eq!(chunk.key(2), None);
        assert_eq!(chunk.key(3), Some(b"k".as_slice()));
        assert_eq!(chunk.timestamp_ms(0), Some(30));
        assert_eq!(chunk.timestamp_ms(1), None);
        assert_eq!(chunk.headers(0).collect::<Vec<_>>(), [("a", Some(b"1".as_slice())), ("b", None)]);
        assert_eq!(chunk.headers(1).count(), 0);
        assert_eq!(chunk.bytes(), 4 + 9 * 3 - 1 + (4 + 1 + 4 + 1) + (4 + 1 + 4));
    }

    #[test]
    fn slices_follow_offsets_over_holes() {
        let chunk = chunk();
        let slice = chunk.slice(OffsetRange::new(4, 9));
        assert_eq!((0..slice.len()).map(|record| slice.offset(record)).collect::<Vec<_>>(), [4, 7]);
        assert_eq!(slice.slice(OffsetRange::new(5, 7)).len(), 0);
        assert_eq!(slice.slice(OffsetRange::new(0, 100)).len(), 2);
        assert_eq!(chunk.slice(OffsetRange::new(10, 20)).offsets(), None);
    }
}
