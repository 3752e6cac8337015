//! A record batch as producers send it (format 2, KIP-98): the header is read and the base offset set; the records inside, compressed
//! or not, are kept byte for byte. And the one kind of batch that we make ourselves: the marker that ends a transaction.
use bytes::Bytes;

use super::codes::ErrorCode;

const HEADER_BYTES: usize = 61;
/// Base offset and batch length, which the batch length does not count.
const PREFIX_BYTES: usize = 12;
const CRC_FROM: usize = 21;
const MAGIC: u8 = 2;
const CONTROL: i16 = 0x20;
const TRANSACTIONAL: i16 = 0x10;
const COMPRESSION: i16 = 0x07;

/// One checked batch, without its base offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    bytes: Bytes,
    pub(super) last_offset_delta: i32,
    pub(super) max_timestamp_ms: i64,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    pub(super) base_sequence: i32,
    pub(super) is_transactional: bool,
}

impl Batch {
    /// What a producer sent for one partition; the protocol says exactly one batch.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, ErrorCode> {
        if length(&bytes) != Some(bytes.len()) {
            return Err(ErrorCode::CorruptMessage);
        }
        if bytes[16] != MAGIC {
            return Err(ErrorCode::UnsupportedForMessageFormat);
        }
        if u32::from_be_bytes(field(&bytes, 17)) != crc32c(&bytes[CRC_FROM..]) {
            return Err(ErrorCode::CorruptMessage);
        }
        let attributes = i16::from_be_bytes(field(&bytes, 21));
        if attributes & CONTROL != 0 {
            return Err(ErrorCode::InvalidRecord);
        }
        let batch = Self {
            last_offset_delta: i32::from_be_bytes(field(&bytes, 23)),
            max_timestamp_ms: max_timestamp_ms(&bytes),
            producer_id: i64::from_be_bytes(field(&bytes, 43)),
            producer_epoch: i16::from_be_bytes(field(&bytes, 51)),
            base_sequence: i32::from_be_bytes(field(&bytes, 53)),
            is_transactional: attributes & TRANSACTIONAL != 0,
            bytes,
        };
        let records = i32::from_be_bytes(field(&batch.bytes, 57));
        if batch.last_offset_delta < 0 || records != batch.last_offset_delta + 1 {
            return Err(ErrorCode::InvalidRecord);
        }
        Ok(batch)
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes to store and to serve, which the checksum allows: it does not cover the base offset.
    pub(super) fn at(&self, base_offset: i64) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes
    }

    /// The sequence number of the last record; they wrap to 0.
    pub(super) fn last_sequence(&self) -> i32 {
        ((i64::from(self.base_sequence) + i64::from(self.last_offset_delta)) % (i64::from(i32::MAX) + 1)) as i32
    }
}

