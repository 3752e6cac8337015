//! Part files: what one part of one epoch changed. A magic line, an index, one Arrow IPC stream (lz4) per sink with its changes, and one for what became of
//! the job's state; the checksum over everything is in the report that names the file, and so in the record. Files that compaction writes have
//! the state only; these are written, and runs of state merged, in [`pieces`].
use std::{collections::BTreeMap, io::Write, slice};

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

pub mod pieces;

const MAGIC: &[u8] = b"polybolos-part 2\n";

/// Files without a state section, as they were before there was state.
const MAGIC_1: &[u8] = b"polybolos-part 1\n";

/// Below this, compression costs more than it saves.
const COMPRESS_FROM_ROWS: usize = 64;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sections {
    /// Changes to publish; sinks without batches are left out.
    pub sinks: BTreeMap<SinkId, Vec<RecordBatch>>,
    /// Changes of the job's state, all of one schema; opaque here.
    pub state: Vec<RecordBatch>,
}

/// A file's bytes and what the report says of them.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub bytes: Bytes,
    pub crc32: u32,
    /// Of the state's section; 0 without one.
    pub state_bytes: u64,
}

pub fn encode(sections: &Sections) -> Result<Encoded, StoreError> {
    // A stream per run of batches of one schema: upserts and deletes have two.
    let runs: Vec<(&SinkId, &[RecordBatch])> = sections
        .sinks
        .iter()
        .flat_map(|(sink, batches)| batches.chunk_by(|a, b| a.schema_ref() == b.schema_ref()).map(move |batches| (sink, batches)))
        .filter(|(_, batches)| !batches.is_empty())
        .collect();
    let index = index_bytes(runs.len());
    let in_memory: usize =
        runs.iter().flat_map(|(_, batches)| *batches).chain(&sections.state).map(RecordBatch::get_array_memory_size).sum();
    let mut file = Vec::with_capacity(index + in_memory / 2);
    // The index is filled in once the lengths are known.
    file.resize(index, 0);
    let mut lengths = vec![];
    for (sink, batches) in &runs {
        lengths.push((**sink, append_stream(&mut file, batches, is_long(batches))?));
    }
    let state_bytes = append_stream(&mut file, &sections.state, is_long(&sections.state))?;
    Ok(finish(file, &lengths, state_bytes))
}

/// A file of state only, of one batch; compressed also if it is of few rows, as these may be long.
pub fn encode_state(batch: &RecordBatch) -> Result<Encoded, StoreError> {
    let mut file = vec![0; index_bytes(0)];
    let state_bytes = append_stream(&mut file, slice::from_ref(batch), true)?;
    Ok(finish(file, &[], state_bytes))
}

fn index_bytes(streams: usize) -> usize {
    MAGIC.len() + 4 + streams * 12 + 8
}

/// Fills the index in, for which there is room.
fn finish(mut file: Vec<u8>, streams: &[(SinkId, u64)], state_bytes: u64) -> Encoded {
    let head = head(streams, state_bytes);
    file[..head.len()].copy_from_slice(&head);
    file.shrink_to_fit();
    let crc32 = crc32fast::hash(&file);
    Encoded { bytes: file.into(), crc32, state_bytes }
}

/// What a file begins with, in [`index_bytes`].
fn head(streams: &[(SinkId, u64)], state_bytes: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&(streams.len() as u32).to_le_bytes());
    for (sink, length) in streams {
        head.extend_from_slice(&sink.0.to_le_bytes());
        head.extend_from_slice(&length.to_le_bytes());
    }
    head.extend_from_slice(&state_bytes.to_le_bytes());
    head
}

fn failed(error: ArrowError) -> StoreError {
    StoreError::Corrupt { object: "a part file being written".into(), message: error.to_string() }
}

fn is_long(batches: &[RecordBatch]) -> bool {
    batches.iter().map(RecordBatch::num_rows).sum::<usize>() >= COMPRESS_FROM_ROWS
}

