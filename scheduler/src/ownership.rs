//! One job writes a table (EPOCHS rule 12): a durable record per table holds the owning incarnation and the write time that its successor
//! starts from, so that no new owner writes rows below those of the old one, where nobody would see them.
use polybolos_persist::{Expected, Store, StoreError, Swap, envelope, keys};
use polybolos_streaming::{ids::Incarnation, manifest::Life};
use polybolos_tables::TableName;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::jobs::runner::load_manifest;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    job: String,
    incarnation: Incarnation,
    /// Later write times start at or after it, microseconds since 1970.
    floor_us: i64,
}

#[derive(Debug, Error)]
pub enum OwnershipError {
    #[error("table {table} is written by job {job}; drop that job first, as one job writes a table")]
    Owned { table: TableName, job: String },
    #[error("table {table} is being given to another job at this moment; try again")]
    Raced { table: TableName },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes an incarnation the owner of a table; answers the floor of its write times. Doing it twice is the same as once.
pub async fn acquire(store: &dyn Store, table: &TableName, job: &str, incarnation: &Incarnation) -> Result<i64, OwnershipError> {
    let key = keys::table_owner(table.keyspace.as_str(), table.table.as_str());
    let found = store.get(&key).await?;
    let (floor_us, expected) = match found {
        None => (0, Expected::Absent),
        Some((bytes, version)) => {
            let owner: Owner = envelope::decode(&key, "table-owner", &bytes)?;
            if owner.incarnation == *incarnation {
                return Ok(owner.floor_us);
            }
            let manifest = load_manifest(store, &owner.incarnation).await?;
            let floor_us = match manifest {
                // It was to be created, and never was.
                None => owner.floor_us,
                Some((manifest, _)) if manifest.life == Life::Dropped => owner.floor_us.max(manifest.window_end_us),
                Some(_) => return Err(OwnershipError::Owned { table: table.clone(), job: owner.job }),
            };
            (floor_us, Expected::Version(version))
        }
    };
    let owner = Owner { job: job.to_owned(), incarnation: incarnation.clone(), floor_us };
    match store.put_if(&key, envelope::encode("table-owner", &owner)?, expected).await? {
        Swap::Stored(_) => Ok(floor_us),
        Swap::Conflict => Err(OwnershipError::Raced { table: table.clone() }),
    }
}

/// Takes `span_us` write times of a table that no job writes; answers the first. Whoever writes the table later starts after them.
pub async fn pass(store: &dyn Store, table: &TableName, now_us: i64, span_us: i64) -> Result<i64, OwnershipError> {
    let key = keys::table_owner(table.keyspace.as_str(), table.table.as_str());
    let (floor_us, expected) = match store.get(&key).await? {
        None => (0, Expected::Absent),
        Some((bytes, version)) => {
            let owner: Owner = envelope::decode(&key, "table-owner", &bytes)?;
            let floor_us = match load_manifest(store, &owner.incarnation).await? {
                None => owner.floor_us,
                Some((manifest, _)) if manifest.life == Life::Dropped => owner.floor_us.max(manifest.window_end_us),
                Some(_) => return Err(OwnershipError::Owned { table: table.clone(), job: owner.job }),
            };
            (floor_us, Expected::Version(version))
        }
    };
    let first_us = now_us.max(floor_us);
    // An incarnation without a manifest: the next owner sees only the floor.
    let incarnation = Incarnation(uuid::Uuid::new_v4().simple().to_string());
    let owner = Owner { job: "INSERT".into(), incarnation, floor_us: first_us + span_us };
    match store.put_if(&key, envelope::encode("table-owner", &owner)?, expected).await? {
        Swap::Stored(_) => Ok(first_us),
        Swap::Conflict => Err(OwnershipError::Raced { table: table.clone() }),
    }
}
