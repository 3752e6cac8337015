//! The state of a job on this executor, and how it gets to where a frame wants it: by making the last overlay part of it, by applying runs that
//! others recorded, or from nothing (EPOCHS rule 8).
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use polybolos_dataflow::Dataflow;
use polybolos_persist::{keys, part};
use polybolos_state::{JobState, Passed, Spill};
use polybolos_streaming::{
    ids::{Epoch, Generation},
    manifest::StateRun,
};

use super::flow::Flow;
use crate::{external, services::ExecutorServices, task::TaskDescriptor};

/// A job's state: in memory, and on this executor's disk what has no room there.
#[derive(Debug)]
pub struct HeldState {
    pub state: JobState,
    /// The base is that of this recorded epoch's run; 0: of none, it is empty.
    base: Epoch,
    overlay: Option<Overlay>,
    /// Where entries go that have no room; `None`: all had.
    spill: Option<Arc<dyn Spill>>,
}

/// What became of the overlay of the last execution here; whether it is recorded, the next frame tells.
#[derive(Debug)]
enum Overlay {
    /// This file has it.
    Wrote(String),
    /// It changed nothing, but other parts of the attempt may have changed theirs.
    Unchanged { generation: Generation, files_of_attempt: String, files_of_part: String },
}

impl Overlay {
    /// Whether these runs, which are those of one epoch, are of the attempt that this is of.
    fn is_of(&self, runs: &[StateRun], task: &TaskDescriptor) -> bool {
        match self {
            Self::Wrote(file) => runs.iter().any(|run| run.name == *file),
            Self::Unchanged { generation, files_of_attempt, files_of_part } => {
                let is_of_others = |run: &StateRun| run.name.starts_with(files_of_attempt) && !run.name.starts_with(files_of_part);
                !runs.is_empty() && *generation == task.generation && runs.iter().all(is_of_others)
            }
        }
    }
}

impl HeldState {
    pub fn new(state: JobState) -> Self {
        Self { state, base: Epoch(0), overlay: None, spill: None }
    }

    /// Holds the dataflow's share of the state, whatever it held before.
    pub fn hold(&mut self, dataflow: &Dataflow, flow: &Flow) {
        if self.state.share() != dataflow.share() {
            flow.let_go(self);
            self.state = dataflow.new_state();
        }
    }

    /// The overlay became this file.
    pub fn wrote(&mut self, file: &str) {
        self.overlay = Some(Overlay::Wrote(file.to_owned()));
    }

    /// Gives memory and disk back; what it was is in the runs.
    pub fn let_go(&mut self) {
        self.state.clear();
        (self.base, self.overlay, self.spill) = (Epoch(0), None, None);
    }

    /// The overlay changed nothing. What expired in this epoch goes when a frame says that the epoch is recorded: until then another attempt may
    /// have to emit it again.
    pub fn unchanged(&mut self, task: &TaskDescriptor) {
        self.state.discard();
        self.overlay = Some(Overlay::Unchanged {
            generation: task.generation,
            files_of_attempt: keys::parts_of_attempt(&task.incarnation, task.epoch, task.attempt),
            files_of_part: keys::executions_of_part(&task.incarnation, task.epoch, task.attempt, task.work.part),
        });
    }

    /// Brings the base to where the task's epoch begins, without an overlay, within the memory that the job may have.
    ///
    /// # Errors
    /// When a run cannot be read, or what has to be in memory has no room. The state is empty then, and the next call starts anew.
    pub async fn bring_to(&mut self, task: &TaskDescriptor, flow: &Flow, services: &ExecutorServices) -> Result<()> {
        let recorded = Passed { watermark_us: task.recorded.watermark_us, clock_us: Some(task.recorded.window_end_us) };
        let mut brought = self.apply_runs(task, flow, services).await;
        if brought.is_ok() {
            brought = self.state.drop_due(recorded).map_err(external).and_then(|()| self.fit(flow, services));
        }
        match brought {
            Ok(()) => flow.builds_on(recorded, self.state.share(), self.base),
            Err(_) => flow.let_go(self),
        }
        brought
    }

    /// Puts on disk what has no room in memory.
    fn fit(&mut self, flow: &Flow, services: &ExecutorServices) -> Result<()> {
        let bytes = self.state.bytes() as u64;
        let room = services.flows.room(flow, bytes, services.state.memory);
        if bytes <= room {
            return Ok(());
        }
        if self.spill.is_none() {
            self.spill = Some(services.state.spill().map_err(external)?);
            tracing::info!(job = %flow.spec.job, "state has no room in memory; part of it goes to disk");
        }
        if let Some(spill) = &self.spill {
            self.state.spill(spill, room as usize).map_err(external)?;
        }
        let bytes = self.state.bytes() as u64;
        flow.takes(bytes);
        if bytes > services.state.memory { Err(too_large(bytes, services.state.memory)) } else { Ok(()) }
    }

    async fn apply_runs(&mut self, task: &TaskDescriptor, flow: &Flow, services: &ExecutorServices) -> Result<()> {
        let runs = task.state.as_slice();
        let newest = runs.last().map_or(Epoch(0), |run| run.last_epoch);
        // Those that the parts of the newest epoch wrote.
        let (before, of_newest) = runs.split_at(runs.iter().rposition(|run| run.last_epoch != newest).map_or(0, |at| at + 1));
        if self.overlay.take().is_some_and(|overlay| overlay.is_of(of_newest, task))
            // The base may be of runs that had ended and are forgotten.
            && before.last().is_none_or(|run| run.last_epoch == self.base)
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
        self.load(&runs[from..], flow, services).await?;
        self.base = newest;
        Ok(())
    }

    async fn load(&mut self, runs: &[StateRun], flow: &Flow, services: &ExecutorServices) -> Result<()> {
        for run in runs {
            let bytes = match services.parts.get(&run.name) {
                Some(bytes) => bytes,
                None => services.store.read(&run.name).await.map_err(external)?,
            };
            for batch in part::read_state(&run.name, &bytes, run.crc32).map_err(external)? {
                self.state.apply(&[batch.map_err(external)?]).map_err(external)?;
                self.fit(flow, services)?;
            }
        }
        Ok(())
    }
}

/// State that cannot leave memory has no room there.
fn too_large(bytes: u64, most: u64) -> DataFusionError {
    DataFusionError::Execution(format!(
        "state that every epoch needs takes {} MiB of this executor's memory, and all state may take {} MiB (executor.state_memory_mib); give it more, or bound it: group, join and rank by a key or by windows",
        bytes >> 20,
        most >> 20
    ))
}
