//! Reads `CREATE JOB`, `RESTART JOB`, `CREATE SAVEPOINT`, `INSERT INTO … SELECT … [EMIT …]` and the block of several INSERTs.
use datafusion::{
    arrow::compute::kernels::cast_utils::string_to_timestamp_nanos,
    sql::sqlparser::{
        keywords::Keyword,
        tokenizer::{Token, TokenWithSpan},
    },
};

use super::{cursor::Cursor, queries::query, table::options, tokenise, window::is_word};
use crate::{
    error::SqlError,
    location::{LineIndex, Location},
    options::kafka::StartupMode,
    statement::{CreateJob, EarlierRows, Emit, Insert, OptionEntry, RestartFrom, RestartJob, StatementKind},
};

/// Most INSERTs of one job.
const MAX_INSERTS: usize = 64;

/// After `CREATE JOB` or `UPGRADE JOB`.
pub(super) fn create_job(cursor: &mut Cursor<'_>) -> Result<CreateJob, SqlError> {
    let if_not_exists = cursor.words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.job_name()?;
    let options = if cursor.is_word("WITH") { options(cursor)? } else { Vec::new() };
    cursor.expect_word("AS")?;
    let inserts = if cursor.word("BEGIN") {
        block(cursor, &name)?
    } else if cursor.is_word("INSERT") {
        vec![insert(cursor)?]
    } else {
        let hint = format!("a job fills a table: CREATE JOB {name} AS INSERT INTO t SELECT …");
        return Err(cursor.expected_or("INSERT INTO or BEGIN", &hint));
    };
    Ok(CreateJob { name, if_not_exists, options, inserts })
}

/// The text of a `CREATE JOB` that has no WITH, with these options.
pub(crate) fn with_options(sql: &str, options: &[OptionEntry]) -> Result<String, SqlError> {
    let tokens = tokenise(sql)?;
    let words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    // CREATE, JOB and the name, which may be any word.
    let mut after_name = words.skip(3);
    let is_as = |token: &&TokenWithSpan| matches!(&token.token, Token::Word(word) if word.keyword == Keyword::AS);
    let (Some(place), false) = (after_name.find(is_as), options.is_empty()) else { return Ok(sql.to_owned()) };
    let (before, after) = sql.split_at(LineIndex::new(sql).offset(place.span.start.into()));
    let quoted = |text: &str| Token::SingleQuotedString(text.replace('\'', "''"));
    let pairs: Vec<String> = options.iter().map(|entry| format!("{} = {}", quoted(&entry.key), quoted(&entry.value))).collect();
    Ok(format!("{before}WITH ({}) {after}", pairs.join(", ")))
}

/// After `RESTART JOB`: `name [FROM EARLIEST | LATEST | TIMESTAMP '…' | SAVEPOINT s] KEEP | REPLACE [DISCARD]`.
pub(super) fn restart_job(cursor: &mut Cursor<'_>) -> Result<RestartJob, SqlError> {
    let name = cursor.job_name()?;
    let from = if cursor.word("FROM") { Some(start(cursor)?) } else { None };
    let at = cursor.at();
    let earlier_rows = if cursor.word("REPLACE") {
        EarlierRows::Replace
    } else if cursor.word("KEEP") {
        EarlierRows::Keep
    } else {
        let hint = "rows that the earlier run wrote stay, or go once the new run has caught up; the new run writes over those of the same key";
        return Err(cursor.expected_or("KEEP or REPLACE", hint));
    };
    if let (EarlierRows::Replace, Some(RestartFrom::Savepoint(savepoint))) = (earlier_rows, &from) {
        let message = format!(
            "REPLACE would delete the rows that the state of savepoint {savepoint} stands for, as they are not written again; write KEEP"
        );
        return Err(SqlError::unsupported_at(at, message));
    }
    let at = cursor.at();
    let discard = cursor.word("DISCARD");
    if let (true, Some(RestartFrom::Savepoint(savepoint))) = (discard, &from) {
        let message = format!("DISCARD would skip changes that savepoint {savepoint} counts as written; leave it out");
        return Err(SqlError::unsupported_at(at, message));
    }
    Ok(RestartJob { name, from, earlier_rows, discard })
}

/// After `CREATE SAVEPOINT`: `name FOR JOB job`.
pub(super) fn create_savepoint(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    let name = cursor.savepoint_name()?;
    if !cursor.words(&["FOR", "JOB"]) {
        return Err(cursor.expected_or("FOR JOB", &format!("write CREATE SAVEPOINT {name} FOR JOB name")));
    }
    Ok(StatementKind::CreateSavepoint { name, job: cursor.job_name()? })
}