/// Answers the stream's bytes.
fn append_stream(file: &mut Vec<u8>, batches: &[RecordBatch], is_compressed: bool) -> Result<u64, StoreError> {
    let Some(first) = batches.first() else { return Ok(0) };
    let before = file.len();
    let mut writer = stream_writer(&mut *file, first, is_compressed)?;
    for batch in batches {
        writer.write(batch).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    drop(writer);
    Ok((file.len() - before) as u64)
}

/// A stream of batches like `first`.
fn stream_writer<W: Write>(file: W, first: &RecordBatch, is_compressed: bool) -> Result<StreamWriter<W>, StoreError> {
    let compression = is_compressed.then_some(CompressionType::LZ4_FRAME);
    let options = IpcWriteOptions::default().try_with_compression(compression).map_err(failed)?;
    StreamWriter::try_new_with_options(file, &first.schema(), options).map_err(failed)
}

/// Reads a whole file back; `expected_crc32` is what the record says.
pub fn decode(name: &str, file: &Bytes, expected_crc32: u32) -> Result<Sections, StoreError> {
    let layout = Layout::read(name, file, expected_crc32)?;
    let mut sinks: BTreeMap<SinkId, Vec<RecordBatch>> = BTreeMap::new();
    for (sink, stream) in &layout.sinks {
        sinks.entry(*sink).or_default().extend(decode_stream(name, stream)?);
    }
    Ok(Sections { sinks, state: decode_stream(name, layout.state)? })
}

/// Only one sink's changes; none if the file has none.
pub fn decode_sink(name: &str, file: &Bytes, expected_crc32: u32, sink: SinkId) -> Result<Vec<RecordBatch>, StoreError> {
    let layout = Layout::read(name, file, expected_crc32)?;
    let streams = layout.sinks.iter().filter(|(of, _)| *of == sink);
    Ok(streams.map(|(_, stream)| decode_stream(name, stream)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Only what became of the state, batch by batch; nothing if the file has no such section.
pub fn read_state<'a>(
    name: &'a str,
    file: &'a Bytes,
    expected_crc32: u32,
) -> Result<impl Iterator<Item = Result<RecordBatch, StoreError>>, StoreError> {
    read_stream(name, Layout::read(name, file, expected_crc32)?.state)
}

/// Where the sections lie.
struct Layout<'a> {
    sinks: Vec<(SinkId, &'a [u8])>,
    state: &'a [u8],
}

impl<'a> Layout<'a> {
    fn read(name: &str, file: &'a [u8], expected_crc32: u32) -> Result<Self, StoreError> {
        if crc32fast::hash(file) != expected_crc32 {
            return Err(unlike_record(name, file.len() as u64));
        }
        let Index { sinks, state, mut rest } = Index::read(name, file)?;
        let layout = || {
            let sinks = sinks.into_iter().map(|(sink, length)| Some((sink, take(&mut rest, length)?))).collect::<Option<_>>()?;
            Some(Self { sinks, state: take(&mut rest, state)? })
        };
        layout().ok_or_else(|| cut_short(name))
    }
}

/// How long the sections are that lie behind it.
struct Index<'a> {
    sinks: Vec<(SinkId, u64)>,
    state: u64,
    rest: &'a [u8],
}

impl<'a> Index<'a> {
    /// Of a file, or of its beginning.
    fn read(name: &str, file: &'a [u8]) -> Result<Self, StoreError> {
        let (mut rest, has_state) = match (file.strip_prefix(MAGIC), file.strip_prefix(MAGIC_1)) {
            (Some(rest), _) => (rest, true),
            (None, Some(rest)) => (rest, false),
            (None, None) => return Err(corrupt(name, "it does not begin as a part file".into())),
        };
        let mut number = |bytes: u64| {
            let taken = take(&mut rest, bytes)?;
            Some(taken.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte)))
        };
        let mut lengths = || {
            let count = number(4)?;
            let mut sinks = vec![];
            for _ in 0..count {
                sinks.push((SinkId(number(4)? as u32), number(8)?));
            }
            Some((sinks, if has_state { number(8)? } else { 0 }))
        };
        let (sinks, state) = lengths().ok_or_else(|| cut_short(name))?;
        Ok(Self { sinks, state, rest })
    }
}

/// The first so many bytes of what is left.
fn take<'a>(rest: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
    let (head, tail) = usize::try_from(count).ok().and_then(|count| rest.split_at_checked(count))?;
    *rest = tail;
    Some(head)
}

