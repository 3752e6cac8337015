//! The durable store: a manifest and a lease replaced by compare-and-swap over a network that loses, delays and doubles; files that a crash tears
//! while they are not synced.
use std::collections::BTreeMap;

use polybolos_streaming::{
    coordinator::{Event, ManifestAnswer, SwapReply},
    ids::{Generation, Nonce, Version},
    lease::{LeaseAction, LeaseEvent, LeaseRecord, ReadAnswer, WriteAnswer},
    manifest::Manifest,
};

use crate::{
    faults::{Fault, Sabotage},
    happening::{Happening, ToProcess},
    state::Delta,
    world::{MS, SOURCE, World},
};

/// A client's patience with the store.
const TIMEOUT_US: u64 = 300 * MS;

#[derive(Debug)]
pub struct Store {
    pub manifest: Manifest,
    number: u64,
    before: Option<Manifest>,
    lease: Option<(u64, LeaseRecord)>,
    pub files: BTreeMap<String, File>,
    /// Runs that savepoints name.
    pub savepoints: BTreeMap<String, u32>,
}

#[derive(Clone, Debug)]
pub struct File {
    pub content: Content,
    pub crc32: u32,
    /// The executor that will sync it.
    pub unsynced_at: Option<usize>,
    pub is_torn: bool,
}

/// What a part file holds.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Records read, whatever became of them: topic, partition, offset.
    pub covers: Vec<(usize, i32, i64)>,
    pub rows: Vec<Row>,
    /// Dead letters, by identity.
    pub letters: Vec<String>,
    /// What became of the job's state.
    pub state: Delta,
}

#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub key: u32,
    pub value: u64,
    /// The sink will not have it.
    pub refused: bool,
}

impl Store {
    pub fn new(manifest: Manifest) -> Self {
        Self { manifest, number: 1, before: None, lease: None, files: BTreeMap::new(), savepoints: BTreeMap::new() }
    }

    pub fn version(&self) -> Version {
        Version(self.number.to_string())
    }

    /// A power cut on a store that did not sync its last swap.
    pub fn take_back(&mut self) {
        if let Some(before) = self.before.take() {
            self.manifest = before;
            self.number -= 1;
        }
    }

    /// What an executor has not synced is lost with it, whole or in part.
    pub fn tear(&mut self, executor: usize) {
        for file in self.files.values_mut().filter(|file| file.unsynced_at == Some(executor)) {
            file.is_torn = true;
        }
    }

    /// The file's content, if it is all there and the one that is meant.
    pub fn read(&self, name: &str, crc32: u32) -> Option<&Content> {
        self.files.get(name).filter(|file| !file.is_torn && file.crc32 == crc32).map(|file| &file.content)
    }
}

impl World {
    // ---- Manifest ----

    pub fn send_swap(&mut self, process: usize, expected: Version, manifest: Box<Manifest>) {
        let nonce = manifest.nonce.clone();
        let swap = |answered| Happening::SwapArrives { process, expected: expected.clone(), manifest: manifest.clone(), answered };
        let delay = self.delay(8);
        let unknown = Event::SwapReplied { nonce, reply: SwapReply::Unknown { message: "timed out".into() } };
        if self.processes[process].drowsy_until > self.now {
            return self.deliver_after(TIMEOUT_US, process, unknown);
        }
        if self.strikes(Fault::SwapRequestLost) {
            return self.deliver_after(TIMEOUT_US, process, unknown);
        }
        if self.strikes(Fault::SwapReplyLost) {
            self.after(delay, swap(false));
            return self.deliver_after(TIMEOUT_US, process, unknown);
        }
        if self.strikes(Fault::SwapLate) {
            let late = self.delay(6_000);
            self.after(TIMEOUT_US + late, swap(false));
            return self.deliver_after(TIMEOUT_US, process, unknown);
        }
        if self.strikes(Fault::SwapDuplicated) {
            let again = self.delay(1_000);
            self.after(again, swap(true));
        }
        self.after(delay, swap(true));
    }

