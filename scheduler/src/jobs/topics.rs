//! Asks the broker, once a second, what a source's topic looks like: partitions, first and end offsets, topic id. Executors tell what has
//! arrived; this tells what exists, what was lost to retention, and whether the topic is still the same one.
use std::{sync::Arc, time::Duration};

use polybolos_kafka::{admin::Admin, error::KafkaError};
use polybolos_streaming::{coordinator::Event, ids::SourceId};
use tokio::sync::mpsc;

use super::spec::SourceSpec;
use crate::clock::Clock;

/// Between two looks at offsets.
const LOOK: Duration = Duration::from_secs(1);

/// Watches one source until the receiver is gone. The next question is asked only after the last answer was handed over.
pub async fn watch(source: SourceId, spec: SourceSpec, clock: Arc<Clock>, events: mpsc::Sender<Event>) {
    let mut away = false;
    let mut admin: Option<Arc<Admin>> = None;
    loop {
        // A broker that is away answers late, and a leader that stops does not wait for it.
        let looked = tokio::select! {
            looked = look(source, &spec, &clock, &mut admin) => looked,
            () = events.closed() => return,
        };
        match looked {
            Ok(event) => {
                if away && events.send(Event::SourceBack { source }).await.is_err() {
                    return;
                }
                away = false;
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Err(message) => {
                if !away {
                    tracing::warn!(topic = %spec.topic, %message, "source away");
                }
                away = true;
                if events.send(Event::SourceAway { source, message }).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = events.closed() => return,
        }
    }
}

async fn look(source: SourceId, spec: &SourceSpec, clock: &Clock, admin: &mut Option<Arc<Admin>>) -> Result<Event, String> {
    let connected = match admin {
        Some(admin) => admin.clone(),
        None => {
            let connected = Arc::new(Admin::connect(&spec.connection).map_err(|error| error.to_string())?);
            *admin = Some(connected.clone());
            connected
        }
    };
    let description = connected.describe(&spec.topic).await.map_err(|error| error.to_string())?;
    let Some(description) = description else {
        return Err(KafkaError::NoSuchTopic { topic: spec.topic.clone() }.to_string());
    };
    let asked_us = clock.now().monotonic_us;
    let offsets = connected.offsets(&spec.topic, &description.partitions).await.map_err(|error| error.to_string())?;
    Ok(Event::Partitions { source, asked_us, topic_id: description.topic_id, beginnings: offsets.beginnings, ends: offsets.ends })
}