fn decode_stream(name: &str, stream: &[u8]) -> Result<Vec<RecordBatch>, StoreError> {
    read_stream(name, stream)?.collect()
}

fn read_stream<'a>(
    name: &'a str,
    stream: &'a [u8],
) -> Result<impl Iterator<Item = Result<RecordBatch, StoreError>> + use<'a>, StoreError> {
    let damaged = move |error: ArrowError| corrupt(name, error.to_string());
    let reader = (!stream.is_empty()).then(|| StreamReader::try_new(stream, None)).transpose().map_err(damaged)?;
    Ok(reader.into_iter().flatten().map(move |batch| batch.map_err(damaged)))
}

fn corrupt(name: &str, message: String) -> StoreError {
    StoreError::Corrupt { object: format!("part file {name}"), message }
}

fn unlike_record(name: &str, bytes: u64) -> StoreError {
    corrupt(name, format!("its {bytes} bytes do not have the recorded checksum"))
}

fn cut_short(name: &str) -> StoreError {
    corrupt(name, "it is cut short".into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int32Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;

    fn contents() -> Sections {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false), Field::new("v", DataType::Int32, true)]));
        let keys: StringArray = (0..100).map(|number| Some(format!("key {number}"))).collect();
        let values: Int32Array = (0..100).map(|number| (number % 3 != 0).then_some(number)).collect();
        let batch = RecordBatch::try_new(schema, vec![Arc::new(keys), Arc::new(values)]).expect("batch");
        let sinks =
            BTreeMap::from([(SinkId(0), vec![batch.clone(), batch.slice(3, 5)]), (SinkId(u32::MAX), vec![batch.slice(0, 1)])]);
        Sections { sinks, state: vec![batch.slice(50, 50), batch.slice(0, 2)] }
    }

    #[test]
    fn what_is_written_is_read() {
        let stateless = Sections { state: vec![], ..contents() };
        let state_only = Sections { sinks: BTreeMap::new(), ..contents() };
        let emptied = Sections { sinks: BTreeMap::new(), state: vec![contents().state[0].slice(0, 0)] };
        for sections in [contents(), stateless, state_only, emptied, Sections::default()] {
            let Encoded { bytes, crc32, state_bytes } = encode(&sections).expect("encodes");
            assert_eq!(decode("p", &bytes, crc32).expect("decodes"), sections);
            let state: Result<Vec<_>, _> = read_state("p", &bytes, crc32).expect("opens").collect();
            assert_eq!(state.expect("decodes"), sections.state);
            let first = sections.sinks.get(&SinkId(0)).cloned().unwrap_or_default();
            assert_eq!(decode_sink("p", &bytes, crc32, SinkId(0)).expect("decodes"), first);
            assert_eq!(state_bytes > 0, !sections.state.is_empty());
            assert!(state_bytes < bytes.len() as u64);
        }
    }

    #[test]
    fn files_of_format_1_are_read() {
        let stateless = Sections { state: vec![], ..contents() };
        let new = encode(&stateless).expect("encodes").bytes;
        // Format 1 had no length of a state section after the index of its two sinks.
        let index = MAGIC.len() + 4 + 2 * 12;
        let old: Bytes = [MAGIC_1, &new[MAGIC.len()..index], &new[index + 8..]].concat().into();
        let crc32 = crc32fast::hash(&old);
        assert_eq!(decode("p", &old, crc32).expect("decodes"), stateless);
        assert_eq!(read_state("p", &old, crc32).expect("opens").count(), 0);
    }

    #[test]
    fn a_file_cut_short_or_changed_is_damaged() {
        let Encoded { bytes: file, crc32, .. } = encode(&contents()).expect("encodes");
        for length in (0..file.len()).step_by(97) {
            let cut = file.slice(..length);
            assert!(matches!(decode("p", &cut, crc32), Err(StoreError::Corrupt { .. })));
            assert!(matches!(decode("p", &cut, crc32fast::hash(&cut)), Err(StoreError::Corrupt { .. })), "length {length}");
        }
        for index in (0..file.len()).step_by(31) {
            let mut changed = file.to_vec();
            changed[index] ^= 0x10;
            assert!(matches!(decode("p", &changed.into(), crc32), Err(StoreError::Corrupt { .. })), "byte {index}");
        }
    }
}
