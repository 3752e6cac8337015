//! Options of `'connector' = 'filesystem'`: a folder, or part of a bucket, that gets a file for each part of an epoch; read by queries,
//! and by jobs when they start.
//!
//! | key | value | default |
//! |---|---|---|
//! | `path` | `file:///folder` or `s3://bucket/prefix`, below a place that an administrator allows (`sql.allowed_locations`, `up --allow-location`) | required |
//! | `format` | `json` (an object a line) or `parquet` | required |
//! | `json.timestamp-format.standard` | as that of `'connector' = 'kafka'` | `SQL` |
//! | `json.encode.ignore-null-fields` | as that of `'connector' = 'kafka'` | `false` |
use serde::{Deserialize, Serialize};

use super::{
    OptionReader,
    kafka::{JsonOptions, TIMESTAMP_FORMATS},
};
use crate::error::SqlError;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemOptions {
    /// `file:///folder` or `s3://bucket/prefix`, without `..`.
    pub path: String,
    pub format: FileFormat,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    Json(JsonOptions),
    Parquet,
}

impl FilesystemOptions {
    pub(crate) fn read(reader: &mut OptionReader<'_>) -> Result<Self, SqlError> {
        let path = reader.required("path", "s3://bucket/readings")?;
        if let Some(entry) = reader.entry("path").filter(|entry| !is_place(&entry.value)) {
            return Err(reader.wrong(entry, "'file:///folder' or 's3://bucket/prefix', without '..'"));
        }
        reader.required("format", "json")?;
        let format = reader.choice("format", &[("json", false), ("parquet", true)])?;
        let timestamp_format = reader.choice("json.timestamp-format.standard", &TIMESTAMP_FORMATS)?.unwrap_or_default();
        let ignore_null_fields = reader.boolean("json.encode.ignore-null-fields")?.unwrap_or_default();
        let format = match format {
            Some(true) => FileFormat::Parquet,
            _ => FileFormat::Json(JsonOptions { timestamp_format, ignore_null_fields, ..JsonOptions::default() }),
        };
        Ok(Self { path, format })
    }
}

fn is_place(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("file:///").or_else(|| path.strip_prefix("s3://")) else { return false };
    !rest.is_empty() && rest.trim_end_matches('/').split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::is_place;

    #[test]
    fn places_are_folders_and_parts_of_buckets() {
        for path in ["file:///data/out", "file:///data/out/", "s3://lake", "s3://lake/out"] {
            assert!(is_place(path), "{path}");
        }
        for path in
            ["/data/out", "data", "file://data", "file:///", "s3://", "s3://lake//out", "file:///data/../etc", "http://host/x"]
        {
            assert!(!is_place(path), "{path}");
        }
    }
}
