//! Patterns that DataFusion does not read: `LIKE … ESCAPE 'x'`, which knows the backslash alone, and SIMILAR TO, which is a regular expression of other letters.
//! Both are written anew here, so they have to be constants.
use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan};

use super::building::{matches, text};

const BACKSLASH: char = '\\';

/// Digits, spaces, letters of words, and all others: PostgreSQL has them in SIMILAR TO, too.
const CLASSES: [char; 6] = ['d', 'D', 's', 'S', 'w', 'W'];

/// What a comparison with a pattern is; `None`: what it says. LIKE may be changed in place.
pub(super) fn comparison(expression: &mut Expr) -> Result<Option<Expr>, String> {
    match expression {
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            let Some(escape) = escape_char.take() else { return Ok(None) };
            let escape = escape_of(&escape, "LIKE")?;
            if escape != Some(BACKSLASH) {
                **pattern = text(&escaped_by_backslash(constant(pattern, "LIKE … ESCAPE")?, escape)?);
            }
            Ok(None)
        }
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let escape = match escape_char {
                Some(escape) => escape_of(escape, "SIMILAR TO")?,
                None => Some(BACKSLASH),
            };
            let regex = regular_expression(constant(pattern, "SIMILAR TO")?, escape)?;
            Ok(Some(matches(*negated, expr, text(&regex))))
        }
        _ => Ok(None),
    }
}

/// `None`: nothing escapes.
fn escape_of(escape: &ValueWithSpan, comparison: &str) -> Result<Option<char>, String> {
    let mut characters = match &escape.value {
        Value::SingleQuotedString(characters) => characters.chars(),
        _ => return Err(one_character(escape, comparison)),
    };
    match (characters.next(), characters.next()) {
        (escape, None) => Ok(escape),
        _ => Err(one_character(escape, comparison)),
    }
}

fn one_character(escape: &ValueWithSpan, comparison: &str) -> String {
    format!("{comparison} … ESCAPE takes one character, and not {escape}; write for example ESCAPE '!'")
}

fn constant<'e>(pattern: &'e Expr, comparison: &str) -> Result<&'e str, String> {
    match pattern {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(pattern), .. }) => Ok(pattern),
        other => Err(format!(
            "{comparison} takes a pattern in quotes, and {other} is none; write a regular expression, which may be any text: a ~ b"
        )),
    }
}

fn escaped_by_backslash(pattern: &str, escape: Option<char>) -> Result<String, String> {
    let (mut written, mut rest) = (String::new(), pattern.chars());
    while let Some(next) = rest.next() {
        let next = match next {
            next if Some(next) == escape => {
                let escaped = rest.next().ok_or_else(|| ends_with_escape(pattern))?;
                if matches!(escaped, '%' | '_') {
                    written.push(BACKSLASH);
                }
                escaped
            }
            next => next,
        };
        if next == BACKSLASH {
            written.push(BACKSLASH);
        }
        written.push(next);
    }
    Ok(written)
}

fn ends_with_escape(pattern: &str) -> String {
    format!("the pattern '{pattern}' ends with the character that escapes what follows it; write that character twice")
}

/// A pattern of SIMILAR TO, which is matched by the whole text.
fn regular_expression(pattern: &str, escape: Option<char>) -> Result<String, String> {
    let (mut regex, mut rest) = ("^(?s:".to_owned(), pattern.chars());
    let mut class: Option<Class> = None;
    while let Some(next) = rest.next() {
        if Some(next) == escape {
            let escaped = rest.next().ok_or_else(|| ends_with_escape(pattern))?;
            match CLASSES.contains(&escaped) {
                true => regex.extend([BACKSLASH, escaped]),
                false => push_literal(&mut regex, escaped),
            }
            class = class.map(|_| Class::Inside);
            continue;
        }
        class = match (class, next) {
            (Some(Class::Inside), ']') => {
                regex.push(']');
                None
            }
            (Some(Class::Begins), '^') => {
                regex.push('^');
                Some(Class::Inside)
            }
            (Some(_), '[') => {
                return Err(format!(
                    "SIMILAR TO '{pattern}' has [ within brackets, which is not supported; write a regular expression: a ~ '^[[:alpha:]]+$'"
                ));
            }
            // Two would be a difference of classes.
            (Some(_), '-') => {
                let follows_another = regex.ends_with('-') && !regex.ends_with("\\-");
                regex.push_str(if follows_another { "\\-" } else { "-" });
                Some(Class::Inside)
            }
            (Some(_), next) => {
                push_literal(&mut regex, next);
                Some(Class::Inside)
            }
            (None, '[') => {
                regex.push('[');
                Some(Class::Begins)
            }
            (None, '%') => {
                regex.push_str(".*");
                None
            }
            (None, '_') => {
                regex.push('.');
                None
            }
            (None, '(') => {
                regex.push_str("(?:");
                None
            }
            (None, '|' | '*' | '+' | '?' | '{' | '}' | ')') => {
                regex.push(next);
                None
            }
            (None, next) => {
                push_literal(&mut regex, next);
                None
            }
        };
    }
    regex.push_str(")$");
    regex::Regex::new(&regex).map_err(|_| {
        format!("SIMILAR TO '{pattern}' is no pattern, as its brackets or repetitions do not fit; escape what is meant literally by a backslash")
    })?;
    Ok(regex)
}

