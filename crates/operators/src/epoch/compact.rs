//! Merges runs of a job's state into one, from the store to the store: what is held in memory is not touched, so no epoch waits for it.
//! Files are read and written piece by piece, and keys are merged part by part, so that what is in memory hardly grows with the state: a
//! hash of each key of a part, above all. Of several parts each waits on this executor's disk until its turn comes (docs/adr/0025).
use std::{slice, sync::Arc, thread};

use datafusion::arrow::array::RecordBatch;
use polybolos_persist::{
    Store, StoreError, crash, keys,
    part::pieces::{StateWriter, Written, each_state_batch},
};
use polybolos_state::{Merging, Passed, StateError, end_of_run};
use polybolos_streaming::{
    ids::{Epoch, Generation, Incarnation, Nonce},
    manifest::{StateEnd, StateRun},
    report::CompactReport,
};
use thiserror::Error;
use tokio::{runtime::Handle, sync::oneshot};

use super::{scratch::Scratch, space::StateSpace};
use crate::services::ExecutorServices;

/// An epoch that waits for a core comes first.
const NICE: i32 = 10;
/// What is merged at once, as it lies in files: some hundred thousand keys.
const PART_BYTES: u64 = 16 << 20;
/// Parts of more than 4 GiB are larger: each batch of a run is taken apart into as many.
const MOST_PARTS: u64 = 256;

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
            // Another executor has another disk.
            Self::State(error) => matches!(error, StateError::Spill(_) | StateError::Full { .. }),
            Self::Nothing => false,
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
    let nonce = Nonce(uuid::Uuid::new_v4().simple().to_string());
    let name = keys::state_run(&incarnation, first_epoch, last_epoch, &nonce);
    let bytes: u64 = runs.iter().map(|run| run.state_bytes).sum();
    let parts = bytes.div_ceil(PART_BYTES).clamp(1, MOST_PARTS) as usize;
    let merge = Merge {
        space: services.state.clone(),
        store: services.store.clone(),
        from_the_start: first_epoch <= Epoch(1),
        recorded: services.flows.recorded(&incarnation),
    };
    let (told, merged) = oneshot::channel();
    let runtime = Handle::current();
    let thread = thread::Builder::new().name("compaction".into()).spawn(move || {
        let _runtime = runtime.enter();
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "runs are merged with the priority of everything else");
        }
        let merged = merge.write(&runs, parts, &name).map(|(written, end)| (written, end, runs, name));
        let _ = told.send(merged);
    });
    thread.map_err(|_| CompactError::GivenUp)?;
    let (Written { bytes, crc32, state_bytes }, end, runs, name) = merged.await.map_err(|_| CompactError::GivenUp)??;
    crash::point("compaction-written");
    let run = StateRun { name, bytes, crc32, state_bytes, first_epoch, last_epoch, end: end.map(end_as_recorded) };
    Ok(CompactReport { incarnation, generation, replaced: runs.into_iter().map(|run| run.name).collect(), run })
}

/// The end of a run of state, as it is recorded.
pub(super) fn end_as_recorded(end: Passed) -> StateEnd {
    StateEnd { watermark_us: end.watermark_us, clock_us: end.clock_us }
}

/// How runs are merged. Waits for the store, on a thread that may.
struct Merge {
    space: Arc<StateSpace>,
    store: Arc<dyn Store>,
    from_the_start: bool,
    recorded: Passed,
}

impl Merge {
    /// Merges runs, oldest first, into a file of that name, in so many parts.
    fn write(&self, runs: &[StateRun], parts: usize, name: &str) -> Result<(Written, Option<Passed>), CompactError> {
        let mut merged = MergedRun { writer: StateWriter::new(&*self.store, name), end: Some(Passed::default()) };
        let mut merging = Merging::new(self.from_the_start, self.recorded);
        if parts > 1 {
            let mut scratch = Scratch::new(&self.space, parts)?;
            for (index, run) in runs.iter().enumerate().rev() {
                each_state_batch(&*self.store, run, |batch| scratch.add(&batch, index == 0))?;
            }
            for part in 0..scratch.parts() {
                for block in scratch.batches(part) {
                    let (batch, is_oldest) = block?;
                    merged.take(&mut merging, &batch, is_oldest)?;
                }
                merged.end_part(&mut merging)?;
            }
        } else {
            for (index, run) in runs.iter().enumerate().rev() {
                each_state_batch(&*self.store, run, |batch| merged.take(&mut merging, &batch, index == 0))?;
            }
            merged.end_part(&mut merging)?;
        }
        crash::point("compaction-read");
        Ok((merged.writer.finish()?, merged.end))
    }
}

struct MergedRun<'a> {
    writer: StateWriter<'a>,
    /// By when all of it has ended.
    end: Option<Passed>,
}

impl MergedRun<'_> {
    /// The next batch of a part, from the newest run to the oldest.
    fn take(&mut self, merging: &mut Merging, batch: &RecordBatch, is_oldest: bool) -> Result<(), CompactError> {
        merging.take(batch, is_oldest)?;
        self.write(merging)
    }

    fn end_part(&mut self, merging: &mut Merging) -> Result<(), CompactError> {
        merging.finish()?;
        self.write(merging)
    }

    fn write(&mut self, merging: &mut Merging) -> Result<(), CompactError> {
        while let Some(batch) = merging.next_batch() {
            let end = end_of_run(slice::from_ref(&batch))?;
            self.end = self.end.zip(end).map(|(one, other)| one.later_of(other));
            self.writer.write(&batch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
