//! Reads SHOW, DESCRIBE and EXPLAIN.
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{cursor::Cursor, function, job, queries::query, session};
use crate::{
    error::SqlError,
    statement::{Explain, ExplainTarget, Show, StatementKind},
};

pub(super) fn show(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    let at = cursor.at();
    cursor.advance();
    if cursor.words(&["CREATE", "TABLE"]) {
        return Ok(StatementKind::Show(Show::CreateTable(cursor.relation()?)));
    }
    if cursor.words(&["CREATE", "JOB"]) {
        return Ok(StatementKind::Show(Show::CreateJob(cursor.job_name()?)));
    }
    if cursor.words(&["CREATE", "VIEW"]) {
        return Ok(StatementKind::Show(Show::CreateView(cursor.relation()?)));
    }
    if cursor.words(&["CREATE", "FUNCTION"]) {
        return Ok(StatementKind::Show(Show::CreateFunction(function::name(cursor)?)));
    }
    if cursor.is_word("CREATE") {
        cursor.advance();
        return Err(cursor.expected("TABLE, VIEW, FUNCTION or JOB"));
    }
    if cursor.word("JOBS") {
        return Ok(StatementKind::Show(Show::Jobs));
    }
    if cursor.word("SAVEPOINTS") {
        return Ok(StatementKind::Show(Show::Savepoints));
    }
    if cursor.word("TABLES") {
        return Ok(StatementKind::Show(Show::Tables));
    }
    if cursor.word("VIEWS") {
        return Ok(StatementKind::Show(Show::Views));
    }
    if cursor.words(&["USER", "FUNCTIONS"]) || cursor.word("FUNCTIONS") {
        return Ok(StatementKind::Show(Show::Functions));
    }
    if cursor.words(&["COLUMNS", "FROM"]) || cursor.words(&["COLUMNS", "IN"]) {
        return Ok(StatementKind::Describe(cursor.relation()?));
    }
    if cursor.word("MODELS") {
        return Err(SqlError::unsupported_at(at, "models are not supported yet; this version has tables and jobs"));
    }
    if ["DATABASES", "SCHEMAS", "CATALOGS"].iter().any(|word| cursor.is_word(word)) {
        let message = format!(
            "SHOW {} does not exist; ask information_schema, for example SELECT * FROM information_schema.tables",
            cursor.found()
        );
        return Err(SqlError::unsupported_at(at, message.replace('"', "")));
    }
    session::show_variable(cursor).map(StatementKind::Session)
}

/// After `DESCRIBE`. A table may be called `function`, too.
pub(super) fn describe(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    let mut ahead = cursor.clone();
    if ahead.word("FUNCTION") && matches!(ahead.peek(), Token::Word(_)) {
        *cursor = ahead;
        return Ok(StatementKind::Show(Show::CreateFunction(function::name(cursor)?)));
    }
    cursor.word("TABLE");
    Ok(StatementKind::Describe(cursor.relation()?))
}

pub(super) fn explain(cursor: &mut Cursor<'_>) -> Result<Explain, SqlError> {
    cursor.advance();
    // Flink's words for the same.
    cursor.words(&["PLAN", "FOR"]);
    if *cursor.peek() == Token::LParen {
        let mut ahead = cursor.clone();
        ahead.advance();
        if ["ANALYZE", "VERBOSE", "FORMAT", "COSTS"].iter().any(|word| ahead.is_word(word)) {
            return Err(cursor.expected_or("ANALYZE, VERBOSE or a statement", "write EXPLAIN [ANALYZE] [VERBOSE] SELECT …"));
        }
    }
    let analyze = cursor.word("ANALYZE");
    let verbose = cursor.word("VERBOSE");
    let at = cursor.at();
    let target = if cursor.words(&["CREATE", "JOB"]) {
        ExplainTarget::Job(job::create_job(cursor)?)
    } else if cursor.is_word("INSERT") {
        ExplainTarget::Insert(job::insert(cursor)?)
    } else if cursor.word("JOB") {
        ExplainTarget::ExistingJob(cursor.job_name()?)
    } else if *cursor.peek() == Token::LParen
        || ["SELECT", "WITH", "VALUES", "TABLE", "FROM"].iter().any(|word| cursor.is_word(word))
    {
        ExplainTarget::Query(query(cursor)?)
    } else {
        return Err(cursor.expected("SELECT, INSERT, CREATE JOB or JOB name"));
    };
    if analyze && !matches!(target, ExplainTarget::Query(_)) {
        return Err(SqlError::unsupported_at(
            at,
            "EXPLAIN ANALYZE runs a query; for a job write EXPLAIN, or polybolos job show for its figures",
        ));
    }
    Ok(Explain { analyze, verbose, target })
}
