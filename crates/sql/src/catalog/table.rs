//! One table as the catalog keeps it, and the checks that make it one: types the connector can hold, keys that exist, known options.
use std::{borrow::Cow, fmt, ops::ControlFlow, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, Field, Schema, SchemaRef},
    sql::sqlparser::ast::Expr,
};
use polybolos_tables::{Column, TableSchema};
use serde::{Deserialize, Serialize};

use super::{FunctionDefinition, computed, records::is_of_record};
use crate::{
    error::{SqlError, did_you_mean},
    names::{RESERVED_SCHEMAS, RelationName},
    options::{
        OptionReader,
        cassandra::CassandraOptions,
        filesystem::FilesystemOptions,
        kafka::KafkaOptions,
        upsert_kafka::{KeyFormat, UpsertKafkaOptions},
    },
    statement::{ColumnClause, CreateTable, MetadataClause, PrimaryKeyClause},
    types::SqlType,
    walk::visit_expressions,
};

/// Most columns of a table.
const MAX_COLUMNS: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDefinition {
    pub name: RelationName,
    pub columns: Vec<ColumnDefinition>,
    pub primary_key: Option<PrimaryKey>,
    pub watermark: Option<Watermark>,
    pub connector: Connector,
    /// The WITH clause as written, `connector` included. May hold secrets: show it through [`crate::redact`].
    pub options: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDefinition {
    pub name: String,
    pub sql_type: SqlType,
    /// False for NOT NULL and for columns of the primary key.
    pub nullable: bool,
    pub kind: ColumnKind,
}

impl ColumnDefinition {
    /// Computed of nothing that a record has: of the clock, then, when the row is read.
    fn is_of_the_clock(&self) -> bool {
        let ColumnKind::Computed { expression } = &self.kind else { return false };
        let Ok(expression) = crate::parser::expression(expression) else { return false };
        let names = visit_expressions(&expression, |part| match part {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        names.is_continue()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ColumnKind {
    /// A field of the payload, or a column of the stored table.
    Physical,
    /// Told by the connector. Virtual ones are read only.
    Metadata { from: MetadataKey, is_virtual: bool },
    /// Computed of the others whenever the table is read.
    Computed { expression: String },
}

/// What Kafka tells of a record beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetadataKey {
    Topic,
    Partition,
    Offset,
    Timestamp,
    TimestampType,
    Key,
    Headers,
}

const METADATA_KEYS: [(&str, MetadataKey); 7] = [
    ("topic", MetadataKey::Topic),
    ("partition", MetadataKey::Partition),
    ("offset", MetadataKey::Offset),
    ("timestamp", MetadataKey::Timestamp),
    ("timestamp-type", MetadataKey::TimestampType),
    ("key", MetadataKey::Key),
    ("headers", MetadataKey::Headers),
];

impl MetadataKey {
    pub fn name(self) -> &'static str {
        METADATA_KEYS.iter().find(|(_, key)| *key == self).map_or("", |(name, _)| name)
    }

    /// The types a column of it may have.
    fn types(self) -> Vec<SqlType> {
        match self {
            Self::Topic | Self::TimestampType => vec![SqlType::String],
            Self::Partition => vec![SqlType::Int],
            Self::Offset => vec![SqlType::BigInt],
            Self::Timestamp => vec![SqlType::TimestampLtz { precision: 3 }, SqlType::Timestamp { precision: 3 }],
            Self::Key => vec![SqlType::Bytes, SqlType::String],
            Self::Headers => vec![SqlType::Map(Box::new(SqlType::String), Box::new(SqlType::Bytes))],
        }
    }
}

/// `partition` columns choose the partition, `clustering` columns order within it, ascending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryKey {
    pub partition: Vec<String>,
    pub clustering: Vec<String>,
}

impl PrimaryKey {
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.partition.iter().chain(&self.clustering).map(String::as_str)
    }
}

/// As one writes it after `PRIMARY KEY`.
impl fmt::Display for PrimaryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| names.iter().map(|name| crate::names::quoted(name)).collect::<Vec<_>>().join(", ");
        let partition = list(&self.partition);
        let partition = if self.partition.len() > 1 { format!("({partition})") } else { partition };
        let comma = if self.clustering.is_empty() { "" } else { ", " };
        write!(f, "({partition}{comma}{})", list(&self.clustering))
    }
}

