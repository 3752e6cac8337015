//! One job as the catalog keeps it. Its plan is made again from its text, so that nothing planned has to survive an upgrade.
use serde::{Deserialize, Deserializer, Serialize};

use super::Catalog;
use crate::{
    error::SqlError,
    limits::Limits,
    names::RelationName,
    options::job::JobOptions,
    parser::parse_one,
    statement::{CreateJob, StatementKind},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDefinition {
    pub name: String,
    /// The statement as written. May hold secrets: show it through [`crate::redact::sql`].
    pub sql: String,
    pub options: JobOptions,
    /// The tables it fills, one per INSERT. What is recorded of a table is known by its place here, so an upgrade leaves their order, also when it writes the
    /// INSERTs in another. Earlier versions stored one, as `target`.
    #[serde(alias = "target", deserialize_with = "one_or_many")]
    pub targets: Vec<RelationName>,
    /// The tables it reads, through views too, sorted.
    pub sources: Vec<RelationName>,
    /// The views it reads, sorted.
    #[serde(default)]
    pub views: Vec<RelationName>,
    /// This life of the job: everything stored is keyed by it, and a job created again has another.
    pub incarnation: String,
    /// Microseconds since 1970.
    pub created_at_us: i64,
    /// Whether this life of the job began with another definition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_upgraded: bool,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RelationName>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Many(Vec<RelationName>),
        One(RelationName),
    }
    Ok(match Stored::deserialize(deserializer)? {
        Stored::Many(names) => names,
        Stored::One(name) => vec![name],
    })
}

impl JobDefinition {
    /// Whether it reads or fills a table, or reads a view.
    pub fn uses(&self, table: &RelationName) -> bool {
        self.targets.contains(table) || self.sources.contains(table) || self.views.contains(table)
    }

    /// Whether it fills `table`.
    pub fn fills(&self, table: &RelationName) -> bool {
        self.targets.contains(table)
    }

    /// The stored text, with its INSERTs in the order of the tables that they fill, which an upgrade leaves when it writes them in another.
    ///
    /// # Errors
    /// As [`Self::statement`].
    pub fn statement_in_order(&self, catalog: &Catalog, limits: Limits) -> Result<CreateJob, SqlError> {
        let mut create = self.statement(limits)?;
        create.inserts.sort_by_cached_key(|insert| {
            let table = catalog.find_table(&insert.target)?;
            self.targets.iter().position(|target| *target == table.name)
        });
        Ok(create)
    }

    /// Reads the stored text again. A bare INSERT that became a job reads as `CREATE JOB`.
    ///
    /// # Errors
    /// Only when this version no longer reads what an earlier one took.
    pub fn statement(&self, limits: Limits) -> Result<CreateJob, SqlError> {
        match parse_one(&self.sql, limits)?.kind {
            StatementKind::CreateJob(create) => Ok(create),
            StatementKind::Insert(insert) => {
                Ok(CreateJob { name: self.name.clone(), if_not_exists: false, options: Vec::new(), inserts: vec![insert] })
            }
            other => Err(SqlError::invalid(format!(
                "job {} is stored as {} instead of CREATE JOB; drop it and create it again",
                self.name,
                other.tag()
            ))),
        }
    }
}