fn start(cursor: &mut Cursor<'_>) -> Result<RestartFrom, SqlError> {
    if cursor.word("EARLIEST") {
        return Ok(RestartFrom::Offsets(StartupMode::Earliest));
    }
    if cursor.word("LATEST") {
        return Ok(RestartFrom::Offsets(StartupMode::Latest));
    }
    if cursor.word("SAVEPOINT") {
        return Ok(RestartFrom::Savepoint(cursor.savepoint_name()?));
    }
    if !cursor.word("TIMESTAMP") {
        return Err(cursor.expected("EARLIEST, LATEST, TIMESTAMP '…' or SAVEPOINT name"));
    }
    let at = cursor.at();
    let text = cursor.string("a time such as '2026-01-01T00:00:00Z'")?;
    let millis = match text.parse() {
        Ok(millis) => Some(millis),
        Err(_) => string_to_timestamp_nanos(&text).ok().map(|nanos| nanos.div_euclid(1_000_000)),
    };
    match millis {
        Some(millis) if millis >= 0 => Ok(RestartFrom::Offsets(StartupMode::Timestamp { millis })),
        _ => Err(SqlError::invalid_at(
            at,
            format!("{text:?} is no time; write for example '2026-01-01T00:00:00Z', or milliseconds since 1970"),
        )),
    }
}

/// After `BEGIN`: `INSERT …; INSERT …; END`. The last semicolon may be left out.
fn block(cursor: &mut Cursor<'_>, job: &str) -> Result<Vec<Insert>, SqlError> {
    let mut inserts = Vec::new();
    loop {
        while cursor.token(&Token::SemiColon) {}
        if cursor.word("END") {
            break;
        }
        if !cursor.is_word("INSERT") {
            let hint = format!(
                "a block holds INSERTs only: CREATE JOB {job} AS BEGIN INSERT …; INSERT …; END (in psql, which cuts at semicolons, write \\; for those inside)"
            );
            return Err(cursor.expected_or("INSERT INTO or END", &hint));
        }
        let at = cursor.at();
        if inserts.len() == MAX_INSERTS {
            return Err(SqlError::invalid_at(
                at,
                format!("job {job} has more than {MAX_INSERTS} INSERTs; make several jobs of it"),
            ));
        }
        let length = Blocks::inside().statement_length(cursor.remaining());
        let mut one = cursor.take(length);
        inserts.push(insert(&mut one)?);
        one.finish()?;
    }
    if inserts.is_empty() {
        return Err(SqlError::invalid_at(cursor.at(), format!("job {job} has no INSERT between BEGIN and END; write one")));
    }
    Ok(inserts)
}

/// `INSERT INTO [TABLE] t [(columns)] query [EMIT ON …]`.
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
    if let Some(at) = conflict_at(cursor.remaining()) {
        let message = "ON CONFLICT does not exist; leave it out, as INSERT INTO a table with a PRIMARY KEY already replaces rows of the same key";
        return Err(SqlError::unsupported_at(at, message));
    }
    let starts_query =
        *cursor.peek() == Token::LParen || ["SELECT", "WITH", "VALUES", "TABLE", "FROM"].iter().any(|word| cursor.is_word(word));
    if !starts_query {
        return Err(cursor.expected("SELECT or VALUES"));
    }
    let Some(length) = emit_at(cursor.remaining()) else {
        return Ok(Insert { target, columns, query: query(cursor)?, emit: Emit::default(), at });
    };
    let query = query(&mut cursor.take(length))?;
    Ok(Insert { target, columns, query, emit: emit(cursor)?, at })
}

/// `EMIT ON WINDOW CLOSE` or `EMIT ON UPDATE`.
fn emit(cursor: &mut Cursor<'_>) -> Result<Emit, SqlError> {
    if cursor.words(&["EMIT", "ON", "WINDOW", "CLOSE"]) {
        return Ok(Emit::OnWindowClose);
    }
    if cursor.words(&["EMIT", "ON", "UPDATE"]) {
        return Ok(Emit::OnUpdate);
    }
    Err(cursor.expected_or("EMIT ON WINDOW CLOSE or EMIT ON UPDATE", "rows are written when a window closes, or at every change"))
}

