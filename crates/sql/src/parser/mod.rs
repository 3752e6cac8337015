//! One parser for every door. Scripts are tokenised as a whole, so that strings, comments and quoted identifiers are what they look
//! like; limits are checked on tokens; our own statements are read here, queries and expressions by sqlparser.
mod building;
mod calls;
mod casts;
mod clauses;
mod counts;
mod cursor;
mod dates;
mod dialect;
mod equivalents;
mod first_rows;
mod function;
mod group_window;
mod grouping_sets;
mod headings;
mod hints;
mod instants;
mod interval;
mod interval_products;
mod interval_ranges;
mod job;
mod json_clauses;
mod marks;
mod named_windows;
mod numbers;
mod ordered_aggregates;
mod ordinals;
mod patterns;
mod precedence;
mod rows;
mod session;
mod table;
mod table_query;
mod text_lengths;
mod to_char;
mod types;
mod unnest;
mod view;
mod window;

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast,
    tokenizer::{Token, TokenWithSpan, Tokenizer},
};

pub(crate) use self::{
    building::only,
    calls::{clause_of, takes_no},
    casts::beneath,
    function::{data_type, is_free},
    headings::{folded, is_wildcard},
    interval::microseconds,
    job::with_options,
    marks::{with_named_casts, with_negatives},
    ordinals::with_places,
    window::call_of,
};
use self::{cursor::Cursor, dialect::Generic, job::Blocks, window::Place};
use crate::{
    catalog::CONNECTORS,
    error::{SqlError, did_you_mean},
    limits::{Limits, check_bytes},
    location::{LineIndex, Location},
    statement::{Explain, ExplainTarget, JobAction, Query, Show, Statement, StatementKind},
    types::SqlType,
    walk::visit_expressions_mut,
};

/// The statements of a script, with `;` between them, under the default [`Limits`].
///
/// # Errors
/// The first error, with its place.
pub fn parse(sql: &str) -> Result<Vec<Statement>, SqlError> {
    parse_with(sql, Limits::default())
}

/// The same under other limits.
pub fn parse_with(sql: &str, limits: Limits) -> Result<Vec<Statement>, SqlError> {
    parse_script(sql, limits).into_iter().collect()
}

/// Exactly one statement, a trailing `;` allowed.
pub fn parse_one(sql: &str, limits: Limits) -> Result<Statement, SqlError> {
    let mut statements = parse_with(sql, limits)?.into_iter();
    let Some(first) = statements.next() else {
        return Err(SqlError::syntax(Location::START, "expected a statement, found nothing"));
    };
    match statements.next() {
        None => Ok(first),
        Some(second) => Err(SqlError::syntax(second.at, "expected one statement, found a second; send them one by one")),
    }
}

/// Every statement of a script, or what is wrong with it: an error ends its statement, not the script. (An unclosed string or comment
/// ends the script: nobody can tell where the next statement starts.)
pub fn parse_script(sql: &str, limits: Limits) -> Vec<Result<Statement, SqlError>> {
    if let Err(error) = check_bytes(sql) {
        return vec![Err(error)];
    }
    let tokens = match tokenise(sql) {
        Ok(tokens) => tokens,
        Err(error) => return vec![Err(error)],
    };
    let index = LineIndex::new(sql);
    let mut blocks = Blocks::default();
    // `split` takes the token that ends a statement away; the next statement's slice begins after it.
    let split: Vec<&[TokenWithSpan]> = tokens.split(|token| blocks.ends_at(&token.token)).collect();
    let mut taken = 0;
    split
        .into_iter()
        .map(|statement| {
            taken += statement.len() + 1;
            let end = tokens.get(taken - 1).map_or_else(|| index.end(), |token| Location::from(token.span.start));
            (statement, end)
        })
        .filter(|(statement, _)| statement.iter().any(|token| !matches!(token.token, Token::Whitespace(_))))
        .map(|(statement, end)| {
            limits.check_depth(statement)?;
            let lowered = hints::lower(statement, Place { end, limits })?;
            let mut cursor = Cursor::new(&lowered, end, limits);
            let at = cursor.at();
            let kind = read_statement(&mut cursor)?;
            let text = sql[index.offset(at)..index.offset(end)].trim_end().to_owned();
            Ok(Statement { kind, sql: text, at })
        })
        .collect()
}