/// The marker that ends a producer's transaction in a partition, at an offset of its own: one control record (KIP-98).
pub(super) fn marker(offset: i64, (producer_id, producer_epoch): (i64, i16), committed: bool, now_ms: i64) -> Vec<u8> {
    const NO_SEQUENCE: i32 = -1;
    let mut record = vec![0, 0, 0];
    // Key: version 0, and 1 for a commit. Value: version 0, and the coordinator's epoch, of which there is one for ever.
    put_bytes(&mut record, &[0, 0, 0, u8::from(committed)]);
    put_bytes(&mut record, &[0; 6]);
    record.push(0);
    let mut records = vec![zigzag(record.len())];
    records.extend(record);

    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
    bytes[8..12].copy_from_slice(&((HEADER_BYTES - PREFIX_BYTES + records.len()) as i32).to_be_bytes());
    bytes[16] = MAGIC;
    bytes[21..23].copy_from_slice(&(CONTROL | TRANSACTIONAL).to_be_bytes());
    bytes[27..35].copy_from_slice(&now_ms.to_be_bytes());
    bytes[35..43].copy_from_slice(&now_ms.to_be_bytes());
    bytes[43..51].copy_from_slice(&producer_id.to_be_bytes());
    bytes[51..53].copy_from_slice(&producer_epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&NO_SEQUENCE.to_be_bytes());
    bytes[57..61].copy_from_slice(&1i32.to_be_bytes());
    bytes.extend(records);
    let crc = crc32c(&bytes[CRC_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn put_bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    record.push(zigzag(bytes.len()));
    record.extend_from_slice(bytes);
}

/// A short length as the protocol's signed varint.
fn zigzag(length: usize) -> u8 {
    debug_assert!(length < 64, "a marker's parts are short");
    (length * 2) as u8
}

/// Bytes of the batch at the head of `records`; `None` where there is not even a header.
fn length(records: &[u8]) -> Option<usize> {
    if records.len() < HEADER_BYTES {
        return None;
    }
    let length = usize::try_from(i32::from_be_bytes(field(records, 8))).ok()? + PREFIX_BYTES;
    (length >= HEADER_BYTES).then_some(length)
}

/// The base offset of a stored batch.
pub(super) fn base_offset(batch: &[u8]) -> i64 {
    i64::from_be_bytes(field(batch, 0))
}

/// The latest timestamp in a stored batch.
pub(super) fn max_timestamp_ms(batch: &[u8]) -> i64 {
    i64::from_be_bytes(field(batch, 35))
}

/// The first record of a stored batch that is at or after a time and not before `from`: its timestamp and offset. Of compressed records, into
/// which nobody looks, the first.
pub(super) fn record_at(batch: &[u8], timestamp_ms: i64, from: i64) -> Option<(i64, i64)> {
    let (base, latest_ms) = (base_offset(batch), max_timestamp_ms(batch));
    if latest_ms < timestamp_ms {
        return None;
    }
    if i16::from_be_bytes(field(batch, 21)) & COMPRESSION != 0 {
        return Some((latest_ms, base.max(from)));
    }
    let first_ms = i64::from_be_bytes(field(batch, 27));
    let mut records = &batch[HEADER_BYTES..];
    while let Some((after_ms, behind)) = next_record(&mut records) {
        let (record_ms, offset) = (first_ms.saturating_add(after_ms), base.saturating_add(behind));
        if record_ms >= timestamp_ms && offset >= from {
            return Some((record_ms, offset));
        }
    }
    None
}

/// Timestamp and offset of the next record, counted from its batch's.
fn next_record(records: &mut &[u8]) -> Option<(i64, i64)> {
    let length = usize::try_from(varint(records)?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    *records = rest;
    let (_attributes, mut record) = record.split_first()?;
    Some((varint(&mut record)?, varint(&mut record)?))
}

/// The protocol's signed varint.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn field<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    bytes[from..from + N].try_into().expect("the header was checked to be there")
}

/// CRC-32C (Castagnoli), reflected, a byte at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ CRC32C[usize::from(crc as u8 ^ byte)])
}

const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A batch of `records` records whose contents are noise.
    pub(in crate::broker) fn batch(records: i32, producer: (i64, i16, i32), timestamp_ms: i64) -> Bytes {
        batch_with(0, records, producer, timestamp_ms)
    }

    pub(in crate::broker) fn transactional_batch(records: i32, producer: (i64, i16, i32), timestamp_ms: i64) -> Bytes {
        batch_with(TRANSACTIONAL, records, producer, timestamp_ms)
    }

    fn batch_with(attributes: i16, records: i32, producer: (i64, i16, i32), timestamp_ms: i64) -> Bytes {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(&[7; 40]);
        let length = (bytes.len() - PREFIX_BYTES) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = MAGIC;
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
        bytes[27..35].copy_from_slice(&timestamp_ms.to_be_bytes());
        bytes[35..43].copy_from_slice(&timestamp_ms.to_be_bytes());
        bytes[43..51].copy_from_slice(&producer.0.to_be_bytes());
        bytes[51..53].copy_from_slice(&producer.1.to_be_bytes());
        bytes[53..57].copy_from_slice(&producer.2.to_be_bytes());
        bytes[57..61].copy_from_slice(&records.to_be_bytes());
        let crc = crc32c(&bytes[CRC_FROM..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    #[test]
    fn crc32c_is_castagnoli_s() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn batches_are_read_and_placed() {
        let parsed = Batch::parse(batch(3, (9, 0, 4), 5)).unwrap();
        assert_eq!((parsed.last_offset_delta, parsed.producer_id, parsed.last_sequence()), (2, 9, 6));
        let placed = parsed.at(77);
        assert_eq!((base_offset(&placed), max_timestamp_ms(&placed)), (77, 5));
        let two = [batch(1, (-1, -1, -1), 5), batch(1, (-1, -1, -1), 5)].concat();
        assert_eq!(Batch::parse(two.into()), Err(ErrorCode::CorruptMessage));
    }

    #[test]
    fn a_marker_is_a_control_batch_of_one_record() {
        let marker = marker(77, (9, 3), true, 5);
        assert_eq!((base_offset(&marker), max_timestamp_ms(&marker)), (77, 5));
        assert_eq!(length(&marker), Some(marker.len()));
        assert_eq!(u32::from_be_bytes(field(&marker, 17)), crc32c(&marker[CRC_FROM..]));
        assert_eq!(marker[HEADER_BYTES..], [32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Batch::parse(marker.into()), Err(ErrorCode::InvalidRecord), "producers cannot send one");
    }

    #[test]
    fn a_time_is_that_of_a_record() {
        let mut stored = Batch::parse(batch(3, (-1, -1, -1), 1_000)).unwrap().at(70)[..HEADER_BYTES].to_vec();
        // At 1000, 800 and 1200 ms; the last is the latest.
        stored[35..43].copy_from_slice(&1_200_i64.to_be_bytes());
        let records: [(&[u8], u8); 3] = [(&[0], 0), (&[0x8F, 3], 2), (&[0x90, 3], 4)];
        for (after_ms, behind) in records {
            let record = [&[0][..], after_ms, &[behind, 1, 1, 0]].concat();
            stored.push(zigzag(record.len()));
            stored.extend(record);
        }
        let at = |timestamp_ms, from| record_at(&stored, timestamp_ms, from);
        assert_eq!((at(0, 0), at(1_001, 0), at(1_200, 0)), (Some((1_000, 70)), Some((1_200, 72)), Some((1_200, 72))));
        assert_eq!((at(0, 71), at(1_000, 71), at(1_201, 0), at(0, 73)), (Some((800, 71)), Some((1_200, 72)), None, None));
        for length in HEADER_BYTES..stored.len() {
            _ = record_at(&stored[..length], 1_200, 0);
        }
        stored[22] = 3;
        assert_eq!(record_at(&stored, 1_001, 71), Some((1_200, 71)), "they are compressed");
    }

    #[test]
    fn damage_is_refused() {
        let good = batch(3, (-1, -1, -1), 5);
        for byte in CRC_FROM..good.len() {
            let mut bad = good.to_vec();
            bad[byte] ^= 1;
            assert_eq!(Batch::parse(bad.into()), Err(ErrorCode::CorruptMessage));
        }
        assert_eq!(Batch::parse(good.slice(..good.len() - 1)), Err(ErrorCode::CorruptMessage));
        assert_eq!(Batch::parse(good.slice(..20)), Err(ErrorCode::CorruptMessage));
    }

    #[test]
    fn sequences_wrap() {
        let batch = Batch::parse(batch(3, (1, 0, i32::MAX - 1), 5)).unwrap();
        assert_eq!(batch.last_sequence(), 0);
    }
}
