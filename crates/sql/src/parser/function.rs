//! Reads `CREATE FUNCTION` and `DROP FUNCTION`: an expression with a name, as SQL's standard, PostgreSQL and Databricks write it, and BigQuery where it says
//! `AGGREGATE`.
use datafusion::sql::sqlparser::{
    ast::{DataType, Expr, FunctionArguments},
    tokenizer::Token,
};

use super::{call_of, casts, counts, cursor::Cursor, folded, numbers, precedence, rewrite_alone, tokenise, types::read_type};
use crate::{
    error::SqlError,
    limits::Limits,
    location::Location,
    names::quoted,
    statement::{CreateFunction, Parameter, StatementKind},
    types::SqlType,
};

/// Most parameters of a function, as in PostgreSQL.
const MAX_PARAMETERS: usize = 100;

/// What follows the name of a window in a function of its bounds.
const BOUNDS: [&str; 4] = ["start", "end", "rowtime", "proctime"];

const EXAMPLE: &str = "a function is an expression: CREATE FUNCTION name(a STRING) RETURNS STRING RETURN upper(a)";

const AGGREGATE_EXAMPLE: &str =
    "an aggregate is an expression of aggregates: CREATE AGGREGATE name(x DOUBLE) RETURNS DOUBLE RETURN max(x) - min(x)";

/// After `CREATE [OR REPLACE]`; `None`: it is of something else than a function. Temporary ones are kept as all others, as views are.
pub(super) fn create(cursor: &mut Cursor<'_>, or_replace: bool) -> Result<Option<CreateFunction>, SqlError> {
    let mut ahead = cursor.clone();
    let _ = ahead.word("TEMPORARY") || ahead.word("TEMP");
    let is_aggregate = ahead.word("AGGREGATE");
    if !ahead.word("FUNCTION") && !is_aggregate {
        return Ok(None);
    }
    *cursor = ahead;
    if is_aggregate {
        refuse_states(cursor)?;
    }
    create_function(cursor, or_replace, is_aggregate).map(Some)
}

/// PostgreSQL's aggregates are of functions that take a state from row to row.
fn refuse_states(cursor: &Cursor<'_>) -> Result<(), SqlError> {
    let says = |said: &str| {
        let is_said = |token: &Token| matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case(said));
        cursor.remaining().iter().any(|token| is_said(&token.token))
    };
    if !says("sfunc") || !says("stype") {
        return Ok(());
    }
    Err(SqlError::unsupported_at(cursor.at(), format!("SFUNC and STYPE are not supported; {AGGREGATE_EXAMPLE}")))
}

fn create_function(cursor: &mut Cursor<'_>, or_replace: bool, is_aggregate: bool) -> Result<CreateFunction, SqlError> {
    let at = cursor.at();
    let example = if is_aggregate { AGGREGATE_EXAMPLE } else { EXAMPLE };
    let if_not_exists = cursor.words(&["IF", "NOT", "EXISTS"]);
    if or_replace && if_not_exists {
        return Err(SqlError::syntax(at, "OR REPLACE and IF NOT EXISTS say two things; write one of them"));
    }
    let name = name(cursor)?;
    if *cursor.peek() != Token::LParen {
        return Err(cursor.expected_or("\"(\" and parameters", example));
    }
    let parameters = parameters(cursor, &name)?;
    cursor.expect_word("RETURNS")?;
    if cursor.is_word("TABLE") || cursor.is_word("SETOF") {
        let message =
            format!("function {name} returns rows, and a function is an expression here; write CREATE VIEW {name} AS SELECT …");
        return Err(SqlError::unsupported_at(cursor.at(), message));
    }
    let returns = type_of_value(cursor, &format!("what function {name} returns"))?;
    let mut text = None;
    let mut body = None;
    while body.is_none() && !cursor.is_done() {
        if text.is_none() && cursor.word("RETURN") {
            body = Some(expression(cursor, at)?);
        } else if text.is_none() && cursor.word("AS") {
            if is_text(cursor.peek()) {
                text = Some((cursor.at(), words(cursor)?));
            } else {
                body = Some(expression(cursor, at)?);
            }
        } else {
            property(cursor, &name)?;
        }
    }
    if let Some((at, text)) = text {
        body = Some(expression_of_text(&text, cursor.limits(), at)?);
    }
    let Some(body) = body else { return Err(cursor.expected_or("RETURN and an expression", example)) };
    Ok(CreateFunction { name, or_replace, if_not_exists, is_aggregate, parameters, returns, body: Box::new(body), at })
}

