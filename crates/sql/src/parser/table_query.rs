//! `TABLE t` as a query becomes `SELECT * FROM t`: sqlparser takes the next three tokens for the name, and DataFusion makes no plan of it.
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::window::{Writer, is_word, next};
use crate::error::SqlError;

const OPERATORS: [&str; 4] = ["UNION", "EXCEPT", "INTERSECT", "MINUS"];

/// What may follow a query's body, besides operators.
const CLAUSES: [&str; 5] = ["ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"];

/// What only SELECT takes.
const OF_SELECT: [&str; 4] = ["WHERE", "GROUP", "HAVING", "JOIN"];

/// The tokens of a query, lowered; window functions, which take `TABLE t` as an argument, are no more among them.
///
/// # Errors
/// When clauses of SELECT follow the table's name.
pub(super) fn lower(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>, SqlError> {
    let mut lowered = Vec::with_capacity(tokens.len());
    for (at, token) in tokens.iter().enumerate() {
        let follows =
            if is_word(&token.token, "TABLE") && begins_a_body(&tokens[..at]) { behind_name(&tokens[at + 1..]) } else { None };
        match follows {
            Some(rest) if is_end_of_a_body(rest) => Writer { span: token.span, out: &mut lowered }.text("SELECT * FROM")?,
            Some([clause, ..]) if OF_SELECT.iter().any(|word| is_word(&clause.token, word)) => {
                let message = format!(
                    "TABLE name stands for SELECT * FROM name and takes no {0}; write SELECT * FROM name {0} …",
                    clause.token.to_string().to_uppercase()
                );
                return Err(SqlError::unsupported_at(token.span.start.into(), message));
            }
            _ => lowered.push(token.clone()),
        }
    }
    Ok(lowered)
}

fn begins_a_body(before: &[TokenWithSpan]) -> bool {
    let is_operator = |token: &Token| OPERATORS.iter().any(|word| is_word(token, word));
    let mut before = before.iter().rev().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_)));
    match before.next() {
        // After a bracket closes: the query of a WITH.
        None | Some(Token::LParen | Token::RParen) => true,
        Some(token) if is_word(token, "ALL") || is_word(token, "DISTINCT") => before.next().is_some_and(is_operator),
        Some(token) => is_operator(token),
    }
}

/// What comes after a table's name.
fn behind_name(after: &[TokenWithSpan]) -> Option<&[TokenWithSpan]> {
    let mut at = next(after, 0);
    while let Some(Token::Word(_)) = after.get(at).map(|token| &token.token) {
        at = next(after, at + 1);
        match after.get(at).map(|token| &token.token) {
            Some(Token::Period) => at = next(after, at + 1),
            _ => return Some(&after[at..]),
        }
    }
    None
}

/// A column or a table that is called `table` is followed by something else.
fn is_end_of_a_body(rest: &[TokenWithSpan]) -> bool {
    match rest.first().map(|token| &token.token) {
        None | Some(Token::RParen) => true,
        Some(token) => OPERATORS.iter().chain(&CLAUSES).any(|word| is_word(token, word)),
    }
}

#[cfg(test)]
mod tests {
    use crate::{parser::parse, statement::StatementKind};

    fn query(sql: &str) -> String {
        let StatementKind::Query(query) = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}")).remove(0).kind else {
            panic!("not a query: {sql}")
        };
        query.ast.to_string()
    }

    #[test]
    fn a_table_alone_is_a_query() {
        for (written, meant) in [
            ("TABLE t", "SELECT * FROM t"),
            ("table s.\"Odd\" ORDER BY a LIMIT 3", "SELECT * FROM s.\"Odd\" ORDER BY a LIMIT 3"),
            ("TABLE t UNION ALL TABLE u", "SELECT * FROM t UNION ALL SELECT * FROM u"),
            ("WITH c AS (TABLE t) TABLE c", "WITH c AS (SELECT * FROM t) SELECT * FROM c"),
            ("SELECT a FROM (TABLE t) AS x", "SELECT a FROM (SELECT * FROM t) AS x"),
            ("SELECT a IN (TABLE t) FROM u", "SELECT a IN (SELECT * FROM t) FROM u"),
        ] {
            assert_eq!(query(written), query(meant), "{written}");
        }
        for other in ["SELECT DISTINCT table FROM t", "SELECT (table IS NULL) FROM t", "SELECT count(table) FROM t"] {
            assert_eq!(query(other), other);
        }
        for (sql, clause) in [("TABLE f WHERE a = 1", "WHERE"), ("SELECT 1 UNION TABLE s.f group by a", "GROUP")] {
            let error = parse(sql).unwrap_err().to_string();
            assert!(error.contains(&format!("write SELECT * FROM name {clause} …")), "{sql}: {error}");
        }
        for sql in [
            "INSERT INTO x TABLE t",
            "INSERT INTO TABLE x (a) TABLE t EMIT ON UPDATE",
            "CREATE VIEW v AS TABLE t",
            "EXPLAIN TABLE t",
        ] {
            let selecting = sql.replace("TABLE t", "SELECT * FROM t");
            let shown = |sql: &str| {
                format!("{:?}", parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))[0].kind).replace(char::is_numeric, "")
            };
            assert_eq!(shown(sql), shown(&selecting), "{sql}");
        }
    }
}
