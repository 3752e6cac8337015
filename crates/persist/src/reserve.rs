//! Room for the lease on a full disk: a leader that cannot write that it is alive is deposed, and with it goes whoever could tell why. The
//! room is held by files that have blocks and no name, so that a process that is killed leaves none of them.
use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags};

/// More than a lease takes, and one block of most file systems.
const BYTES: u64 = 4096;

/// One goes with each renewal, and a file system may give back what the lease before took only some seconds later.
const FILES: usize = 16;

#[derive(Debug)]
pub(crate) struct Reserve {
    folder: PathBuf,
    files: Mutex<Vec<File>>,
}

impl Reserve {
    pub fn new(folder: &Path) -> Self {
        let reserve = Self { folder: folder.to_owned(), files: Mutex::default() };
        reserve.fill();
        reserve
    }

    /// As far as there is room, and the file system knows such files.
    pub fn fill(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        while files.len() < FILES {
            match unnamed(&self.folder) {
                Ok(file) => files.push(file),
                Err(error) => {
                    tracing::debug!(%error, "no more room can be reserved for the lease");
                    return;
                }
            }
        }
    }

    /// A new synced file in the folder, which takes no room that was not reserved.
    pub fn write_synced(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let file = self.files.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut file = file.ok_or(io::ErrorKind::StorageFull)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()?;
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
        Ok(())
    }
}

fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(CWD, folder, flags, Mode::from_raw_mode(0o666))?);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, BYTES)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_becomes_a_file_and_is_gone_until_there_is_more() {
        let folder = tempfile::tempdir().expect("folder");
        let reserve = Reserve::new(folder.path());
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0, "it has no name");
        let written = |number: usize| reserve.write_synced(&folder.path().join(number.to_string()), &[b"ab", b"c"]);
        for number in 0..FILES {
            written(number).expect("there is room");
            assert_eq!(std::fs::read(folder.path().join(number.to_string())).expect("reads"), b"abc");
        }
        assert_eq!(written(FILES).expect_err("all is taken").kind(), io::ErrorKind::StorageFull);
        reserve.fill();
        written(FILES).expect("there is room again");
    }
}
