//! Publishing as files: one for each part of an epoch, named by both and by the job's incarnation, that is there whole or not at all. Writing it again puts the
//! same file in its place.
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};
use polybolos_kafka::encode::{EncodeOptions, encode};
use polybolos_persist::{Place, Places};
use polybolos_tables::{Grant, TableError};
use serde::{Deserialize, Serialize};

use super::{Order, PublishError, Published, RefusedRow};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesTarget {
    /// A [`Place`], as it is written.
    pub place: String,
    pub format: Format,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// An object a line.
    Json(EncodeOptions),
    Parquet,
}

impl Format {
    fn extension(&self) -> &'static str {
        match self {
            Self::Json(_) => "json",
            Self::Parquet => "parquet",
        }
    }
}

/// Writes a part. Without rows there is no file.
pub async fn write(
    places: &Places,
    order: &Order,
    target: &FilesTarget,
    batches: &[RecordBatch],
    grant: &dyn Grant,
) -> Result<Published, PublishError> {
    let place = Place::parse(&target.place)?;
    // Names sort by epoch within an incarnation.
    let name = format!(
        "{}-{:012}-{:05}-{}.{}",
        order.incarnation,
        order.epoch.0,
        order.file.part.0,
        order.sink,
        target.format.extension()
    );
    let (format, batches) = (target.format.clone(), batches.to_vec());
    let encoding = tokio::task::spawn_blocking(move || contents(&format, &batches));
    let (bytes, published) = encoding.await.map_err(|error| PublishError::Parquet(error.to_string()))??;
    if published.rows > 0 {
        if !grant.holds() {
            return Err(TableError::GrantExpired.into());
        }
        places.put(&place, &name, bytes).await?;
    }
    Ok(published)
}

fn contents(format: &Format, batches: &[RecordBatch]) -> Result<(Bytes, Published), PublishError> {
    let mut published = Published::default();
    let mut bytes = Vec::new();
    match format {
        Format::Json(options) => {
            for (batch, rows) in batches.iter().enumerate() {
                let encoded = encode(rows, *options)?;
                for row in 0..encoded.len() {
                    match encoded.row(row) {
                        Ok(object) => {
                            bytes.extend_from_slice(object);
                            bytes.push(b'\n');
                            published.rows += 1;
                        }
                        Err(error) => published.refused.push(RefusedRow { batch, row, error: error.to_owned() }),
                    }
                }
            }
        }
        Format::Parquet => {
            let Some(first) = batches.first() else { return Ok((bytes.into(), published)) };
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
            let mut writer = ArrowWriter::try_new(&mut bytes, first.schema(), Some(properties))?;
            for batch in batches {
                writer.write(batch)?;
                published.rows += batch.num_rows() as u64;
            }
            writer.close()?;
        }
    }
    Ok((bytes.into(), published))
}

impl From<ParquetError> for PublishError {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Date32Array};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn batches() -> Vec<RecordBatch> {
        let batch = |days: &[i32]| {
            let days: ArrayRef = Arc::new(Date32Array::from(days.to_vec()));
            RecordBatch::try_from_iter([("day", days)]).expect("batch")
        };
        vec![batch(&[0, 2_932_897]), batch(&[1])]
    }

    #[test]
    fn lines_are_objects_and_what_cannot_be_said_is_refused() {
        let (bytes, published) = contents(&Format::Json(EncodeOptions::default()), &batches()).expect("encodes");
        assert_eq!(String::from_utf8_lossy(&bytes), "{\"day\":\"1970-01-01\"}\n{\"day\":\"1970-01-02\"}\n");
        assert_eq!((published.rows, published.refused.len()), (2, 1));
        assert_eq!((published.refused[0].batch, published.refused[0].row), (0, 1));
    }

    #[test]
    fn parquet_reads_back_and_is_the_same_bytes_again() {
        let (bytes, published) = contents(&Format::Parquet, &batches()).expect("encodes");
        assert_eq!(published.rows, 3);
        assert_eq!(contents(&Format::Parquet, &batches()).expect("encodes").0, bytes);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("a file").build().expect("a reader");
        let rows: usize = reader.map(|batch| batch.expect("a batch").num_rows()).sum();
        assert_eq!(rows, 3);
    }

    #[test]
    fn nothing_is_written_of_nothing() {
        for format in [Format::Json(EncodeOptions::default()), Format::Parquet] {
            assert_eq!(contents(&format, &[]).expect("encodes").1.rows, 0);
        }
    }
}
