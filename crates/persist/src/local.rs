//! A folder as a store. Several processes of one host may share it: a swap is a write to a temporary file, fsync, a look at the version and rename under an exclusive
//! lock, fsync of the folder. A version is a counter in front of the object's bytes, so it never repeats.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};

use crate::{
    Entry, Expected, NewFile, PIECE_BYTES, Store, StoreError, Swap, Version, crash, error::is_full, keys, reserve::Reserve,
    store::is_sound,
};

#[derive(Clone, Debug)]
pub struct LocalStore {
    root: Arc<PathBuf>,
    /// Of who may lead.
    reserve: Option<Arc<Reserve>>,
}

/// Objects keep their version beside their bytes: eight bytes, big-endian, in front.
const VERSION_BYTES: usize = 8;

/// Whoever holds the lock only reads eight bytes and renames a file; longer than this it is stopped.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_micros(500);

impl LocalStore {
    /// Opens or makes the folder, and tries whether swaps there are sound.
    pub async fn open(root: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(root.as_ref(), false).await
    }

    /// The same for who writes the lease: it holds room for that as long as the store is open.
    pub async fn open_to_lead(root: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(root.as_ref(), true).await
    }

    async fn open_with(root: &Path, may_lead: bool) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(|source| io_error("creating", root, source))?;
        let reserve = may_lead.then(|| Arc::new(Reserve::new(root)));
        let store = Self { root: Arc::new(root.to_owned()), reserve };
        crate::trial(&store).await?;
        Ok(store)
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        if is_sound(key) { Ok(self.root.join(key)) } else { Err(StoreError::BadKey { key: key.to_owned() }) }
    }

    /// File work happens beside the runtime.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        blocking(&self.root, work).await
    }
}

async fn blocking<T: Send + 'static>(
    place: &Path,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io_error("working on", place, io::Error::other(error))),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { action, object: path.display().to_string(), source }
}

/// The folder of a file.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    File::open(folder)?.sync_all()
}

/// Makes the folders above `path`, each durably.
pub(crate) fn make_folders(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    if folder.is_dir() {
        return Ok(());
    }
    make_folders(folder)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder(folder)
}

fn read_versioned(path: &Path) -> Result<Option<(u64, Bytes)>, StoreError> {
    read_up_to(path, u64::MAX)
}

/// The version, and the bytes as far as that many of the file say.
fn read_up_to(path: &Path, most: u64) -> Result<Option<(u64, Bytes)>, StoreError> {
    let mut bytes = vec![];
    match File::open(path) {
        Ok(file) => file.take(most).read_to_end(&mut bytes).map_err(|source| io_error("reading", path, source))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("reading", path, source)),
    };
    let Some((version, _)) = bytes.split_first_chunk::<VERSION_BYTES>() else {
        return Err(StoreError::Corrupt { object: path.display().to_string(), message: "it is cut short".into() });
    };
    let version = u64::from_be_bytes(*version);
    Ok(Some((version, Bytes::from(bytes).slice(VERSION_BYTES..))))
}

/// Nothing slow happens while the lock is held, as a process that is stopped meanwhile holds up all others: the bytes are synced before, the folder after. Whoever
/// builds on a rename that is not synced yet syncs it with its own.
fn swap(path: &Path, bytes: &[u8], expected: &Expected, reserve: Option<&Reserve>) -> Result<Swap, StoreError> {
    let failed = |action: &'static str| move |source| io_error(action, path, source);
    make_folders(path).map_err(failed("creating the folder of"))?;
    let next = match expected {
        // An object that was deleted and made again must not repeat a version: start at a random one.
        Expected::Absent => uuid::Uuid::new_v4().as_u64_pair().0 >> 2,
        Expected::Version(version) => match version.0.parse::<u64>() {
            Ok(version) => version + 1,
            Err(_) => return Ok(Swap::Conflict),
        },
    };
    // A conflict that shows already costs no sync.
    if !is_as_expected(path, expected)? {
        return Ok(Swap::Conflict);
    }
    // Of this try alone; one that a kill leaves behind takes room only.
    let temporary = beside(path, &format!(".{}.new", uuid::Uuid::new_v4().simple()));
    let parts: [&[u8]; 2] = [&next.to_be_bytes(), bytes];
    let swapped = write_synced(&temporary, &parts)
        .or_else(|error| match reserve {
            Some(reserve) if is_full(&error) => {
                let _ = fs::remove_file(&temporary);
                reserve.write_synced(&temporary, &parts).map_err(|unreserved| {
                    tracing::debug!(error = %unreserved, "the room reserved for the lease cannot be used");
                    error
                })
            }
            _ => Err(error),
        })
        .map_err(failed("writing"))
        .and_then(|()| rename_if(&temporary, path, expected));
    if !matches!(swapped, Ok(true)) {
        let _ = fs::remove_file(&temporary);
    }
    if !swapped? {
        return Ok(Swap::Conflict);
    }
    sync_folder(path).map_err(failed("syncing the folder of"))?;
    if is_manifest(path) {
        crash::point("manifest-after-swap");
    }
    Ok(Swap::Stored(Version(next.to_string())))
}

