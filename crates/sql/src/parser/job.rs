//! Reads `CREATE JOB` and `INSERT INTO … SELECT`.
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{cursor::Cursor, query, table::options};
use crate::{
    error::SqlError,
    statement::{CreateJob, Insert},
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
