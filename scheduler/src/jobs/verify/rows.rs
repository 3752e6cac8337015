//! The rows of one side of a comparison. They are held while they are few; more go to a file, in parts by their keys, and both sides are compared part by part: what
//! that takes of memory does not grow with a table but by a 64th.
use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{IntoInnerError, Read, Seek, SeekFrom},
    mem::take,
    ops::Range,
    sync::Arc,
};

use anyhow::Context;
use datafusion::arrow::{
    array::{RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use futures::{Stream, StreamExt};

use super::compare::{Allowed, Compared, Comparison};

/// Of each side in memory.
const MOST_HELD_BYTES: usize = 64 << 20;

const PARTS: usize = 64;

#[derive(Default)]
pub struct Rows {
    held: Vec<RecordBatch>,
    held_bytes: usize,
    /// What is not held, if there is any.
    away: Option<Away>,
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
                self = tokio::task::spawn_blocking(move || self.in_file(&comparison)).await??;
            }
        }
        Ok(self)
    }

    fn hold(&mut self, batch: RecordBatch) {
        self.held_bytes += batch.get_array_memory_size();
        self.held.push(batch);
    }

    /// Holds nothing any more.
    fn in_file(mut self, comparison: &Comparison) -> anyhow::Result<Self> {
        const AWAY: &str = "rows that are too many to be held go to the scheduler's folder for temporary files";
        let mut away = match take(&mut self.away) {
            Some(away) => away,
            None => Away::new().context(AWAY)?,
        };
        let mut parts: Vec<Vec<RecordBatch>> = vec![vec![]; PARTS];
        for batch in take(&mut self.held) {
            for (part, rows) in parts.iter_mut().zip(by_part(comparison, &batch)?) {
                if !rows.is_empty() {
                    part.push(take_record_batch(&batch, &UInt32Array::from(rows))?);
                }
            }
        }
        for (place, part) in parts.iter().enumerate() {
            if !part.is_empty() {
                away.add(place, &concat_batches(comparison.schema(), part)?).context(AWAY)?;
            }
        }
        self.away = Some(away);
        self.held_bytes = 0;
        Ok(self)
    }

    fn part(&mut self, place: usize) -> anyhow::Result<Vec<RecordBatch>> {
        match &mut self.away {
            Some(away) => away.rows(place),
            None => Ok(take(&mut self.held)),
        }
    }
}

/// One file with the rows of all parts: a file for each would be 128 open at once for one table.
struct Away {
    file: File,
    /// By part: where its rows are, one stretch for each time that rows came.
    stretches: Vec<Vec<Range<u64>>>,
}

impl Away {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, stretches: vec![vec![]; PARTS] })
    }

    fn add(&mut self, place: usize, rows: &RecordBatch) -> anyhow::Result<()> {
        let start = self.file.stream_position()?;
        let mut writer = StreamWriter::try_new_buffered(&mut self.file, &rows.schema())?;
        writer.write(rows)?;
        writer.into_inner()?.into_inner().map_err(IntoInnerError::into_error)?;
        self.stretches[place].push(start..self.file.stream_position()?);
        Ok(())
    }

    /// Once everything was added.
    fn rows(&mut self, place: usize) -> anyhow::Result<Vec<RecordBatch>> {
        let mut rows = vec![];
        for Range { start, end } in take(&mut self.stretches[place]) {
            self.file.seek(SeekFrom::Start(start))?;
            for batch in StreamReader::try_new_buffered((&self.file).take(end - start), None)? {
                rows.push(batch?);
            }
        }
        Ok(rows)
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
    allowed: &Allowed,
) -> anyhow::Result<Compared> {
    let is_away = expected.away.is_some() || found.away.is_some();
    if is_away {
        (expected, found) = (expected.in_file(comparison)?, found.in_file(comparison)?);
    }
    let parts = if is_away { PARTS } else { 1 };
    let mut compared = Compared::default();
    for place in 0..parts {
        comparison.compare(&expected.part(place)?, &found.part(place)?, kept, allowed, &mut compared)?;
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
    fn in_a_file_rows_are_compared_as_in_memory() {
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
                    rows = rows.in_file(&comparison).expect("written");
                }
            }
            rows
        };
        let (first, second) = (rows(&[batch(0..900, 0)], 1), rows(&[batch(0..900, 0), batch(900..901, 0)], 9));
        assert_eq!(
            compare(&comparison, first, second, 100, &Allowed::default()).expect("compared").count,
            1,
            "a table of one part and one of all"
        );
        // 1000 to 1009 are missing, 5000 to 5019 extra, 2000 to 2004 others; a key that is NULL is none.
        let expected = [batch(-1..2_000, 0), batch(2_000..5_000, 0)];
        let found = [batch((0..1_000).chain(1_010..2_000), 0), batch(2_000..2_005, 1), batch(2_005..5_020, 0)];
        let mut told = vec![];
        for (expected_after, found_after) in [(9, 9), (9, 1), (1, 9), (1, 2), (2, 3)] {
            let (expected, found) = (rows(&expected, expected_after), rows(&found, found_after));
            assert_eq!(found.away.is_none(), found_after == 9);
            let compared = compare(&comparison, expected, found, 100, &Allowed::default()).expect("compared");
            assert_eq!((compared.rows, compared.count), (5_010, 35));
            let mut differences: Vec<_> = compared.differences.into_iter().map(|found| (found.kind, found.key)).collect();
            differences.sort();
            told.push(differences);
        }
        assert_eq!(told[0].iter().filter(|(kind, _)| *kind == "missing").count(), 10);
        assert!(told.iter().all(|differences| *differences == told[0]), "{told:?}");
    }
}