pub(crate) fn write_synced(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

/// Puts the file in the object's place if that is as expected.
fn rename_if(temporary: &Path, path: &Path, expected: &Expected) -> Result<bool, StoreError> {
    let failed = |action: &'static str| move |source| io_error(action, path, source);
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).open(beside(path, ".lock")).map_err(failed("locking"))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK && error != rustix::io::Errno::INTR {
            return Err(io_error("locking", path, error.into()));
        }
        if Instant::now() > deadline {
            let message = "another process holds its lock and does not move; let it go on, or end it";
            return Err(io_error("locking", path, io::Error::other(message)));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    if !is_as_expected(path, expected)? {
        return Ok(false);
    }
    if is_manifest(path) {
        crash::point("manifest-before-swap");
    }
    fs::rename(temporary, path).map_err(failed("renaming"))?;
    Ok(true)
}

fn is_as_expected(path: &Path, expected: &Expected) -> Result<bool, StoreError> {
    let current = read_up_to(path, VERSION_BYTES as u64)?.map(|(version, _)| version.to_string());
    let expected = match expected {
        Expected::Absent => None,
        Expected::Version(version) => Some(&version.0),
    };
    Ok(current.as_ref() == expected)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Leases are swapped too, all the time.
fn is_manifest(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "manifest")
}

fn new_file(path: &Path) -> Result<File, StoreError> {
    make_folders(path).map_err(|source| io_error("creating the folder of", path, source))?;
    match OpenOptions::new().create_new(true).write(true).open(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(StoreError::Exists { object: path.display().to_string() })
        }
        Err(source) => Err(io_error("creating", path, source)),
    }
}

fn create(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = new_file(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
    written.map_err(|source| {
        // Half a file under a name that no record will ever have; it only takes room.
        let _ = fs::remove_file(path);
        io_error("writing", path, source)
    })
}

/// As far as the file goes.
fn read_range(path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(range.start))?;
    let count = range.end.saturating_sub(range.start);
    let mut bytes = Vec::with_capacity(count as usize);
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(path: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::NotFound => StoreError::Missing { object: path.display().to_string() },
        _ => io_error("reading", path, source),
    }
}

/// A file that comes in pieces, under its own name from the beginning, as [`create`] writes it: no record has that name before it is
/// finished.
#[derive(Debug)]
struct FileInPieces {
    path: PathBuf,
    file: Arc<File>,
    /// Where the next piece goes.
    end: u64,
    is_finished: bool,
}

#[async_trait]
impl NewFile for FileInPieces {
    async fn append(&mut self, piece: Bytes) -> Result<(), StoreError> {
        let (file, path, at) = (self.file.clone(), self.path.clone(), self.end);
        self.end += piece.len() as u64;
        // Each piece by itself: all of a large file at the end would hold up what others sync meanwhile.
        let write = move || file.write_all_at(&piece, at).and_then(|()| file.sync_data());
        blocking(&self.path, move || write().map_err(|source| io_error("writing", &path, source))).await
    }

