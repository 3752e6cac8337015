//! What SQL writes inside the brackets of its JSON functions: `KEY 'a' VALUE x`, `RETURNING INT`, `DEFAULT 0 ON EMPTY`, `WITH ARRAY WRAPPER`. It becomes
//! calls of functions, CASE and CAST. So do `IS JSON` and Flink's `MAP['a', 1]`.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{
        BinaryOperator, CaseWhen, CastKind, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
        FunctionArguments, Ident, JsonNullClause, UnaryOperator, Value, WindowType, helpers::attached_token::AttachedToken,
    },
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::Token,
};

use super::{
    building::{MAX_REPEATED, call, case, text},
    window,
};
use crate::walk::visit_expressions_mut;

/// The call of what was written, a text, and what it means: for who names columns. Nobody can write such a name without quotes.
pub(super) const WRITTEN: &str = "as written";

pub(super) const ABSENT: &str = "ABSENT ON NULL is not supported, as NULLs are members of JSON here; leave it out";

/// Most bytes of such a text: more than anybody is shown.
const MAX_TEXT: usize = 256;

/// What was written, of a call of [`WRITTEN`].
pub(super) fn text_of(expression: &Expr) -> Option<&str> {
    let Expr::Function(function) = expression else { return None };
    let [part] = function.name.0.as_slice() else { return None };
    let FunctionArguments::List(list) = &function.args else { return None };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(text))), _] if part.as_ident()?.value == WRITTEN => {
            match &text.value {
                Value::SingleQuotedString(text) => Some(text),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What was read since `start`, with its meaning.
fn as_written(parser: &Parser<'_>, start: usize, meaning: Expr) -> Expr {
    let mut written = String::new();
    for token in (start..parser.index()).map(|index| &parser.token_at(index).token) {
        match token {
            Token::Whitespace(_) if written.is_empty() || written.ends_with([' ', '(']) => {}
            Token::Whitespace(_) => written.push(' '),
            Token::RParen => {
                written.truncate(written.trim_end().len());
                written.push(')');
            }
            token => written.push_str(&token.to_string()),
        }
        if written.len() > MAX_TEXT {
            break;
        }
    }
    call(WRITTEN, [text(&written), meaning])
}

/// What was written of expressions that were read already.
pub(super) fn said(parts: &[&Expr], together: impl FnOnce(&[String]) -> String) -> String {
    let parts: Vec<String> = parts.iter().map(|part| as_said(part)).collect();
    together(&parts).chars().take(MAX_TEXT).collect()
}

fn as_said(expression: &Expr) -> String {
    let mut said = expression.clone();
    let done: ControlFlow<()> = visit_expressions_mut(&mut said, |part| {
        if let Some(text) = text_of(part) {
            *part = Expr::Identifier(Ident::new(text));
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
    said.to_string()
}

/// What was written, with a condition that it means, or means not.
pub(super) fn meant(written: &str, condition: Expr, negated: bool) -> Expr {
    let condition = Expr::Nested(Box::new(condition));
    let not = |condition| Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(condition) }));
    call(WRITTEN, [text(written), if negated { not(condition) } else { condition }])
}

/// At `IS [NOT] JSON [VALUE | SCALAR | ARRAY | OBJECT]`. `None`: at something else.
pub(super) fn is_json(parser: &mut Parser<'_>, asked: &Expr) -> Option<Expr> {
    let [_, second, third] = parser.peek_tokens();
    let negated = window::is_word(&second, "NOT");
    if !window::is_word(if negated { &third } else { &second }, "JSON") {
        return None;
    }
    for _ in 0..if negated { 3 } else { 2 } {
        parser.advance_token();
    }
    let kind = ["VALUE", "SCALAR", "ARRAY", "OBJECT"].into_iter().find(|kind| take_word(parser, kind));
    let not = if negated { "NOT " } else { "" };
    let written = said(&[asked], |said| match kind {
        Some(kind) => format!("{} IS {not}JSON {kind}", said[0]),
        None => format!("{} IS {not}JSON", said[0]),
    });
    let kind = text(&kind.unwrap_or("VALUE").to_lowercase());
    Some(meant(&written, call("is_json", [asked.clone(), kind]), negated))
}

/// Whether several items stand in the brackets that come: `map[key]` is of a column of that name.
pub(super) fn has_items(parser: &Parser<'_>) -> bool {
    let mut depth = 0_usize;
    let tokens = (parser.index()..).map(|index| &parser.token_at(index).token);
    for token in tokens.take_while(|token| **token != Token::EOF) {
        match token {
            Token::LBracket | Token::LParen | Token::LBrace => depth += 1,
            Token::RBracket | Token::RParen | Token::RBrace if depth <= 1 => return false,
            Token::RBracket | Token::RParen | Token::RBrace => depth -= 1,
            Token::Comma if depth == 1 => return true,
            _ => {}
        }
    }
    false
}

/// At `MAP['a', 1, 'b', 2]`.
pub(super) fn map_of(parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    let start = parser.index();
    parser.advance_token();
    parser.expect_token(&Token::LBracket)?;
    let items = parser.parse_comma_separated(Parser::parse_expr)?;
    parser.expect_token(&Token::RBracket)?;
    if items.len() % 2 != 0 {
        return error("MAP[…] takes keys and values in turn, and the last key has no value: MAP['a', 1, 'b', 2]");
    }
    let (keys, values): (Vec<_>, Vec<_>) = items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).unzip();
    let map = call("map", [call("make_array", keys), call("make_array", values)]);
    Ok(as_written(parser, start, map))
}

/// At a name and its opening bracket. `None`: the function has no clauses of its own.
pub(super) fn read(name: &str, parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
    let read = match name.to_ascii_lowercase().as_str() {
        "json_object" => json_object,
        "json_value" => json_value,
        "json_query" => json_query,
        "json_exists" => json_exists,
        "json_objectagg" => json_objectagg,
        _ => return None,
    };
    Some(read(name, parser))
}

fn error<T>(message: impl Into<String>) -> Result<T, ParserError> {
    Err(ParserError::ParserError(message.into()))
}

/// `JSON_OBJECT(KEY 'a' VALUE x, …)`, as a call with names and values in turn.
fn json_object(_: &str, parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    let start = parser.index();
    parser.advance_token();
    parser.expect_token(&Token::LParen)?;
    let (mut args, mut is_plain) = (Vec::new(), true);
    if !parser.consume_token(&Token::RParen) {
        loop {
            if let [Token::Word(word), Token::SingleQuotedString(_)] = &parser.peek_tokens()
                && word.keyword == Keyword::KEY
            {
                parser.advance_token();
            }
            args.push(parser.parse_expr()?);
            if parser.parse_keyword(Keyword::VALUE) {
                args.push(parser.parse_expr()?);
                is_plain = false;
            }
            if !parser.consume_token(&Token::Comma) {
                break;
            }
        }
        if is_word(parser, "ABSENT") {
            return error(ABSENT);
        }
        // NULLs are members anyway.
        let _ = parser.parse_keywords(&[Keyword::NULL, Keyword::ON, Keyword::NULL]);
        parser.expect_token(&Token::RParen)?;
    }
    let object = call("json_object", args);
    Ok(if is_plain { object } else { as_written(parser, start, object) })
}

/// `JSON_VALUE(json, path [RETURNING type] [NULL | DEFAULT x ON EMPTY] [NULL | DEFAULT x ON ERROR])`.
fn json_value(name: &str, parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    let start = parser.index();
    let arguments = arguments(parser)?;
    let returning = if parser.parse_keyword(Keyword::RETURNING) { Some(parser.parse_data_type()?) } else { None };
    let otherwise = Otherwise::read(parser)?;
    parser.expect_token(&Token::RParen)?;
    let value = call(name, arguments.iter().cloned());
    let meaning = match (&returning, otherwise.is_null(), arguments.as_slice()) {
        (None, true, _) => return Ok(value),
        (Some(to), true, _) => cast(CastKind::TryCast, value, to),
        (_, false, [json, _]) => otherwise.over(json, value, returning.clone())?,
        _ => return error(format!("{name} takes a text that holds JSON and a path, for example '$.a.b[0]'")),
    };
    Ok(as_written(parser, start, meaning))
}

/// `JSON_QUERY(json, path [RETURNING type] [WITHOUT | WITH [CONDITIONAL | UNCONDITIONAL] [ARRAY] WRAPPER] [NULL | EMPTY ARRAY | EMPTY OBJECT ON EMPTY | ERROR])`.
fn json_query(name: &str, parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    let start = parser.index();
    let mut arguments = arguments(parser)?;
    if parser.parse_keyword(Keyword::RETURNING) {
        let to = parser.parse_data_type()?;
        if !matches!(to, DataType::String(_) | DataType::Text | DataType::Varchar(None)) {
            return error(format!("{name} gives JSON as a text and not as {to}; write RETURNING STRING, or leave it out"));
        }
    }
    let json = arguments.first().cloned();
    let wrapper = wrapper(parser)?;
    let has_wrapper = wrapper.is_some();
    arguments.extend(wrapper.map(text));
    let otherwise = Otherwise::read(parser)?;
    parser.expect_token(&Token::RParen)?;
    let value = call(name, arguments);
    let meaning = match json {
        Some(json) if !otherwise.is_null() => otherwise.over(&json, value, None)?,
        _ if has_wrapper => value,
        _ => return Ok(value),
    };
    Ok(as_written(parser, start, meaning))
}

/// `JSON_EXISTS(json, path [TRUE | FALSE | UNKNOWN ON ERROR])`. An error is what is no JSON; without a clause nothing is there.
fn json_exists(name: &str, parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    let start = parser.index();
    let arguments = arguments(parser)?;
    let answer = ["TRUE", "FALSE", "UNKNOWN", "ERROR"].into_iter().find(|answer| take_word(parser, answer));
    if answer.is_some() {
        parser.expect_keyword_is(Keyword::ON)?;
        parser.expect_keyword_is(Keyword::ERROR)?;
    }
    parser.expect_token(&Token::RParen)?;
    let exists = call(name, arguments.iter().cloned());
    let otherwise = match answer {
        None | Some("FALSE") => return Ok(exists),
        Some("TRUE") => Value::Boolean(true),
        Some("UNKNOWN") => Value::Null,
        Some(_) => return error("ERROR ON ERROR is not supported; write TRUE, FALSE or UNKNOWN ON ERROR"),
    };
    let [json, _] = arguments.as_slice() else {
        return error(format!("{name} takes a text that holds JSON and a path, for example '$.a.b[0]'"));
    };
    // It stands there several times.
    if json.to_string().len() > MAX_REPEATED {
        return error(format!("the JSON of {name} with ON ERROR is longer than {MAX_REPEATED} bytes; compute it in a subquery"));
    }
    let is_json = call("json_exists", [json.clone(), text("$")]);
    let is_error = Expr::BinaryOp {
        left: Box::new(Expr::IsNotNull(Box::new(Expr::Nested(Box::new(json.clone()))))),
        op: BinaryOperator::And,
        right: Box::new(Expr::IsFalse(Box::new(is_json))),
    };
    Ok(as_written(parser, start, case(is_error, Expr::Value(otherwise.into()), exists)))
}

/// `JSON_OBJECTAGG([KEY] name VALUE value [NULL | ABSENT ON NULL] [WITHOUT UNIQUE KEYS]) [FILTER (WHERE …)] [OVER …]`, as a call with both.
fn json_objectagg(name: &str, parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    let start = parser.index();
    parser.advance_token();
    parser.expect_token(&Token::LParen)?;
    // A column may have that name.
    if let [Token::Word(word), next] = &parser.peek_tokens()
        && word.keyword == Keyword::KEY
        && word.quote_style.is_none()
        && match next {
            Token::Word(next) => next.keyword != Keyword::VALUE,
            next => matches!(next, Token::SingleQuotedString(_) | Token::LParen),
        }
    {
        parser.advance_token();
    }
    let member = parser.parse_expr()?;
    if !parser.parse_keyword(Keyword::VALUE) {
        parser.expect_token(&Token::Comma)?;
    }
    let value = parser.parse_expr()?;
    let is_absent = take_word(parser, "ABSENT");
    let nulls = if is_absent || parser.parse_keyword(Keyword::NULL) {
        parser.expect_keyword_is(Keyword::ON)?;
        parser.expect_keyword_is(Keyword::NULL)?;
        Some(if is_absent { JsonNullClause::AbsentOnNull } else { JsonNullClause::NullOnNull })
    } else {
        None
    };
    if parser.parse_keyword(Keyword::WITHOUT) {
        parser.expect_keyword_is(Keyword::UNIQUE)?;
        take_word(parser, "KEYS");
    } else if parser.parse_keyword(Keyword::WITH) {
        return error("WITH UNIQUE KEYS is not supported, as a name that comes twice is there twice; leave it out");
    }
    parser.expect_token(&Token::RParen)?;
    let mut object = call(name, [member, value]);
    if let Expr::Function(function) = &mut object {
        if let FunctionArguments::List(list) = &mut function.args {
            list.clauses.extend(nulls.map(FunctionArgumentClause::JsonNullClause));
        }
        if parser.parse_keyword(Keyword::FILTER) {
            parser.expect_token(&Token::LParen)?;
            parser.expect_keyword_is(Keyword::WHERE)?;
            function.filter = Some(Box::new(parser.parse_expr()?));
            parser.expect_token(&Token::RParen)?;
        }
        if parser.parse_keyword(Keyword::OVER) {
            function.over = Some(if parser.consume_token(&Token::LParen) {
                WindowType::WindowSpec(parser.parse_window_spec()?)
            } else {
                WindowType::NamedWindow(parser.parse_identifier()?)
            });
        }
    }
    Ok(as_written(parser, start, object))
}

/// From the name to the end of what stands between commas.
fn arguments(parser: &mut Parser<'_>) -> Result<Vec<Expr>, ParserError> {
    parser.advance_token();
    parser.expect_token(&Token::LParen)?;
    if parser.peek_token_ref().token == Token::RParen {
        return Ok(Vec::new());
    }
    parser.parse_comma_separated(Parser::parse_expr)
}

fn is_word(parser: &Parser<'_>, word: &str) -> bool {
    matches!(&parser.peek_token_ref().token, Token::Word(next) if next.quote_style.is_none() && next.value.eq_ignore_ascii_case(word))
}

fn take_word(parser: &mut Parser<'_>, word: &str) -> bool {
    let found = is_word(parser, word);
    if found {
        parser.advance_token();
    }
    found
}

fn wrapper(parser: &mut Parser<'_>) -> Result<Option<&'static str>, ParserError> {
    let kind = if parser.parse_keyword(Keyword::WITHOUT) {
        None
    } else if !parser.parse_keyword(Keyword::WITH) {
        return Ok(None);
    } else if take_word(parser, "CONDITIONAL") {
        Some("conditional")
    } else {
        take_word(parser, "UNCONDITIONAL");
        Some("unconditional")
    };
    let _ = parser.parse_keyword(Keyword::ARRAY);
    parser.expect_keyword_is(Keyword::WRAPPER)?;
    Ok(kind)
}

/// What stands for a value that is not there, or cannot be read. `None` is NULL.
#[derive(Default)]
struct Otherwise {
    empty: Option<Expr>,
    error: Option<Expr>,
}

impl Otherwise {
    fn read(parser: &mut Parser<'_>) -> Result<Self, ParserError> {
        let mut otherwise = Self::default();
        loop {
            let value = if parser.parse_keyword(Keyword::NULL) {
                None
            } else if parser.parse_keyword(Keyword::DEFAULT) {
                Some(parser.parse_expr()?)
            } else if parser.parse_keyword(Keyword::EMPTY) {
                let is_array = parser.parse_keyword(Keyword::ARRAY);
                if !is_array {
                    parser.expect_keyword_is(Keyword::OBJECT)?;
                }
                Some(text(if is_array { "[]" } else { "{}" }))
            } else if is_word(parser, "ERROR") {
                return error("ERROR ON EMPTY and ERROR ON ERROR are not supported; write NULL ON …, or DEFAULT value ON …");
            } else {
                return Ok(otherwise);
            };
            parser.expect_keyword_is(Keyword::ON)?;
            if parser.parse_keyword(Keyword::EMPTY) {
                otherwise.empty = value;
            } else {
                parser.expect_keyword_is(Keyword::ERROR)?;
                otherwise.error = value;
            }
        }
    }

    fn is_null(&self) -> bool {
        self.empty.is_none() && self.error.is_none()
    }

    /// NULL stays NULL. An error is what is no JSON, or no value of the type; nothing, or another kind of value at the path, is empty.
    fn over(self, json: &Expr, value: Expr, returning: Option<DataType>) -> Result<Expr, ParserError> {
        // They stand there several times.
        if json.to_string().len() + value.to_string().len() > MAX_REPEATED {
            return error(format!(
                "the JSON of a value with DEFAULT is longer than {MAX_REPEATED} bytes; compute it in a subquery"
            ));
        }
        let to = returning.clone().unwrap_or(DataType::Varchar(None));
        let or_null = |default: &Option<Expr>| match default {
            Some(default) => cast(CastKind::Cast, default.clone(), &to),
            None => Expr::Value(Value::Null.into()),
        };
        let found = match (&returning, &self.error) {
            (None, _) => value.clone(),
            (Some(to), None) => cast(CastKind::TryCast, value.clone(), to),
            (Some(to), Some(_)) => call("coalesce", [cast(CastKind::TryCast, value.clone(), to), or_null(&self.error)]),
        };
        let is_null = |expression: Expr| Expr::IsNull(Box::new(Expr::Nested(Box::new(expression))));
        let is_json = call("json_exists", [json.clone(), text("$")]);
        let when = |condition: Expr, result: Expr| CaseWhen { condition, result };
        Ok(Expr::Case {
            case_token: AttachedToken::empty(),
            end_token: AttachedToken::empty(),
            operand: None,
            conditions: vec![
                when(is_null(json.clone()), Expr::Value(Value::Null.into())),
                when(Expr::IsFalse(Box::new(is_json)), or_null(&self.error)),
                when(is_null(value), or_null(&self.empty)),
            ],
            else_result: Some(Box::new(found)),
        })
    }
}

fn cast(kind: CastKind, expression: Expr, to: &DataType) -> Expr {
    Expr::Cast { kind, expr: Box::new(expression), data_type: to.clone(), array: false, format: None }
}

#[cfg(test)]
mod tests;
