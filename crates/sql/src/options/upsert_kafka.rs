//! Options of `'connector' = 'upsert-kafka'`, in Flink's words: a topic that keeps one row per key, and is only written.
//!
//! | key | value | default |
//! |---|---|---|
//! | `topic`, `properties.*` | as those of `'connector' = 'kafka'` | |
//! | `key.format`, `value.format` | `json` | required |
//! | `value.fields-include` | `ALL`, or `EXCEPT_KEY`: the value repeats the key's columns or not | `ALL` |
//! | `value.json.timestamp-format.standard`, `value.json.encode.ignore-null-fields` | as `json.…` of `'connector' = 'kafka'`, of the value | |
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    OptionReader,
    kafka::{JsonOptions, TIMESTAMP_FORMATS, properties},
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
}

impl UpsertKafkaOptions {
    pub(crate) fn read(reader: &mut OptionReader<'_>) -> Result<Self, SqlError> {
        let topic = reader.required("topic", "users_by_city")?;
        let bootstrap_servers = reader.text("properties.bootstrap.servers")?;
        let properties = properties(reader)?;
        for key in ["key.format", "value.format"] {
            reader.required(key, "json")?;
            if let Some(entry) = reader.entry(key).filter(|entry| entry.value != "json") {
                return Err(reader.wrong(entry, "'json', the one format of this version"));
            }
        }
        let value_has_key = reader.choice("value.fields-include", &[("ALL", true), ("EXCEPT_KEY", false)])?.unwrap_or(true);
        let timestamp_format = reader.choice("value.json.timestamp-format.standard", &TIMESTAMP_FORMATS)?.unwrap_or_default();
        let ignore_null_fields = reader.boolean("value.json.encode.ignore-null-fields")?.unwrap_or_default();
        let value = JsonOptions { timestamp_format, ignore_null_fields, ..JsonOptions::default() };
        Ok(Self { topic, bootstrap_servers, properties, value, value_has_key })
    }
}
