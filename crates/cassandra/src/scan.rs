//! Scans: the ring of tokens cut into ranges, each paged; or one partition, when its whole key is given.
use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
        Int8Builder, Int16Builder, Int32Builder, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder,
        Time64NanosecondBuilder, TimestampMillisecondBuilder,
    },
    datatypes::{
        DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit,
        TimestampMillisecondType,
    },
};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use parking_lot::Mutex;
use polybolos_tables::{KeyPredicate, ScanRequest, ScanSlice, TableError};
use scylla::{
    client::session::Session,
    cluster::metadata::{ColumnType, NativeType},
    statement::{Statement, prepared::PreparedStatement},
    value::{CqlTimestamp, CqlValue, Row},
};

use crate::{
    decimal,
    errors::{of_paging, unavailable},
    types::quoted,
};

const PAGE_ROWS: i32 = 2_000;
const BATCH_ROWS: usize = 8_192;

/// Slice of a scan whose partition key is given.
const ONE_PARTITION: &str = "partition";

/// Whether a key of this type can be bound.
pub(crate) fn can_bind(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8
            | DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Float32
            | DataType::Float64
            | DataType::Timestamp(TimeUnit::Millisecond, _)
    )
}

/// A key's value as its column takes it; `None`: no row can have it.
fn bind(predicate: &KeyPredicate, column: &ColumnType<'_>) -> Result<Option<CqlValue>, TableError> {
    let values = &predicate.values;
    Ok(Some(match values.data_type() {
        DataType::Utf8 => {
            let text = values.as_string::<i32>().value(0);
            let uuid = || uuid::Uuid::parse_str(text).ok();
            match column {
                ColumnType::Native(NativeType::Uuid) => return Ok(uuid().map(CqlValue::Uuid)),
                ColumnType::Native(NativeType::Timeuuid) => return Ok(uuid().map(|uuid| CqlValue::Timeuuid(uuid.into()))),
                _ => CqlValue::Text(text.to_owned()),
            }
        }
        DataType::Boolean => CqlValue::Boolean(values.as_boolean().value(0)),
        DataType::Int8 => CqlValue::TinyInt(values.as_primitive::<Int8Type>().value(0)),
        DataType::Int16 => CqlValue::SmallInt(values.as_primitive::<Int16Type>().value(0)),
        DataType::Int32 => CqlValue::Int(values.as_primitive::<Int32Type>().value(0)),
        DataType::Int64 => CqlValue::BigInt(values.as_primitive::<Int64Type>().value(0)),
        DataType::Float32 => CqlValue::Float(values.as_primitive::<Float32Type>().value(0)),
        DataType::Float64 => CqlValue::Double(values.as_primitive::<Float64Type>().value(0)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            CqlValue::Timestamp(CqlTimestamp(values.as_primitive::<TimestampMillisecondType>().value(0)))
        }
        other => return Err(TableError::Bug(format!("a {other} cannot be bound to a key"))),
    }))
}

/// Even ranges of the Murmur3 ring, `(start, end]`; together all of it.
pub(crate) fn slices(request: &ScanRequest, wanted: usize) -> Vec<ScanSlice> {
    if !request.predicates.is_empty() {
        return vec![ScanSlice { descriptor: ONE_PARTITION.into() }];
    }
    let wanted = wanted.clamp(1, 4_096) as i128;
    let bound = |index: i128| i128::from(i64::MIN) + (1_i128 << 64) * index / wanted;
    let range = |index: i128| {
        // The last range ends at the largest token, which is one below the first bound behind it.
        let end = if index + 1 == wanted { i128::from(i64::MAX) } else { bound(index + 1) };
        ScanSlice { descriptor: format!("{}..{end}", bound(index)) }
    };
    (0..wanted).map(range).collect()
}

/// Statements that read, by their text: look-ups ask with the same one again and again.
#[derive(Debug, Default)]
pub(crate) struct PreparedReads(Mutex<HashMap<String, PreparedStatement>>);

/// More different look-ups than that prepare theirs again.
const MAX_PREPARED: usize = 1_024;

