//! What can go wrong with the store.
use std::io;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("{action} {object} failed: {source}{}", hint(source))]
    Io { action: &'static str, object: String, source: io::Error },
    #[error("{object} exists already; files of the store are written once")]
    Exists { object: String },
    #[error("{object} does not exist")]
    Missing { object: String },
    #[error("{object} is damaged: {message}; restore it from a copy, it will not be guessed at")]
    Corrupt { object: String, message: String },
    #[error("{key:?} is not a key: parts are separated by '/', without '.', '..' or an empty part")]
    BadKey { key: String },
    #[error("{url:?} cannot be used: {message}")]
    BadAddress { url: String, message: String },
    #[error("{store} cannot be used: {message}")]
    Unsound { store: String, message: String },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        _ if is_full(source) => "; free some space, work goes on by itself",
        io::ErrorKind::PermissionDenied => "; give this user the right to write there",
        _ => "",
    }
}

pub(crate) fn is_full(source: &io::Error) -> bool {
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl StoreError {
    /// Whether the same request may succeed later without anybody repairing data.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    /// Whether there is no room on the store's disk.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }

    /// Whether the store cannot be reached just now, so that waiting may help; a wrong password or bucket is not that.
    pub fn is_away(&self) -> bool {
        use io::ErrorKind::{InvalidInput, NotFound, PermissionDenied};
        matches!(self, Self::Io { source, .. } if !matches!(source.kind(), InvalidInput | NotFound | PermissionDenied))
    }
}
