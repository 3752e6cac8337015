//! The savepoints on the store: an object each, and what this process knows of them. Who makes or drops one holds [`Savepoints::changing`] meanwhile.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::RwLock;
use polybolos_persist::{Expected, Store, StoreError, Swap, envelope, keys};
use polybolos_streaming::savepoint::Savepoint;
use thiserror::Error;
use tokio::sync::{Mutex, MutexGuard};

const KIND: &str = "savepoint";

#[derive(Debug, Error)]
pub enum SavepointError {
    #[error("savepoint {name} exists already; choose another name, or DROP SAVEPOINT {name}")]
    Exists { name: String },
    #[error("savepoint {name} does not exist; SHOW SAVEPOINTS lists all")]
    NoSuch { name: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
pub struct Savepoints {
    store: Arc<dyn Store>,
    known: RwLock<BTreeMap<String, Savepoint>>,
    changing: Mutex<()>,
}

impl Savepoints {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, known: RwLock::default(), changing: Mutex::default() }
    }

    pub async fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// Reads all of them again.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let mut found = BTreeMap::new();
        for entry in self.store.list(keys::SAVEPOINTS).await? {
            // Dropped in between.
            let Some((bytes, _)) = self.store.get(&entry.key).await? else { continue };
            let savepoint: Savepoint = envelope::decode(&entry.key, KIND, &bytes)?;
            found.insert(savepoint.name.clone(), savepoint);
        }
        *self.known.write() = found;
        Ok(())
    }

    pub fn list(&self) -> Vec<Savepoint> {
        self.known.read().values().cloned().collect()
    }

    pub fn find(&self, name: &str) -> Result<Savepoint, SavepointError> {
        let found = self.known.read().get(name).cloned();
        found.ok_or_else(|| SavepointError::NoSuch { name: name.to_owned() })
    }

    /// The files that a job's savepoints name: its coordinator deletes none of them.
    pub fn files_of(&self, job: &str) -> BTreeSet<String> {
        let known = self.known.read();
        let of_job = known.values().filter(|savepoint| savepoint.job.as_str() == job);
        of_job.flat_map(Savepoint::file_names).map(str::to_owned).collect()
    }

    pub async fn add(&self, savepoint: Savepoint) -> Result<(), SavepointError> {
        let bytes = envelope::encode(KIND, &savepoint)?;
        let name = savepoint.name.clone();
        match self.store.put_if(&keys::savepoint(&name), bytes, Expected::Absent).await? {
            Swap::Stored(_) => {
                self.known.write().insert(name, savepoint);
                Ok(())
            }
            Swap::Conflict => Err(SavepointError::Exists { name }),
        }
    }

    /// Its files are somebody else's to delete.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.store.delete(&[keys::savepoint(name)]).await?;
        self.known.write().remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use polybolos_persist::LocalStore;
    use polybolos_streaming::{
        ids::{Epoch, Incarnation, JobName},
        manifest::StateRun,
        savepoint::Shape,
    };

    use super::*;

    fn savepoint(name: &str, job: &str, file: &str) -> Savepoint {
        let run = StateRun {
            name: file.into(),
            bytes: 7,
            crc32: 1,
            state_bytes: 7,
            first_epoch: Epoch(1),
            last_epoch: Epoch(3),
            end: None,
        };
        Savepoint {
            name: name.into(),
            job: JobName::new(job),
            incarnation: Incarnation::new("i"),
            created_at_us: 5,
            epoch: Epoch(3),
            sources: BTreeMap::new(),
            watermark_us: Some(4),
            frame_watermark_us: None,
            fired_us: None,
            state: vec![run],
            shape: Shape::default(),
        }
    }

    #[tokio::test]
    async fn savepoints_are_objects_that_another_process_finds() {
        let folder = tempfile::tempdir().expect("a folder");
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(folder.path().join("store")).await.expect("a store"));
        let one = Savepoints::new(store.clone());
        one.add(savepoint("a", "j", "f1")).await.expect("added");
        one.add(savepoint("b", "k", "f2")).await.expect("added");
        assert!(matches!(one.add(savepoint("a", "j", "f3")).await, Err(SavepointError::Exists { .. })));

        let other = Savepoints::new(store);
        assert!(other.list().is_empty());
        other.refresh().await.expect("listed");
        assert_eq!(other.find("a").expect("found"), savepoint("a", "j", "f1"));
        assert_eq!(other.files_of("k"), BTreeSet::from(["f2".to_owned()]));
        other.remove("a").await.expect("removed");
        one.refresh().await.expect("listed");
        assert!(matches!(one.find("a"), Err(SavepointError::NoSuch { .. })));
    }
}
