//! Reads the statements that drivers and tools send around their queries. They are told apart, not carried out: gateways answer them.
use datafusion::sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use crate::{
    error::{SqlError, did_you_mean},
    statement::SessionStatement,
};

const SHOW_WORDS: [&str; 7] = ["jobs", "tables", "views", "functions", "savepoints", "columns from", "timezone"];

/// Settings that every door can show.
const SHOWN: [&str; 2] = ["timezone", "transaction_isolation"];

/// `word` is the first word, not yet consumed.
pub(super) fn read(cursor: &mut Cursor<'_>, word: &str) -> Result<SessionStatement, SqlError> {
    cursor.advance();
    match word {
        "SET" => set(cursor),
        "RESET" => Ok(SessionStatement::Reset { name: variable(cursor)? }),
        "DISCARD" => {
            words_to_end(cursor);
            Ok(SessionStatement::Reset { name: "all".to_owned() })
        }
        "BEGIN" | "START" if cursor.is_word("STATEMENT") => Err(SqlError::unsupported_at(
            cursor.at(),
            "a statement set is a job: CREATE JOB name AS BEGIN INSERT INTO …; INSERT INTO …; END",
        )),
        "BEGIN" | "START" => {
            // ISOLATION LEVEL, READ ONLY and the like change nothing: every statement stands alone.
            words_to_end(cursor);
            Ok(SessionStatement::Begin)
        }
        "COMMIT" | "END" => {
            words_to_end(cursor);
            Ok(SessionStatement::Commit)
        }
        "ROLLBACK" | "ABORT" => {
            words_to_end(cursor);
            Ok(SessionStatement::Rollback)
        }
        "SAVEPOINT" => {
            cursor.identifier("a savepoint name")?;
            Ok(SessionStatement::Savepoint)
        }
        "RELEASE" => {
            cursor.word("SAVEPOINT");
            cursor.identifier("a savepoint name")?;
            Ok(SessionStatement::Release)
        }
        "DEALLOCATE" => {
            cursor.word("PREPARE");
            let name = cursor.identifier("a statement name or ALL")?;
            Ok(SessionStatement::Deallocate { name: (name != "all").then_some(name) })
        }
        _ => {
            // Flink and Spark say what it is that they name.
            for kind in ["CATALOG", "DATABASE", "SCHEMA"] {
                let mut ahead = cursor.clone();
                if ahead.word(kind) && !ahead.is_done() {
                    *cursor = ahead;
                    break;
                }
            }
            Ok(SessionStatement::Use { name: cursor.identifier("a catalog name")? })
        }
    }
}

/// After `SHOW`.
pub(super) fn show_variable(cursor: &mut Cursor<'_>) -> Result<SessionStatement, SqlError> {
    let at = cursor.at();
    let unknown = cursor.clone();
    if !cursor.is_done() {
        let name = variable(cursor)?;
        if SHOWN.contains(&name.as_str()) {
            return Ok(SessionStatement::ShowVariable { name });
        }
        if let Some(near) = did_you_mean(&name, SHOW_WORDS) {
            return Err(SqlError::Syntax {
                at,
                message: format!("SHOW {name} does not exist"),
                hint: Some(format!("did you mean SHOW {}?", near.to_uppercase())),
            });
        }
    }
    Err(unknown.expected(
        "JOBS, TABLES, VIEWS, FUNCTIONS, SAVEPOINTS, COLUMNS FROM t, CREATE TABLE t, CREATE JOB j, CREATE VIEW v, \
         CREATE FUNCTION f or TIMEZONE",
    ))
}

fn set(cursor: &mut Cursor<'_>) -> Result<SessionStatement, SqlError> {
    if cursor.words(&["SESSION", "CHARACTERISTICS"]) || cursor.is_word("TRANSACTION") {
        let value = text_to_end(cursor);
        return Ok(SessionStatement::Set { name: "transaction".to_owned(), value });
    }
    if !cursor.word("SESSION") {
        cursor.word("LOCAL");
    }
    let name = variable(cursor)?;
    if name == "timezone" && cursor.is_done() {
        return Err(cursor.expected("a time zone"));
    }
    // `SET TIME ZONE 'UTC'` and `SET NAMES 'utf8'` have neither.
    let _ = cursor.token(&Token::Eq) || cursor.word("TO");
    if cursor.is_done() {
        return Err(cursor.expected("a value"));
    }
    Ok(SessionStatement::Set { name, value: text_to_end(cursor) })
}

/// A setting's name with its dots, in lower case. Several words that name one setting become its name in PostgreSQL.
fn variable(cursor: &mut Cursor<'_>) -> Result<String, SqlError> {
    if cursor.words(&["TIME", "ZONE"]) {
        return Ok("timezone".to_owned());
    }
    if cursor.words(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
        return Ok("transaction_isolation".to_owned());
    }
    if cursor.words(&["SESSION", "AUTHORIZATION"]) {
        return Ok("session_authorization".to_owned());
    }
    if let Token::SingleQuotedString(name) = cursor.peek() {
        // Flink writes SET 'key' = 'value'.
        cursor.advance();
        return Ok(name.to_lowercase());
    }
    let mut name = cursor.identifier("a setting")?;
    while cursor.token(&Token::Period) {
        name.push('.');
        name.push_str(&cursor.identifier("a setting")?);
    }
    Ok(name)
}

fn words_to_end(cursor: &mut Cursor<'_>) {
    while !cursor.is_done() {
        cursor.advance();
    }
}

fn text_to_end(cursor: &mut Cursor<'_>) -> String {
    let mut text = String::new();
    while !cursor.is_done() {
        let next = match cursor.advance() {
            Token::SingleQuotedString(value) => value.clone(),
            Token::Word(word) => word.value.clone(),
            Token::Comma => {
                text.push(',');
                continue;
            }
            other => other.to_string(),
        };
        let joined = text.is_empty() || text.ends_with('-') || text.ends_with('.') || next == ".";
        if !joined {
            text.push(' ');
        }
        text.push_str(&next);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parser::parse, statement::StatementKind};

    #[test]
    fn what_cannot_be_shown_is_said() {
        let message = |sql: &str| parse(sql).unwrap_err().to_string();
        assert_eq!(message("SHOW JOBSS"), "SHOW jobss does not exist; did you mean SHOW JOBS?");
        assert!(message("SHOW nonsense").contains("VIEWS, FUNCTIONS, SAVEPOINTS"));
        assert!(message("SHOW nonsense").contains("CREATE VIEW v, CREATE FUNCTION f or TIMEZONE"));
        for sql in ["USE polybolos", "USE CATALOG polybolos", "USE DATABASE polybolos"] {
            let kind = parse(sql).unwrap().remove(0).kind;
            let expected = SessionStatement::Use { name: "polybolos".to_owned() };
            assert_eq!(kind, StatementKind::Session(expected), "{sql}");
        }
        assert!(parse("SHOW timezone").is_ok() && parse("SHOW TRANSACTION ISOLATION LEVEL").is_ok());
    }
}
