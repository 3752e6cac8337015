//! Functions over text that holds JSON. SQL's and Hive's take a path (`$.a.b[0]`), the operators of PostgreSQL one step; both are those of
//! `datafusion-functions-json` underneath. What is no JSON has nothing at any path; of what is broken, all before
//! that is there.
use std::{borrow::Cow, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, BooleanArray, StringArray},
        compute::is_not_null,
        datatypes::{DataType, Field, FieldRef},
    },
    common::{DFSchema, Result, ScalarValue, config::ConfigOptions, exec_err, plan_err},
    execution::FunctionRegistry,
    logical_expr::{
        ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
    },
    sql::sqlparser::ast::BinaryOperator,
};
use datafusion_functions_json::udfs;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::text::is_text;

/// Registers the functions and the operators `->` and `->>`.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for gives in [Gives::Scalar, Gives::Nested, Gives::Anything, Gives::Presence] {
        registry.register_udf(Arc::new(ScalarUDF::new_from_impl(JsonPath::new(gives))))?;
    }
    for function in
        [get(), as_text(), Steps::of("json_contains", udfs::json_contains_udf()), Steps::of("json_length", udfs::json_length_udf())]
    {
        registry.register_udf(function)?;
    }
    registry.register_udf(Arc::new(ScalarUDF::new_from_impl(IsJson::new())))?;
    registry.register_expr_planner(Arc::new(Operators))
}

/// `text IS JSON`, of a kind: `is_json(text, 'object')`. Here a text that breaks off is none.
#[derive(Debug, PartialEq, Eq, Hash)]
struct IsJson {
    signature: Signature,
}

impl IsJson {
    fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for IsJson {
    fn name(&self) -> &str {
        "is_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [json, kind] if is_text(json) && is_text(kind) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            _ => plan_err!("IS JSON is asked of a text"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [json, ColumnarValue::Scalar(kind)] = arguments.args.as_slice() else {
            return exec_err!("IS JSON asks for the same kind in all rows");
        };
        let kind = kind.try_as_str().flatten().unwrap_or_default();
        let texts = json.to_array(arguments.number_rows)?;
        let answers = texts.as_string::<i32>().iter().map(|text| text.map(|text| is_json(text, kind)));
        Ok(ColumnarValue::Array(Arc::new(answers.collect::<BooleanArray>())))
    }
}

fn is_json(text: &str, kind: &str) -> bool {
    let is_of_kind = match text.trim_start().chars().next() {
        Some('{') => matches!(kind, "value" | "object"),
        Some('[') => matches!(kind, "value" | "array"),
        _ => matches!(kind, "value" | "scalar"),
    };
    is_of_kind && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// `json -> step` and `json ->> step`.
#[derive(Debug)]
struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expression: RawBinaryExpr, _: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let function = match expression.op {
            BinaryOperator::Arrow => get(),
            BinaryOperator::LongArrow => as_text(),
            _ => return Ok(PlannerResult::Original(expression)),
        };
        Ok(PlannerResult::Planned(function.call(vec![expression.left, expression.right])))
    }
}

/// `json_get(json, step, …)`: the JSON that is there, itself as text. The library's has a type of its own for what may be anything.
fn get() -> Arc<ScalarUDF> {
    Steps::of("json_get", udfs::json_get_json_udf())
}

fn as_text() -> Arc<ScalarUDF> {
    Steps::of("json_as_text", udfs::json_as_text_udf())
}

/// A function of the library with steps of any whole number, and a length as numbers are here.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Steps {
    name: &'static str,
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

impl Steps {
    fn of(name: &'static str, inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Self { name, inner, signature: Signature::user_defined(Volatility::Immutable) }))
    }
}

impl ScalarUDFImpl for Steps {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let wrong = || plan_err!("{} takes a text that holds JSON, and steps: names as text, places as whole numbers", self.name);
        let Some((json, steps)) = arguments.split_first() else { return wrong() };
        if !is_text(json) {
            return wrong();
        }
        let mut coerced = vec![DataType::Utf8];
        for step in steps {
            coerced.push(match step {
                text if is_text(text) => DataType::Utf8,
                number if number.is_integer() => DataType::Int64,
                _ => return wrong(),
            });
        }
        Ok(coerced)
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let inner = self.inner.return_type(arguments)?;
        Ok(if inner == DataType::UInt64 { DataType::Int64 } else { inner })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let to = arguments.return_type().clone();
        let types: Vec<DataType> = arguments.args.iter().map(ColumnarValue::data_type).collect();
        let field = Field::new(self.name, self.inner.return_type(&types)?, true);
        let answer = self.inner.invoke_with_args(ScalarFunctionArgs { return_field: Arc::new(field), ..arguments })?;
        answer.cast_to(&to, None)
    }
}

