//! Orders to executors: to publish a part, and to merge runs of state. Where the executor is not here, the failure is heard as if it had said so.
use polybolos_proto::executor::v1::{self as wire, attach_response::Message as Order};
use polybolos_service::telemetry;
use polybolos_streaming::{
    coordinator::{Event, PublishFailure, PublishOrder},
    ids::ExecutorId,
    manifest::StateRun,
    report::CompactFailure,
};

use super::Runner;

impl Runner {
    pub(super) fn publish(&mut self, order: PublishOrder) {
        self.shared.latest.lock().ordered(&order);
        let name = self.spec.sinks.get(&order.sink).map_or("", |(name, _)| name.as_str());
        let trace_parent = telemetry::trace_parent(&self.spans.publish(order.epoch, order.sink, name));
        let spec = self.spec.sinks.get(&order.sink).map(|(_, spec)| spec);
        let message = match spec.map(serde_json::to_string) {
            Some(Ok(sink_spec)) => wire::Publish {
                incarnation: self.incarnation.0.clone(),
                generation: self.context.generation.0,
                epoch: order.epoch.0,
                sink: order.sink.0,
                file: Some(order.part.clone().into()),
                timestamp_us: order.timestamp_us,
                sink_spec,
                job: self.spec.name.clone(),
                trace_parent,
            },
            _ => {
                self.publish_failed(&order, format!("the job has no sink {}", order.sink), false);
                return;
            }
        };
        if !self.context.executors.order(&order.executor, Order::Publish(message)) {
            self.publish_failed(&order, format!("executor {} is not here", order.executor), true);
        }
    }

    fn publish_failed(&self, order: &PublishOrder, message: String, retryable: bool) {
        self.answer(Event::PublishFailed(PublishFailure {
            generation: self.context.generation,
            sink: order.sink,
            epoch: order.epoch,
            part: order.part.part,
            executor: order.executor.clone(),
            message,
            retryable,
        }));
    }

    pub(super) fn compact(&self, executor: ExecutorId, runs: Vec<StateRun>) {
        let message = wire::CompactState {
            incarnation: self.incarnation.0.clone(),
            generation: self.context.generation.0,
            runs: runs.iter().cloned().map(Into::into).collect(),
        };
        if !self.context.executors.order(&executor, Order::CompactState(message)) {
            self.answer(Event::CompactFailed(CompactFailure {
                incarnation: self.incarnation.clone(),
                generation: self.context.generation,
                replaced: runs.into_iter().map(|run| run.name).collect(),
                message: format!("executor {executor} is not here"),
                executor,
                retryable: true,
            }));
        }
    }
}
