//! An answer's JSON becomes records: items picked by a pointer, fields by pointers or templates. An absent or null value is left out, so
//! that older answers which lack a field give NULL. An item that can make no record is skipped, and told.
use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use thiserror::Error;

use crate::{config::Mapping, json::Json};

#[derive(Debug, Error)]
pub enum MappingError {
    #[error("the answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the answer has no array at {0:?}")]
    NoItems(String),
}

/// Why an item makes no record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Unusable {
    #[error("the item is no object, and has none of the fields")]
    NotAnObject,
    #[error("{0:?}, the feed's key, is absent or null")]
    NoKey(String),
}

/// What became of one answer.
#[derive(Debug, Default)]
pub struct Mapped {
    /// In the answer's order.
    pub records: Vec<Record>,
    /// How many items made none.
    pub skipped: BTreeMap<Unusable, u64>,
}

/// A record ready for Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Bytes>,
    pub payload: Bytes,
}

/// All records of one answer.
pub fn records(mapping: &Mapping, answer: &[u8]) -> Result<Mapped, MappingError> {
    let answer = Json::read(answer)?;
    let items = if mapping.items.is_empty() {
        std::slice::from_ref(&answer)
    } else {
        match answer.at(&mapping.items) {
            Some(Json::Array(items)) => items,
            _ => return Err(MappingError::NoItems(mapping.items.clone())),
        }
    };
    let mut mapped = Mapped::default();
    for item in items {
        match record(mapping, item) {
            Ok(record) => mapped.records.push(record),
            Err(reason) => *mapped.skipped.entry(reason).or_default() += 1,
        }
    }
    Ok(mapped)
}

fn record(mapping: &Mapping, item: &Json<'_>) -> Result<Record, Unusable> {
    let mapped = if mapping.fields.is_empty() {
        Cow::Borrowed(item)
    } else {
        let fields = mapping.fields.iter().filter_map(|(name, path)| Some((name.into(), field(path, item)?)));
        let fields: BTreeMap<_, _> = fields.collect();
        // An array has fields, as `/0`; an object without any is an older one.
        if fields.is_empty() && !matches!(item, Json::Object(_)) {
            return Err(Unusable::NotAnObject);
        }
        Cow::Owned(Json::Object(fields))
    };
    let payload = mapped.to_string().into();
    let Some(name) = &mapping.key else { return Ok(Record { key: None, payload }) };
    let key = match &*mapped {
        Json::Object(fields) => fields.get(name.as_str()).filter(|value| !matches!(value, Json::Null)),
        _ => None,
    };
    let key = key.ok_or_else(|| Unusable::NoKey(name.clone()))?.text().into_owned();
    Ok(Record { key: Some(key.into()), payload })
}

fn field<'a>(path: &str, item: &Json<'a>) -> Option<Json<'a>> {
    if path.starts_with('/') {
        return item.at(path).cloned();
    }
    let mut result = String::new();
    let mut found = false;
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (pointer, tail) = after.split_once('}')?;
        result.push_str(before);
        if let Some(value) = item.at(pointer) {
            result.push_str(&value.text());
            found = true;
        }
        rest = tail;
    }
    result.push_str(rest);
    found.then_some(Json::Text(result))
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
        let Mapped { records, skipped } = records(&mapping, answer.as_bytes()).expect("maps");
        assert!(skipped.is_empty());
        assert_eq!(records[0].key.as_deref(), Some(b"u1".as_slice()));
        let first: serde_json::Value = serde_json::from_slice(&records[0].payload).expect("JSON");
        assert_eq!(first, serde_json::json!({"id": "u1", "age": 30, "address": "7 شارع النيل"}));
        let second: serde_json::Value = serde_json::from_slice(&records[1].payload).expect("JSON");
        assert_eq!(second, serde_json::json!({"id": "u2"}));
    }

    /// The payloads of records, and what was skipped.
    fn outcome(mapping: &Mapping, answer: &str) -> (Vec<String>, Vec<(Unusable, u64)>) {
        let Mapped { records, skipped } = records(mapping, answer.as_bytes()).expect("maps");
        let payloads = records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned());
        (payloads.collect(), skipped.into_iter().collect())
    }

    #[test]
    fn items_that_are_no_objects_or_have_no_key_are_skipped() {
        let no_key = Unusable::NoKey("id".into());
        let answer = r#"{"results":["str",null,7,{"id":null,"n":1},{"n":2},{"id":"a","n":3}]}"#;
        let mut mapped = mapping(&[("id", "/id"), ("n", "/n")]);
        let kept = vec![r#"{"id":"a","n":3}"#.to_owned()];
        assert_eq!(outcome(&mapped, answer), (kept.clone(), vec![(Unusable::NotAnObject, 3), (no_key.clone(), 2)]));
        // Without fields the item is the record, which has to have the key all the same.
        assert_eq!(outcome(&mapping(&[]), answer), (kept, vec![(no_key, 5)]));
        // Without a key nothing has to be in an object.
        mapped.key = None;
        let (payloads, skipped) = outcome(&mapped, r#"{"results":[null,{},{"id":null,"n":1}]}"#);
        assert_eq!((payloads, skipped), (vec!["{}".to_owned(), r#"{"n":1}"#.to_owned()], vec![(Unusable::NotAnObject, 1)]));
        let all = Mapping { key: None, ..mapping(&[]) };
        assert_eq!(outcome(&all, r#"{"results":["str",null]}"#), (vec![r#""str""#.to_owned(), "null".to_owned()], vec![]));
    }

    #[test]
    fn an_array_has_fields_by_its_indices() {
        let rows = mapping(&[("id", "/0"), ("n", "/1")]);
        let (payloads, skipped) = outcome(&rows, r#"{"results":[["a",1],[]]}"#);
        assert_eq!((payloads, skipped), (vec![r#"{"id":"a","n":1}"#.to_owned()], vec![(Unusable::NotAnObject, 1)]));
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error() {
        assert!(matches!(records(&mapping(&[]), b"{\"error\":\"later\"}"), Err(MappingError::NoItems(_))));
        assert!(matches!(records(&mapping(&[]), b"<html>"), Err(MappingError::Json(_))));
    }
}
