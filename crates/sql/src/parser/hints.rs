//! Hints, which are comments to the tokenizer: Flink's `FROM t /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */` becomes another schema of the table, which
//! holds the options. Any other hint is refused by name, so that none is passed over.
use std::borrow::Cow;

use datafusion::sql::sqlparser::{
    keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS},
    tokenizer::{Span, Token, TokenWithSpan, Whitespace},
};

use super::{
    cursor::Cursor,
    table, tokenise,
    window::{Place, Writer, is_word, name_before, next, words},
};
use crate::{error::SqlError, location::Location};

/// The tokens of a statement, lowered.
pub(super) fn lower(tokens: &[TokenWithSpan], place: Place) -> Result<Cow<'_, [TokenWithSpan]>, SqlError> {
    if !tokens.iter().any(|token| hint(&token.token).is_some()) {
        return Ok(Cow::Borrowed(tokens));
    }
    let mut lowered = Vec::with_capacity(tokens.len());
    for (index, token) in tokens.iter().enumerate() {
        match hint(&token.token) {
            Some(words) => apply(words, token.span, &tokens[index + 1..], place, &mut lowered)?,
            None => lowered.push(token.clone()),
        }
    }
    Ok(Cow::Owned(lowered))
}

/// What a hint says: a comment that begins with a plus sign and a word.
fn hint(token: &Token) -> Option<&str> {
    let Token::Whitespace(Whitespace::MultiLineComment(comment)) = token else { return None };
    let words = comment.strip_prefix('+')?.trim();
    words.starts_with(|first: char| first.is_ascii_alphabetic()).then_some(words)
}

/// Puts the table, already written, into its schema of options.
fn apply(hint: &str, span: Span, after: &[TokenWithSpan], place: Place, out: &mut Vec<TokenWithSpan>) -> Result<(), SqlError> {
    let at = Location::from(span.start);
    let (name, given) = hint.split_at(hint.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(hint.len()));
    if !name.eq_ignore_ascii_case("OPTIONS") {
        return Err(SqlError::unsupported_at(at, refusal(name)));
    }
    let options = options(given, place).ok_or_else(|| {
        SqlError::syntax(at, "the hint is not OPTIONS('key' = 'value', …), each key once, with nothing else beside it")
    })?;
    let name_at = name_before(out);
    let written = out[..name_at.unwrap_or_default()].iter().rev().map(|token| &token.token);
    let mut before = written.filter(|token| !matches!(token, Token::Whitespace(_)));
    let (last, last_but_one) = (before.next(), before.next());
    let is_argument = last.is_some_and(|token| is_word(token, "TABLE"))
        && last_but_one.is_some_and(|token| matches!(token, Token::LParen | Token::RArrow));
    let is_relation = last.is_some_and(|token| *token == Token::Comma || ["FROM", "JOIN"].iter().any(|word| is_word(token, word)));
    let is_looked_up = words(after, 0, &["FOR", "SYSTEM_TIME"]).is_some();
    let (Some(name_at), true, false) = (name_at, is_argument || is_relation, is_looked_up) else {
        let message = "OPTIONS(…) follows the name of a Kafka table that is read: FROM t /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */ AS a; a table that is written or looked up has those of its declaration";
        return Err(SqlError::unsupported_at(at, message));
    };
    let name: Vec<TokenWithSpan> = out.drain(name_at..).collect();
    let relation = Cursor::new(&name, place.end, place.limits).relation()?;
    let with_options = relation.with_options(&options);
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut writer = Writer { span: name.first().map_or(span, |token| token.span), out };
    writer.text(&format!("{}.{} ", quoted(&with_options.schema), quoted(&with_options.name)))?;
    // Messages name the alias, and the schema nowhere.
    if !is_argument && !has_alias(after) {
        writer.text(&format!("AS {} ", quoted(&relation.name)))?;
    }
    Ok(())
}

