//! What executors say, as events for the coordinator.
use polybolos_proto::executor::v1::attach_request::Message as Heard;
use polybolos_streaming::{
    coordinator::{Event, PublishFailure},
    ids::{Epoch, Generation, PartIndex, SinkId, SourceId},
    report::{CompactReport, PublishReport},
};

use super::Runner;
use crate::control::ExecutorEvent;

impl Runner {
    /// Turns what an executor said into an event for the coordinator.
    pub(super) fn hear(&mut self, event: ExecutorEvent) -> Option<Event> {
        match event {
            ExecutorEvent::Joined(executor) => {
                self.executors.insert(executor.clone());
                self.reassign();
                Some(Event::ExecutorJoined { executor })
            }
            ExecutorEvent::Lost(executor) => {
                self.executors.remove(&executor);
                self.reassign();
                Some(Event::ExecutorLost { executor })
            }
            ExecutorEvent::Said(executor, Heard::Available(available)) => self.available(&executor, &available),
            ExecutorEvent::Said(_, Heard::SourceState(state)) => {
                let source = SourceId(state.source?.source);
                Some(if state.message.is_empty() {
                    Event::SourceBack { source }
                } else {
                    Event::SourceAway { source, message: state.message }
                })
            }
            ExecutorEvent::Said(executor, Heard::PartReport(report)) => match report.from_executor(executor) {
                Ok(report) => Some(Event::PartReported(report)),
                Err(error) => {
                    tracing::error!(%error, "a part report cannot be read");
                    None
                }
            },
            ExecutorEvent::Said(_, Heard::PublishReport(report)) => match PublishReport::try_from(report) {
                Ok(report) => {
                    self.shared.latest.lock().written(&report);
                    Some(Event::PublishReported(report))
                }
                Err(error) => {
                    tracing::error!(%error, "a publish report cannot be read");
                    None
                }
            },
            ExecutorEvent::Said(executor, Heard::PublishFailure(failure)) => Some(Event::PublishFailed(PublishFailure {
                generation: Generation(failure.generation),
                sink: SinkId(failure.sink),
                epoch: Epoch(failure.epoch),
                part: PartIndex(failure.part as u16),
                executor,
                message: failure.message,
                retryable: failure.retryable,
            })),
            ExecutorEvent::Said(_, Heard::StateCompacted(report)) => match CompactReport::try_from(report) {
                Ok(report) => Some(Event::StateCompacted(report)),
                Err(error) => {
                    tracing::error!(%error, "a report of compacted state cannot be read");
                    None
                }
            },
            ExecutorEvent::Said(executor, Heard::CompactFailed(failure)) => {
                Some(Event::CompactFailed(failure.from_executor(executor)))
            }
            ExecutorEvent::Said(_, _) => None,
        }
    }
}
