//! What becomes of an INSERT's rows: what a part keeps of them, what is checked, and where they go.
use anyhow::{anyhow, bail};
use polybolos_kafka::encode::{self, EncodeOptions};
use polybolos_operators::{
    part_write::Keeping,
    publish::{
        DeclaredKey, SinkSpec,
        files::{self, FilesTarget},
        topic::TopicTarget,
    },
    steps::Check,
};
use polybolos_sql::{
    catalog::{Connector, TableDefinition},
    options::{filesystem::FileFormat, kafka::JsonOptions, upsert_kafka::KeyFormat},
    planner::InsertPlan,
};

use crate::providers::{PlatformTables, timestamp_format};

pub fn sink(platform: &PlatformTables, insert: &InsertPlan) -> anyhow::Result<(Keeping, Vec<Check>, SinkSpec)> {
    Ok(match &insert.target.connector {
        Connector::Filesystem(options) => {
            let format = match &options.format {
                FileFormat::Json(json) => {
                    encode::check(insert.plan.schema().as_arrow())?;
                    files::Format::Json(encode_options(json))
                }
                FileFormat::Parquet => files::Format::Parquet,
            };
            let place = platform.place(&insert.target, &options.path)?.to_string();
            (Keeping::All, vec![], SinkSpec::Files { target: FilesTarget { place, format } })
        }
        Connector::Blackhole => (Keeping::Nothing, vec![], SinkSpec::Blackhole),
        Connector::Print { identifier } => {
            let name = identifier.clone().unwrap_or_else(|| insert.target.name.to_string());
            (Keeping::All, vec![], SinkSpec::Print { name })
        }
        Connector::Cassandra(options) => {
            let stored = insert.target.table_schema().ok_or_else(|| anyhow!("table {} has no primary key", insert.target.name))?;
            let key = stored.primary_key().map(|column| index_of(insert, column)).collect::<anyhow::Result<Vec<_>>>()?;
            let alone = stored.partition_key.len() == 1;
            let checks = stored.primary_key().zip(&key).map(|(name, &column)| Check {
                column,
                name: name.to_owned(),
                refuse_empty: alone && stored.partition_key.iter().any(|part| part == name),
            });
            let checks = checks.collect();
            let spec = SinkSpec::Table {
                table: stored.name.clone(),
                key: Some(DeclaredKey { partition: stored.partition_key.clone(), clustering: stored.clustering_key.clone() }),
                columns: insert.columns.clone(),
                options: options.write.clone(),
            };
            (Keeping::LastPerKey(key), checks, spec)
        }
        Connector::Kafka(_) => {
            let payload = (0..insert.columns.len()).collect();
            (Keeping::All, vec![], SinkSpec::Topic { target: TopicTarget { payload, ..topic(platform, insert)? } })
        }
        Connector::UpsertKafka(options) => {
            let Some(primary_key) = &insert.target.primary_key else { bail!("table {} has no primary key", insert.target.name) };
            let key = primary_key.columns().map(|column| index_of(insert, column)).collect::<anyhow::Result<Vec<_>>>()?;
            let checks = primary_key.columns().zip(&key);
            let checks = checks.map(|(name, &column)| Check { column, name: name.to_owned(), refuse_empty: false }).collect();
            let payload = (0..insert.columns.len()).filter(|column| options.value_has_key || !key.contains(column)).collect();
            let target =
                TopicTarget { key: key.clone(), raw_key: options.key == KeyFormat::Raw, payload, ..topic(platform, insert)? };
            (Keeping::LastPerKey(key), checks, SinkSpec::Topic { target })
        }
    })
}

/// Where a table's topic is, if it is one that jobs write: the target without what depends on an INSERT.
pub fn topic_of(platform: &PlatformTables, table: &TableDefinition) -> anyhow::Result<Option<TopicTarget>> {
    let target = |connection, topic: &String, json: &JsonOptions| TopicTarget {
        connection,
        topic: topic.clone(),
        key: vec![],
        raw_key: false,
        payload: vec![],
        encode: encode_options(json),
    };
    Ok(match &table.connector {
        Connector::Kafka(options) => Some(target(platform.connection(options)?, &options.topic, options.format.json())),
        Connector::UpsertKafka(options) => {
            let connection = platform.connection_to(options.bootstrap_servers.as_deref(), &options.properties)?;
            Some(target(connection, &options.topic, &options.value))
        }
        Connector::Cassandra(_) | Connector::Filesystem(_) | Connector::Blackhole | Connector::Print { .. } => None,
    })
}

fn encode_options(json: &JsonOptions) -> EncodeOptions {
    EncodeOptions { timestamp_format: timestamp_format(json.timestamp_format), ignore_null_fields: json.ignore_null_fields }
}

/// The target's topic, once it is clear that every column can be written there.
fn topic(platform: &PlatformTables, insert: &InsertPlan) -> anyhow::Result<TopicTarget> {
    encode::check(insert.plan.schema().as_arrow())?;
    topic_of(platform, &insert.target)?.ok_or_else(|| anyhow!("table {} is not a topic", insert.target.name))
}

fn index_of(insert: &InsertPlan, column: &str) -> anyhow::Result<usize> {
    let found = insert.columns.iter().position(|name| name == column);
    found.ok_or_else(|| anyhow!("key column {column} of {} is not inserted", insert.target.name))
}
