//! Scans: the ring of tokens cut into ranges, each paged; or one partition, when its whole key is given, or one after the other, when several are.
use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use polybolos_tables::{Column, ScanRequest, ScanSlice, TableError, TableSchema};
use scylla::{client::session::Session, value::Row};

use crate::{
    catalog::Catalog,
    errors::{is_about_no_table, is_renamed, may_be_behind, of_paging, of_row, unavailable},
    types::{can_read, unreadable},
};

mod keys;
mod rows;
mod slices;
mod statement;

use keys::{bind, is_key};
use rows::batch;
use slices::statements;
use statement::{is_row, selected, text};
pub(crate) use {keys::can_bind, slices::slices, statement::PreparedReads};

const PAGE_ROWS: i32 = 2_000;
const BATCH_ROWS: usize = 8_192;

pub(crate) fn scan(
    session: Arc<Session>,
    catalog: Arc<Catalog>,
    reads: Arc<PreparedReads>,
    request: ScanRequest,
    slice: ScanSlice,
) -> BoxStream<'static, Result<RecordBatch, TableError>> {
    let rows = move |(request, slice)| start(session.clone(), catalog.clone(), reads.clone(), request, slice);
    futures::stream::iter(statements(request, slice)).then(rows).try_flatten().boxed()
}

async fn start(
    session: Arc<Session>,
    catalog: Arc<Catalog>,
    reads: Arc<PreparedReads>,
    request: ScanRequest,
    slice: ScanSlice,
) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
    let table = &request.table;
    let arrow = table.arrow();
    let indexes = request.columns.iter().map(|column| arrow.index_of(column)).collect::<Result<Vec<_>, _>>();
    let indexes = indexes.map_err(|error| TableError::Bug(error.to_string()))?;
    let schema: SchemaRef = Arc::new(arrow.project(&indexes).map_err(|error| TableError::Bug(error.to_string()))?);
    let clustering = catalog.first_clustering_column(&table.name).unwrap_or_else(|| table.clustering_key.first().cloned());
    let (selected, sure) = selected(&request, clustering);
    let (text, range) = text(&request, &slice, &selected, sure.is_some())?;
    let doing = format!("reading {}", table.name);
    let mut prepared = match reads.of(&session, &text, &doing).await {
        Ok(prepared) => prepared,
        Err(error) => return Err(explained(&catalog, &request, error).await),
    };
    let values = match range {
        Some(range) => range,
        None => {
            let columns = prepared.get_variable_col_specs();
            let bound =
                request.predicates.iter().zip(columns.iter()).map(|(predicate, column)| bind(&table.name, predicate, column.typ()));
            match bound.collect::<Result<Option<Vec<_>>, _>>()? {
                Some(values) if is_key(&request, &values) => values,
                _ => return Ok(futures::stream::empty().boxed()),
            }
        }
    };
    // Where rows are left out here, the limit is kept here, too.
    let limit = request.limit.filter(|_| sure.is_some()).unwrap_or(usize::MAX);
    prepared.set_page_size(i32::try_from(limit).map_or(PAGE_ROWS, |limit| limit.clamp(1, PAGE_ROWS)));
    let pager = match session.execute_iter(prepared, values).await {
        Ok(pager) => pager,
        Err(error) => {
            let is_renamed = is_renamed(&error);
            let error = of_paging(&doing, error);
            // What may pass does not make the statement another.
            if is_renamed || !error.is_retryable() {
                reads.forget(&text);
            }
            return Err(explained(&catalog, &request, error).await);
        }
    };
    // Of the first page, and before a row is decoded: a kept statement does not know what has become of its table.
    for (field, column) in schema.fields().iter().zip(pager.column_specs().iter()) {
        if !can_read(column.typ(), field.data_type()) {
            return Err(unreadable(&table.name, field.name(), column.typ(), field.data_type()));
        }
    }
    let rows = pager.rows_stream::<Row>().map_err(|error| TableError::Bug(error.to_string()))?;
    let rows = rows.map_err(move |error| of_row(&doing, error));
    let rows = rows.try_filter(move |row| std::future::ready(is_row(row, sure))).take(limit);
    let name = table.name.clone();
    let batches = rows.try_chunks(BATCH_ROWS).map(move |chunk| {
        let chunk = chunk.map_err(|error| error.1)?;
        batch(&name, &schema, &chunk)
    });
    Ok(batches.boxed())
}

/// Why a table cannot be read, where its declaration is at fault: a table, a column or a key that is not there; else what the server said.
async fn explained(catalog: &Catalog, request: &ScanRequest, error: TableError) -> TableError {
    if error.is_retryable() {
        return error;
    }
    let name = &request.table.name;
    match catalog.current(name).await {
        // Materialized views and the server's own tables are read, too, and are none of those that we know.
        Ok(None) if is_about_no_table(&error.to_string()) => TableError::NoSuchTable { table: name.to_string() },
        Ok(Some(stored)) => {
            let declared = wanted(request, &stored, |column| catalog.unusable(name, column).is_some());
            match catalog.check(&declared, &stored) {
                Ok(()) if may_be_behind(&error.to_string()) => unavailable(format!("{error}, which not all nodes say"), error),
                Ok(()) => error,
                Err(mismatch) => {
                    let message = format!("{mismatch}; declare the table as it is stored");
                    TableError::Rejected { message, source: Some(Box::new(error)) }
                }
            }
        }
        Ok(None) | Err(_) => error,
    }
}

/// What a request wants of a table beside types, which are checked where values come: columns and keys. A column that cannot be written may
/// well be read.
fn wanted(request: &ScanRequest, stored: &TableSchema, is_unusable: impl Fn(&str) -> bool) -> TableSchema {
    let table = &request.table;
    let is_wanted = |column: &&Column| request.columns.contains(&column.name) || table.is_key(&column.name);
    let columns = table.columns.iter().filter(is_wanted).filter(|column| !is_unusable(&column.name));
    let as_stored = |column: &Column| stored.column(&column.name).unwrap_or(column).clone();
    TableSchema { columns: columns.map(as_stored).collect(), ..table.clone() }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use polybolos_tables::TableName;

    use super::*;

    pub(super) fn request(columns: &[&str]) -> ScanRequest {
        let table = TableSchema {
            name: TableName::new("k", "t"),
            columns: ["id", "sub", "v"].map(|name| Column::new(name, DataType::Int64)).to_vec(),
            partition_key: vec!["id".into()],
            clustering_key: vec!["sub".into()],
        };
        ScanRequest { table, columns: columns.iter().map(|&name| name.to_owned()).collect(), predicates: vec![], limit: Some(5) }
    }

    #[test]
    fn what_is_wanted_of_a_table_is_its_columns_and_key() {
        let request = request(&["v"]);
        let stored = TableSchema {
            columns: vec![Column::new("id", DataType::Int32), Column::new("sub", DataType::Int64)],
            ..request.table.clone()
        };
        let names = |wanted: &TableSchema| wanted.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
        let declared = wanted(&request, &stored, |_| false);
        assert_eq!(names(&declared), ["id", "sub", "v"]);
        assert_eq!(declared.columns[0].data_type, DataType::Int32);
        assert_eq!(names(&wanted(&request, &stored, |column| column == "v")), ["id", "sub"]);
    }
}
