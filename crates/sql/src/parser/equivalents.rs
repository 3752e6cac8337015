//! Functions of Flink and of other systems that are another expression here: `IF(c, a, b)` is a CASE, `LISTAGG(x)` is `string_agg(x, ',')`. What
//! is no function of its own is written as what it means, before anything is planned, so that jobs, EXPLAIN and `VERIFY` see one thing.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CaseWhen, CeilFloorKind, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, ObjectName, OrderByExpr, OrderByOptions, Query,
    Subscript, UnaryOperator, Value, VisitMut, helpers::attached_token::AttachedToken, visit_expressions_mut,
};

use crate::{
    error::SqlError,
    functions::{NAMED_CAST, strptime},
    location::Location,
};

pub(super) fn rewrite<T: VisitMut>(node: &mut T, at: Location) -> Result<(), SqlError> {
    // Those inside come first.
    let outcome = visit_expressions_mut(node, |expression| match replace(expression) {
        Ok(()) => ControlFlow::Continue(()),
        Err(message) => ControlFlow::Break(message),
    });
    match outcome {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(SqlError::invalid_at(at, message)),
    }
}

/// A query in which each CAST has a name of its own: to DataFusion a cast is called as what is cast, so that `sum(a)` and `sum(CAST(a AS DOUBLE))` could
/// not stand in one query.
pub(crate) fn with_named_casts(query: &Query) -> Query {
    let mut query = query.clone();
    let done: ControlFlow<()> = visit_expressions_mut(&mut query, |expression| {
        if let Expr::Cast { data_type, .. } = expression {
            let words = text(&data_type.to_string());
            *expression = call(NAMED_CAST, [expression.clone(), words]);
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
    query
}

fn replace(expression: &mut Expr) -> Result<(), String> {
    let replacement = match expression {
        Expr::Floor { expr, field: CeilFloorKind::DateTimeField(unit) } if *unit != DateTimeField::NoDateTime => {
            Some(call("date_trunc", [text(&unit.to_string().to_lowercase()), (**expr).clone()]))
        }
        Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(unit) } if *unit != DateTimeField::NoDateTime => {
            Some(ceiling(expr, &unit.to_string().to_lowercase()))
        }
        // In PostgreSQL the one becomes the other: an instant the time on clocks there, a time on clocks there the instant.
        Expr::AtTimeZone { timestamp, time_zone } => Some(call("at_time_zone", [(**timestamp).clone(), (**time_zone).clone()])),
        Expr::RLike { negated, expr, pattern, .. } => {
            let matches = call("regexp_like", [(**expr).clone(), (**pattern).clone()]);
            let not = |expr| Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) };
            Some(if *negated { not(matches) } else { matches })
        }
        Expr::CompoundFieldAccess { root, access_chain } => {
            name_members(matches!(root.as_ref(), Expr::Nested(_)), access_chain);
            None
        }
        Expr::Function(function) => call_of(function)?,
        _ => None,
    };
    if let Some(replacement) = replacement {
        *expression = replacement;
    }
    Ok(())
}

/// The next full unit, or the time itself if it is one.
fn ceiling(time: &Expr, unit: &str) -> Expr {
    let floor = call("date_trunc", [text(unit), time.clone()]);
    let is_full = Expr::BinaryOp { left: Box::new(floor.clone()), op: BinaryOperator::Eq, right: Box::new(time.clone()) };
    let next = call("timestampadd", [text(unit), Expr::Value(Value::Number("1".into(), false).into()), floor.clone()]);
    case(is_full, floor, next)
}

