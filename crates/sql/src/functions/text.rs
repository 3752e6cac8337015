//! Functions over text, with Flink's meaning: `regexp_extract`, `regexp_extract_all`, `split_index`, `count_char`; and what a column of UUIDs takes.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, AsArray, Int64Array, ListBuilder, StringArray, StringBuilder},
        datatypes::{DataType, Field, Int64Type},
    },
    common::{Result, ScalarValue, exec_err, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};
use regex::Regex;
use uuid::Uuid;

pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Null)
}

/// The one text of all rows, if it is a constant that is not NULL.
fn constant(value: &ColumnarValue) -> Option<&str> {
    match value {
        ColumnarValue::Scalar(ScalarValue::Utf8(Some(text))) => Some(text),
        _ => None,
    }
}

/// `regexp_extract(text, regex [, group])`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct RegexpExtract {
    signature: Signature,
}

impl RegexpExtract {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn compiled(pattern: &str) -> Result<Regex> {
    match Regex::new(pattern) {
        Ok(regex) => Ok(regex),
        Err(error) => exec_err!("the regular expression {pattern:?} cannot be read: {error}"),
    }
}

/// The regular expression of a row, which is most often that of the row before.
#[derive(Default)]
struct LastRegex<'p>(Option<(&'p str, Regex)>);

impl<'p> LastRegex<'p> {
    fn of(&mut self, pattern: &'p str) -> Result<&Regex> {
        let last = match self.0.take().filter(|(known, _)| *known == pattern) {
            Some(known) => known,
            None => (pattern, compiled(pattern)?),
        };
        Ok(&self.0.insert(last).1)
    }
}

/// What `regexp_extract` and its like take.
fn text_regex_group(name: &str, arguments: &[DataType]) -> Result<Vec<DataType>> {
    match arguments {
        [text, regex] if is_text(text) && is_text(regex) => Ok(vec![DataType::Utf8, DataType::Utf8]),
        [text, regex, group] if is_text(text) && is_text(regex) && group.is_integer() => {
            Ok(vec![DataType::Utf8, DataType::Utf8, DataType::Int64])
        }
        _ => plan_err!("{name} takes a text, a regular expression and the number of a group"),
    }
}

fn extracted<'t>(regex: &Regex, text: &'t str, group: i64) -> Option<&'t str> {
    let group = usize::try_from(group).ok()?;
    if group == 0 {
        return regex.find(text).map(|found| found.as_str());
    }
    regex.captures(text)?.get(group).map(|found| found.as_str())
}

impl ScalarUDFImpl for RegexpExtract {
    fn name(&self) -> &str {
        "regexp_extract"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        text_regex_group(self.name(), arguments)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let [texts, pattern, rest @ ..] = arguments.args.as_slice() else {
            return exec_err!("regexp_extract takes a text and a regular expression");
        };
        let groups = match rest.first() {
            Some(group) => group.to_array(rows)?,
            None => Arc::new(Int64Array::from_value(0, rows)),
        };
        let groups = groups.as_primitive::<Int64Type>();
        let texts = texts.to_array(rows)?;
        let texts = texts.as_string::<i32>();
        let mut found = StringBuilder::with_capacity(rows, rows * 8);
        if let Some(pattern) = constant(pattern) {
            let regex = compiled(pattern)?;
            for row in 0..rows {
                let valid = texts.is_valid(row) && groups.is_valid(row);
                found.append_option(valid.then(|| extracted(&regex, texts.value(row), groups.value(row))).flatten());
            }
        } else {
            let patterns = pattern.to_array(rows)?;
            let patterns = patterns.as_string::<i32>();
            let mut last = LastRegex::default();
            for row in 0..rows {
                if texts.is_null(row) || groups.is_null(row) || patterns.is_null(row) {
                    found.append_null();
                    continue;
                }
                let regex = last.of(patterns.value(row))?;
                found.append_option(extracted(regex, texts.value(row), groups.value(row)));
            }
        }
        Ok(ColumnarValue::Array(Arc::new(found.finish())))
    }
}

/// `regexp_extract_all(text, regex [, group])`: an array of the group of all matches, the first one when left out; NULL where the expression has no such group.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct RegexpExtractAll {
    signature: Signature,
}

impl RegexpExtractAll {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for RegexpExtractAll {
    fn name(&self) -> &str {
        "regexp_extract_all"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        text_regex_group(self.name(), arguments)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let groups = match arguments.args.get(2) {
            Some(group) => group.to_array(rows)?,
            None => Arc::new(Int64Array::from_value(1, rows)),
        };
        let (texts, patterns) = (arguments.args[0].to_array(rows)?, arguments.args[1].to_array(rows)?);
        let (texts, patterns) = (texts.as_string::<i32>(), patterns.as_string::<i32>());
        let rows = texts.iter().zip(patterns).zip(groups.as_primitive::<Int64Type>());
        let mut found = ListBuilder::new(StringBuilder::new());
        let mut last = LastRegex::default();
        for ((text, pattern), group) in rows {
            let (Some(text), Some(pattern), Some(group)) = (text, pattern, group) else {
                found.append_null();
                continue;
            };
            let regex = last.of(pattern)?;
            let Some(group) = usize::try_from(group).ok().filter(|group| *group < regex.captures_len()) else {
                found.append_null();
                continue;
            };
            for captures in regex.captures_iter(text) {
                found.values().append_option(captures.get(group).map(|part| part.as_str()));
            }
            found.append(true);
        }
        Ok(ColumnarValue::Array(Arc::new(found.finish())))
    }
}

/// `split_index(text, separator, index)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SplitIndex {
    signature: Signature,
}

