//! Tables whose rows are the last records of their keys: topics of one row per key, and changes of a database's table. What their connectors give is
//! records, of which the planner makes rows.
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::{ColumnDefinition, ColumnKind, Connector, TableDefinition};
use crate::options::kafka::{DebeziumOptions, Format};

/// What is read of a record beside the table's columns.
pub const RECORD_PARTITION: &str = "record:partition";
pub const RECORD_OFFSET: &str = "record:offset";
pub const RECORD_IS_TOMBSTONE: &str = "record:is_tombstone";

/// A column of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded<'a> {
    Column(&'a ColumnDefinition),
    /// A member of the payload, which holds rows.
    Member(&'static str),
    /// A member of the record's key, which tells the row of a change.
    KeyMember(&'a str),
    Partition,
    Offset,
    IsTombstone,
}

impl TableDefinition {
    /// Whether its rows are the last records of their keys, so that each record may change one.
    pub fn keeps_last_record(&self) -> bool {
        matches!(self.connector, Connector::UpsertKafka(_)) || self.debezium().is_some()
    }

    /// Of a topic of changes of a database's table.
    pub fn debezium(&self) -> Option<&DebeziumOptions> {
        match &self.connector {
            Connector::Kafka(options) => match &options.format {
                Format::DebeziumJson(options) => Some(options),
                Format::Json(_) => None,
            },
            _ => None,
        }
    }

    /// What the connector gives when it is read: the stored columns; or records.
    pub fn read_schema(&self) -> SchemaRef {
        if !self.keeps_last_record() {
            return self.arrow_schema();
        }
        Arc::new(Schema::new(self.recorded().into_iter().map(|(field, _)| field).collect::<Vec<_>>()))
    }

    /// The columns of its records, and where each comes from.
    pub fn recorded(&self) -> Vec<(Field, Recorded<'_>)> {
        let in_payload = |column: &ColumnDefinition| column.kind == ColumnKind::Physical;
        let is_wrapped = self.debezium().is_some();
        let columns = self.columns.iter().filter(|column| match column.kind {
            ColumnKind::Computed { .. } => false,
            ColumnKind::Physical => !is_wrapped,
            ColumnKind::Metadata { .. } => true,
        });
        let mut recorded: Vec<_> = columns
            .map(|column| {
                // A tombstone has no payload.
                let nullable = column.nullable || (in_payload(column) && !self.is_key(&column.name));
                (Field::new(&column.name, self.data_type(column), nullable), Recorded::Column(column))
            })
            .collect();
        if let Some(options) = self.debezium() {
            let image = self.columns.iter().filter(|column| in_payload(column));
            let image = DataType::Struct(image.map(|column| Field::new(&column.name, self.data_type(column), true)).collect());
            recorded.extend(
                options
                    .members(&image)
                    .into_iter()
                    .map(|(name, data_type)| (Field::new(member_column(name), data_type, true), Recorded::Member(name))),
            );
            recorded.extend(
                self.key_members(options)
                    .into_iter()
                    .map(|(name, data_type)| (Field::new(key_column(name), data_type, true), Recorded::KeyMember(name))),
            );
        }
        let place = [
            (RECORD_PARTITION, DataType::Int32, Recorded::Partition),
            (RECORD_OFFSET, DataType::Int64, Recorded::Offset),
            (RECORD_IS_TOMBSTONE, DataType::Boolean, Recorded::IsTombstone),
        ];
        recorded.extend(place.map(|(name, data_type, from)| (Field::new(name, data_type, false), from)));
        recorded
    }

    /// Those of the records' keys that are read.
    fn key_members(&self, options: &DebeziumOptions) -> Vec<(&str, DataType)> {
        let key = self.primary_key.iter().filter(|_| options.has_key).flat_map(|key| key.columns());
        let columns = key.filter_map(|name| self.column(name));
        let members: Vec<_> = columns.map(|column| (column.name.as_str(), self.data_type(column))).collect();
        if members.is_empty() { members } else { options.enveloped(members) }
    }
}

/// What names of columns may not begin with in such a table.
const PREFIX: &str = "record:";

/// Whether a column is of records, and not of the rows that are made of them.
pub(crate) fn is_of_record(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The column of a member of the payload.
pub fn member_column(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The column of a member of the record's key.
pub fn key_column(name: &str) -> String {
    format!("{PREFIX}key:{name}")
}

impl DebeziumOptions {
    /// The members of a payload that are read; `image` is the type of a row.
    fn members(&self, image: &DataType) -> Vec<(&'static str, DataType)> {
        self.enveloped(vec![("before", image.clone()), ("after", image.clone()), ("op", DataType::Utf8)])
    }

    /// Members where they stand: beside a schema they are within `payload`.
    fn enveloped<'a>(&self, members: Vec<(&'a str, DataType)>) -> Vec<(&'a str, DataType)> {
        if !self.schema_include {
            return members;
        }
        let fields = members.into_iter().map(|(name, data_type)| Field::new(name, data_type, true));
        vec![("payload", DataType::Struct(fields.collect()))]
    }
}