    pub fn swap_arrives(&mut self, process: usize, expected: &Version, manifest: Manifest, answered: bool) {
        let nonce = manifest.nonce.clone();
        let reply = if *expected == self.store.version() || self.plan.lacks(Sabotage::PlainWrites) {
            self.check_swap(&manifest);
            self.store.before = Some(std::mem::replace(&mut self.store.manifest, manifest));
            self.store.number += 1;
            SwapReply::Stored { version: self.store.version() }
        } else {
            SwapReply::Conflict
        };
        if answered {
            let delay = self.delay(8);
            self.deliver_after(delay, process, Event::SwapReplied { nonce, reply });
        }
    }

    pub fn read_arrives(&mut self, process: usize, request: Nonce) {
        let found = ManifestAnswer::Found { version: self.store.version(), manifest: Box::new(self.store.manifest.clone()) };
        let is_away = self.processes[process].drowsy_until > self.now;
        let (delay, answer) = if is_away || self.strikes(Fault::ManifestReadLost) {
            (TIMEOUT_US, ManifestAnswer::Unknown { message: "timed out".into() })
        } else {
            (self.delay(8), found)
        };
        self.deliver_after(delay, process, Event::ManifestRead { request, answer });
    }

    /// A new leader reads what it takes over.
    pub fn load_arrives(&mut self, process: usize, generation: Generation) {
        let mut manifest = Box::new(self.store.manifest.clone());
        if self.plan.lacks(Sabotage::GroupOffsets)
            && let Some(position) = manifest.sources.get_mut(&SOURCE)
        {
            position.next.clone_from(&self.group_offsets);
        }
        let version = self.store.version();
        let delay = self.delay(8);
        self.after(delay, Happening::Process(process, ToProcess::Loaded { generation, version, manifest }));
    }

    // ---- Lease ----

    pub fn ask_lease(&mut self, process: usize, action: LeaseAction) {
        let delay = self.delay(8);
        let LeaseAction::Write { expected, record } = action else {
            return self.after(delay, Happening::LeaseReadArrives { process });
        };
        let counter = record.counter;
        let write = |answered| Happening::LeaseWriteArrives { process, expected, record, answered };
        let (delay, answered) = if self.strikes(Fault::LeaseReplyLost) {
            (delay, false)
        } else if self.strikes(Fault::LeaseWriteLate) {
            (TIMEOUT_US + self.delay(6_000), false)
        } else {
            (delay, true)
        };
        self.after(delay, write(answered));
        if !answered {
            let event = LeaseEvent::Written { counter, answer: WriteAnswer::Unknown };
            self.after(TIMEOUT_US, Happening::Process(process, ToProcess::Elect(Some(event))));
        }
    }

    pub fn lease_read_arrives(&mut self, process: usize) {
        let answer = match &self.store.lease {
            Some((number, record)) => ReadAnswer::Found { version: Version(number.to_string()), record: record.clone() },
            None => ReadAnswer::Missing,
        };
        self.answer_lease(process, LeaseEvent::Read(answer));
    }

    pub fn lease_write_arrives(&mut self, process: usize, expected: Option<Version>, record: LeaseRecord, answered: bool) {
        let counter = record.counter;
        let number = self.store.lease.as_ref().map_or(0, |(number, _)| *number);
        let answer = if expected.map_or(0, |version| version.0.parse().expect("a version of this store")) == number {
            self.store.lease = Some((number + 1, record));
            WriteAnswer::Stored(Version((number + 1).to_string()))
        } else {
            WriteAnswer::Conflict
        };
        if answered {
            self.answer_lease(process, LeaseEvent::Written { counter, answer });
        }
    }

    fn answer_lease(&mut self, process: usize, event: LeaseEvent) {
        let delay = self.delay(8);
        self.after(delay, Happening::Process(process, ToProcess::Elect(Some(event))));
    }
}
