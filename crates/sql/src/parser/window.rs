//! Lowers what sqlparser has no syntax tree for to plain SQL, token by token: the window table functions of Flink (`TUMBLE`, `HOP`,
//! `CUMULATE`, `SESSION`) become subqueries that add `window_start`, `window_end` and `window_time`, and `FOR SYSTEM_TIME AS OF` becomes
//! another schema of the table, which marks its scan as a look-up. So plain DataFusion over the lowered query is what a job has to equal.
//!
//! Tokens of the user keep their places; made ones have the place of the function's name.
use datafusion::sql::sqlparser::{
    keywords::Keyword,
    tokenizer::{Span, Token, TokenWithSpan},
};

use super::{
    cursor::Cursor,
    interval::{as_sql, read_interval},
    tokenise,
};
use crate::{
    error::{SqlError, did_you_mean},
    limits::Limits,
    location::Location,
    names::{DEFAULT_SCHEMA, LOOKUP_PREFIX},
};

/// Everything the lowering needs besides the tokens.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Where the statement ends.
    pub end: Location,
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Tumble,
    Hop,
    Cumulate,
    Session,
}

const FUNCTIONS: [(&str, Function); 4] =
    [("TUMBLE", Function::Tumble), ("HOP", Function::Hop), ("CUMULATE", Function::Cumulate), ("SESSION", Function::Session)];

/// How a window function of that name is called, for messages.
pub(crate) fn call_of(name: &str) -> Option<&'static str> {
    let (_, function) = FUNCTIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    function.usage().split(": ").next()
}

impl Function {
    fn of(token: &Token) -> Option<Self> {
        let Token::Word(word) = token else { return None };
        let found = FUNCTIONS.iter().find(|(name, _)| word.quote_style.is_none() && word.value.eq_ignore_ascii_case(name));
        found.map(|(_, function)| *function)
    }

    fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(_, function)| *function == self).map_or("", |(name, _)| name)
    }

    /// Names of the arguments after the table and its column, in order; those from `required` on may be left out.
    fn intervals(self) -> (&'static [&'static str], usize) {
        match self {
            Self::Tumble => (&["SIZE", "OFFSET"], 1),
            Self::Hop => (&["SLIDE", "SIZE", "OFFSET"], 2),
            Self::Cumulate => (&["STEP", "SIZE", "OFFSET"], 2),
            Self::Session => (&["GAP"], 1),
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND [, offset])",
            Self::Hop => {
                "HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '10' SECOND [, offset]): the slide, then the size"
            }
            Self::Cumulate => {
                "CUMULATE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '1' HOUR [, offset]): the step, then the size"
            }
            Self::Session => "SESSION(TABLE t PARTITION BY (k), DESCRIPTOR(ts), INTERVAL '10' SECOND)",
        }
    }
}

/// The tokens of a query, lowered.
pub(super) fn lower(tokens: &[TokenWithSpan], place: Place) -> Result<Vec<TokenWithSpan>, SqlError> {
    let mut lowered = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        if let Some(call) = Call::starts_at(tokens, at, place)? {
            call.lower(place, &mut lowered)?;
            at = call.end;
        } else if let Some(after) = words(tokens, at, &["FOR", "SYSTEM_TIME", "AS", "OF"]) {
            at = lookup(tokens, after, token.span, place, &mut lowered)?;
        } else if is_word(&token.token, "MATCH_RECOGNIZE")
            && tokens.get(next(tokens, at + 1)).is_some_and(|t| t.token == Token::LParen)
        {
            let message = "MATCH_RECOGNIZE does not exist here; compare rows with lag() and lead() OVER (PARTITION BY … ORDER BY …), or group them by SESSION windows";
            return Err(SqlError::unsupported_at(token.span.start.into(), message));
        } else if is_word(&token.token, "WINDOW") && takes_length(&tokens[next(tokens, at + 1)..]) {
            let message = "window(time, length) of Spark is not supported; write FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '5' MINUTE)), or HOP for a slide, and GROUP BY window_start, window_end";
            return Err(SqlError::unsupported_at(token.span.start.into(), message));
        } else {
            lowered.push(token.clone());
            at += 1;
        }
    }
    Ok(lowered)
}