/// Whether `sql` ends with the semicolon of its last statement, so that a prompt can send it. Semicolons inside strings and inside
/// `CREATE JOB … AS BEGIN … END` end nothing.
pub fn is_complete(sql: &str) -> bool {
    let Ok(tokens) = tokenise(sql) else { return false };
    let mut blocks = Blocks::default();
    let mut complete = false;
    for token in tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))) {
        complete = blocks.ends_at(&token.token);
    }
    complete
}

/// How far a stored watermark expression stays behind its column, in microseconds.
pub(crate) fn watermark_delay(column: &str, expression: &str) -> Option<i64> {
    table::stored_delay(column, expression, Limits::default())
}

/// A stored expression, as queries have it.
pub(crate) fn expression(text: &str) -> Result<ast::Expr, SqlError> {
    let tokens = tokenise(text)?;
    let mut expression = Cursor::new(&tokens, Location::START, Limits::default()).rest(|parser| parser.parse_expr())?;
    precedence::mend(&mut expression);
    Ok(expression)
}

/// Rewrites an expression that stands alone as those of queries are.
fn rewrite_alone(expression: &mut ast::Expr, at: Location) -> Result<(), SqlError> {
    rows::rewrite(expression, at)?;
    equivalents::rewrite(expression, at)?;
    text_lengths::cut(expression, at)
}

/// A column's type by its words alone.
pub(crate) fn column_type(words: &str) -> Result<SqlType, SqlError> {
    let tokens = tokenise(words)?;
    let mut cursor = Cursor::new(&tokens, Location::START, Limits::default());
    let known = types::read_type(&mut cursor)?;
    if *cursor.peek() == Token::EOF { Ok(known) } else { Err(cursor.expected("the end of the type")) }
}

