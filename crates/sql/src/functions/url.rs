//! `parse_url(url, part [, key])`, as Flink and Spark have it: nothing is decoded. `url_encode(text)` and `url_decode(text)` are of values of forms, as in Flink.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, AsArray, StringArray},
        datatypes::DataType,
    },
    common::{Result, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::{hex::digits_of, text::is_text};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ParseUrl {
    signature: Signature,
}

impl ParseUrl {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

struct Url<'t> {
    protocol: &'t str,
    authority: Option<&'t str>,
    path: &'t str,
    /// The path and the query.
    file: &'t str,
    query: Option<&'t str>,
    reference: Option<&'t str>,
}

impl<'t> Url<'t> {
    /// `None` for what does not begin with a protocol.
    fn of(text: &'t str) -> Option<Self> {
        let (protocol, rest) = text.split_once(':')?;
        let is_plain = |character: char| character.is_ascii_alphanumeric() || "+-.".contains(character);
        if !protocol.starts_with(|first: char| first.is_ascii_alphabetic()) || !protocol.chars().all(is_plain) {
            return None;
        }
        let (rest, reference) = cut(rest, '#');
        let (authority, file) = match rest.strip_prefix("//") {
            Some(rest) => {
                let (authority, file) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                (Some(authority).filter(|authority| !authority.is_empty()), file)
            }
            None => (None, rest),
        };
        let (path, query) = cut(file, '?');
        Some(Self { protocol, authority, path, file, query, reference })
    }

    fn host(&self) -> Option<&'t str> {
        let authority = self.authority?;
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        if place.starts_with('[') {
            return place.split_inclusive(']').next();
        }
        Some(place.split_once(':').map_or(place, |(host, _)| host))
    }

    fn part(&self, name: &str) -> Option<&'t str> {
        match name {
            "PROTOCOL" => Some(self.protocol),
            "AUTHORITY" => self.authority,
            "USERINFO" => self.authority?.rsplit_once('@').map(|(user, _)| user),
            "HOST" => self.host(),
            "PATH" => Some(self.path),
            "FILE" => Some(self.file),
            "QUERY" => self.query,
            "REF" => self.reference,
            _ => None,
        }
    }
}

/// What comes before a character, and what comes after it.
fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// A key's first value in a query.
fn of_key<'t>(query: &'t str, key: &str) -> Option<&'t str> {
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

fn parsed<'t>(url: &'t str, part: &str, key: Option<&str>) -> Option<&'t str> {
    let found = Url::of(url)?.part(part)?;
    match key {
        Some(key) if part == "QUERY" => of_key(found, key),
        Some(_) => None,
        None => Some(found),
    }
}

impl ScalarUDFImpl for ParseUrl {
    fn name(&self) -> &str {
        "parse_url"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        if !(2..=3).contains(&arguments.len()) || !arguments.iter().all(is_text) {
            return plan_err!(
                "parse_url takes a URL and one of 'PROTOCOL', 'AUTHORITY', 'USERINFO', 'HOST', 'PATH', 'FILE', 'QUERY' and 'REF', and for 'QUERY' a key"
            );
        }
        Ok(vec![DataType::Utf8; arguments.len()])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let columns = arguments.args.iter().map(|value| value.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let columns: Vec<&StringArray> = columns.iter().map(|column| column.as_string::<i32>()).collect();
        let of_row = |row: usize| {
            if columns.iter().any(|column| column.is_null(row)) {
                return None;
            }
            parsed(columns[0].value(row), columns[1].value(row), columns.get(2).map(|keys| keys.value(row)))
        };
        Ok(ColumnarValue::Array(Arc::new((0..rows).map(of_row).collect::<StringArray>())))
    }
}

/// `url_encode(text)`, or `url_decode(text)`: the text, NULL where a `%` is not followed by two digits.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct UrlCode {
    decodes: bool,
    signature: Signature,
}

impl UrlCode {
    pub fn new(decodes: bool) -> Self {
        Self { decodes, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn encoded(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => written.push('+'),
            plain if plain.is_ascii_alphanumeric() || b".-*_".contains(&plain) => written.push(char::from(plain)),
            other => {
                written.push('%');
                written.push_str(&digits_of(&[other]));
            }
        }
    }
    written
}

fn decoded(text: &str) -> Option<String> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match *first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let [high, low, after @ ..] = rest else { return None };
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = after;
            }
            other => bytes.push(other),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

impl ScalarUDFImpl for UrlCode {
    fn name(&self) -> &str {
        if self.decodes { "url_decode" } else { "url_encode" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [text] if is_text(text) => Ok(vec![DataType::Utf8]),
            _ => plan_err!("{} takes a text", self.name()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = arguments.args[0].to_array(arguments.number_rows)?;
        let of_text = |text: &str| if self.decodes { decoded(text) } else { Some(encoded(text)) };
        let codes: StringArray = texts.as_string::<i32>().iter().map(|text| text.and_then(of_text)).collect();
        Ok(ColumnarValue::Array(Arc::new(codes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_parts() {
        let url = "https://me:pw@facebook.com:8080/path1/p.php?k1=v1&k2=v2#Ref1";
        for (part, expected) in [
            ("PROTOCOL", Some("https")),
            ("AUTHORITY", Some("me:pw@facebook.com:8080")),
            ("USERINFO", Some("me:pw")),
            ("HOST", Some("facebook.com")),
            ("PATH", Some("/path1/p.php")),
            ("FILE", Some("/path1/p.php?k1=v1&k2=v2")),
            ("QUERY", Some("k1=v1&k2=v2")),
            ("REF", Some("Ref1")),
            ("PORT", None),
        ] {
            assert_eq!(parsed(url, part, None), expected, "{part}");
        }
        assert_eq!(parsed(url, "QUERY", Some("k2")), Some("v2"));
        assert_eq!(parsed(url, "QUERY", Some("k")), None);
        assert_eq!(parsed(url, "HOST", Some("k1")), None);
        assert_eq!(parsed("http://[::1]:80?a=b", "HOST", None), Some("[::1]"));
        assert_eq!(parsed("http://[::1]:80?a=b", "PATH", None), Some(""));
        assert_eq!(parsed("mailto:me@x.org", "HOST", None), None);
        assert_eq!(parsed("no url", "PATH", None), None);
    }

    #[test]
    fn values_of_forms_are_encoded_and_back() {
        let (text, code) = ("a b&ü=*~", "a+b%26%C3%BC%3D*%7E");
        assert_eq!(encoded(text), code);
        assert_eq!(decoded(code).as_deref(), Some(text));
        assert_eq!(decoded("%2f%2F").as_deref(), Some("//"));
        for broken in ["%", "%4", "a%zz"] {
            assert_eq!(decoded(broken), None, "{broken}");
        }
    }
}
