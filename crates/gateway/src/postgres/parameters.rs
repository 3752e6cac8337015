//! Bound parameters as SQL literals. The engine takes text only, so `$1` becomes what a careful person would have written there.
use chrono::{NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use datafusion::sql::sqlparser::{
    ast::{Ident, SelectItem, SetExpr, Statement},
    dialect::GenericDialect,
    parser::Parser,
};
use datafusion_postgres::pgwire::{
    api::{Type, portal::Portal},
    error::{PgWireError, PgWireResult},
};
use uuid::Uuid;

use super::report;
use crate::{
    error::{EngineError, ErrorKind},
    scan,
};

/// PostgreSQL counts days and microseconds from here.
const EPOCH: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a day of the calendar");

/// `types` are what the server told; what the client declared goes before.
pub fn bind<S: Clone>(sql: &str, portal: &Portal<S>, types: &[Type]) -> PgWireResult<String> {
    let declared = &portal.statement.parameter_types;
    let literals = (0..portal.parameter_len())
        .map(|at| {
            let kind = declared.get(at).cloned().flatten().filter(|kind| *kind != Type::UNKNOWN);
            literal(portal, at, &kind.or_else(|| types.get(at).cloned()).unwrap_or(Type::TEXT))
        })
        .collect::<PgWireResult<Vec<_>>>()?;
    scan::bind(sql, &literals).map_err(|number| bad(format!("parameter ${number} has no value")))
}

/// Names for columns that are made of parameters: where values agree, so would the columns' names, and no two may have one. None where
/// there is nothing to name.
pub fn named(sql: &str) -> Option<String> {
    if scan::parameter_count(sql) == 0 {
        return None;
    }
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).ok()?;
    let [Statement::Query(query)] = statements.as_mut_slice() else { return None };
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    if select.projection.iter().filter(|item| is_made_of_parameters(item)).count() < 2 {
        return None;
    }
    for (at, item) in select.projection.iter_mut().enumerate() {
        if is_made_of_parameters(item)
            && let SelectItem::UnnamedExpr(expr) = item
        {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', format!("?column {at}?")) };
        }
    }
    Some(query.to_string())
}

fn is_made_of_parameters(item: &SelectItem) -> bool {
    matches!(item, SelectItem::UnnamedExpr(value) if scan::parameter_count(&value.to_string()) > 0)
}

/// The statement with a NULL of its type for every parameter, to be described by; text where the client declared no type.
pub fn typed(sql: &str, declared: &[Option<Type>]) -> Option<String> {
    let count = scan::parameter_count(sql);
    if count == 0 {
        return None;
    }
    let null = |at: usize| {
        let kind = declared.get(at).and_then(Option::as_ref);
        let name = kind.and_then(|kind| match element(kind) {
            Some(element) => arrow_name(&element).map(|name| format!("List({name})")),
            None => arrow_name(kind).map(str::to_owned),
        });
        // With its number, for no two columns may have one name.
        format!("arrow_cast(nullif('{at}', '{at}'), '{}')", name.as_deref().unwrap_or("Utf8"))
    };
    scan::bind(sql, &(0..count).map(null).collect::<Vec<_>>()).ok()
}

fn literal<S: Clone>(portal: &Portal<S>, at: usize, kind: &Type) -> PgWireResult<String> {
    let Some(bytes) = portal.parameters.get(at).and_then(Option::as_ref) else {
        return Ok("NULL".to_owned());
    };
    if portal.parameter_format.is_text(at) {
        let text = std::str::from_utf8(bytes).map_err(|_| bad(format!("parameter ${} is not UTF-8", at + 1)))?;
        return of_text(text, kind).ok_or_else(|| bad(format!("parameter ${} is no {}: {text}", at + 1, kind.name())));
    }
    let readable = element(kind).unwrap_or_else(|| kind.clone());
    if arrow_name(&readable).is_none() {
        return Err(bad(format!("parameter ${} of type {} cannot be sent in binary; send it as text", at + 1, kind.name())));
    }
    of_binary(bytes, kind).ok_or_else(|| bad(format!("parameter ${} is no {}", at + 1, kind.name())))
}