    async fn finish(mut self: Box<Self>, first: Bytes) -> Result<(), StoreError> {
        let (file, path) = (self.file.clone(), self.path.clone());
        let write = move || {
            let written = file.write_all_at(&first, 0).and_then(|()| file.sync_all()).and_then(|()| sync_folder(&path));
            written.map_err(|source| io_error("writing", &path, source))
        };
        blocking(&self.path, write).await?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for FileInPieces {
    fn drop(&mut self) {
        if !self.is_finished {
            // Half a file, which only takes room.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn list(root: &Path, folder: &Path, entries: &mut Vec<Entry>) -> Result<(), StoreError> {
    let found = match fs::read_dir(folder) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io_error("listing", folder, source)),
    };
    for entry in found {
        let entry = entry.map_err(|source| io_error("listing", folder, source))?;
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            list(root, &path, entries)?;
            continue;
        }
        let own = path.extension().is_some_and(|ending| ending == "lock" || ending == "new");
        if let (false, Ok(relative)) = (own, path.strip_prefix(root)) {
            let key = relative.to_string_lossy().into_owned();
            entries.push(Entry { key, bytes: metadata.len(), modified: metadata.modified().unwrap_or(std::time::UNIX_EPOCH) });
        }
    }
    Ok(())
}

fn folders(folder: &Path) -> Result<Vec<String>, StoreError> {
    let found = match fs::read_dir(folder) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(source) => return Err(io_error("listing", folder, source)),
    };
    let mut names = vec![];
    for entry in found {
        let entry = entry.map_err(|source| io_error("listing", folder, source))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[async_trait]
impl Store for LocalStore {
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        let path = self.path(key)?;
        let found = self.blocking(move || read_versioned(&path)).await?;
        Ok(found.map(|(version, bytes)| (bytes, Version(version.to_string()))))
    }

    async fn put_if(&self, key: &str, bytes: Bytes, expected: Expected) -> Result<Swap, StoreError> {
        let path = self.path(key)?;
        let reserve = self.reserve.clone().filter(|_| key == keys::LEASE);
        self.blocking(move || {
            let swapped = swap(&path, &bytes, &expected, reserve.as_deref());
            // Also after a failure: there may be room now.
            if let Some(reserve) = reserve {
                reserve.fill();
            }
            swapped
        })
        .await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key)?;
        self.blocking(move || create(&path, &bytes)).await
    }