/// `('key' = 'value', …)`, sorted, so that the same options are the same table.
fn options(given: &str, place: Place) -> Option<Vec<(String, String)>> {
    let tokens = tokenise(&format!("WITH {given}")).ok()?;
    let mut cursor = Cursor::new(&tokens, place.end, place.limits);
    let entries = table::options(&mut cursor).ok()?;
    cursor.finish().ok()?;
    let mut options: Vec<_> = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    options.sort();
    Some(options)
}

fn has_alias(after: &[TokenWithSpan]) -> bool {
    match after.get(next(after, 0)).map(|token| &token.token) {
        // A job's clause.
        Some(token) if is_word(token, "EMIT") => false,
        Some(Token::Word(word)) => {
            word.quote_style.is_some() || word.keyword == Keyword::AS || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword)
        }
        _ => false,
    }
}

fn refusal(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    let remedy = match name.as_str() {
        "LOOKUP" => "how a table is looked up is told by its declaration ('lookup.cache.ttl', 'lookup.in-flight'); leave it out",
        "STATE_TTL" => "how long state is kept is told by the job, WITH ('state.ttl' = '1 d'); leave it out",
        _ => {
            "how a query is computed is not chosen by hints; leave it out (only OPTIONS('scan.startup.mode' = …) after the name of a table is known)"
        }
    };
    format!("the hint {name} does not exist: {remedy}")
}

#[cfg(test)]
mod tests {
    use crate::parser::parse;

    #[test]
    fn a_hint_is_taken_or_refused_and_never_passed_over() {
        let options = "/*+ OPTIONS('scan.startup.mode' = 'latest-offset') */";
        for sql in [
            format!("SELECT a.k FROM t {options} AS a, s.u /*+options('scan.bounded.mode'='latest-offset')*/ b WHERE a.k = b.k"),
            format!("SELECT t.k FROM t {options} WHERE t.k > 1"),
            format!("INSERT INTO s SELECT k FROM t {options} EMIT ON UPDATE"),
            format!("SELECT count(*) FROM TABLE(SESSION(TABLE t {options} PARTITION BY k, DESCRIPTOR(ts), INTERVAL '1' MINUTE))"),
            "SELECT /* + or this */ '/*+ OPTIONS */' FROM t /*+------*/".to_owned(),
        ] {
            assert!(parse(&sql).is_ok(), "{sql}: {:?}", parse(&sql));
        }
        for (sql, said) in [
            ("SELECT /*+ BROADCAST(t) */ k FROM t".to_owned(), "the hint BROADCAST does not exist"),
            ("/*+ hashjoin(a b) */ SELECT 1".to_owned(), "the hint HASHJOIN does not exist"),
            ("SELECT /*+ LOOKUP('table' = 's', 'async' = 'true') */ k FROM t".to_owned(), "'lookup.cache.ttl'"),
            ("SELECT /*+ STATE_TTL('t' = '1d') */ k FROM t".to_owned(), "WITH ('state.ttl' = '1 d')"),
            (format!("INSERT INTO s {options} SELECT k FROM t"), "a table that is written"),
            (format!("SELECT k FROM t AS a {options}"), "follows the name"),
            (format!("SELECT 1 FROM t JOIN s {options} FOR SYSTEM_TIME AS OF t.ts ON t.k = s.k"), "looked up"),
            (format!("SELECT {options} k FROM t"), "follows the name"),
            ("SELECT k FROM t /*+ OPTIONS('a') */".to_owned(), "OPTIONS('key' = 'value', …)"),
            ("SELECT k FROM t /*+ OPTIONS('a' = '1', 'a' = '2') */".to_owned(), "each key once"),
            ("SELECT k FROM t /*+ OPTIONS('a' = '1'), BROADCAST(t) */".to_owned(), "nothing else beside it"),
            ("CREATE JOB j AS BEGIN INSERT INTO s SELECT /*+ BROADCAST(t) */ k FROM t; END".to_owned(), "BROADCAST"),
        ] {
            let error = parse(&sql).unwrap_err().to_string();
            assert!(error.contains(said), "{sql}: {error}");
        }
    }
}