/// What an array consists of.
fn element(kind: &Type) -> Option<Type> {
    Some(match *kind {
        Type::BOOL_ARRAY => Type::BOOL,
        Type::INT2_ARRAY => Type::INT2,
        Type::INT4_ARRAY => Type::INT4,
        Type::INT8_ARRAY => Type::INT8,
        Type::FLOAT4_ARRAY => Type::FLOAT4,
        Type::FLOAT8_ARRAY => Type::FLOAT8,
        Type::NUMERIC_ARRAY => Type::NUMERIC,
        Type::DATE_ARRAY => Type::DATE,
        Type::TIME_ARRAY => Type::TIME,
        Type::TIMESTAMP_ARRAY => Type::TIMESTAMP,
        Type::TIMESTAMPTZ_ARRAY => Type::TIMESTAMPTZ,
        Type::BYTEA_ARRAY => Type::BYTEA,
        Type::UUID_ARRAY => Type::UUID,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::BPCHAR_ARRAY | Type::NAME_ARRAY => Type::TEXT,
        _ => return None,
    })
}

/// The Arrow type of a scalar's literal, as `arrow_cast` reads it.
fn arrow_name(kind: &Type) -> Option<&'static str> {
    Some(match *kind {
        Type::BOOL => "Boolean",
        Type::INT2 => "Int16",
        Type::INT4 => "Int32",
        Type::INT8 => "Int64",
        Type::FLOAT4 => "Float32",
        Type::FLOAT8 | Type::NUMERIC => "Float64",
        Type::DATE => "Date32",
        Type::TIME => "Time64(Nanosecond)",
        Type::TIMESTAMP | Type::TIMESTAMPTZ => "Timestamp(Microsecond, None)",
        Type::INTERVAL => "Interval(MonthDayNano)",
        Type::BYTEA => "Binary",
        Type::UUID | Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => "Utf8",
        _ => return None,
    })
}

/// The cast tells the type when the array is empty or all NULL. Beside bytes a bare NULL finds no type.
fn array(literals: &[String], element: &Type) -> Option<String> {
    let item = |literal: &String| match (literal.as_str(), element) {
        ("NULL", &Type::BYTEA) => "arrow_cast(NULL, 'Binary')".to_owned(),
        _ => literal.clone(),
    };
    let items: Vec<String> = literals.iter().map(item).collect();
    Some(format!("arrow_cast(make_array({}), 'List({})')", items.join(", "), arrow_name(element)?))
}

fn of_text(text: &str, kind: &Type) -> Option<String> {
    if let Some(element) = element(kind) {
        let literal = |item: Option<String>| item.map_or_else(|| Some("NULL".to_owned()), |text| of_text(&text, &element));
        return array(&items_of_text(text)?.into_iter().map(literal).collect::<Option<Vec<_>>>()?, &element);
    }
    Some(match *kind {
        Type::BOOL => match text.to_ascii_lowercase().as_str() {
            "t" | "true" | "1" | "on" | "yes" => "true".to_owned(),
            "f" | "false" | "0" | "off" | "no" => "false".to_owned(),
            _ => return None,
        },
        Type::INT2 | Type::INT4 | Type::INT8 => number(text.trim().parse::<i64>().ok()?),
        Type::FLOAT4 | Type::FLOAT8 => float(text.trim().parse().ok()?),
        Type::NUMERIC => {
            let digits = text.trim();
            let plain = digits.strip_prefix('-').unwrap_or(digits);
            let fits =
                plain.bytes().any(|byte| byte.is_ascii_digit()) && plain.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            match fits {
                true => format!("({digits})"),
                // 1E+10.
                false => float(digits.parse().ok().filter(|value: &f64| value.is_finite())?),
            }
        }
        Type::INTERVAL => format!("INTERVAL {}", scan::quoted(&interval(text))),
        Type::DATE => format!("CAST({} AS DATE)", scan::quoted(text)),
        Type::TIME => format!("CAST({} AS TIME)", scan::quoted(text)),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => format!("CAST({} AS TIMESTAMP)", scan::quoted(text)),
        Type::BYTEA => {
            let digits = text.strip_prefix("\\x")?;
            let whole = digits.len().is_multiple_of(2) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            whole.then(|| format!("X'{digits}'"))?
        }
        // However it is grouped.
        Type::UUID => uuid(Uuid::try_parse(&text.trim().replace(['-', '{', '}'], "")).ok()?),
        _ => scan::quoted(text),
    })
}