/// After `DROP [TEMPORARY] FUNCTION`, or `AGGREGATE`.
pub(super) fn drop_function(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    let if_exists = cursor.words(&["IF", "EXISTS"]);
    let name = name(cursor)?;
    if *cursor.peek() == Token::LParen {
        return Err(cursor.expected_or("the end of the statement", "there is one function of a name: leave its types out"));
    }
    if cursor.is_word("CASCADE") {
        let message = "DROP … CASCADE does not exist; drop the jobs, views, tables and functions that use it first";
        return Err(SqlError::unsupported_at(cursor.at(), message));
    }
    cursor.word("RESTRICT");
    Ok(StatementKind::DropFunction { name, if_exists })
}

/// The name of a function, which has no schema, as those of DataFusion have none.
pub(super) fn name(cursor: &mut Cursor<'_>) -> Result<String, SqlError> {
    let at = cursor.at();
    let name = cursor.identifier("a function name")?;
    if *cursor.peek() == Token::Period {
        return Err(SqlError::unsupported_at(at, "functions have no schema; write the name alone"));
    }
    Ok(name)
}

fn parameters(cursor: &mut Cursor<'_>, function: &str) -> Result<Vec<Parameter>, SqlError> {
    let mut ahead = cursor.clone();
    if ahead.token(&Token::LParen) && ahead.token(&Token::RParen) {
        *cursor = ahead;
        return Ok(Vec::new());
    }
    let at = cursor.at();
    let parameters = cursor.list(|cursor| parameter(cursor, function))?;
    if parameters.len() > MAX_PARAMETERS {
        let message = format!("function {function} has more than {MAX_PARAMETERS} parameters; pass several as an ARRAY");
        return Err(SqlError::TooLarge { at, message });
    }
    for (place, parameter) in parameters.iter().enumerate() {
        if parameters[..place].iter().any(|other| other.name == parameter.name) {
            let message = format!("function {function} has two parameters {}; name them apart", parameter.name);
            return Err(SqlError::invalid_at(at, message));
        }
    }
    Ok(parameters)
}

fn parameter(cursor: &mut Cursor<'_>, function: &str) -> Result<Parameter, SqlError> {
    let at = cursor.at();
    let mut name = cursor.identifier("a parameter's name")?;
    // PostgreSQL's `IN a STRING`; a parameter may have such a name, too.
    let has_mode = matches!(name.as_str(), "in" | "out" | "inout" | "variadic");
    if has_mode && matches!(cursor.peek(), Token::Word(_)) {
        let mut ahead = cursor.clone();
        ahead.advance();
        if matches!(ahead.peek(), Token::Word(_)) {
            if name != "in" {
                let mode = name.to_uppercase();
                let message =
                    format!("function {function} has an {mode} parameter, and gives one value, which it returns; leave {mode} out");
                return Err(SqlError::unsupported_at(at, message));
            }
            name = cursor.identifier("a parameter's name")?;
        }
    }
    let sql_type = type_of_value(cursor, &format!("parameter {name} of function {function}"))?;
    if cursor.is_word("DEFAULT") || *cursor.peek() == Token::Eq {
        let message = format!("parameter {name} of function {function} has a DEFAULT, which is not supported; every call gives it");
        return Err(SqlError::unsupported_at(cursor.at(), message));
    }
    Ok(Parameter { name, sql_type })
}

/// A type to which a value can be cast.
fn type_of_value(cursor: &mut Cursor<'_>, subject: &str) -> Result<SqlType, SqlError> {
    let at = cursor.at();
    let known = read_type(cursor)?;
    if has_fields(&known) {
        let message = format!("{subject} is {known}, to which nothing can be cast; let the function take and give single values");
        return Err(SqlError::unsupported_at(at, message));
    }
    Ok(known)
}

fn has_fields(sql_type: &SqlType) -> bool {
    match sql_type {
        SqlType::Row(_) | SqlType::Map(..) => true,
        SqlType::Array(item) => has_fields(item),
        _ => false,
    }
}

