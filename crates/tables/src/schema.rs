//! Names, columns and primary keys of a table. Column types are Arrow types, in the mapping that `docs/reference/types.md` lists.
use std::{fmt, str::FromStr, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

/// `keyspace.table`, as Cassandra spells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    pub keyspace: String,
    pub table: String,
}

impl TableName {
    pub fn new(keyspace: impl Into<String>, table: impl Into<String>) -> Self {
        Self { keyspace: keyspace.into(), table: table.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.keyspace, self.table)
    }
}

impl FromStr for TableName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('.') {
            Some((keyspace, table)) if !keyspace.is_empty() && !table.is_empty() => Ok(Self::new(keyspace, table)),
            _ => Err(format!("{text:?} is not a table name; write keyspace.table")),
        }
    }
}

/// One column. `native_type` is the store's own name of the type (`text`, `uuid`, …) where the table exists already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    pub native_type: Option<String>,
}

impl Column {
    pub fn new(name: impl Into<String>, data_type: DataType) -> Self {
        Self { name: name.into(), data_type, native_type: None }
    }
}

/// A table: its columns (order as declared) and primary key. Every key column is one of the columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSchema {
    pub name: TableName,
    pub columns: Vec<Column>,
    /// Names of the columns that choose the partition; never empty.
    pub partition_key: Vec<String>,
    /// Names of the clustering columns, in order; ascending.
    pub clustering_key: Vec<String>,
}

impl TableSchema {
    /// All primary-key columns, partition key first.
    pub fn primary_key(&self) -> impl Iterator<Item = &str> {
        self.partition_key.iter().chain(&self.clustering_key).map(String::as_str)
    }

    pub fn is_key(&self, column: &str) -> bool {
        self.primary_key().any(|key| key == column)
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The table as an Arrow schema: key columns are not nullable, others are.
    pub fn arrow(&self) -> SchemaRef {
        let fields: Vec<Field> =
            self.columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), !self.is_key(&c.name))).collect();
        Arc::new(Schema::new(fields))
    }
}