/// `WATERMARK FOR column AS expression`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    pub column: String,
    /// As written: the column, or the column minus an INTERVAL.
    pub expression: String,
}

impl Watermark {
    /// How far behind the largest time seen it stays, in microseconds; `None` for what an earlier version took and this one cannot follow.
    pub fn delay_us(&self) -> Option<i64> {
        crate::parser::watermark_delay(&self.column, &self.expression)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "connector", rename_all = "snake_case")]
pub enum Connector {
    Kafka(KafkaOptions),
    /// A topic that keeps the last record of each key.
    UpsertKafka(UpsertKafkaOptions),
    Cassandra(CassandraOptions),
    /// Files in a folder or bucket; only written.
    Filesystem(FilesystemOptions),
    /// Takes rows and forgets them.
    Blackhole,
    /// Writes rows to the executor's log.
    Print {
        identifier: Option<String>,
    },
}

impl Connector {
    /// As in `'connector' = '…'`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::UpsertKafka(_) => "upsert-kafka",
            Self::Cassandra(_) => "cassandra",
            Self::Filesystem(_) => "filesystem",
            Self::Blackhole => "blackhole",
            Self::Print { .. } => "print",
        }
    }
}

/// All of them.
pub(crate) const CONNECTORS: [&str; 6] = ["kafka", "upsert-kafka", "cassandra", "filesystem", "blackhole", "print"];

impl TableDefinition {
    pub fn column(&self, name: &str) -> Option<&ColumnDefinition> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// All columns as Arrow sees them, in the order declared.
    pub fn arrow_schema(&self) -> SchemaRef {
        let fields: Vec<Field> =
            self.columns.iter().map(|column| Field::new(&column.name, self.data_type(column), column.nullable)).collect();
        Arc::new(Schema::new(fields))
    }

    pub fn is_key(&self, column: &str) -> bool {
        self.primary_key.iter().flat_map(PrimaryKey::columns).any(|name| name == column)
    }

