//! What can go wrong with a state's files.
use thiserror::Error;

#[derive(Debug, Error)]
pub enum StateError {
    /// Not what this version writes: damaged beyond what the checksum covers, or of another version.
    #[error("a state run cannot be used: {0}; restore it from a copy, or restart the job from its topics")]
    Unusable(String),
    #[error("a state run cannot be made: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}
