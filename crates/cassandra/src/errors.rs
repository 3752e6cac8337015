//! What the driver says, in our words: is it away, or is the answer no; and is a no about a row or about its table.
use std::error::Error;

use polybolos_tables::TableError;
use scylla::errors::{
    DbError, ExecutionError, NextPageError, NextRowError, PagerExecutionError, PrepareError, RequestAttemptError, RequestError,
};

pub(crate) const STORE: &str = "Cassandra";

pub(crate) fn unavailable(message: impl Into<String>, source: impl Error + Send + Sync + 'static) -> TableError {
    TableError::Unavailable { store: STORE.into(), message: message.into(), source: Some(Box::new(source)) }
}

/// What a no is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Values that cannot be sent as what their columns are: nothing but the row is at fault.
    Values,
    /// What was sent: the row, or what has become of its table. The server's words do not always tell.
    Request,
    /// The table, its keyspace, or our rights to it: every row is refused alike.
    Table,
}

/// An answer that is no.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub about: About,
    pub message: String,
}

/// Words of the server's that are about a table, whatever is written to it.
const ABOUT_TABLES: [&str; 9] = [
    "undefined column",
    "unknown identifier",
    "unprepared",
    "cannot assign value",
    "cannot cast value",
    "partition key parts are missing",
    "clustering keys are missing",
    "primary key columns found in where clause",
    "cannot directly modify",
];

/// A guardrail of the operator's that any row meets, whatever its values: a consistency level, say.
fn is_about_all_rows(lower: &str) -> bool {
    let name = lower.split_once("guardrail ").and_then(|(_, rest)| rest.split_whitespace().next());
    name.is_some_and(|name| !["size", "items", "page", "in_select"].iter().any(|value| name.contains(value)))
}

/// Passes by itself: a full disk, a cache of rights that cannot be read while nodes are away.
fn may_pass(message: &str) -> bool {
    let lower = message.to_lowercase();
    lower.contains("disk usage exceeds") || lower.contains("unable to perform")
}

/// What a node says, too, that has yet to hear of a table or a column.
pub(crate) fn may_be_behind(message: &str) -> bool {
    is_about_no_table(message) || message.to_lowercase().contains("undefined column")
}

fn is_about_a_table(message: &str) -> bool {
    let lower = message.to_lowercase();
    is_about_all_rows(&lower) || is_about_no_table(message) || ABOUT_TABLES.iter().any(|words| lower.contains(words))
}

/// Whether an answer says that there is no such table or keyspace.
pub(crate) fn is_about_no_table(message: &str) -> bool {
    let message = message.to_lowercase();
    let is_missing = message.contains("does not exist") || message.contains("doesn't exist");
    message.contains("unconfigured ") || (is_missing && (message.contains("table ") || message.contains("keyspace ")))
}

/// Whether the server understood the request and refuses it for what it says, and what it is about. Everything else may pass.
fn about(error: &DbError, message: &str) -> Option<About> {
    Some(match error {
        _ if may_pass(message) => return None,
        DbError::Unauthorized | DbError::ConfigError | DbError::SyntaxError | DbError::AlreadyExists { .. } => About::Table,
        DbError::Invalid if is_about_a_table(message) => About::Table,
        DbError::Invalid | DbError::FunctionFailure { .. } | DbError::ProtocolError => About::Request,
        _ => return None,
    })
}