/// The first index from `at` on that is not blank.
pub(super) fn next(tokens: &[TokenWithSpan], at: usize) -> usize {
    let blank = |token: &TokenWithSpan| matches!(token.token, Token::Whitespace(_));
    tokens[at.min(tokens.len())..].iter().position(|token| !blank(token)).map_or(tokens.len(), |skipped| at + skipped)
}

pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// Whether a call begins whose second argument is a text: `(ts, '5 minutes')`. `WINDOW w AS (…)` is none.
fn takes_length(tokens: &[TokenWithSpan]) -> bool {
    let comma = tokens.iter().position(|token| matches!(token.token, Token::Comma | Token::RParen));
    tokens.first().is_some_and(|token| token.token == Token::LParen)
        && comma
            .and_then(|comma| tokens.get(next(tokens, comma + 1)))
            .is_some_and(|token| matches!(token.token, Token::SingleQuotedString(_)))
}

/// The index after `wanted`, if they come at `at` in this order.
pub(super) fn words(tokens: &[TokenWithSpan], at: usize, wanted: &[&str]) -> Option<usize> {
    let mut index = at;
    for word in wanted {
        index = next(tokens, index);
        if !tokens.get(index).is_some_and(|token| is_word(&token.token, word)) {
            return None;
        }
        index += 1;
    }
    Some(index)
}

/// The index of the parenthesis that closes the one at `open`.
fn closing(tokens: &[TokenWithSpan], open: usize, place: Place) -> Result<usize, SqlError> {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(index);
        }
    }
    Err(Cursor::new(&[], place.end, place.limits).expected("\")\""))
}

/// One call of a window table function.
struct Call<'a> {
    function: Function,
    name: Span,
    /// What stands in its parentheses, cut at the commas.
    arguments: Vec<&'a [TokenWithSpan]>,
    /// After its last token.
    end: usize,
}

impl<'a> Call<'a> {
    /// `TABLE(TUMBLE(…))`, or `TUMBLE(TABLE …)` as newer Flink allows. In GROUP BY and SELECT, `TUMBLE(ts, …)` is another thing.
    fn starts_at(tokens: &'a [TokenWithSpan], at: usize, place: Place) -> Result<Option<Self>, SqlError> {
        let token_at = |index: usize| tokens.get(index).map_or(&Token::EOF, |token| &token.token);
        let wrapped = is_word(token_at(at), "TABLE");
        let name = if wrapped {
            let open = next(tokens, at + 1);
            if *token_at(open) != Token::LParen {
                return Ok(None);
            }
            next(tokens, open + 1)
        } else {
            at
        };
        let open = next(tokens, name + 1);
        if *token_at(open) != Token::LParen || !matches!(token_at(name), Token::Word(_)) {
            return Ok(None);
        }
        let Some(function) = Function::of(token_at(name)) else {
            return match (wrapped, token_at(name)) {
                (true, Token::Word(word)) if word.keyword != Keyword::SELECT && takes_table(&tokens[open + 1..]) => {
                    Err(unknown(&word.value, tokens[name].span))
                }
                _ => Ok(None),
            };
        };
        if !wrapped && !takes_table(&tokens[open + 1..]) {
            return Ok(None);
        }
        let close = closing(tokens, open, place)?;
        let mut end = close + 1;
        if wrapped {
            let outer = next(tokens, end);
            if *token_at(outer) != Token::RParen {
                let found = Cursor::new(&tokens[end..], place.end, place.limits);
                return Err(found.expected_or("\")\" that closes TABLE(", &format!("write TABLE({})", function.usage())));
            }
            end = outer + 1;
        }
        let arguments = split(&tokens[open + 1..close]);
        Ok(Some(Self { function, name: tokens[name].span, arguments, end }))
    }

