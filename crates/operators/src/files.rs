//! Files of a folder, or of a part of a bucket, as rows: what a table with `'connector' = 'filesystem'` is read from.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{RecordBatch, RecordBatchOptions, new_null_array},
        compute::{CastOptions, cast_with_options},
        datatypes::{Schema, SchemaRef},
    },
    common::{DataFusionError, Result, exec_err},
};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use polybolos_kafka::{
    decode::{DecodeOptions, Field, JsonDecoder, TimestampFormat},
    records::{ChunkBuilder, RawRecord},
};
use polybolos_persist::{Place, Places};
use polybolos_tables::plain::plain;
use serde::{Deserialize, Serialize};

use crate::{external, record_scan::BATCH_RECORDS};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// An object a line.
    Json(TimestampFormat),
    Parquet,
}

/// Lines are decoded so many bytes at a time.
const CHUNK_BYTES: usize = 16 << 20;

/// A table over files: its columns are found in them by name, and what a file does not have is NULL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTable {
    /// What messages call it.
    pub name: String,
    /// A [`Place`], as it is written.
    pub place: String,
    pub format: FileFormat,
}

impl FileTable {
    /// Names of its files, in order.
    pub async fn files(&self, places: &Places) -> Result<Vec<String>> {
        places.list(&self.place()?).await.map_err(external)
    }

    /// The rows of a file: those columns of them.
    pub async fn rows(&self, places: &Places, file: &str, columns: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let bytes = places.get(&self.place()?, file).await.map_err(external)?;
        let (columns, format) = (columns.clone(), self.format);
        let reading = tokio::task::spawn_blocking(move || match format {
            FileFormat::Json(timestamps) => lines(&bytes, &columns, timestamps),
            FileFormat::Parquet => parquet(bytes, &columns),
        });
        let read = reading.await.map_err(|error| DataFusionError::Execution(format!("reading ended early: {error}"))).flatten();
        read.map_err(|error| {
            let error = plain(&error.to_string());
            let message = format!("file {file} of table {} ({}) cannot be read: {error}; correct the file", self.name, self.place);
            DataFusionError::Execution(message)
        })
    }

    /// The rows of all files.
    pub async fn all(&self, places: &Places, columns: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let mut rows = vec![];
        for file in self.files(places).await? {
            rows.extend(self.rows(places, &file, columns).await?);
        }
        Ok(rows)
    }

    fn place(&self) -> Result<Place> {
        Place::parse(&self.place).map_err(external)
    }
}

fn lines(bytes: &[u8], columns: &SchemaRef, timestamp_format: TimestampFormat) -> Result<Vec<RecordBatch>> {
    let options = DecodeOptions { timestamp_format, ..DecodeOptions::default() };
    // So much of a line that is too long says so.
    let longest = options.max_record_bytes + 1;
    let fields = columns.fields().iter().map(|column| Field::Json { name: column.name().clone() }).collect();
    let mut decoder = JsonDecoder::new(columns.clone(), fields, options).map_err(external)?;
    let mut numbered = (1..).zip(bytes.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty()).peekable();
    let mut batches = vec![];
    while numbered.peek().is_some() {
        let mut chunk = ChunkBuilder::new();
        while chunk.len() < BATCH_RECORDS
            && chunk.bytes() < CHUNK_BYTES
            && let Some((number, line)) = numbered.next()
        {
            let payload = Some(&line[..line.len().min(longest)]);
            chunk.push(RawRecord { offset: number, timestamp: None, key: None, payload }, std::iter::empty());
        }
        let chunk = chunk.finish();
        let decoded = decoder.decode(&chunk, 0..chunk.len(), "", 0).map_err(external)?;
        if let Some(failure) = decoded.failures.first() {
            return exec_err!("line {}: {}", chunk.offset(failure.record as usize), failure.error);
        }
        batches.push(decoded.batch);
    }
    Ok(batches)
}

fn parquet(bytes: bytes::Bytes, columns: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(external)?;
    let kept = builder.schema().fields().iter().enumerate().filter(|(_, field)| columns.index_of(field.name()).is_ok());
    let mask = ProjectionMask::roots(builder.parquet_schema(), kept.map(|(index, _)| index));
    let reader = builder.with_projection(mask).with_batch_size(BATCH_RECORDS).build().map_err(external)?;
    reader.map(|batch| as_declared(&batch?, columns)).collect()
}

