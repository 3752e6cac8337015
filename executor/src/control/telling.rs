//! What the leader is told: who this is and what it holds, that it lives, what is read ahead, and which brokers are away.
use std::collections::{BTreeSet, HashMap};

use polybolos_kafka::fetcher::SourceKey;
use polybolos_proto::{
    build::BUILD,
    executor::v1::{self as wire, attach_request::Message as Request},
};
use tokio::sync::mpsc;

use super::{Control, request};
use crate::ballista;

impl Control {
    pub(super) fn hello(&self, ports: ballista::Ports) -> wire::Hello {
        let held = self.services.flows.held().into_iter().map(|(incarnation, share, epoch)| wire::HeldState {
            incarnation: incarnation.0,
            part: share.part as u32,
            parts: share.parts as u32,
            epoch: epoch.0,
        });
        let held: Vec<wire::HeldState> = held.collect();
        let read = self.services.fetcher.away().into_iter().map(|(source, _)| source.incarnation);
        let published = self.publishing.incarnations().into_iter().map(|incarnation| incarnation.0);
        let incarnations: BTreeSet<String> =
            held.iter().map(|held| held.incarnation.clone()).chain(read).chain(published).collect();
        wire::Hello {
            executor_id: self.services.executor.0.clone(),
            host: self.settings.host.to_string(),
            flight_port: ports.flight.into(),
            grpc_port: ports.grpc.into(),
            vcores: self.settings.vcores as u32,
            version: BUILD.version.into(),
            protocol: BUILD.protocol.into(),
            machine_id: polybolos_persist::machine_id().to_owned(),
            rejoining: self.ballista.is_some(),
            exchange_port: self.exchange_port.into(),
            held,
            incarnations: incarnations.into_iter().collect(),
        }
    }

    pub(super) fn beat(&self) -> wire::Beat {
        let usage = polybolos_service::telemetry::process_usage();
        wire::Beat {
            resident_bytes: usage.resident_bytes,
            cpu_ms: usage.cpu_ms,
            buffered_bytes: self.services.fetcher.available().iter().map(|available| available.bytes).sum(),
            asked_us: self.grant.now_us(),
        }
    }

    /// Tells what has arrived since it was last told. A full stream is no loss: the next change, or beat, tells it again.
    pub(super) fn announce_available(
        &self,
        outgoing: &mpsc::Sender<wire::AttachRequest>,
        announced: &mut HashMap<(SourceKey, i32), i64>,
    ) {
        for available in self.services.fetcher.available() {
            let key = (available.source.clone(), available.partition);
            if announced.get(&key) == Some(&available.end) {
                continue;
            }
            let message = wire::Available {
                source: Some(wire_source(&available.source)),
                partition: available.partition,
                end: available.end,
                bytes: available.bytes,
                log: available.log,
            };
            if outgoing.try_send(request(Request::Available(message))).is_ok() {
                announced.insert(key, available.end);
            }
        }
    }

    pub(super) fn announce_source_states(
        &self,
        outgoing: &mpsc::Sender<wire::AttachRequest>,
        known: &mut HashMap<SourceKey, Option<String>>,
    ) {
        for (source, away) in self.services.fetcher.away() {
            if known.get(&source).is_some_and(|before| *before == away) || (away.is_none() && !known.contains_key(&source)) {
                continue;
            }
            let message = wire::SourceState { source: Some(wire_source(&source)), message: away.clone().unwrap_or_default() };
            if outgoing.try_send(request(Request::SourceState(message))).is_ok() {
                known.insert(source, away);
            }
        }
    }
}

fn wire_source(source: &SourceKey) -> wire::SourceKey {
    wire::SourceKey { incarnation: source.incarnation.clone(), source: source.source }
}
