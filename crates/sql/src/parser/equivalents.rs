//! Functions of Flink and of other systems that are another expression here: `IF(c, a, b)` is a CASE, `LISTAGG(x)` is `string_agg(x, ',')`. What
//! is no function of its own is written as what it means, before anything is planned, so that jobs, EXPLAIN and `VERIFY` see one thing.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CaseWhen, CeilFloorKind, DateTimeField, DuplicateTreatment, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Query, Subscript,
    UnaryOperator, Value, ValueWithSpan, VisitMut, WindowFrameBound, WindowType, helpers::attached_token::AttachedToken,
};
use polybolos_tables::plain::plain as in_words;

use super::{
    calls, dates, grouping_sets, interval_products, interval_ranges,
    json_clauses::WRITTEN,
    ordered_aggregates::{by_order, in_order, most_frequent, nth},
    patterns, rewrite_each,
    to_char::{OF_DURATIONS, chars},
};
use crate::{
    error::SqlError,
    functions::{JSON_OF, NAMED_CAST, NEGATIVE, RAW, VALUE, is_unit, strptime},
    location::Location,
    walk::visit_expressions_mut,
};

/// Most bytes of what is written twice in place of once: nested, it grows with each level.
pub(super) const MAX_REPEATED: usize = 4_096;

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

