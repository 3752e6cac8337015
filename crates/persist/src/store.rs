//! The trait that a durable store implements, and the trial that an unsound one fails.
use std::{fmt::Debug, ops::Range, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::StoreError;

/// An object's version; opaque, and never the same for two different writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// What a swap replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Absent,
    Version(Version),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    Stored(Version),
    /// The object is not what was expected; nothing has changed.
    Conflict,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub bytes: u64,
    pub modified: SystemTime,
}

/// What is read and written of a large file at once. S3 takes parts from 5 MiB on, 10 000 of a file.
pub const PIECE_BYTES: usize = 8 << 20;

/// A new file that comes in pieces. Dropped before it is finished, it is none.
#[async_trait]
pub trait NewFile: Debug + Send {
    /// The piece after those before, which begin behind the first one: of [`PIECE_BYTES`], but for the last.
    async fn append(&mut self, piece: Bytes) -> Result<(), StoreError>;

    /// Puts the first piece, of [`PIECE_BYTES`], in front of the others, of which it may tell. The file is durable then; one that
    /// exists is an error, here if not in [`Store::begin`].
    async fn finish(self: Box<Self>, first: Bytes) -> Result<(), StoreError>;
}

/// Everything is durable when the call returns.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// An object and its version.
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StoreError>;

    /// Replaces an object if it is what is expected: the only commit there is. An error means that nothing is known.
    async fn put_if(&self, key: &str, bytes: Bytes, expected: Expected) -> Result<Swap, StoreError>;

    /// Writes a new file; one that exists is an error, whatever it holds.
    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError>;

    /// A file written by [`Store::create`].
    async fn read(&self, key: &str) -> Result<Bytes, StoreError>;

    /// As many of these bytes of such a file as it has.
    async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Begins a new file of several pieces.
    async fn begin(&self, key: &str) -> Result<Box<dyn NewFile>, StoreError>;

    /// Missing files are fine.
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError>;

    /// Everything below a prefix that ends with `/`.
    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError>;

    /// Names of the folders right below a prefix that ends with `/`, whatever is in them.
    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Kind and place, for messages.
    fn describe(&self) -> String;

    /// Whether only processes of one machine may share it (EPOCHS rule 19).
    fn serves_one_machine(&self) -> bool;
}

/// Parts separated by '/', none of which leads elsewhere.
pub(crate) fn is_sound(key: &str) -> bool {
    key.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']))
}

/// So many writers at once take part in the trial.
const RIVALS: usize = 8;

/// Refuses a store that lets a stale swap succeed (EPOCHS rule 2): two leaders would both go on.
pub async fn trial(store: &dyn Store) -> Result<(), StoreError> {
    let key = format!("trials/{}", uuid::Uuid::new_v4().simple());
    let unsound = |message: &str| StoreError::Unsound { store: store.describe(), message: message.to_owned() };
    let Swap::Stored(first) = store.put_if(&key, "1".into(), Expected::Absent).await? else {
        return Err(unsound("a new object is said to exist"));
    };
    if store.put_if(&key, "x".into(), Expected::Absent).await? != Swap::Conflict {
        return Err(unsound("it creates an object that exists"));
    }
    let Swap::Stored(second) = store.put_if(&key, "2".into(), Expected::Version(first.clone())).await? else {
        return Err(unsound("it refuses a swap of the version it just gave"));
    };
    if store.put_if(&key, "3".into(), Expected::Version(first)).await? != Swap::Conflict {
        return Err(unsound("it lets a stale swap succeed, so two leaders could both go on"));
    }
    let rivals = (0..RIVALS).map(|_| store.put_if(&key, "4".into(), Expected::Version(second.clone())));
    let swaps = futures::future::try_join_all(rivals).await?;
    if swaps.iter().filter(|swap| **swap != Swap::Conflict).count() != 1 {
        return Err(unsound("of several swaps at once not exactly one succeeds"));
    }
    let found = store.get(&key).await?;
    store.delete(std::slice::from_ref(&key)).await?;
    match found {
        Some((bytes, _)) if bytes == "4" => Ok(()),
        _ => Err(unsound("it does not give back what was written")),
    }
}
