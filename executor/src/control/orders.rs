//! What the leader orders, done.
use std::{collections::BTreeMap, sync::Arc};

use polybolos_kafka::{connection::Connection, fetcher::FetchTopic};
use polybolos_operators::{epoch::compact::compact, services::ExecutorServices};
use polybolos_proto::executor::v1::{self as wire, attach_request::Message as Request, attach_response::Message as Response};
use polybolos_streaming::ids::{Attempt, Generation, Incarnation};
use tokio::sync::mpsc;

use super::{Control, request, source_key};

impl Control {
    pub(super) fn obey(&self, message: Response, outgoing: &mpsc::Sender<wire::AttachRequest>) {
        let services = &self.services;
        match message {
            Response::Grant(grant) => self.grant.renew(grant.asked_us),
            Response::Prefetch(prefetch) => {
                let Some(source) = prefetch.source.map(source_key) else { return };
                match serde_json::from_str(&prefetch.connection) {
                    Ok::<Connection, _>(connection) => {
                        let starts: BTreeMap<i32, i64> = prefetch.starts.into_iter().collect();
                        let topic = FetchTopic {
                            connection: &connection,
                            name: &prefetch.topic,
                            headers: prefetch.headers,
                            log: &prefetch.log,
                            topic_id: prefetch.topic_id.as_deref(),
                        };
                        services.fetcher.prefetch(source, topic, starts);
                    }
                    Err(error) => tracing::error!(%error, "the leader sent a connection that cannot be read"),
                }
            }
            Response::Forget(forget) => {
                let incarnation = Incarnation(forget.incarnation);
                services.forget(&incarnation);
                self.publishing.forget(&incarnation);
                services.fetcher.forget_incarnation(incarnation.as_str());
            }
            Response::Release(release) => {
                if let Some(source) = release.source.map(source_key) {
                    services.fetcher.release(&source, release.partition, release.through);
                }
            }
            Response::CancelAttempt(cancel) => {
                services.cancel(&Incarnation(cancel.incarnation), Attempt(cancel.attempt));
            }
            Response::Publish(order) => self.publishing.start(order, self.grant.clone(), outgoing.clone()),
            Response::CompactState(order) => {
                tokio::spawn(compact_state(services.clone(), order, outgoing.clone()));
            }
            Response::Welcome(_) | Response::Refusal(_) => {}
        }
    }
}

/// Carries out an order to merge runs of state. A stream that ended takes no answer: the order has a deadline.
async fn compact_state(services: Arc<ExecutorServices>, order: wire::CompactState, outgoing: mpsc::Sender<wire::AttachRequest>) {
    let replaced = order.runs.iter().map(|run| run.name.clone()).collect();
    let (incarnation, generation) = (order.incarnation.clone(), order.generation);
    let runs = order.runs.into_iter().map(Into::into).collect();
    let compacted = compact(&services, Incarnation(order.incarnation), Generation(order.generation), runs).await;
    let answer = match compacted {
        Ok(report) => Request::StateCompacted(report.into()),
        Err(error) => {
            tracing::warn!(%incarnation, %error, "runs of state could not be merged; it is tried again");
            let (message, retryable) = (error.to_string(), error.is_retryable());
            Request::CompactFailed(wire::CompactFailed { incarnation, generation, replaced, message, retryable })
        }
    };
    let _ = outgoing.send(request(answer)).await;
}
