//! Merges runs of a job's state into one, from the store to the store: what is held in memory is not touched, so no epoch waits for it. Large ones are merged
//! part by part, so that never more than the files and one part is in memory.
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use polybolos_persist::{
    StoreError, crash, keys,
    part::{self, Encoded},
};
use polybolos_state::{StateError, merge_runs, part_of};
use polybolos_streaming::{
    ids::{Epoch, Generation, Incarnation, Nonce},
    manifest::StateRun,
    report::CompactReport,
};
use thiserror::Error;

use crate::services::ExecutorServices;

/// What is merged at once, as it lies in files; in memory that is several times as much.
const PART_BYTES: u64 = 16 << 20;
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
    let merged = tokio::task::spawn_blocking(move || -> Result<Encoded, CompactError> {
        let merge_part = |part: usize| -> Result<Vec<RecordBatch>, CompactError> {
            let of_run = |(name, bytes, crc32): &(String, Bytes, u32)| -> Result<Vec<RecordBatch>, CompactError> {
                part::read_state(name, bytes, *crc32)?.map(|batch| Ok(part_of(&batch?, part, parts)?)).collect()
            };
            let contents = files.iter().map(of_run).collect::<Result<Vec<_>, _>>()?;
            Ok(merge_runs(&contents, from_the_start, recorded)?)
        };
        let batches = (0..parts).map(merge_part).flat_map(|merged| match merged {
            Ok(batches) => batches.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        part::encode_state(batches)
    });
    let Encoded { bytes, crc32, state_bytes } = merged.await.map_err(|_| CompactError::GivenUp)??;
    let nonce = Nonce(uuid::Uuid::new_v4().simple().to_string());
    let name = keys::state_run(&incarnation, first_epoch, last_epoch, &nonce);
    let run = StateRun { name: name.clone(), bytes: bytes.len() as u64, crc32, state_bytes, first_epoch, last_epoch };
    services.store.create(&name, bytes).await?;
    crash::point("compaction-written");
    Ok(CompactReport { incarnation, generation, replaced: runs.into_iter().map(|run| run.name).collect(), run })
}
