//! Functions that look for a text in another, with Flink's meaning: `locate`, `split`, `str_to_map`. Separators are texts, no regular expressions.
use std::{collections::BTreeMap, iter::repeat_n, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Int64Array, ListBuilder, MapBuilder, StringArray, StringBuilder},
        datatypes::{DataType, Int64Type},
    },
    common::{Result, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::text::is_text;
use crate::types::SqlType;

/// `locate(part, text [, from])`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Locate {
    signature: Signature,
}

impl Locate {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// Where the part begins, at the character `from` or behind it. Characters are counted from 1 on; 0 where it is not.
fn place(part: &str, text: &str, from: i64) -> i64 {
    let Some(skipped) = usize::try_from(from).ok().and_then(|from| from.checked_sub(1)) else { return 0 };
    let starts = text.char_indices().map(|(start, _)| start);
    let Some(start) = starts.chain([text.len()]).nth(skipped) else { return 0 };
    let rest = &text[start..];
    match rest.find(part) {
        Some(found) => i64::try_from(skipped + rest[..found].chars().count() + 1).unwrap_or(i64::MAX),
        None => 0,
    }
}

impl ScalarUDFImpl for Locate {
    fn name(&self) -> &str {
        "locate"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [part, text] if is_text(part) && is_text(text) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            [part, text, from] if is_text(part) && is_text(text) && (from.is_integer() || from.is_null()) => {
                Ok(vec![DataType::Utf8, DataType::Utf8, DataType::Int64])
            }
            _ => plan_err!("locate takes a part, the text that it is looked for in, and the place to begin at, from 1 on"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let (parts, texts) = (arguments.args[0].to_array(rows)?, arguments.args[1].to_array(rows)?);
        let from = match arguments.args.get(2) {
            Some(from) => from.to_array(rows)?,
            None => Arc::new(Int64Array::from_value(1, rows)),
        };
        let (parts, texts, from) = (parts.as_string::<i32>(), texts.as_string::<i32>(), from.as_primitive::<Int64Type>());
        let valid = |row: usize| parts.is_valid(row) && texts.is_valid(row) && from.is_valid(row);
        let places: Int64Array =
            (0..rows).map(|row| valid(row).then(|| place(parts.value(row), texts.value(row), from.value(row)))).collect();
        Ok(ColumnarValue::Array(Arc::new(places)))
    }
}

/// `split(text, separator)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Split {
    signature: Signature,
}

impl Split {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// An empty separator stands between all characters.
fn parts<'t>(text: &'t str, separator: &str) -> Vec<&'t str> {
    if separator.is_empty() {
        return text.char_indices().map(|(start, character)| &text[start..start + character.len_utf8()]).collect();
    }
    text.split(separator).collect()
}

impl ScalarUDFImpl for Split {
    fn name(&self) -> &str {
        "split"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [text, separator] if is_text(text) && is_text(separator) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            _ => plan_err!("split takes a text and a separator, which is no regular expression"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(SqlType::Array(Box::new(SqlType::String)).arrow())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let (texts, separators) = (arguments.args[0].to_array(rows)?, arguments.args[1].to_array(rows)?);
        let mut lists = ListBuilder::new(StringBuilder::new());
        for (text, separator) in texts.as_string::<i32>().iter().zip(separators.as_string::<i32>()) {
            let (Some(text), Some(separator)) = (text, separator) else {
                lists.append_null();
                continue;
            };
            lists.append_value(parts(text, separator).into_iter().map(Some));
        }
        Ok(ColumnarValue::Array(Arc::new(lists.finish())))
    }
}

/// `str_to_map(text [, between entries, between key and value])`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct StrToMap {
    signature: Signature,
}

impl StrToMap {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// The keys in order, so that equal maps are equal values; of one that comes twice the last value. Empty entries at the end are none, as in Java.
fn entries<'t>(text: &'t str, between_entries: &str, in_entries: &str) -> BTreeMap<&'t str, Option<&'t str>> {
    let mut all = if between_entries.is_empty() { vec![text] } else { text.split(between_entries).collect() };
    while all.last().is_some_and(|entry| entry.is_empty()) {
        all.pop();
    }
    let entry = |entry: &'t str| match entry.split_once(in_entries).filter(|_| !in_entries.is_empty()) {
        Some((key, value)) => (key, Some(value)),
        None => (entry, None),
    };
    all.into_iter().map(entry).collect()
}

impl ScalarUDFImpl for StrToMap {
    fn name(&self) -> &str {
        "str_to_map"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        if !(1..=3).contains(&arguments.len()) || !arguments.iter().all(is_text) {
            return plan_err!(
                "str_to_map takes a text, what stands between its entries (',') and between a key and its value ('=')"
            );
        }
        Ok(vec![DataType::Utf8; arguments.len()])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(SqlType::Map(Box::new(SqlType::String), Box::new(SqlType::String)).arrow())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let texts = arguments.args[0].to_array(rows)?;
        let separators = |index: usize, usual: &str| -> Result<ArrayRef> {
            match arguments.args.get(index) {
                Some(given) => given.to_array(rows),
                None => Ok(Arc::new(StringArray::from_iter_values(repeat_n(usual, rows)))),
            }
        };
        let (between, within) = (separators(1, ",")?, separators(2, "=")?);
        let (texts, between, within) = (texts.as_string::<i32>(), between.as_string::<i32>(), within.as_string::<i32>());
        let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for row in 0..rows {
            let is_valid = texts.is_valid(row) && between.is_valid(row) && within.is_valid(row);
            if is_valid {
                for (key, value) in entries(texts.value(row), between.value(row), within.value(row)) {
                    maps.keys().append_value(key);
                    maps.values().append_option(value);
                }
            }
            maps.append(is_valid)?;
        }
        Ok(ColumnarValue::Array(Arc::new(maps.finish())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_from_1() {
        assert_eq!(place("bar", "foobarbar", 1), 4);
        assert_eq!(place("bar", "foobarbar", 5), 7);
        assert_eq!(place("ß", "äßäß", 3), 4);
        assert_eq!(place("xbar", "foobar", 1), 0);
        assert_eq!(place("bar", "foobar", 0), 0);
        assert_eq!(place("", "ab", 3), 3);
        assert_eq!(place("", "ab", 4), 0);
    }

    #[test]
    fn parts_stand_between_separators() {
        assert_eq!(parts("a,,b,", ","), ["a", "", "b", ""]);
        assert_eq!(parts("a|b", "|"), ["a", "b"]);
        assert_eq!(parts("aß", ""), ["a", "ß"]);
        assert_eq!(parts("ab", ";"), ["ab"]);
    }

    #[test]
    fn entries_have_a_key_and_may_have_a_value() {
        let of = |text, between, within| entries(text, between, within).into_iter().collect::<Vec<_>>();
        assert_eq!(of("k2=v2,k1=v1=x,k3", ",", "="), [("k1", Some("v1=x")), ("k2", Some("v2")), ("k3", None)]);
        assert_eq!(of("a:1;a:2;;", ";", ":"), [("a", Some("2"))]);
        assert!(of("", ",", "=").is_empty());
    }

    #[test]
    fn what_is_made_has_the_types_that_are_said() {
        let made = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new()).finish();
        assert_eq!(*made.data_type(), StrToMap::new().return_type(&[]).unwrap());
        let made = ListBuilder::new(StringBuilder::new()).finish();
        assert_eq!(*made.data_type(), Split::new().return_type(&[]).unwrap());
    }
}
