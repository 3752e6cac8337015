//! What is declared: tables, views, functions and jobs. A [`Catalog`] is a value; [`apply`] makes the next one, and whoever keeps it durable stores that by
//! compare-and-swap, so that of two statements at once one wins and the other is tried again on what is there.
mod apply;
pub(crate) mod computed;
mod foundations;
mod function;
mod job;
mod options_of_queries;
mod records;
mod table;
mod view;

use serde::{Deserialize, Serialize};

pub use self::{
    apply::{Change, apply},
    foundations::apply_planned,
    function::FunctionDefinition,
    job::JobDefinition,
    records::{RECORD_IS_TOMBSTONE, RECORD_OFFSET, RECORD_PARTITION, Recorded, key_column, member_column},
    table::{ColumnDefinition, ColumnKind, Connector, MetadataKey, PrimaryKey, TableDefinition, Watermark},
    view::ViewDefinition,
};
pub(crate) use self::{
    apply::{references, sources, target},
    records::is_of_record,
    table::CONNECTORS,
};
use crate::{
    error::{ObjectKind, SqlError, did_you_mean},
    names::{RelationName, SYSTEM_SCHEMA},
    schema::SYSTEM_TABLES,
};

/// Durable as JSON (serde). Tables, views, functions and jobs are sorted by name. A name is that of a table or of a view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    pub tables: Vec<TableDefinition>,
    #[serde(default)]
    pub views: Vec<ViewDefinition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FunctionDefinition>,
    pub jobs: Vec<JobDefinition>,
}

impl Catalog {
    /// The table declared as `name`; else the Cassandra table that is declared under another name and stored as `keyspace.table`.
    pub fn find_table(&self, name: &RelationName) -> Option<&TableDefinition> {
        let declared = self.tables.iter().find(|table| table.name == *name);
        declared.or_else(|| self.tables.iter().find(|table| table.is_stored_as(&name.schema, &name.name)))
    }

    /// # Errors
    /// When there is none, with the near name.
    pub fn table(&self, name: &RelationName) -> Result<&TableDefinition, SqlError> {
        self.find_table(name).ok_or_else(|| {
            let hint = match self.find_view(name) {
                Some(_) => "it is a view; SHOW CREATE VIEW shows it".to_owned(),
                None => self.near_table(&name.to_string()),
            };
            SqlError::NoSuch { kind: ObjectKind::Table, hint: Some(hint), name: name.to_string() }
        })
    }

    /// What to write instead of a table that does not exist.
    fn near_table(&self, name: &str) -> String {
        if let Some(call) = crate::parser::call_of(name) {
            return format!("write FROM TABLE({call})");
        }
        if name == "generate_series" || name == "range" {
            return format!(
                "only a query calls {name}(…) as a table; write CROSS JOIN UNNEST({name}(1, 10)) AS s (n), or SELECT unnest({name}(1, 10))"
            );
        }
        if let Some(system) = name.strip_prefix(SYSTEM_SCHEMA).and_then(|rest| rest.strip_prefix('.')) {
            return match did_you_mean(system, SYSTEM_TABLES) {
                Some(near) => format!("did you mean {SYSTEM_SCHEMA}.{near}?"),
                None => {
                    format!("SELECT table_name FROM information_schema.tables WHERE table_schema = '{SYSTEM_SCHEMA}' lists all")
                }
            };
        }
        let tables = self.tables.iter().map(|table| table.name.to_string());
        let names: Vec<String> = tables.chain(self.views.iter().map(|view| view.name.to_string())).collect();
        match did_you_mean(name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "SHOW TABLES lists all".to_owned(),
        }
    }

    /// DataFusion names a table that does not exist in full, and knows none that is near.
    pub(crate) fn hinted(&self, mut error: SqlError) -> SqlError {
        if let SqlError::Plan { message, .. } = &mut error
            && let Some(name) = message.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found"))
        {
            let name = name.strip_prefix("polybolos.").unwrap_or(name);
            let name = name.strip_prefix("public.").unwrap_or(name);
            *message = format!("table {name} does not exist; {}", self.near_table(name));
        }
        error
    }

    pub fn find_view(&self, name: &RelationName) -> Option<&ViewDefinition> {
        self.views.iter().find(|view| view.name == *name)
    }

    /// The job that writes a table.
    pub fn job_that_fills(&self, table: &RelationName) -> Option<&JobDefinition> {
        self.jobs.iter().find(|job| job.fills(table))
    }

    /// # Errors
    /// When there is none, with the near name.
    pub fn view(&self, name: &RelationName) -> Result<&ViewDefinition, SqlError> {
        self.find_view(name).ok_or_else(|| {
            let names: Vec<String> = self.views.iter().map(|view| view.name.to_string()).collect();
            let hint = match did_you_mean(&name.to_string(), names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}?"),
                None => "SHOW VIEWS lists all".to_owned(),
            };
            SqlError::NoSuch { kind: ObjectKind::View, name: name.to_string(), hint: Some(hint) }
        })
    }

    pub fn find_job(&self, name: &str) -> Option<&JobDefinition> {
        self.jobs.iter().find(|job| job.name == name)
    }

    /// # Errors
    /// When there is none, with the near name.
    pub fn job(&self, name: &str) -> Result<&JobDefinition, SqlError> {
        self.find_job(name).ok_or_else(|| {
            let hint = match did_you_mean(name, self.jobs.iter().map(|job| job.name.as_str())) {
                Some(near) => format!("did you mean {near}?"),
                None => "SHOW JOBS lists all".to_owned(),
            };
            SqlError::NoSuch { kind: ObjectKind::Job, name: name.to_owned(), hint: Some(hint) }
        })
    }

    /// Schemas in which tables are declared or stored, `public` always among them.
    pub fn schemas(&self) -> Vec<String> {
        let mut schemas = vec![crate::names::DEFAULT_SCHEMA.to_owned()];
        schemas.extend(self.tables.iter().map(|table| table.name.schema.clone()));
        schemas.extend(self.views.iter().map(|view| view.name.schema.clone()));
        schemas.extend(self.tables.iter().filter_map(TableDefinition::keyspace).map(str::to_owned));
        schemas.sort();
        schemas.dedup();
        schemas
    }
}