/// What a call is here; `None`: what it says. A call may be changed in place.
fn call_of(function: &mut Function) -> Result<Option<Expr>, String> {
    let [name] = function.name.0.as_slice() else { return Ok(None) };
    let Some(name) = name.as_ident().filter(|name| name.quote_style.is_none()) else { return Ok(None) };
    let name = name.value.to_ascii_lowercase();
    if let ("localtimestamp", FunctionArguments::None) = (name.as_str(), &function.args) {
        return Ok(Some(clock_time()));
    }
    let FunctionArguments::List(list) = &mut function.args else { return Ok(None) };
    let Some(arguments) = plain(&list.args) else { return Ok(None) };
    Ok(match (name.as_str(), arguments.as_slice()) {
        ("if" | "iif", [condition, then, otherwise]) => Some(case(condition.clone(), then.clone(), otherwise.clone())),
        ("count_if" | "countif", [condition]) => {
            let condition = condition.clone();
            rename(function, "count");
            set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Wildcard)]);
            only(function, condition);
            None
        }
        ("listagg" | "group_concat", [_] | [_, _]) => {
            if arguments.len() == 1 {
                list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(text(","))));
            }
            let order = std::mem::take(&mut function.within_group);
            if !order.is_empty() {
                list.clauses.push(FunctionArgumentClause::OrderBy(order));
            }
            rename(function, "string_agg");
            None
        }
        ("max_by" | "arg_max" | "argmax", [value, order]) => {
            by_order("last_value", value.clone(), order.clone(), function);
            None
        }
        ("min_by" | "arg_min" | "argmin", [value, order]) => {
            by_order("first_value", value.clone(), order.clone(), function);
            None
        }
        ("timestampdiff" | "timestampadd", [unit, a, b]) => {
            let unit = unit_name(unit).ok_or_else(|| {
                format!("{name} begins with a unit, for example SECOND, MINUTE, HOUR, DAY or MONTH, and not with {unit}")
            })?;
            Some(call(&name, [text(&unit), a.clone(), b.clone()]))
        }
        ("to_timestamp_ltz", [number]) => Some(instant(number.clone(), "3")?),
        ("to_timestamp_ltz", [number, precision]) => Some(instant(number.clone(), &precision.to_string())?),
        ("unix_timestamp", []) => Some(unix_timestamp(call("now", []))),
        ("unix_timestamp", [time]) => Some(unix_timestamp(time.clone())),
        ("unix_timestamp", [time, pattern]) => Some(unix_timestamp(parsed_time("to_timestamp", time, pattern)?)),
        ("to_timestamp" | "to_date", [time, pattern]) => Some(parsed_time(&name, time, pattern)?),
        // The precision says nothing: it is that of the clock.
        ("current_timestamp" | "now", [Expr::Value(_)]) => Some(call("now", [])),
        ("localtimestamp", [] | [Expr::Value(_)]) => Some(clock_time()),
        ("current_row_timestamp", []) => Some(call("now", [])),
        ("json_object" | "json_build_object" | "jsonb_build_object", members) => {
            if members.len() % 2 != 0 {
                return Err(format!("{name} takes pairs of a name and a value; the last name has no value"));
            }
            Some(call("to_json", [call("named_struct", members.iter().map(as_value))]))
        }
        ("json_array" | "json_build_array" | "jsonb_build_array", items) => {
            Some(call("to_json", [call("make_array", items.iter().map(as_value))]))
        }
        ("json_arrayagg", [item]) => {
            let item = as_value(item);
            rename(function, "array_agg");
            set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(item.clone()))]);
            only(function, Expr::IsNotNull(Box::new(item)));
            Some(call("to_json", [Expr::Function(function.clone())]))
        }
        ("map_entries", _) => return Err("map_entries is not supported; write map_keys(m) and map_values(m)".into()),
        ("json_string" | "to_jsonb" | "row_to_json", [_]) => {
            rename(function, "to_json");
            None
        }
        _ => None,
    })
}

/// `items[1].sku` is `items[1]['sku']`. What comes before the first bracket may be a table's name.
fn name_members(is_value: bool, chain: &mut [AccessExpr]) {
    let mut is_value = is_value;
    for access in chain {
        match access {
            AccessExpr::Dot(Expr::Identifier(name)) if is_value => {
                let name = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
                *access = AccessExpr::Subscript(Subscript::Index { index: text(&name) });
            }
            AccessExpr::Dot(_) => {}
            AccessExpr::Subscript(_) => is_value = true,
        }
    }
}

/// Inside of another, what makes JSON is what it is made of: its text would be a string there.
fn as_value(expression: &Expr) -> Expr {
    match expression {
        Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) if name.to_string() == "to_json" => {
            plain(&list.args).and_then(|inner| inner.into_iter().next()).unwrap_or_else(|| expression.clone())
        }
        other => other.clone(),
    }
}