impl PreparedReads {
    async fn of(&self, session: &Session, text: String, doing: &str) -> Result<PreparedStatement, TableError> {
        if let Some(known) = self.0.lock().get(&text) {
            return Ok(known.clone());
        }
        let statement = Statement::new(text.clone()).with_page_size(PAGE_ROWS);
        let mut prepared = session.prepare(statement).await.map_err(|error| unavailable(format!("{doing}: {error}"), error))?;
        prepared.set_is_idempotent(true);
        let mut known = self.0.lock();
        if known.len() >= MAX_PREPARED {
            known.clear();
        }
        known.insert(text, prepared.clone());
        Ok(prepared)
    }
}

pub(crate) fn scan(
    session: Arc<Session>,
    reads: Arc<PreparedReads>,
    request: ScanRequest,
    slice: ScanSlice,
) -> BoxStream<'static, Result<RecordBatch, TableError>> {
    let rows = async move { start(session, reads, request, slice).await };
    futures::stream::once(rows).try_flatten().boxed()
}

async fn start(
    session: Arc<Session>,
    reads: Arc<PreparedReads>,
    request: ScanRequest,
    slice: ScanSlice,
) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
    let table = &request.table;
    let arrow = table.arrow();
    let indexes = request.columns.iter().map(|column| arrow.index_of(column)).collect::<Result<Vec<_>, _>>();
    let indexes = indexes.map_err(|error| TableError::Bug(error.to_string()))?;
    let schema: SchemaRef = Arc::new(arrow.project(&indexes).map_err(|error| TableError::Bug(error.to_string()))?);
    let list = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    // A count needs rows, and any key column makes them.
    let selected = if request.columns.is_empty() { list(&table.partition_key[..1]) } else { list(&request.columns) };
    let (condition, range) = if slice.descriptor == ONE_PARTITION {
        let conditions: Vec<String> =
            request.predicates.iter().map(|predicate| format!("{} = ?", quoted(&predicate.column))).collect();
        (conditions.join(" AND "), None)
    } else {
        let (start, end) = slice
            .descriptor
            .split_once("..")
            .and_then(|(start, end)| Some((start.parse::<i64>().ok()?, end.parse::<i64>().ok()?)))
            .ok_or_else(|| TableError::Bug(format!("{:?} is not a token range", slice.descriptor)))?;
        let token = format!("token({})", list(&table.partition_key));
        // No token is i64::MIN, so the first range loses nothing.
        (format!("{token} > ? AND {token} <= ?"), Some(vec![CqlValue::BigInt(start), CqlValue::BigInt(end)]))
    };
    let limit = request.limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
    let text =
        format!("SELECT {selected} FROM {}.{} WHERE {condition}{limit}", quoted(&table.name.keyspace), quoted(&table.name.table));
    let doing = format!("reading {}", table.name);
    let prepared = reads.of(&session, text, &doing).await?;
    let values = match range {
        Some(range) => range,
        None => {
            let columns = prepared.get_variable_col_specs();
            let bound = request.predicates.iter().zip(columns.iter()).map(|(predicate, column)| bind(predicate, column.typ()));
            let Some(values) = bound.collect::<Result<Option<Vec<_>>, _>>()? else { return Ok(futures::stream::empty().boxed()) };
            values
        }
    };
    let pager = session.execute_iter(prepared, values).await.map_err(|error| of_paging(&doing, error))?;
    let rows = pager.rows_stream::<Row>().map_err(|error| TableError::Bug(error.to_string()))?;
    let rows = rows.map_err(move |error| unavailable(format!("{doing}: {error}"), error));
    let batches = rows.try_chunks(BATCH_ROWS).map(move |chunk| {
        let chunk = chunk.map_err(|error| error.1)?;
        batch(&schema, &chunk)
    });
    Ok(batches.boxed())
}

fn batch(schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch, TableError> {
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| column(field.data_type(), rows.iter().map(|row| row.columns.get(index).and_then(Option::as_ref))))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|error| TableError::Bug(error.to_string()))
}