fn as_declared(batch: &RecordBatch, columns: &Schema) -> Result<RecordBatch> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let arrays = columns.fields().iter().map(|column| {
        let Some(found) = batch.column_by_name(column.name()) else {
            return Ok(new_null_array(column.data_type(), batch.num_rows()));
        };
        let cast = cast_with_options(found, column.data_type(), &options);
        cast.map_err(|error| DataFusionError::Execution(format!("column {}: {error}", column.name())))
    });
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(columns.clone()), arrays, &rows)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::{
        array::{ArrayRef, Int32Array, StringArray},
        datatypes::{DataType, Field as Column},
        util::pretty::pretty_format_batches,
    };
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn table(folder: &std::path::Path, format: FileFormat) -> FileTable {
        FileTable { name: "products".into(), place: folder.display().to_string(), format }
    }

    fn columns() -> SchemaRef {
        let column = |name, data_type| Column::new(name, data_type, true);
        Arc::new(Schema::new(vec![
            column("id", DataType::Int64),
            column("name", DataType::Utf8),
            column("size", DataType::Float64),
        ]))
    }

    async fn shown(table: &FileTable, columns: &SchemaRef) -> Result<String, String> {
        let rows = table.all(&Places::default(), columns).await.map_err(|error| error.strip_backtrace())?;
        Ok(pretty_format_batches(&rows).expect("shown").to_string())
    }

    #[tokio::test]
    async fn columns_are_found_by_name_in_every_file_and_what_is_missing_is_null() {
        let folder = tempfile::tempdir().expect("folder");
        let ids: ArrayRef = Arc::new(Int32Array::from(vec![2, 3]));
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("Ø"), None]));
        let batch = RecordBatch::try_from_iter([("name", names), ("other", ids.clone()), ("id", ids)]).expect("batch");
        let mut parquet = vec![];
        let mut writer = ArrowWriter::try_new(&mut parquet, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("writes");
        writer.close().expect("closes");
        std::fs::write(folder.path().join("b.parquet"), parquet).expect("written");
        let expected = "| 2  | Ø    |      |\n| 3  |      |      |";
        let found = shown(&table(folder.path(), FileFormat::Parquet), &columns()).await.expect("reads");
        assert!(found.contains(expected), "{found}");
        std::fs::remove_file(folder.path().join("b.parquet")).expect("removed");

        std::fs::write(folder.path().join("b.json"), "{\"name\":\"Ø\",\"id\":2}\r\n\n{\"id\":3,\"name\":null}").expect("written");
        std::fs::write(folder.path().join("a.json"), "{\"id\":1,\"size\":0.5}\n").expect("written");
        for hidden in [".c.json", "_SUCCESS"] {
            std::fs::write(folder.path().join(hidden), "not to be read").expect("written");
        }
        let json = table(folder.path(), FileFormat::Json(TimestampFormat::Sql));
        let found = shown(&json, &columns()).await.expect("reads");
        assert!(found.contains(&format!("| 1  |      | 0.5  |\n{expected}")), "{found}");
        let counted = json.all(&Places::default(), &Arc::new(Schema::empty())).await.expect("reads");
        assert_eq!(counted.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("a.json"), "{\"id\":1}\n\n{\"id\":\"x\"}\n").expect("written");
        let error = shown(&table(folder.path(), FileFormat::Json(TimestampFormat::Sql)), &columns()).await.expect_err("refused");
        assert!(error.contains("file a.json of table products (") && error.contains("line 3: "), "{error}");
        let error = shown(&table(folder.path(), FileFormat::Parquet), &columns()).await.expect_err("refused");
        assert!(error.contains("file a.json of table products (") && error.contains("cannot be read"), "{error}");
        let nowhere = table(&folder.path().join("nowhere"), FileFormat::Parquet);
        assert_eq!(nowhere.files(&Places::default()).await.expect("lists"), Vec::<String>::new());
    }
}