    fn lower(&self, place: Place, out: &mut Vec<TokenWithSpan>) -> Result<(), SqlError> {
        let read = self.read(place)?;
        let mut sql = Writer { span: self.name, out };
        let time = read.time;
        match self.function {
            Function::Tumble => {
                let bin = |sql: &mut Writer<'_>| sql.bin(read.lengths[0], time, read.lengths[1]);
                let size = as_sql(read.lengths[0]);
                sql.text("(SELECT *, ")?;
                bin(&mut sql)?;
                sql.text("AS window_start, ")?;
                bin(&mut sql)?;
                sql.text(&format!(" + {size} AS window_end, "))?;
                bin(&mut sql)?;
                sql.text(&format!(" + {} AS window_time FROM ", as_sql(read.lengths[0] - 1_000)))?;
                sql.timed(&read)?;
                sql.text(")")
            }
            Function::Hop => {
                let [slide, size, offset] = read.lengths;
                sql.text(&format!(
                    "(SELECT *, window_start + {} AS window_end, window_start + {} AS window_time FROM (SELECT *, unnest(hop_starts(",
                    as_sql(size),
                    as_sql(size - 1_000)
                ))?;
                sql.tokens(time);
                sql.text(&format!(", {slide}, {size}, {offset})) AS window_start FROM "))?;
                sql.tokens(&read.data);
                sql.text("))")
            }
            Function::Cumulate => {
                let [step, size, offset] = read.lengths;
                sql.text(&format!("(SELECT *, window_end - {} AS window_time FROM (SELECT *, ", as_sql(1_000)))?;
                sql.bin(size, time, offset)?;
                sql.text(" AS window_start, unnest(cumulate_ends(")?;
                sql.tokens(time);
                sql.text(&format!(", {step}, {size}, {offset})) AS window_end FROM "))?;
                sql.tokens(&read.data);
                sql.text("))")
            }
            Function::Session => {
                let gap = read.lengths[0];
                sql.text(&format!("(SELECT *, window_end - {} AS window_time FROM (SELECT *", as_sql(1_000)))?;
                for bound in ["start", "end"] {
                    sql.text(&format!(", session_{bound}("))?;
                    sql.tokens(time);
                    sql.text(&format!(", {gap}) OVER ("))?;
                    if let Some(keys) = &read.keys {
                        sql.text("PARTITION BY ")?;
                        sql.tokens(keys);
                    }
                    sql.text(" ORDER BY ")?;
                    sql.tokens(time);
                    sql.text(&format!(") AS window_{bound}"))?;
                }
                sql.text(" FROM ")?;
                sql.timed(&read)?;
                sql.text("))")
            }
        }
    }

