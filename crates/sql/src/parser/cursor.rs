//! A place in a statement's tokens, and the small steps that our own statements are read with. What follows is never guessed: an error
//! says where, what was expected and what stands there.
use datafusion::sql::sqlparser::{
    parser::{Parser, ParserError},
    tokenizer::{Token, TokenWithSpan, Word},
};
use polybolos_tables::plain::shortened;

use super::dialect::Generic;
use crate::{
    error::SqlError,
    limits::Limits,
    location::Location,
    names::{DEFAULT_SCHEMA, OPTIONS_PREFIX, RelationName, normalise},
};

/// Longest name of a table or column.
const MAX_NAME_CHARACTERS: usize = 255;

#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    tokens: &'a [TokenWithSpan],
    index: usize,
    /// Where the statement ends.
    end: Location,
    limits: Limits,
}

impl<'a> Cursor<'a> {
    pub fn new(tokens: &'a [TokenWithSpan], end: Location, limits: Limits) -> Self {
        Self { tokens, index: 0, end, limits }
    }

    /// The tokens that are left.
    pub fn remaining(&self) -> &'a [TokenWithSpan] {
        &self.tokens[self.index..]
    }

    /// How many tokens were consumed, blanks among them.
    pub fn consumed(&self) -> usize {
        self.index
    }

    /// Where the statement ends.
    pub fn end(&self) -> Location {
        self.end
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Cuts off the first `count` of the tokens that are left, as a cursor of their own.
    pub fn take(&mut self, count: usize) -> Cursor<'a> {
        let start = self.index;
        self.index = start.saturating_add(count).min(self.tokens.len());
        Cursor { tokens: &self.tokens[start..self.index], index: 0, end: self.at(), limits: self.limits }
    }

    fn skip_whitespace(&self) -> usize {
        let blank = |token: &TokenWithSpan| matches!(token.token, Token::Whitespace(_));
        self.tokens[self.index..].iter().position(|token| !blank(token)).map_or(self.tokens.len(), |skipped| self.index + skipped)
    }

    pub fn peek(&self) -> &'a Token {
        self.tokens.get(self.skip_whitespace()).map_or(&Token::EOF, |token| &token.token)
    }

    /// Where the next token starts.
    pub fn at(&self) -> Location {
        self.tokens.get(self.skip_whitespace()).map_or(self.end, |token| token.span.start.into())
    }

    pub fn advance(&mut self) -> &'a Token {
        let next = self.skip_whitespace();
        self.index = (next + 1).min(self.tokens.len());
        self.tokens.get(next).map_or(&Token::EOF, |token| &token.token)
    }

    pub fn is_done(&self) -> bool {
        *self.peek() == Token::EOF
    }

    /// Whether the next token is the unquoted word `word`, in any case.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(next) if next.quote_style.is_none() && next.value.eq_ignore_ascii_case(word))
    }

    /// Consumes `word` if it comes next.
    pub fn word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.advance();
        }
        found
    }

    /// Consumes all of `words` if they come next in this order, else nothing.
    pub fn words(&mut self, words: &[&str]) -> bool {
        let mut ahead = self.clone();
        if !words.iter().all(|word| ahead.word(word)) {
            return false;
        }
        *self = ahead;
        true
    }

    /// Consumes `token` if it comes next.
    pub fn token(&mut self, token: &Token) -> bool {
        let found = self.peek() == token;
        if found {
            self.advance();
        }
        found
    }

    pub fn expect_word(&mut self, word: &str) -> Result<(), SqlError> {
        if self.word(word) { Ok(()) } else { Err(self.expected(word)) }
    }

    pub fn expect(&mut self, token: &Token) -> Result<(), SqlError> {
        if self.token(token) { Ok(()) } else { Err(self.expected(&format!("\"{token}\""))) }
    }

    pub fn expected(&self, what: &str) -> SqlError {
        SqlError::syntax(self.at(), format!("expected {what}, found {}", self.found()))
    }

    pub fn expected_or(&self, what: &str, hint: &str) -> SqlError {
        SqlError::Syntax { at: self.at(), message: format!("expected {what}, found {}", self.found()), hint: Some(hint.to_owned()) }
    }

    /// The next token, for messages.
    pub fn found(&self) -> String {
        match self.peek() {
            Token::EOF => "the end of the statement".to_owned(),
            token @ Token::SingleQuotedString(_) => shortened(&token.to_string()),
            token => format!("\"{}\"", shortened(&token.to_string())),
        }
    }

    fn any_word(&mut self, what: &str) -> Result<&'a Word, SqlError> {
        match self.peek() {
            Token::Word(word) if matches!(word.quote_style, None | Some('"' | '`')) => {
                self.advance();
                Ok(word)
            }
            Token::SingleQuotedString(_) => Err(self.expected_or(what, "names take double quotes, or none")),
            _ => Err(self.expected(what)),
        }
    }

    /// An identifier, normalised. `what` is for messages: "a column name".
    pub fn identifier(&mut self, what: &str) -> Result<String, SqlError> {
        let at = self.at();
        let name = normalise(self.any_word(what)?);
        // What a query says of a table is part of the schema that is made for it.
        let is_long = name.chars().count() > MAX_NAME_CHARACTERS && !name.starts_with(OPTIONS_PREFIX);
        if name.is_empty() || is_long || name.chars().any(char::is_control) {
            return Err(SqlError::invalid_at(at, format!("{what} has 1 to {MAX_NAME_CHARACTERS} printable characters")));
        }
        Ok(name)
    }

    /// `table`, `schema.table` or `polybolos.schema.table`.
    pub fn relation(&mut self) -> Result<RelationName, SqlError> {
        let at = self.at();
        let mut parts = vec![self.identifier("a table name")?];
        while self.token(&Token::Period) {
            parts.push(self.identifier("a table name")?);
        }
        let name = parts.pop().unwrap_or_default();
        let schema = parts.pop().unwrap_or_else(|| DEFAULT_SCHEMA.to_owned());
        match parts.as_slice() {
            [] => Ok(RelationName::new(schema, name)),
            [catalog] if catalog == crate::names::CATALOG => Ok(RelationName::new(schema, name)),
            _ => Err(SqlError::invalid_at(at, format!("there is one catalog, {}; write schema.table", crate::names::CATALOG))),
        }
    }

    /// A name of a job: it becomes part of consumer groups, metrics and file names.
    pub fn job_name(&mut self) -> Result<String, SqlError> {
        self.plain_name("job")
    }

    pub fn savepoint_name(&mut self) -> Result<String, SqlError> {
        self.plain_name("savepoint")
    }

    /// Names that are also names of objects on the store.
    fn plain_name(&mut self, kind: &str) -> Result<String, SqlError> {
        let at = self.at();
        let name = self.identifier(&format!("a {kind} name"))?;
        let plain = name.len() <= 100 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if plain {
            return Ok(name);
        }
        Err(SqlError::invalid_at(
            at,
            format!("{name:?} cannot name a {kind}; use up to 100 of the letters a–z, digits, \"_\" and \"-\""),
        ))
    }

    /// A string in single quotes.
    pub fn string(&mut self, what: &str) -> Result<String, SqlError> {
        match self.peek() {
            Token::SingleQuotedString(text) => {
                self.advance();
                Ok(text.clone())
            }
            Token::Word(_) | Token::Number(..) | Token::DoubleQuotedString(_) => {
                Err(self.expected_or(&format!("{what} in single quotes"), "strings take single quotes"))
            }
            _ => Err(self.expected(&format!("{what} in single quotes"))),
        }
    }

    pub fn number(&mut self, what: &str) -> Result<u64, SqlError> {
        match self.peek() {
            Token::Number(text, _) => match text.parse() {
                Ok(number) => {
                    self.advance();
                    Ok(number)
                }
                Err(_) => Err(self.expected(what)),
            },
            _ => Err(self.expected(what)),
        }
    }

    /// Items in parentheses, with commas between; at least one.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, SqlError>) -> Result<Vec<T>, SqlError> {
        self.expect(&Token::LParen)?;
        let mut items = vec![item(self)?];
        while self.token(&Token::Comma) {
            items.push(item(self)?);
        }
        if !self.token(&Token::RParen) {
            return Err(self.expected("\",\" or \")\""));
        }
        Ok(items)
    }

    /// That nothing follows.
    pub fn finish(&self) -> Result<(), SqlError> {
        if self.is_done() { Ok(()) } else { Err(self.expected_or("the end of the statement", "put \";\" between statements")) }
    }

    /// The tokens up to the next comma or closing parenthesis at this level, which stays.
    pub fn until_delimiter(&mut self) -> Cursor<'a> {
        let start = self.index;
        let mut depth = 0usize;
        while let Some(token) = self.tokens.get(self.index) {
            match token.token {
                Token::LParen | Token::LBracket => depth += 1,
                Token::RParen | Token::RBracket if depth == 0 => break,
                Token::RParen | Token::RBracket => depth -= 1,
                Token::Comma if depth == 0 => break,
                _ => {}
            }
            self.index += 1;
        }
        Cursor { tokens: &self.tokens[start..self.index], index: 0, end: self.at(), limits: self.limits }
    }

    /// Hands the rest to sqlparser, which must read all of it.
    pub fn rest<T>(&mut self, read: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>) -> Result<T, SqlError> {
        let at = self.at();
        let mut parser = Parser::new(&Generic)
            .with_recursion_limit(self.limits.expression_depth + 16)
            .with_tokens_with_locations(self.tokens[self.index..].to_vec());
        let value = read(&mut parser).map_err(|error| self.translate(error, at))?;
        let next = parser.peek_token();
        if next.token != Token::EOF {
            let mut here = self.clone();
            here.skip_to(next.span.start.into());
            return Err(here.expected_or("the end of the statement", "put \";\" between statements"));
        }
        self.index = self.tokens.len();
        Ok(value)
    }

    fn skip_to(&mut self, at: Location) {
        let reached = |token: &TokenWithSpan| Location::from(token.span.start) >= at;
        self.index = self.tokens.iter().position(reached).unwrap_or(self.tokens.len());
    }

    /// sqlparser says `Expected: x, found: y at Line: 1, Column: 2`.
    fn translate(&self, error: ParserError, start: Location) -> SqlError {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => {
                let message = format!("the statement is nested more than {} deep; split it", self.limits.expression_depth);
                return SqlError::TooLarge { at: start, message };
            }
        };
        let (message, at) = split_place(&text);
        let at = at.unwrap_or(if message.ends_with("found: EOF") { self.end } else { start });
        if message.starts_with("No infix parser for token Sharp") {
            return SqlError::syntax(at, "the operator # does not exist; write bitxor(a, b)");
        }
        if message.starts_with("No infix parser for token ") {
            return SqlError::syntax(at, "this operator does not exist; write it by operators and functions of PostgreSQL");
        }
        let message = match message.strip_prefix("Expected: ").and_then(|rest| rest.rsplit_once(", found: ")) {
            Some((what, "EOF")) => format!("expected {what}, found the end of the statement"),
            Some((what, found)) => format!("expected {what}, found \"{}\"", shortened(found)),
            None => message.to_owned(),
        };
        SqlError::syntax(at, message)
    }
}

/// Splits ` at Line: 1, Column: 2` off.
pub(crate) fn split_place(text: &str) -> (&str, Option<Location>) {
    let place = text.rsplit_once(" at Line: ").and_then(|(message, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some((message, Location::new(line.parse().ok()?, column.parse().ok()?)))
    });
    match place {
        Some((message, at)) if at.line > 0 => (message, Some(at)),
        Some((message, _)) => (message, None),
        None => (text, None),
    }
}
