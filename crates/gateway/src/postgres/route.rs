//! Who answers a statement: the session (what tools ask of PostgreSQL itself) or the engine (everything else, also what does not parse
//! as PostgreSQL's SQL: our dialect has more).
use std::{collections::HashSet, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CeilFloorKind, DataType, DateTimeField, Expr, Ident, ObjectName, Query, Statement, Value, Visit, Visitor,
};
use datafusion_postgres::datafusion_pg_catalog::sql::PostgresCompatibilityParser;

use super::functions::setting;
use crate::scan;

#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    Engine,
    Session,
    /// A prepared statement's name; none: all.
    Deallocate(Option<String>),
    /// The command tag to answer with: nothing is kept that could be discarded.
    Nothing(&'static str),
}

/// The words of SHOW that the session answers, beside the settings that nothing changes. All others are ours, or unknown.
const SESSION_SHOWS: [&str; 10] = [
    "all",
    "application_name",
    "bytea_output",
    "catalogs",
    "datestyle",
    "extra_float_digits",
    "intervalstyle",
    "statement_timeout",
    "time",
    "transaction",
];

/// A DOUBLE keeps so many digits of any number.
const DOUBLE_DIGITS: usize = 15;

/// Table functions that read nothing, yet may bring many rows.
const NEUTRAL: [&str; 3] = ["generate_series", "range", "unnest"];

/// Functions that only the session has, beside `pg_…` and `has_…_privilege`, or that it answers as PostgreSQL would.
const SESSION_FUNCTIONS: [&str; 16] = [
    "array_lower",
    "array_upper",
    "current_catalog",
    "current_database",
    "current_schema",
    "current_schemas",
    "current_setting",
    "current_user",
    "format_type",
    "parse_ident",
    "quote_ident",
    "session_user",
    "set_config",
    "to_regtype",
    "user",
    "version",
];

pub fn route(parser: &PostgresCompatibilityParser, sql: &str) -> Route {
    let Ok(mut statements) = parser.parse(sql) else {
        return Route::Engine;
    };
    match statements.pop() {
        Some(statement) if statements.is_empty() => of(&statement, scan::parameter_count(sql)),
        _ => Route::Engine,
    }
}

fn of(statement: &Statement, parameters: usize) -> Route {
    match statement {
        Statement::Set(_) | Statement::StartTransaction { .. } | Statement::Commit { .. } | Statement::Rollback { .. } => {
            Route::Session
        }
        Statement::ShowVariable { variable } => match variable.first() {
            Some(word) if setting(&word.value).is_some() => Route::Session,
            Some(word) if SESSION_SHOWS.contains(&word.value.to_ascii_lowercase().as_str()) => Route::Session,
            _ => Route::Engine,
        },
        Statement::Deallocate { name, .. } => {
            Route::Deallocate((!name.value.eq_ignore_ascii_case("all")).then(|| name.value.clone()))
        }
        Statement::Discard { .. } => Route::Nothing("DISCARD ALL"),
        Statement::Reset(_) => Route::Nothing("RESET"),
        Statement::Query(query) if asks_session(query, parameters) => Route::Session,
        _ => Route::Engine,
    }
}

/// A query that reads PostgreSQL's catalog and no table of ours, or calls what only the session has, or does next to nothing: `SELECT 1`.
/// What binds parameters or computes goes to the engine, which runs queries on threads of their own.
fn asks_session(query: &Query, parameters: usize) -> bool {
    let mut asked = Asked::default();
    let _ = query.visit(&mut asked);
    let Asked { named, with, mut of_session, mut computes } = asked;
    for name in &named {
        match name.as_slice() {
            [table] if with.contains(table) => {}
            [table] if table.starts_with("pg_") => of_session = true,
            [.., schema, _] if schema == "pg_catalog" || schema == "information_schema" => of_session = true,
            [.., function] if NEUTRAL.contains(&function.as_str()) => computes = true,
            _ => return false,
        }
    }
    of_session || !(computes || parameters > 0)
}

/// What a query names.
#[derive(Default)]
struct Asked {
    named: Vec<Vec<String>>,
    with: HashSet<String>,
    /// A function or a type that only the session knows.
    of_session: bool,
    /// A function that the engine has, or a type that only the engine's answers show rightly.
    computes: bool,
}

