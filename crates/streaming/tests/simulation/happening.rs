//! Everything that can wait in the world's queue.
use std::collections::BTreeMap;

use polybolos_streaming::{
    coordinator::{Event, PublishOrder},
    ids::{Attempt, Generation, Nonce, Version},
    lease::{LeaseEvent, LeaseRecord},
    manifest::Manifest,
};

use crate::{
    faults::Fault,
    publishers::Writing,
    state::CompactOrder,
    tasks::{Task, Written},
};

/// Something that will happen, to somebody.
#[derive(Debug)]
pub enum Happening {
    Produce,
    Disaster(Fault),
    Operator,
    Follower(Option<Box<Manifest>>),
    Savepoint,
    ProcessBorn,
    Process(usize, ToProcess),
    Executor(usize, ToExecutor),
    ExecutorBorn,
    LeaseReadArrives { process: usize },
    LeaseWriteArrives { process: usize, expected: Option<Version>, record: LeaseRecord, answered: bool },
    SwapArrives { process: usize, expected: Version, manifest: Box<Manifest>, answered: bool },
    ReadArrives { process: usize, request: Nonce },
    LoadArrives { process: usize, generation: Generation },
    GroupOffsets(BTreeMap<i32, i64>),
    QueryEnds { process: usize, attempt: Attempt },
}

/// What reaches a process only while it runs; a paused one finds it when it wakes.
#[derive(Debug)]
pub enum ToProcess {
    Elect(Option<LeaseEvent>),
    Loaded {
        generation: Generation,
        version: Version,
        manifest: Box<Manifest>,
    },
    Poll,
    /// The order to read ahead has come to the executors.
    ReadAhead,
    Listed {
        asked_us: u64,
        topic: usize,
        beginnings: BTreeMap<i32, i64>,
        ends: BTreeMap<i32, i64>,
    },
    Tick,
    Deliver(Event),
    /// It has taken the job over, and lists the savepoints.
    ListSavepoints,
    Beat {
        executor: usize,
        connection: u64,
        asked_us: u64,
    },
}

#[derive(Debug)]
pub enum ToExecutor {
    Beat,
    Grant { connection: u64, generation: Generation, asked_us: u64 },
    Work(Task),
    Sync(Written),
    Say(Event),
    Cancel { process: usize, attempt: Attempt },
    Forget,
    Order { connection: u64, generation: Generation, order: PublishOrder },
    Write(Writing),
    Compact { order: CompactOrder, is_read: bool },
}