/// The arguments, if they are all expressions and have no names.
fn plain(arguments: &[FunctionArg]) -> Option<Vec<Expr>> {
    let plain = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    };
    arguments.iter().map(plain).collect()
}

fn rename(function: &mut Function, name: &str) {
    function.name = ObjectName::from(vec![Ident::new(name)]);
}

fn set_arguments(function: &mut Function, args: Vec<FunctionArg>) {
    if let FunctionArguments::List(list) = &mut function.args {
        list.args = args;
    }
}

/// Aggregates the rows alone of which `condition` is true.
fn only(function: &mut Function, condition: Expr) {
    let condition = Expr::Nested(Box::new(condition));
    function.filter = Some(Box::new(match function.filter.take() {
        Some(filter) => {
            Expr::BinaryOp { left: Box::new(Expr::Nested(filter)), op: BinaryOperator::And, right: Box::new(condition) }
        }
        None => condition,
    }));
}

/// The value in the row with the least or the greatest `order`, which is not NULL.
fn by_order(name: &str, value: Expr, order: Expr, function: &mut Function) {
    rename(function, name);
    let ascending =
        OrderByExpr { expr: order.clone(), options: OrderByOptions { asc: Some(true), nulls_first: None }, with_fill: None };
    set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value))]);
    if let FunctionArguments::List(list) = &mut function.args {
        list.clauses.push(FunctionArgumentClause::OrderBy(vec![ascending]));
    }
    only(function, Expr::IsNotNull(Box::new(order)));
}

/// `DAY`, also as a text or in the plural, in small letters.
fn unit_name(unit: &Expr) -> Option<String> {
    const UNITS: [&str; 10] = ["microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"];
    let word = match unit {
        Expr::Identifier(word) if word.quote_style.is_none() => word.value.to_ascii_lowercase(),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(word) => word.to_ascii_lowercase(),
            _ => return None,
        },
        _ => return None,
    };
    let word = word.strip_prefix("sql_tsi_").unwrap_or(&word);
    let singular = word.strip_suffix('s').unwrap_or(word);
    UNITS.contains(&singular).then(|| singular.to_owned())
}

/// An instant, from so many seconds or smaller units since 1970.
fn instant(number: Expr, precision: &str) -> Result<Expr, String> {
    let (function, unit) = match precision {
        "0" => ("to_timestamp_seconds", "Second"),
        "3" => ("to_timestamp_millis", "Millisecond"),
        "6" => ("to_timestamp_micros", "Microsecond"),
        "9" => ("to_timestamp_nanos", "Nanosecond"),
        other => {
            return Err(format!(
                "to_timestamp_ltz takes 0, 3, 6 or 9 for seconds, milliseconds, microseconds or nanoseconds, and not {other}"
            ));
        }
    };
    Ok(call("arrow_cast", [call(function, [number]), text(&format!("Timestamp({unit}, Some(\"UTC\"))"))]))
}

/// What clocks show, in UTC.
fn clock_time() -> Expr {
    call("arrow_cast", [call("now", []), text("Timestamp(Microsecond, None)")])
}

/// Whole seconds since 1970.
fn unix_timestamp(time: Expr) -> Expr {
    let epoch = Expr::Value(Value::SingleQuotedString("1970-01-01 00:00:00".into()).into());
    call("timestampdiff", [text("second"), epoch, time])
}

/// A pattern of Java's letters is one of `%`s to DataFusion.
fn parsed_time(function: &str, time: &Expr, pattern: &Expr) -> Result<Expr, String> {
    let pattern = match pattern {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(words) if !words.contains('%') => {
                text(&strptime(words).map_err(|error| error.strip_backtrace())?)
            }
            _ => pattern.clone(),
        },
        _ => pattern.clone(),
    };
    Ok(call(function, [time.clone(), pattern]))
}

fn case(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: then }],
        else_result: Some(Box::new(otherwise)),
    }
}

fn text(words: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(words.to_owned()).into())
}

