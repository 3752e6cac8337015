//! What is left in the folder of an incarnation that has ended, beside its manifest. Its files go when it ends; but a merge of state, an attempt or
//! whoever keeps its history may write one more afterwards, a leader may die before they are gone, and what a savepoint names stays until that is
//! dropped. So a leader looks from time to time.
//!
//! Only folders are touched whose manifest says that their incarnation has ended: of a job that was made again under the same name, the folder
//! is another one. A file goes when nobody named it at two looks in a row, whoever leads by then, as it has no way back: savepoints name files
//! of manifests, and a manifest begins with those of a savepoint. One look may miss a name that is just being handed on; two do not.
use std::{collections::HashSet, sync::Arc, time::Duration};

use polybolos_persist::{Store, StoreError, keys};
use polybolos_streaming::{ids::Incarnation, manifest::Life, savepoint::Savepoint};

use super::runner::load_manifest;
use crate::savepoints::Savepoints;

/// Between two looks. Whoever reads a file that lost its name is through with it by then (EPOCHS rule 4).
pub const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Files that are deleted at once.
const DELETE_BATCH: usize = 1_000;

pub struct Leftovers {
    store: Arc<dyn Store>,
    savepoints: Arc<Savepoints>,
    /// Files that nobody named at the last look.
    nameless: HashSet<String>,
    /// Ended incarnations whose folders were empty at the last look, and those where they were twice: nobody writes there any more.
    empty: HashSet<Incarnation>,
    done: HashSet<Incarnation>,
}

impl Leftovers {
    pub fn new(store: Arc<dyn Store>, savepoints: Arc<Savepoints>) -> Self {
        Self { store, savepoints, nameless: HashSet::new(), empty: HashSet::new(), done: HashSet::new() }
    }

    /// Looks once; answers how many files went. `living` are the incarnations that the catalog names.
    pub async fn look(&mut self, living: &HashSet<Incarnation>) -> Result<usize, StoreError> {
        let named = self.named(living).await?;
        let (mut nameless, mut empty) = (Vec::new(), HashSet::new());
        for folder in self.store.folders(keys::JOBS).await? {
            let incarnation = Incarnation(folder);
            if living.contains(&incarnation) || self.done.contains(&incarnation) || !self.has_ended(&incarnation).await? {
                continue;
            }
            let mut files = self.store.list(&keys::folder(&incarnation)).await?;
            let tombstone = keys::manifest(&incarnation);
            files.retain(|file| file.key != tombstone);
            if files.is_empty() {
                empty.insert(incarnation);
            }
            nameless.extend(files.into_iter().map(|file| file.key).filter(|key| !named.contains(key)));
        }
        let (gone, nameless): (Vec<String>, Vec<String>) = nameless.into_iter().partition(|name| self.nameless.contains(name));
        for names in gone.chunks(DELETE_BATCH) {
            self.store.delete(names).await?;
        }
        self.done.extend(empty.intersection(&self.empty).cloned());
        (self.nameless, self.empty) = (nameless.into_iter().collect(), empty);
        Ok(gone.len())
    }

    /// Files that savepoints and manifests name. Savepoints first: what one that is dropped leaves to a job, that job's manifest names by then.
    async fn named(&self, living: &HashSet<Incarnation>) -> Result<HashSet<String>, StoreError> {
        let changing = self.savepoints.changing().await;
        self.savepoints.refresh().await?;
        drop(changing);
        let savepoints = self.savepoints.list();
        let mut named: HashSet<String> = savepoints.iter().flat_map(Savepoint::file_names).map(str::to_owned).collect();
        for incarnation in living {
            if let Some((manifest, _)) = load_manifest(&*self.store, incarnation).await? {
                named.extend(manifest.file_names().map(str::to_owned));
            }
        }
        Ok(named)
    }

