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
mod first_word;
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
mod objects;
mod operators_by_name;
mod ordered_aggregates;
mod ordinals;
mod patterns;
mod precedence;
mod queries;
mod rows;
mod session;
mod showing;
mod table;
mod table_functions;
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
    calls::{clause_beside_rows, clause_of, is_distinct, takes_no},
    casts::beneath,
    function::{data_type, is_free},
    headings::{folded, is_wildcard},
    interval::microseconds,
    job::with_options,
    marks::{with_named_casts, with_negatives},
    ordinals::with_places,
    window::call_of,
};
use self::{cursor::Cursor, dialect::Generic, first_word::read_statement, job::Blocks, window::Place};
use crate::{
    error::SqlError,
    limits::{Limits, check_bytes},
    location::{LineIndex, Location},
    statement::Statement,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::StatementKind;

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
            ("SELECT a # 2 FROM t", "write bitxor(a, b)"),
            ("SELECT * FROM TABLE(FLATTEN(INPUT => a)) f", "write FROM t CROSS JOIN UNNEST(array) AS x (item)"),
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
