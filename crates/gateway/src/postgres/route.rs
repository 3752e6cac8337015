//! Who answers a statement: the session (what tools ask of PostgreSQL itself) or the engine (everything else, also what does not parse
//! as PostgreSQL's SQL: our dialect has more).
use std::{collections::HashSet, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Query, Statement, Visit, Visitor};
use datafusion_postgres::datafusion_pg_catalog::sql::PostgresCompatibilityParser;

#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    Engine,
    Session,
    /// A prepared statement's name; none: all.
    Deallocate(Option<String>),
    /// The command tag to answer with: nothing is kept that could be discarded.
    Nothing(&'static str),
}

/// SHOW words that are ours and no setting of PostgreSQL.
const OUR_SHOWS: [&str; 12] = [
    "jobs",
    "tables",
    "topics",
    "models",
    "executors",
    "epochs",
    "savepoints",
    "settings",
    "schemas",
    "columns",
    "functions",
    "partitions",
];

/// Table functions that read nothing.
const NEUTRAL: [&str; 4] = ["generate_series", "range", "unnest", "pg_get_keywords"];

pub fn route(parser: &PostgresCompatibilityParser, sql: &str) -> Route {
    let Ok(mut statements) = parser.parse(sql) else {
        return Route::Engine;
    };
    match statements.pop() {
        Some(statement) if statements.is_empty() => of(&statement),
        _ => Route::Engine,
    }
}

fn of(statement: &Statement) -> Route {
    match statement {
        Statement::Set(_) | Statement::StartTransaction { .. } | Statement::Commit { .. } | Statement::Rollback { .. } => {
            Route::Session
        }
        Statement::ShowVariable { variable } => match variable.first() {
            Some(word) if OUR_SHOWS.contains(&word.value.to_ascii_lowercase().as_str()) => Route::Engine,
            _ => Route::Session,
        },
        Statement::Deallocate { name, .. } => {
            Route::Deallocate((!name.value.eq_ignore_ascii_case("all")).then(|| name.value.clone()))
        }
        Statement::Discard { .. } => Route::Nothing("DISCARD ALL"),
        Statement::Reset(_) => Route::Nothing("RESET"),
        Statement::Query(query) if reads_catalog_only(query) => Route::Session,
        _ => Route::Engine,
    }
}

/// Also a query that reads no table at all: `SELECT 1`, `SELECT version()`.
fn reads_catalog_only(query: &Query) -> bool {
    let mut relations = Relations::default();
    let _ = query.visit(&mut relations);
    let Relations { named, with } = relations;
    named.iter().all(|name| match name.as_slice() {
        [table] => with.contains(table) || NEUTRAL.contains(&table.as_str()) || table.starts_with("pg_"),
        [.., schema, table] => schema == "pg_catalog" || schema == "information_schema" || NEUTRAL.contains(&table.as_str()),
        [] => true,
    })
}

#[derive(Default)]
struct Relations {
    named: Vec<Vec<String>>,
    with: HashSet<String>,
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.with.extend(query.with.iter().flat_map(|with| &with.cte_tables).map(|table| folded(&table.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.named.push(relation.0.iter().filter_map(|part| part.as_ident()).map(folded).collect());
        ControlFlow::Continue(())
    }
}

fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_find_who_answers_them() {
        let parser = PostgresCompatibilityParser::new();
        for sql in [
            "SELECT 1",
            "select version()",
            "BEGIN",
            "SET application_name = 'x'",
            "SHOW server_version",
            "SELECT relname FROM pg_class",
            "SELECT * FROM information_schema.columns",
            "WITH t AS (SELECT oid FROM pg_catalog.pg_class) SELECT * FROM t",
        ] {
            assert_eq!(route(&parser, sql), Route::Session, "{sql}");
        }
        for sql in [
            "SELECT * FROM users",
            "SHOW JOBS",
            "SHOW TABLES",
            "CREATE JOB j AS INSERT INTO a SELECT * FROM b",
            "PAUSE JOB j",
            "SELECT * FROM users, pg_class",
            "SELECT * FROM polybolos.jobs",
            "DROP TABLE x",
            "EXPLAIN SELECT 1 FROM users",
            "SELECT (SELECT max(a) FROM users)",
            "nonsense",
        ] {
            assert_eq!(route(&parser, sql), Route::Engine, "{sql}");
        }
        assert_eq!(route(&parser, "DEALLOCATE ALL"), Route::Deallocate(None));
        assert_eq!(route(&parser, "DEALLOCATE p1"), Route::Deallocate(Some("p1".to_owned())));
    }
}
