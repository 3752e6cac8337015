//! One view as the catalog keeps it: its text, and what it stands on.
use serde::{Deserialize, Serialize};

use crate::{
    error::SqlError,
    limits::Limits,
    names::RelationName,
    parser::parse_one,
    statement::{CreateView, StatementKind},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewDefinition {
    pub name: RelationName,
    /// The statement as written.
    pub sql: String,
    /// The tables and views that its query names, sorted.
    pub sources: Vec<RelationName>,
}

impl ViewDefinition {
    /// Reads the stored text again.
    ///
    /// # Errors
    /// Only when this version no longer reads what an earlier one took.
    pub fn statement(&self, limits: Limits) -> Result<CreateView, SqlError> {
        match parse_one(&self.sql, limits)?.kind {
            StatementKind::CreateView(create) => Ok(create),
            other => Err(SqlError::invalid(format!(
                "view {} is stored as {} instead of CREATE VIEW; drop it and create it again",
                self.name,
                other.tag()
            ))),
        }
    }
}
