//! An answer's JSON becomes records: items picked by a pointer, fields by pointers or templates. An absent or null value is left out, so
//! that older answers which lack a field give NULL.
use bytes::Bytes;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::config::Mapping;

#[derive(Debug, Error)]
pub enum MappingError {
    #[error("the answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the answer has no array at {0:?}")]
    NoItems(String),
}

/// A record ready for Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Bytes>,
    pub payload: Bytes,
}

/// All records of one answer, in its order.
pub fn records(mapping: &Mapping, answer: &[u8]) -> Result<Vec<Record>, MappingError> {
    let answer: Value = serde_json::from_slice(answer)?;
    if mapping.items.is_empty() {
        return Ok(vec![record(mapping, &answer)?]);
    }
    let items = answer.pointer(&mapping.items).and_then(Value::as_array);
    let items = items.ok_or_else(|| MappingError::NoItems(mapping.items.clone()))?;
    items.iter().map(|item| record(mapping, item)).collect()
}

fn record(mapping: &Mapping, item: &Value) -> Result<Record, MappingError> {
    let mapped = if mapping.fields.is_empty() {
        item.clone()
    } else {
        let fields = mapping.fields.iter().filter_map(|(name, path)| Some((name.clone(), field(path, item)?)));
        Value::Object(fields.collect::<Map<_, _>>())
    };
    let key = mapping.key.as_ref().and_then(|key| mapped.get(key)).map(|value| Bytes::from(text(value)));
    Ok(Record { key, payload: serde_json::to_vec(&mapped)?.into() })
}

fn field(path: &str, item: &Value) -> Option<Value> {
    if path.starts_with('/') {
        return item.pointer(path).filter(|value| !value.is_null()).cloned();
    }
    let mut result = String::new();
    let mut found = false;
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (pointer, tail) = after.split_once('}')?;
        result.push_str(before);
        if let Some(value) = item.pointer(pointer).filter(|value| !value.is_null()) {
            result.push_str(&text(value));
            found = true;
        }
        rest = tail;
    }
    result.push_str(rest);
    found.then_some(Value::String(result))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(fields: &[(&str, &str)]) -> Mapping {
        Mapping {
            items: "/results".into(),
            key: Some("id".into()),
            fields: fields.iter().map(|(name, path)| ((*name).into(), (*path).into())).collect(),
        }
    }

    #[test]
    fn pointers_keep_types_templates_make_text_and_absent_fields_are_left_out() {
        let mapping =
            mapping(&[("id", "/login/uuid"), ("age", "/dob/age"), ("address", "{/street/number} {/street/name}"), ("nat", "/nat")]);
        let answer = r#"{"results":[{"login":{"uuid":"u1"},"dob":{"age":30},"street":{"number":7,"name":"شارع النيل"}},{"login":{"uuid":"u2"}}]}"#;
        let records = records(&mapping, answer.as_bytes()).expect("maps");
        assert_eq!(records[0].key.as_deref(), Some(b"u1".as_slice()));
        let first: Value = serde_json::from_slice(&records[0].payload).expect("JSON");
        assert_eq!(first, serde_json::json!({"id": "u1", "age": 30, "address": "7 شارع النيل"}));
        let second: Value = serde_json::from_slice(&records[1].payload).expect("JSON");
        assert_eq!(second, serde_json::json!({"id": "u2"}));
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error() {
        assert!(matches!(records(&mapping(&[]), b"{\"error\":\"later\"}"), Err(MappingError::NoItems(_))));
        assert!(matches!(records(&mapping(&[]), b"<html>"), Err(MappingError::Json(_))));
    }
}
