//! What happens to the job, as events of its history, and that history on the store.
use polybolos_streaming::{coordinator::JobStatus, ids::SinkId};

use super::Runner;
use crate::jobs::{
    chronicle::{EventKind, JobEvent},
    troubles,
};

impl Runner {
    pub(super) fn note(&self, at_us: i64, kind: EventKind, message: &str) {
        let (generation, epoch) = (self.context.generation, self.coordinator.manifest().epoch);
        self.shared.history.lock().note(JobEvent::new(generation, at_us, kind, epoch, message));
    }

    /// Each second.
    pub(super) fn tell_troubles(&mut self, at_us: i64, status: &JobStatus) {
        let sinks = &self.spec.sinks;
        let name_of = |sink: SinkId| sinks.get(&sink).map_or_else(|| sink.to_string(), |(name, _)| name.clone());
        for told in self.troubles.look(at_us, troubles::of(status, name_of)) {
            self.note(told.at_us, told.kind, &told.message);
        }
    }

    /// Each second; beside the loop, where there is something to do.
    pub(super) fn keep_history(&self) {
        let changes = self.shared.history.lock().changes();
        if !self.coordinator.has_taken_over() || !self.chronicler.is_due(changes) {
            return;
        }
        let (chronicler, shared) = (self.chronicler.clone(), self.shared.clone());
        self.tasks.spawn(async move { chronicler.keep(&shared.history).await });
    }
}