    /// How its topic is read, if it stands over one.
    pub fn topic(&self) -> Option<Cow<'_, KafkaOptions>> {
        match &self.connector {
            Connector::Kafka(options) => Some(Cow::Borrowed(options)),
            Connector::UpsertKafka(options) => Some(Cow::Owned(options.reading())),
            _ => None,
        }
    }

    /// The Arrow type of one of this table's columns: Cassandra keeps times and timestamps in units of its own.
    pub fn data_type(&self, column: &ColumnDefinition) -> DataType {
        let stored = match self.connector {
            Connector::Cassandra(_) => column.sql_type.cassandra(),
            _ => None,
        };
        stored.unwrap_or_else(|| column.sql_type.arrow())
    }

    /// Columns that an INSERT without a column list fills.
    pub fn writable_columns(&self) -> impl Iterator<Item = &ColumnDefinition> {
        self.columns
            .iter()
            .filter(|column| !matches!(column.kind, ColumnKind::Metadata { is_virtual: true, .. } | ColumnKind::Computed { .. }))
    }

    /// Whether reading it takes a plan over what its connector gives.
    pub fn has_plan(&self) -> bool {
        self.keeps_last_record() || self.columns.iter().any(|column| matches!(column.kind, ColumnKind::Computed { .. }))
    }

    /// The same table without its computed columns: what its connector knows.
    pub fn stored(&self) -> Self {
        let mut stored = self.clone();
        stored.columns.retain(|column| !matches!(column.kind, ColumnKind::Computed { .. }));
        stored
    }

    /// The stored table, for tables in Cassandra (or its embedded stand-in).
    pub fn table_schema(&self) -> Option<TableSchema> {
        let (Connector::Cassandra(options), Some(key)) = (&self.connector, &self.primary_key) else { return None };
        let column = |column: &ColumnDefinition| {
            let mut stored = Column::new(&column.name, self.data_type(column));
            stored.native_type = (column.sql_type == SqlType::Uuid).then(|| "uuid".to_owned());
            stored
        };
        Some(TableSchema {
            name: options.table_name(),
            columns: self.columns.iter().map(column).collect(),
            partition_key: key.partition.clone(),
            clustering_key: key.clustering.clone(),
        })
    }

    pub fn keyspace(&self) -> Option<&str> {
        match &self.connector {
            Connector::Cassandra(options) => Some(&options.keyspace),
            _ => None,
        }
    }

    /// Whether Cassandra knows it as `keyspace.table`.
    pub fn is_stored_as(&self, keyspace: &str, table: &str) -> bool {
        matches!(&self.connector, Connector::Cassandra(options) if options.keyspace == keyspace && options.table == table)
    }

    /// Whether reading it in a job never ends.
    pub fn is_unbounded(&self) -> bool {
        self.topic().is_some_and(|options| options.bounded.is_none())
    }

    /// Whether it has anything to read.
    pub fn is_readable(&self) -> bool {
        !matches!(self.connector, Connector::Blackhole | Connector::Print { .. })
    }

    /// Checks a declaration. Pure: nothing is asked of Kafka or Cassandra.
    pub(crate) fn new(create: &CreateTable, functions: &[FunctionDefinition]) -> Result<Self, SqlError> {
        let object = format!("table {}", create.name);
        check_name(&create.name)?;
        let mut reader = OptionReader::new(&object, &create.options);
        let connector = connector(&mut reader, create)?;
        reader.finish()?;
        let mut columns = columns(create, &connector)?;
        computed::set_types(&create.name, &mut columns, functions)?;
        let mut table = Self {
            name: create.name.clone(),
            columns,
            primary_key: None,
            watermark: create.watermark.clone(),
            connector,
            options: create.options.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect(),
        };
        table.set_primary_key(create.primary_key.as_ref())?;
        table.check_watermark()?;
        Ok(table)
    }

    fn set_primary_key(&mut self, clause: Option<&PrimaryKeyClause>) -> Result<(), SqlError> {
        let Some(clause) = clause else {
            if matches!(self.connector, Connector::UpsertKafka(_)) {
                let message = format!(
                    "table {} needs a primary key, which its records are keyed by; add PRIMARY KEY (column) NOT ENFORCED, or write 'connector' = 'kafka' for records without one",
                    self.name
                );
                return Err(SqlError::invalid(message));
            }
            if self.keeps_last_record() {
                let message = format!(
                    "table {} needs the primary key of the database's table, as its records say what became of a row; add PRIMARY KEY (column) NOT ENFORCED",
                    self.name
                );
                return Err(SqlError::invalid(message));
            }
            if matches!(self.connector, Connector::Cassandra(_)) {
                let message = format!(
                    "table {} needs a primary key, as rows in Cassandra are written by key; add PRIMARY KEY (column) NOT ENFORCED",
                    self.name
                );
                return Err(SqlError::invalid(message));
            }
            return Ok(());
        };
        if matches!(self.connector, Connector::Filesystem(_)) {
            let message = format!("table {} is files, whose rows have no primary key; leave PRIMARY KEY out", self.name);
            return Err(SqlError::unsupported_at(clause.at, message));
        }
        if matches!(self.connector, Connector::Kafka(_)) && !self.keeps_last_record() {
            let message = format!(
                "table {} is a Kafka topic, whose records have no primary key; leave PRIMARY KEY out, or write 'connector' = 'upsert-kafka' for a topic that keeps one row per key, 'format' = 'debezium-json' for the changes of a database's table",
                self.name
            );
            return Err(SqlError::unsupported_at(clause.at, message));
        }
        let key = PrimaryKey { partition: clause.partition.clone(), clustering: clause.clustering.clone() };
        let mut seen: Vec<&str> = Vec::new();
        for name in key.columns() {
            if seen.contains(&name) {
                return Err(SqlError::invalid_at(
                    clause.at,
                    format!("column {name} is twice in the primary key of table {}", self.name),
                ));
            }
            seen.push(name);
            let table = &self.name;
            let Some(column) = self.columns.iter_mut().find(|column| column.name == name) else {
                let message = format!("the primary key of table {table} names {name}, which is not one of its columns");
                return Err(SqlError::invalid_at(clause.at, message));
            };
            column.nullable = false;
        }
        self.primary_key = Some(key);
        self.check_record_key(clause)?;
        match self.columns.iter().find(|column| self.keeps_last_record() && is_of_record(&column.name)) {
            Some(column) => Err(SqlError::invalid(format!(
                "column {:?} of table {} has a name of the system's own; rename it",
                column.name, self.name
            ))),
            None => Ok(()),
        }
    }

    /// That records can say which row they are about.
    fn check_record_key(&self, clause: &PrimaryKeyClause) -> Result<(), SqlError> {
        let Some(key) = self.primary_key.as_ref().filter(|_| self.keeps_last_record()) else { return Ok(()) };
        let columns: Vec<&ColumnDefinition> = key.columns().filter_map(|name| self.column(name)).collect();
        if let Some(column) = columns.iter().find(|column| column.kind != ColumnKind::Physical) {
            let message = format!(
                "the primary key of table {} names {}, which no record says; name columns that are neither METADATA nor computed",
                self.name, column.name
            );
            return Err(SqlError::invalid_at(clause.at, message));
        }
        let is_raw = |column: &&ColumnDefinition| matches!(column.sql_type, SqlType::String | SqlType::Bytes);
        let key_is_raw = matches!(&self.connector, Connector::UpsertKafka(options) if options.key == KeyFormat::Raw);
        if key_is_raw && !matches!(columns.as_slice(), [column] if is_raw(column)) {
            let message = format!(
                "table {} has 'key.format' = 'raw', which is for a primary key of one STRING or BYTES column; write 'json'",
                self.name
            );
            return Err(SqlError::invalid_at(clause.at, message));
        }
        Ok(())
    }

    fn check_watermark(&self) -> Result<(), SqlError> {
        let Some(watermark) = &self.watermark else { return Ok(()) };
        if matches!(self.connector, Connector::Filesystem(_)) {
            let message = format!("table {} is files, which a job reads all at once; leave WATERMARK out", self.name);
            return Err(SqlError::unsupported(message));
        }
        if self.keeps_last_record() {
            let message = format!(
                "table {} changes rows that it has, so none of them is late; leave WATERMARK out, and declare the topic with 'connector' = 'kafka', 'format' = 'json' as well for windows over its records",
                self.name
            );
            return Err(SqlError::unsupported(message));
        }
        match self.column(&watermark.column) {
            Some(column) if column.is_of_the_clock() => Err(SqlError::unsupported(format!(
                "the watermark of table {} is for {}, which is the time of processing and has none; leave WATERMARK out, or take the record's time: ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL",
                self.name, column.name
            ))),
            Some(column) if column.sql_type.is_timestamp() => Ok(()),
            Some(column) => Err(SqlError::invalid(format!(
                "the watermark of table {} is for {}, a {}; it takes a TIMESTAMP or TIMESTAMP_LTZ column",
                self.name, column.name, column.sql_type
            ))),
            None => Err(SqlError::invalid(format!(
                "the watermark of table {} is for {}, which is not one of its columns",
                self.name, watermark.column
            ))),
        }
    }
}