impl SplitIndex {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// Flink splits by a white-space character where the separator is empty, and an empty text has no parts.
fn part<'t>(text: &'t str, separator: &str, index: i64) -> Option<&'t str> {
    let index = usize::try_from(index).ok()?;
    if text.is_empty() {
        return None;
    }
    if separator.is_empty() { text.split(char::is_whitespace).nth(index) } else { text.split(separator).nth(index) }
}

impl ScalarUDFImpl for SplitIndex {
    fn name(&self) -> &str {
        "split_index"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [text, separator, index] if is_text(text) && is_text(separator) && index.is_integer() => {
                Ok(vec![DataType::Utf8, DataType::Utf8, DataType::Int64])
            }
            _ => plan_err!("split_index takes a text, a separator and the index of a part, from 0 on"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let [texts, separators, indexes] = arguments.args.as_slice() else {
            return exec_err!("split_index takes a text, a separator and an index");
        };
        let (texts, separators, indexes) = (texts.to_array(rows)?, separators.to_array(rows)?, indexes.to_array(rows)?);
        let (texts, separators) = (texts.as_string::<i32>(), separators.as_string::<i32>());
        let indexes = indexes.as_primitive::<Int64Type>();
        let valid = |row: usize| texts.is_valid(row) && separators.is_valid(row) && indexes.is_valid(row);
        let found: StringArray = (0..rows)
            .map(|row| valid(row).then(|| part(texts.value(row), separators.value(row), indexes.value(row))).flatten())
            .collect();
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}

/// `as_uuid(text)`: as UUIDs are written, in small letters. What is none is an error of its row.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct AsUuid {
    signature: Signature,
}

impl AsUuid {
    pub fn new() -> Self {
        Self { signature: Signature::exact(vec![DataType::Utf8], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for AsUuid {
    fn name(&self) -> &str {
        "as_uuid"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = arguments.args[0].to_array(arguments.number_rows)?;
        let texts = texts.as_string::<i32>();
        let mut found = StringBuilder::with_capacity(texts.len(), texts.len() * 36);
        for text in texts {
            match text.map(Uuid::parse_str) {
                None => found.append_null(),
                Some(Ok(uuid)) => found.append_value(uuid.as_hyphenated().encode_lower(&mut Uuid::encode_buffer())),
                Some(Err(_)) => return exec_err!("{:?} is no UUID", text.unwrap_or_default()),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(found.finish())))
    }
}

/// `count_char(text, character)`, as Nexmark defines it: bytes equal to the character's first; 0 of NULL.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CountChar {
    signature: Signature,
}

impl CountChar {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn count(text: &str, character: &str) -> Option<i64> {
    let wanted = *character.as_bytes().first()?;
    i64::try_from(text.bytes().filter(|byte| *byte == wanted).count()).ok()
}

impl ScalarUDFImpl for CountChar {
    fn name(&self) -> &str {
        "count_char"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [text, character] if is_text(text) && is_text(character) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            _ => plan_err!("count_char takes a text and a character"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let [texts, characters] = arguments.args.as_slice() else {
            return exec_err!("count_char takes a text and a character");
        };
        let (texts, characters) = (texts.to_array(rows)?, characters.to_array(rows)?);
        let (texts, characters) = (texts.as_string::<i32>(), characters.as_string::<i32>());
        let counted = |row: usize| match (texts.is_valid(row), characters.is_valid(row)) {
            (_, false) => None,
            (false, true) => Some(0),
            (true, true) => count(texts.value(row), characters.value(row)),
        };
        Ok(ColumnarValue::Array(Arc::new((0..rows).map(counted).collect::<Int64Array>())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_from_0() {
        let url = "https://www.nexmark.com/a/bb/c/item.htm?query=1";
        assert_eq!(part(url, "/", 3), Some("a"));
        assert_eq!(part(url, "/", 6), Some("item.htm?query=1"));
        assert_eq!(part(url, "/", 7), None);
        assert_eq!(part(url, "/", -1), None);
        assert_eq!(part("a//b", "/", 1), Some(""));
        assert_eq!(part("a b", "", 1), Some("b"));
        assert_eq!(part("", "/", 0), None);
    }

    #[test]
    fn groups_are_found() {
        let regex = compiled("(&|^)channel_id=([^&]*)").unwrap();
        assert_eq!(extracted(&regex, "https://x/?query=1&channel_id=345", 2), Some("345"));
        assert_eq!(extracted(&regex, "https://x/?query=1&channel_id=345", 0), Some("&channel_id=345"));
        assert_eq!(extracted(&regex, "https://x/", 2), None);
        assert_eq!(extracted(&regex, "channel_id=1", 9), None);
    }

    #[test]
    fn bytes_are_counted() {
        assert_eq!(count("accc", "c"), Some(3));
        assert_eq!(count("", "c"), Some(0));
        assert_eq!(count("abc", ""), None);
    }
}