/// What PostgreSQL, Databricks and SQL's standard say of a function beside its expression, which tells it all.
fn property(cursor: &mut Cursor<'_>, function: &str) -> Result<(), SqlError> {
    let at = cursor.at();
    if cursor.word("LANGUAGE") {
        if cursor.word("SQL") {
            return Ok(());
        }
        let message = format!("function {function} is in another language than SQL ({}); {EXAMPLE}", cursor.found());
        return Err(SqlError::unsupported_at(at, message));
    }
    if cursor.is_word("STRICT") || cursor.words(&["RETURNS", "NULL", "ON", "NULL", "INPUT"]) {
        let message =
            format!("STRICT is not supported; write what function {function} gives of a NULL: CASE WHEN a IS NOT NULL THEN … END");
        return Err(SqlError::unsupported_at(at, message));
    }
    if cursor.word("COMMENT") {
        cursor.string("a comment")?;
        return Ok(());
    }
    if cursor.word("PARALLEL") {
        if cursor.word("SAFE") || cursor.word("UNSAFE") || cursor.word("RESTRICTED") {
            return Ok(());
        }
        return Err(cursor.expected("SAFE"));
    }
    let is_known = ["IMMUTABLE", "STABLE", "VOLATILE", "DETERMINISTIC"].iter().any(|word| cursor.word(word))
        || cursor.words(&["NOT", "DETERMINISTIC"])
        || cursor.words(&["CONTAINS", "SQL"])
        || cursor.words(&["CALLED", "ON", "NULL", "INPUT"]);
    if is_known { Ok(()) } else { Err(cursor.expected_or("RETURN and an expression", EXAMPLE)) }
}

/// Whether what follows AS is the function's text; else it is the expression itself, as in BigQuery.
fn is_text(token: &Token) -> bool {
    matches!(token, Token::DollarQuotedString(_) | Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_))
}

/// PostgreSQL's text of a function.
fn words(cursor: &mut Cursor<'_>) -> Result<String, SqlError> {
    let text = match cursor.peek() {
        Token::DollarQuotedString(text) => text.value.clone(),
        Token::SingleQuotedString(text) => text.clone(),
        _ => return Err(cursor.expected_or("the function's text", "write RETURN expression, or AS $$ SELECT expression $$")),
    };
    cursor.advance();
    Ok(text)
}

/// `SELECT expression;` or the expression alone. Places of errors are that of the text, which may be written in two ways.
fn expression_of_text(text: &str, limits: Limits, at: Location) -> Result<Expr, SqlError> {
    let read = || -> Result<Expr, SqlError> {
        let mut tokens = tokenise(text)?;
        while tokens.last().is_some_and(|last| matches!(last.token, Token::Whitespace(_) | Token::SemiColon)) {
            tokens.pop();
        }
        limits.check_depth(&tokens)?;
        let mut cursor = Cursor::new(&tokens, at, limits);
        cursor.word("SELECT");
        expression(&mut cursor, at)
    };
    read().map_err(|error| match error {
        SqlError::Syntax { message, hint, .. } => SqlError::Syntax { at, message, hint },
        SqlError::TooLarge { message, .. } => SqlError::TooLarge { at, message },
        SqlError::Unsupported { message, .. } => SqlError::unsupported_at(at, message),
        SqlError::Invalid { message, .. } => SqlError::invalid_at(at, message),
        other => other,
    })
}

/// The rest as an expression, rewritten as those of queries are.
fn expression(cursor: &mut Cursor<'_>, at: Location) -> Result<Expr, SqlError> {
    if cursor.is_done() {
        return Err(cursor.expected_or("an expression", EXAMPLE));
    }
    casts::refuse_nested(cursor.remaining())?;
    let mut expression = cursor.rest(|parser| parser.parse_expr())?;
    precedence::mend(&mut expression);
    numbers::keep_digits(&mut expression, at)?;
    rewrite_alone(&mut expression, at)?;
    counts::count_together(&mut expression);
    Ok(expression)
}

/// A type as the words of a cast.
pub(crate) fn data_type(sql_type: &SqlType) -> Result<DataType, SqlError> {
    let tokens = tokenise(&sql_type.to_string())?;
    Cursor::new(&tokens, Location::START, Limits::default()).rest(|parser| parser.parse_data_type())
}

