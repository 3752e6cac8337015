//! Which statement it is, by its first word; what to write in place of statements of other systems.
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{
    cursor::Cursor,
    job,
    objects::{create, drop_object},
    queries::query_by_itself,
    session,
    showing::{describe, explain, show},
};
use crate::{
    error::{SqlError, did_you_mean},
    statement::{JobAction, StatementKind},
};

const FIRST_WORDS: [&str; 33] = [
    "UPGRADE",
    "VERIFY",
    "REPLAY",
    "CREATE",
    "DROP",
    "SHOW",
    "DESCRIBE",
    "DESC",
    "EXPLAIN",
    "SELECT",
    "WITH",
    "VALUES",
    "TABLE",
    "INSERT",
    "PAUSE",
    "RESUME",
    "STOP",
    "RESTART",
    "SET",
    "RESET",
    "BEGIN",
    "START",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "SAVEPOINT",
    "RELEASE",
    "DISCARD",
    "DEALLOCATE",
    "USE",
    "FROM",
    "ALTER",
];

/// Statements of other systems and what to write here instead.
const REFUSED: [(&str, &str); 21] = [
    (
        "COPY",
        "COPY reads and writes files of the server, which SQL cannot do here; use SELECT with polybolos sql --output csv, or INSERT INTO … SELECT",
    ),
    (
        "UPDATE",
        "UPDATE does not exist: tables are filled by jobs; write INSERT INTO t (key, …) SELECT …, which replaces rows of the same key",
    ),
    ("DELETE", "DELETE is not supported yet; rows leave a table in Cassandra by its own tools (cqlsh)"),
    ("MERGE", "MERGE does not exist; INSERT INTO a table with a PRIMARY KEY already replaces rows of the same key"),
    ("REPLACE", "REPLACE does not exist; INSERT INTO a table with a PRIMARY KEY already replaces rows of the same key"),
    ("TRUNCATE", "TRUNCATE is not supported; empty the table in Cassandra by its own tools (cqlsh)"),
    ("ALTER", "ALTER is not supported yet; write UPGRADE JOB, or DROP and CREATE the table again (the stored rows stay)"),
    ("GRANT", "GRANT does not exist; roles are in the server's roles file"),
    ("REVOKE", "REVOKE does not exist; roles are in the server's roles file"),
    ("ANALYZE", "ANALYZE does not exist, tables have no statistics; write EXPLAIN ANALYZE SELECT … for a query"),
    ("VACUUM", "VACUUM does not exist; Cassandra compacts by itself"),
    ("CALL", "CALL does not exist; there are no procedures"),
    (
        "EXECUTE",
        "EXECUTE is not supported as a statement; use your driver's prepared statements, or for a set of INSERTs CREATE JOB name AS BEGIN INSERT …; INSERT …; END",
    ),
    ("PREPARE", "PREPARE is not supported as a statement; use your driver's prepared statements"),
    ("LISTEN", "LISTEN does not exist; query the table again, or read the topic"),
    ("NOTIFY", "NOTIFY does not exist; produce a record to a topic"),
    ("DECLARE", "DECLARE CURSOR is not supported; use your driver's fetch size"),
    ("LOAD", "LOAD does not exist; feeds are in ingest.toml"),
    ("ATTACH", "ATTACH does not exist; declare tables by CREATE TABLE … WITH ('connector' = …)"),
    ("DO", "DO does not exist; there are no procedures"),
    ("LOCK", "LOCK does not exist; there are no transactions over tables"),
];

pub(super) fn read_statement(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    if *cursor.peek() == Token::LParen {
        return query_by_itself(cursor).map(StatementKind::Query);
    }
    let at = cursor.at();
    let word = match cursor.peek() {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        _ => return Err(cursor.expected_or("a statement", "statements start with a word like SELECT or CREATE")),
    };
    if let Some((_, message)) = REFUSED.iter().find(|(refused, _)| *refused == word) {
        return Err(SqlError::unsupported_at(at, *message));
    }
    let kind = match word.as_str() {
        "SELECT" | "WITH" | "VALUES" | "TABLE" | "FROM" => StatementKind::Query(query_by_itself(cursor)?),
        "CREATE" => create(cursor)?,
        "DROP" => drop_object(cursor)?,
        "SHOW" => show(cursor)?,
        "DESCRIBE" | "DESC" => {
            cursor.advance();
            describe(cursor)?
        }
        "EXPLAIN" => StatementKind::Explain(explain(cursor)?),
        "INSERT" => StatementKind::Insert(job::insert(cursor)?),
        "PAUSE" => control(cursor, JobAction::Pause)?,
        "RESUME" => control(cursor, JobAction::Resume)?,
        "STOP" => control(cursor, JobAction::Stop)?,
        "VERIFY" => {
            cursor.advance();
            cursor.expect_word("JOB")?;
            StatementKind::VerifyJob { name: cursor.job_name()? }
        }
        "REPLAY" => {
            cursor.advance();
            if !cursor.words(&["DEAD", "LETTERS"]) {
                return Err(cursor.expected("DEAD LETTERS"));
            }
            if cursor.words(&["FOR", "JOB"]) {
                StatementKind::ReplayDeadLetters { job: Some(cursor.job_name()?), id: None }
            } else if matches!(cursor.peek(), Token::SingleQuotedString(_)) {
                StatementKind::ReplayDeadLetters { job: None, id: Some(cursor.string("a dead letter's id")?) }
            } else {
                StatementKind::ReplayDeadLetters { job: None, id: None }
            }
        }
        "RESTART" => {
            cursor.advance();
            cursor.expect_word("JOB")?;
            StatementKind::RestartJob(job::restart_job(cursor)?)
        }
        "UPGRADE" => {
            cursor.advance();
            cursor.expect_word("JOB")?;
            StatementKind::UpgradeJob(job::create_job(cursor)?)
        }
        "SET" | "RESET" | "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT" | "RELEASE" | "DISCARD"
        | "DEALLOCATE" | "USE" => StatementKind::Session(session::read(cursor, &word)?),
        other => {
            let hint = did_you_mean(other, FIRST_WORDS).map(|near| format!("did you mean {near}?"));
            return Err(SqlError::Syntax { at, message: format!("expected a statement, found {}", cursor.found()), hint });
        }
    };
    cursor.finish()?;
    Ok(kind)
}

fn control(cursor: &mut Cursor<'_>, action: JobAction) -> Result<StatementKind, SqlError> {
    cursor.advance();
    cursor.expect_word("JOB")?;
    Ok(StatementKind::ControlJob { name: cursor.job_name()?, action })
}
