//! Errors of table stores, with whose fault they are and whether trying again can help.
use thiserror::Error;

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The statement or the data: somebody must write something else.
    User,
    /// A server, the network, a disk: it may pass.
    Environment,
    /// Us.
    Bug,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Error)]
pub enum TableError {
    #[error(
        "table {table} does not exist; create it in its keyspace, or declare it by CREATE TABLE … WITH (…, 'table.create' = 'true')"
    )]
    NoSuchTable { table: String },
    /// All mismatches between a declaration and the stored table, at once.
    #[error("table {table} does not fit its declaration: {}", mismatches.join("; "))]
    Mismatch { table: String, mismatches: Vec<String> },
    #[error("{message}")]
    Unsupported { message: String },
    /// The store is away, overloaded or timed out: the same request may succeed later.
    #[error("{store} is not answering: {message}")]
    Unavailable {
        store: String,
        message: String,
        #[source]
        source: Option<Source>,
    },
    /// The store answered, and the answer is no. `message` names table, reason and remedy.
    #[error("{message}")]
    Rejected {
        message: String,
        #[source]
        source: Option<Source>,
    },
    /// The publisher's grant ran out: somebody else may lead now. Nothing further was written.
    #[error("the publisher's grant ran out; nothing further was written")]
    GrantExpired,
    #[error("stored data of {object} is damaged: {message}; restore it from a copy")]
    Corrupt { object: String, message: String },
    #[error("internal error: {0}")]
    Bug(String),
}

impl TableError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub fn blame(&self) -> Blame {
        match self {
            Self::NoSuchTable { .. } | Self::Mismatch { .. } | Self::Unsupported { .. } | Self::Rejected { .. } => Blame::User,
            Self::Unavailable { .. } | Self::GrantExpired | Self::Corrupt { .. } => Blame::Environment,
            Self::Bug(_) => Blame::Bug,
        }
    }
}