fn column<'a>(data_type: &DataType, values: impl Iterator<Item = Option<&'a CqlValue>>) -> Result<ArrayRef, TableError> {
    /// Builds a column; a value of another type than the schema's is a bug of ours.
    macro_rules! build {
        ($builder:expr, $pattern:pat => $value:expr) => {{
            let mut builder = $builder;
            for value in values {
                match value {
                    None => builder.append_null(),
                    Some($pattern) => builder.append_value($value),
                    Some(other) => return Err(TableError::Bug(format!("Cassandra sent {other:?} for a {data_type}"))),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    Ok(match data_type {
        DataType::Utf8 => {
            let mut builder = StringBuilder::new();
            for value in values {
                match value {
                    None => builder.append_null(),
                    Some(CqlValue::Text(text) | CqlValue::Ascii(text)) => builder.append_value(text),
                    Some(CqlValue::Inet(address)) => builder.append_value(address.to_string()),
                    Some(CqlValue::Uuid(uuid)) => builder.append_value(uuid.to_string()),
                    Some(CqlValue::Timeuuid(uuid)) => builder.append_value(uuid.to_string()),
                    Some(other) => return Err(TableError::Bug(format!("Cassandra sent {other:?} for a text"))),
                }
            }
            Arc::new(builder.finish())
        }
        DataType::Boolean => build!(BooleanBuilder::new(), CqlValue::Boolean(value) => *value),
        DataType::Binary => build!(BinaryBuilder::new(), CqlValue::Blob(value) => value),
        DataType::Date32 => build!(Date32Builder::new(), CqlValue::Date(value) => (i64::from(value.0) - (1 << 31)) as i32),
        DataType::Decimal128(precision, scale) => {
            let mut builder = Decimal128Builder::new().with_data_type(data_type.clone());
            for value in values {
                match value {
                    None => builder.append_null(),
                    Some(CqlValue::Decimal(value)) => {
                        let (bytes, stored) = value.as_signed_be_bytes_slice_and_exponent();
                        builder.append_value(decimal::from_cql(bytes, stored, *precision, *scale)?);
                    }
                    Some(other) => return Err(TableError::Bug(format!("Cassandra sent {other:?} for a {data_type}"))),
                }
            }
            Arc::new(builder.finish())
        }
        DataType::Float32 => build!(Float32Builder::new(), CqlValue::Float(value) => *value),
        DataType::Float64 => build!(Float64Builder::new(), CqlValue::Double(value) => *value),
        DataType::Int8 => build!(Int8Builder::new(), CqlValue::TinyInt(value) => *value),
        DataType::Int16 => build!(Int16Builder::new(), CqlValue::SmallInt(value) => *value),
        DataType::Int32 => build!(Int32Builder::new(), CqlValue::Int(value) => *value),
        DataType::Int64 => build!(Int64Builder::new(), CqlValue::BigInt(value) => *value),
        DataType::Timestamp(TimeUnit::Millisecond, zone) => {
            build!(TimestampMillisecondBuilder::new().with_timezone_opt(zone.clone()), CqlValue::Timestamp(value) => value.0)
        }
        DataType::Time64(TimeUnit::Nanosecond) => build!(Time64NanosecondBuilder::new(), CqlValue::Time(value) => value.0),
        other => return Err(TableError::Unsupported { message: format!("columns of type {other} cannot be read from Cassandra") }),
    })
}

#[cfg(test)]
mod tests {
    use polybolos_tables::{Column, TableName, TableSchema};

    use super::*;

    #[test]
    fn slices_cover_the_ring_without_gap_or_overlap() {
        let table = TableSchema {
            name: TableName::new("k", "t"),
            columns: vec![Column::new("id", DataType::Utf8)],
            partition_key: vec!["id".into()],
            clustering_key: vec![],
        };
        let request = ScanRequest { table, columns: vec![], predicates: vec![], limit: None };
        for wanted in [1, 2, 3, 7, 64] {
            let slices = slices(&request, wanted);
            let bounds: Vec<(i64, i64)> = slices
                .iter()
                .map(|slice| {
                    let (start, end) = slice.descriptor.split_once("..").expect("a range");
                    (start.parse().expect("a token"), end.parse().expect("a token"))
                })
                .collect();
            assert_eq!((bounds[0].0, bounds[wanted - 1].1), (i64::MIN, i64::MAX));
            assert!(bounds.windows(2).all(|pair| pair[0].1 == pair[1].0));
        }
    }
}
