//! The folder below which `polybolos up` keeps everything: it takes writes, and one platform has it at a time.
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::time::Instant;

/// A process that was killed holds its lock until the system has taken it down: a write that it had under way is waited for.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Between two tries.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// To begin anew takes half of it. With less, stores would fail one after the other.
const ROOM_BYTES: usize = 1 << 20;

/// Makes the folder where it is missing.
pub fn make(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).map_err(|error| unusable(folder, error))
}

/// Whether it has some room. Whoever has its lock finds out before anything begins.
pub fn check_room(folder: &Path) -> anyhow::Result<()> {
    // Without a name: nothing of it stays, however this ends. Some file systems look for room only when they sync.
    let tried =
        tempfile::tempfile_in(folder).and_then(|mut file| file.write_all(&vec![1_u8; ROOM_BYTES]).and_then(|()| file.sync_data()));
    tried.map_err(|error| unusable(folder, error))
}

fn unusable(folder: &Path, error: io::Error) -> anyhow::Error {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let remedy = match error.kind() {
        StorageFull | QuotaExceeded => "free some space there, or ",
        ReadOnlyFilesystem => "make its file system writable, or ",
        PermissionDenied => "give this user the right to write there, or ",
        _ => "",
    };
    let told = format!("the data folder {} cannot be written: {error}; {remedy}choose another with --data-dir", folder.display());
    anyhow::Error::new(error).context(told)
}

/// Locks the folder for as long as the answered file is open, and waits so long for another to let it go.
pub async fn lock(folder: &Path, patience: Duration) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| unusable(folder, error))?;
    let until = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => tokio::time::sleep(ASK_EVERY).await,
            Err(TryLockError::WouldBlock) => bail!(
                "the data folder {} is in use by another polybolos; stop that one, or choose another with --data-dir",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_folder_of_one_that_is_about_to_be_gone_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let former = lock(folder.path(), Duration::ZERO).await.expect("nobody has it");
        // Asked first while the former one has it.
        let (locked, ()) = tokio::join!(lock(folder.path(), PATIENCE), async { drop(former) });
        locked.expect("the former one let it go");
    }

    #[test]
    fn a_folder_that_takes_no_writes_is_told_with_what_to_do() {
        let told = |code| format!("{:#}", unusable(Path::new("here"), io::Error::from_raw_os_error(code)));
        let full =
            "the data folder here cannot be written: No space left on device (os error 28); free some space there, or choose";
        assert!(told(28).starts_with(full), "{}", told(28));
        assert!(told(30).contains("; make its file system writable, or choose another with --data-dir"), "{}", told(30));
        assert!(told(13).contains("; give this user the right to write there, or choose"), "{}", told(13));
        assert!(told(20).contains("(os error 20); choose another with --data-dir"), "{}", told(20));
    }

    #[test]
    fn a_folder_is_made_and_what_tries_its_room_leaves_nothing_in_it() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("a/b");
        make(&folder).and_then(|()| check_room(&folder)).expect("there is room");
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0);
        fs::write(parent.path().join("file"), "").expect("written");
        let refused = make(&parent.path().join("file/data")).expect_err("a file is no folder").to_string();
        assert!(refused.ends_with("; choose another with --data-dir"), "{refused}");
    }

    #[tokio::test]
    async fn the_folder_of_one_that_runs_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let _other = lock(folder.path(), Duration::ZERO).await.expect("nobody has it");
        let refused = lock(folder.path(), ASK_EVERY).await.expect_err("another has it").to_string();
        let named = folder.path().display();
        assert_eq!(
            refused,
            format!("the data folder {named} is in use by another polybolos; stop that one, or choose another with --data-dir")
        );
    }
}
