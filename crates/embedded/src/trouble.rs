//! What is wrong with the disk below the store (fjall), in words for people: its own name its types.
use std::{error::Error, io};

/// After a failed write the store takes nothing more, whatever room there is since.
pub(crate) const POISONED: &str = "an earlier write failed, so nothing more is written; free some space if the disk is full (the log says more), then start again";

/// What to do about an error of the disk, to follow its text.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => "; free some space, then start again",
        ReadOnlyFilesystem => "; make its file system writable, then start again",
        PermissionDenied => "; give this user the right to write there, then start again",
        _ => "",
    }
}

pub(crate) fn told(error: &fjall::Error) -> String {
    if matches!(error, fjall::Error::Poisoned) {
        return POISONED.to_owned();
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(io) = found.downcast_ref::<io::Error>() {
            return format!("{io}{}", remedy(io));
        }
        cause = found.source();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_what_to_do_and_without_names_of_types() {
        let full = || io::Error::from_raw_os_error(28);
        for error in [fjall::Error::Io(full()), fjall::Error::Storage(full().into())] {
            assert_eq!(told(&error), "No space left on device (os error 28); free some space, then start again");
        }
        let read_only = fjall::Error::Io(io::Error::from_raw_os_error(30));
        assert_eq!(told(&read_only), "Read-only file system (os error 30); make its file system writable, then start again");
        assert_eq!(told(&fjall::Error::Poisoned), POISONED);
    }
}
