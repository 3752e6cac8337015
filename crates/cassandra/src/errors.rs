//! What the driver says, in our words: is it away, or is the answer no.
use std::error::Error;

use polybolos_tables::TableError;
use scylla::errors::{DbError, ExecutionError, PagerExecutionError, RequestAttemptError};

pub(crate) const STORE: &str = "Cassandra";

pub(crate) fn unavailable(message: impl Into<String>, source: impl Error + Send + Sync + 'static) -> TableError {
    TableError::Unavailable { store: STORE.into(), message: message.into(), source: Some(Box::new(source)) }
}

/// Whether the server understood the request and refuses it for what it says. Everything else may pass.
fn is_refusal(error: &DbError) -> bool {
    matches!(
        error,
        DbError::SyntaxError
            | DbError::Invalid
            | DbError::AlreadyExists { .. }
            | DbError::FunctionFailure { .. }
            | DbError::Unauthorized
            | DbError::ConfigError
            | DbError::ProtocolError
    )
}

/// What the driver tells at the end of its own words.
fn innermost(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

pub(crate) fn of_execution(doing: &str, error: ExecutionError) -> TableError {
    let refusal = match &error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(db, message)) if is_refusal(db) => Some(message.clone()),
        ExecutionError::LastAttemptError(RequestAttemptError::SerializationError(error)) => Some(error.to_string()),
        ExecutionError::LastAttemptError(RequestAttemptError::CqlRequestSerialization(error)) => Some(innermost(error)),
        ExecutionError::BadQuery(error) => Some(error.to_string()),
        _ => None,
    };
    match refusal {
        Some(message) => TableError::Rejected { message: format!("{doing}: {message}"), source: Some(Box::new(error)) },
        None => unavailable(format!("{doing}: {error}"), error),
    }
}

pub(crate) fn of_paging(doing: &str, error: PagerExecutionError) -> TableError {
    unavailable(format!("{doing}: {error}"), error)
}