/// Whether a call of this name, with so many arguments, is nothing else to the grammar.
pub(crate) fn is_free(name: &str, arguments: usize) -> bool {
    let is_bound = name.split_once('_').is_some_and(|(window, bound)| call_of(window).is_some() && BOUNDS.contains(&bound));
    if is_bound || call_of(name).is_some() {
        return false;
    }
    let arguments: Vec<String> = (0..arguments).map(|place| format!("a{place}")).collect();
    let Ok(tokens) = tokenise(&format!("{}({})", quoted(name), arguments.join(", "))) else { return false };
    let read = expression(&mut Cursor::new(&tokens, Location::START, Limits::default()), Location::START);
    let Ok(Expr::Function(function)) = read else { return false };
    let FunctionArguments::List(list) = &function.args else { return false };
    let [called] = function.name.0.as_slice() else { return false };
    list.args.len() == arguments.len() && called.as_ident().is_some_and(|called| folded(called) == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parser::parse, statement::Show};

    fn read(sql: &str) -> Result<CreateFunction, SqlError> {
        match parse(sql)?.remove(0).kind {
            StatementKind::CreateFunction(create) => Ok(create),
            other => panic!("{sql} is {}", other.tag()),
        }
    }

    #[test]
    fn a_function_is_read_in_the_words_of_others() {
        let expected = "FUNCTION full_name(first STRING, last STRING) RETURNS STRING RETURN first || ' ' || last";
        let head = "FUNCTION full_name(first STRING, last VARCHAR(20)) RETURNS STRING";
        for sql in [
            format!("CREATE {head} RETURN first || ' ' || last"),
            format!("CREATE OR REPLACE TEMPORARY {head} LANGUAGE SQL DETERMINISTIC RETURN first || ' ' || last;"),
            format!("CREATE {head} AS $$ SELECT first || ' ' || last; $$ LANGUAGE sql IMMUTABLE PARALLEL SAFE"),
            format!("CREATE {head} COMMENT 'both' AS 'first || '' '' || last'"),
        ] {
            assert_eq!(read(&sql).unwrap().to_string(), expected, "{sql}");
        }
        let none = read("CREATE FUNCTION IF NOT EXISTS \"Half\"() RETURNS DECIMAL(10, 2) RETURN 0.5").unwrap();
        assert_eq!(none.to_string(), "FUNCTION \"Half\"() RETURNS DECIMAL(10, 2) RETURN 0.5");
        assert!(none.if_not_exists && !none.or_replace);
        let rewritten = read("CREATE FUNCTION kind(IN n BIGINT) RETURNS STRING RETURN if(n > 1, 'many', 'one')").unwrap();
        assert_eq!(rewritten.signature(), "kind(n BIGINT)");
        assert_eq!(rewritten.body.to_string(), "CASE WHEN n > 1 THEN 'many' ELSE 'one' END");
        let spread = "FUNCTION spread(x DOUBLE) RETURNS DOUBLE RETURN max(x) - min(x)";
        let head = "spread(x DOUBLE) RETURNS DOUBLE";
        for (sql, says_so) in [
            (format!("CREATE FUNCTION {head} RETURN max(x) - min(x)"), false),
            (format!("CREATE FUNCTION {head} AS max(x) - min(x)"), false),
            (format!("CREATE AGGREGATE {head} RETURN max(x) - min(x)"), true),
            (format!("CREATE OR REPLACE TEMP AGGREGATE FUNCTION {head} LANGUAGE SQL AS $$ SELECT max(x) - min(x) $$"), true),
        ] {
            let create = read(&sql).unwrap();
            assert_eq!((create.to_string().as_str(), create.is_aggregate), (spread, says_so), "{sql}");
        }
    }

    #[test]
    fn functions_are_dropped_and_shown() {
        let kind = |sql: &str| parse(sql).unwrap().remove(0).kind;
        let dropped = |if_exists| StatementKind::DropFunction { name: "f".into(), if_exists };
        assert_eq!(kind("DROP FUNCTION f RESTRICT"), dropped(false));
        assert_eq!(kind("DROP TEMPORARY FUNCTION IF EXISTS F"), dropped(true));
        assert_eq!(kind("DROP AGGREGATE f"), dropped(false));
        assert_eq!(kind("DROP AGGREGATE FUNCTION IF EXISTS f"), dropped(true));
        assert_eq!(kind("SHOW FUNCTIONS"), StatementKind::Show(Show::Functions));
        assert_eq!(kind("SHOW USER FUNCTIONS"), StatementKind::Show(Show::Functions));
        for sql in ["SHOW CREATE FUNCTION f", "DESCRIBE FUNCTION f", "DESC FUNCTION F"] {
            assert_eq!(kind(sql), StatementKind::Show(Show::CreateFunction("f".into())), "{sql}");
        }
        assert!(matches!(kind("DESCRIBE function"), StatementKind::Describe(_)), "a table of that name");
    }

    #[test]
    fn what_no_function_can_be_is_refused_by_name() {
        for (sql, reason) in [
            ("CREATE FUNCTION f AS 'com.example.F' LANGUAGE JAVA", "a function is an expression: CREATE FUNCTION name(a STRING)"),
            ("CREATE FUNCTION f(a INT) RETURNS INT LANGUAGE PYTHON AS $$ return a $$", "another language than SQL (\"PYTHON\")"),
            ("CREATE FUNCTION f(a INT) RETURNS INT AS $$ return a $$ LANGUAGE plpgsql", "another language than SQL"),
            ("CREATE FUNCTION f(a INT) RETURNS TABLE (b INT) RETURN SELECT a", "write CREATE VIEW f AS SELECT"),
            ("CREATE FUNCTION f(a INT) RETURNS ROW<b INT> RETURN a", "to which nothing can be cast"),
            ("CREATE FUNCTION f(a MAP<STRING, INT>) RETURNS INT RETURN 1", "parameter a of function f is MAP<STRING, INT>"),
            ("CREATE FUNCTION f(a INT, A INT) RETURNS INT RETURN a", "two parameters a"),
            ("CREATE FUNCTION f(a INT DEFAULT 1) RETURNS INT RETURN a", "has a DEFAULT"),
            ("CREATE FUNCTION f(OUT a INT) RETURNS INT RETURN 1", "OUT"),
            ("CREATE FUNCTION f(a INT) RETURNS INT STRICT RETURN a", "CASE WHEN a IS NOT NULL"),
            ("CREATE FUNCTION f(a INT) RETURNS INT", "expected RETURN and an expression"),
            ("CREATE FUNCTION f(a INT) RETURNS INT AS $$ SELECT a FROM t $$", "expected the end of the statement"),
            ("CREATE FUNCTION s.f(a INT) RETURNS INT RETURN a", "functions have no schema"),
            ("CREATE OR REPLACE FUNCTION IF NOT EXISTS f(a INT) RETURNS INT RETURN a", "write one of them"),
            ("CREATE AGGREGATE f(a INT) RETURNS INT", "expected RETURN and an expression"),
            ("CREATE AGGREGATE f(float8) (sfunc = float8pl, stype = float8)", "SFUNC and STYPE are not supported; an aggregate is"),
            ("CREATE FUNCTION f(a INT) RETURNS INT AS", "expected an expression"),
            ("CREATE OR REPLACE VIEW v AS SELECT 1", "write DROP and CREATE"),
            ("DROP FUNCTION f(INT)", "leave its types out"),
            ("DROP FUNCTION f CASCADE", "CASCADE does not exist"),
        ] {
            let error = parse(sql).unwrap_err().to_string();
            assert!(error.contains(reason), "{sql}: {error}");
        }
        let deep = format!("CREATE FUNCTION f(a INT) RETURNS INT AS $$ {}a{} $$", "(".repeat(300), ")".repeat(300));
        assert!(parse(&deep).unwrap_err().to_string().contains("nested more than"));
    }

    #[test]
    fn names_that_the_grammar_takes_are_not_free() {
        for (name, arguments) in [("if", 3), ("ucase", 1), ("tumble", 2), ("hop_start", 2)] {
            assert!(!is_free(name, arguments), "{name}");
        }
        for (name, arguments) in [("full_name", 2), ("Half", 0), ("hop_count", 1)] {
            assert!(is_free(name, arguments), "{name}");
        }
    }
}
