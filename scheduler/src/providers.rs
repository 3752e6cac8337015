//! What tables of the catalog are to DataFusion: topics for jobs and bounded topics for queries, keyed tables, and the system schema.
use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    common::{DataFusionError, Result as DataFusionResult, plan_datafusion_err, plan_err},
    logical_expr::{Expr, TableType},
    physical_plan::ExecutionPlan,
};
use polybolos_kafka::{
    admin::Admin,
    connection::Connection,
    decode::{DecodeOptions, Field, TimestampFormat, Tombstones},
    error::KafkaError,
};
use polybolos_operators::{
    file_scan::FilesProvider,
    files::{FileFormat, FileTable},
    lookup_scan::LookupTable,
    providers::{KafkaTable, KeyedTable, QueryRanges, Reading},
    record_scan::{OnError, ScanSpec},
    task::TaskDescriptor,
};
use polybolos_persist::{Place, Places};
use polybolos_sql::{
    catalog::{ColumnDefinition, ColumnKind, Connector, MetadataKey, Recorded, TableDefinition},
    options::filesystem::{FileFormat as SqlFileFormat, FilesystemOptions},
    options::kafka::{BoundedMode, KafkaOptions, StartupMode, TimestampFormat as SqlTimestampFormat},
    options::upsert_kafka::KeyFormat,
    schema::{Providers, Use},
};
use polybolos_streaming::{
    frame::OffsetRange,
    ids::{Incarnation, PartIndex},
};
use polybolos_tables::TableBackend;

use crate::system::SystemTables;

/// Gives DataFusion the tables of one statement.
#[derive(Clone, Debug)]
pub struct PlatformTables {
    pub kafka: Connection,
    pub tables: Arc<dyn TableBackend>,
    pub system: Arc<SystemTables>,
    /// Places below which SQL may write and read files.
    pub allowed_locations: Arc<[Place]>,
    /// Where queries read files.
    pub places: Arc<Places>,
}

impl PlatformTables {
    /// Where a Kafka table's topic is.
    pub fn connection(&self, options: &KafkaOptions) -> DataFusionResult<Connection> {
        self.connection_to(options.bootstrap_servers.as_deref(), &options.properties)
    }

    /// The cluster that a table names, or the platform's.
    pub fn connection_to(
        &self,
        bootstrap_servers: Option<&str>,
        properties: &BTreeMap<String, String>,
    ) -> DataFusionResult<Connection> {
        let mut connection = match bootstrap_servers {
            // Credentials of the platform's Kafka are not for other clusters.
            Some(servers) => Connection::new(servers),
            None => self.kafka.clone(),
        };
        for (key, value) in properties {
            let value = polybolos_service::config::resolve_reference(value)
                .map_err(|error| plan_datafusion_err!("'properties.{key}': {error}"))?;
            connection.properties.insert(key.clone(), value);
        }
        Ok(connection)
    }

    /// The place of a table's files, if an administrator allows it.
    pub fn place(&self, table: &TableDefinition, path: &str) -> anyhow::Result<Place> {
        let place = Place::parse(path)?;
        if self.allowed_locations.iter().any(|allowed| place.is_within(allowed)) {
            return Ok(place);
        }
        anyhow::bail!(
            "table {} may not keep files in {place}; have an administrator add the place to sql.allowed_locations of the scheduler's configuration, or start `up` with --allow-location",
            table.name
        )
    }

    /// A table's files, for reading.
    pub fn files(&self, table: &TableDefinition, options: &FilesystemOptions) -> anyhow::Result<FileTable> {
        let format = match &options.format {
            SqlFileFormat::Json(json) => FileFormat::Json(timestamp_format(json.timestamp_format)),
            SqlFileFormat::Parquet => FileFormat::Parquet,
        };
        let place = self.place(table, &options.path)?.to_string();
        Ok(FileTable { name: table.name.to_string(), place, format })
    }

    fn kafka_table(&self, table: &TableDefinition, options: &KafkaOptions, usage: Use) -> DataFusionResult<Arc<dyn TableProvider>> {
        let incarnation = format!("query-{}", uuid::Uuid::new_v4().simple());
        let reading = match usage {
            Use::Stream => Reading::Job,
            Use::Bounded | Use::Lookup => Reading::Query(Arc::new(TopicRanges {
                connection: self.connection(options)?,
                topic: options.topic.clone(),
                incarnation: Incarnation(incarnation.clone()),
                from: options.startup.clone(),
                to: options.bounded.clone().unwrap_or(BoundedMode::Latest),
            })),
        };
        self.topic(table, options, incarnation, reading)
    }

