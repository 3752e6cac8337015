//! Secrets never leave: not in `SHOW CREATE`, not in logs, not in errors. References such as `${env:PASSWORD}` are no secrets and stay.
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::{
    location::{LineIndex, Location},
    parser::tokenise,
};

/// What stands in a secret's place.
pub const HIDDEN: &str = "******";

/// Parts of option keys whose values are secret.
const SECRET_PARTS: [&str; 8] = ["password", "passwd", "secret", "token", "credential", "private", "sasl.jaas", "ssl.key.pem"];
/// Secret-sounding keys that are settings.
const NOT_SECRET: [&str; 3] = ["sasl.mechanism", "sasl.mechanisms", "sasl.kerberos.service.name"];

/// Whether the value of option `key` must not be shown.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    if NOT_SECRET.iter().any(|plain| key.ends_with(plain)) {
        return false;
    }
    key.contains("sasl.") || SECRET_PARTS.iter().any(|part| key.contains(part))
}

/// `${env:NAME}` or `${file:PATH}`, and nothing else around it.
pub fn is_reference(value: &str) -> bool {
    let inner = value.trim().strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    inner.is_some_and(|inner| !inner.contains(['{', '}', '$']) && (inner.starts_with("env:") || inner.starts_with("file:")))
}

/// The value to show for an option.
pub fn value<'a>(key: &str, value: &'a str) -> &'a str {
    if is_secret(key) && !is_reference(value) { HIDDEN } else { value }
}

/// `sql` with the secret values of `'key' = 'value'` pairs hidden. Text that cannot be read is not shown at all.
pub fn sql(sql: &str) -> String {
    let Ok(tokens) = tokenise(sql) else {
        return format!("(a statement of {} bytes that cannot be read)", sql.len());
    };
    let index = LineIndex::new(sql);
    let tokens: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let mut shown = String::with_capacity(sql.len());
    let mut copied = 0;
    for pair in tokens.windows(3) {
        let [key, equals, text] = pair else { continue };
        let (Some(key), Token::Eq, Some(text_value)) = (key_of(&key.token), &equals.token, string_of(&text.token)) else {
            continue;
        };
        if !is_secret(key) || is_reference(text_value) {
            continue;
        }
        let start = index.offset(Location::from(text.span.start));
        let end = index.offset(Location::from(text.span.end));
        shown.push_str(&sql[copied..start]);
        shown.push_str(&format!("'{HIDDEN}'"));
        copied = end;
    }
    shown.push_str(&sql[copied..]);
    shown
}

fn string_of(token: &Token) -> Option<&str> {
    match token {
        Token::SingleQuotedString(text)
        | Token::DoubleQuotedString(text)
        | Token::NationalStringLiteral(text)
        | Token::EscapedStringLiteral(text)
        | Token::UnicodeStringLiteral(text)
        | Token::SingleQuotedByteStringLiteral(text)
        | Token::SingleQuotedRawStringLiteral(text)
        | Token::HexStringLiteral(text) => Some(text),
        Token::DollarQuotedString(text) => Some(&text.value),
        Token::Word(word) if word.quote_style.is_some() => Some(&word.value),
        _ => None,
    }
}

/// Also `SET password = 'x'`.
fn key_of(token: &Token) -> Option<&str> {
    match token {
        Token::Word(word) => Some(&word.value),
        other => string_of(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_settings_are_not() {
        for secret in [
            "password",
            "properties.sasl.password",
            "properties.sasl.jaas.config",
            "properties.ssl.keystore.password",
            "api-token",
            "CLIENT_SECRET",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for plain in ["topic", "properties.sasl.mechanism", "properties.security.protocol", "sink.retries"] {
            assert!(!is_secret(plain), "{plain}");
        }
        assert_eq!(value("password", "x"), HIDDEN);
        assert_eq!(value("password", "${env:X}"), "${env:X}");
        assert_eq!(value("password", "${env:X}hunter2"), HIDDEN);
        assert_eq!(value("password", "${env:X} ${plain}"), HIDDEN);
    }

    #[test]
    fn sql_keeps_everything_but_the_secret() {
        let text = "CREATE TABLE t (é STRING) WITH ('topic' = 'a''b', -- note\n 'properties.sasl.password'='it''s é', 'password' = '${env:P}')";
        assert_eq!(
            sql(text),
            "CREATE TABLE t (é STRING) WITH ('topic' = 'a''b', -- note\n 'properties.sasl.password'='******', 'password' = '${env:P}')"
        );
        assert_eq!(sql("SET password = 'x'"), "SET password = '******'");
        assert!(!sql("WITH ('password' = 'open").contains("open"));
    }
}
