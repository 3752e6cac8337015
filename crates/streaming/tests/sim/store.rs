//! The manifest's store: compare-and-swap over a network that loses, delays and doubles.
use polybolos_streaming::{
    coordinator::{Event, ManifestAnswer, SwapReply},
    ids::{Nonce, Version},
    manifest::{Life, Manifest},
};

use super::{
    faults::{Fault, Sabotage},
    world::{Happening, MS, World, unknown, unread},
};

#[derive(Debug)]
pub struct Store {
    pub manifest: Manifest,
    pub number: u64,
    before: Option<Manifest>,
}

impl Store {
    pub fn new(manifest: Manifest) -> Self {
        Self { manifest, number: 1, before: None }
    }

    pub fn version(&self) -> Version {
        Version(self.number.to_string())
    }

    /// A power cut on a store that did not sync.
    pub fn take_back(&mut self) {
        if let Some(before) = self.before.take() {
            self.manifest = before;
            self.number += 1;
        }
    }
}

impl World {
    /// A leader sends (or sends again) the bytes it kept under this nonce.
    pub fn send_swap(&mut self, leader: usize, nonce: Nonce) {
        let swap = |reply| Happening::SwapArrives { leader, nonce: nonce.clone(), reply };
        let delay = self.delay(8);
        let timeout = |world: &mut World| {
            let event = Event::SwapReplied { nonce: nonce.clone(), reply: unknown() };
            world.after(300 * MS, Happening::Deliver { leader, event });
        };
        if self.strikes(Fault::SwapRequestLost) {
            return timeout(self);
        }
        if self.strikes(Fault::SwapReplyLost) {
            self.after(delay, swap(false));
            return timeout(self);
        }
        if self.strikes(Fault::SwapLate) {
            let late = self.delay(3_000);
            self.after(300 * MS + late, swap(false));
            return timeout(self);
        }
        if self.strikes(Fault::SwapDuplicated) {
            let again = self.delay(1_000);
            self.after(again, swap(true));
        }
        self.after(delay, swap(true));
    }

    pub fn swap_arrives(&mut self, leader: usize, nonce: &Nonce, reply: bool) {
        let Some((expected, manifest)) = self.leaders[leader].kept.get(nonce).cloned() else {
            return;
        };
        let unchecked = self.plan.without == Some(Sabotage::PlainWrites);
        let answer = if expected == self.store.version() || unchecked {
            self.check_swap(leader, &expected, &manifest);
            if manifest.life == Life::Dropped {
                self.dropped_at = Some(self.now);
            }
            self.store.before = Some(std::mem::replace(&mut self.store.manifest, manifest));
            self.store.number += 1;
            SwapReply::Stored { version: self.store.version() }
        } else {
            SwapReply::Conflict
        };
        if reply {
            let delay = self.delay(8);
            self.after(delay, Happening::Deliver { leader, event: Event::SwapReplied { nonce: nonce.clone(), reply: answer } });
        }
    }

    pub fn read_arrives(&mut self, leader: usize, request: Nonce) {
        let delay = self.delay(8);
        let (delay, answer) = if self.strikes(Fault::ReadLost) {
            (300 * MS, unread())
        } else {
            (delay, ManifestAnswer::Found { version: self.store.version(), manifest: Box::new(self.store.manifest.clone()) })
        };
        self.after(delay, Happening::Deliver { leader, event: Event::ManifestRead { request, answer } });
    }
}
