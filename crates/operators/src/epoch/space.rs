//! Where an executor keeps the state of its jobs: so much memory for all of them, and a folder for what has no room there. The folder is worth nothing to
//! anybody else: it begins empty with the process, and what is in it can be made again of recorded runs.
use std::{
    error::Error,
    fmt,
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use parking_lot::Mutex;
use polybolos_state::{Spill, StateError};

/// Memory that the folder's store takes for itself: blocks that were read, and what is not yet in files, per job.
const CACHE_BYTES: u64 = 16 << 20;
const UNWRITTEN_BYTES: u64 = 8 << 20;

/// On disk, before what is written twice is given up.
const JOURNAL_BYTES: u64 = 64 << 20;

pub struct StateSpace {
    /// Most bytes of memory, about.
    pub memory: u64,
    folder: PathBuf,
    /// Where that is, for people.
    place: String,
    /// Opened by the first job that needs it.
    database: Mutex<Option<Opened>>,
    /// Of databases and of jobs' parts in them, so that each has a name of its own.
    opened: AtomicU64,
}

impl fmt::Debug for StateSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateSpace").field("memory", &self.memory).field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl StateSpace {
    /// The folder is made when it is needed; what an earlier process left in it goes.
    pub fn new(memory: u64, folder: PathBuf) -> Self {
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "cannot remove what an earlier process left");
        }
        let place = format!("folder {}", folder.display());
        Self { memory, folder, place, database: Mutex::default(), opened: AtomicU64::new(0) }
    }

    /// Of what runs no jobs.
    pub fn none() -> Self {
        Self { memory: 0, folder: PathBuf::new(), place: String::new(), database: Mutex::default(), opened: AtomicU64::new(0) }
    }

    /// The same, of an executor that errors name.
    pub fn of(self, executor: &str) -> Self {
        Self { place: format!("folder {} of {executor}", self.folder.display()), ..self }
    }

    /// For one job's state.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn spill(&self) -> Result<Arc<dyn Spill>, StateError> {
        let mut known = self.database.lock();
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        // One that failed takes nothing more; another one does, when the disk does.
        let usable = known.take().filter(|opened| !opened.has_failed.load(Ordering::Relaxed));
        let opened = match usable {
            Some(opened) => opened,
            None => {
                let builder = Database::builder(self.folder.join(number.to_string())).temporary(true);
                let builder = builder.cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES).manual_journal_persist(true);
                let place = Arc::from(self.place.as_str());
                let database = builder.worker_threads(1).open().map_err(|error| unusable(&self.place, &error))?;
                Opened { database, has_failed: Arc::default(), place }
            }
        };
        let opened = known.insert(opened);
        let options = || KeyspaceCreateOptions::default().max_memtable_size(UNWRITTEN_BYTES).manual_journal_persist(true);
        let keyspace = opened.checked(opened.database.keyspace(&number.to_string(), options))?;
        Ok(Arc::new(Part { opened: opened.clone(), keyspace }))
    }

    /// A file without a name, which goes when it is closed, and where it is.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn unnamed_file(&self) -> Result<(File, String), StateError> {
        let path = self.folder.join(format!("unnamed-{}", self.opened.fetch_add(1, Ordering::Relaxed)));
        let opened = fs::create_dir_all(&self.folder)
            .and_then(|()| File::options().read(true).write(true).create_new(true).open(&path))
            .and_then(|file| fs::remove_file(&path).map(|()| file));
        match opened {
            Ok(file) => Ok((file, self.place.clone())),
            Err(error) => Err(unusable(&self.place, &error.into())),
        }
    }
}

/// The store of all jobs' parts.
#[derive(Clone)]
struct Opened {
    database: Database,
    has_failed: Arc<AtomicBool>,
    place: Arc<str>,
}

impl Opened {
    fn checked<T>(&self, result: fjall::Result<T>) -> Result<T, StateError> {
        result.map_err(|error| {
            self.has_failed.store(true, Ordering::Relaxed);
            unusable(&self.place, &error)
        })
    }
}

pub(super) fn unusable(place: &str, error: &fjall::Error) -> StateError {
    match is_of_full_disk(error) {
        true => StateError::Full { place: place.to_owned() },
        false => StateError::Spill(format!("{place}: {error}")),
    }
}

