//! JSON records to Arrow, column by column from the bytes, without values or rows in between: one pass over each record appends to the
//! columns that are wanted and skips, but checks, the rest. A record that cannot become a row is taken back from the columns and reported;
//! every record is either a row or a failure, so rows never shift against offsets.
mod column;
mod decimal;
mod fault;
mod metadata;
mod nested;
mod scan;
mod text;
mod time;
mod validity;
mod values;

use serde::{Deserialize, Serialize, de::IgnoredAny};
use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::array::{BooleanArray, BooleanBufferBuilder, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field as Member, Fields, SchemaRef};

use self::column::{Column, column_for};
use self::fault::{Fault, Outcome};
use self::nested::StructColumn;
use self::scan::Scanner;
use crate::error::{KafkaError, Result};
use crate::records::RecordChunk;

/// Where a column of the schema comes from; all but `Json` are `METADATA FROM` in SQL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Field {
    /// A member of the JSON object.
    Json {
        name: String,
    },
    /// A member of the JSON object that the record's key is.
    KeyJson {
        name: String,
    },
    /// Whether the payload is null: a BOOLEAN.
    Tombstone,
    /// The record's key: text (then it must be UTF-8) or bytes.
    Key,
    /// The payload as it is: text (then it must be UTF-8) or bytes.
    Value,
    /// The record's timestamp.
    Timestamp,
    /// `CreateTime`, `LogAppendTime` or `NoTimestampType`.
    TimestampType,
    Offset,
    Partition,
    Topic,
    /// `MAP<STRING, BYTES>`; of headers with one name the last counts.
    Headers,
}

/// How messages show a timestamp to the user; both notations are read in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TimestampFormat {
    #[default]
    Sql,
    Iso8601,
}

/// What payloads are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Format {
    /// One JSON object per record, checked even when no column of it is wanted.
    #[default]
    Json,
    /// Bytes that nobody looks into; a null payload is a row with NULL.
    Raw,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DecodeOptions {
    pub format: Format,
    /// Larger payloads are failures.
    pub max_record_bytes: usize,
    /// Objects and lists within each other, the outermost counted.
    pub max_depth: usize,
    pub timestamp_format: TimestampFormat,
    /// Numbers and booleans are taken for text in text columns (as Flink does) instead of being failures.
    pub scalars_as_text: bool,
    /// An object that lacks a field that is read is a failure instead of a NULL.
    #[serde(default)]
    pub fail_on_missing_field: bool,
    /// Of a topic that keeps a row per key: a null payload is a row whose members are all NULL, instead of a failure.
    #[serde(default)]
    pub tombstones: Option<Tombstones>,
}

/// Payloads may be null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tombstones {
    /// Members that may not be NULL where there is a payload; their columns are nullable for the tombstones.
    pub required: Vec<String>,
    /// Payloads are null too that say so in JSON: `null`, and `{"schema": …, "payload": null}` where `payload` is required.
    #[serde(default)]
    pub in_json: bool,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            format: Format::Json,
            max_record_bytes: 8 << 20,
            max_depth: 64,
            timestamp_format: TimestampFormat::Sql,
            scalars_as_text: false,
            fail_on_missing_field: false,
            tombstones: None,
        }
    }
}

/// The scanner recurses; deeper than this the stack would be at risk.
const MAX_MAX_DEPTH: usize = 512;

/// Rows and failures of a range of records.
#[derive(Debug)]
pub struct Decoded {
    pub batch: RecordBatch,
    /// For each row, the index of its record in the chunk.
    pub records: Vec<u32>,
    pub failures: Vec<DecodeFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeFailure {
    /// Index of the record in the chunk.
    pub record: u32,
    /// One line.
    pub error: String,
}

/// The message of a failure that a null payload is.
pub const NULL_PAYLOAD: &str = "null payload";

/// Reads records of one table; keeps its buffers from call to call.
pub struct JsonDecoder {
    schema: SchemaRef,
    fields: Vec<Field>,
    options: DecodeOptions,
    json: StructColumn,
    /// Members of keys, where any is wanted.
    key: Option<StructColumn>,
    metadata: metadata::Needs,
}

impl std::fmt::Debug for JsonDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonDecoder").field("schema", &self.schema).field("options", &self.options).finish()
    }
}

