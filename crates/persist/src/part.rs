//! Part files: the changes of one part of one epoch, by sink. A magic line, an index, Arrow IPC streams (lz4): one per run of a sink's
//! batches that have one schema, as upserts and deletes have two; the checksum over everything is in the report that names the file, and
//! so in the record.
use std::collections::BTreeMap;

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::{
        CompressionType,
        reader::StreamReader,
        writer::{IpcWriteOptions, StreamWriter},
    },
};
use bytes::Bytes;
use polybolos_streaming::ids::SinkId;

use crate::StoreError;

const MAGIC: &[u8] = b"polybolos-part 1\n";

/// Below this, compression costs more than it saves.
const COMPRESS_FROM_ROWS: usize = 64;

/// The file's bytes and their checksum. Sinks without batches are left out.
pub fn encode(sinks: &BTreeMap<SinkId, Vec<RecordBatch>>) -> Result<(Bytes, u32), StoreError> {
    let failed = |error: ArrowError| StoreError::Corrupt { object: "a part file being written".into(), message: error.to_string() };
    let mut streams = vec![];
    let runs = sinks
        .iter()
        .flat_map(|(sink, batches)| batches.chunk_by(|a, b| a.schema_ref() == b.schema_ref()).map(move |batches| (sink, batches)));
    for (sink, batches) in runs {
        let Some(first) = batches.first() else { continue };
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let compression = (rows >= COMPRESS_FROM_ROWS).then_some(CompressionType::LZ4_FRAME);
        let options = IpcWriteOptions::default().try_with_compression(compression).map_err(failed)?;
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &first.schema(), options).map_err(failed)?;
        for batch in batches {
            writer.write(batch).map_err(failed)?;
        }
        streams.push((sink.0, writer.into_inner().map_err(failed)?));
    }
    let mut file = MAGIC.to_vec();
    file.extend_from_slice(&(streams.len() as u32).to_le_bytes());
    for (sink, stream) in &streams {
        file.extend_from_slice(&sink.to_le_bytes());
        file.extend_from_slice(&(stream.len() as u64).to_le_bytes());
    }
    for (_, stream) in &streams {
        file.extend_from_slice(stream);
    }
    let crc32 = crc32fast::hash(&file);
    Ok((file.into(), crc32))
}

/// Reads a file back; `expected_crc32` is what the record says.
pub fn decode(name: &str, file: &Bytes, expected_crc32: u32) -> Result<BTreeMap<SinkId, Vec<RecordBatch>>, StoreError> {
    let corrupt = |message: String| StoreError::Corrupt { object: format!("part file {name}"), message };
    if crc32fast::hash(file) != expected_crc32 {
        return Err(corrupt(format!("its {} bytes do not have the recorded checksum", file.len())));
    }
    let mut rest = file.strip_prefix(MAGIC).ok_or_else(|| corrupt("it does not begin as a part file".into()))?;
    let mut take = |count: usize| -> Option<Vec<u8>> {
        let (head, tail) = rest.split_at_checked(count)?;
        rest = tail;
        Some(head.to_vec())
    };
    let cut = || corrupt("it is cut short".into());
    let number = |bytes: Vec<u8>| -> u64 { bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)) };
    let count = number(take(4).ok_or_else(cut)?);
    let mut index = vec![];
    for _ in 0..count {
        let sink = number(take(4).ok_or_else(cut)?) as u32;
        let length = number(take(8).ok_or_else(cut)?) as usize;
        index.push((SinkId(sink), length));
    }
    let mut sinks: BTreeMap<SinkId, Vec<RecordBatch>> = BTreeMap::new();
    for (sink, length) in index {
        let (stream, tail) = rest.split_at_checked(length).ok_or_else(cut)?;
        rest = tail;
        let reader = StreamReader::try_new(stream, None).map_err(|error| corrupt(error.to_string()))?;
        let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| corrupt(error.to_string()))?;
        sinks.entry(sink).or_default().extend(batches);
    }
    Ok(sinks)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int32Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;

    fn contents() -> BTreeMap<SinkId, Vec<RecordBatch>> {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false), Field::new("v", DataType::Int32, true)]));
        let keys: StringArray = (0..100).map(|number| Some(format!("key {number}"))).collect();
        let values: Int32Array = (0..100).map(|number| (number % 3 != 0).then_some(number)).collect();
        let batch = RecordBatch::try_new(schema, vec![Arc::new(keys), Arc::new(values)]).expect("batch");
        BTreeMap::from([(SinkId(0), vec![batch.clone(), batch.slice(3, 5)]), (SinkId(u32::MAX), vec![batch.slice(0, 1)])])
    }

    #[test]
    fn what_is_written_is_read() {
        let (file, crc32) = encode(&contents()).expect("encodes");
        assert_eq!(decode("p", &file, crc32).expect("decodes"), contents());
        let (file, crc32) = encode(&BTreeMap::new()).expect("encodes");
        assert!(decode("p", &file, crc32).expect("decodes").is_empty());
    }

    #[test]
    fn a_file_cut_short_or_changed_is_damaged() {
        let (file, crc32) = encode(&contents()).expect("encodes");
        for length in (0..file.len()).step_by(97) {
            assert!(matches!(decode("p", &file.slice(..length), crc32), Err(StoreError::Corrupt { .. })));
        }
        for index in (0..file.len()).step_by(31) {
            let mut changed = file.to_vec();
            changed[index] ^= 0x10;
            assert!(matches!(decode("p", &changed.into(), crc32), Err(StoreError::Corrupt { .. })), "byte {index}");
        }
    }
}