    /// The arguments, by position or by name.
    fn read(&self, place: Place) -> Result<Read<'a>, SqlError> {
        let (names, required) = self.function.intervals();
        let mut slots: Vec<Option<&'a [TokenWithSpan]>> = vec![None; names.len() + 2];
        let mut by_name = false;
        for (index, argument) in self.arguments.iter().enumerate() {
            let mut cursor = Cursor::new(argument, self.name.end.into(), place.limits);
            let at = cursor.at();
            let slot = match named(argument) {
                Some((name, value)) => {
                    by_name = true;
                    let all: Vec<&str> = ["DATA", "TIMECOL"].into_iter().chain(names.iter().copied()).collect();
                    let Some(slot) = all.iter().position(|known| name.eq_ignore_ascii_case(known)) else {
                        let hint = match did_you_mean(&name.to_ascii_uppercase(), all.iter().copied()) {
                            Some(near) => format!("did you mean {near}?"),
                            None => format!("known are {}", all.join(", ")),
                        };
                        return Err(SqlError::invalid_at(at, format!("{} has no argument {name}; {hint}", self.function.name())));
                    };
                    (slot, value)
                }
                None if by_name => {
                    return Err(cursor.expected_or("name => value", "give all arguments by name, or all by position"));
                }
                None => (index, *argument),
            };
            match slots.get_mut(slot.0) {
                Some(empty @ None) => *empty = Some(slot.1),
                _ => {
                    cursor.advance();
                    let message = format!("{} has one argument too many; write {}", self.function.name(), self.function.usage());
                    return Err(SqlError::invalid_at(at, message));
                }
            }
        }
        let missing = slots.iter().take(2 + required).any(Option::is_none);
        let (Some(Some(data)), Some(Some(time)), false) = (slots.first(), slots.get(1), missing) else {
            let message = format!("{} lacks an argument; write {}", self.function.name(), self.function.usage());
            return Err(SqlError::invalid_at(self.name.start.into(), message));
        };
        let (data, keys) = self.data(data, place)?;
        let time = descriptor(time, self.function, place)?;
        let mut lengths = [0; 3];
        for (slot, name) in names.iter().enumerate() {
            let Some(Some(tokens)) = slots.get(slot + 2) else { continue };
            let mut cursor = Cursor::new(tokens, self.name.end.into(), place.limits);
            let at = cursor.at();
            let length = read_interval(&mut cursor, &format!("{} of {}", name.to_lowercase(), self.function.name()))?;
            cursor.finish()?;
            if *name != "OFFSET" && length <= 0 {
                let message = format!("{} of {} has to be longer than nothing", name.to_lowercase(), self.function.name());
                return Err(SqlError::invalid_at(at, message));
            }
            lengths[slot] = length;
        }
        self.check(&lengths)?;
        Ok(Read { data, keys, time, lengths })
    }

    fn check(&self, lengths: &[i64; 3]) -> Result<(), SqlError> {
        let at = self.name.start.into();
        let [first, size, _] = *lengths;
        if self.function == Function::Cumulate && size % first != 0 {
            return Err(SqlError::invalid_at(
                at,
                "the size of CUMULATE has to be a multiple of its step: CUMULATE(TABLE t, DESCRIPTOR(ts), step, size)",
            ));
        }
        if self.function == Function::Hop && size < first {
            return Err(SqlError::invalid_at(
                at,
                "the size of HOP is shorter than its slide, which would leave rows out: HOP(TABLE t, DESCRIPTOR(ts), slide, size)",
            ));
        }
        let is_multiple = matches!(self.function, Function::Hop | Function::Cumulate);
        if is_multiple && size / first > MAX_WINDOWS_PER_ROW {
            let message = format!(
                "{} would give each row {} windows, more than the {MAX_WINDOWS_PER_ROW} allowed; choose a longer slide or step",
                self.function.name(),
                size / first
            );
            return Err(SqlError::invalid_at(at, message));
        }
        Ok(())
    }

    /// `TABLE t [PARTITION BY (k, …)]` or a subquery in parentheses; as something to write after FROM, and the keys.
    fn data(
        &self,
        tokens: &'a [TokenWithSpan],
        place: Place,
    ) -> Result<(Vec<TokenWithSpan>, Option<Vec<TokenWithSpan>>), SqlError> {
        let mut start = next(tokens, 0);
        if words(tokens, start, &["TABLE"]).is_some() {
            start = next(tokens, start + 1);
        } else if tokens.get(start).is_none_or(|token| token.token != Token::LParen) {
            let cursor = Cursor::new(tokens, self.name.end.into(), place.limits);
            return Err(cursor.expected_or("TABLE", &format!("write {}", self.function.usage())));
        }
        let end = if tokens.get(start).is_some_and(|token| token.token == Token::LParen) {
            closing(tokens, start, place)? + 1
        } else {
            let mut cursor = Cursor::new(&tokens[start..], self.name.end.into(), place.limits);
            cursor.relation()?;
            start + cursor.consumed()
        };
        let data = lower(&tokens[start..end], place)?;
        let Some(after) = words(tokens, end, &["PARTITION", "BY"]) else {
            Cursor::new(&tokens[end..], self.name.end.into(), place.limits).finish()?;
            return Ok((data, None));
        };
        if self.function != Function::Session {
            let message =
                format!("{} takes no PARTITION BY, as its windows are the same for all keys; leave it out", self.function.name());
            return Err(SqlError::invalid_at(self.name.start.into(), message));
        }
        let mut keys = &tokens[next(tokens, after)..];
        if keys.first().is_some_and(|token| token.token == Token::LParen) {
            let close = closing(keys, 0, place)?;
            Cursor::new(&keys[close + 1..], self.name.end.into(), place.limits).finish()?;
            keys = &keys[1..close];
        }
        Ok((data, Some(keys.to_vec())))
    }
}

