//! Reads `CREATE JOB` and `INSERT INTO … SELECT`.
use datafusion::{arrow::compute::kernels::cast_utils::string_to_timestamp_nanos, sql::sqlparser::tokenizer::Token};

use super::{cursor::Cursor, query, table::options};
use crate::{
    error::SqlError,
    options::kafka::StartupMode,
    statement::{CreateJob, Insert, RestartJob},
};

/// After `CREATE JOB`.
pub(super) fn create_job(cursor: &mut Cursor<'_>) -> Result<CreateJob, SqlError> {
    let if_not_exists = cursor.words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.job_name()?;
    let options = if cursor.is_word("WITH") { options(cursor)? } else { Vec::new() };
    cursor.expect_word("AS")?;
    if !cursor.is_word("INSERT") {
        return Err(cursor.expected_or("INSERT INTO", &format!("a job fills a table: CREATE JOB {name} AS INSERT INTO t SELECT …")));
    }
    Ok(CreateJob { name, if_not_exists, options, insert: insert(cursor)? })
}

/// After `RESTART JOB`: `name [FROM EARLIEST | LATEST | TIMESTAMP '…'] KEEP [DISCARD]`.
pub(super) fn restart_job(cursor: &mut Cursor<'_>) -> Result<RestartJob, SqlError> {
    let name = cursor.job_name()?;
    let from = if cursor.word("FROM") { Some(start(cursor)?) } else { None };
    let at = cursor.at();
    if cursor.word("REPLACE") {
        let message = "RESTART JOB … REPLACE deletes rows of the earlier run, which this version cannot; write KEEP, or drop the job, empty the table and create the job again";
        return Err(SqlError::unsupported_at(at, message));
    }
    if !cursor.word("KEEP") {
        return Err(
            cursor.expected_or("KEEP", "rows that the earlier run wrote stay; the new run writes over those of the same key")
        );
    }
    Ok(RestartJob { name, from, discard: cursor.word("DISCARD") })
}

fn start(cursor: &mut Cursor<'_>) -> Result<StartupMode, SqlError> {
    if cursor.word("EARLIEST") {
        return Ok(StartupMode::Earliest);
    }
    if cursor.word("LATEST") {
        return Ok(StartupMode::Latest);
    }
    if !cursor.word("TIMESTAMP") {
        return Err(cursor.expected("EARLIEST, LATEST or TIMESTAMP '…'"));
    }
    let at = cursor.at();
    let text = cursor.string("a time such as '2026-01-01T00:00:00Z'")?;
    let millis = match text.parse() {
        Ok(millis) => Some(millis),
        Err(_) => string_to_timestamp_nanos(&text).ok().map(|nanos| nanos.div_euclid(1_000_000)),
    };
    match millis {
        Some(millis) if millis >= 0 => Ok(StartupMode::Timestamp { millis }),
        _ => Err(SqlError::invalid_at(
            at,
            format!("{text:?} is no time; write for example '2026-01-01T00:00:00Z', or milliseconds since 1970"),
        )),
    }
}

/// `INSERT INTO [TABLE] t [(columns)] query`.
pub(super) fn insert(cursor: &mut Cursor<'_>) -> Result<Insert, SqlError> {
    let at = cursor.at();
    cursor.advance();
    if cursor.is_word("OVERWRITE") {
        let message = "INSERT OVERWRITE does not exist; INSERT INTO a table with a PRIMARY KEY replaces rows of the same key";
        return Err(SqlError::unsupported_at(cursor.at(), message));
    }
    cursor.expect_word("INTO")?;
    cursor.word("TABLE");
    let target = cursor.relation()?;
    let columns = if starts_column_list(cursor) { columns(cursor)? } else { Vec::new() };
    if cursor.words(&["DEFAULT", "VALUES"]) {
        return Err(SqlError::unsupported_at(at, "DEFAULT VALUES is not supported; columns have no defaults"));
    }
    let starts_query =
        *cursor.peek() == Token::LParen || ["SELECT", "WITH", "VALUES", "TABLE", "FROM"].iter().any(|word| cursor.is_word(word));
    if !starts_query {
        return Err(cursor.expected("SELECT or VALUES"));
    }
    Ok(Insert { target, columns, query: query(cursor)?, at })
}

/// `(a, b) SELECT …`, told apart from `(SELECT …)`.
fn starts_column_list(cursor: &Cursor<'_>) -> bool {
    let mut ahead = cursor.clone();
    ahead.token(&Token::LParen)
        && *ahead.peek() != Token::LParen
        && !["SELECT", "WITH", "VALUES", "TABLE", "FROM"].iter().any(|word| ahead.is_word(word))
}

fn columns(cursor: &mut Cursor<'_>) -> Result<Vec<String>, SqlError> {
    let mut names: Vec<String> = Vec::new();
    cursor.list(|cursor| {
        let at = cursor.at();
        let name = cursor.identifier("a column name")?;
        if names.contains(&name) {
            return Err(SqlError::invalid_at(at, format!("column {name} is listed twice; keep one")));
        }
        names.push(name);
        Ok(())
    })?;
    Ok(names)
}
