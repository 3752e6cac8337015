//! Names of tables: case-insensitive unless quoted, as DataFusion has it, in the schema `public` unless qualified.
use std::fmt;

use datafusion::{
    common::TableReference,
    sql::sqlparser::{
        ast::Ident,
        keywords::{Keyword, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER, RESERVED_FOR_TABLE_ALIAS},
        tokenizer::{Token, Word},
    },
};
use serde::{Deserialize, Serialize};

/// The catalog (PostgreSQL calls it the database) that holds every schema.
pub const CATALOG: &str = "polybolos";
/// The schema of tables declared without one.
pub const DEFAULT_SCHEMA: &str = "public";
/// The schema of the system tables.
pub const SYSTEM_SCHEMA: &str = "polybolos";
/// Schemas in which nobody can declare tables.
pub const RESERVED_SCHEMAS: [&str; 3] = [SYSTEM_SCHEMA, "information_schema", "pg_catalog"];

/// Before the schema of a table that is looked up (`FOR SYSTEM_TIME AS OF`), in plans: `lookup:public`.
pub const LOOKUP_PREFIX: &str = "lookup:";

/// Before the schema of a table that a query gives options of its own (`t /*+ OPTIONS(…) */`), in plans, with these as JSON between.
pub(crate) const OPTIONS_PREFIX: &str = "options:";

/// `schema.name`, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelationName {
    pub schema: String,
    pub name: String,
}

impl RelationName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// A name in the schema `public`.
    pub fn public(name: impl Into<String>) -> Self {
        Self::new(DEFAULT_SCHEMA, name)
    }

    /// The declared table that a scan of this name looks up; `None` for a scan that reads.
    pub fn looked_up(&self) -> Option<Self> {
        self.schema.strip_prefix(LOOKUP_PREFIX).map(|schema| Self::new(schema, &self.name))
    }

    /// What this table is called in plans of a query that gives it options of its own.
    pub(crate) fn with_options(&self, options: &[(String, String)]) -> Self {
        Self::new(format!("{OPTIONS_PREFIX}{}{}", serde_json::json!(options), self.schema), &self.name)
    }

    /// The declared table that a query gives options of its own, and these; `None` for any other name.
    pub fn without_options(&self) -> Option<(Self, Vec<(String, String)>)> {
        let rest = self.schema.strip_prefix(OPTIONS_PREFIX)?;
        let mut read = serde_json::Deserializer::from_str(rest).into_iter::<Vec<(String, String)>>();
        let options = read.next()?.ok()?;
        Some((Self::new(rest.get(read.byte_offset()..)?, &self.name), options))
    }

    /// As it was declared.
    pub(crate) fn declared(&self) -> Self {
        self.without_options().map_or_else(|| self.clone(), |(declared, _)| declared)
    }

    pub fn is_public(&self) -> bool {
        self.schema == DEFAULT_SCHEMA
    }
}

/// A name in the schema `public`.
impl From<&str> for RelationName {
    fn from(name: &str) -> Self {
        Self::public(name)
    }
}

/// As one writes it in SQL: `users`, `spark_streams.created_users`, `"Odd Name"`.
impl fmt::Display for RelationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((declared, options)) = self.without_options() {
            let text = |words: &str| format!("'{}'", words.replace('\'', "''"));
            let pairs: Vec<String> = options.iter().map(|(key, value)| format!("{} = {}", text(key), text(value))).collect();
            return write!(f, "{declared} /*+ OPTIONS({}) */", pairs.join(", "));
        }
        if !self.is_public() {
            write!(f, "{}.", quoted(&self.schema))?;
        }
        f.write_str(&quoted(&self.name))
    }
}

/// Resolves as DataFusion does; the catalog part is left out.
impl From<&TableReference> for RelationName {
    fn from(reference: &TableReference) -> Self {
        Self::new(reference.schema().unwrap_or(DEFAULT_SCHEMA), reference.table())
    }
}

/// `name` as an identifier in SQL, in double quotes where it needs them.
pub fn quoted(name: &str) -> String {
    if is_plain(name) { name.to_owned() } else { Ident::with_quote('"', name).to_string() }
}

fn is_plain(name: &str) -> bool {
    let mut characters = name.chars();
    let starts = characters.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_');
    starts && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') && !is_reserved(name)
}

/// Words that a query could not use as a name without quotes.
fn is_reserved(name: &str) -> bool {
    let Token::Word(Word { keyword, .. }) = Token::make_word(name, None) else { return false };
    keyword != Keyword::NoKeyword
        && (RESERVED_FOR_IDENTIFIER.contains(&keyword)
            || RESERVED_FOR_COLUMN_ALIAS.contains(&keyword)
            || RESERVED_FOR_TABLE_ALIAS.contains(&keyword))
}

/// An identifier as the catalog stores it: lower case unless quoted.
pub(crate) fn normalise(word: &Word) -> String {
    if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_needed() {
        assert_eq!(RelationName::public("users").to_string(), "users");
        assert_eq!(RelationName::new("spark_streams", "created_users").to_string(), "spark_streams.created_users");
        assert_eq!(RelationName::public("Odd \"Name\"").to_string(), "\"Odd \"\"Name\"\"\"");
        let options = [("scan.startup.mode".to_owned(), "it's".to_owned())];
        let given = RelationName::new("a:b", "t").with_options(&options);
        assert_eq!(given.to_string(), "\"a:b\".t /*+ OPTIONS('scan.startup.mode' = 'it''s') */");
        assert_eq!(given.without_options(), Some((RelationName::new("a:b", "t"), options.to_vec())));
        assert_eq!(quoted("select"), "\"select\"");
        assert_eq!(quoted("value"), "value");
        assert_eq!(quoted("2nd"), "\"2nd\"");
    }
}