impl Visitor for Asked {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.with.extend(query.with.iter().flat_map(|with| &with.cte_tables).map(|table| folded(&table.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.named.push(relation.0.iter().filter_map(|part| part.as_ident()).map(folded).collect());
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        let last = |name: &ObjectName| name.0.last().and_then(|part| part.as_ident()).map(folded).unwrap_or_default();
        match expression {
            Expr::Function(function) => {
                let name = last(&function.name);
                let is_privilege = name.starts_with("has_") && name.ends_with("_privilege");
                let is_of_session = name.starts_with("pg_") || is_privilege || SESSION_FUNCTIONS.contains(&name.as_str());
                self.of_session |= is_of_session;
                self.computes |= !is_of_session;
            }
            Expr::Cast { data_type: DataType::Regclass, .. } => self.of_session = true,
            Expr::Cast { data_type: DataType::Custom(name, _), .. } => {
                let name = last(name);
                let is_of_session = name == "oid" || name == "name" || name.starts_with("reg");
                self.of_session |= is_of_session;
                self.computes |= !is_of_session;
            }
            // The emulation writes casts to these for queries of clients that it knows.
            Expr::Cast { data_type: DataType::BigInt(_) | DataType::Boolean | DataType::Int(_) | DataType::Text, .. } => {}
            // The engine keeps the digits of a number in a DECIMAL, where DataFusion makes a DOUBLE.
            Expr::Value(value) => {
                self.computes |= matches!(&value.value, Value::Number(digits, _) if digits.len() > DOUBLE_DIGITS);
            }
            Expr::Cast { .. } | Expr::Interval(_) | Expr::RLike { .. } | Expr::AtTimeZone { .. } => self.computes = true,
            Expr::Floor { field, .. } | Expr::Ceil { field, .. } => {
                self.computes |= !matches!(field, CeilFloorKind::DateTimeField(DateTimeField::NoDateTime));
            }
            Expr::BinaryOp { op: BinaryOperator::Arrow | BinaryOperator::LongArrow, .. } => self.computes = true,
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

pub(super) fn folded(name: &Ident) -> String {
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
            "SHOW TimeZone",
            "SHOW ALL",
            "SHOW TRANSACTION ISOLATION LEVEL",
            "SHOW transaction_isolation",
            "SELECT to_regtype('int4')",
            "SELECT relname FROM pg_class",
            "SELECT * FROM information_schema.columns",
            "WITH t AS (SELECT oid FROM pg_catalog.pg_class) SELECT * FROM t",
            "SELECT current_setting($1)",
            "SELECT relname FROM pg_class WHERE oid = $1",
            "SELECT nspname FROM pg_namespace, generate_series(1, 3)",
            "SELECT s.r FROM generate_series(1, array_upper(current_schemas(false), 1)) AS s (r)",
            "SELECT has_table_privilege('t', 'SELECT')",
        ] {
            assert_eq!(route(&parser, sql), Route::Session, "{sql}");
        }
        for sql in [
            "SELECT * FROM users",
            "SHOW JOBS",
            "SHOW TABLES",
            "SHOW nonsense",
            "CREATE JOB j AS INSERT INTO a SELECT * FROM b",
            "PAUSE JOB j",
            "SELECT * FROM users, pg_class",
            "SELECT * FROM polybolos.jobs",
            "DROP TABLE x",
            "EXPLAIN SELECT 1 FROM users",
            "SELECT (SELECT max(a) FROM users)",
            "SELECT $1",
            "SELECT n FROM (VALUES (1), (2)) AS t (n) LIMIT $1",
            "SELECT count(*) FROM generate_series(1, 100000) a CROSS JOIN generate_series(1, 3000000) b",
            "SELECT * FROM range(1, 3)",
            "SELECT make_array(make_array(1))",
            "SELECT has_vowels('abc')",
            "SELECT -99999999999999999999999999999999999999",
            "SELECT 1234567890.123456",
            "SELECT CAST(1 AS TINYINT)",
            "SELECT CAST('2026-01-01' AS TIMESTAMP_LTZ(3))",
            "nonsense",
        ] {
            assert_eq!(route(&parser, sql), Route::Engine, "{sql}");
        }
        assert_eq!(route(&parser, "DEALLOCATE ALL"), Route::Deallocate(None));
        assert_eq!(route(&parser, "DEALLOCATE p1"), Route::Deallocate(Some("p1".to_owned())));
    }
}
