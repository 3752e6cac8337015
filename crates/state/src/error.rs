//! What can go wrong with a state's files.
use thiserror::Error;

#[derive(Debug, Error)]
pub enum StateError {
    /// Not what this version writes: damaged beyond what the checksum covers, or of another version.
    #[error("a state run cannot be used: {0}; restore it from a copy, or restart the job from its topics")]
    Unusable(String),
    #[error("state that has no room in memory cannot be kept on this executor's disk: {0}; check the disk of executor.work_dir")]
    Spill(String),
    /// `place`: a folder of an executor.
    #[error(
        "the disk of {place} is full, where state goes that has no room in memory (executor.work_dir); free some space, the job goes on by itself"
    )]
    Full { place: String },
    #[error("a state run cannot be made: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}
