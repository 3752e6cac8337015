//! Functions of Flink and of other systems that are another expression here: `IF(c, a, b)` is a CASE, `LISTAGG(x)` is `string_agg(x, ',')`. What
//! is no function of its own is written as what it means, before anything is planned, so that jobs, EXPLAIN and `VERIFY` see one thing.
use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CaseWhen, CeilFloorKind, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArguments, Subscript, UnaryOperator, Value, ValueWithSpan, VisitMut, WindowFrameBound,
    WindowType, helpers::attached_token::AttachedToken,
};

use super::{
    building::{MAX_REPEATED, call, case, matches, name_of, number, only, plain, rename, set_arguments, text},
    calls, dates, grouping_sets,
    instants::{clock_time, instant, parsed_time, unix_timestamp},
    interval_products, interval_ranges,
    json_clauses::WRITTEN,
    operators_by_name,
    ordered_aggregates::{by_order, in_order, most_frequent, nth},
    patterns, rewrite_each,
    to_char::{OF_DURATIONS, chars},
};
use crate::{
    error::SqlError,
    functions::{JSON_OF, LIST, LIST_WITH_NULLS, OBJECT, OBJECT_WITH_NULLS, RAW, VALUE},
    location::Location,
};

/// Functions that have another name here.
const RENAMED: [(&str, &str); 20] = [
    ("approx_count_distinct", "approx_distinct"),
    ("approx_percentile", "approx_percentile_cont"),
    ("percentile_approx", "approx_percentile_cont"),
    ("day", "dayofmonth"),
    ("weekofyear", "week"),
    ("lcase", "lower"),
    ("ucase", "upper"),
    ("regexp", "regexp_like"),
    ("rlike", "regexp_like"),
    ("truncate", "trunc"),
    ("translate3", "translate"),
    ("startswith", "starts_with"),
    ("endswith", "ends_with"),
    ("every", "bool_and"),
    ("variance", "var"),
    ("map_from_arrays", "map"),
    ("json_quote", "to_json"),
    ("json_string", "to_json"),
    ("to_jsonb", "to_json"),
    ("grouping_id", "grouping"),
];

pub(super) fn rewrite<T: VisitMut>(node: &mut T, at: Location) -> Result<(), SqlError> {
    rewrite_each(node, at, replace)
}

fn replace(expression: &mut Expr) -> Result<(), String> {
    let replacement = match expression {
        Expr::Floor { expr, field: CeilFloorKind::DateTimeField(unit) } if *unit != DateTimeField::NoDateTime => {
            Some(call("date_trunc", [text(&unit.to_string().to_lowercase()), (**expr).clone()]))
        }
        Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(unit) } if *unit != DateTimeField::NoDateTime => {
            Some(dates::ceiling(expr, unit)?)
        }
        // In PostgreSQL the one becomes the other: an instant the time on clocks there, a time on clocks there the instant.
        Expr::AtTimeZone { timestamp, time_zone } => Some(call("at_time_zone", [(**timestamp).clone(), (**time_zone).clone()])),
        Expr::Extract { field, expr, .. } => {
            let unit = field.to_string();
            // By its name it is ours.
            let part = || call("date_part", [text(&unit), (**expr).clone()]);
            Some(dates::long_years(&unit, expr)?.unwrap_or_else(part))
        }
        Expr::UnaryOp { op: UnaryOperator::BitwiseNot, expr } => Some(operators_by_name::inverted(expr)),
        Expr::RLike { negated, expr, pattern, .. } => Some(matches(*negated, expr, (**pattern).clone())),
        Expr::Like { .. } | Expr::ILike { .. } | Expr::SimilarTo { .. } => patterns::comparison(expression)?,
        Expr::CompoundFieldAccess { root, access_chain } => {
            let item = item_of_all(root, access_chain);
            let is_value = item.is_some() || matches!(root.as_ref(), Expr::Nested(_));
            if let Some(item) = item {
                **root = item;
                access_chain.remove(0);
            }
            name_members(is_value, access_chain);
            access_chain.is_empty().then(|| (**root).clone())
        }
        Expr::Value(ValueWithSpan { value: Value::UnicodeStringLiteral(words) | Value::NationalStringLiteral(words), .. }) => {
            Some(text(words))
        }
        Expr::TypedString(typed) => {
            dates::keep_year(&mut typed.data_type, &typed.value.value);
            None
        }
        Expr::Cast { data_type, expr, .. } => {
            if let Expr::Value(value) = expr.as_ref() {
                dates::keep_year(data_type, &value.value);
            }
            None
        }
        Expr::Rollup(parts) if grouping_sets::are_unknown(parts) => Some(Expr::GroupingSets(grouping_sets::of_rollup(parts))),
        Expr::Cube(parts) if grouping_sets::are_unknown(parts) => Some(Expr::GroupingSets(grouping_sets::of_cube(parts)?)),
        // GROUP BY ()
        Expr::Tuple(values) if values.is_empty() => Some(Expr::GroupingSets(vec![vec![]])),
        Expr::Interval(written) => {
            // Frames take texts alone.
            if let Some(digits) = digits_of(&written.value) {
                *written.value = digits;
            }
            interval_ranges::in_units(written)?
        }
        Expr::BinaryOp { op: BinaryOperator::Overlaps, .. } => {
            return Err("OVERLAPS is not supported; write a < d AND c < b for (a, b) OVERLAPS (c, d)".into());
        }
        Expr::BinaryOp { .. } => interval_products::multiple(expression),
        Expr::Function(function) => call_of(function)?,
        _ => None,
    };
    if let Some(replacement) = replacement {
        *expression = replacement;
    }
    Ok(())
}

