//! What can be wrong with a case before anything runs. Always the person's who wrote it.
use polybolos_sql::error::SqlError;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum GoldenError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: String, source: std::io::Error },
    #[error("{place}: {message}")]
    Invalid { place: String, message: String },
    #[error(transparent)]
    Sql(#[from] SqlError),
}

impl GoldenError {
    pub(crate) fn invalid(place: impl ToString, message: impl Into<String>) -> Self {
        Self::Invalid { place: place.to_string(), message: message.into() }
    }
}
