//! The streaming domain, pure: what an epoch is, what a manifest says, and how a coordinator decides. No I/O, no clock, no randomness:
//! time and nonces come in as values, decisions go out as [`coordinator::Action`]s, so that the whole protocol can be simulated.
//!
//! * [`ids`]: newtypes for jobs, epochs, generations, attempts, offsets;
//! * [`frame`]: one epoch's exact input;
//! * [`manifest`]: the durable truth about one job incarnation;
//! * [`savepoint`]: a manifest kept under a name;
//! * [`report`]: what tasks and publishers say about their work;
//! * [`coordinator`]: `on_event(now, event) -> actions`, one per job;
//! * [`pace`]: how large the next epoch is;
//! * [`window`]: write timestamps;
//! * [`grant`]: a publisher's leave to write;
//! * [`lease`]: who leads.
#![forbid(unsafe_code)]

pub mod coordinator;
pub mod frame;
pub mod grant;
pub mod ids;
pub mod lease;
pub mod manifest;
pub mod pace;
pub mod report;
pub mod savepoint;
pub mod window;