fn is_of_full_disk(error: &fjall::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// One job's part of the store.
struct Part {
    opened: Opened,
    keyspace: Keyspace,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("path", &self.keyspace.path()).finish_non_exhaustive()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Err(error) = self.opened.database.delete_keyspace(self.keyspace.clone()) {
            tracing::warn!(%error, "state on disk that nobody needs any more stays there");
        }
    }
}

impl Spill for Part {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.opened.checked(self.keyspace.get(key))?.map(|value| value.to_vec()))
    }

    fn keys(&self, from: &[u8], through: &[u8]) -> Result<Vec<Vec<u8>>, StateError> {
        self.keyspace.range(from..=through).map(|entry| Ok(self.opened.checked(entry.key())?.to_vec())).collect()
    }

    fn write(&self, puts: Vec<(Vec<u8>, Vec<u8>)>, removes: Vec<Vec<u8>>) -> Result<(), StateError> {
        let mut batch = self.opened.database.batch();
        puts.into_iter().for_each(|(key, value)| batch.insert(&self.keyspace, key, value));
        removes.into_iter().for_each(|key| batch.remove(&self.keyspace, key));
        self.opened.checked(batch.commit())
    }

    fn clear(&self) {
        if let Err(error) = self.opened.checked(self.keyspace.clear()) {
            tracing::warn!(%error, "state on disk that nobody needs any more stays there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_comes_back_and_the_folder_goes_with_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("state");
        std::fs::create_dir_all(place.join("left/by")).expect("made");
        let space = StateSpace::new(1 << 20, place.clone());
        assert!(!place.exists());
        let (spill, other) = (space.spill().expect("opens"), space.spill().expect("opens"));
        let entry = |number: u8| (vec![number], vec![number; 9]);
        spill.write((0..100).map(entry).collect(), vec![]).expect("writes");
        other.write(vec![(vec![7], b"other".to_vec())], vec![]).expect("writes");
        spill.write(vec![], vec![vec![7], vec![50]]).expect("removes");
        assert_eq!(spill.get(&[7]).expect("reads"), None);
        assert_eq!(spill.get(&[8]).expect("reads"), Some(vec![8; 9]));
        assert_eq!(other.get(&[7]).expect("reads").as_deref(), Some(&b"other"[..]));
        assert_eq!(spill.keys(&[48], &[52]).expect("reads"), [[48], [49], [51], [52]]);
        spill.write(vec![entry(7)], vec![]).expect("writes again");
        assert_eq!(spill.get(&[7]).expect("reads"), Some(vec![7; 9]));
        spill.clear();
        assert_eq!(spill.get(&[8]).expect("reads"), None);
        drop((spill, other, space));
        assert_eq!(std::fs::read_dir(&place).map_or(0, Iterator::count), 0);
    }

    #[test]
    fn a_full_disk_is_told_with_its_place_and_that_the_job_goes_on() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for error in [fjall::Error::Io(full()), fjall::Error::Storage(full().into())] {
            let told = unusable("folder /work/spill of executor e1", &error).to_string();
            assert!(told.starts_with("the disk of folder /work/spill of executor e1 is full"), "{told}");
            assert!(told.contains("free some space, the job goes on by itself"), "{told}");
        }
        assert!(matches!(unusable("here", &fjall::Error::Poisoned), StateError::Spill(_)));
    }

    #[test]
    fn a_disk_that_refuses_is_an_error_that_names_the_setting() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, b"no folder").expect("writes");
        let space = StateSpace::new(1 << 20, file.join("state")).of("executor e1 on 10.0.0.1");
        let error = space.spill().expect_err("no folder can be made there");
        assert!(matches!(error, StateError::Spill(_)) && error.to_string().contains("executor.work_dir"), "{error}");
        assert!(error.to_string().contains("file/state of executor e1 on 10.0.0.1"), "{error}");
        std::fs::remove_file(&file).expect("removed");
        let spill = space.spill().expect("now it can");
        spill.write(vec![(vec![1], vec![2])], vec![]).expect("writes");

        // After a failure, whatever it was, a store of its own is begun.
        space.database.lock().as_ref().expect("opened").has_failed.store(true, Ordering::Relaxed);
        let other = space.spill().expect("opens another");
        assert_eq!(std::fs::read_dir(file.join("state")).expect("there").count(), 2);
        other.write(vec![(vec![1], vec![3])], vec![]).expect("writes");
        drop(spill);
        assert_eq!(std::fs::read_dir(file.join("state")).expect("there").count(), 1, "the one that failed is gone");
    }
}