/// `1 day -2:00:07.5` in words alone.
fn interval(text: &str) -> String {
    let word = |word: &str| {
        let Some((hours, rest)) = word.split_once(':') else { return word.to_owned() };
        let (minutes, seconds) = rest.split_once(':').unwrap_or((rest, "0"));
        let sign = if hours.starts_with('-') { "-" } else { "" };
        format!("{hours} hours {sign}{minutes} minutes {sign}{seconds} seconds")
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

fn of_binary(bytes: &[u8], kind: &Type) -> Option<String> {
    if let Some(element) = element(kind) {
        let literal = |item: Option<&[u8]>| item.map_or_else(|| Some("NULL".to_owned()), |bytes| of_binary(bytes, &element));
        return array(&items_of_binary(bytes)?.into_iter().map(literal).collect::<Option<Vec<_>>>()?, &element);
    }
    Some(match *kind {
        Type::BOOL => (*bytes.first()? != 0).to_string(),
        Type::INT2 => number(i16::from_be_bytes(bytes.try_into().ok()?)),
        Type::INT4 => number(i32::from_be_bytes(bytes.try_into().ok()?)),
        Type::INT8 => number(i64::from_be_bytes(bytes.try_into().ok()?)),
        Type::FLOAT4 => float(f64::from(f32::from_be_bytes(bytes.try_into().ok()?))),
        Type::FLOAT8 => float(f64::from_be_bytes(bytes.try_into().ok()?)),
        Type::DATE => {
            let days = TimeDelta::try_days(i64::from(i32::from_be_bytes(bytes.try_into().ok()?)))?;
            format!("DATE '{}'", EPOCH.checked_add_signed(days)?)
        }
        Type::TIME => {
            let since_midnight = TimeDelta::microseconds(i64::from_be_bytes(bytes.try_into().ok()?));
            let (time, days) = NaiveTime::MIN.overflowing_add_signed(since_midnight);
            (days == 0).then(|| format!("CAST('{}' AS TIME)", time.format("%H:%M:%S%.f")))?
        }
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let since_epoch = TimeDelta::microseconds(i64::from_be_bytes(bytes.try_into().ok()?));
            timestamp(EPOCH.and_time(NaiveTime::MIN).checked_add_signed(since_epoch)?)
        }
        Type::INTERVAL => {
            let (micros, mut rest) = bytes.split_first_chunk()?;
            let (days, months) = (int(&mut rest)?, int(&mut rest)?);
            format!("INTERVAL '{months} months {days} days {} microseconds'", i64::from_be_bytes(*micros))
        }
        Type::BYTEA => format!("X'{}'", hexadecimal(bytes)),
        Type::UUID => uuid(Uuid::from_slice(bytes).ok()?),
        Type::NUMERIC => of_text(&digits(bytes)?, kind)?,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => scan::quoted(std::str::from_utf8(bytes).ok()?),
        _ => return None,
    })
}

/// The items of `{a,"b c",NULL}`, an array of one dimension.
fn items_of_text(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut found = Vec::new();
    if inner.trim().is_empty() {
        return Some(found);
    }
    let mut characters = inner.chars();
    let (mut item, mut is_quoted, mut inside) = (String::new(), false, false);
    loop {
        match characters.next() {
            Some('\\') => {
                item.push(characters.next()?);
                is_quoted = true;
            }
            Some('"') => {
                inside = !inside;
                is_quoted = true;
            }
            Some('{' | '}') if !inside => return None,
            Some(space) if !inside && space.is_whitespace() && (is_quoted || item.is_empty()) => {}
            Some(character) if inside || character != ',' => item.push(character),
            None if inside => return None,
            end => {
                let whole = std::mem::take(&mut item);
                let plain = whole.trim_end();
                if is_quoted {
                    found.push(Some(whole));
                } else if plain.is_empty() {
                    return None;
                } else {
                    found.push((!plain.eq_ignore_ascii_case("null")).then(|| plain.to_owned()));
                }
                if end.is_none() {
                    return Some(found);
                }
                is_quoted = false;
            }
        }
    }
}

/// The same in binary: dimensions, a flag, the element's type; of the one dimension its length and first index; then the items.
fn items_of_binary(mut bytes: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (dimensions, _flag, _element) = (int(&mut bytes)?, int(&mut bytes)?, int(&mut bytes)?);
    let mut found = Vec::new();
    if dimensions == 0 {
        return Some(found);
    }
    let (length, _first) = (int(&mut bytes)?, int(&mut bytes)?);
    if dimensions != 1 {
        return None;
    }
    for _ in 0..length {
        // A length below zero is NULL.
        let Ok(length) = usize::try_from(int(&mut bytes)?) else {
            found.push(None);
            continue;
        };
        let (item, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        found.push(Some(item));
    }
    Some(found)
}

fn int(bytes: &mut &[u8]) -> Option<i32> {
    let (first, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(i32::from_be_bytes(*first))
}

fn uuid(value: Uuid) -> String {
    format!("'{value}'")
}

/// A NUMERIC in decimal notation; none where it is NaN or infinite. Four words go before the digits, which are to the base of 10000: how
/// many there are, the power of the first one, the sign, and how many decimal digits stand behind the point.
pub fn digits(bytes: &[u8]) -> Option<String> {
    const NEGATIVE: i16 = 0x4000;
    let words: Vec<i16> = bytes.chunks_exact(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect();
    let [count, power, sign, scale, digits @ ..] = words.as_slice() else { return None };
    let is_whole = bytes.len().is_multiple_of(2) && usize::try_from(*count).ok()? == digits.len();
    if !is_whole || !matches!(*sign, 0 | NEGATIVE) || digits.iter().any(|digit| !(0..10_000).contains(digit)) {
        return None;
    }
    let (power, scale) = (i32::from(*power), usize::try_from(*scale).ok()?);
    let group = |place: i32| {
        let digit = usize::try_from(power - place).ok().and_then(|at| digits.get(at));
        format!("{:04}", digit.unwrap_or(&0))
    };
    let whole: String = (0..=power).rev().map(group).collect();
    let fraction: String = (1..).map(|place: i32| group(-place)).take(scale.div_ceil(4)).collect();
    let whole = whole.trim_start_matches('0');
    let sign = if *sign == NEGATIVE { "-" } else { "" };
    let point = if scale == 0 { "" } else { "." };
    Some(format!("{sign}{}{point}{}", if whole.is_empty() { "0" } else { whole }, &fraction[..scale]))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(digit), 16));
        }
        text
    })
}

