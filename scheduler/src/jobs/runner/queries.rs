//! Attempts as Ballista's queries: the plan of a frame, submitted with its parts where their records or their state are, waited for, and cancelled.
use std::{collections::HashMap, sync::Arc};

use ballista_core::serde::protobuf::job_status::Status as QueryStatus;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use parking_lot::Mutex;
use polybolos_operators::{
    task::Recorded,
    template::{JobTemplate, Run},
};
use polybolos_proto::executor::v1::{self as wire, attach_response::Message as Order};
use polybolos_service::telemetry;
use polybolos_sql::clock;
use polybolos_streaming::{
    coordinator::{AttemptOutcome, Event, PartLayout},
    frame::{Frame, PartWork},
    ids::{Attempt, Epoch},
    manifest::StateRun,
};
use polybolos_tables::plain::{plain, plain_chain};
use tracing::{Instrument, debug_span};

use super::{Query, Runner};
use crate::ballista::{Ballista, said};

impl Runner {
    fn query_name(&self, epoch: Epoch, attempt: Attempt) -> String {
        format!("{}/{epoch}/{attempt}", self.incarnation)
    }

    pub(super) fn submit(&mut self, attempt: Attempt, frame: Frame, state: &[StateRun]) {
        self.has_computed = true;
        let epoch = frame.epoch;
        let name = self.query_name(epoch, attempt);
        let span = self.spans.attempt(&self.spec.name, attempt, &frame);
        let planning = debug_span!(parent: &span, "plan").entered();
        let freeze = |expression: &Arc<dyn PhysicalExpr>| {
            if clock::reads_clock(expression) { clock::freeze(expression.clone(), frame.clock_us) } else { Ok(expression.clone()) }
        };
        let run = Run { generation: self.context.generation, attempt, trace_parent: telemetry::trace_parent(&span) };
        let plan = match &*self.spec.template {
            JobTemplate::Stateless(template) => template.fill(&frame, &run, state, freeze),
            JobTemplate::Stateful(template) => {
                let manifest = self.coordinator.manifest();
                let recorded = Recorded { watermark_us: manifest.fired_through_us(), window_end_us: manifest.window_end_us };
                let members = if frame.parts.len() > 1 { self.members.as_slice() } else { &[] };
                let Some(peers) = self.context.executors.peers(members) else {
                    let message = "an executor that shares the job's state has left".to_owned();
                    let outcome = AttemptOutcome::Failed { message, retryable: true, data: false };
                    return self.answer(Event::AttemptEnded { attempt, outcome });
                };
                template.fill(&frame, &run, state, recorded, &peers)
            }
        };
        let home = |part: &PartWork| match (self.spec.config.layout, part.ranges.first()) {
            (PartLayout::Shared { .. }, _) => self.members.get(usize::from(part.part.0)),
            (PartLayout::PerPartition, range) => range.and_then(|range| self.assigned.get(&range.source)),
        };
        let placed = frame.parts.iter().map(|part| home(part).cloned().unwrap_or_default()).collect();
        self.context.ballista.placements.place(&name, placed);
        drop(planning);
        self.queries.lock().insert(attempt, Query { epoch, ..Query::default() });
        let (ballista, queries, answers) = (self.context.ballista.clone(), self.queries.clone(), self.answers.clone());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let query = async {
                match plan {
                    Ok(plan) => run_query(&ballista, &name, plan, attempt, &queries).instrument(span).await,
                    Err(error) => AttemptOutcome::Failed { message: error.to_string(), retryable: false, data: false },
                }
            };
            // The next leader ends what executors still compute, when they follow it.
            let ended = stop.run_until_cancelled(query).await;
            ballista.placements.forget(&name);
            queries.lock().remove(&attempt);
            if let Some(outcome) = ended {
                let _ = answers.send(Event::AttemptEnded { attempt, outcome }).await;
            }
        });
    }

    pub(super) fn cancel(&self, attempt: Attempt) {
        let mut queries = self.queries.lock();
        let Some(query) = queries.get_mut(&attempt) else { return };
        query.cancelled = true;
        let cancel = wire::CancelAttempt { incarnation: self.incarnation.0.clone(), attempt: attempt.0 };
        self.context.executors.order_all(Order::CancelAttempt(cancel));
        if let Some(id) = query.id.clone() {
            let ballista = self.context.ballista.clone();
            self.tasks.spawn(async move { ballista.cancel(id).await });
        }
    }
}

/// Submits a query and waits for its end.
async fn run_query(
    ballista: &Ballista,
    name: &str,
    plan: Arc<dyn ExecutionPlan>,
    attempt: Attempt,
    queries: &Mutex<HashMap<Attempt, Query>>,
) -> AttemptOutcome {
    let environment = |message: String| AttemptOutcome::Failed { message, retryable: true, data: false };
    let (id, mut statuses) = match ballista.submit(name, plan).await {
        Ok(submitted) => submitted,
        Err(error) => return environment(plain_chain(&*error)),
    };
    let cancelled = match queries.lock().get_mut(&attempt) {
        Some(query) => {
            query.id = Some(id.clone());
            query.cancelled
        }
        None => true,
    };
    if cancelled {
        ballista.cancel(id).await;
        return environment("cancelled before it started".into());
    }
    while let Some(status) = statuses.recv().await {
        match status.status {
            Some(QueryStatus::Successful(_)) => return AttemptOutcome::Completed,
            Some(QueryStatus::Failed(failed)) => return failure(failed.error),
            _ => {}
        }
    }
    environment("Ballista lost the query".into())
}

/// Whose fault a failed query is. Records at fault become dead letters inside the task; what fails the query as a whole is a job that
/// asked for it (`on_error = 'fail'`), or the environment.
fn failure(message: String) -> AttemptOutcome {
    let data = message.contains("cannot be processed:");
    AttemptOutcome::Failed { message: plain(&said(&message)), retryable: !data, data }
}
