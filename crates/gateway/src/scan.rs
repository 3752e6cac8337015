//! A look at SQL text without parsing it: where statements end and where parameters stand, outside of strings, names and comments. Our
//! dialect and PostgreSQL's agree on those.
use std::ops::Range;

#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Semicolon(usize),
    /// `$n` with its number, or `?`, which has the next one.
    Parameter(Range<usize>, usize),
}

fn marks(sql: &str) -> Vec<Mark> {
    let bytes = sql.as_bytes();
    let mut marks = Vec::new();
    let mut at = 0;
    let mut questions = 0;
    let mut block = Block::default();
    while at < bytes.len() {
        at = match bytes[at] {
            b'\'' => after_quoted(bytes, at, b'\'', is_escape_string(bytes, at)),
            b'"' => after_quoted(bytes, at, b'"', false),
            b'-' if bytes.get(at + 1) == Some(&b'-') => after_line(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => after_comment(bytes, at),
            b'$' => dollar(sql, at, &mut marks),
            b';' => {
                if !block.is_open {
                    marks.push(Mark::Semicolon(at));
                    block = Block::default();
                }
                at + 1
            }
            b'(' | b')' => {
                block.parenthesis(bytes[at] == b'(');
                at + 1
            }
            byte if is_name(byte) => {
                let end = at + bytes[at..].iter().take_while(|byte| is_name(**byte)).count();
                block.word(&sql[at..end].to_ascii_uppercase());
                end
            }
            b'?' => {
                questions += 1;
                marks.push(Mark::Parameter(at..at + 1, questions));
                at + 1
            }
            _ => at + 1,
        };
    }
    marks
}

/// `CREATE JOB … AS BEGIN INSERT …; INSERT …; END`: its inner semicolons end no statement.
#[derive(Default)]
struct Block {
    /// The words of the statement so far, as far as they matter.
    progress: usize,
    is_open: bool,
    cases: usize,
    depth: usize,
}

impl Block {
    fn parenthesis(&mut self, opens: bool) {
        self.depth = if opens { self.depth + 1 } else { self.depth.saturating_sub(1) };
    }

    fn word(&mut self, word: &str) {
        if self.is_open {
            match word {
                "CASE" => self.cases += 1,
                "END" if self.cases > 0 => self.cases -= 1,
                "END" => self.is_open = false,
                _ => {}
            }
            return;
        }
        self.progress = match (self.progress, word) {
            (0, "EXPLAIN" | "VERBOSE") => 0,
            (0, "CREATE" | "UPGRADE") => 1,
            (1, "JOB") => 2,
            (2, "AS") if self.depth == 0 => 3,
            (2, _) => 2,
            (3, "BEGIN") => {
                self.is_open = true;
                4
            }
            _ => 5,
        };
    }
}

/// `E'…'`, where a backslash hides the next character.
fn is_escape_string(bytes: &[u8], quote: usize) -> bool {
    let before = |back: usize| quote.checked_sub(back).map(|at| bytes[at]);
    matches!(before(1), Some(b'e' | b'E')) && !before(2).is_some_and(is_name)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// A doubled quote reads as the end and a new beginning, which comes to the same.
fn after_quoted(bytes: &[u8], start: usize, quote: u8, backslash: bool) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if backslash => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn after_line(bytes: &[u8], start: usize) -> usize {
    bytes[start..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| start + length)
}

fn after_comment(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1);
    while at < bytes.len() && depth > 0 {
        match (bytes[at], bytes.get(at + 1)) {
            (b'*', Some(b'/')) => (at, depth) = (at + 2, depth - 1),
            (b'/', Some(b'*')) => (at, depth) = (at + 2, depth + 1),
            _ => at += 1,
        }
    }
    at.min(bytes.len())
}

/// `$1` is a parameter; `$$…$$` and `$tag$…$tag$` are strings; within a name it is a letter.
fn dollar(sql: &str, start: usize, marks: &mut Vec<Mark>) -> usize {
    let bytes = sql.as_bytes();
    if start > 0 && is_name(bytes[start - 1]) {
        return start + 1;
    }
    let word = bytes[start + 1..].iter().take_while(|byte| is_name(**byte)).count();
    let end = start + 1 + word;
    if word > 0 && bytes[start + 1..end].iter().all(u8::is_ascii_digit) {
        // No protocol binds more; types and values of all up to the highest are kept.
        if let Ok(number) = sql[start + 1..end].parse::<u16>() {
            marks.push(Mark::Parameter(start..end, number.into()));
        }
        return end;
    }
    if bytes.get(end) != Some(&b'$') {
        return start + 1;
    }
    let tag = &sql[start..=end];
    sql[end + 1..].find(tag).map_or(bytes.len(), |length| end + 1 + length + tag.len())
}

/// The statements of a text, without their semicolons; empty ones are left out.
pub fn statements(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let ends = marks(sql).into_iter().filter_map(|mark| match mark {
        Mark::Semicolon(at) => Some(at),
        Mark::Parameter(..) => None,
    });
    for end in ends.chain([sql.len()]) {
        let statement = sql[start..end].trim();
        if !statement.is_empty() {
            found.push(statement);
        }
        start = end + 1;
    }
    found
}

/// How many parameters a statement has: the highest number.
pub fn parameter_count(sql: &str) -> usize {
    marks(sql).into_iter().fold(0, |highest, mark| match mark {
        Mark::Parameter(_, number) => highest.max(number),
        Mark::Semicolon(_) => highest,
    })
}

/// Puts literals in place of `$1`, `$2`…; the error is the number that has none.
pub fn bind(sql: &str, literals: &[String]) -> Result<String, usize> {
    let mut bound = String::with_capacity(sql.len() + 16 * literals.len());
    let mut start = 0;
    for mark in marks(sql) {
        let Mark::Parameter(range, number) = mark else { continue };
        let literal = number.checked_sub(1).and_then(|at| literals.get(at)).ok_or(number)?;
        bound.push_str(&sql[start..range.start]);
        bound.push_str(literal);
        start = range.end;
    }
    bound.push_str(&sql[start..]);
    Ok(bound)
}

/// A text as a literal that every dialect reads alike.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_strings_names_and_comments_end_nothing() {
        let sql = "SELECT ';' ; -- a;b\nSELECT \"x;y\" /* ; /* ; */ ; */; SELECT $$;$$, $t$;$$;$t$, E'\\';' ;;  SELECT 'it''s;'";
        assert_eq!(
            statements(sql),
            ["SELECT ';'", "-- a;b\nSELECT \"x;y\" /* ; /* ; */ ; */", "SELECT $$;$$, $t$;$$;$t$, E'\\';'", "SELECT 'it''s;'"]
        );
        for broken in ["'", "\"", "/*", "$$", "$a$", "E'\\", "--", "$", ";;"] {
            statements(broken);
        }
        assert!(statements(" ; ;").is_empty());
        let block = "CREATE JOB j WITH ('a' = 'b') AS BEGIN INSERT INTO t SELECT CASE a WHEN 1 THEN 'END;' END FROM s; INSERT INTO u SELECT 1 FROM s; END";
        assert_eq!(statements(&format!("SELECT 1; {block}; BEGIN; SELECT 2")), ["SELECT 1", block, "BEGIN", "SELECT 2"]);
    }

    #[test]
    fn parameters_are_bound_only_where_they_stand() {
        let sql = "SELECT $1, '$1', \"$2\", a$1, $2::int -- $3";
        assert_eq!(parameter_count(sql), 2);
        let bound = bind(sql, &[quoted("o'brien"), "(-5)".to_owned()]).unwrap();
        assert_eq!(bound, "SELECT 'o''brien', '$1', \"$2\", a$1, (-5)::int -- $3");
        assert_eq!(bind(sql, &["1".to_owned()]), Err(2));
        assert_eq!(bind("SELECT ?, '?', ?", &["1".to_owned(), "2".to_owned()]).unwrap(), "SELECT 1, '?', 2");
        assert_eq!(bind("SELECT $0", &["1".to_owned()]), Err(0));
        assert_eq!(parameter_count("SELECT $65535"), 65_535);
        // Room for so many would be more than the machine has; the engine finds no value for it.
        assert_eq!(parameter_count("SELECT $4000000000, $1"), 1);
    }
}