/// What a function gives of what is at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Gives {
    Scalar,
    Nested,
    Anything,
    Presence,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonPath {
    gives: Gives,
    signature: Signature,
}

impl JsonPath {
    fn new(gives: Gives) -> Self {
        Self { gives, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for JsonPath {
    fn name(&self) -> &str {
        match self.gives {
            Gives::Scalar => "json_value",
            Gives::Nested => "json_query",
            Gives::Anything => "get_json_object",
            Gives::Presence => "json_exists",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [json, path] if is_text(json) && is_text(path) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            [json, path, wrapper] if self.gives == Gives::Nested && is_text(json) && is_text(path) && is_text(wrapper) => {
                Ok(vec![DataType::Utf8, DataType::Utf8, DataType::Utf8])
            }
            _ => plan_err!("{} takes a text that holds JSON and a path, for example '$.a.b[0]'", self.name()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.gives == Gives::Presence { DataType::Boolean } else { DataType::Utf8 })
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match arguments.scalar_arguments {
            [_, Some(path), wrapper @ ..] => {
                if let Some(Some(path)) = path.try_as_str()
                    && stages(path)?.len() > 1
                    && self.gives != Gives::Nested
                {
                    return plan_err!(
                        "{} takes a path to one value, and {path} is many; write json_query(…, '{path}')",
                        self.name()
                    );
                }
                match wrapper {
                    [Some(wrapper), ..] => {
                        Wrapper::of(wrapper)?;
                    }
                    [None, ..] => return plan_err!("{} takes the same wrapper for all rows", self.name()),
                    [] => {}
                }
            }
            _ => return plan_err!("{} takes the same path for all rows, for example '$.a.b[0]'", self.name()),
        }
        Ok(Arc::new(Field::new(self.name(), self.return_type(&[])?, true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [json, ColumnarValue::Scalar(path), rest @ ..] = arguments.args.as_slice() else {
            return exec_err!("{} takes the same path for all rows, for example '$.a.b[0]'", self.name());
        };
        let Some(Some(path)) = path.try_as_str() else {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from(arguments.return_type())?));
        };
        let mut stages = stages(path)?.into_iter();
        let steps = stages.next().unwrap_or_default();
        let (rows, config) = (arguments.number_rows, &arguments.config_options);
        let found = |function: &ScalarUDF, data_type: DataType| ask(function, data_type, json.clone(), steps.clone(), rows, config);
        let texts = |function: &ScalarUDF| found(function, DataType::Utf8)?.to_array(rows);
        match self.gives {
            // All of a text is there if it is JSON.
            Gives::Presence if steps.is_empty() => {
                let raw = texts(&udfs::json_get_json_udf())?;
                Ok(ColumnarValue::Array(Arc::new(is_not_null(&raw)?)))
            }
            Gives::Presence => found(&udfs::json_contains_udf(), DataType::Boolean),
            Gives::Anything => found(&udfs::json_as_text_udf(), DataType::Utf8),
            Gives::Nested => {
                let wrapper = match rest {
                    [] => Wrapper::None,
                    [ColumnarValue::Scalar(wrapper), ..] => Wrapper::of(wrapper)?,
                    _ => return exec_err!("{} takes the same wrapper for all rows", self.name()),
                };
                let raw = texts(&udfs::json_get_json_udf())?;
                let all = of_items(raw, stages.as_slice(), config)?;
                let nested = all.as_string::<i32>().iter().map(|raw| raw.and_then(|raw| wrapper.around(raw)));
                Ok(ColumnarValue::Array(Arc::new(nested.collect::<StringArray>())))
            }
            Gives::Scalar => {
                let raw = texts(&udfs::json_get_json_udf())?;
                let scalars = raw.as_string::<i32>().iter().map(|raw| raw.and_then(scalar));
                Ok(ColumnarValue::Array(Arc::new(scalars.collect::<StringArray>())))
            }
        }
    }
}

/// What a function of the library says of what is at `steps`.
fn ask(
    function: &ScalarUDF,
    data_type: DataType,
    json: ColumnarValue,
    steps: Vec<ScalarValue>,
    number_rows: usize,
    config_options: &Arc<ConfigOptions>,
) -> Result<ColumnarValue> {
    let args: Vec<ColumnarValue> = std::iter::once(json).chain(steps.into_iter().map(ColumnarValue::Scalar)).collect();
    let fields = args.iter().map(|value| Arc::new(Field::new("", value.data_type(), true)));
    function.invoke_with_args(ScalarFunctionArgs {
        arg_fields: fields.collect(),
        args,
        number_rows,
        return_field: Arc::new(Field::new("", data_type, true)),
        config_options: config_options.clone(),
    })
}

/// Of arrays, the array of what is at the later stages of their items; what an item lacks is left out. NULL where no array is.
fn of_items(arrays: ArrayRef, stages: &[Vec<ScalarValue>], config: &Arc<ConfigOptions>) -> Result<ArrayRef> {
    let Some((steps, later)) = stages.split_first() else { return Ok(arrays) };
    let rows: Vec<Option<Vec<&RawValue>>> = arrays.as_string::<i32>().iter().map(|raw| serde_json::from_str(raw?).ok()).collect();
    let items: Vec<&str> = rows.iter().flatten().flatten().map(|item| item.get()).collect();
    let count = items.len();
    let items = StringArray::from(items);
    let found =
        ask(&udfs::json_get_json_udf(), DataType::Utf8, ColumnarValue::Array(Arc::new(items)), steps.clone(), count, config)?;
    let found = of_items(found.to_array(count)?, later, config)?;
    let mut found = found.as_string::<i32>().iter();
    let mut joined = |items: Vec<&RawValue>| {
        let parts = found.by_ref().take(items.len()).flatten();
        // What a later [*] found is an array itself, whose items belong to one.
        let parts = parts.map(|part| if later.is_empty() { part } else { &part[1..part.len() - 1] });
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        format!("[{}]", parts.join(","))
    };
    Ok(Arc::new(rows.into_iter().map(|items| items.map(&mut joined)).collect::<StringArray>()))
}

/// What becomes of what is no array or object.
#[derive(Clone, Copy)]
enum Wrapper {
    None,
    /// An array with it; an array stays.
    Conditional,
    /// An array with whatever is there.
    Unconditional,
}

impl Wrapper {
    fn of(word: &ScalarValue) -> Result<Self> {
        match word.try_as_str().flatten() {
            Some("conditional") => Ok(Self::Conditional),
            Some("unconditional") => Ok(Self::Unconditional),
            _ => plan_err!("json_query takes a text that holds JSON and a path; write WITH CONDITIONAL ARRAY WRAPPER for an array"),
        }
    }

    fn around(self, raw: &str) -> Option<Cow<'_, str>> {
        match self {
            Self::None => is_nested(raw).then_some(Cow::Borrowed(raw)),
            _ if raw == "null" => None,
            Self::Conditional if raw.starts_with('[') => Some(Cow::Borrowed(raw)),
            Self::Conditional | Self::Unconditional => Some(Cow::Owned(format!("[{raw}]"))),
        }
    }
}

fn is_nested(raw: &str) -> bool {
    raw.starts_with(['{', '['])
}

/// What the JSON of a scalar says, as text.
fn scalar(raw: &str) -> Option<Cow<'_, str>> {
    if is_nested(raw) || raw == "null" {
        return None;
    }
    match raw.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')) {
        Some(inner) if !inner.contains('\\') => Some(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str(raw).ok().map(Cow::Owned),
        None => Some(Cow::Borrowed(raw)),
    }
}

/// The steps of a path: names as text, places in arrays as numbers. Each `[*]` begins another stage.
fn stages(path: &str) -> Result<Vec<Vec<ScalarValue>>> {
    let wrong =
        || plan_err!("the JSON path {path:?} is not understood; write $, .name, ['name'], [number] and [*], for example $.a.b[0]");
    let trimmed = path.trim();
    let Some(mut rest) = trimmed.strip_prefix("lax ").unwrap_or(trimmed).trim_start().strip_prefix('$') else { return wrong() };
    let mut stages = Vec::new();
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("[*]") {
            stages.push(std::mem::take(&mut steps));
            rest = after;
            continue;
        }
        let step;
        if let Some(name) = rest.strip_prefix('.') {
            let end = name.find(['.', '[']).unwrap_or(name.len());
            let plain = name[..end].chars().all(|character| character.is_alphanumeric() || "_-$".contains(character));
            if end == 0 || !plain {
                return wrong();
            }
            step = ScalarValue::from(&name[..end]);
            rest = &name[end..];
        } else if let Some((quote, name)) = rest.strip_prefix("[").and_then(|name| Some((name.get(..1)?, name.get(1..)?)))
            && (quote == "'" || quote == "\"")
        {
            let Some((name, after)) = name.split_once(&format!("{quote}]")) else { return wrong() };
            step = ScalarValue::from(name);
            rest = after;
        } else {
            let place = rest.strip_prefix('[').and_then(|place| place.split_once(']'));
            let Some((Ok(place), after)) = place.map(|(place, after)| (place.parse::<u32>(), after)) else { return wrong() };
            step = ScalarValue::Int64(Some(i64::from(place)));
            rest = after;
        }
        steps.push(step);
    }
    stages.push(steps);
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(json: &str, path: &str, wrapper: Option<&str>) -> Option<String> {
        let values = [Some(json), Some(path), wrapper].into_iter().flatten();
        let args: Vec<_> = values.map(|value| ColumnarValue::Scalar(ScalarValue::from(value))).collect();
        let answer = JsonPath::new(Gives::Nested).invoke_with_args(ScalarFunctionArgs {
            arg_fields: args.iter().map(|value| Arc::new(Field::new("", value.data_type(), true))).collect(),
            args,
            number_rows: 1,
            return_field: Arc::new(Field::new("", DataType::Utf8, true)),
            config_options: Arc::new(ConfigOptions::default()),
        });
        let array = answer.unwrap().to_array(1).unwrap();
        array.as_string::<i32>().iter().next().unwrap().map(str::to_owned)
    }

    #[test]
    fn all_items_are_an_array() {
        let items = r#"{"a":[{"c":"c1"},{"d":1},{"c":[2, 3]},{"c":null}],"e":{"c":1}}"#;
        assert_eq!(query(items, "lax $.a[*].c", None).unwrap(), r#"["c1",[2, 3],null]"#);
        assert_eq!(query(items, "$.a[*].c[*]", None).unwrap(), "[2,3]");
        assert_eq!(query("[[1,2],[],[3]]", "$[*][*]", None).unwrap(), "[1,2,3]");
        assert_eq!(query("[]", "$[*].a", None).unwrap(), "[]");
        assert_eq!(query(items, "$.e[*].c", None), None);
        assert_eq!(query("no json", "$[*]", None), None);
    }

    #[test]
    fn wrappers_are_as_in_flink() {
        for (json, wrapper, expected) in [
            ("{}", None, Some("{}")),
            ("1", None, None),
            ("{}", Some("conditional"), Some("[{}]")),
            ("[1, 2]", Some("conditional"), Some("[1, 2]")),
            ("[1, 2]", Some("unconditional"), Some("[[1, 2]]")),
            ("1", Some("conditional"), Some("[1]")),
            ("null", Some("unconditional"), None),
        ] {
            assert_eq!(query(json, "$", wrapper).as_deref(), expected, "{json} {wrapper:?}");
        }
    }

    #[test]
    fn paths_are_steps() {
        let read = stages("$.a['b c'][\"e\"][2].d_1").unwrap();
        assert_eq!(
            read,
            [[
                ScalarValue::from("a"),
                ScalarValue::from("b c"),
                ScalarValue::from("e"),
                ScalarValue::Int64(Some(2)),
                ScalarValue::from("d_1")
            ]]
        );
        assert_eq!(stages("$").unwrap(), [Vec::<ScalarValue>::new()]);
        assert_eq!(stages("lax $.a").unwrap(), [[ScalarValue::from("a")]]);
        assert_eq!(stages("$.a[*].b[*]").unwrap(), [vec![ScalarValue::from("a")], vec![ScalarValue::from("b")], vec![]]);
        for wrong in ["", "a.b", "$a", "$.", "$.a[", "$.a[-1]", "$.a[*", "$..a", "$.*"] {
            let error = stages(wrong).unwrap_err().to_string();
            assert!(error.contains("for example $.a.b[0]"), "{wrong}: {error}");
        }
    }
}