fn check_name(name: &RelationName) -> Result<(), SqlError> {
    if !RESERVED_SCHEMAS.contains(&name.schema.as_str()) {
        return Ok(());
    }
    Err(SqlError::invalid(format!("schema {} is the system's own; declare table {} in another", name.schema, name.name)))
}

fn connector(reader: &mut OptionReader<'_>, create: &CreateTable) -> Result<Connector, SqlError> {
    let word = reader.required("connector", "kafka")?;
    match word.as_str() {
        "kafka" => KafkaOptions::read(reader).map(Connector::Kafka),
        "upsert-kafka" => UpsertKafkaOptions::read(reader).map(Connector::UpsertKafka),
        "cassandra" => CassandraOptions::read(reader, &create.name).map(Connector::Cassandra),
        "filesystem" => FilesystemOptions::read(reader).map(Connector::Filesystem),
        "blackhole" => Ok(Connector::Blackhole),
        "print" => Ok(Connector::Print { identifier: reader.text("print-identifier")? }),
        other => {
            let hint = match did_you_mean(other, CONNECTORS) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("known are {}", CONNECTORS.map(|name| format!("'{name}'")).join(", ")),
            };
            let at = reader.entry("connector").map(|entry| entry.at);
            Err(SqlError::Invalid { at, message: format!("unknown connector '{other}' of {}; {hint}", reader.object()) })
        }
    }
}

