//! `to_json(value)`: any value as a text of JSON, as a topic's records have it: a ROW or a MAP as an object with all its members, an array as an
//! array, times as text, numbers as they are.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, StringArray, StringBuilder},
        compute::cast,
        datatypes::{DataType, Field},
        json::writer::{EncoderOptions, make_encoder},
    },
    common::{Result, exec_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ToJson {
    signature: Signature,
}

impl ToJson {
    pub fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ToJson {
    fn name(&self) -> &str {
        "to_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = arguments.args.as_slice() else { return exec_err!("to_json takes one value") };
        Ok(ColumnarValue::Array(Arc::new(encoded(&value.to_array(arguments.number_rows)?)?)))
    }
}

/// Each value as JSON; NULL where it is NULL.
fn encoded(values: &ArrayRef) -> Result<StringArray> {
    let rows = values.len();
    let field = Arc::new(Field::new("value", values.data_type().clone(), true));
    let options = EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_timestamp_format("%Y-%m-%d %H:%M:%S%.f".into())
        .with_timestamp_tz_format("%Y-%m-%d %H:%M:%S%.fZ".into());
    let mut encoder = make_encoder(&field, values, &options)?;
    let mut texts = StringBuilder::with_capacity(rows, rows * 32);
    let mut bytes = Vec::new();
    for row in 0..rows {
        if encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        bytes.clear();
        encoder.encode(row, &mut bytes);
        match std::str::from_utf8(&bytes) {
            Ok(text) => texts.append_value(text),
            Err(error) => return exec_err!("to_json: {error}"),
        }
    }
    Ok(texts.finish())
}

pub(crate) const JSON_OF: &str = "json_of";

/// Marks of what follows: a value, and a text that is JSON already.
pub(crate) const VALUE: &str = "=";
pub(crate) const RAW: &str = "~";

/// What an aggregate has gathered: the items of a list, and its pairs of a name and a value, without those that are NULL or with them.
pub(crate) const LIST: &str = "[]";
pub(crate) const LIST_WITH_NULLS: &str = "[null]";
pub(crate) const OBJECT: &str = "{}";
pub(crate) const OBJECT_WITH_NULLS: &str = "{null}";

/// `json_of('{', '=name', value, '~name', json, …)` and `json_of('[', '=', value, …)`: what JSON_OBJECT and JSON_ARRAY are. Each value is encoded by
/// itself, so that numbers stay numbers beside texts. `json_of('[]', '=', list)` is the list's items that are not NULL, as JSON_ARRAYAGG has them, and
/// `json_of('{null}', '=', pairs)` an object of all pairs, as JSON_OBJECTAGG has it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct JsonOf {
    signature: Signature,
}

impl JsonOf {
    pub fn new() -> Self {
        Self { signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for JsonOf {
    fn name(&self) -> &str {
        JSON_OF
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let word = |value: &ColumnarValue| match value {
            ColumnarValue::Scalar(word) => word.try_as_str().flatten().map(str::to_owned),
            ColumnarValue::Array(_) => None,
        };
        let Some((Some(open), members)) = arguments.args.split_first().map(|(open, members)| (word(open), members)) else {
            return exec_err!("{JSON_OF} begins with {{ or [");
        };
        if members.len() % 2 != 0 {
            return exec_err!("{JSON_OF} takes a value after each mark");
        }
        if let (LIST | LIST_WITH_NULLS | OBJECT | OBJECT_WITH_NULLS, [mark, list]) = (open.as_str(), members) {
            return gathered(&open, &list.to_array(rows)?, word(mark).as_deref() == Some(RAW));
        }
        let mut parts = Vec::with_capacity(members.len() / 2);
        for pair in members.chunks_exact(2) {
            let Some(mark) = word(&pair[0]) else { return exec_err!("{JSON_OF} takes marks that all rows have") };
            let values = pair[1].to_array(rows)?;
            let name = mark.get(1..).unwrap_or_default();
            let name = if open == "{" { format!("{}:", serde_json::Value::from(name)) } else { String::new() };
            let texts = texts(&values, mark.starts_with(RAW))?;
            parts.push((name, texts));
        }
        let close = if open == "{" { "}" } else { "]" };
        let mut made = StringBuilder::with_capacity(rows, rows * 64);
        let mut text = String::new();
        for row in 0..rows {
            text.clear();
            text.push_str(&open);
            for (place, (name, values)) in parts.iter().enumerate() {
                if place > 0 {
                    text.push(',');
                }
                text.push_str(name);
                text.push_str(if values.is_null(row) { "null" } else { values.value(row) });
            }
            text.push_str(close);
            made.append_value(&text);
        }
        Ok(ColumnarValue::Array(Arc::new(made.finish())))
    }
}

fn texts(values: &ArrayRef, are_json: bool) -> Result<StringArray> {
    if are_json { Ok(cast(values, &DataType::Utf8)?.as_string::<i32>().clone()) } else { encoded(values) }
}

/// Lists as lists or as objects.
fn gathered(kind: &str, lists: &ArrayRef, are_json: bool) -> Result<ColumnarValue> {
    let Some(lists) = lists.as_list_opt::<i32>() else { return exec_err!("{JSON_OF} makes a list of a list") };
    let keeps_nulls = matches!(kind, LIST_WITH_NULLS | OBJECT_WITH_NULLS);
    let (names, values) = match (kind, lists.values().as_struct_opt()) {
        (LIST | LIST_WITH_NULLS, _) => (None, lists.values()),
        (_, Some(pairs)) => (Some(texts(pairs.column(0), true)?), pairs.column(1)),
        (_, None) => return exec_err!("{JSON_OF} makes an object of pairs"),
    };
    let values = texts(values, are_json)?;
    let (open, close) = if names.is_some() { ('{', '}') } else { ('[', ']') };
    let mut made = StringBuilder::with_capacity(lists.len(), lists.len() * 64);
    let mut text = String::new();
    for (row, ends) in lists.value_offsets().windows(2).enumerate() {
        if lists.is_null(row) {
            made.append_null();
            continue;
        }
        text.clear();
        text.push(open);
        for place in usize::try_from(ends[0]).unwrap_or_default()..usize::try_from(ends[1]).unwrap_or_default() {
            if values.is_null(place) && !keeps_nulls {
                continue;
            }
            if text.len() > 1 {
                text.push(',');
            }
            if let Some(names) = &names {
                if names.is_null(place) {
                    return exec_err!("a name of json_objectagg is NULL; add FILTER (WHERE name IS NOT NULL)");
                }
                text.push_str(&serde_json::Value::from(names.value(place)).to_string());
                text.push(':');
            }
            text.push_str(if values.is_null(place) { "null" } else { values.value(place) });
        }
        text.push(close);
        made.append_value(&text);
    }
    Ok(ColumnarValue::Array(Arc::new(made.finish())))
}