    /// A topic's table, read as told; `incarnation` names the reader.
    pub fn topic(
        &self,
        table: &TableDefinition,
        options: &KafkaOptions,
        incarnation: String,
        reading: Reading,
    ) -> DataFusionResult<Arc<dyn TableProvider>> {
        let connection = self.connection(options)?;
        let json = options.format.json();
        let spec = ScanSpec {
            job: String::new(),
            incarnation,
            source: 0,
            connection,
            topic: options.topic.clone(),
            fields: vec![],
            options: DecodeOptions {
                timestamp_format: timestamp_format(json.timestamp_format),
                fail_on_missing_field: json.fail_on_missing_field,
                tombstones: tombstones(table),
                ..DecodeOptions::default()
            },
            on_error: OnError::DeadLetter,
            checks: vec![],
        };
        // Computed columns are expressions over these.
        let table = table.stored();
        let fields = match table.keeps_last_record() {
            false => table.columns.iter().map(|column| field(&table, column)).collect(),
            true => table.recorded().into_iter().map(|(_, from)| recorded(&table, from)).collect(),
        };
        Ok(Arc::new(KafkaTable::new(table.read_schema(), fields, spec, reading)))
    }
}

/// Where in a record a column of records is.
fn recorded(table: &TableDefinition, from: Recorded<'_>) -> Field {
    match from {
        Recorded::Column(column) => field(table, column),
        Recorded::Member(name) => Field::Json { name: name.to_owned() },
        Recorded::KeyMember(name) => Field::KeyJson { name: name.to_owned() },
        Recorded::Partition => Field::Partition,
        Recorded::Offset => Field::Offset,
        Recorded::IsTombstone => Field::Tombstone,
    }
}

/// Where in a record a column is.
fn field(table: &TableDefinition, column: &ColumnDefinition) -> Field {
    let name = column.name.clone();
    match (&column.kind, &table.connector) {
        (ColumnKind::Metadata { from, .. }, _) => match from {
            MetadataKey::Topic => Field::Topic,
            MetadataKey::Partition => Field::Partition,
            MetadataKey::Offset => Field::Offset,
            MetadataKey::Timestamp => Field::Timestamp,
            MetadataKey::TimestampType => Field::TimestampType,
            MetadataKey::Key => Field::Key,
            MetadataKey::Headers => Field::Headers,
        },
        (_, Connector::UpsertKafka(options)) if table.is_key(&name) => match options.key {
            KeyFormat::Json => Field::KeyJson { name },
            KeyFormat::Raw => Field::Key,
        },
        _ => Field::Json { name },
    }
}

/// Of a topic that keeps a row per key; what must be there in every payload.
fn tombstones(table: &TableDefinition) -> Option<Tombstones> {
    if let Some(options) = table.debezium() {
        let required = options.schema_include.then(|| "payload".to_owned());
        return Some(Tombstones { required: required.into_iter().collect(), in_json: true });
    }
    let in_payload = |column: &&ColumnDefinition| column.kind == ColumnKind::Physical && !table.is_key(&column.name);
    let required = table.columns.iter().filter(in_payload).filter(|column| !column.nullable).map(|column| column.name.clone());
    table.keeps_last_record().then(|| Tombstones { required: required.collect(), in_json: false })
}

#[async_trait]
impl Providers for PlatformTables {
    async fn provider(&self, table: &TableDefinition, usage: Use) -> DataFusionResult<Arc<dyn TableProvider>> {
        match &table.connector {
            Connector::Kafka(options) => self.kafka_table(table, options, usage),
            Connector::UpsertKafka(options) => self.kafka_table(table, &options.reading(), usage),
            Connector::Cassandra(options) => {
                let schema = table.table_schema().ok_or_else(|| plan_datafusion_err!("table {} has no primary key", table.name))?;
                if usage == Use::Lookup {
                    return Ok(Arc::new(LookupTable::new(schema, options.lookup.clone())));
                }
                Ok(Arc::new(KeyedTable::new(self.tables.clone(), schema, options.create)))
            }
            Connector::Filesystem(options) => {
                let files = match self.files(table, options) {
                    Ok(files) => files,
                    Err(error) => return Ok(Unreadable::table(table, error.to_string())),
                };
                Ok(Arc::new(match usage {
                    Use::Stream | Use::Lookup => FilesProvider::of_job(files, table.arrow_schema()),
                    Use::Bounded => FilesProvider::of_query(files, table.arrow_schema(), self.places.clone()),
                }))
            }
            Connector::Blackhole | Connector::Print { .. } => {
                let why = format!("table {} takes rows and keeps none; there is nothing to read", table.name);
                Ok(Unreadable::table(table, why))
            }
        }
    }

