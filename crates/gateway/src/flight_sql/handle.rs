//! Handles of statements: the text, and for a prepared statement with parameters also the text with its last values. Values can be bound
//! again, because the first text stays.
use polybolos_tables::statement::MAX_STATEMENT_BYTES;
use prost::bytes::Bytes;
use tonic::Status;

use crate::error::EngineError;

/// Between both texts; no statement contains it.
const SEPARATOR: char = '\0';

pub struct Handle<'a> {
    /// As it was prepared.
    pub template: &'a str,
    /// As it is to be run: the template when it has no parameters.
    pub text: &'a str,
}

impl<'a> Handle<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Status> {
        let text = std::str::from_utf8(bytes).map_err(|_| Status::invalid_argument("the statement is not UTF-8"))?;
        let (template, text) = text.split_once(SEPARATOR).unwrap_or((text, text));
        if text.contains(SEPARATOR) {
            return Err(Status::invalid_argument("the statement contains a zero character"));
        }
        if template.len() > MAX_STATEMENT_BYTES || text.len() > MAX_STATEMENT_BYTES {
            return Err(EngineError::too_long().into());
        }
        Ok(Self { template, text })
    }
}

pub fn bound(template: &str, text: &str) -> Bytes {
    format!("{template}{SEPARATOR}{text}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_keeps_its_template_through_bindings() {
        let first = Handle::decode(b"SELECT $1").unwrap();
        assert_eq!((first.template, first.text), ("SELECT $1", "SELECT $1"));
        let bytes = bound(first.template, "SELECT 5");
        let second = Handle::decode(&bytes).unwrap();
        assert_eq!((second.template, second.text), ("SELECT $1", "SELECT 5"));
        assert!(Handle::decode(b"a\0b\0c").is_err());
        assert!(Handle::decode(&[0xff]).is_err());
        let long = " ".repeat(MAX_STATEMENT_BYTES + 1);
        let refused = Handle::decode(long.as_bytes()).err().unwrap();
        assert!(refused.message().starts_with("the statement is longer than 256 KiB; "), "{refused}");
    }
}
