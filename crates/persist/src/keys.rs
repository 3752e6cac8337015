//! Where everything lies on the store.
use polybolos_streaming::ids::{Attempt, Epoch, Incarnation, Nonce, PartIndex};

/// Who leads.
pub const LEASE: &str = "lease";

/// All tables and jobs.
pub const CATALOG: &str = "catalog";

/// Prefix of all incarnations, a folder each.
pub const JOBS: &str = "jobs/";

pub fn manifest(incarnation: &Incarnation) -> String {
    format!("{JOBS}{incarnation}/manifest")
}

pub fn is_manifest(key: &str) -> bool {
    key.starts_with(JOBS) && key.ends_with("/manifest")
}

/// Prefix of all that there is of an incarnation.
pub fn folder(incarnation: &Incarnation) -> String {
    format!("jobs/{incarnation}/")
}

/// What it went through, for people. Nothing is decided by it.
pub fn history(incarnation: &Incarnation) -> String {
    format!("jobs/{incarnation}/history")
}

/// Prefix of an incarnation's part files and compacted state.
pub fn parts_of(incarnation: &Incarnation) -> String {
    format!("jobs/{incarnation}/parts/")
}

pub fn part(incarnation: &Incarnation, epoch: Epoch, attempt: Attempt, part: PartIndex, execution: &Nonce) -> String {
    format!("{}{execution}", executions_of_part(incarnation, epoch, attempt, part))
}

/// Prefix of an attempt's part files.
pub fn parts_of_attempt(incarnation: &Incarnation, epoch: Epoch, attempt: Attempt) -> String {
    format!("{}{epoch}-{attempt}-", parts_of(incarnation))
}

/// Prefix of the files of one of its parts: each execution writes one of its own.
pub fn executions_of_part(incarnation: &Incarnation, epoch: Epoch, attempt: Attempt, part: PartIndex) -> String {
    format!("{}{part}-", parts_of_attempt(incarnation, epoch, attempt))
}

/// A run of state that compaction merged out of those of epochs `first..=last`.
pub fn state_run(incarnation: &Incarnation, first: Epoch, last: Epoch, nonce: &Nonce) -> String {
    format!("jobs/{incarnation}/parts/state-{first}-{last}-{nonce}")
}

/// Prefix of all savepoints.
pub const SAVEPOINTS: &str = "savepoints/";

pub fn savepoint(name: &str) -> String {
    format!("{SAVEPOINTS}{name}")
}

/// A file of a savepoint that came from another cluster.
pub fn savepoint_file(name: &str, nonce: &Nonce) -> String {
    format!("savepoint-files/{name}/{nonce}")
}

/// Prefix of the records of who writes a table.
const TABLES: &str = "tables/";

pub fn table_owner(keyspace: &str, table: &str) -> String {
    format!("{TABLES}{keyspace}.{table}")
}

/// What is changed by statements only.
pub fn is_of_statements(key: &str) -> bool {
    key == CATALOG || key.starts_with(TABLES) || key.starts_with(SAVEPOINTS)
}