/// A query whose `-x` are functions that take what is counted without a sign, too. Numbers as they are written stay.
pub(crate) fn with_negatives(query: &Query) -> Query {
    let mut query = query.clone();
    let done: ControlFlow<()> = visit_expressions_mut(&mut query, |expression| {
        if let Expr::UnaryOp { op: UnaryOperator::Minus, expr } = expression
            && !matches!(expr.as_ref(), Expr::Value(_) | Expr::Interval(_))
        {
            *expression = call(NEGATIVE, [(**expr).clone()]);
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
    query
}

/// `count(DISTINCT a, b)` counts the rows of both, of which neither is NULL: DataFusion counts distinct values of one expression alone.
pub(super) fn count_together(node: &mut impl VisitMut) {
    let done: ControlFlow<()> = visit_expressions_mut(node, |expression| {
        if let Expr::Function(function) = expression
            && let Some(arguments) = counted_together(function)
        {
            let fields = arguments.iter().enumerate().flat_map(|(index, value)| [text(&format!("c{index}")), value.clone()]);
            set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(call("named_struct", fields)))]);
            let are_there = arguments.into_iter().map(|value| Expr::IsNotNull(Box::new(Expr::Nested(Box::new(value)))));
            let and = |left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) };
            if let Some(condition) = are_there.reduce(and) {
                only(function, condition);
            }
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
}

fn counted_together(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let is_count = function.name.to_string().eq_ignore_ascii_case("count");
    let is_distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    plain(&list.args).filter(|arguments| is_count && is_distinct && arguments.len() > 1)
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
const AGGREGATES: [&str; 4] = ["json_arrayagg", "mode", "nth_value", "percentile_disc"];

fn digits_of(number: &Expr) -> Option<Expr> {
    match number {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => Some(text(digits)),
        _ => None,
    }
}

/// What a call is here; `None`: what it says. A call may be changed in place.
fn call_of(function: &mut Function) -> Result<Option<Expr>, String> {
    let name = function.name.to_string().to_ascii_lowercase();
    if name.starts_with("json") {
        calls::keep_nulls(function)?;
    }
    let clause = calls::clause_of(function).filter(|_| !AGGREGATES.contains(&name.as_str()));
    match (meaning_of(function)?, clause) {
        (Some(_), Some(clause)) => Err(calls::takes_no(&name, clause)),
        (meaning, _) => Ok(meaning),
    }
}

fn meaning_of(function: &mut Function) -> Result<Option<Expr>, String> {
    let [name] = function.name.0.as_slice() else { return Ok(None) };
    let Some(name) = name.as_ident().filter(|name| name.quote_style.is_none()) else { return Ok(None) };
    let name = name.value.to_ascii_lowercase();
    if let ("localtimestamp", FunctionArguments::None) = (name.as_str(), &function.args) {
        return Ok(Some(clock_time()));
    }
    let FunctionArguments::List(list) = &mut function.args else { return Ok(None) };
    let Some(arguments) = plain(&list.args) else {
        let is_distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
        return match list.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if is_distinct && name == "count" => Err(
                "count(DISTINCT *) is not supported; write SELECT count(*) FROM (SELECT DISTINCT * FROM …), or name the columns"
                    .into(),
            ),
            _ => Ok(None),
        };
    };
    Ok(match (name.as_str(), arguments.as_slice()) {
        (WRITTEN, [_, meaning]) => Some(meaning.clone()),
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
        ("current_row_timestamp", []) => Some(call("now", [])),
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
        ("json_arrayagg", [item]) => {
            let (mark, value) = as_json(item);
            set_arguments(function, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(value))]);
            rename(function, "array_agg");
            Some(call(JSON_OF, [text("[]"), text(mark), Expr::Function(function.clone())]))
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
            dates::call_of(name, arguments)?
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

fn name_of(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// Whether rows leave the frame at its start.
fn slides(over: Option<&WindowType>) -> bool {
    let Some(WindowType::WindowSpec(window)) = over else { return false };
    window.window_frame.as_ref().is_some_and(|frame| frame.start_bound != WindowFrameBound::Preceding(None))
}

/// The arguments, if they are all expressions and have no names.
pub(super) fn plain(arguments: &[FunctionArg]) -> Option<Vec<Expr>> {
    let plain = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    };
    arguments.iter().map(plain).collect()
}

/// The values of a row: `(a, b)`, or `ROW(a, b)`.
pub(super) fn row_of(expression: &Expr) -> Option<Vec<Expr>> {
    let values = match expression {
        Expr::Nested(inner) => row_of(inner)?,
        Expr::Tuple(values) => values.clone(),
        Expr::Function(Function { name, args: FunctionArguments::List(list), .. })
            if name.to_string().eq_ignore_ascii_case("row") =>
        {
            plain(&list.args)?
        }
        _ => return None,
    };
    Some(values).filter(|values| !values.is_empty())
}

pub(super) fn rename(function: &mut Function, name: &str) {
    function.name = ObjectName::from(vec![Ident::new(name)]);
}

pub(super) fn set_arguments(function: &mut Function, args: Vec<FunctionArg>) {
    if let FunctionArguments::List(list) = &mut function.args {
        list.args = args;
    }
}

/// Aggregates the rows alone of which `condition` is true.
pub(crate) fn only(function: &mut Function, condition: Expr) {
    let condition = Expr::Nested(Box::new(condition));
    function.filter = Some(Box::new(match function.filter.take() {
        Some(filter) => {
            Expr::BinaryOp { left: Box::new(Expr::Nested(filter)), op: BinaryOperator::And, right: Box::new(condition) }
        }
        None => condition,
    }));
}

/// `DAY`, also as a text or in the plural, in small letters.
pub(super) fn unit_name(unit: &Expr) -> Option<String> {
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
    is_unit(singular).then(|| singular.to_owned())
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
                text(&strptime(words).map_err(|error| in_words(&error.to_string()))?)
            }
            _ => pattern.clone(),
        },
        _ => pattern.clone(),
    };
    Ok(call(function, [time.clone(), pattern]))
}

pub(super) fn case(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: then }],
        else_result: Some(Box::new(otherwise)),
    }
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

pub(super) fn number(value: usize) -> Expr {
    Expr::Value(Value::Number(value.to_string(), false).into())
}

pub(super) fn text(words: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(words.to_owned()).into())
}