fn columns(create: &CreateTable, connector: &Connector) -> Result<Vec<ColumnDefinition>, SqlError> {
    if create.columns.is_empty() {
        return Err(SqlError::invalid(format!("table {} has no columns; declare those that jobs and queries use", create.name)));
    }
    if create.columns.len() > MAX_COLUMNS {
        let message = format!("table {} has {} columns, more than the {MAX_COLUMNS} allowed", create.name, create.columns.len());
        return Err(SqlError::invalid(message));
    }
    let mut columns: Vec<ColumnDefinition> = Vec::with_capacity(create.columns.len());
    for clause in &create.columns {
        if columns.iter().any(|column| column.name == clause.name) {
            let message =
                format!("table {} has two columns {}; rename one (case counts only in double quotes)", create.name, clause.name);
            return Err(SqlError::invalid_at(clause.at, message));
        }
        check_type(clause, create, connector)?;
        let kind = match (&clause.metadata, &clause.computed) {
            (_, Some(expression)) => computed_kind(clause, expression, create, connector)?,
            (None, None) => ColumnKind::Physical,
            (Some(metadata), None) => metadata_kind(clause, metadata, create, connector)?,
        };
        columns.push(ColumnDefinition {
            name: clause.name.clone(),
            sql_type: clause.sql_type.clone(),
            nullable: !clause.not_null,
            kind,
        });
    }
    Ok(columns)
}

fn check_type(clause: &ColumnClause, create: &CreateTable, connector: &Connector) -> Result<(), SqlError> {
    if !matches!(connector, Connector::Cassandra(_)) || clause.sql_type.cassandra().is_some() {
        return Ok(());
    }
    let message = format!(
        "column {} of table {} is {}, which cannot be written to Cassandra safely a second time; write it as STRING (JSON) or as columns of its own",
        clause.name, create.name, clause.sql_type
    );
    Err(SqlError::unsupported_at(clause.at, message))
}

fn computed_kind(
    clause: &ColumnClause,
    expression: &str,
    create: &CreateTable,
    connector: &Connector,
) -> Result<ColumnKind, SqlError> {
    if matches!(connector, Connector::Kafka(_) | Connector::UpsertKafka(_)) {
        return Ok(ColumnKind::Computed { expression: expression.to_owned() });
    }
    let message = format!(
        "column {} of table {} is computed, which only columns of Kafka tables are; compute it in the SELECT of the job",
        clause.name, create.name
    );
    Err(SqlError::unsupported_at(clause.at, message))
}

fn metadata_kind(
    clause: &ColumnClause,
    metadata: &MetadataClause,
    create: &CreateTable,
    connector: &Connector,
) -> Result<ColumnKind, SqlError> {
    let here = format!("column {} of table {}", clause.name, create.name);
    if !matches!(connector, Connector::Kafka(_) | Connector::UpsertKafka(_)) {
        let message = format!("{here} is METADATA, which only Kafka tables have; leave METADATA out");
        return Err(SqlError::invalid_at(clause.at, message));
    }
    let Some((_, from)) = METADATA_KEYS.iter().find(|(name, _)| *name == metadata.from) else {
        let names = METADATA_KEYS.map(|(name, _)| name);
        let hint = match did_you_mean(&metadata.from, names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known are {}", names.map(|name| format!("'{name}'")).join(", ")),
        };
        return Err(SqlError::invalid_at(
            clause.at,
            format!("{here} is METADATA FROM '{}', which Kafka does not tell; {hint}", metadata.from),
        ));
    };
    let types = from.types();
    if !types.contains(&clause.sql_type) {
        let wanted: Vec<String> = types.iter().map(ToString::to_string).collect();
        let message = format!("{here} is {}; the metadata '{}' is {}", clause.sql_type, metadata.from, wanted.join(" or "));
        return Err(SqlError::invalid_at(clause.at, message));
    }
    Ok(ColumnKind::Metadata { from: *from, is_virtual: metadata.is_virtual })
}