    fn system(&self, table: &str) -> Option<Arc<dyn TableProvider>> {
        self.system.provider(table)
    }
}

/// A table that has columns, which `information_schema` shows, and nothing to read.
#[derive(Debug)]
struct Unreadable {
    schema: SchemaRef,
    why: String,
}

impl Unreadable {
    fn table(table: &TableDefinition, why: String) -> Arc<dyn TableProvider> {
        Arc::new(Self { schema: table.arrow_schema(), why })
    }
}

#[async_trait]
impl TableProvider for Unreadable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        plan_err!("{}", self.why)
    }
}

/// A notation, as the Kafka crate names it.
pub fn timestamp_format(format: SqlTimestampFormat) -> TimestampFormat {
    match format {
        SqlTimestampFormat::Sql => TimestampFormat::Sql,
        SqlTimestampFormat::Iso8601 => TimestampFormat::Iso8601,
    }
}

/// The ranges of a topic at the moment a query is planned.
#[derive(Debug)]
struct TopicRanges {
    connection: Connection,
    topic: String,
    incarnation: Incarnation,
    from: StartupMode,
    to: BoundedMode,
}

#[async_trait]
impl QueryRanges for TopicRanges {
    async fn ranges(&self) -> DataFusionResult<Vec<TaskDescriptor>> {
        let external = |error| DataFusionError::External(Box::new(error));
        let admin = Admin::connect(&self.connection).map_err(external)?;
        let Some(description) = admin.describe(&self.topic).await.map_err(external)? else {
            return Err(DataFusionError::Plan(KafkaError::NoSuchTopic { topic: self.topic.clone() }.to_string()));
        };
        let offsets = admin.offsets(&self.topic, &description.partitions).await.map_err(external)?;
        let starts = start_offsets(&admin, &self.topic, &self.from, &offsets.beginnings, &offsets.ends).await.map_err(external)?;
        let ends = match &self.to {
            BoundedMode::Latest => offsets.ends.clone(),
            BoundedMode::Timestamp { millis } => {
                admin.offsets_for_timestamp(&self.topic, &description.partitions, *millis).await.map_err(external)?
            }
            BoundedMode::SpecificOffsets { offsets: specific } => {
                let mut ends = offsets.ends.clone();
                ends.extend(specific);
                ends
            }
        };
        let mut tasks = vec![];
        for (index, partition) in description.partitions.iter().enumerate() {
            let newest = offsets.ends.get(partition).copied().unwrap_or(0);
            let start = starts.get(partition).copied().unwrap_or(0);
            let end = ends.get(partition).copied().unwrap_or(newest).min(newest);
            if start >= end {
                continue;
            }
            let range = OffsetRange::new(start, end);
            tasks.push(TaskDescriptor::of_query(&self.incarnation, PartIndex(index as u16), *partition, range));
        }
        Ok(tasks)
    }
}

/// Where reading begins, by partition.
pub async fn start_offsets(
    admin: &Admin,
    topic: &str,
    startup: &StartupMode,
    beginnings: &std::collections::BTreeMap<i32, i64>,
    ends: &std::collections::BTreeMap<i32, i64>,
) -> Result<std::collections::BTreeMap<i32, i64>, KafkaError> {
    Ok(match startup {
        StartupMode::Earliest => beginnings.clone(),
        StartupMode::Latest => ends.clone(),
        StartupMode::Timestamp { millis } => {
            let partitions: Vec<i32> = beginnings.keys().copied().collect();
            admin.offsets_for_timestamp(topic, &partitions, *millis).await?
        }
        StartupMode::SpecificOffsets { offsets } => {
            let mut starts = beginnings.clone();
            starts.extend(offsets);
            starts
        }
    })
}
