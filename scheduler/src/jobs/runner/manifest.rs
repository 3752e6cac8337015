//! The manifest on the store: the one swap under way, whose bytes are kept as they were sent, and reading it back.
use polybolos_persist::{Expected, Store, Swap, keys};
use polybolos_streaming::{
    coordinator::{Event, ManifestAnswer, SwapReply},
    ids::{Incarnation, Nonce, Version},
    manifest::Manifest,
};
use tracing::{Instrument, Span};

use super::Runner;

impl Runner {
    pub(super) fn swap(&mut self, expected: Version, manifest: &Manifest) {
        match polybolos_persist::manifest::encode(manifest) {
            Ok(bytes) => {
                let nonce = manifest.nonce.clone();
                let recorded = Some(manifest.epoch).filter(|epoch| *epoch > self.coordinator.manifest().epoch);
                self.swap = Some((nonce.clone(), expected, bytes, recorded));
                self.resend(&nonce);
            }
            Err(error) => self.answer(Event::SwapReplied {
                nonce: manifest.nonce.clone(),
                reply: SwapReply::Unknown { message: error.to_string() },
            }),
        }
    }

    pub(super) fn resend(&self, nonce: &Nonce) {
        let Some((kept, expected, bytes, recorded)) = self.swap.clone().filter(|(kept, ..)| kept == nonce) else {
            tracing::error!(%nonce, "asked to send bytes again that are not kept");
            return;
        };
        let (store, answers) = (self.context.store.clone(), self.answers.clone());
        let key = keys::manifest(&self.incarnation);
        let span = recorded.map_or_else(Span::none, |epoch| self.spans.record(epoch));
        self.tasks.spawn(async move {
            let put = store.put_if(&key, bytes, Expected::Version(store_version(&expected)));
            let reply = match put.instrument(span).await {
                Ok(Swap::Stored(version)) => SwapReply::Stored { version: Version(version.0) },
                Ok(Swap::Conflict) => SwapReply::Conflict,
                Err(error) => SwapReply::Unknown { message: error.to_string() },
            };
            let _ = answers.send(Event::SwapReplied { nonce: kept, reply }).await;
        });
    }

    pub(super) fn read_manifest(&self, request: Nonce) {
        let (store, answers) = (self.context.store.clone(), self.answers.clone());
        let incarnation = self.incarnation.clone();
        self.tasks.spawn(async move {
            let answer = match load_manifest(&*store, &incarnation).await {
                Ok(Some((manifest, version))) => ManifestAnswer::Found { version, manifest: Box::new(manifest) },
                Ok(None) => ManifestAnswer::Missing,
                Err(error) => ManifestAnswer::Unknown { message: error.to_string() },
            };
            let _ = answers.send(Event::ManifestRead { request, answer }).await;
        });
    }
}

fn store_version(version: &Version) -> polybolos_persist::Version {
    polybolos_persist::Version(version.0.clone())
}

/// Reads an incarnation's manifest.
pub async fn load_manifest(
    store: &dyn Store,
    incarnation: &Incarnation,
) -> Result<Option<(Manifest, Version)>, polybolos_persist::StoreError> {
    let key = keys::manifest(incarnation);
    let Some((bytes, version)) = store.get(&key).await? else { return Ok(None) };
    Ok(Some((polybolos_persist::manifest::decode(&key, &bytes)?, Version(version.0))))
}