/// In parentheses: `-$1` with a negative value would begin a comment.
fn number(value: impl std::fmt::Display) -> String {
    format!("({value})")
}

fn float(value: f64) -> String {
    if value.is_finite() { format!("({value:e})") } else { format!("CAST('{value}' AS DOUBLE)") }
}

fn timestamp(time: NaiveDateTime) -> String {
    format!("CAST('{}' AS TIMESTAMP)", time.format("%Y-%m-%dT%H:%M:%S%.f"))
}

fn bad(message: String) -> PgWireError {
    report(EngineError::new(ErrorKind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_parameters_become_literals_of_their_type() {
        for (text, kind, expected) in [
            ("-5", Type::INT4, Some("(-5)")),
            ("1; DROP TABLE x", Type::INT4, None),
            ("1.50", Type::NUMERIC, Some("(1.50)")),
            ("1e5)--", Type::NUMERIC, None),
            ("t", Type::BOOL, Some("true")),
            ("O'Hara", Type::TEXT, Some("'O''Hara'")),
            ("2026-01-01", Type::DATE, Some("CAST('2026-01-01' AS DATE)")),
            ("nan", Type::FLOAT8, Some("CAST('NaN' AS DOUBLE)")),
            ("\\x0aff", Type::BYTEA, Some("X'0aff'")),
            ("\\x0a'", Type::BYTEA, None),
            ("123E4567e89b12d3a456426614174000", Type::UUID, Some("'123e4567-e89b-12d3-a456-426614174000'")),
            ("123e4567-e89b-12d3-a456-42661417400'", Type::UUID, None),
            ("03:04:05.5", Type::TIME, Some("CAST('03:04:05.5' AS TIME)")),
            ("{a,NULL}", Type::TEXT_ARRAY, Some("arrow_cast(make_array('a', NULL), 'List(Utf8)')")),
            ("{1, NULL,-3}", Type::INT8_ARRAY, Some("arrow_cast(make_array((1), NULL, (-3)), 'List(Int64)')")),
            ("{}", Type::FLOAT8_ARRAY, Some("arrow_cast(make_array(), 'List(Float64)')")),
            ("{t,x}", Type::BOOL_ARRAY, None),
        ] {
            assert_eq!(of_text(text, &kind).as_deref(), expected, "{text} as {kind}");
        }
    }

    fn numeric(words: &[i16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn intervals_are_written_in_words() {
        for (text, expected) in [
            ("1 day 2:00:00.000007", "1 day 2 hours 00 minutes 00.000007 seconds"),
            ("-0:00:07.5", "-0 hours -00 minutes -07.5 seconds"),
            ("3 mons", "3 mons"),
        ] {
            assert_eq!(interval(text), expected);
        }
    }

    #[test]
    fn binary_parameters_become_the_same_literals() {
        let head: Vec<u8> = vec![0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 21, 0, 0, 0, 2, 0, 0, 0, 1];
        let array = [head, vec![0, 0, 0, 2, 0xff, 0xfe], vec![0xff; 4]].concat();
        for (bytes, kind, expected) in [
            (vec![0x0a, 0xff], Type::BYTEA, Some("X'0aff'")),
            (vec![], Type::BYTEA, Some("X''")),
            ((0..16).collect(), Type::UUID, Some("'00010203-0405-0607-0809-0a0b0c0d0e0f'")),
            (vec![1], Type::UUID, None),
            (
                [vec![0, 0, 0, 0, 0, 15, 66, 64], (-1_i32).to_be_bytes().to_vec(), vec![0, 0, 0, 2]].concat(),
                Type::INTERVAL,
                Some("INTERVAL '2 months -1 days 1000000 microseconds'"),
            ),
            (vec![0; 8], Type::INTERVAL, None),
            (numeric(&[1, 0, 0, 0, 7]), Type::NUMERIC, Some("(7)")),
            (numeric(&[2, 0, 0, 2, 1, 5000]), Type::NUMERIC, Some("(1.50)")),
            (numeric(&[3, 1, 0x4000, 1, 7, 0, 2500]), Type::NUMERIC, Some("(-70000.2)")),
            (numeric(&[1, -2, 0, 6, 1200]), Type::NUMERIC, Some("(0.000012)")),
            (numeric(&[1, 1, 0, 0, 12]), Type::NUMERIC, Some("(120000)")),
            (numeric(&[0, 0, 0, 0]), Type::NUMERIC, Some("(0)")),
            (numeric(&[0, 0, 0, 3]), Type::NUMERIC, Some("(0.000)")),
            (numeric(&[0, 0, -0x4000, 0]), Type::NUMERIC, None),
            (numeric(&[2, 0, 0, 0, 7]), Type::NUMERIC, None),
            (numeric(&[1, 0, 0, 0, 10_000]), Type::NUMERIC, None),
            (3_500_000_i64.to_be_bytes().to_vec(), Type::TIME, Some("CAST('00:00:03.500' AS TIME)")),
            (86_400_000_000_i64.to_be_bytes().to_vec(), Type::TIME, None),
            ((-1_i32).to_be_bytes().to_vec(), Type::DATE, Some("DATE '1999-12-31'")),
            (i32::MAX.to_be_bytes().to_vec(), Type::DATE, None),
            (1_000_000_i64.to_be_bytes().to_vec(), Type::TIMESTAMP, Some("CAST('2000-01-01T00:00:01' AS TIMESTAMP)")),
            (i64::MAX.to_be_bytes().to_vec(), Type::TIMESTAMPTZ, None),
            (7_i16.to_be_bytes().to_vec(), Type::INT4, None),
            (array.clone(), Type::INT2_ARRAY, Some("arrow_cast(make_array((-2), NULL), 'List(Int16)')")),
            (vec![0; 12], Type::TEXT_ARRAY, Some("arrow_cast(make_array(), 'List(Utf8)')")),
            (array[..22].to_vec(), Type::INT2_ARRAY, None),
        ] {
            assert_eq!(of_binary(&bytes, &kind).as_deref(), expected, "{bytes:?} as {kind}");
        }
    }

    #[test]
    fn arrays_keep_their_nulls_quotes_and_empty_texts() {
        for (text, expected) in [
            (r#"{a,"",NULL}"#, Some(vec!["a", "", "-"])),
            (r#"{ a b , "c, d" ,"NULL",null}"#, Some(vec!["a b", "c, d", "NULL", "-"])),
            (r#"{"\\\"}","{"}"#, Some(vec![r#"\"}"#, "{"])),
            ("{}", Some(vec![])),
            ("{{1},{2}}", None),
            ("{a,}", None),
            (r#"{"a}"#, None),
            ("a", None),
        ] {
            let found = items_of_text(text);
            let found = found.as_ref().map(|items| items.iter().map(|item| item.as_deref().unwrap_or("-")).collect::<Vec<_>>());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[tokio::test]
    async fn literals_have_the_types_that_were_declared() {
        const ID: &str = "123e4567-e89b-12d3-a456-426614174000";
        let session = datafusion::prelude::SessionContext::new();
        let types = [Type::INT2, Type::TEXT_ARRAY, Type::TIME, Type::BYTEA, Type::TIMESTAMPTZ, Type::NUMERIC, Type::UUID];
        let sql = "SELECT $1, $2, $3, $4, $5, $6, $7, $8";
        let described = session.sql(&typed(sql, &types.clone().map(Some)).unwrap()).await.unwrap();
        let described: Vec<_> = described.schema().fields().iter().map(|field| field.data_type().to_string()).collect();
        let expected =
            ["Int16", "List(Utf8)", "Time64(ns)", "Binary", "Timestamp(µs)", "Float64", "Utf8", "Utf8"].map(str::to_owned);
        assert_eq!(described, expected);
        let texts = ["1", r#"{a,"",NULL}"#, "03:04:05", "\\x00ff", "2026-01-02 03:04:05+00:00", "1.5", ID];
        let mut literals: Vec<String> = texts.iter().zip(&types).map(|(text, kind)| of_text(text, kind).unwrap()).collect();
        literals.push("NULL".to_owned());
        let bound = scan::bind(sql, &literals).unwrap();
        let rows = session.sql(&bound).await.unwrap().collect().await.unwrap();
        assert_eq!(rows[0].column(1).data_type().to_string(), "List(Utf8)");
        assert_eq!(rows[0].num_columns(), 8);
        assert_eq!(typed("SELECT 1", &[]), None);
    }

    #[test]
    fn columns_of_equal_values_keep_apart() {
        assert_eq!(
            named("SELECT $1, a, $2 + 1 FROM t WHERE b = $3").as_deref(),
            Some(r#"SELECT $1 AS "?column 0?", a, $2 + 1 AS "?column 2?" FROM t WHERE b = $3"#)
        );
        for sql in ["SELECT $1, a FROM t", "SELECT a, b FROM t WHERE c = $1 AND d = $2", "SELECT 1, 1", "PAUSE JOB $1, $2"] {
            assert_eq!(named(sql), None, "{sql}");
        }
    }
}
