//! One job writes a table (EPOCHS rule 12): a durable record per table holds the owning incarnation and the write time that its successor
//! starts from, so that no new owner writes rows below those of the old one, where nobody would see them.
use polybolos_persist::{Expected, Store, StoreError, Swap, envelope, keys};
use polybolos_streaming::{
    ids::{Generation, Incarnation, Nonce, Version},
    manifest::{Life, Manifest},
};
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
                // Begun by a statement whose leader did not live to name it in the catalog.
                Some((manifest, version)) if manifest.generation == Generation(0) && owner.job == job => {
                    if !end(store, &manifest, version).await? {
                        return Err(OwnershipError::Raced { table: table.clone() });
                    }
                    owner.floor_us.max(manifest.window_end_us)
                }
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

/// Ends an incarnation that nobody runs: whoever is about to take it over finds it dropped. Answers `false` when somebody was quicker.
pub async fn end(store: &dyn Store, manifest: &Manifest, version: Version) -> Result<bool, StoreError> {
    let mut ended = manifest.clone();
    ended.life = Life::Dropped;
    ended.state.clear();
    ended.nonce = Nonce(uuid::Uuid::new_v4().simple().to_string());
    let bytes = polybolos_persist::manifest::encode(&ended)?;
    let expected = Expected::Version(polybolos_persist::Version(version.0));
    Ok(matches!(store.put_if(&keys::manifest(&manifest.incarnation), bytes, expected).await?, Swap::Stored(_)))
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

#[cfg(test)]
mod tests {
    use polybolos_persist::LocalStore;
    use polybolos_streaming::ids::JobName;

    use super::*;

    fn manifest(incarnation: &str, generation: u64, life: Life) -> Manifest {
        Manifest {
            life,
            window_end_us: 70,
            ..Manifest::new(JobName::new("j"), Incarnation::new(incarnation), Generation(generation), Nonce::new("n"))
        }
    }

    async fn stored(store: &dyn Store, manifest: &Manifest) {
        let bytes = polybolos_persist::manifest::encode(manifest).expect("encodes");
        store.put_if(&keys::manifest(&manifest.incarnation), bytes, Expected::Absent).await.expect("stored");
    }

    #[tokio::test]
    async fn a_table_is_handed_on_when_its_owner_has_ended_or_never_ran() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = LocalStore::open(folder.path().join("store")).await.expect("a store");
        let table = TableName::new("k", "t");
        let acquire = async |job: &str, incarnation: &str| acquire(&store, &table, job, &Incarnation::new(incarnation)).await;
        assert_eq!(acquire("j", "a").await.expect("free"), 0);
        assert_eq!(acquire("j", "b").await.expect("a was never begun"), 0);
        // Begun, and never run: only the same job may end it.
        stored(&store, &manifest("b", 0, Life::Running)).await;
        assert!(matches!(acquire("other", "x").await, Err(OwnershipError::Owned { .. })));
        assert_eq!(acquire("j", "c").await.expect("b never ran"), 70);
        let (ended, _) = load_manifest(&store, &Incarnation::new("b")).await.expect("read").expect("there");
        assert_eq!(ended.life, Life::Dropped);
        // Runs.
        stored(&store, &manifest("c", 1, Life::Running)).await;
        assert!(matches!(acquire("j", "d").await, Err(OwnershipError::Owned { .. })));
        assert_eq!(acquire("j", "c").await.expect("its own"), 70);
    }
}
