//! The durable store: objects replaced by compare-and-swap, and files written once. Durable means fsynced, file and folder.
//!
//! * [`store`]: the trait [`Store`];
//! * [`local`]: a folder on one host, shared by the processes on it, with room in `reserve` for the lease of who may lead;
//! * [`s3`]: a bucket on S3, or on what speaks its API, for clusters of several hosts;
//! * [`places`]: folders and buckets beside the store, where files for others are put;
//! * [`envelope`]: a header line with kind, version and checksum in front of JSON that people can read;
//! * [`manifest`], [`part`]: the two formats of the epoch protocol;
//! * [`archive`]: several objects in one file, to carry them to another store;
//! * [`keys`]: where everything lies;
//! * [`crash`]: moments at which tests kill the process.
//!
//! ```
//! use polybolos_persist::{Expected, LocalStore, Store, Swap};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), polybolos_persist::StoreError> {
//! # let folder = tempfile::tempdir().unwrap();
//! let store = LocalStore::open(folder.path()).await?;
//! let Swap::Stored(first) = store.put_if("greeting", "hello".into(), Expected::Absent).await? else { panic!() };
//! store.put_if("greeting", "good day".into(), Expected::Version(first.clone())).await?;
//! assert_eq!(store.put_if("greeting", "late".into(), Expected::Version(first)).await?, Swap::Conflict);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

pub mod archive;
pub mod crash;
pub mod envelope;
pub mod error;
pub mod keys;
pub mod local;
pub mod manifest;
pub mod part;
pub mod places;
mod reserve;
pub mod s3;
pub mod store;

use std::sync::LazyLock;

pub use error::StoreError;
pub use local::LocalStore;
pub use places::{Place, Places};
pub use s3::{S3Address, S3Settings, S3Store};
pub use store::{Entry, Expected, NewFile, PIECE_BYTES, Store, Swap, Version, trial};

/// This machine's id, by which a leader whose store serves one machine refuses executors of another, and a standby such a leader (EPOCHS rule
/// 19). The running kernel's comes first: containers on one machine have it in common, and copies of one machine do not. Where the system
/// tells none it is one of this process, as nobody else is known to be on the same machine.
pub fn machine_id() -> &'static str {
    static ID: LazyLock<String> = LazyLock::new(|| first_id(&["/proc/sys/kernel/random/boot_id", "/etc/machine-id"]));
    &ID
}

fn first_id(files: &[&str]) -> String {
    let read = |file: &&str| std::fs::read_to_string(file).ok().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty());
    files.iter().find_map(read).unwrap_or_else(|| format!("unknown-{}", uuid::Uuid::new_v4().simple()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_machines_whose_ids_are_unknown_are_not_the_same() {
        let folder = tempfile::tempdir().expect("folder");
        let file = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
        let (empty, told) = (file("empty"), file("told"));
        std::fs::write(&empty, "\n").expect("a file");
        std::fs::write(&told, "here\n").expect("a file");
        assert_eq!(first_id(&[&empty, &told]), "here");
        let unknown = || first_id(&[&empty, &file("missing")]);
        assert!(unknown().starts_with("unknown-"));
        assert_ne!(unknown(), unknown());
        assert_eq!(machine_id(), machine_id(), "one process is on one machine");
    }
}