/// Whether a text has a match of a regular expression, or has none.
pub(super) fn matches(negated: bool, value: &Expr, pattern: Expr) -> Expr {
    let matches = call("regexp_like", [value.clone(), pattern]);
    let not = |expr| Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) };
    Expr::Nested(Box::new(if negated { not(matches) } else { matches }))
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
mod tests {
    use super::*;

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
            ("argmax(a, 2)", "last_value(a ORDER BY (2) ASC) FILTER (WHERE ((2) IS NOT NULL))"),
            ("TIMESTAMPDIFF(MINUTE, a, b)", "timestampdiff('minute', a, b)"),
            ("timestampadd(SQL_TSI_DAY, -1, ts)", "timestampadd('day', -1, ts)"),
            ("to_timestamp_ltz(n)", "arrow_cast(to_timestamp_millis(n), 'Timestamp(Millisecond, Some(\"UTC\"))')"),
            ("TO_TIMESTAMP_LTZ(n, 0)", "arrow_cast(to_timestamp_seconds(n), 'Timestamp(Second, Some(\"UTC\"))')"),
            ("UNIX_TIMESTAMP(ts)", "timestampdiff('second', '1970-01-01 00:00:00', ts)"),
            ("TO_TIMESTAMP(t, 'yyyy-MM-dd''T''HH:mm:ss')", "to_timestamp(t, '%Y-%m-%dT%H:%M:%S')"),
            ("to_date(t, '%d.%m.%Y')", "to_date(t, '%d.%m.%Y')"),
            ("FLOOR(ts TO HOUR)", "date_trunc('hour', ts)"),
            ("FLOOR(a)", "FLOOR(a)"),
            ("EXTRACT(EPOCH FROM b - a)", "date_part('EPOCH', b - a)"),
            ("a NOT RLIKE '^x'", "(NOT regexp_like(a, '^x'))"),
            ("current_timestamp(3)", "now()"),
            ("ts AT TIME ZONE 'Europe/Paris'", "at_time_zone(ts, 'Europe/Paris')"),
            ("o.items[1].sku", "o.items[1]['sku']"),
            ("(r).a.\"B\"", "(r)['a']['B']"),
            (
                "JSON_OBJECT('a' VALUE x, KEY 'b' VALUE IF(y, 1, 2), 'c' VALUE TO_JSON(z))",
                "json_of('{', '=a', x, '=b', CASE WHEN y THEN 1 ELSE 2 END, '~c', to_json(z))",
            ),
            ("json_object('a', JSON_ARRAY(1, 'x'))", "json_of('{', '~a', json_of('[', '=', 1, '=', 'x'))"),
            ("JSON_OBJECT()", "json_of('{')"),
            ("json_array(a NULL ON NULL)", "json_of('[', '=', a)"),
            ("json_arrayagg(a NULL ON NULL)", "json_of('[]', '=', array_agg(a))"),
            ("JSON_ARRAYAGG(DISTINCT a ORDER BY a)", "json_of('[]', '=', array_agg(DISTINCT a ORDER BY a))"),
            ("JSON_ARRAYAGG(JSON_OBJECT('a' VALUE x))", "json_of('[]', '~', array_agg(json_of('{', '=a', x)))"),
            ("JSON_ARRAY((a || ']'), (to_json(b)))", "json_of('[', '=', (a || ']'), '~', (to_json(b)))"),
            ("to_char(ts, 'YYYY-MM-DD HH24:MI:SS.MS')", "to_char(ts, '%Y-%m-%d %H:%M:%S.%3f')"),
            ("to_char(ts, '\"am\" Day, DD Mon')", "to_char(ts, 'am %A, %d %b')"),
            ("to_char(ts, '%H')", "to_char(ts, '%H')"),
            ("to_char(b - a, 'ISO8601')", "to_char(b - a, 'ISO8601')"),
            ("APPROX_COUNT_DISTINCT(a) FILTER (WHERE b)", "approx_distinct(a) FILTER (WHERE b)"),
            (
                "COUNT(DISTINCT a, b + 1)",
                "COUNT(DISTINCT named_struct('c0', a, 'c1', b + 1)) FILTER (WHERE ((a) IS NOT NULL AND (b + 1) IS NOT NULL))",
            ),
            ("count(DISTINCT a)", "count(DISTINCT a)"),
            ("TRUNCATE(a, 2)", "trunc(a, 2)"),
            (
                "percentile_disc(0.5) WITHIN GROUP (ORDER BY a DESC) FILTER (WHERE b)",
                "array_element(array_agg(a ORDER BY a DESC) FILTER (WHERE (b) AND ((a) IS NOT NULL)), \
                 arrow_cast(greatest(ceil(0.5 * count(a) FILTER (WHERE b)), 1), 'Int64'))",
            ),
            (
                "mode() WITHIN GROUP (ORDER BY a DESC) FILTER (WHERE b)",
                "longest_run(array_agg(a ORDER BY a DESC) FILTER (WHERE (b) AND ((a) IS NOT NULL)))",
            ),
            ("NTH_VALUE(a, 2 ORDER BY b DESC) FILTER (WHERE c)", "array_element(array_agg(a ORDER BY b DESC) FILTER (WHERE c), 2)"),
            ("nth_value(a, 2) OVER (ORDER BY b)", "nth_value(a, 2) OVER (ORDER BY b)"),
            ("TIMESTAMP '2262-04-11 00:00:00'", "TIMESTAMP '2262-04-11 00:00:00'"),
            ("TIMESTAMP '9999-12-31 00:00:00'", "TIMESTAMP(6) '9999-12-31 00:00:00'"),
            ("CAST('1677-01-01' AS TIMESTAMP)", "CAST('1677-01-01' AS TIMESTAMP(6))"),
            ("'9999-12-31'::timestamp(3)", "'9999-12-31'::TIMESTAMP(3)"),
            ("TIMESTAMP 'never, ever'", "TIMESTAMP 'never, ever'"),
            ("REGEXP(a, '^x')", "regexp_like(a, '^x')"),
            ("CEILING(a)", "CEIL(a)"),
            ("TO_BASE64(a)", "encode(a, 'base64pad')"),
            ("from_base64(a)", "arrow_cast(decode(a, 'base64'), 'Utf8')"),
            ("SHA2(a, 256)", "encode(sha256(a), 'hex')"),
            ("GROUPING_ID(a, b)", "grouping(a, b)"),
            ("array_agg(a ORDER BY b)[1]", "array_element(array_agg(a ORDER BY b), 1)"),
            ("array_agg(a)[n + 1].x", "array_element(array_agg(a), n + 1)['x']"),
            ("array_agg(a)[1:2]", "array_agg(a)[1:2]"),
            (
                "bool_or(a) FILTER (WHERE b) OVER (ORDER BY c ROWS 1 PRECEDING)",
                "max((a) AND true) FILTER (WHERE b) OVER (ORDER BY c ROWS 1 PRECEDING)",
            ),
            (
                "BOOL_AND(a) OVER (ORDER BY b ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING)",
                "min((a) AND true) OVER (ORDER BY b ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING)",
            ),
            ("bool_or(a) OVER (ORDER BY b)", "bool_or(a) OVER (ORDER BY b)"),
            ("bool_or(a)", "bool_or(a)"),
            ("EVERY(a)", "bool_and(a)"),
            ("every(a) OVER (ORDER BY b ROWS 1 PRECEDING)", "min((a) AND true) OVER (ORDER BY b ROWS 1 PRECEDING)"),
            ("VARIANCE(a)", "var(a)"),
            ("ELT(n, a, 'b')", "CASE n WHEN 1 THEN a WHEN 2 THEN 'b' END"),
            ("RAND_INTEGER(n + 1)", "arrow_cast(floor(random() * (n + 1)), 'Int32')"),
            ("E()", "exp(1)"),
            ("ENCODE(a, 'UTF-8')", "arrow_cast(arrow_cast(a, 'Utf8'), 'Binary')"),
            ("decode(a, 'utf8')", "arrow_cast(a, 'Utf8')"),
            ("decode(a, 'hex')", "decode(a, 'hex')"),
            ("EXTRACT(DECADE FROM a)", "arrow_cast(floor(date_part('year', a) / 10e0), 'Int64')"),
            (
                "date_part('century', a)",
                "arrow_cast(CASE WHEN date_part('year', a) > 0 THEN ceil(date_part('year', a) / 100e0) ELSE ceil(date_part('year', a) / 100e0) - 1 END, 'Int64')",
            ),
            ("isnull(a)", "((a) IS NULL)"),
            (r"U&'caf\00e9' || N'x'", "'café' || 'x'"),
            ("a BETWEEN SYMMETRIC 5 AND b + 1 OR c", "(a BETWEEN 5 AND b + 1 OR a BETWEEN b + 1 AND 5) OR c"),
            ("a NOT BETWEEN SYMMETRIC 5 AND 1", "(NOT (a BETWEEN 5 AND 1 OR a BETWEEN 1 AND 5))"),
            ("a BETWEEN symmetric AND 5", "a BETWEEN symmetric AND 5"),
            ("a NOT BETWEEN ASYMMETRIC 1 AND b + 1 OR c", "a NOT BETWEEN 1 AND b + 1 OR c"),
            ("a BETWEEN asymmetric AND 5", "a BETWEEN asymmetric AND 5"),
            (
                "sum(a) OVER (ORDER BY b RANGE INTERVAL 90 MINUTE PRECEDING)",
                "sum(a) OVER (ORDER BY b RANGE INTERVAL '90' MINUTE PRECEDING)",
            ),
            ("sum(a) GROUP BY ()", "sum(a) GROUP BY GROUPING SETS (())"),
            ("to_jsonb(a)", "to_json(a)"),
            ("\"if\"(a, b, c)", "\"if\"(a, b, c)"),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
    }

    #[test]
    fn what_is_nested_does_not_grow_without_bound() {
        let nested = |start: &str, end: &str| format!("{}1{}", start.repeat(60), end.repeat(60));
        assert!(rewritten(&nested("max_by(1, ", ")")).unwrap_err().to_string().contains("in a subquery"));
        assert!(rewritten(&nested("json_arrayagg(", ")")).unwrap().len() < 10_000);
        assert!(rewritten(&nested("json_array(", ")")).unwrap().len() < 10_000);
        assert_eq!(rewritten(&nested("map[", "]")).unwrap(), nested("map[", "]"));
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        for (written, reason) in [
            ("TIMESTAMPDIFF(FORTNIGHT, a, b)", "begins with a unit"),
            ("to_timestamp_ltz(n, 4)", "takes 0, 3, 6 or 9"),
            ("to_timestamp(t, 'yyyy QQ')", "QQ"),
            ("json_object('a', 1, 'b')", "pairs"),
            ("json_object(a, 1)", "names in quotes"),
            ("IF(a, b, c) FILTER (WHERE d)", "if is computed row by row and takes no FILTER; leave it out, or write CASE WHEN"),
            ("to_timestamp_ltz(DISTINCT n)", "takes no DISTINCT"),
            ("json_array(a ABSENT ON NULL)", "NULLs are members of JSON here"),
            ("json_arrayagg(a ABSENT ON NULL)", "FILTER (WHERE x IS NOT NULL)"),
            ("json_array(a RETURNING STRING)", "takes no RETURNING"),
            ("trunc(ts, 'MM')", "write date_trunc('month', time)"),
            ("instr(a, 'b', 5)", "write locate(part, text, from)"),
            ("mode(a) WITHIN GROUP (ORDER BY a)", "mode takes one order"),
            ("mode() OVER (ORDER BY a)", "mode takes one order"),
            ("rand(5)", "rand takes no seed"),
            ("RAND_INTEGER(5, n)", "rand_integer takes no seed"),
            ("(a, b) OVERLAPS (c, d)", "write a < d AND c < b"),
            ("sha2(a, 1)", "sha2 takes 224, 256, 384 or 512 bits"),
            ("to_timestamp(t, 'yyyy-MM-dd HH')", "minutes"),
        ] {
            let error = rewritten(written).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("Error during"), "{written}: {error}");
        }
    }
}