pub(super) fn call(name: &str, arguments: impl IntoIterator<Item = Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parser::parse,
        statement::{Statement, StatementKind},
    };

    fn rewritten(expression: &str) -> Result<String, SqlError> {
        let Statement { kind: StatementKind::Query(query), .. } = parse(&format!("SELECT {expression}"))?.remove(0) else {
            panic!("{expression} is an expression")
        };
        Ok(query.to_string().trim_start_matches("SELECT ").to_owned())
    }

    #[test]
    fn what_others_call_otherwise_is_what_it_means() {
        for (written, meant) in [
            ("IF(a > 1, 'x', b)", "CASE WHEN a > 1 THEN 'x' ELSE b END"),
            ("count_if(a > 1)", "count(*) FILTER (WHERE (a > 1))"),
            (
                "COUNT_IF(a) FILTER (WHERE b OR c) OVER (PARTITION BY d)",
                "count(*) FILTER (WHERE (b OR c) AND (a)) OVER (PARTITION BY d)",
            ),
            ("LISTAGG(DISTINCT name)", "string_agg(DISTINCT name, ',')"),
            ("listagg(name, ';') WITHIN GROUP (ORDER BY ts DESC)", "string_agg(name, ';' ORDER BY ts DESC)"),
            ("max_by(a, b)", "last_value(a ORDER BY b ASC) FILTER (WHERE (b IS NOT NULL))"),
            ("TIMESTAMPDIFF(MINUTE, a, b)", "timestampdiff('minute', a, b)"),
            ("timestampadd(SQL_TSI_DAY, -1, ts)", "timestampadd('day', -1, ts)"),
            ("to_timestamp_ltz(n)", "arrow_cast(to_timestamp_millis(n), 'Timestamp(Millisecond, Some(\"UTC\"))')"),
            ("TO_TIMESTAMP_LTZ(n, 0)", "arrow_cast(to_timestamp_seconds(n), 'Timestamp(Second, Some(\"UTC\"))')"),
            ("UNIX_TIMESTAMP(ts)", "timestampdiff('second', '1970-01-01 00:00:00', ts)"),
            ("TO_TIMESTAMP(t, 'yyyy-MM-dd''T''HH:mm:ss')", "to_timestamp(t, '%Y-%m-%dT%H:%M:%S')"),
            ("to_date(t, '%d.%m.%Y')", "to_date(t, '%d.%m.%Y')"),
            ("FLOOR(ts TO HOUR)", "date_trunc('hour', ts)"),
            ("FLOOR(a)", "FLOOR(a)"),
            ("a NOT RLIKE '^x'", "NOT regexp_like(a, '^x')"),
            ("current_timestamp(3)", "now()"),
            ("ts AT TIME ZONE 'Europe/Paris'", "at_time_zone(ts, 'Europe/Paris')"),
            ("o.items[1].sku", "o.items[1]['sku']"),
            ("(r).a.\"B\"", "(r)['a']['B']"),
            (
                "CEIL(ts TO DAY)",
                "CASE WHEN date_trunc('day', ts) = ts THEN date_trunc('day', ts) ELSE timestampadd('day', 1, date_trunc('day', ts)) END",
            ),
            (
                "JSON_OBJECT('a' VALUE x, KEY 'b' VALUE IF(y, 1, 2))",
                "to_json(named_struct('a', x, 'b', CASE WHEN y THEN 1 ELSE 2 END))",
            ),
            ("json_object('a', JSON_ARRAY(1, 2))", "to_json(named_struct('a', make_array(1, 2)))"),
            ("JSON_ARRAYAGG(a + 1)", "to_json(array_agg(a + 1) FILTER (WHERE (a + 1 IS NOT NULL)))"),
            ("\"if\"(a, b, c)", "\"if\"(a, b, c)"),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        for (written, reason) in [
            ("TIMESTAMPDIFF(FORTNIGHT, a, b)", "begins with a unit"),
            ("to_timestamp_ltz(n, 4)", "takes 0, 3, 6 or 9"),
            ("to_timestamp(t, 'yyyy QQ')", "QQ"),
            ("json_object('a', 1, 'b')", "pairs"),
        ] {
            let error = rewritten(written).unwrap_err().to_string();
            assert!(error.contains(reason), "{written}: {error}");
        }
    }
}
