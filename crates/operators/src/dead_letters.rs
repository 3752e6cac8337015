//! Dead letters: records and rows that could not be processed, with coordinates, raw bytes and error, as rows of `polybolos.dead_letters`.
//! Their key is their identity (EPOCHS rule 15), so a dead letter published twice is there once.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMillisecondBuilder},
        datatypes::{DataType, TimeUnit},
    },
    common::Result,
};
use polybolos_tables::{Column, TableName, TableSchema};

/// Raw bytes beyond this are cut off; `raw_bytes` tells the whole length. A record may be as large as the broker lets it, a cell should not.
pub const RAW_LIMIT: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// `<incarnation>/<topic>/<partition>/<offset>` of a record (see [`record_id`]), with `/<log>` behind it where the topic was made again or
    /// lost its tail, and `/row` where a table whose rows are the last records of their keys could not take it;
    /// `<incarnation>/sink-<n>/<epoch>/<part>/<row>` of a refused row,
    /// `<incarnation>/sink-<n>/key-<uuid>` of the refused rows of one key, of which the newest is told,
    /// `<incarnation>/operator-<n>/<epoch>/<part>/<row>` of one that an expression above a join or an aggregate failed on.
    pub id: String,
    pub job: String,
    /// `decode`, `compute` or `publish`.
    pub step: &'static str,
    pub error: String,
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// The record's payload, or a refused row as JSON; cut at [`RAW_LIMIT`].
    pub raw: Option<Vec<u8>>,
    pub raw_bytes: i64,
}

/// The end of the id of a record that a table could not take whose rows are the last records of their keys. Another table of the job may take the same
/// record, or set it aside too.
const OF_A_ROW: &str = "/row";

/// Where a topic's offsets count.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub partition: i32,
    /// Names the log where it is not the first of its topic, as other records had its offsets before; else empty.
    pub log: &'a str,
}

/// The id of a letter of a record; `of_row`: of a table whose rows are the last records of their keys.
pub fn record_id(incarnation: &str, topic: &str, place: Place<'_>, offset: i64, of_row: bool) -> String {
    let Place { partition, log } = place;
    let slash = if log.is_empty() { "" } else { "/" };
    let end = if of_row { OF_A_ROW } else { "" };
    format!("{incarnation}/{topic}/{partition}/{offset}{slash}{log}{end}")
}

/// Whether a table whose rows are the last records of their keys has set the record aside.
pub fn is_of_row(id: &str) -> bool {
    id.ends_with(OF_A_ROW)
}

/// First bytes of a payload, and its whole length.
pub fn cut(raw: Option<&[u8]>) -> (Option<Vec<u8>>, i64) {
    (raw.map(|bytes| bytes[..bytes.len().min(RAW_LIMIT)].to_vec()), raw.map_or(0, <[u8]>::len) as i64)
}

/// `polybolos.dead_letters`.
pub fn table() -> TableSchema {
    let text = |name: &str| Column::new(name, DataType::Utf8);
    TableSchema {
        name: TableName::new("polybolos", "dead_letters"),
        columns: vec![
            text("id"),
            text("job"),
            text("step"),
            text("error"),
            text("topic"),
            Column::new("topic_partition", DataType::Int32),
            Column::new("topic_offset", DataType::Int64),
            Column::new("record_time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
            Column::new("record_key", DataType::Binary),
            Column::new("raw", DataType::Binary),
            Column::new("raw_bytes", DataType::Int64),
        ],
        partition_key: vec!["id".into()],
        clustering_key: vec![],
    }
}

/// `polybolos.late_rows`, which has the same columns.
pub fn late_rows() -> TableSchema {
    TableSchema { name: TableName::new("polybolos", "late_rows"), ..table() }
}

/// The letters as rows of [`table`].
pub fn batch(letters: &[DeadLetter]) -> Result<RecordBatch> {
    let mut texts: [StringBuilder; 5] = std::array::from_fn(|_| StringBuilder::new());
    let (mut partitions, mut offsets, mut lengths) = (Int32Builder::new(), Int64Builder::new(), Int64Builder::new());
    let mut times = TimestampMillisecondBuilder::new().with_timezone("UTC");
    let (mut keys, mut raws) = (BinaryBuilder::new(), BinaryBuilder::new());
    for letter in letters {
        let [id, job, step, error, topic] = &mut texts;
        id.append_value(&letter.id);
        job.append_value(&letter.job);
        step.append_value(letter.step);
        error.append_value(&letter.error);
        topic.append_option(letter.topic.as_deref());
        partitions.append_option(letter.partition);
        offsets.append_option(letter.offset);
        times.append_option(letter.timestamp_ms);
        keys.append_option(letter.key.as_deref());
        raws.append_option(letter.raw.as_deref());
        lengths.append_value(letter.raw_bytes);
    }
    let mut columns: Vec<ArrayRef> = texts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef).collect();
    columns.push(Arc::new(partitions.finish()));
    columns.push(Arc::new(offsets.finish()));
    columns.push(Arc::new(times.finish()));
    columns.push(Arc::new(keys.finish()));
    columns.push(Arc::new(raws.finish()));
    columns.push(Arc::new(lengths.finish()));
    Ok(RecordBatch::try_new(table().arrow(), columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_one_record_are_told_apart_by_who_set_it_aside() {
        let place = Place { partition: 2, log: "" };
        let id = |of_row| record_id("a1", "customers", place, 17, of_row);
        assert_eq!((id(false).as_str(), id(true).as_str()), ("a1/customers/2/17", "a1/customers/2/17/row"));
        assert!(is_of_row(&id(true)) && !is_of_row(&id(false)));
        assert!(!is_of_row(&record_id("a1", "row", place, 0, false)), "a topic may be called so");
    }

    #[test]
    fn letters_of_a_topic_made_again_are_told_apart_from_those_of_the_one_before() {
        let id = |of_row| record_id("a1", "customers", Place { partition: 2, log: "other#n1" }, 17, of_row);
        assert_eq!((id(false).as_str(), id(true).as_str()), ("a1/customers/2/17/other#n1", "a1/customers/2/17/other#n1/row"));
        assert!(is_of_row(&id(true)) && !is_of_row(&id(false)));
    }
}
