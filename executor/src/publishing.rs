//! Carries out publish orders: a few at a time, each answered by a report or a failure on the control stream.
use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use polybolos_operators::publish::{Order, Publisher, SinkSpec};
use polybolos_proto::{convert::Incomplete, executor::v1 as wire};
use polybolos_service::telemetry;
use polybolos_streaming::ids::{Epoch, Generation, Incarnation, SinkId};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug_span};

use crate::grants::{Leave, PublishGrant};

/// Parts written at once. Each has its own batches in flight, so a few saturate a store.
const CONCURRENT_PARTS: usize = 4;

/// Orders under way on this executor.
#[derive(Debug)]
pub struct Publishing {
    publisher: Arc<Publisher>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Cancelled when the job ends here.
    jobs: Mutex<HashMap<Incarnation, CancellationToken>>,
}

impl Publishing {
    pub fn new(publisher: Publisher) -> Self {
        let slots = Arc::new(Semaphore::new(CONCURRENT_PARTS));
        Self { publisher: Arc::new(publisher), slots, tasks: TaskTracker::new(), jobs: Mutex::default() }
    }

    /// A job has ended here: its orders write nothing more, and what is kept open for it may go.
    pub fn forget(&self, incarnation: &Incarnation) {
        if let Some(orders) = self.jobs.lock().remove(incarnation) {
            orders.cancel();
        }
        self.publisher.forget(incarnation);
    }

    /// Jobs that have published here and have not ended here.
    pub fn incarnations(&self) -> Vec<Incarnation> {
        self.jobs.lock().keys().cloned().collect()
    }

    /// Starts one order under the grant of the stream that it came by; its answer goes to `answers`, the same stream.
    pub fn start(&self, order: wire::Publish, grant: Arc<PublishGrant>, answers: mpsc::Sender<wire::AttachRequest>) {
        let (publisher, slots) = (self.publisher.clone(), self.slots.clone());
        let ended = self.jobs.lock().entry(Incarnation(order.incarnation.clone())).or_default().clone();
        let leave = Leave { grant, ended };
        self.tasks.spawn(async move {
            let Ok(_slot) = slots.acquire().await else { return };
            let span = debug_span!("publish_part", job = %order.job, epoch = order.epoch as i64, sink = i64::from(order.sink));
            telemetry::follow(&span, order.trace_parent.clone());
            let answer = carry_out(&publisher, &leave, order).instrument(span).await;
            // A closed stream means that another leader will ask again.
            let _ = answers.send(wire::AttachRequest { message: Some(answer) }).await;
        });
    }
}

async fn carry_out(publisher: &Publisher, leave: &Leave, order: wire::Publish) -> wire::attach_request::Message {
    use wire::attach_request::Message;
    let failure = |message: String, retryable: bool| {
        Message::PublishFailure(wire::PublishFailure {
            incarnation: order.incarnation.clone(),
            generation: order.generation,
            epoch: order.epoch,
            sink: order.sink,
            part: order.file.as_ref().map_or(0, |file| file.part),
            message,
            retryable,
        })
    };
    let parsed = match parse(order.clone()) {
        Ok(parsed) => parsed,
        Err(error) => return failure(error.to_string(), false),
    };
    match publisher.publish(&parsed, leave).await {
        Ok(report) => {
            tracing::debug!(job = %parsed.job, epoch = %parsed.epoch, sink = %parsed.sink, rows = report.rows, "part published");
            Message::PublishReport(report.into())
        }
        Err(error) => {
            tracing::warn!(job = %parsed.job, epoch = %parsed.epoch, sink = %parsed.sink, %error, "part not published");
            failure(error.to_string(), error.is_retryable())
        }
    }
}

fn parse(order: wire::Publish) -> Result<Order, Incomplete> {
    Ok(Order {
        job: order.job,
        incarnation: Incarnation(order.incarnation),
        generation: Generation(order.generation),
        epoch: Epoch(order.epoch),
        sink: SinkId(order.sink),
        file: order.file.ok_or(Incomplete("file"))?.try_into()?,
        timestamp_us: order.timestamp_us,
        spec: serde_json::from_str::<SinkSpec>(&order.sink_spec).map_err(|_| Incomplete("sink specification"))?,
    })
}