pub(crate) fn tokenise(sql: &str) -> Result<Vec<TokenWithSpan>, SqlError> {
    Tokenizer::new(&Generic, sql).tokenize_with_location().map_err(|error| {
        let at = Location::from(error.location);
        let at = if at.line == 0 { Location::START } else { at };
        SqlError::syntax(at, lower_first(&error.message))
    })
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

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

fn read_statement(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
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

/// Rewrites each expression, those inside first, until one is refused.
fn rewrite_each<T: ast::VisitMut>(
    node: &mut T,
    at: Location,
    mut rewrite: impl FnMut(&mut ast::Expr) -> Result<(), String>,
) -> Result<(), SqlError> {
    let outcome = visit_expressions_mut(node, |expression| match rewrite(expression) {
        Ok(()) => ControlFlow::Continue(()),
        Err(message) => ControlFlow::Break(message),
    });
    match outcome {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(SqlError::invalid_at(at, message)),
    }
}

/// The rest of the statement as a query.
fn query(cursor: &mut Cursor<'_>) -> Result<Box<ast::Query>, SqlError> {
    headed_query(cursor).map(|query| query.ast)
}

/// A query that is the whole statement: its rows may be asked for as they come, by ksqlDB's `EMIT CHANGES` before or after LIMIT.
fn query_by_itself(cursor: &mut Cursor<'_>) -> Result<Query, SqlError> {
    let Some(before) = job::emit_at(cursor.remaining()) else { return headed_query(cursor) };
    let mut behind = cursor.clone();
    behind.take(before);
    if !behind.words(&["EMIT", "CHANGES"]) {
        return headed_query(cursor);
    }
    let tokens = [&cursor.remaining()[..before], behind.remaining()].concat();
    let query = headed_query(&mut Cursor::new(&tokens, cursor.end(), cursor.limits()))?;
    cursor.take(usize::MAX);
    Ok(Query { emit_changes: true, ..query })
}

/// The rest of the statement as a query whose rows somebody looks at.
fn headed_query(cursor: &mut Cursor<'_>) -> Result<Query, SqlError> {
    let at = cursor.at();
    if let Some(before) = job::emit_at(cursor.remaining()) {
        cursor.take(before);
        let message = "EMIT ON … belongs to a job's INSERT, and EMIT CHANGES to the end of a SELECT by itself; leave it out";
        return Err(SqlError::unsupported_at(cursor.at(), message));
    }
    casts::refuse_nested(cursor.remaining())?;
    let place = Place { end: cursor.end(), limits: cursor.limits() };
    let lowered = table_query::lower(&window::lower(cursor.remaining(), place)?)?;
    let mut query = Cursor::new(&lowered, place.end, place.limits).rest(|parser| parser.parse_query())?;
    cursor.take(usize::MAX);
    let headings = headings::of(&query);
    precedence::mend(&mut query);
    first_rows::limit(&mut query, at)?;
    named_windows::resolve(&mut query, at)?;
    numbers::keep_digits(&mut query, at)?;
    rows::rewrite(&mut query, at)?;
    equivalents::rewrite(&mut query, at)?;
    counts::count_together(&mut query);
    // Behind it: a cast that is cut has the name of its column, too.
    casts::name(&mut query);
    text_lengths::cut(&mut query, at)?;
    unnest::rewrite(&mut query, at)?;
    group_window::rewrite(&mut query, at, place)?;
    // Last: those before change SELECT alone.
    ordinals::resolve(&mut query);
    clauses::refuse(&query, at)?;
    Ok(Query { ast: query, headings, emit_changes: false })
}

fn create(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    let at = cursor.at();
    cursor.advance();
    let refuse = |message: &str| Err(SqlError::unsupported_at(at, message));
    if cursor.words(&["OR", "REPLACE"]) {
        if let Some(create) = function::create(cursor, true)? {
            return Ok(StatementKind::CreateFunction(create));
        }
        return refuse("CREATE OR REPLACE is for functions alone; write DROP and CREATE");
    }
    if cursor.word("EXTERNAL") {
        return refuse(&format!(
            "CREATE EXTERNAL TABLE reads files of the server, which SQL cannot do here; write CREATE TABLE … WITH ('connector' = {}, …)",
            CONNECTORS.map(|name| format!("'{name}'")).join(" | ")
        ));
    }
    if cursor.words(&["TEMPORARY", "VIEW"]) || cursor.words(&["TEMP", "VIEW"]) || cursor.word("VIEW") {
        return Ok(StatementKind::CreateView(view::create_view(cursor)?));
    }
    if let Some(create) = function::create(cursor, false)? {
        return Ok(StatementKind::CreateFunction(create));
    }
    if cursor.word("TEMPORARY") || cursor.word("TEMP") {
        return refuse("temporary tables are not supported; write CREATE TABLE, and DROP TABLE when done");
    }
    if cursor.word("TABLE") {
        return Ok(StatementKind::CreateTable(table::create_table(cursor)?));
    }
    if cursor.word("JOB") {
        return Ok(StatementKind::CreateJob(job::create_job(cursor)?));
    }
    if cursor.word("SAVEPOINT") {
        return job::create_savepoint(cursor);
    }
    if cursor.word("MODEL") {
        return refuse("models are not supported yet; this version has tables and jobs");
    }
    if cursor.word("STREAM") {
        return refuse(
            "a stream is a table: CREATE TABLE … WITH ('connector' = 'kafka', …); one AS SELECT is a table that a job fills: CREATE JOB … AS INSERT INTO …",
        );
    }
    if cursor.word("SOURCE") {
        return refuse("a source is a table: CREATE TABLE … WITH ('connector' = 'kafka', 'topic' = …, 'format' = 'json')");
    }
    if cursor.word("SINK") {
        return refuse(
            "a sink is a table that a job fills: CREATE TABLE … WITH ('connector' = …), then CREATE JOB … AS INSERT INTO … SELECT …",
        );
    }
    if cursor.words(&["MATERIALIZED", "VIEW"]) {
        return refuse(
            "a materialized view is a table and a job that fills it: CREATE TABLE … WITH ('connector' = …), then CREATE JOB … AS INSERT INTO … SELECT …",
        );
    }
    if cursor.word("SCHEMA") || cursor.word("DATABASE") || cursor.word("CATALOG") {
        return refuse("schemas need no CREATE: declare a table as schema.table");
    }
    if cursor.word("INDEX") || cursor.words(&["UNIQUE", "INDEX"]) {
        return refuse("indexes do not exist; choose the table's PRIMARY KEY by how it is read");
    }
    if cursor.word("ROLE") || cursor.word("USER") {
        return refuse("CREATE ROLE does not exist; roles are in the server's roles file");
    }
    Err(cursor.expected("TABLE, VIEW, FUNCTION, JOB or SAVEPOINT"))
}

fn drop_object(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    let at = cursor.at();
    cursor.advance();
    let temporary = cursor.word("TEMPORARY");
    if cursor.words(&["AGGREGATE", "FUNCTION"]) || cursor.word("AGGREGATE") || cursor.word("FUNCTION") {
        return function::drop_function(cursor);
    }
    let is_view = cursor.word("VIEW");
    let is_table = !is_view && !temporary && cursor.word("TABLE");
    let is_job = !is_view && !is_table && !temporary && cursor.word("JOB");
    let is_savepoint = !is_view && !is_table && !is_job && !temporary && cursor.word("SAVEPOINT");
    if !is_view && !is_table && !is_job && !is_savepoint {
        return Err(cursor.expected("TABLE, VIEW, FUNCTION, JOB or SAVEPOINT"));
    }
    let if_exists = cursor.words(&["IF", "EXISTS"]);
    if is_job {
        return Ok(StatementKind::DropJob { name: cursor.job_name()?, if_exists });
    }
    if is_savepoint {
        return Ok(StatementKind::DropSavepoint { name: cursor.savepoint_name()?, if_exists });
    }
    let name = cursor.relation()?;
    if is_view && !cursor.is_word("CASCADE") {
        cursor.word("RESTRICT");
        return Ok(StatementKind::DropView { name, if_exists });
    }
    if cursor.word("CASCADE") {
        return Err(SqlError::unsupported_at(at, "DROP … CASCADE does not exist; drop the jobs and views that use it first"));
    }
    cursor.word("RESTRICT");
    Ok(StatementKind::DropTable { name, if_exists })
}

fn control(cursor: &mut Cursor<'_>, action: JobAction) -> Result<StatementKind, SqlError> {
    cursor.advance();
    cursor.expect_word("JOB")?;
    Ok(StatementKind::ControlJob { name: cursor.job_name()?, action })
}

fn show(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
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
fn describe(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    let mut ahead = cursor.clone();
    if ahead.word("FUNCTION") && matches!(ahead.peek(), Token::Word(_)) {
        *cursor = ahead;
        return Ok(StatementKind::Show(Show::CreateFunction(function::name(cursor)?)));
    }
    cursor.word("TABLE");
    Ok(StatementKind::Describe(cursor.relation()?))
}

fn explain(cursor: &mut Cursor<'_>) -> Result<Explain, SqlError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_is_answered_with_what_to_write() {
        for (sql, reason) in [
            ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'", "| 'upsert-kafka' | 'cassandra' | 'filesystem' |"),
            ("CREATE STREAM s (a INT) WITH (kafka_topic = 't')", "a stream is a table: CREATE TABLE"),
            ("CREATE SOURCE s WITH (connector = 'kafka')", "a source is a table: CREATE TABLE"),
            ("CREATE SINK s FROM m", "a sink is a table that a job fills"),
            ("CREATE MATERIALIZED VIEW m AS SELECT 1", "then CREATE JOB … AS INSERT INTO … SELECT …"),
            ("CREATE STREAM s AS SELECT a FROM t EMIT CHANGES", "CREATE JOB … AS INSERT INTO …"),
            ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", "already replaces rows of the same key"),
            ("UPDATE t SET a = 1", "write INSERT INTO t (key, …) SELECT …"),
            ("DELETE FROM t WHERE a = 1", "cqlsh"),
            ("EXECUTE STATEMENT SET BEGIN", "CREATE JOB name AS BEGIN INSERT …; INSERT …; END"),
            ("SELECT window(ts, '5 minutes'), count(*) FROM t GROUP BY window(ts, '5 minutes')", "write FROM TABLE(TUMBLE(TABLE t"),
            ("SELECT k, count(*) FROM t GROUP BY k, window(ts, '10 minutes', '5 minutes')", "HOP for a slide"),
            ("SELECT item FROM t LATERAL VIEW explode(items) e AS item", "CROSS JOIN UNNEST(array) AS x (item)"),
            ("SELECT trunc(ts, 'MM') FROM t", "write date_trunc('month', time)"),
            ("SELECT instr(a, 'b', 5) FROM t", "write locate(part, text, from)"),
            ("SELECT * FROM t MATCH_RECOGNIZE (PARTITION BY a)", "SESSION windows"),
            ("SELECT * FROM t PIVOT(sum(v) FOR k IN ('a' AS a)) AS p", "sum(v) FILTER (WHERE k = 'a') AS a"),
            ("SELECT a FROM t EMIT FINAL", "leave it out"),
            ("EXPLAIN SELECT a FROM t EMIT CHANGES", "leave it out"),
            ("SELECT a DIV 2 FROM t", "this operator does not exist"),
            ("SELECT a # 2 FROM t", "this operator does not exist"),
        ] {
            let error = parse(sql).unwrap_err().to_string();
            assert!(error.contains(reason), "{sql}: {error}");
        }
    }

    #[test]
    fn what_others_write_alike_is_understood() {
        for sql in [
            "SELECT a FROM t QUALIFY ROW_NUMBER() OVER (PARTITION BY a ORDER BY b) = 1",
            "SELECT sum(a) OVER w FROM t WINDOW w AS (PARTITION BY a, 'x' ORDER BY b)",
            "SELECT TUMBLE_START(ts, INTERVAL '5' MINUTE) FROM t GROUP BY TUMBLE(ts, INTERVAL '5' MINUTE)",
            "SET 'execution.checkpointing.interval' = '10s'",
            "USE CATALOG polybolos",
        ] {
            assert!(parse(sql).is_ok(), "{sql}: {:?}", parse(sql));
        }
    }

    #[test]
    fn rows_are_asked_for_as_they_come_in_the_words_of_ksqldb() {
        let query = |sql: &str| match parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}")).remove(0).kind {
            StatementKind::Query(query) => query,
            other => panic!("{sql} is no query: {other:?}"),
        };
        let bounded = query("SELECT a FROM t LIMIT 5");
        assert!(!bounded.emit_changes && !query("SELECT emit changes FROM t").emit_changes);
        for sql in ["SELECT a FROM t EMIT CHANGES LIMIT 5", "SELECT a FROM t LIMIT 5 EMIT CHANGES"] {
            let query = query(sql);
            assert!(query.emit_changes, "{sql}");
            assert_eq!(query.ast, bounded.ast, "{sql}");
        }
        for sql in ["(SELECT a FROM t) EMIT CHANGES", "SELECT a FROM t UNION ALL SELECT a FROM u emit changes;"] {
            assert!(query(sql).emit_changes, "{sql}");
        }
        assert!(parse("SELECT a FROM t LIMIT 1 EMIT CHANGES LIMIT 5").is_err());
    }

    #[test]
    fn a_plan_is_explained_in_the_words_of_flink() {
        let kind = |sql: &str| parse(sql).unwrap().remove(0).kind;
        assert_eq!(kind("EXPLAIN PLAN FOR SELECT a FROM t"), kind("EXPLAIN SELECT a FROM t"));
        let job = "CREATE JOB j AS BEGIN INSERT INTO u SELECT 1; INSERT INTO v SELECT 2; END";
        assert!(matches!(kind(&format!("EXPLAIN PLAN FOR {job}")), StatementKind::Explain(_)));
    }
}
