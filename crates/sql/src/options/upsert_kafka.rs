//! Options of `'connector' = 'upsert-kafka'`, in Flink's words: a topic that keeps one row per key, the last record of each.
//!
//! | key | value | default |
//! |---|---|---|
//! | `topic`, `properties.*` | as those of `'connector' = 'kafka'` | |
//! | `key.format` | `json`; `raw`: the key is the one column of the primary key, a STRING or BYTES, as it is | required |
//! | `value.format` | `json` | required |
//! | `value.fields-include` | `ALL`, or `EXCEPT_KEY`: the value repeats the key's columns or not | `ALL` |
//! | `value.json.timestamp-format.standard`, `value.json.encode.ignore-null-fields`, `value.json.fail-on-missing-field` | as `json.…` of `'connector' = 'kafka'`, of the value | |
//! | `scan.bounded.mode`, `scan.bounded.timestamp-millis`, `scan.bounded.specific-offsets`, `on_data_loss` | as those of `'connector' = 'kafka'` | |
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    OptionReader,
    kafka::{
        BoundedMode, Format, JsonOptions, KafkaOptions, ON_DATA_LOSS, OnDataLoss, StartupMode, TIMESTAMP_FORMATS, bounded,
        properties, refuse_startup, topic,
    },
};
use crate::error::SqlError;

/// A topic that keeps the last record of each key: rows are upserts, deletes are tombstones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpsertKafkaOptions {
    pub topic: String,
    /// As in [`super::kafka::KafkaOptions`].
    pub bootstrap_servers: Option<String>,
    pub properties: BTreeMap<String, String>,
    pub value: JsonOptions,
    /// The value repeats the key's columns.
    pub value_has_key: bool,
    #[serde(default)]
    pub key: KeyFormat,
    /// `None`: the table has no end.
    #[serde(default)]
    pub bounded: Option<BoundedMode>,
    #[serde(default)]
    pub on_data_loss: OnDataLoss,
}

/// What the key of a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyFormat {
    /// An object of the key's columns.
    #[default]
    Json,
    /// The bytes of the key's one column.
    Raw,
}

impl UpsertKafkaOptions {
    pub(crate) fn read(reader: &mut OptionReader<'_>) -> Result<Self, SqlError> {
        let topic = topic(reader, "users_by_city")?;
        let bootstrap_servers = reader.text("properties.bootstrap.servers")?;
        let properties = properties(reader)?;
        reader.required("key.format", "json")?;
        let key = reader.choice("key.format", &[("json", KeyFormat::Json), ("raw", KeyFormat::Raw)])?.unwrap_or_default();
        reader.required("value.format", "json")?;
        if let Some(entry) = reader.entry("value.format").filter(|entry| entry.value != "json") {
            return Err(reader.wrong(entry, "'json', the one format of this version"));
        }
        refuse_startup(reader)?;
        let value_has_key = reader.choice("value.fields-include", &[("ALL", true), ("EXCEPT_KEY", false)])?.unwrap_or(true);
        let timestamp_format = reader.choice("value.json.timestamp-format.standard", &TIMESTAMP_FORMATS)?.unwrap_or_default();
        let ignore_null_fields = reader.boolean("value.json.encode.ignore-null-fields")?.unwrap_or_default();
        let fail_on_missing_field = reader.boolean("value.json.fail-on-missing-field")?.unwrap_or_default();
        let value = JsonOptions { fail_on_missing_field, timestamp_format, ignore_null_fields };
        let bounded = bounded(reader)?;
        let on_data_loss = reader.choice("on_data_loss", &ON_DATA_LOSS)?.unwrap_or_default();
        Ok(Self { topic, bootstrap_servers, properties, value, value_has_key, key, bounded, on_data_loss })
    }

    /// How the topic's records are read, of which rows are made.
    pub fn reading(&self) -> KafkaOptions {
        KafkaOptions {
            topic: self.topic.clone(),
            bootstrap_servers: self.bootstrap_servers.clone(),
            properties: self.properties.clone(),
            format: Format::Json(self.value.clone()),
            startup: StartupMode::Earliest,
            bounded: self.bounded.clone(),
            on_data_loss: self.on_data_loss,
            idle_timeout_us: None,
        }
    }
}
