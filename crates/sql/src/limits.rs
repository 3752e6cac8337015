//! Limits that are checked on tokens, before anything recursive sees a statement: thousands of chained operators would overflow the
//! stack of parser, planner or optimiser and abort the process.
use datafusion::sql::sqlparser::{
    keywords::Keyword,
    tokenizer::{Token, TokenWithSpan},
};
use polybolos_tables::statement::{MAX_STATEMENT_BYTES, too_long};

use crate::{error::SqlError, location::Location};

/// A query inside of another takes as much stack as so many levels of an expression, and one for its parentheses.
const QUERY_LEVELS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Deepest expression or chain of relations; counted from above, as tokens tell it.
    pub expression_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { expression_depth: 256 }
    }
}

impl Limits {
    /// Refuses a statement whose tree could become deeper than allowed.
    pub(crate) fn check_depth(&self, tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
        let mut levels = vec![Level::default()];
        // Depth of everything below the innermost level.
        let mut outer = 0;
        let mut after_as = false;
        let mut after_open = false;
        for token in tokens {
            if matches!(token.token, Token::Whitespace(_)) {
                continue;
            }
            let is_query = matches!(&token.token, Token::Word(word) if matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES));
            if after_open
                && is_query
                && let Some(level) = levels.last_mut()
            {
                level.relations += QUERY_LEVELS;
            }
            after_open = token.token == Token::LParen;
            match &token.token {
                Token::LParen | Token::LBracket | Token::LBrace => {
                    if let Some(level) = levels.last_mut() {
                        // `WITH a AS (…), b AS (SELECT … FROM a)`: each may stand on the one before it.
                        level.relations += usize::from(after_as);
                    }
                    outer += levels.last().map_or(0, Level::depth) + 1;
                    levels.push(Level::default());
                }
                Token::RParen | Token::RBracket | Token::RBrace => {
                    if levels.len() > 1 {
                        levels.pop();
                        outer -= levels.last().map_or(0, Level::depth) + 1;
                        if let Some(level) = levels.last_mut() {
                            // `f(…)(…)`, `a[1][2]`: each subscript is one deeper.
                            level.operators += 1;
                        }
                    }
                }
                other => {
                    if let Some(level) = levels.last_mut() {
                        level.take(other);
                    }
                }
            }
            after_as = matches!(&token.token, Token::Word(word) if matches!(word.keyword, Keyword::AS | Keyword::MATERIALIZED));
            if outer + levels.last().map_or(0, Level::depth) > self.expression_depth {
                let message = format!(
                    "the expression is nested more than {} deep; use IN (…) or a shorter chain, or split the statement",
                    self.expression_depth
                );
                return Err(SqlError::TooLarge { at: token.span.start.into(), message });
            }
        }
        Ok(())
    }
}

/// Refuses a script that is too long.
pub(crate) fn check_bytes(sql: &str) -> Result<(), SqlError> {
    if sql.len() <= MAX_STATEMENT_BYTES {
        return Ok(());
    }
    Err(SqlError::TooLarge { at: Location::START, message: too_long() })
}

/// What was read at one level of parentheses.
#[derive(Default)]
struct Level {
    /// Joins, set operations and tables after commas in FROM: each wraps the plan once more.
    relations: usize,
    /// ANDs and ORs of the current list element.
    junctions: usize,
    /// Other operators since the last AND, OR or comma.
    operators: usize,
    in_from: bool,
}

impl Level {
    fn depth(&self) -> usize {
        self.relations + self.junctions + self.operators
    }

    fn take(&mut self, token: &Token) {
        match token {
            Token::Comma => {
                self.relations += usize::from(self.in_from);
                self.start_element();
            }
            Token::Word(word) if word.quote_style.is_none() => self.take_word(&word.value.to_ascii_uppercase()),
            Token::Whitespace(_)
            | Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::Placeholder(_)
            | Token::Period
            | Token::EOF => {}
            _ => self.operators += 1,
        }
    }

    fn take_word(&mut self, word: &str) {
        match word {
            "AND" | "OR" | "XOR" => {
                self.junctions += 1;
                self.operators = 0;
            }
            "SELECT" | "WHERE" | "GROUP" | "HAVING" | "ORDER" | "LIMIT" | "VALUES" | "WINDOW" | "SET" => {
                self.in_from = false;
                self.start_element();
            }
            "FROM" => {
                self.in_from = true;
                self.start_element();
            }
            "JOIN" | "UNION" | "INTERSECT" | "EXCEPT" | "MINUS" | "LATERAL" | "APPLY" | "EXPLAIN" => self.relations += 1,
            "NOT" | "CASE" | "IS" | "IN" | "LIKE" | "ILIKE" | "BETWEEN" | "COLLATE" | "AT" | "DIV" | "MOD" | "PRIOR"
            | "INTERVAL" | "OPERATOR" | "SIMILAR" | "RLIKE" | "REGEXP" | "ISNULL" | "NOTNULL" | "OVERLAPS" | "ARRAY" | "STRUCT"
            | "MEMBER" | "GLOB" => {
                self.operators += 1;
            }
            _ => {}
        }
    }

    fn start_element(&mut self) {
        self.junctions = 0;
        self.operators = 0;
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, tokenizer::Tokenizer};

    use super::*;

    fn check(sql: &str, depth: usize) -> Result<(), SqlError> {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap();
        Limits { expression_depth: depth }.check_depth(&tokens)
    }

    #[test]
    fn a_script_may_be_as_long_as_the_limit() {
        let mut script = "-- ".to_owned();
        script.extend(std::iter::repeat_n('x', MAX_STATEMENT_BYTES - script.len()));
        check_bytes(&script).unwrap();
        script.push('x');
        assert!(check_bytes(&script).unwrap_err().to_string().contains("longer than 256 KiB; send its parts"));
    }

    #[test]
    fn wide_is_not_deep() {
        let columns: Vec<String> = (0..2000).map(|i| format!("a{i} + 1 AS b{i}")).collect();
        let values: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
        let sql = format!("SELECT {} FROM t WHERE a IN ({})", columns.join(", "), values.join(","));
        check(&sql, 16).unwrap();
    }

    #[test]
    fn chains_and_nesting_count() {
        for deep in [
            format!("SELECT {}1", "1 + ".repeat(300)),
            format!("SELECT {}1{}", "(".repeat(300), ")".repeat(300)),
            format!("SELECT {}1", "- ".repeat(300)),
            format!("SELECT {}true", "NOT ".repeat(300)),
            format!("SELECT a{}", "[1]".repeat(300)),
            format!("SELECT 1 FROM t WHERE {} a = 1", "a = 1 OR ".repeat(300)),
            format!("SELECT 1 FROM t{}", ", t".repeat(300)),
            format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(300)),
            format!("SELECT 1 FROM t{}", " JOIN t ON true".repeat(300)),
            format!("SELECT {}1{}", "abs(1 + ".repeat(150), ")".repeat(150)),
            format!("SELECT 1::{}INT{}", "ARRAY<".repeat(300), ">".repeat(300)),
            format!("SELECT 1{}", "::INT".repeat(300)),
            format!("WITH a AS (SELECT 1){} SELECT 1", ", a AS (SELECT * FROM a)".repeat(300)),
        ] {
            let error = check(&deep, 256).unwrap_err();
            assert!(matches!(error, SqlError::TooLarge { .. }), "{error} for {deep}");
        }
    }

    #[test]
    fn two_hundred_conditions_are_fine() {
        check(&format!("SELECT 1 FROM t WHERE {} a = 1", "a = 1 OR ".repeat(200)), 256).unwrap();
    }
}
