//! The folder below which `polybolos up` keeps everything: one platform has it at a time.
use std::{
    fs::{File, TryLockError},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::time::Instant;

/// A process that was killed holds its lock until the system has taken it down: a write that it had under way is waited for.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Between two tries.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Locks the folder for as long as the answered file is open, and waits so long for another to let it go.
pub async fn lock(folder: &Path, patience: Duration) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
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
