//! Options of `'connector' = 'kafka'`, in Flink's words.
//!
//! | key | value | default |
//! |---|---|---|
//! | `topic` | a topic's name | required |
//! | `properties.bootstrap.servers` | `host:port,…` | the platform's Kafka |
//! | `properties.*` | passed to librdkafka (SASL, TLS, …); secrets as `${env:NAME}` | |
//! | `format` | `json`; `debezium-json`: changes of a database's table, as Debezium tells them | required |
//! | `debezium-json.schema-include` | `true`: each record has its schema beside it | `false` |
//! | `key.format` | of `debezium-json`: `json`: the record's key tells the row that is deleted, where the change does not | none |
//! | `debezium-json.timestamp-format.standard` | as `json.timestamp-format.standard` | `SQL` |
//! | `json.fail-on-missing-field` | `true`: a record that lacks a field that the query reads is a dead letter; `false`: the field is NULL | `false` |
//! | `json.timestamp-format.standard` | `SQL` or `ISO-8601`: how timestamps are written (both are read) | `SQL` |
//! | `json.encode.ignore-null-fields` | `true`: NULL fields are left out of records that are written; `false`: they are `null` | `false` |
//! | `scan.startup.mode` | `earliest-offset`, `latest-offset`, `timestamp`, `specific-offsets`: where a new job begins | `earliest-offset` |
//! | `scan.startup.timestamp-millis` | for `timestamp`: milliseconds since 1970 | |
//! | `scan.startup.specific-offsets` | for `specific-offsets`: `partition:0,offset:42;partition:1,offset:300` | |
//! | `scan.watermark.idle-timeout` | `30 s`: a partition without records for so long no longer holds the watermark back | `30 s` |
//! | `scan.bounded.mode` | `unbounded`, `latest-offset`, `timestamp`, `specific-offsets`: where the table ends | `unbounded` |
//! | `scan.bounded.timestamp-millis`, `scan.bounded.specific-offsets` | as above | |
//! | `on_data_loss` | `fail` or `continue`, when records to read are gone | `fail` |
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::OptionReader;
use crate::error::SqlError;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaOptions {
    pub topic: String,
    /// `host:port,…`; `None`: the platform's Kafka.
    pub bootstrap_servers: Option<String>,
    /// Other `properties.*`, without that prefix. Secrets may be references, which are resolved where a client is made.
    pub properties: BTreeMap<String, String>,
    pub format: Format,
    pub startup: StartupMode,
    /// `None`: the table has no end.
    pub bounded: Option<BoundedMode>,
    pub on_data_loss: OnDataLoss,
    /// A partition without records for this long no longer holds the watermark back; `None`: it always does.
    #[serde(default)]
    pub idle_timeout_us: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Json(JsonOptions),
    /// What became of the rows of a database's table.
    DebeziumJson(DebeziumOptions),
}

