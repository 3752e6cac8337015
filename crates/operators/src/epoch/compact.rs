//! Merges runs of a job's state into one, from the store to the store: what is held in memory is not touched, so no epoch waits for it.
use polybolos_persist::{
    StoreError, crash, keys,
    part::{self, Encoded, Sections},
};
use polybolos_state::{StateError, merge_runs};
use polybolos_streaming::{
    ids::{Epoch, Generation, Incarnation, Nonce},
    manifest::StateRun,
    report::CompactReport,
};
use thiserror::Error;

use crate::services::ExecutorServices;

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
    let mut contents = Vec::with_capacity(runs.len());
    for run in &runs {
        let bytes = services.store.read(&run.name).await?;
        contents.push(part::decode_state(&run.name, &bytes, run.crc32)?);
    }
    crash::point("compaction-read");
    let recorded = services.flows.recorded(&incarnation);
    let from_the_start = first_epoch <= Epoch(1);
    let merged = tokio::task::spawn_blocking(move || -> Result<Encoded, CompactError> {
        let state = merge_runs(&contents, from_the_start, recorded)?;
        Ok(part::encode(&Sections { sinks: Default::default(), state })?)
    });
    let Encoded { bytes, crc32, state_bytes } = merged.await.map_err(|_| CompactError::GivenUp)??;
    let nonce = Nonce(uuid::Uuid::new_v4().simple().to_string());
    let name = keys::state_run(&incarnation, first_epoch, last_epoch, &nonce);
    let run = StateRun { name: name.clone(), bytes: bytes.len() as u64, crc32, state_bytes, first_epoch, last_epoch };
    services.store.create(&name, bytes).await?;
    crash::point("compaction-written");
    Ok(CompactReport { incarnation, generation, replaced: runs.into_iter().map(|run| run.name).collect(), run })
}