    async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        self.blocking(move || fs::read(&path).map(Bytes::from).map_err(|source| unreadable(&path, source))).await
    }

    async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        self.blocking(move || read_range(&path, range).map(Bytes::from).map_err(|source| unreadable(&path, source))).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn NewFile>, StoreError> {
        let path = self.path(key)?;
        let begun = self.blocking(move || {
            let file = Arc::new(new_file(&path)?);
            Ok(FileInPieces { path, file, end: PIECE_BYTES as u64, is_finished: false })
        });
        Ok(Box::new(begun.await?))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>, _>>()?;
        self.blocking(move || {
            for path in paths {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("deleting", &path, error)),
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let folder = self.path(prefix.trim_end_matches('/'))?;
        let root = self.root.clone();
        self.blocking(move || {
            let mut entries = vec![];
            list(&root, &folder, &mut entries)?;
            entries.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(entries)
        })
        .await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let folder = self.path(prefix.trim_end_matches('/'))?;
        self.blocking(move || folders(&folder)).await
    }

    fn describe(&self) -> String {
        format!("file:{}", self.root.display())
    }

    /// Its locks hold on one machine, whoever else sees the folder.
    fn serves_one_machine(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_many_swaps_at_once_each_success_builds_on_the_one_before() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        store.put_if("a/counter", "0".into(), Expected::Absent).await.expect("creates");
        let adders = (0..8).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut added = 0;
                while added < 20 {
                    let (bytes, version) = store.get("a/counter").await.expect("reads").expect("exists");
                    let number: u32 = String::from_utf8_lossy(&bytes).parse().expect("number");
                    let next = Bytes::from((number + 1).to_string());
                    if let Swap::Stored(_) = store.put_if("a/counter", next, Expected::Version(version)).await.expect("swaps") {
                        added += 1;
                    }
                }
            })
        });
        for adder in adders.collect::<Vec<_>>() {
            adder.await.expect("adds");
        }
        assert_eq!(store.get("a/counter").await.expect("reads").expect("exists").0, "160");
    }

    #[tokio::test]
    async fn only_who_may_lead_holds_room_for_the_lease() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(LocalStore::open(folder.path()).await.expect("opens").reserve.is_none());
        let leader = LocalStore::open_to_lead(folder.path()).await.expect("opens");
        let swapped = leader.put_if(keys::LEASE, "1".into(), Expected::Absent).await.expect("swaps");
        assert!(leader.reserve.is_some() && matches!(swapped, Swap::Stored(_)));
    }

    #[tokio::test]
    async fn a_lock_that_nobody_gives_back_is_an_error_that_says_so_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        let Swap::Stored(version) = store.put_if("manifest", "1".into(), Expected::Absent).await.expect("swaps") else { panic!() };
        let stopped = File::open(folder.path().join("manifest.lock")).expect("lock");
        flock(&stopped, FlockOperation::LockExclusive).expect("locks");
        let error = store.put_if("manifest", "2".into(), Expected::Version(version.clone())).await.expect_err("locked");
        assert!(error.is_retryable() && error.to_string().contains("another process holds its lock"), "{error}");
        drop(stopped);
        let swapped = store.put_if("manifest", "2".into(), Expected::Version(version.clone())).await.expect("swaps");
        assert!(matches!(swapped, Swap::Stored(_)));
        assert_eq!(store.put_if("manifest", "3".into(), Expected::Version(version)).await.expect("answers"), Swap::Conflict);
        let names: Vec<_> = fs::read_dir(folder.path()).expect("folder").map(|entry| entry.expect("entry").file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{names:?}");
    }

    #[tokio::test]
    async fn files_are_written_once_and_listed_without_our_own_helpers() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        store.create("parts/1/a", "x".into()).await.expect("creates");
        assert!(matches!(store.create("parts/1/a", "y".into()).await, Err(StoreError::Exists { .. })));
        assert_eq!(store.read("parts/1/a").await.expect("reads"), "x");
        store.put_if("parts/object", "z".into(), Expected::Absent).await.expect("swaps");
        let keys: Vec<String> = store.list("parts/").await.expect("lists").into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["parts/1/a", "parts/object"]);
        assert_eq!(store.folders("parts/").await.expect("lists"), ["1"]);
        assert!(store.folders("nothing/").await.expect("lists").is_empty());
        store.delete(&["parts/1/a".into(), "parts/never".into()]).await.expect("deletes");
        assert!(matches!(store.read("parts/1/a").await, Err(StoreError::Missing { .. })));
    }

    #[tokio::test]
    async fn a_file_comes_in_pieces_of_which_the_first_is_the_last_or_is_none() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        let first = Bytes::from(vec![1; PIECE_BYTES]);
        let mut file = store.begin("parts/a").await.expect("begins");
        file.append(vec![2; PIECE_BYTES].into()).await.expect("appends");
        file.append("end".into()).await.expect("appends");
        assert!(matches!(store.begin("parts/a").await, Err(StoreError::Exists { .. })));
        file.finish(first.clone()).await.expect("finishes");
        assert!(matches!(store.begin("parts/a").await, Err(StoreError::Exists { .. })));
        assert!(store.read("parts/a").await.expect("reads") == [first, vec![2; PIECE_BYTES].into(), "end".into()].concat());

        let end = 2 * PIECE_BYTES as u64;
        assert_eq!(store.read_range("parts/a", end - 1..end + 2).await.expect("reads"), "\u{2}en");
        assert_eq!(store.read_range("parts/a", end + 1..end + 9).await.expect("reads"), "nd");
        assert_eq!(store.read_range("parts/a", end + 9..end + 10).await.expect("reads"), "");
        assert!(matches!(store.read_range("parts/b", 0..1).await, Err(StoreError::Missing { .. })));

        let mut given_up = store.begin("parts/b").await.expect("begins");
        given_up.append("x".into()).await.expect("appends");
        drop(given_up);
        let keys: Vec<String> = store.list("parts/").await.expect("lists").into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["parts/a"]);
    }

    #[tokio::test]
    async fn keys_do_not_leave_the_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        for key in ["../a", "/etc/passwd", "a//b", "a/./b", ""] {
            assert!(matches!(store.get(key).await, Err(StoreError::BadKey { .. })), "{key}");
        }
    }

    #[tokio::test]
    async fn an_object_cut_short_is_damaged_and_not_absent() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).await.expect("opens");
        store.put_if("lease", "abc".into(), Expected::Absent).await.expect("swaps");
        fs::write(folder.path().join("lease"), b"123").expect("cuts");
        assert!(matches!(store.get("lease").await, Err(StoreError::Corrupt { .. })));
        assert!(matches!(store.put_if("lease", "d".into(), Expected::Absent).await, Err(StoreError::Corrupt { .. })));
    }
}