/// What the driver tells at the end of its own words.
fn innermost(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

fn of_attempt(error: &RequestAttemptError) -> Option<Refusal> {
    let (about, message) = match error {
        RequestAttemptError::DbError(DbError::Unauthorized, message) if !may_pass(message) => {
            (About::Table, format!("{message}; GRANT it, or set cassandra.username to a user that has it"))
        }
        RequestAttemptError::DbError(error, message) => (about(error, message)?, message.clone()),
        RequestAttemptError::SerializationError(error) => (About::Values, error.to_string()),
        RequestAttemptError::CqlRequestSerialization(error) => (About::Values, innermost(error)),
        _ => return None,
    };
    Some(Refusal { about, message })
}

/// The no in an error, if it is one.
pub(crate) fn refusal(error: &ExecutionError) -> Option<Refusal> {
    match error {
        ExecutionError::LastAttemptError(error) => of_attempt(error),
        ExecutionError::PrepareError(error) => of_prepare(error),
        ExecutionError::BadQuery(error) => Some(Refusal { about: About::Values, message: error.to_string() }),
        _ => None,
    }
}

/// Whether the server had forgotten a statement, and prepared it again as another one.
pub(crate) fn is_of_another_statement(error: &ExecutionError) -> bool {
    use RequestAttemptError::{RepreparedIdChanged, RepreparedIdMissingInBatch};
    matches!(error, ExecutionError::LastAttemptError(RepreparedIdChanged { .. } | RepreparedIdMissingInBatch))
}

fn of_prepare(error: &PrepareError) -> Option<Refusal> {
    match error {
        PrepareError::AllAttemptsFailed { first_attempt } => of_attempt(first_attempt),
        _ => None,
    }
}

fn told(doing: &str, refusal: Option<Refusal>, error: impl Error + Send + Sync + 'static) -> TableError {
    match refusal {
        Some(Refusal { message, .. }) => {
            TableError::Rejected { message: format!("{doing}: {message}"), source: Some(Box::new(error)) }
        }
        None => unavailable(format!("{doing}: {error}"), error),
    }
}

pub(crate) fn of_execution(doing: &str, error: ExecutionError) -> TableError {
    told(doing, refusal(&error), error)
}

/// A statement without values: a no to it is about its table.
pub(crate) fn of_preparing(doing: &str, error: PrepareError) -> TableError {
    told(doing, of_prepare(&error), error)
}

pub(crate) fn of_paging(doing: &str, error: PagerExecutionError) -> TableError {
    let refusal = match &error {
        PagerExecutionError::PrepareError(error) => of_prepare(error),
        PagerExecutionError::SerializationError(error) => Some(Refusal { about: About::Values, message: error.to_string() }),
        PagerExecutionError::NextPageError(error) => of_page(error),
        _ => None,
    };
    told(doing, refusal, error)
}

/// Whether the server knows a kept statement by another name now.
pub(crate) fn is_renamed(error: &PagerExecutionError) -> bool {
    matches!(
        error,
        PagerExecutionError::NextPageError(NextPageError::RequestFailure(RequestError::LastAttemptError(
            RequestAttemptError::RepreparedIdChanged { .. }
        )))
    )
}

/// A row, or the page that it should have been in.
pub(crate) fn of_row(doing: &str, error: NextRowError) -> TableError {
    let refusal = match &error {
        NextRowError::NextPageError(error) => of_page(error),
        NextRowError::RowDeserializationError(error) => Some(Refusal { about: About::Values, message: error.to_string() }),
        _ => None,
    };
    told(doing, refusal, error)
}

fn of_page(error: &NextPageError) -> Option<Refusal> {
    match error {
        NextPageError::RequestFailure(RequestError::LastAttemptError(error)) => of_attempt(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(error: DbError, message: &str) -> ExecutionError {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, message.into()))
    }

    #[test]
    fn a_no_is_about_the_table_where_every_row_would_get_it() {
        let about = |error, message: &str| refusal(&answer(error, message)).map(|refusal| refusal.about);
        for message in [
            "table al_remade does not exist",
            "Keyspace 'lk' does not exist",
            "keyspace lk does not exist",
            "unconfigured table t",
            "Undefined column name v in table lk.t",
            "Unknown identifier v",
            "Cannot assign value (int)? to v of type text",
            "Some partition key parts are missing: a",
            "Guardrail write_consistency_levels violated: Provided values [ONE] are not allowed for write consistency levels",
        ] {
            assert_eq!(about(DbError::Invalid, message), Some(About::Table), "{message}");
        }
        for message in [
            "Key may not be empty",
            "Key length of 70000 is longer than maximum of 65535",
            "Invalid null value in condition for column id",
            "Expected 4 or 0 byte int (8)",
            "Batch too large",
            "Guardrail column_value_size violated: Value of column 'v' has size 2MiB, this exceeds the failure threshold of 1MiB",
        ] {
            assert_eq!(about(DbError::Invalid, message), Some(About::Request), "{message}");
        }
        let forbidden = "User bob has no MODIFY permission on <table lk.t> or any of its parents";
        assert_eq!(about(DbError::Unauthorized, forbidden), Some(About::Table));
        assert_eq!(about(DbError::ConfigError, "no such strategy"), Some(About::Table));
        assert_eq!(
            about(DbError::Unauthorized, "Unable to perform authorization of permissions: Cannot achieve consistency level"),
            None
        );
        let full = "Guardrail replica_disk_usage violated: Write request failed because disk usage exceeds failure threshold";
        assert_eq!(about(DbError::Invalid, full), None);
        assert_eq!(about(DbError::Overloaded, "table t does not exist"), None);
    }

    #[test]
    fn what_may_pass_is_away_and_a_no_says_what_to_do() {
        assert!(of_execution("writing to lk.t", answer(DbError::Overloaded, "busy")).is_retryable());
        let told =
            of_execution("writing to lk.t", answer(DbError::Unauthorized, "User bob has no MODIFY permission on <table lk.t>"));
        assert!(!told.is_retryable());
        assert!(told.to_string().starts_with("writing to lk.t: User bob has no MODIFY permission"), "{told}");
        assert!(told.to_string().contains("GRANT it"), "{told}");
        let gone = PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(DbError::Invalid, "table t does not exist".into()),
        };
        assert!(!of_preparing("reading lk.t", gone).is_retryable());
        let page = |error, message: &str| {
            let attempt = RequestError::LastAttemptError(RequestAttemptError::DbError(error, message.into()));
            NextRowError::NextPageError(NextPageError::RequestFailure(attempt))
        };
        assert!(!of_row("reading lk.t", page(DbError::Invalid, "Undefined column name v in table lk.t")).is_retryable());
        assert!(of_row("reading lk.t", page(DbError::IsBootstrapping, "soon")).is_retryable());
    }
}
