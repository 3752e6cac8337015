//! `catalog + statement → catalog`, purely: no clock, no randomness, no I/O. Planning a job, and asking Kafka and Cassandra whether its
//! tables are as declared, comes before, and is somebody else's.
use datafusion::sql::{parser, resolve::resolve_table_references, sqlparser::ast};

use super::{Catalog, JobDefinition, TableDefinition};
use crate::{
    error::{ObjectKind, SqlError},
    names::{RelationName, SYSTEM_SCHEMA},
    options::job::JobOptions,
    statement::{CreateJob, Insert, Statement, StatementKind},
};

/// What the world adds to a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Microseconds since 1970, for `created_at`.
    pub now_us: i64,
    /// A name never used before, for a job that this statement creates. An INSERT without a name becomes job `insert_<incarnation>`.
    pub incarnation: String,
}

/// The catalog after `statement`. Statements that change no definition (queries, SHOW, PAUSE JOB of a job that exists, …) give the same
/// catalog back. A bare INSERT becomes a job: the caller hands it in only when its source is unbounded.
///
/// # Errors
/// When the statement does not fit the catalog: nothing has changed then.
pub fn apply(catalog: &Catalog, statement: &Statement, change: &Change) -> Result<Catalog, SqlError> {
    match &statement.kind {
        StatementKind::CreateTable(create) => {
            if catalog.tables.iter().any(|table| table.name == create.name) {
                return unless(create.if_not_exists, catalog, ObjectKind::Table, create.name.to_string());
            }
            let table = TableDefinition::new(create)?;
            Ok(with_table(catalog, table))
        }
        StatementKind::CreateJob(create) => {
            if catalog.find_job(&create.name).is_some() {
                return unless(create.if_not_exists, catalog, ObjectKind::Job, create.name.clone());
            }
            with_job(catalog, create, &statement.sql, change)
        }
        StatementKind::Insert(insert) => {
            let name = format!("insert_{}", change.incarnation);
            let create = CreateJob { name, if_not_exists: false, options: Vec::new(), insert: insert.clone() };
            with_job(catalog, &create, &statement.sql, change)
        }
        StatementKind::DropTable { name, if_exists } => drop_table(catalog, name, *if_exists),
        StatementKind::DropJob { name, if_exists } => {
            if catalog.find_job(name).is_none() {
                return if *if_exists { Ok(catalog.clone()) } else { catalog.job(name).map(|_| catalog.clone()) };
            }
            let mut next = catalog.clone();
            next.jobs.retain(|job| job.name != *name);
            Ok(next)
        }
        StatementKind::RestartJob(restart) => {
            catalog.job(&restart.name)?;
            let mut next = catalog.clone();
            for job in next.jobs.iter_mut().filter(|job| job.name == restart.name) {
                job.incarnation.clone_from(&change.incarnation);
                job.options.start = restart.from.clone().or_else(|| job.options.start.take());
            }
            Ok(next)
        }
        StatementKind::ControlJob { name, .. } => catalog.job(name).map(|_| catalog.clone()),
        StatementKind::Show(_)
        | StatementKind::Describe(_)
        | StatementKind::Explain(_)
        | StatementKind::Query(_)
        | StatementKind::Session(_) => Ok(catalog.clone()),
    }
}

fn unless(allowed: bool, catalog: &Catalog, kind: ObjectKind, name: String) -> Result<Catalog, SqlError> {
    if allowed { Ok(catalog.clone()) } else { Err(SqlError::Exists { kind, name }) }
}

fn with_table(catalog: &Catalog, table: TableDefinition) -> Catalog {
    let mut next = catalog.clone();
    next.tables.push(table);
    next.tables.sort_by(|a, b| a.name.cmp(&b.name));
    next
}

fn drop_table(catalog: &Catalog, name: &RelationName, if_exists: bool) -> Result<Catalog, SqlError> {
    // Only by its declared name: keyspace.table is how others know it.
    let Some(table) = catalog.tables.iter().find(|table| table.name == *name) else {
        return if if_exists { Ok(catalog.clone()) } else { Err(no_such_declared(catalog, name)) };
    };
    if let Some(job) = catalog.users_of(table).next() {
        return Err(SqlError::InUse { table: table.name.to_string(), job: job.name.clone() });
    }
    let mut next = catalog.clone();
    next.tables.retain(|table| table.name != *name);
    Ok(next)
}

fn no_such_declared(catalog: &Catalog, name: &RelationName) -> SqlError {
    match catalog.table(name) {
        Err(error) => error,
        Ok(declared) => SqlError::NoSuch {
            kind: ObjectKind::Table,
            name: name.to_string(),
            hint: Some(format!("it is declared as {}", declared.name)),
        },
    }
}

fn with_job(catalog: &Catalog, create: &CreateJob, sql: &str, change: &Change) -> Result<Catalog, SqlError> {
    let options = JobOptions::read(&create.name, &create.options)?;
    let target = catalog.table(&create.insert.target)?.name.clone();
    let sources = sources(catalog, &create.insert)?;
    if let Some(other) = catalog.jobs.iter().find(|job| job.target == target) {
        return Err(SqlError::invalid(format!(
            "table {target} is filled by job {} already, and one job writes a table; drop that job, or declare a table of its own for job {}",
            other.name, create.name
        )));
    }
    if sources.contains(&target) {
        return Err(SqlError::invalid(format!("job {} reads and writes table {target}; write to another table", create.name)));
    }
    let mut next = catalog.clone();
    next.jobs.push(JobDefinition {
        name: create.name.clone(),
        sql: sql.to_owned(),
        options,
        target,
        sources,
        incarnation: change.incarnation.clone(),
        created_at_us: change.now_us,
    });
    next.jobs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(next)
}

/// The declared tables that an INSERT's query reads, sorted by name.
pub(crate) fn sources(catalog: &Catalog, insert: &Insert) -> Result<Vec<RelationName>, SqlError> {
    let query = parser::Statement::Statement(Box::new(ast::Statement::Query(insert.query.clone())));
    let (references, _) = resolve_table_references(&query, true)?;
    let mut names = Vec::new();
    for reference in &references {
        let name = RelationName::from(reference);
        if name.schema == SYSTEM_SCHEMA {
            let message = format!("{name} is a system table, which a job cannot read; query it with SELECT");
            return Err(SqlError::unsupported_at(insert.at, message));
        }
        names.push(catalog.table(&name)?.name.clone());
    }
    names.sort();
    names.dedup();
    Ok(names)
}