impl JsonDecoder {
    /// One field per column of the schema, in the same order.
    pub fn new(schema: SchemaRef, fields: Vec<Field>, options: DecodeOptions) -> Result<Self> {
        if schema.fields().len() != fields.len() {
            return Err(KafkaError::Bug(format!("{} columns, but {} fields", schema.fields().len(), fields.len())));
        }
        let options = DecodeOptions { max_depth: options.max_depth.clamp(1, MAX_MAX_DEPTH), ..options };
        let (mut members, mut key_members) = (Vec::new(), Vec::new());
        for (column, field) in schema.fields().iter().zip(&fields) {
            let (name, members, raw) = match field {
                Field::Json { name } => (name, &mut members, options.format == Format::Raw),
                Field::KeyJson { name } => (name, &mut key_members, false),
                _ => {
                    metadata::check(column, field)?;
                    continue;
                }
            };
            if raw || column_for(column.data_type(), &options).is_none() {
                return Err(KafkaError::UnsupportedColumn {
                    column: column.name().clone(),
                    data_type: column.data_type().to_string(),
                    from: if raw { "a raw payload" } else { "JSON" },
                });
            }
            let required = matches!(field, Field::Json { .. })
                && options.tombstones.iter().any(|tombstones| tombstones.required.contains(name));
            members.push(column.as_ref().clone().with_name(name).with_nullable(column.is_nullable() && !required));
        }
        // What must be there is looked for, whether it is wanted or not: which record is a key's last must not depend on that.
        let is_wanted = |name: &String| fields.contains(&Field::Json { name: name.clone() });
        let required = options.tombstones.iter().flat_map(|tombstones| &tombstones.required).filter(|name| !is_wanted(name));
        members.extend(required.map(|name| Member::new(name, DataType::Null, false)));
        let of = |members| StructColumn::new(Fields::from(members), &options).expect("each column was checked");
        let key = (!key_members.is_empty()).then(|| of(key_members));
        let json = of(members);
        let metadata = metadata::Needs::of(&schema, &fields);
        Ok(Self { schema, fields, options, json, key, metadata })
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// `records` are indexes in the chunk; all of them come back, as a row or as a failure.
    pub fn decode(&mut self, chunk: &RecordChunk, records: Range<usize>, topic: &str, partition: i32) -> Result<Decoded> {
        let mut rows = Vec::with_capacity(records.len());
        let mut tombstones = self.fields.contains(&Field::Tombstone).then(|| BooleanBufferBuilder::new(records.len()));
        let mut failures = Vec::new();
        for record in records {
            match self.append(chunk, record, rows.len()) {
                Ok(is_tombstone) => {
                    rows.push(record as u32);
                    if let Some(tombstones) = &mut tombstones {
                        tombstones.append(is_tombstone);
                    }
                }
                Err(fault) => {
                    self.json.truncate(rows.len());
                    if let Some(key) = &mut self.key {
                        key.truncate(rows.len());
                    }
                    failures.push(DecodeFailure { record: record as u32, error: fault.line() });
                }
            }
        }
        let mut json = self.json.finish_fields().into_iter();
        let mut key = self.key.as_mut().map(StructColumn::finish_fields).unwrap_or_default().into_iter();
        let mut columns = Vec::with_capacity(self.fields.len());
        for (column, field) in self.schema.fields().iter().zip(&self.fields) {
            columns.push(match field {
                Field::Json { .. } => json.next().expect("one array per member"),
                Field::KeyJson { .. } => key.next().expect("one array per member"),
                Field::Tombstone => {
                    let tombstones = tombstones.as_ref().expect("they were noted, as the column is wanted");
                    Arc::new(BooleanArray::new(tombstones.finish_cloned(), None))
                }
                _ => metadata::column(column, field, chunk, &rows, topic, partition),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
        let batch = batch.map_err(|error| KafkaError::Bug(format!("decoded columns do not make a batch: {error}")))?;
        Ok(Decoded { batch, records: rows, failures })
    }

    /// As row `row`; answers whether the record has no payload.
    #[inline]
    fn append(&mut self, chunk: &RecordChunk, record: usize, row: usize) -> Outcome<bool> {
        let payload = chunk.payload(record);
        let bytes = payload.map_or(0, <[u8]>::len);
        if bytes > self.options.max_record_bytes {
            let limit = self.options.max_record_bytes;
            return Err(Fault::value(format!("a record of {bytes} bytes, more than the limit of {limit}")));
        }
        self.metadata.check(chunk, record)?;
        if self.options.format == Format::Raw {
            return Ok(payload.is_none());
        }
        if let Some(members) = &mut self.key {
            let key = chunk.key(record).ok_or_else(|| Fault::value("the record has no key".into()))?;
            read_object(members, key, self.options.max_depth).map_err(Fault::of_key)?;
        }
        let tombstones = self.options.tombstones.as_ref();
        match payload.map(|payload| (payload, read_object(&mut self.json, payload, self.options.max_depth))) {
            Some((_, Ok(()))) => return Ok(false),
            Some((payload, Err(_))) if tombstones.is_some_and(|tombstones| tombstones.in_json) && is_null(payload) => {
                self.json.truncate(row);
            }
            Some((_, Err(fault))) => return Err(fault),
            None if tombstones.is_some() => {}
            None => return Err(Fault::value(NULL_PAYLOAD.into())),
        }
        self.json.append_null();
        Ok(true)
    }
}

/// Whether JSON says that there is no payload.
#[cold]
fn is_null(bytes: &[u8]) -> bool {
    let members = serde_json::from_slice::<Option<HashMap<String, Option<IgnoredAny>>>>(bytes);
    members.is_ok_and(|members| members.is_none_or(|members| matches!(members.get("payload"), Some(None))))
}

/// Reads the one object that `bytes` must be.
#[inline]
fn read_object(members: &mut StructColumn, bytes: &[u8], max_depth: usize) -> Outcome {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Fault::value(format!("not UTF-8 from byte {} on; JSON must be", error.valid_up_to())))?;
    let mut scanner = Scanner::new(text, max_depth);
    match scanner.token() {
        None => return Err(Fault::value("an empty record".into())),
        Some(b'{') => {}
        Some(_) => {
            let found = scanner.glimpse();
            scanner.skip_value()?;
            return Err(Fault::value(format!("expected an object, found {found}")));
        }
    }
    members.read(&mut scanner)?;
    scanner.end()
}

#[cfg(test)]
mod tests;