/// Most windows that one row may be in.
const MAX_WINDOWS_PER_ROW: i64 = 10_000;

struct Read<'a> {
    data: Vec<TokenWithSpan>,
    keys: Option<Vec<TokenWithSpan>>,
    time: &'a [TokenWithSpan],
    /// As [`Function::intervals`] names them; 0 for what is left out.
    lengths: [i64; 3],
}

/// What stands in `DESCRIPTOR(…)`: one column.
fn descriptor(tokens: &[TokenWithSpan], function: Function, place: Place) -> Result<&[TokenWithSpan], SqlError> {
    let end = tokens.last().map_or(place.end, |token| token.span.end.into());
    let mut cursor = Cursor::new(tokens, end, place.limits);
    if !cursor.word("DESCRIPTOR") {
        return Err(cursor.expected_or("DESCRIPTOR(column)", &format!("write {}", function.usage())));
    }
    cursor.expect(&Token::LParen)?;
    let start = cursor.consumed();
    cursor.identifier("a column name")?;
    let after = cursor.consumed();
    cursor.expect(&Token::RParen)?;
    cursor.finish()?;
    Ok(&tokens[start..after])
}

/// `NAME => value`.
fn named(argument: &[TokenWithSpan]) -> Option<(&str, &[TokenWithSpan])> {
    let name = next(argument, 0);
    let arrow = next(argument, name + 1);
    match (argument.get(name).map(|token| &token.token), argument.get(arrow).map(|token| &token.token)) {
        (Some(Token::Word(word)), Some(Token::RArrow)) => Some((&word.value, &argument[arrow + 1..])),
        _ => None,
    }
}

/// Whether arguments begin as those of a table function: `TABLE t`, `NAME => …`, or a subquery.
fn takes_table(arguments: &[TokenWithSpan]) -> bool {
    let first = next(arguments, 0);
    let Some(token) = arguments.get(first).map(|token| &token.token) else { return false };
    if is_word(token, "TABLE") || named(arguments).is_some() {
        return true;
    }
    let inner = arguments.get(next(arguments, first + 1)).map(|token| &token.token);
    *token == Token::LParen
        && inner.is_some_and(|inner| {
            *inner == Token::LParen || ["SELECT", "WITH", "VALUES", "TABLE"].iter().any(|word| is_word(inner, word))
        })
}

fn unknown(name: &str, span: Span) -> SqlError {
    let names = FUNCTIONS.map(|(name, _)| name);
    let hint = match (name.to_ascii_uppercase().as_str(), did_you_mean(&name.to_ascii_uppercase(), names)) {
        ("FLATTEN" | "EXPLODE", _) => "write FROM t CROSS JOIN UNNEST(array) AS x (item)".to_owned(),
        ("GENERATOR", _) => "write FROM generate_series(1, n)".to_owned(),
        (_, Some(near)) => format!("did you mean {near}?"),
        (_, None) => format!("known are {}", names.join(", ")),
    };
    SqlError::unsupported_at(span.start.into(), format!("there is no table function {name}; {hint}"))
}

fn split(tokens: &[TokenWithSpan]) -> Vec<&[TokenWithSpan]> {
    let mut depth = 0usize;
    tokens
        .split(|token| {
            match token.token {
                Token::LParen | Token::LBracket => depth += 1,
                Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && token.token == Token::Comma
        })
        .collect()
}

/// Writes made tokens, all at one place.
pub(super) struct Writer<'o> {
    pub span: Span,
    pub out: &'o mut Vec<TokenWithSpan>,
}

