//! The state of a job on this executor, and how it gets to where a frame wants it: by making the last overlay part of it, by applying runs that
//! others recorded, or from nothing (EPOCHS rule 8).
use datafusion::common::{DataFusionError, Result};
use polybolos_persist::part;
use polybolos_state::{JobState, Passed};
use polybolos_streaming::{ids::Epoch, manifest::StateRun};

use crate::services::ExecutorServices;

/// A job's state in memory.
#[derive(Debug)]
pub struct HeldState {
    pub state: JobState,
    /// The base is that of this recorded epoch's run; 0: of none, it is empty.
    base: Epoch,
    /// The file that the overlay was written to.
    overlay: Option<String>,
}

impl HeldState {
    pub fn new(state: JobState) -> Self {
        Self { state, base: Epoch(0), overlay: None }
    }

    /// The overlay became this file; whether it is recorded, the next frame tells.
    pub fn wrote(&mut self, file: &str) {
        self.overlay = Some(file.to_owned());
    }

    /// Gives the memory back; what it was is in the runs.
    pub fn let_go(&mut self) {
        self.state.clear();
        (self.base, self.overlay) = (Epoch(0), None);
    }

    /// The overlay changed nothing. What expired in this epoch goes when a frame says that the epoch is recorded: until then another attempt may
    /// have to emit it again.
    pub fn unchanged(&mut self) {
        self.state.discard();
        self.overlay = None;
    }

    /// Brings the base to what `runs` make, without an overlay. `recorded`: how far time had gone in the last recorded epoch.
    ///
    /// # Errors
    /// When a run cannot be read. The state is empty then, and the next call starts anew.
    pub async fn bring_to(&mut self, runs: &[StateRun], recorded: Passed, services: &ExecutorServices) -> Result<()> {
        self.apply_runs(runs, services).await?;
        self.state.drop_due(recorded);
        Ok(())
    }

    async fn apply_runs(&mut self, runs: &[StateRun], services: &ExecutorServices) -> Result<()> {
        let newest = runs.last().map_or(Epoch(0), |run| run.last_epoch);
        if let (Some(overlay), Some(last)) = (self.overlay.take(), runs.last())
            && overlay == last.name
            && runs.iter().rev().nth(1).map_or(Epoch(0), |run| run.last_epoch) == self.base
        {
            self.state.commit();
            self.base = newest;
            return Ok(());
        }
        self.state.discard();
        if newest == self.base {
            return Ok(());
        }
        let after = runs.iter().position(|run| run.first_epoch > self.base).filter(|_| newest > self.base);
        // A run that covers the base and more may have forgotten deletes in between.
        let from =
            after.filter(|&after| after == 0 && self.base == Epoch(0) || after > 0 && runs[after - 1].last_epoch <= self.base);
        let from = from.unwrap_or_else(|| {
            self.state.clear();
            0
        });
        self.base = Epoch(0);
        let loaded = self.load(&runs[from..], services).await;
        if loaded.is_err() {
            self.state.clear();
            return loaded;
        }
        self.base = newest;
        Ok(())
    }

    async fn load(&mut self, runs: &[StateRun], services: &ExecutorServices) -> Result<()> {
        let external = |error| DataFusionError::External(Box::new(error));
        for run in runs {
            let bytes = match services.parts.get(&run.name) {
                Some(bytes) => bytes,
                None => services.store.read(&run.name).await.map_err(external)?,
            };
            let batches = part::decode_state(&run.name, &bytes, run.crc32).map_err(external)?;
            self.state.apply(&batches).map_err(|error| DataFusionError::External(Box::new(error)))?;
            // Rather than be killed on the way.
            if self.state.bytes() as u64 > services.state_memory {
                return Err(too_large(self.state.bytes() as u64, services.state_memory));
            }
        }
        Ok(())
    }
}

/// State has no room on this executor.
pub fn too_large(bytes: u64, most: u64) -> DataFusionError {
    DataFusionError::Execution(format!(
        "state takes {} MiB of this executor's memory, and may take {} MiB (executor.state_memory_mib); give it more, or bound the state: group and join by windows, or set 'state.ttl'",
        bytes >> 20,
        most >> 20
    ))
}