/// Where a class of characters, `[a-z]`, is read.
#[derive(Clone, Copy)]
enum Class {
    Begins,
    Inside,
}

fn push_literal(regex: &mut String, character: char) {
    regex.push_str(&regex::escape(character.encode_utf8(&mut [0; 4])));
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::{super::equivalents::rewritten, *};

    #[test]
    fn any_character_escapes() {
        for (written, meant) in [
            ("a LIKE '50!%%' ESCAPE '!'", r"a LIKE '50\%%'"),
            ("a NOT LIKE 'x#_#%##y' ESCAPE '#'", r"a NOT LIKE 'x\_\%#y'"),
            (r"a ILIKE 'c:\%$%' ESCAPE '$'", r"a ILIKE 'c:\\%\%'"),
            (r"a LIKE 'x\%' ESCAPE '\'", r"a LIKE 'x\%'"),
            (r"a LIKE 'x\%' ESCAPE ''", r"a LIKE 'x\\%'"),
            ("a LIKE b", "a LIKE b"),
            ("a SIMILAR TO '(x|y_)%' ", "(regexp_like(a, '^(?s:(?:x|y.).*)$'))"),
            ("a NOT SIMILAR TO 'a!%.' ESCAPE '!'", r"(NOT regexp_like(a, '^(?s:a%\.)$'))"),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
    }

    #[test]
    fn what_is_similar_is_so_as_a_whole() {
        for (pattern, matching, other) in [
            ("abc", "abc", "abcd"),
            ("a%", "a\nb", "ba"),
            ("a_c", "abc", "ac"),
            ("(a|b)+", "abba", "abc"),
            ("x{2,3}", "xxx", "x"),
            ("[a-c]?1", "b1", "d1"),
            ("[^a-c&~]", "d", "&"),
            ("[+--]", ",", "."),
            ("a.b^c$", "a.b^c$", "aXb^c$"),
            (r"100\%", "100%", "1000"),
            (r"\[%", "[x", "x"),
            (r"[\]a]", "]", "b"),
            ("a|b", "b", "ab"),
            (r"[a-z]+\d+", "ab12", "abd"),
            (r"[\d.]*\W", "1.2 ", "1d "),
        ] {
            let regex = Regex::new(&regular_expression(pattern, Some(BACKSLASH)).unwrap()).unwrap();
            assert!(regex.is_match(matching) && !regex.is_match(other), "{pattern}: {regex}");
        }
    }

    #[test]
    fn patterns_that_cannot_be_read_are_said() {
        for (written, reason) in [
            ("a LIKE b ESCAPE '!'", "takes a pattern in quotes, and b is none"),
            ("a LIKE 'x!' ESCAPE '!'", "write that character twice"),
            ("a LIKE 'x' ESCAPE 'ab'", "takes one character, and not 'ab'"),
            ("a SIMILAR TO b", "takes a pattern in quotes, and b is none"),
            ("a SIMILAR TO '(x'", "is no pattern"),
            ("a SIMILAR TO '[[:alpha:]]'", "write a regular expression: a ~ "),
        ] {
            let error = rewritten(written).unwrap_err().to_string();
            assert!(error.contains(reason), "{written}: {error}");
        }
    }
}
