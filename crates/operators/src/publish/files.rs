//! Publishing as files: one for each part of an epoch, named by both and by the job's incarnation, that is there whole or not at all. Writing it again puts the
//! same file in its place.
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::{
    array::RecordBatch,
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
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
            let columns: SchemaRef =
                Arc::new(Schema::new(first.schema().fields().iter().map(as_written).collect::<Vec<FieldRef>>()));
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
            let mut writer = ArrowWriter::try_new(&mut bytes, columns.clone(), Some(properties))?;
            for batch in batches {
                writer.write(&cast_to(batch, &columns)?)?;
                published.rows += batch.num_rows() as u64;
            }
            writer.close()?;
        }
    }
    Ok((bytes.into(), published))
}

/// A column as a Parquet file has it. Parquet has no times of whole seconds: who does not read the schema of Arrow that is beside the columns
/// would find bare numbers.
fn as_written(column: &FieldRef) -> FieldRef {
    let data_type = match column.data_type() {
        DataType::Time32(TimeUnit::Second) => DataType::Time32(TimeUnit::Millisecond),
        DataType::Timestamp(TimeUnit::Second, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::List(item) => DataType::List(as_written(item)),
        DataType::Map(entries, sorted) => DataType::Map(as_written(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(as_written).collect()),
        other => other.clone(),
    };
    Arc::new(Field::clone(column).with_data_type(data_type))
}

fn cast_to(batch: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    // What has no room is an error, and not NULL.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let casts = batch.columns().iter().zip(columns.fields());
    let arrays = casts.map(|(array, column)| cast_with_options(array, column.data_type(), &options));
    RecordBatch::try_new(columns.clone(), arrays.collect::<Result<Vec<_>, _>>()?)
}

impl From<ParquetError> for PublishError {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        ArrayRef, Date32Array, ListBuilder, MapBuilder, StringBuilder, StructArray, Time32SecondArray, Time32SecondBuilder,
        TimestampSecondArray, TimestampSecondBuilder,
    };
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

    use super::{
        super::tests::{Held, order},
        *,
    };
    use crate::files::{FileFormat, FileTable};

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

    #[tokio::test]
    async fn whole_seconds_are_times_for_every_reader_of_parquet_and_come_back_as_declared() {
        let instants = TimestampSecondArray::from(vec![Some(-1), None, Some(1_700_000_000)]);
        let times: ArrayRef = Arc::new(Time32SecondArray::from(vec![Some(0), Some(86_399), None]));
        let (mut lists, mut maps) = (
            ListBuilder::new(TimestampSecondBuilder::new()),
            MapBuilder::new(None, StringBuilder::new(), Time32SecondBuilder::new()),
        );
        for row in 0..3_i64 {
            lists.append_value([Some(row), None]);
            maps.keys().append_value("at");
            maps.values().append_value(row as i32);
            maps.append(true).expect("as many keys as values");
        }
        let field: FieldRef = Arc::new(Field::new("at", times.data_type().clone(), true));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("at", Arc::new(instants.clone())),
            ("instant", Arc::new(instants.with_timezone("UTC"))),
            ("time", times.clone()),
            ("list", Arc::new(lists.finish())),
            ("map", Arc::new(maps.finish())),
            ("row", Arc::new(StructArray::from(vec![(field, times)]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("batch");
        let (bytes, _) = contents(&Format::Parquet, std::slice::from_ref(&batch)).expect("encodes");

        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options).expect("a file");
        for leaf in reader.parquet_schema().columns() {
            assert!(leaf.logical_type_ref().is_some(), "{} is a bare number", leaf.path());
        }
        let read = |name: &str| reader.schema().field_with_name(name).expect("a column").data_type().clone();
        assert_eq!(read("time"), DataType::Time32(TimeUnit::Millisecond));
        assert_eq!(read("at"), DataType::Timestamp(TimeUnit::Millisecond, None));

        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("a.parquet"), bytes).expect("written");
        let table = FileTable { name: "archive".into(), place: folder.path().display().to_string(), format: FileFormat::Parquet };
        let rows = table.all(&Places::default(), &batch.schema()).await.expect("reads");
        assert_eq!(rows, [batch]);
    }

    /// EPOCHS rule 6.
    #[tokio::test]
    async fn a_grant_that_ends_while_rows_are_encoded_puts_no_file() {
        let folder = tempfile::tempdir().expect("folder");
        let target = FilesTarget { place: folder.path().display().to_string(), format: Format::Parquet };
        let (places, order, rows) = (Places::default(), order(), batches());
        let files = || std::fs::read_dir(folder.path()).expect("folder").count();
        let stopped = write(&places, &order, &target, &rows, &Held::times(0)).await.expect_err("no grant");
        assert!(matches!(stopped, PublishError::Table(TableError::GrantExpired)), "{stopped}");
        assert_eq!(files(), 0);
        let grant = Held::times(1);
        let published = write(&places, &order, &target, &rows, &grant).await.expect("written");
        assert_eq!((published.rows, files(), grant.asked()), (3, 1, 1));
    }

    #[test]
    fn nothing_is_written_of_nothing() {
        for format in [Format::Json(EncodeOptions::default()), Format::Parquet] {
            assert_eq!(contents(&format, &[]).expect("encodes").1.rows, 0);
        }
    }
}