/// Aggregates that are an expression here, which their clauses become part of.
const AGGREGATES: [&str; 9] = [
    "json_agg",
    "json_arrayagg",
    "json_object_agg",
    "json_objectagg",
    "jsonb_agg",
    "jsonb_object_agg",
    "mode",
    "nth_value",
    "percentile_disc",
];

fn digits_of(number: &Expr) -> Option<Expr> {
    match number {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => Some(text(digits)),
        _ => None,
    }
}

/// What a call is here; `None`: what it says. A call may be changed in place.
fn call_of(function: &mut Function) -> Result<Option<Expr>, String> {
    let name = function.name.to_string().to_ascii_lowercase();
    let is_aggregate = AGGREGATES.contains(&name.as_str());
    if name.starts_with("json") && !is_aggregate {
        calls::keep_nulls(function)?;
    }
    let clause = calls::clause_of(function).filter(|_| !is_aggregate);
    match (meaning_of(function)?, clause) {
        (Some(_), Some(clause)) => Err(calls::takes_no(&name, clause)),
        (meaning, _) => Ok(meaning),
    }
}

fn meaning_of(function: &mut Function) -> Result<Option<Expr>, String> {
    let [name] = function.name.0.as_slice() else { return Ok(None) };
    let Some(name) = name.as_ident().filter(|name| name.quote_style.is_none()) else { return Ok(None) };
    let name = name.value.to_ascii_lowercase();
    match (name.as_str(), &function.args) {
        ("localtimestamp", FunctionArguments::None) => return Ok(Some(clock_time())),
        ("localtime", FunctionArguments::None) => return Ok(Some(call("current_time", []))),
        _ => {}
    }
    let FunctionArguments::List(list) = &mut function.args else { return Ok(None) };
    let Some(arguments) = plain(&list.args) else {
        return match list.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if calls::is_distinct(list) && name == "count" => Err(
                "count(DISTINCT *) is not supported; write SELECT count(*) FROM (SELECT DISTINCT * FROM …), or name the columns"
                    .into(),
            ),
            _ => Ok(None),
        };
    };
    Ok(match (name.as_str(), arguments.as_slice()) {
        (WRITTEN, [_, meaning]) => Some(meaning.clone()),
        ("if" | "iif" | "iff", [condition, then, otherwise]) => Some(case(condition.clone(), then.clone(), otherwise.clone())),
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
        // It stands there twice.
        ("max_by" | "arg_max" | "argmax" | "min_by" | "arg_min" | "argmin", [_, order])
            if order.to_string().len() > MAX_REPEATED =>
        {
            return Err(format!("the order of {name} is longer than {MAX_REPEATED} bytes; compute it in a subquery"));
        }
        ("max_by" | "arg_max" | "argmax", [value, order]) => {
            by_order("last_value", value.clone(), order.clone(), function);
            None
        }
        ("min_by" | "arg_min" | "argmin", [value, order]) => {
            by_order("first_value", value.clone(), order.clone(), function);
            None
        }
        // As the greatest and the least, values leave a frame that slides.
        ("bool_or" | "bool_and" | "every", [value]) if slides(function.over.as_ref()) => {
            rename(function, if name == "bool_or" { "max" } else { "min" });
            // What is no condition stays an error, and is not its own greatest value.
            let condition = Expr::BinaryOp {
                left: Box::new(Expr::Nested(Box::new(value.clone()))),
                op: BinaryOperator::And,
                right: Box::new(Expr::Value(Value::Boolean(true).into())),
            };
            set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(condition))]);
            None
        }
        ("elt", [index, values @ ..]) if !values.is_empty() => Some(chosen(index, values)),
        ("e", []) => Some(call("exp", [number(1)])),
        ("rand" | "random", [_]) | ("rand_integer", [_, _]) => {
            return Err(format!("{name} takes no seed, as several executors compute rows; leave it out"));
        }
        ("rand_integer", [bound]) => {
            let bound = Box::new(Expr::Nested(Box::new(bound.clone())));
            let below = Expr::BinaryOp { left: Box::new(call("random", [])), op: BinaryOperator::Multiply, right: bound };
            Some(call("arrow_cast", [call("floor", [below]), text("Int32")]))
        }
        // The bytes of a number by itself are those of the machine.
        ("encode", [value, encoding]) if is_utf8(encoding) => {
            Some(call("arrow_cast", [call("arrow_cast", [value.clone(), text("Utf8")]), text("Binary")]))
        }
        ("decode", [value, encoding]) if is_utf8(encoding) => Some(call("arrow_cast", [value.clone(), text("Utf8")])),
        ("percentile_disc", [share]) if !function.within_group.is_empty() => Some(in_order(function, share)?),
        ("mode", _) => Some(most_frequent(function, &arguments)?),
        ("nth_value", [value, place]) if function.over.is_none() => Some(nth(function, value, place)),
        ("regexp_substr", [_, _]) => {
            rename(function, "regexp_extract");
            None
        }
        ("to_base64" | "base64", [value]) => Some(call("encode", [value.clone(), text("base64pad")])),
        ("unbase64", [value]) => Some(call("decode", [value.clone(), text("base64")])),
        ("from_base64", [value]) => Some(call("arrow_cast", [call("decode", [value.clone(), text("base64")]), text("Utf8")])),
        ("sha2", [value, bits]) => {
            let bits = bits.to_string();
            let function = match bits.as_str() {
                "224" | "256" | "384" | "512" => format!("sha{bits}"),
                "0" => "sha256".to_owned(),
                _ => return Err(format!("sha2 takes 224, 256, 384 or 512 bits, and not {bits}")),
            };
            Some(call("encode", [call(&function, [value.clone()]), text("hex")]))
        }
        ("isnull", [value]) => Some(Expr::Nested(Box::new(Expr::IsNull(Box::new(Expr::Nested(Box::new(value.clone()))))))),
        ("isnotnull", [value]) => Some(Expr::Nested(Box::new(Expr::IsNotNull(Box::new(Expr::Nested(Box::new(value.clone()))))))),
        ("to_timestamp_ltz", [number]) => Some(instant(number.clone(), "3")?),
        ("to_timestamp_ltz", [number, precision]) => Some(instant(number.clone(), &precision.to_string())?),
        ("unix_timestamp", []) => Some(unix_timestamp(call("now", []))),
        ("unix_timestamp", [time]) => Some(unix_timestamp(time.clone())),
        ("unix_timestamp", [time, pattern]) => Some(unix_timestamp(parsed_time("to_timestamp", time, pattern)?)),
        ("to_timestamp" | "to_date", [time, pattern]) => Some(parsed_time(&name, time, pattern)?),
        ("to_char", [time, pattern]) => name_of(pattern)
            .filter(|pattern| !pattern.contains('%') && !OF_DURATIONS.iter().any(|word| pattern.eq_ignore_ascii_case(word)))
            .map(chars)
            .transpose()?
            .map(|pattern| call("to_char", [time.clone(), text(&pattern)])),
        // The precision says nothing: it is that of the clock.
        ("current_timestamp" | "now", [Expr::Value(_)]) => Some(call("now", [])),
        ("localtimestamp", [] | [Expr::Value(_)]) => Some(clock_time()),
        ("current_row_timestamp" | "getdate" | "sysdate" | "systimestamp", []) => Some(call("now", [])),
        ("localtime" | "current_time", [Expr::Value(_)]) | ("localtime", []) => Some(call("current_time", [])),
        ("json_object" | "json_build_object" | "jsonb_build_object", members) => {
            if members.len() % 2 != 0 {
                return Err(format!("{name} takes pairs of a name and a value; the last name has no value"));
            }
            let mut parts = vec![text("{")];
            for pair in members.chunks_exact(2) {
                let name = name_of(&pair[0]).ok_or_else(|| format!("{name} takes names in quotes, and {} is none", pair[0]))?;
                let (mark, value) = as_json(&pair[1]);
                parts.extend([text(&format!("{mark}{name}")), value]);
            }
            Some(call(JSON_OF, parts))
        }
        ("json_array" | "json_build_array" | "jsonb_build_array", items) => {
            let items = items.iter().flat_map(|item| {
                let (mark, value) = as_json(item);
                [text(mark), value]
            });
            Some(call(JSON_OF, std::iter::once(text("[")).chain(items)))
        }
        ("json_arrayagg" | "json_agg" | "jsonb_agg", [item]) => {
            // SQL's own leaves NULLs out unless told otherwise, PostgreSQL's keep them.
            let keeps_nulls = calls::take_nulls(list).unwrap_or(name != "json_arrayagg");
            let (mark, value) = as_json(item);
            set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value))]);
            rename(function, "array_agg");
            let kind = if keeps_nulls { LIST_WITH_NULLS } else { LIST };
            Some(call(JSON_OF, [text(kind), text(mark), Expr::Function(function.clone())]))
        }
        ("json_objectagg" | "json_object_agg" | "jsonb_object_agg", [member, value]) => {
            let keeps_nulls = calls::take_nulls(list).unwrap_or(true);
            let (mark, value) = as_json(value);
            // One aggregate, so that names and values come in one order.
            let pair = call("named_struct", [text("name"), member.clone(), text("value"), value]);
            set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(pair))]);
            rename(function, "array_agg");
            let kind = if keeps_nulls { OBJECT_WITH_NULLS } else { OBJECT };
            Some(call(JSON_OF, [text(kind), text(mark), Expr::Function(function.clone())]))
        }
        ("trunc" | "truncate", [_, unit]) if name_of(unit).is_some() => {
            return Err("trunc(time, unit) does not exist; write date_trunc('month', time), with any unit".into());
        }
        ("instr", [_, _, _, ..]) => {
            return Err("instr takes a text and a part of it; write locate(part, text, from) to begin elsewhere".into());
        }
        ("map_entries", _) => return Err("map_entries is not supported; write map_keys(m) and map_values(m)".into()),
        ("to_json" | "row_to_json", [_]) => {
            rename(function, "to_json");
            None
        }
        (name, arguments) => {
            if let Some((_, here)) = RENAMED.iter().find(|(elsewhere, _)| *elsewhere == name) {
                rename(function, here);
            }
            match operators_by_name::call_of(name, arguments)? {
                None => dates::call_of(name, arguments)?,
                meaning => meaning,
            }
        }
    })
}

