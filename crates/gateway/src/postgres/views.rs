//! The engine's views, asked for in its own words: its catalog has no table provider for them.
use std::{fmt, sync::Arc};

use datafusion::{
    arrow::{
        datatypes::{DataType, Field, Fields, Schema, SchemaRef},
        record_batch::RecordBatch,
        util::display::{ArrayFormatter, FormatOptions},
    },
    common::TableReference,
    sql::sqlparser::{
        dialect::GenericDialect,
        keywords::Keyword,
        tokenizer::{Token, Tokenizer},
    },
};
use futures::TryStreamExt;

use crate::{
    auth::{Principal, Role},
    engine::Engine,
    error::EngineError,
};

#[derive(Clone)]
pub struct Views {
    engine: Arc<dyn Engine>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewName {
    pub schema: String,
    pub name: String,
}

impl fmt::Display for ViewName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&TableReference::partial(self.schema.as_str(), self.name.as_str()).to_quoted_string())
    }
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Views")
    }
}

impl Views {
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }

    pub async fn names(&self) -> Result<Vec<ViewName>, EngineError> {
        let rows = self.ask("SHOW VIEWS").await?;
        let name = |row: Vec<String>| {
            let mut columns = row.into_iter();
            Some(ViewName { schema: columns.next()?, name: columns.next()? })
        };
        Ok(rows.into_iter().filter_map(name).collect())
    }

    pub async fn find(&self, schema: &str, name: &str) -> Result<Option<ViewName>, EngineError> {
        Ok(self.names().await?.into_iter().find(|view| view.schema == schema && view.name == name))
    }

    /// The query behind a view, as it was written.
    pub async fn definition(&self, view: &ViewName) -> Result<String, EngineError> {
        let lines = self.ask(&format!("SHOW CREATE VIEW {view}")).await?;
        Ok(query_of(&lines.concat().join("\n")))
    }

    /// A view over a source cannot always be read, but always described. Types are text where the engine has no name for them.
    pub async fn columns(&self, view: &ViewName) -> Result<SchemaRef, EngineError> {
        let mut fields = Vec::new();
        for row in self.ask(&format!("DESCRIBE {view}")).await? {
            let [name, data_type, nullable, ..] = row.as_slice() else { continue };
            fields.push(Field::new(name, self.data_type(data_type).await, nullable == "true"));
        }
        Ok(Arc::new(Schema::new(Fields::from(fields))))
    }

    async fn data_type(&self, name: &str) -> DataType {
        let described = self.engine.describe(&asker(), &format!("SELECT CAST(NULL AS {name})")).await;
        let first = described.ok().and_then(|schema| schema.fields().first().map(|field| field.data_type().clone()));
        first.unwrap_or(DataType::Utf8)
    }

    /// All rows of an answer, as text.
    async fn ask(&self, sql: &str) -> Result<Vec<Vec<String>>, EngineError> {
        let mut rows = Vec::new();
        for answer in self.engine.execute(&asker(), sql).await? {
            let batches: Vec<RecordBatch> = answer.batches.try_collect().await?;
            for batch in &batches {
                rows.extend(texts(batch)?);
            }
        }
        Ok(rows)
    }
}

/// Whoever is logged in may read; the catalog asks for all of them.
fn asker() -> Principal {
    Principal { name: "PostgreSQL door".to_owned(), role: Role::Reader }
}

fn texts(batch: &RecordBatch) -> Result<Vec<Vec<String>>, EngineError> {
    let options = FormatOptions::default();
    let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let row = |row: usize| columns.iter().map(|column| column.value(row).try_to_string()).collect::<Result<Vec<_>, _>>();
    Ok((0..batch.num_rows()).map(row).collect::<Result<Vec<_>, _>>()?)
}

/// What follows the first AS of a CREATE VIEW, outside of strings and names.
fn query_of(create: &str) -> String {
    let tokens = Tokenizer::new(&GenericDialect {}, create).with_unescape(false).tokenize().unwrap_or_default();
    let found = tokens.iter().position(|token| matches!(token, Token::Word(word) if word.keyword == Keyword::AS));
    match found {
        Some(at) => tokens[at + 1..].iter().map(ToString::to_string).collect::<String>().trim().to_owned(),
        None => create.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_kept_as_it_was_written() {
        for (create, expected) in [
            ("CREATE VIEW big AS SELECT id FROM t", "SELECT id FROM t"),
            ("create view \"x as y\" (a)\nas\n  SELECT 'O''Hara' AS a -- b\nFROM t", "SELECT 'O''Hara' AS a -- b\nFROM t"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(query_of(create), expected);
        }
    }

    #[test]
    fn names_are_quoted_where_they_must_be() {
        let name = |schema: &str, name: &str| ViewName { schema: schema.to_owned(), name: name.to_owned() }.to_string();
        assert_eq!(name("public", "big"), "public.big");
        assert_eq!(name("public", "MixedCase"), "public.\"MixedCase\"");
    }
}
