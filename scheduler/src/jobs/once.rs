//! An INSERT that ends: rows go to the table through the same writer as a job's, with write times that every later owner of the table
//! starts after. It is done when it is written; cut short, it may have written some of its rows, and running it again is harmless. To a
//! topic, all rows go in one transaction.
use std::sync::Arc;

use anyhow::bail;
use datafusion::{
    arrow::{array::RecordBatch, util::pretty::pretty_format_batches},
    execution::SendableRecordBatchStream,
};
use futures::StreamExt;
use polybolos_kafka::publish::OneTransaction;
use polybolos_operators::{
    last_per_key::last_per_key,
    part_write::Keeping,
    publish::{SinkSpec, topic::TopicTarget},
};
use polybolos_persist::Store;
use polybolos_tables::{
    Grant, TableBackend, TableError,
    plain::{agreeing, counted},
};
use tokio_util::sync::CancellationToken;

use crate::ownership;

/// Write times taken for one INSERT: one microsecond for each batch, so that of two rows with one key the later stays.
const SPAN_US: i64 = 1_000_000;

/// A scheduler that stops, or is deposed, writes no further.
struct WhileLeading<'a>(&'a CancellationToken);

impl Grant for WhileLeading<'_> {
    fn holds(&self) -> bool {
        !self.0.is_cancelled()
    }
}

/// Writes all rows; answers how many changes that were.
pub async fn insert(
    store: &dyn Store,
    tables: &Arc<dyn TableBackend>,
    keeping: Keeping,
    sink: SinkSpec,
    now_us: i64,
    mut rows: SendableRecordBatchStream,
    shutdown: &CancellationToken,
) -> anyhow::Result<u64> {
    let mut written = 0;
    if let SinkSpec::Files { target } = &sink {
        bail!("files in {} are written by jobs only; write CREATE JOB … AS INSERT INTO …", target.place);
    }
    if let SinkSpec::Topic { target } = &sink {
        return insert_into_topic(target, rows).await;
    }
    let (SinkSpec::Table { table, columns, options, .. }, Keeping::LastPerKey(key)) = (&sink, &keeping) else {
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            written += batch.num_rows() as u64;
            if let SinkSpec::Print { name } = &sink {
                tracing::info!(target: "print", table = %name, "\n{}", pretty_format_batches(&[batch])?);
            }
        }
        return Ok(written);
    };
    let Some(schema) = tables.describe(table).await? else {
        return Err(TableError::NoSuchTable { table: table.to_string() }.into());
    };
    let writer = tables.writer(&schema, columns, options).await?;
    let first_us = ownership::pass(store, table, now_us, SPAN_US).await?;
    let mut number = 0;
    while let Some(batch) = rows.next().await {
        let batch: RecordBatch = batch?;
        let Some(changes) = last_per_key(&[batch], key)? else { continue };
        if let Some(column) = key.iter().find(|column| changes.column(**column).null_count() > 0) {
            bail!(
                "column {} of the primary key of {table} is NULL in a row; {} {} written before it",
                columns[*column],
                counted(written, "row"),
                agreeing(written, "was", "were")
            );
        }
        let outcome = writer.write(&changes, first_us + number.min(SPAN_US - 1), &WhileLeading(shutdown)).await?;
        number += 1;
        written += outcome.rows;
        if let Some(refused) = outcome.refused.first() {
            let rows = counted(outcome.refused.len() as u64, "row");
            let were = agreeing(written, "was", "were");
            bail!("{table} refused {rows}; the first: {}; {written} {were} written", refused.error);
        }
    }
    Ok(written)
}

/// Writes all rows to a topic in one transaction: cut short, it wrote none.
async fn insert_into_topic(target: &TopicTarget, mut rows: SendableRecordBatchStream) -> anyhow::Result<u64> {
    let mut written = 0;
    let mut transaction = OneTransaction::begin(target.connection.clone(), target.topic.clone()).await?;
    while let Some(batch) = rows.next().await {
        let batch: RecordBatch = batch?;
        if let Some(column) = target.key.iter().find(|column| batch.column(**column).null_count() > 0) {
            bail!("column {} of the primary key is NULL in a row; no row was written", batch.schema().field(*column).name());
        }
        transaction = transaction.send(target.records(&batch)?).await?;
        written += batch.num_rows() as u64;
    }
    transaction.commit().await?;
    Ok(written)
}