/// How many tokens stand before `EMIT ON` at the top level, or before ksqlDB's `EMIT CHANGES` and `EMIT FINAL` at the end.
pub(super) fn emit_at(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            token if depth == 0 && is_word(token, "EMIT") => {
                let mut following = tokens[index + 1..].iter().map(|token| &token.token);
                let mut next = || following.find(|token| !matches!(token, Token::Whitespace(_)));
                let is_emit = match next() {
                    Some(token) if is_word(token, "ON") => true,
                    Some(token) if is_word(token, "CHANGES") || is_word(token, "FINAL") => {
                        next().is_none_or(|token| is_word(token, "LIMIT"))
                    }
                    _ => false,
                };
                if is_emit {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// Where PostgreSQL's `ON CONFLICT …` or MySQL's `ON DUPLICATE KEY …` begins. `JOIN t ON conflict = 1` has neither.
fn conflict_at(tokens: &[TokenWithSpan]) -> Option<Location> {
    let words: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    words.windows(3).find_map(|words| {
        let [on, first, second] = words else { return None };
        let of_postgresql = is_word(&first.token, "CONFLICT")
            && (second.token == Token::LParen || is_word(&second.token, "DO") || is_word(&second.token, "ON"));
        let of_mysql = is_word(&first.token, "DUPLICATE") && is_word(&second.token, "KEY");
        (is_word(&on.token, "ON") && (of_postgresql || of_mysql)).then(|| on.span.start.into())
    })
}

/// Tells the semicolons that end a statement from those inside `CREATE JOB … AS BEGIN … END`, and `UPGRADE JOB` likewise.
#[derive(Default)]
pub(super) struct Blocks {
    /// Words of the statement so far, as far as they matter: `CREATE … JOB` seen, then `AS`, then `BEGIN`.
    progress: usize,
    in_block: bool,
    cases: usize,
    depth: usize,
}

impl Blocks {
    /// In a block already.
    fn inside() -> Self {
        Self { in_block: true, ..Self::default() }
    }

    /// Takes one token; true when it is a semicolon that ends the statement.
    pub fn ends_at(&mut self, token: &Token) -> bool {
        match token {
            Token::SemiColon if !self.in_block => {
                *self = Self::default();
                return true;
            }
            Token::LParen => self.depth += 1,
            Token::RParen => self.depth = self.depth.saturating_sub(1),
            Token::Word(word) if word.quote_style.is_none() => self.word(&word.value.to_ascii_uppercase()),
            _ => {}
        }
        false
    }

    fn word(&mut self, word: &str) {
        if self.in_block {
            match word {
                "CASE" => self.cases += 1,
                "END" if self.cases > 0 => self.cases -= 1,
                "END" => self.in_block = false,
                _ => {}
            }
            return;
        }
        self.progress = match (self.progress, word) {
            (0, "EXPLAIN" | "PLAN" | "FOR" | "VERBOSE" | "ANALYZE") => 0,
            (0, "CREATE" | "UPGRADE") => 1,
            (1, "JOB") => 2,
            (2, "AS") if self.depth == 0 => 3,
            (3, "BEGIN") => {
                self.in_block = true;
                4
            }
            (2, _) => 2,
            // Another statement.
            _ => 5,
        };
    }

    /// How many tokens of a block's INSERT come before its semicolon or the block's END.
    fn statement_length(mut self, tokens: &[TokenWithSpan]) -> usize {
        for (index, token) in tokens.iter().enumerate() {
            self.ends_at(&token.token);
            if !self.in_block || token.token == Token::SemiColon {
                return index;
            }
        }
        tokens.len()
    }
}

/// `(a, b) SELECT …`, told apart from `(SELECT …)`.
fn starts_column_list(cursor: &Cursor<'_>) -> bool {
    let mut ahead = cursor.clone();
    ahead.token(&Token::LParen)
        && *ahead.peek() != Token::LParen
        && !["SELECT", "WITH", "VALUES", "TABLE", "FROM"].iter().any(|word| ahead.is_word(word))
}

pub(super) fn columns(cursor: &mut Cursor<'_>) -> Result<Vec<String>, SqlError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::parse;

    fn kind(sql: &str) -> StatementKind {
        let mut statements = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        statements.remove(0).kind
    }

    fn message(sql: &str) -> String {
        parse(sql).expect_err(sql).to_string()
    }

    #[test]
    fn a_restart_says_from_where_and_what_becomes_of_rows() {
        let restart = |sql: &str| match kind(sql) {
            StatementKind::RestartJob(restart) => (restart.from, restart.earlier_rows, restart.discard),
            other => panic!("{other:?}"),
        };
        assert_eq!(restart("RESTART JOB j KEEP"), (None, EarlierRows::Keep, false));
        let earliest = Some(RestartFrom::Offsets(StartupMode::Earliest));
        assert_eq!(restart("RESTART JOB j FROM EARLIEST REPLACE DISCARD"), (earliest, EarlierRows::Replace, true));
        let millis = 1_767_225_600_000;
        let at = Some(RestartFrom::Offsets(StartupMode::Timestamp { millis }));
        for time in ["2026-01-01T00:00:00Z", "2026-01-01 00:00:00", "2026-01-01T01:00:00+01:00", "1767225600000"] {
            let sql = format!("RESTART JOB j FROM TIMESTAMP '{time}' KEEP");
            assert_eq!(restart(&sql), (at.clone(), EarlierRows::Keep, false), "{time}");
        }
        let savepoint = Some(RestartFrom::Savepoint("s-1".into()));
        assert_eq!(restart("RESTART JOB j FROM SAVEPOINT \"s-1\" KEEP"), (savepoint, EarlierRows::Keep, false));
        assert!(message("RESTART JOB j").contains("KEEP or REPLACE"));
        assert!(message("RESTART JOB j FROM SAVEPOINT s REPLACE").contains("write KEEP"));
        assert!(message("RESTART JOB j FROM SAVEPOINT s KEEP DISCARD").contains("leave it out"));
        assert!(message("RESTART JOB j FROM NOWHERE KEEP").contains("SAVEPOINT name"));
        assert!(message("RESTART JOB j FROM TIMESTAMP 'noon' KEEP").contains("\"noon\" is no time"));
    }

    #[test]
    fn what_others_do_about_rows_of_the_same_key_needs_no_words() {
        for sql in [
            "INSERT INTO u VALUES (1, 2) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
            "INSERT INTO u (a) SELECT a FROM t ON CONFLICT DO NOTHING",
            "INSERT INTO u SELECT a FROM t ON DUPLICATE KEY UPDATE b = 1",
        ] {
            assert!(message(sql).contains("already replaces rows of the same key"), "{sql}");
        }
        assert!(matches!(kind("INSERT INTO u SELECT a FROM t JOIN c ON conflict = a"), StatementKind::Insert(_)));
    }

    #[test]
    fn emit_of_ksqldb_is_answered_with_what_to_write() {
        assert!(message("CREATE VIEW w AS SELECT a FROM t EMIT CHANGES").contains("leave it out here"));
        assert!(message("INSERT INTO u SELECT a FROM t EMIT CHANGES").contains("EMIT ON WINDOW CLOSE or EMIT ON UPDATE"));
        assert!(message("INSERT INTO u SELECT a FROM t EMIT FINAL").contains("when a window closes"));
        assert!(matches!(kind("SELECT emit changes FROM t"), StatementKind::Query(_)));
    }

    #[test]
    fn savepoints_letters_and_verifications_have_statements() {
        assert_eq!(kind("CREATE SAVEPOINT s FOR JOB j"), StatementKind::CreateSavepoint { name: "s".into(), job: "j".into() });
        assert_eq!(kind("DROP SAVEPOINT IF EXISTS s;"), StatementKind::DropSavepoint { name: "s".into(), if_exists: true });
        assert_eq!(kind("SHOW SAVEPOINTS"), StatementKind::Show(crate::statement::Show::Savepoints));
        assert_eq!(kind("VERIFY JOB j"), StatementKind::VerifyJob { name: "j".into() });
        let replay = |job: Option<&str>, id: Option<&str>| StatementKind::ReplayDeadLetters {
            job: job.map(str::to_owned),
            id: id.map(str::to_owned),
        };
        assert_eq!(kind("REPLAY DEAD LETTERS"), replay(None, None));
        assert_eq!(kind("REPLAY DEAD LETTERS FOR JOB j"), replay(Some("j"), None));
        assert_eq!(kind("REPLAY DEAD LETTERS 'i/t/0/7'"), replay(None, Some("i/t/0/7")));
        assert!(message("CREATE SAVEPOINT s").contains("FOR JOB"));
        assert!(message("CREATE SAVEPOINT \"a/b\" FOR JOB j").contains("cannot name a savepoint"));
        assert!(message("REPLAY LETTERS").contains("DEAD LETTERS"));
        // The transaction's word is another statement.
        assert!(matches!(kind("SAVEPOINT s"), StatementKind::Session(_)));
    }
}
