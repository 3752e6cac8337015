//! JSON with its numbers as they are written: what a feed says of a price or a position reaches the topic with all its digits, whatever type its column has.
use std::{borrow::Cow, collections::BTreeMap};

use serde::{
    Serialize, Serializer,
    de::{self, Error as _},
};
use serde_json::{Error, value::RawValue};

/// As deep as serde_json goes.
const MAX_DEPTH: usize = 128;

#[derive(Clone, Debug)]
pub enum Json<'a> {
    Object(BTreeMap<Cow<'a, str>, Json<'a>>),
    Array(Vec<Json<'a>>),
    Text(String),
    Null,
    /// A number, or `true` or `false`.
    Plain(&'a RawValue),
}

impl<'a> Json<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::of(serde_json::from_slice(bytes)?, MAX_DEPTH)
    }

    fn of(raw: &'a RawValue, depth: usize) -> Result<Self, Error> {
        let depth = depth.checked_sub(1).ok_or_else(|| Error::custom("recursion limit exceeded"))?;
        Ok(match raw.get().as_bytes().first() {
            Some(b'{') => {
                let fields: BTreeMap<String, &RawValue> = inner(raw)?;
                let fields = fields.into_iter().map(|(name, value)| Ok((Cow::Owned(name), Self::of(value, depth)?)));
                Self::Object(fields.collect::<Result<_, Error>>()?)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = inner(raw)?;
                Self::Array(items.into_iter().map(|item| Self::of(item, depth)).collect::<Result<_, _>>()?)
            }
            Some(b'"') => Self::Text(inner(raw)?),
            Some(b'n') => Self::Null,
            _ => Self::Plain(raw),
        })
    }

    /// What is at a pointer (RFC 6901) and not null.
    pub fn at(&self, pointer: &str) -> Option<&Self> {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return None;
        }
        let mut here = self;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            here = match here {
                Self::Object(fields) => fields.get(token.as_str())?,
                Self::Array(items) => items.get(index(&token)?)?,
                Self::Text(_) | Self::Null | Self::Plain(_) => return None,
            };
        }
        (!matches!(here, Self::Null)).then_some(here)
    }

    /// A text without its quotes; anything else as JSON.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            other => other.to_string().into(),
        }
    }
}

fn inner<'a, T: de::Deserialize<'a>>(raw: &'a RawValue) -> Result<T, Error> {
    serde_json::from_str(raw.get())
}

/// Without a sign or zeros before it.
fn index(token: &str) -> Option<usize> {
    let is_canonical = token == "0" || !token.starts_with(['0', '+']);
    token.parse().ok().filter(|_| is_canonical)
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Object(fields) => fields.serialize(serializer),
            Self::Array(items) => items.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
            Self::Null => serializer.serialize_unit(),
            Self::Plain(raw) => raw.serialize(serializer),
        }
    }
}

/// Without spaces.
impl std::fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| std::fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_spaces_is_kept_as_it_is_written() {
        for (text, kept) in [
            (r#"{ "price" : 0.12345678901234567890, "e": 1E+400 }"#, r#"{"e":1E+400,"price":0.12345678901234567890}"#),
            ("[51.24817837550540, -0.0, -0, 1.0, true, false, null]", "[51.24817837550540,-0.0,-0,1.0,true,false,null]"),
            ("[123456789012345678901234567890]", "[123456789012345678901234567890]"),
            (r#" {"b": [ {} , [] ], "a": "\u00e9\n" } "#, r#"{"a":"é\n","b":[{},[]]}"#),
            (r#"{"twice": 1, "twice": 2}"#, r#"{"twice":2}"#),
            ("7", "7"),
        ] {
            assert_eq!(Json::read(text.as_bytes()).expect("JSON").to_string(), kept);
        }
    }

    #[test]
    fn pointers_find_what_serde_json_finds() {
        let text = r#"{"a/b": {"~": [10, {"": 1}]}, "": 2, "n": null, "t": "x"}"#;
        let (ours, theirs) =
            (Json::read(text.as_bytes()).expect("JSON"), serde_json::from_str::<serde_json::Value>(text).expect("JSON"));
        let pointers =
            ["", "/", "/a~1b/~0/0", "/a~1b/~0/1/", "/a~1b/~0/00", "/a~1b/~0/+0", "/a~1b/~0/2", "/t", "/t/0", "/n", "/none", "t"];
        for pointer in pointers {
            let wanted = theirs.pointer(pointer).filter(|value| !value.is_null());
            let same = |json: &Json<'_>| serde_json::from_str::<serde_json::Value>(&json.to_string()).expect("JSON");
            assert_eq!(ours.at(pointer).map(same).as_ref(), wanted, "{pointer}");
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let deep = "[".repeat(129) + &"]".repeat(129);
        for text in ["", "<html>", "{\"a\":1", "{\"a\":01}", "[1,]", "\"\\ud800\"", "{} {}", deep.as_str()] {
            assert!(Json::read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Json::read(b"\"\xff\"").is_err());
        assert!(Json::read(("[".repeat(128) + &"]".repeat(128)).as_bytes()).is_ok());
    }
}