/// `array_agg(a ORDER BY b)[1]` is an item of the array: DataFusion makes `nth_value` of it, which jobs do not have.
fn item_of_all(root: &Expr, chain: &[AccessExpr]) -> Option<Expr> {
    let Expr::Function(function) = root else { return None };
    let Some(AccessExpr::Subscript(Subscript::Index { index })) = chain.first() else { return None };
    let is_array = function.over.is_none() && function.name.to_string().eq_ignore_ascii_case("array_agg");
    is_array.then(|| call("array_element", [root.clone(), index.clone()]))
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

/// A value's mark, and the value. What makes JSON itself is nested inside of another, where its text would be a string.
fn as_json(value: &Expr) -> (&'static str, Expr) {
    let mut inner = value;
    while let Expr::Nested(within) = inner {
        inner = within;
    }
    let makes_json = match inner {
        Expr::Function(function) => [JSON_OF, "to_json"].contains(&function.name.to_string().to_ascii_lowercase().as_str()),
        _ => false,
    };
    (if makes_json { RAW } else { VALUE }, value.clone())
}

/// Whether rows leave the frame at its start.
fn slides(over: Option<&WindowType>) -> bool {
    let Some(WindowType::WindowSpec(window)) = over else { return false };
    window.window_frame.as_ref().is_some_and(|frame| frame.start_bound != WindowFrameBound::Preceding(None))
}

/// `ELT(index, a, b, …)`: the value at the index, from 1 on, NULL outside.
fn chosen(index: &Expr, values: &[Expr]) -> Expr {
    let when = |(place, value): (usize, &Expr)| CaseWhen { condition: number(place), result: value.clone() };
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: Some(Box::new(index.clone())),
        conditions: (1..).zip(values).map(when).collect(),
        else_result: None,
    }
}

fn is_utf8(encoding: &Expr) -> bool {
    name_of(encoding).is_some_and(|name| ["utf-8", "utf8"].iter().any(|utf8| name.eq_ignore_ascii_case(utf8)))
}

/// An expression of a query, as it is planned.
#[cfg(test)]
pub(super) fn rewritten(expression: &str) -> Result<String, SqlError> {
    use crate::statement::{Statement, StatementKind};

    let Statement { kind: StatementKind::Query(query), .. } = super::parse(&format!("SELECT {expression}"))?.remove(0) else {
        panic!("{expression} is an expression")
    };
    Ok(query.ast.to_string().trim_start_matches("SELECT ").to_owned())
}

#[cfg(test)]
mod tests;
