//! Merges runs of a job's state into one, from the store to the store: what is held in memory is not touched, so no epoch waits for it. In memory are the
//! files and a hash of each key; very large runs are merged part by part.
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use polybolos_persist::{
    StoreError, crash, keys,
    part::{self, Encoded},
};
use polybolos_state::{Merging, Passed, StateError, end_of_run, part_of};
use polybolos_streaming::{
    ids::{Epoch, Generation, Incarnation, Nonce},
    manifest::{StateEnd, StateRun},
    report::CompactReport,
};
use thiserror::Error;

use crate::services::ExecutorServices;

/// What is merged in one pass, as it lies in files: some ten million keys.
const PART_BYTES: u64 = 256 << 20;
/// Each part reads the files once more.
const MOST_PARTS: u64 = 32;

#[derive(Debug, Error)]
pub enum CompactError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("no runs to merge")]
    Nothing,
    #[error("the merging was given up")]
    GivenUp,
}

impl CompactError {
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::State(_) | Self::Nothing => false,
            Self::GivenUp => true,
        }
    }
}

/// Reads the runs, oldest first, and writes one that stands for them.
pub async fn compact(
    services: &ExecutorServices,
    incarnation: Incarnation,
    generation: Generation,
    runs: Vec<StateRun>,
) -> Result<CompactReport, CompactError> {
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Err(CompactError::Nothing) };
    let (first_epoch, last_epoch) = (first.first_epoch, last.last_epoch);
    let mut files = Vec::with_capacity(runs.len());
    for run in &runs {
        files.push((run.name.clone(), services.store.read(&run.name).await?, run.crc32));
    }
    crash::point("compaction-read");
    let recorded = services.flows.recorded(&incarnation);
    let from_the_start = first_epoch <= Epoch(1);
    let bytes: u64 = runs.iter().map(|run| run.state_bytes).sum();
    let parts = bytes.div_ceil(PART_BYTES).clamp(1, MOST_PARTS) as usize;
    let merged = tokio::task::spawn_blocking(move || -> Result<_, CompactError> {
        let mut end = Some(Passed::default());
        let batches = (0..parts).flat_map(|part| MergedPart::new(&files, (part, parts), from_the_start, recorded));
        let batches = batches.map(|batch| {
            let batch = batch?;
            end = end.zip(end_of_run(std::slice::from_ref(&batch))?).map(|(one, other)| one.later_of(other));
            Ok::<_, CompactError>(batch)
        });
        let encoded = part::encode_state(batches)?;
        Ok((encoded, end))
    });
    let (Encoded { bytes, crc32, state_bytes }, end) = merged.await.map_err(|_| CompactError::GivenUp)??;
    let nonce = Nonce(uuid::Uuid::new_v4().simple().to_string());
    let name = keys::state_run(&incarnation, first_epoch, last_epoch, &nonce);
    let end = end.map(end_as_recorded);
    let run = StateRun { name: name.clone(), bytes: bytes.len() as u64, crc32, state_bytes, first_epoch, last_epoch, end };
    services.store.create(&name, bytes).await?;
    crash::point("compaction-written");
    Ok(CompactReport { incarnation, generation, replaced: runs.into_iter().map(|run| run.name).collect(), run })
}

/// The end of a run of state, as it is recorded.
pub(super) fn end_as_recorded(end: Passed) -> StateEnd {
    StateEnd { watermark_us: end.watermark_us, clock_us: end.clock_us }
}

type File = (String, Bytes, u32);

/// The batches of one part of the merged run.
struct MergedPart<'a> {
    batches: Box<dyn Iterator<Item = Result<RecordBatch, CompactError>> + 'a>,
    part: (usize, usize),
    merging: Merging,
    is_over: bool,
}

impl<'a> MergedPart<'a> {
    /// `files` are those of the runs, oldest first.
    fn new(files: &'a [File], part: (usize, usize), from_the_start: bool, recorded: Passed) -> Self {
        let read = |(name, bytes, crc32): &'a File| match part::read_state(name, bytes, *crc32) {
            Ok(batches) => Box::new(batches.map(|batch| Ok(batch?))) as Box<dyn Iterator<Item = _>>,
            Err(error) => Box::new(std::iter::once(Err(error.into()))),
        };
        let batches = Box::new(files.iter().rev().flat_map(read));
        Self { batches, part, merging: Merging::new(from_the_start, recorded), is_over: false }
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>, CompactError> {
        loop {
            if let Some(merged) = self.merging.next_batch() {
                return Ok(Some(merged));
            }
            match self.batches.next() {
                Some(batch) => self.merging.take(&part_of(&batch?, self.part.0, self.part.1)?)?,
                None if self.is_over => return Ok(None),
                None => {
                    self.merging.finish()?;
                    self.is_over = true;
                }
            }
        }
    }
}

impl Iterator for MergedPart<'_> {
    type Item = Result<RecordBatch, CompactError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