impl Format {
    /// How rows are written in JSON.
    pub fn json(&self) -> &JsonOptions {
        match self {
            Self::Json(json) => json,
            Self::DebeziumJson(debezium) => &debezium.json,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebeziumOptions {
    pub json: JsonOptions,
    /// Records are `{"schema": …, "payload": …}`.
    pub schema_include: bool,
    /// Their keys are objects of the primary key's columns, and tell the row where a delete does not.
    #[serde(default)]
    pub has_key: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JsonOptions {
    pub fail_on_missing_field: bool,
    pub timestamp_format: TimestampFormat,
    /// Of records that are written: NULL fields are left out.
    #[serde(default)]
    pub ignore_null_fields: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampFormat {
    /// `2026-11-24 05:00:00.123`
    #[default]
    Sql,
    /// `2026-11-24T05:00:00.123Z`
    Iso8601,
}

/// Where a new job begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum StartupMode {
    #[default]
    Earliest,
    Latest,
    /// The first record with at least this timestamp.
    Timestamp {
        millis: i64,
    },
    /// By partition; partitions that are not named begin at their earliest offset.
    SpecificOffsets {
        #[serde(deserialize_with = "by_partition")]
        offsets: BTreeMap<i32, i64>,
    },
}

/// Where a bounded table ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum BoundedMode {
    /// The end at the moment the query starts.
    Latest,
    /// Before the first record with at least this timestamp.
    Timestamp { millis: i64 },
    /// By partition, exclusive; partitions that are not named end at their latest offset.
    SpecificOffsets {
        #[serde(deserialize_with = "by_partition")]
        offsets: BTreeMap<i32, i64>,
    },
}

/// Keys of JSON's objects are text, and stay so within what is told apart by a tag.
fn by_partition<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<i32, i64>, D::Error> {
    let offsets = BTreeMap::<String, i64>::deserialize(deserializer)?;
    let partition = |(partition, offset): (String, i64)| Ok((partition.parse().map_err(D::Error::custom)?, offset));
    offsets.into_iter().map(partition).collect()
}

/// What a job does when records that it has to read are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDataLoss {
    #[default]
    Fail,
    /// Skips them and counts them.
    Continue,
}

pub(crate) const ON_DATA_LOSS: [(&str, OnDataLoss); 2] = [("fail", OnDataLoss::Fail), ("continue", OnDataLoss::Continue)];

const RUNS_CODE: &str = "it would have the platform's processes run code of whoever writes SQL";

/// Properties that would break the offsets of the manifest, or reach further than a table, and why they are not taken.
const OWNED: [(&str, &str); 11] = [
    // Beside the login of the platform's Kafka it would tell that to any server.
    ("metadata.broker.list", "use 'properties.bootstrap.servers', which is the same"),
    ("plugin.library.paths", RUNS_CODE),
    ("sasl.kerberos.kinit.cmd", RUNS_CODE),
    ("ssl.engine.location", RUNS_CODE),
    ("ssl.providers", RUNS_CODE),
    ("group.id", "the consumer group of a job is polybolos.<job>"),
    ("auto.offset.reset", "use 'scan.startup.mode'"),
    ("enable.auto.commit", "offsets are kept in the job's manifest"),
    ("enable.auto.offset.store", "offsets are kept in the job's manifest"),
    ("key.deserializer", "use 'format'"),
    ("value.deserializer", "use 'format'"),
];

pub(super) const TIMESTAMP_FORMATS: [(&str, TimestampFormat); 2] =
    [("SQL", TimestampFormat::Sql), ("ISO-8601", TimestampFormat::Iso8601)];

const MODES_AND_PLACES: [&str; 3] = ["scan.startup.mode", "scan.startup.timestamp-millis", "scan.startup.specific-offsets"];

const MODES: [&str; 4] = ["earliest-offset", "latest-offset", "timestamp", "specific-offsets"];

impl KafkaOptions {
    pub(crate) fn read(reader: &mut OptionReader<'_>) -> Result<Self, SqlError> {
        let topic = topic(reader, "users_created")?;
        let bootstrap_servers = reader.text("properties.bootstrap.servers")?;
        let properties = properties(reader)?;
        let format = format(reader)?;
        if matches!(format, Format::DebeziumJson(_)) {
            refuse_startup(reader)?;
        }
        let startup = startup(reader)?;
        let bounded = bounded(reader)?;
        let on_data_loss = reader.choice("on_data_loss", &ON_DATA_LOSS)?.unwrap_or_default();
        let idle_timeout_us = reader.duration("scan.watermark.idle-timeout")?;
        Ok(Self { topic, bootstrap_servers, properties, format, startup, bounded, on_data_loss, idle_timeout_us })
    }

    /// Whether both are one topic of one cluster. Clusters are told apart by where they are declared to be.
    pub(crate) fn is_same_topic(&self, other: &Self) -> bool {
        let servers = |options: &Self| {
            let declared = options.bootstrap_servers.as_deref();
            declared.map(|servers| servers.split(',').map(|server| server.trim().to_lowercase()).collect::<BTreeSet<_>>())
        };
        self.topic == other.topic && servers(self) == servers(other)
    }

    /// Whether it is this topic of the platform's Kafka.
    pub(crate) fn is_of_platform(&self, topic: &str) -> bool {
        self.topic == topic && self.bootstrap_servers.is_none()
    }
}

pub(super) fn properties(reader: &mut OptionReader<'_>) -> Result<BTreeMap<String, String>, SqlError> {
    let mut properties = BTreeMap::new();
    for (name, entry) in reader.under("properties.") {
        if name == "bootstrap.servers" {
            continue;
        }
        if let Some((_, why)) = OWNED.iter().find(|(owned, _)| *owned == name) {
            return Err(SqlError::invalid_at(entry.at, format!("option '{}' cannot be set: {why}; leave it out", entry.key)));
        }
        if name.is_empty() {
            return Err(SqlError::invalid_at(
                entry.at,
                "option 'properties.' names no property; write for example 'properties.security.protocol'",
            ));
        }
        properties.insert(name.to_owned(), entry.value.clone());
    }
    Ok(properties)
}

fn format(reader: &mut OptionReader<'_>) -> Result<Format, SqlError> {
    reader.required("format", "json")?;
    Ok(match reader.choice("format", &[("json", false), ("debezium-json", true)])?.unwrap_or_default() {
        false => {
            refuse_ignoring(reader, "json.ignore-parse-errors")?;
            Format::Json(JsonOptions {
                fail_on_missing_field: reader.boolean("json.fail-on-missing-field")?.unwrap_or_default(),
                timestamp_format: reader.choice("json.timestamp-format.standard", &TIMESTAMP_FORMATS)?.unwrap_or_default(),
                ignore_null_fields: reader.boolean("json.encode.ignore-null-fields")?.unwrap_or_default(),
            })
        }
        true => {
            refuse_ignoring(reader, "debezium-json.ignore-parse-errors")?;
            let timestamp_format =
                reader.choice("debezium-json.timestamp-format.standard", &TIMESTAMP_FORMATS)?.unwrap_or_default();
            Format::DebeziumJson(DebeziumOptions {
                json: JsonOptions { timestamp_format, ..JsonOptions::default() },
                schema_include: reader.boolean("debezium-json.schema-include")?.unwrap_or_default(),
                has_key: reader.choice("key.format", &[("json", true)])?.unwrap_or_default(),
            })
        }
    })
}

fn refuse_ignoring(reader: &mut OptionReader<'_>, key: &'static str) -> Result<(), SqlError> {
    let Some(entry) = reader.entry(key) else { return Ok(()) };
    let message = format!(
        "option '{key}' of {} is not needed: a record that cannot be read becomes a dead letter and the job goes on; leave it out",
        reader.object()
    );
    Err(SqlError::invalid_at(entry.at, message))
}

/// Of a table that keeps a row per key.
pub(super) fn refuse_startup(reader: &mut OptionReader<'_>) -> Result<(), SqlError> {
    let given = MODES_AND_PLACES.iter().find_map(|key| reader.entry(key));
    let Some(entry) = given else { return Ok(()) };
    let message = format!(
        "option '{}' of {} is not for a table that keeps a row per key: its rows are made of all records, from the earliest on; leave it out",
        entry.key,
        reader.object()
    );
    Err(SqlError::invalid_at(entry.at, message))
}

fn startup(reader: &mut OptionReader<'_>) -> Result<StartupMode, SqlError> {
    let mode = reader.entry("scan.startup.mode");
    if let Some(entry) = mode.filter(|entry| entry.value == "group-offsets") {
        return Err(reader.wrong(entry, "'earliest-offset' or 'latest-offset', as a job's offsets are kept in its manifest"));
    }
    let choices: Vec<(&str, &str)> = MODES.iter().map(|mode| (*mode, *mode)).collect();
    let chosen = reader.choice("scan.startup.mode", &choices)?.unwrap_or("earliest-offset");
    let millis = millis(reader, "scan.startup.timestamp-millis", "scan.startup.mode", chosen)?;
    let offsets = specific_offsets(reader, "scan.startup.specific-offsets", "scan.startup.mode", chosen)?;
    Ok(match (chosen, millis, offsets) {
        ("latest-offset", ..) => StartupMode::Latest,
        (_, Some(millis), _) => StartupMode::Timestamp { millis },
        (_, _, Some(offsets)) => StartupMode::SpecificOffsets { offsets },
        _ => StartupMode::Earliest,
    })
}

pub(super) fn bounded(reader: &mut OptionReader<'_>) -> Result<Option<BoundedMode>, SqlError> {
    let choices: Vec<(&str, &str)> =
        std::iter::once("unbounded").chain(MODES[1..].iter().copied()).map(|mode| (mode, mode)).collect();
    let chosen = reader.choice("scan.bounded.mode", &choices)?.unwrap_or("unbounded");
    let millis = millis(reader, "scan.bounded.timestamp-millis", "scan.bounded.mode", chosen)?;
    let offsets = specific_offsets(reader, "scan.bounded.specific-offsets", "scan.bounded.mode", chosen)?;
    Ok(match (chosen, millis, offsets) {
        ("latest-offset", ..) => Some(BoundedMode::Latest),
        (_, Some(millis), _) => Some(BoundedMode::Timestamp { millis }),
        (_, _, Some(offsets)) => Some(BoundedMode::SpecificOffsets { offsets }),
        _ => None,
    })
}

/// `Some` exactly when the mode is `timestamp`.
fn millis(reader: &mut OptionReader<'_>, key: &'static str, mode_key: &str, mode: &str) -> Result<Option<i64>, SqlError> {
    let value = reader.parsed(key, "milliseconds since 1970, for example '1767225600000'", |millis: &i64| *millis >= 0)?;
    belongs(reader, key, value.is_some(), mode_key, mode, "timestamp", "1767225600000")?;
    Ok(value)
}

/// `Some` exactly when the mode is `specific-offsets`.
fn specific_offsets(
    reader: &mut OptionReader<'_>,
    key: &'static str,
    mode_key: &str,
    mode: &str,
) -> Result<Option<BTreeMap<i32, i64>>, SqlError> {
    const EXAMPLE: &str = "partition:0,offset:42;partition:1,offset:300";
    let value = match reader.entry(key) {
        Some(entry) => match offsets_by_partition(&entry.value) {
            Some(offsets) => Some(offsets),
            None => return Err(reader.wrong(entry, &format!("offsets by partition, for example '{EXAMPLE}'"))),
        },
        None => None,
    };
    belongs(reader, key, value.is_some(), mode_key, mode, "specific-offsets", EXAMPLE)?;
    Ok(value)
}

/// That an option and the mode it belongs to are given together.
fn belongs(
    reader: &mut OptionReader<'_>,
    key: &'static str,
    given: bool,
    mode_key: &str,
    mode: &str,
    its_mode: &str,
    example: &str,
) -> Result<(), SqlError> {
    match (given, mode == its_mode) {
        (false, true) => reader.required(key, example).map(|_| ()),
        (true, false) => {
            let message = format!("option '{key}' of {} goes with '{mode_key}' = '{its_mode}', not '{mode}'", reader.object());
            let at = reader.entry(key).map(|entry| entry.at);
            Err(SqlError::Invalid { at, message })
        }
        _ => Ok(()),
    }
}

/// What a topic's name takes.
pub const TOPIC_NAMES: &str = "1 to 249 letters from a to z, digits, '.', '_' and '-', and is neither '.' nor '..'";

/// Kafka's rule for the names of topics.
pub fn is_topic_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !matches!(name, "" | "." | "..") && name.len() <= 249 && name.bytes().all(is_plain)
}

pub(super) fn topic(reader: &mut OptionReader<'_>, example: &str) -> Result<String, SqlError> {
    let topic = reader.required("topic", example)?;
    if let Some(entry) = reader.entry("topic").filter(|entry| !is_topic_name(&entry.value)) {
        return Err(reader.wrong(entry, TOPIC_NAMES));
    }
    Ok(topic)
}

fn offsets_by_partition(text: &str) -> Option<BTreeMap<i32, i64>> {
    let mut offsets = BTreeMap::new();
    for pair in text.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (partition, offset) = pair.split_once(',')?;
        let partition: i32 =
            partition.trim().strip_prefix("partition:")?.trim().parse().ok().filter(|partition| *partition >= 0)?;
        let offset: i64 = offset.trim().strip_prefix("offset:")?.trim().parse().ok().filter(|offset| *offset >= 0)?;
        if offsets.insert(partition, offset).is_some() {
            return None;
        }
    }
    (!offsets.is_empty()).then_some(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_with_offsets_is_read_again() {
        let bounds = "'scan.startup.mode' = 'specific-offsets', 'scan.startup.specific-offsets' = 'partition:0,offset:42;partition:1,offset:300',
            'scan.bounded.mode' = 'specific-offsets', 'scan.bounded.specific-offsets' = 'partition:1,offset:301'";
        let sql = format!("CREATE TABLE t (k STRING) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json', {bounds})");
        let change = crate::Change { now_us: 0, incarnation: "a".into() };
        let statement = crate::parse(&sql).unwrap().remove(0);
        let catalog = crate::apply(&crate::Catalog::default(), &statement, &change).unwrap();
        let written = serde_json::to_string(&catalog).unwrap();
        assert_eq!(serde_json::from_str::<crate::Catalog>(&written).unwrap(), catalog);
    }

    #[test]
    fn properties_that_reach_further_than_a_table_are_refused() {
        let created = |connector: &str, property: &str| {
            let sql = format!(
                "CREATE TABLE t (k STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ({connector}, 'topic' = 't', 'properties.{property}' = 'x')"
            );
            let change = crate::Change { now_us: 0, incarnation: "a".into() };
            crate::apply(&crate::Catalog::default(), &crate::parse(&sql).unwrap().remove(0), &change)
        };
        let upsert = "'connector' = 'upsert-kafka', 'key.format' = 'json', 'value.format' = 'json'";
        created(upsert, "sasl.username").unwrap();
        for property in
            ["metadata.broker.list", "plugin.library.paths", "sasl.kerberos.kinit.cmd", "ssl.engine.location", "ssl.providers"]
        {
            for connector in ["'connector' = 'kafka', 'format' = 'json'", upsert] {
                let refused = created(connector, property).unwrap_err().to_string();
                assert!(refused.contains(&format!("option 'properties.{property}' cannot be set: ")), "{refused}");
            }
        }
    }

    #[test]
    fn topics_have_names_that_kafka_takes() {
        for name in ["users_created", "a.b-C_9", "...", "a".repeat(249).as_str()] {
            assert!(is_topic_name(name), "{name}");
        }
        for name in ["", ".", "..", "bad name!", "a;b", "städte", "a".repeat(250).as_str()] {
            assert!(!is_topic_name(name), "{name}");
        }
        let sql = "CREATE TABLE t (k STRING) WITH ('connector' = 'kafka', 'topic' = 'bad name!', 'format' = 'json')";
        let change = crate::Change { now_us: 0, incarnation: "a".into() };
        let refused = crate::apply(&crate::Catalog::default(), &crate::parse(sql).unwrap().remove(0), &change).unwrap_err();
        assert!(refused.to_string().contains("is 'bad name!'; it takes 1 to 249 letters"), "{refused}");
    }

    #[test]
    fn offsets_are_read_as_flink_writes_them() {
        let offsets = offsets_by_partition("partition:0,offset:42;partition:1,offset:300").unwrap();
        assert_eq!(offsets, BTreeMap::from([(0, 42), (1, 300)]));
        for wrong in ["", "0:42", "partition:0,offset:-1", "partition:0,offset:1;partition:0,offset:2", "partition:x,offset:1"] {
            assert_eq!(offsets_by_partition(wrong), None, "{wrong}");
        }
    }
}
