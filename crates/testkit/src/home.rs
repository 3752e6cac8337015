//! The folder in which a server keeps its data: a temporary one that goes away with the server, or one that the user names
//! and that is used again.
//!
//! Each folder holds a file that its owner keeps locked. The lock refuses a second server on the same data, and it tells
//! temporary folders that are in use from those whose owner was killed before it could tidy up: those are removed by the next start.
use crate::error::{Error, Result, at};
use crate::ports::{free_ports, is_free};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

const TEMPORARY_PREFIX: &str = "polybolos-local-";
const LOCK_FILE: &str = "lock";
/// What a lock file is called until it is locked, so that nobody takes a folder in the making for an abandoned one.
const UNLOCKED_FILE: &str = "lock.new";
const PORTS_FILE: &str = "ports";

/// A locked data folder.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    temporary: bool,
    _lock: File,
}

impl Home {
    /// The folder `parent/server`, made when missing; or a new temporary folder.
    pub(crate) fn open(parent: Option<&Path>, server: &str) -> Result<Self> {
        match parent {
            Some(parent) => Self::kept(&parent.join(server)),
            None => Self::temporary(server),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// One port per name: the `wanted` one, else the one that this folder was served on last time, else a free one. They
    /// are remembered in the folder, so that addresses stay what they were.
    pub(crate) fn ports(&self, server: &'static str, wanted: &[(&str, Option<u16>)], remedy: &'static str) -> Result<Vec<u16>> {
        let file = self.path.join(PORTS_FILE);
        let last = fs::read_to_string(&file).unwrap_or_default();
        let mut ports = Vec::with_capacity(wanted.len());
        for &(name, wanted) in wanted {
            let port = match (wanted, last_port(&last, name)) {
                (Some(port), _) if is_free(port) => port,
                (Some(port), _) => return Err(Error::PortTaken { port, server, remedy }),
                (None, Some(port)) if is_free(port) => port,
                (None, _) => free_ports(1)?[0],
            };
            ports.push(port);
        }
        let lines: String = wanted.iter().zip(&ports).map(|((name, _), port)| format!("{name}={port}\n")).collect();
        fs::write(&file, lines).map_err(at("write", &file))?;
        Ok(ports)
    }

    fn kept(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(at("create", path))?;
        // Servers run with another working folder in mind; a relative path would not mean the same to them.
        let path = fs::canonicalize(path).map_err(at("find", path))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = open(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, temporary: false, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::HomeInUse { path }),
            Err(TryLockError::Error(source)) => Err(at("lock", &lock_path)(source)),
        }
    }

    fn temporary(server: &str) -> Result<Self> {
        let parent = std::env::temp_dir();
        remove_abandoned(&parent);
        let folder = tempfile::Builder::new().prefix(&format!("{TEMPORARY_PREFIX}{server}-")).tempdir_in(&parent);
        let path = folder.map_err(at("create a folder in", &parent))?.keep();
        let (unlocked, locked) = (path.join(UNLOCKED_FILE), path.join(LOCK_FILE));
        let lock = open(&unlocked)?;
        lock.lock().map_err(at("lock", &unlocked))?;
        fs::rename(&unlocked, &locked).map_err(at("rename", &unlocked))?;
        Ok(Self { path, temporary: true, _lock: lock })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.temporary {
            remove(&self.path);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::options().create(true).append(true).open(path).map_err(at("open", path))
}

fn last_port(ports: &str, name: &str) -> Option<u16> {
    ports.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name)?.1.parse().ok()
}

/// Removes the temporary folders of launchers that were killed.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        let Ok(lock) = File::options().append(true).open(entry.path().join(LOCK_FILE)) else {
            continue;
        };
        if ours && lock.try_lock().is_ok() {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        // The next start tries again.
        tracing::debug!(path = %path.display(), %error, "temporary folder not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_serves_one_launcher_at_a_time_and_remembers_its_ports() {
        let parent = tempfile::tempdir().unwrap();
        let home = Home::open(Some(parent.path()), "kafka").unwrap();
        let refused = Home::open(Some(parent.path()), "kafka").unwrap_err();
        assert!(matches!(refused, Error::HomeInUse { .. }), "{refused}");
        let first = home.ports("kafka", &[("client", None), ("controller", None)], "--kafka-port").unwrap();
        drop(home);

        let home = Home::open(Some(parent.path()), "kafka").unwrap();
        let again = home.ports("kafka", &[("client", None), ("controller", None)], "--kafka-port").unwrap();
        assert_eq!(first, again);

        let _busy = std::net::TcpListener::bind(("127.0.0.1", first[0])).unwrap();
        let moved = home.ports("kafka", &[("client", None), ("controller", None)], "--kafka-port").unwrap();
        assert_ne!(first[0], moved[0]);
        let taken = home.ports("kafka", &[("client", Some(first[0]))], "--kafka-port").unwrap_err();
        assert!(taken.to_string().contains("--kafka-port"), "{taken}");
    }

    #[test]
    fn abandoned_folders_are_removed_and_living_ones_are_not() {
        let home = Home::open(None, "test").unwrap();
        let abandoned = home.path().with_file_name(format!("{TEMPORARY_PREFIX}test-abandoned-{}", std::process::id()));
        fs::create_dir(&abandoned).unwrap();
        fs::write(abandoned.join(LOCK_FILE), "").unwrap();
        let other = Home::open(None, "test").unwrap();
        assert!(!abandoned.exists());
        assert!(home.path().exists());
        let path = other.path().to_owned();
        drop(other);
        assert!(!path.exists());
    }
}