    async fn has_ended(&self, incarnation: &Incarnation) -> Result<bool, StoreError> {
        match load_manifest(&*self.store, incarnation).await {
            Ok(found) => Ok(found.is_some_and(|(manifest, _)| manifest.life == Life::Dropped)),
            // Nobody knows.
            Err(StoreError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use polybolos_persist::{Expected, LocalStore};
    use polybolos_streaming::{
        ids::{Epoch, Generation, JobName, Nonce},
        manifest::{Manifest, StateRun},
        savepoint::Shape,
    };

    use super::*;

    fn run(name: &str) -> StateRun {
        StateRun { name: name.into(), bytes: 1, crc32: 1, state_bytes: 1, first_epoch: Epoch(1), last_epoch: Epoch(3), end: None }
    }

    async fn incarnation(store: &dyn Store, incarnation: &str, life: Life, state: Vec<StateRun>) {
        let manifest = Manifest {
            epoch: Epoch(3),
            life,
            state,
            ..Manifest::new(JobName::new("j"), Incarnation::new(incarnation), Generation(1), Nonce::new("n"))
        };
        let bytes = polybolos_persist::manifest::encode(&manifest).expect("encodes");
        store.put_if(&keys::manifest(&manifest.incarnation), bytes, Expected::Absent).await.expect("stored");
    }

    fn savepoint(file: &str) -> Savepoint {
        Savepoint {
            name: "s".into(),
            job: JobName::new("j"),
            incarnation: Incarnation::new("ended"),
            created_at_us: 5,
            epoch: Epoch(3),
            sources: BTreeMap::new(),
            watermark_us: None,
            frame_watermark_us: None,
            fired_us: None,
            state: vec![run(file)],
            shape: Shape::default(),
        }
    }

    /// A job was dropped while its state was being merged, and made again under the same name with the state of a savepoint.
    #[tokio::test]
    async fn what_is_written_after_a_job_has_ended_goes_and_nothing_that_anybody_names_or_that_is_of_another_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(folder.path().join("store")).await.expect("a store"));
        let savepoints = Arc::new(Savepoints::new(store.clone()));
        let [merged, kept, taken_over] = ["merged", "kept", "taken-over"].map(|name| format!("jobs/ended/parts/{name}"));
        let others = ["again", "begun", "lost"].map(|incarnation| format!("jobs/{incarnation}/parts/merged"));
        for file in [&merged, &kept, &taken_over].into_iter().chain(&others) {
            store.create(file, "rows".into()).await.expect("written");
        }
        let histories = ["ended", "again"].map(|incarnation| keys::history(&Incarnation::new(incarnation)));
        for history in &histories {
            store.put_if(history, "events".into(), Expected::Absent).await.expect("written");
        }
        incarnation(&*store, "ended", Life::Dropped, vec![]).await;
        incarnation(&*store, "again", Life::Running, vec![run(&taken_over)]).await;
        incarnation(&*store, "begun", Life::Running, vec![]).await;
        savepoints.add(savepoint(&kept)).await.expect("added");

        let living = HashSet::from([Incarnation::new("again")]);
        let mut leftovers = Leftovers::new(store.clone(), savepoints.clone());
        assert_eq!(leftovers.look(&living).await.expect("looks"), 0, "a name may be on its way");
        assert_eq!(leftovers.look(&living).await.expect("looks"), 2);
        assert!(store.get(&histories[0]).await.expect("read").is_none());
        assert!(store.get(&histories[1]).await.expect("read").is_some());
        assert!(matches!(store.read(&merged).await, Err(StoreError::Missing { .. })));
        for file in [&kept, &taken_over].into_iter().chain(&others) {
            store.read(file).await.expect(file);
        }

        savepoints.remove("s").await.expect("removed");
        store.create(&merged, "rows".into()).await.expect("written late");
        let looks = [leftovers.look(&living).await.expect("looks"), leftovers.look(&living).await.expect("looks")];
        assert_eq!(looks, [0, 2]);
        assert_eq!(store.list("jobs/ended/parts/").await.expect("lists").len(), 1, "that of the new run");
        // That has gone too, and left another of its name.
        let living = HashSet::new();
        store.delete(&[keys::manifest(&Incarnation::new("again"))]).await.expect("deleted");
        incarnation(&*store, "again", Life::Dropped, vec![]).await;
        let looks = [leftovers.look(&living).await.expect("looks"), leftovers.look(&living).await.expect("looks")];
        assert_eq!(looks, [0, 3]);
        for empty in [false, false, true] {
            assert_eq!(leftovers.done.contains(&Incarnation::new("ended")), empty);
            assert_eq!(leftovers.look(&living).await.expect("looks"), 0);
        }
    }
}