impl Writer<'_> {
    pub fn text(&mut self, sql: &str) -> Result<(), SqlError> {
        let made = tokenise(sql)?;
        self.out.extend(made.into_iter().map(|token| TokenWithSpan::new(token.token, self.span)));
        Ok(())
    }

    fn tokens(&mut self, tokens: &[TokenWithSpan]) {
        self.out.extend_from_slice(tokens);
    }

    /// The rows that have a time: one without is in no window, and a list of windows has none for it either.
    fn timed(&mut self, read: &Read<'_>) -> Result<(), SqlError> {
        self.tokens(&read.data);
        self.text(" WHERE ")?;
        self.tokens(read.time);
        self.text(" IS NOT NULL")
    }

    /// The start of the window of `width` that `time` is in, shifted by `offset`.
    fn bin(&mut self, width: i64, time: &[TokenWithSpan], offset: i64) -> Result<(), SqlError> {
        self.text(&format!("date_bin({}, ", as_sql(width)))?;
        self.tokens(time);
        match offset.rem_euclid(width) {
            0 => self.text(") "),
            shifted => {
                let nanoseconds = shifted.saturating_mul(1_000);
                self.text(&format!(", arrow_cast({nanoseconds}, 'Timestamp(Nanosecond, None)')) "))
            }
        }
    }
}

/// Where the name begins that `tokens` end with, `schema.table` too.
pub(super) fn name_before(tokens: &[TokenWithSpan]) -> Option<usize> {
    let (mut at, mut name_at) = (tokens.len(), None);
    loop {
        while at > 0 && matches!(tokens[at - 1].token, Token::Whitespace(_)) {
            at -= 1;
        }
        let Some(Token::Word(_)) = at.checked_sub(1).map(|index| &tokens[index].token) else { return name_at };
        at -= 1;
        name_at = Some(at);
        if at == 0 || tokens[at - 1].token != Token::Period {
            return name_at;
        }
        at -= 1;
    }
}

/// After `t FOR SYSTEM_TIME AS OF`: puts the table, already written, into its schema of look-ups. Gives the index after the time.
fn lookup(
    tokens: &[TokenWithSpan],
    after: usize,
    span: Span,
    place: Place,
    out: &mut Vec<TokenWithSpan>,
) -> Result<usize, SqlError> {
    let at = span.start.into();
    let Some(name_at) = name_before(out) else {
        let message =
            "FOR SYSTEM_TIME AS OF follows the name of a Cassandra table: JOIN t FOR SYSTEM_TIME AS OF s.proc_time AS t ON …";
        return Err(SqlError::unsupported_at(at, message));
    };
    let name: Vec<TokenWithSpan> = out.drain(name_at..).collect();
    let relation = Cursor::new(&name, place.end, place.limits).relation()?;
    let schema = if relation.schema.is_empty() { DEFAULT_SCHEMA } else { &relation.schema };
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut writer = Writer { span: name.first().map_or(span, |token| token.span), out };
    writer.text(&format!("{}.{} ", quoted(&format!("{LOOKUP_PREFIX}{schema}")), quoted(&relation.name)))?;
    // The time: a column, or a call such as PROCTIME(). A look-up is made when the row is there, whatever it says.
    let rest = &tokens[after..];
    let mut cursor = Cursor::new(rest, place.end, place.limits);
    cursor.relation()?;
    let mut end = after + cursor.consumed();
    if *cursor.peek() == Token::LParen {
        end = closing(tokens, next(tokens, end), place)? + 1;
    }
    let has_alias = match tokens.get(next(tokens, end)).map(|token| &token.token) {
        Some(Token::Word(word)) => word.keyword == Keyword::AS || word.keyword == Keyword::NoKeyword || word.quote_style.is_some(),
        _ => false,
    };
    if !has_alias {
        writer.text(&format!(" AS {}", quoted(&relation.name)))?;
    }
    writer.text(" ")?;
    Ok(end)
}
