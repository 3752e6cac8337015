//! The rows of one side of a comparison. They are held while they are few; more go to files, in parts by their keys, and both sides are compared part by part: what
//! that takes of memory does not grow with a table but by a 64th.
use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufWriter, IntoInnerError, Seek},
    mem::take,
    sync::Arc,
};

use anyhow::Context;
use datafusion::arrow::{
    array::{RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use futures::{Stream, StreamExt};

use super::compare::{Compared, Comparison};

/// Of each side in memory.
const MOST_HELD_BYTES: usize = 64 << 20;

const PARTS: usize = 64;

#[derive(Default)]
pub struct Rows {
    held: Vec<RecordBatch>,
    held_bytes: usize,
    /// What is not held: one file per part, or none yet.
    files: Vec<StreamWriter<BufWriter<File>>>,
}

impl Rows {
    /// With the rows of a stream.
    pub async fn and<E: Into<anyhow::Error>>(
        mut self,
        comparison: &Arc<Comparison>,
        mut batches: impl Stream<Item = Result<RecordBatch, E>> + Unpin,
    ) -> anyhow::Result<Self> {
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| -> anyhow::Error { error.into() })?;
            self.hold(comparison.normalised(&batch)?);
            if self.held_bytes > MOST_HELD_BYTES {
                let comparison = comparison.clone();
                self = tokio::task::spawn_blocking(move || self.in_files(&comparison)).await??;
            }
        }
        Ok(self)
    }

    fn hold(&mut self, batch: RecordBatch) {
        self.held_bytes += batch.get_array_memory_size();
        self.held.push(batch);
    }

    /// Holds nothing any more.
    fn in_files(mut self, comparison: &Comparison) -> anyhow::Result<Self> {
        const AWAY: &str = "rows that are too many to be held go to the scheduler's folder for temporary files";
        if self.files.is_empty() {
            let file = || -> anyhow::Result<_> { Ok(StreamWriter::try_new_buffered(tempfile::tempfile()?, comparison.schema())?) };
            self.files = (0..PARTS).map(|_| file()).collect::<anyhow::Result<Vec<_>>>().context(AWAY)?;
        }
        let mut parts: Vec<Vec<RecordBatch>> = vec![vec![]; PARTS];
        for batch in take(&mut self.held) {
            for (part, rows) in parts.iter_mut().zip(by_part(comparison, &batch)?) {
                if !rows.is_empty() {
                    part.push(take_record_batch(&batch, &UInt32Array::from(rows))?);
                }
            }
        }
        for (file, part) in self.files.iter_mut().zip(parts) {
            if !part.is_empty() {
                file.write(&concat_batches(comparison.schema(), &part)?).context(AWAY)?;
            }
        }
        self.held_bytes = 0;
        Ok(self)
    }

    fn into_parts(self, comparison: &Comparison) -> anyhow::Result<Vec<Part>> {
        if self.files.is_empty() {
            return Ok(vec![Part::Held(self.held)]);
        }
        let of_file = |file: StreamWriter<BufWriter<File>>| -> anyhow::Result<Part> {
            let mut file = file.into_inner()?.into_inner().map_err(IntoInnerError::into_error)?;
            file.rewind()?;
            Ok(Part::InFile(file))
        };
        self.in_files(comparison)?.files.into_iter().map(of_file).collect()
    }
}

enum Part {
    Held(Vec<RecordBatch>),
    InFile(File),
}

impl Part {
    fn rows(self) -> anyhow::Result<Vec<RecordBatch>> {
        match self {
            Self::Held(rows) => Ok(rows),
            Self::InFile(file) => Ok(StreamReader::try_new_buffered(file, None)?.collect::<Result<_, _>>()?),
        }
    }
}

/// The rows of each part. Those without a whole key are of the first.
fn by_part(comparison: &Comparison, batch: &RecordBatch) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut parts = vec![vec![]; PARTS];
    for (row, key) in comparison.keys(batch)?.into_iter().enumerate() {
        let part = key.map_or(0, |key| {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            hasher.finish() as usize % PARTS
        });
        parts[part].push(row as u32);
    }
    Ok(parts)
}

/// Blocks: it computes, and reads files. See [`Comparison::compare`].
pub fn compare(
    comparison: &Comparison,
    mut expected: Rows,
    mut found: Rows,
    kept: usize,
    has_open_windows: bool,
) -> anyhow::Result<Compared> {
    if expected.files.is_empty() != found.files.is_empty() {
        (expected, found) = (expected.in_files(comparison)?, found.in_files(comparison)?);
    }
    let mut compared = Compared::default();
    for (expected, found) in expected.into_parts(comparison)?.into_iter().zip(found.into_parts(comparison)?) {
        comparison.compare(&expected.rows()?, &found.rows()?, kept, has_open_windows, &mut compared)?;
    }
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::{
        array::{Int64Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };
    use polybolos_tables::{Column, TableName, TableSchema};

    use super::*;

    /// A row of each key, whose value is twice the key.
    fn batch(keys: impl Iterator<Item = i64> + Clone, more: i64) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("k", DataType::Utf8, true), Field::new("v", DataType::Int64, true)]);
        let texts: StringArray = keys.clone().map(|key| (key >= 0).then(|| key.to_string())).collect();
        let values: Int64Array = keys.map(|key| Some(key * 2 + more)).collect();
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(texts), Arc::new(values)]).expect("a batch")
    }

    #[test]
    fn in_files_rows_are_compared_as_in_memory() {
        let table = TableSchema {
            name: TableName::new("s", "t"),
            columns: vec![Column::new("k", DataType::Utf8), Column::new("v", DataType::Int64)],
            partition_key: vec!["k".into()],
            clustering_key: vec![],
        };
        let comparison = Comparison::of(table, &["k".into(), "v".into()]).expect("its columns");
        let rows = |batches: &[RecordBatch], goes_after: usize| {
            let mut rows = Rows::default();
            for (index, batch) in batches.iter().enumerate() {
                rows.hold(comparison.normalised(batch).expect("its columns"));
                if index + 1 == goes_after {
                    rows = rows.in_files(&comparison).expect("written");
                }
            }
            rows
        };
        // 1000 to 1009 are missing, 5000 to 5019 extra, 2000 to 2004 others; a key that is NULL is none.
        let expected = [batch(-1..2_000, 0), batch(2_000..5_000, 0)];
        let found = [batch((0..1_000).chain(1_010..2_000), 0), batch(2_000..2_005, 1), batch(2_005..5_020, 0)];
        let mut told = vec![];
        for (expected_after, found_after) in [(9, 9), (9, 1), (1, 9), (1, 2), (2, 3)] {
            let (expected, found) = (rows(&expected, expected_after), rows(&found, found_after));
            assert_eq!(found.files.is_empty(), found_after == 9);
            let compared = compare(&comparison, expected, found, 100, false).expect("compared");
            assert_eq!((compared.rows, compared.count), (5_010, 35));
            let mut differences: Vec<_> = compared.differences.into_iter().map(|found| (found.kind, found.key)).collect();
            differences.sort();
            told.push(differences);
        }
        assert_eq!(told[0].iter().filter(|(kind, _)| *kind == "missing").count(), 10);
        assert!(told.iter().all(|differences| *differences == told[0]), "{told:?}");
    }
}
