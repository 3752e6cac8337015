//! Scans: the ring of tokens cut into ranges, each paged; or one partition, when its whole key is given, or one after the other, when several are.
use std::{collections::HashMap, net::IpAddr, str::FromStr, sync::Arc};

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
use polybolos_tables::{Column, KeyPredicate, PredicateOp, ScanRequest, ScanSlice, TableError, TableName, TableSchema};
use scylla::{
    client::session::Session,
    cluster::metadata::{ColumnType, NativeType},
    statement::{Statement, prepared::PreparedStatement},
    value::{CqlTimestamp, CqlValue, CqlVarint, Row},
};

use crate::{
    catalog::{self, Catalog},
    decimal,
    errors::{is_about_no_table, is_renamed, may_be_behind, of_paging, of_row, unavailable},
    pushdown::is_alike,
    types::{address, can_read, native_name, quoted, typed_mark, unreadable, uuid},
};

const PAGE_ROWS: i32 = 2_000;
const BATCH_ROWS: usize = 8_192;

/// Slice of a scan whose partition key is given.
const ONE_PARTITION: &str = "partition";

/// Slice of a scan for which several values of the partition key's last column are given: behind it stands which of them are the slice's.
const LISTED: &str = "listed ";

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
fn bind(table: &TableName, predicate: &KeyPredicate, column: &ColumnType<'_>) -> Result<Option<CqlValue>, TableError> {
    let values = &predicate.values;
    let unreadable = || unreadable(table, &predicate.column, column, values.data_type());
    let ColumnType::Native(native) = column else { return Err(unreadable()) };
    // It may have been made again since the predicate was found to be one for the server.
    if predicate.op != PredicateOp::Eq && !is_alike(&native_name(column), values.data_type()) {
        return Err(unreadable());
    }
    let float = |value: f64| match native {
        NativeType::Double => Some(Some(CqlValue::Double(value))),
        // What a float cannot have, none has.
        NativeType::Float => Some((f64::from(value as f32) == value).then_some(CqlValue::Float(value as f32))),
        _ => None,
    };
    let bound = match values.data_type() {
        DataType::Utf8 => text_of(values.as_string::<i32>().value(0), native),
        DataType::Boolean => (*native == NativeType::Boolean).then(|| Some(CqlValue::Boolean(values.as_boolean().value(0)))),
        DataType::Int8 => whole_of(i64::from(values.as_primitive::<Int8Type>().value(0)), native),
        DataType::Int16 => whole_of(i64::from(values.as_primitive::<Int16Type>().value(0)), native),
        DataType::Int32 => whole_of(i64::from(values.as_primitive::<Int32Type>().value(0)), native),
        DataType::Int64 => whole_of(values.as_primitive::<Int64Type>().value(0), native),
        DataType::Float32 if *native == NativeType::Float => {
            Some(Some(CqlValue::Float(values.as_primitive::<Float32Type>().value(0))))
        }
        DataType::Float64 => float(values.as_primitive::<Float64Type>().value(0)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let value = values.as_primitive::<TimestampMillisecondType>().value(0);
            (*native == NativeType::Timestamp).then_some(Some(CqlValue::Timestamp(CqlTimestamp(value))))
        }
        _ => None,
    };
    bound.ok_or_else(unreadable)
}

/// A text for a column; inner `None`: no row can have it, outer: no column of this type is text to us.
fn text_of(text: &str, native: &NativeType) -> Option<Option<CqlValue>> {
    match native {
        NativeType::Text => Some(Some(CqlValue::Text(text.to_owned()))),
        NativeType::Ascii => Some(text.is_ascii().then(|| CqlValue::Ascii(text.to_owned()))),
        NativeType::Inet => Some(address(text).map(CqlValue::Inet)),
        NativeType::Uuid => Some(uuid(text).map(CqlValue::Uuid)),
        NativeType::Timeuuid => {
            // The server refuses to look for any other.
            let of_time = uuid(text).filter(|uuid| uuid.get_version_num() == 1);
            Some(of_time.map(|uuid| CqlValue::Timeuuid(uuid.into())))
        }
        _ => None,
    }
}

/// The same of a whole number.
fn whole_of(value: i64, native: &NativeType) -> Option<Option<CqlValue>> {
    Some(match native {
        NativeType::TinyInt => i8::try_from(value).ok().map(CqlValue::TinyInt),
        NativeType::SmallInt => i16::try_from(value).ok().map(CqlValue::SmallInt),
        NativeType::Int => i32::try_from(value).ok().map(CqlValue::Int),
        NativeType::BigInt => Some(CqlValue::BigInt(value)),
        NativeType::Varint => {
            Some(CqlValue::Varint(CqlVarint::from_signed_bytes_be_slice(decimal::to_cql(i128::from(value), 0).digits())))
        }
        _ => return None,
    })
}

/// Even ranges of the Murmur3 ring, `(start, end]`; together all of it.
pub(crate) fn slices(request: &ScanRequest, wanted: usize) -> Vec<ScanSlice> {
    if let Some(list) = request.predicates.iter().find(|predicate| predicate.op == PredicateOp::In) {
        let count = list.values.len();
        let wanted = wanted.clamp(1, count.max(1));
        let bound = |index: usize| count * index / wanted;
        return (0..wanted)
            .map(|index| ScanSlice { descriptor: format!("{LISTED}{}..{}", bound(index), bound(index + 1)) })
            .collect();
    }
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

/// Statements that read, by their text without types: look-ups ask with the same one again and again.
#[derive(Debug, Default)]
pub(crate) struct PreparedReads(Mutex<HashMap<String, PreparedStatement>>);

/// More different look-ups than that prepare theirs again.
const MAX_PREPARED: usize = 1_024;

/// A statement's text, around its markers.
struct ReadText {
    before: String,
    /// Columns with how each is compared with a marker.
    keys: Vec<String>,
    after: String,
}

impl ReadText {
    fn with(&self, marks: impl Iterator<Item = String>) -> String {
        let conditions: Vec<String> = self.keys.iter().zip(marks).map(|(key, mark)| format!("{key} {mark}")).collect();
        format!("{}{}{}", self.before, conditions.join(" AND "), self.after)
    }

    fn plain(&self) -> String {
        self.with(std::iter::repeat("?".to_owned()))
    }
}

impl PreparedReads {
    async fn of(&self, session: &Session, text: &ReadText, doing: &str) -> Result<PreparedStatement, TableError> {
        let plain = text.plain();
        if let Some(known) = self.0.lock().get(&plain) {
            return Ok(known.clone());
        }
        let statement = |text: String| Statement::new(text).with_page_size(PAGE_ROWS);
        let mut prepared = catalog::prepared(session, doing, statement(plain.clone())).await?;
        if !text.keys.is_empty() {
            // The statement is kept, and its table may be made again with another key: the server must then refuse it, and not compare a
            // number's bytes with texts.
            let marks: Vec<String> =
                prepared.get_variable_col_specs().iter().map(|column| typed_mark(Some(&native_name(column.typ())))).collect();
            prepared = catalog::prepared(session, doing, statement(text.with(marks.into_iter()))).await?;
        }
        prepared.set_is_idempotent(true);
        let mut known = self.0.lock();
        if known.len() >= MAX_PREPARED {
            known.clear();
        }
        known.insert(plain, prepared.clone());
        Ok(prepared)
    }

    /// A statement that was refused is prepared again when it is wanted again.
    fn forget(&self, text: &ReadText) {
        self.0.lock().remove(&text.plain());
    }
}

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

/// A slice of a list is a statement for each of its partitions, of which the server finds each by itself.
fn statements(request: ScanRequest, slice: ScanSlice) -> Vec<(ScanRequest, ScanSlice)> {
    let Some((start, end)) = slice.descriptor.strip_prefix(LISTED).and_then(bounds::<usize>) else { return vec![(request, slice)] };
    let of_partition = |index: usize| {
        let mut request = request.clone();
        for list in request.predicates.iter_mut().filter(|predicate| predicate.op == PredicateOp::In) {
            list.values = list.values.slice(index, 1);
        }
        (request, ScanSlice { descriptor: ONE_PARTITION.into() })
    };
    (start..end).map(of_partition).collect()
}

fn bounds<T: FromStr>(range: &str) -> Option<(T, T)> {
    let (start, end) = range.split_once("..")?;
    Some((start.parse().ok()?, end.parse().ok()?))
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

/// Whether the partition that is asked for can be: the server would refuse to look for one whose key is empty or too long.
fn is_key(request: &ScanRequest, values: &[CqlValue]) -> bool {
    const MAX_BYTES: usize = u16::MAX as usize;
    /// What stands around each column of several: its length and an end.
    const AROUND_BYTES: usize = 3;
    let key = &request.table.partition_key;
    let of_key = request.predicates.iter().zip(values).filter(|(predicate, _)| key.contains(&predicate.column));
    let bytes: Vec<usize> = of_key.map(|(_, value)| bytes_of(value)).collect();
    match bytes.as_slice() {
        [only] => (1..=MAX_BYTES).contains(only),
        several => several.iter().map(|bytes| bytes + AROUND_BYTES).sum::<usize>() <= MAX_BYTES,
    }
}

/// Of what can be bound.
fn bytes_of(value: &CqlValue) -> usize {
    match value {
        CqlValue::Text(text) | CqlValue::Ascii(text) => text.len(),
        CqlValue::Varint(digits) => digits.as_signed_bytes_be_slice().len(),
        CqlValue::Inet(IpAddr::V6(_)) | CqlValue::Uuid(_) | CqlValue::Timeuuid(_) => 16,
        CqlValue::Inet(IpAddr::V4(_)) | CqlValue::Int(_) | CqlValue::Float(_) => 4,
        CqlValue::Boolean(_) | CqlValue::TinyInt(_) => 1,
        CqlValue::SmallInt(_) => 2,
        _ => 8,
    }
}

/// What to select: the columns asked for, and where one is that every row has. A partition of which only static columns were written comes
/// as a row without clustering columns, and is none.
fn selected(request: &ScanRequest, clustering: Option<String>) -> (Vec<String>, Option<usize>) {
    let mut selected = request.columns.clone();
    let sure = clustering.map(|column| {
        selected.iter().position(|other| *other == column).unwrap_or_else(|| {
            selected.push(column);
            selected.len() - 1
        })
    });
    if selected.is_empty() {
        // A count needs rows, and any key column makes them.
        selected.push(request.table.partition_key[0].clone());
    }
    (selected, sure)
}

/// Whether it has the column that every row has.
fn is_row(row: &Row, sure: Option<usize>) -> bool {
    sure.is_none_or(|column| row.columns.get(column).is_some_and(Option::is_some))
}

/// A slice's statement, and the range of tokens that is bound to it.
fn text(
    request: &ScanRequest,
    slice: &ScanSlice,
    selected: &[String],
    is_limited_here: bool,
) -> Result<(ReadText, Option<Vec<CqlValue>>), TableError> {
    let table = &request.table;
    let list = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let from = format!("{}.{}", quoted(&table.name.keyspace), quoted(&table.name.table));
    let before = format!("SELECT {} FROM {from} WHERE ", list(selected));
    // An INT there. Whoever asks keeps the limit, too.
    let limit = request.limit.filter(|limit| !is_limited_here && i32::try_from(*limit).is_ok());
    let limit = limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
    if slice.descriptor == ONE_PARTITION {
        let compared = |predicate: &KeyPredicate| {
            let operator = match predicate.op {
                PredicateOp::Eq | PredicateOp::In => "=",
                PredicateOp::Lt => "<",
                PredicateOp::LtEq => "<=",
                PredicateOp::Gt => ">",
                PredicateOp::GtEq => ">=",
            };
            format!("{} {operator}", quoted(&predicate.column))
        };
        let keys = request.predicates.iter().map(compared).collect();
        return Ok((ReadText { before, keys, after: limit }, None));
    }
    let (start, end) =
        bounds::<i64>(&slice.descriptor).ok_or_else(|| TableError::Bug(format!("{:?} is not a token range", slice.descriptor)))?;
    let token = format!("token({})", list(&table.partition_key));
    // No token is i64::MIN, so the first range loses nothing.
    let after = format!("{token} > ? AND {token} <= ?{limit}");
    Ok((ReadText { before, keys: vec![], after }, Some(vec![CqlValue::BigInt(start), CqlValue::BigInt(end)])))
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

fn batch(table: &TableName, schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch, TableError> {
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| {
            let values = rows.iter().map(|row| row.columns.get(index).and_then(Option::as_ref));
            let unread = |why: String| TableError::Unsupported { message: format!("column {:?} of {table} {why}", field.name()) };
            let column = column(field.data_type(), values).map_err(unread)?;
            if column.null_count() > 0 && !field.is_nullable() {
                return Err(unread(
                    "is NULL in a row and declared part of the primary key; declare the key as it is stored".into(),
                ));
            }
            Ok(column)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|error| TableError::Bug(error.to_string()))
}

/// A varint's digits.
fn digits(value: &CqlVarint, precision: u8, scale: i8) -> Result<i128, String> {
    let read = decimal::from_cql(value.as_signed_bytes_be_slice(), 0, precision, scale);
    read.map_err(|_| format!("has a varint that does not fit DECIMAL({precision}, {scale}); declare more digits"))
}

/// A varint where there is room for a BIGINT.
fn whole(value: &CqlVarint) -> Result<i64, String> {
    let read = digits(value, 38, 0).ok().and_then(|digits| i64::try_from(digits).ok());
    read.ok_or_else(|| "has a varint that does not fit BIGINT; declare it DECIMAL(38, 0)".to_owned())
}

/// A column of values. An error says what is wrong with it: `has …`.
fn column<'a>(data_type: &DataType, values: impl Iterator<Item = Option<&'a CqlValue>>) -> Result<ArrayRef, String> {
    // Types are checked before; a table may be made again between two pages.
    let other = |value: &CqlValue| format!("has {value:?} in a row, which is no {data_type}");
    macro_rules! build {
        ($builder:expr, $($pattern:pat => $value:expr),+) => {{
            let mut builder = $builder;
            for value in values {
                match value {
                    None => builder.append_null(),
                    $(Some($pattern) => builder.append_value($value),)+
                    Some(value) => return Err(other(value)),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    Ok(match data_type {
        DataType::Utf8 => build!(
            StringBuilder::new(),
            CqlValue::Text(text) | CqlValue::Ascii(text) => text,
            CqlValue::Inet(address) => address.to_string(),
            CqlValue::Uuid(uuid) => uuid.to_string(),
            CqlValue::Timeuuid(uuid) => uuid.to_string()
        ),
        DataType::Boolean => build!(BooleanBuilder::new(), CqlValue::Boolean(value) => *value),
        DataType::Binary => build!(BinaryBuilder::new(), CqlValue::Blob(value) => value),
        DataType::Date32 => build!(Date32Builder::new(), CqlValue::Date(value) => (i64::from(value.0) - (1 << 31)) as i32),
        DataType::Decimal128(precision, scale) => build!(
            Decimal128Builder::new().with_data_type(data_type.clone()),
            CqlValue::Decimal(value) => {
                let (bytes, stored) = value.as_signed_be_bytes_slice_and_exponent();
                decimal::from_cql(bytes, stored, *precision, *scale).map_err(|error| format!("has {error}"))?
            },
            CqlValue::Varint(value) => digits(value, *precision, *scale)?
        ),
        DataType::Float32 => build!(Float32Builder::new(), CqlValue::Float(value) => *value),
        DataType::Float64 => build!(
            Float64Builder::new(),
            CqlValue::Double(value) => *value,
            CqlValue::Float(value) => f64::from(*value)
        ),
        DataType::Int8 => build!(Int8Builder::new(), CqlValue::TinyInt(value) => *value),
        DataType::Int16 => build!(
            Int16Builder::new(),
            CqlValue::SmallInt(value) => *value,
            CqlValue::TinyInt(value) => i16::from(*value)
        ),
        DataType::Int32 => build!(
            Int32Builder::new(),
            CqlValue::Int(value) => *value,
            CqlValue::SmallInt(value) => i32::from(*value),
            CqlValue::TinyInt(value) => i32::from(*value)
        ),
        DataType::Int64 => build!(
            Int64Builder::new(),
            CqlValue::BigInt(value) => *value,
            CqlValue::Int(value) => i64::from(*value),
            CqlValue::SmallInt(value) => i64::from(*value),
            CqlValue::TinyInt(value) => i64::from(*value),
            CqlValue::Counter(value) => value.0,
            CqlValue::Varint(value) => whole(value)?
        ),
        DataType::Timestamp(TimeUnit::Millisecond, zone) => {
            build!(TimestampMillisecondBuilder::new().with_timezone_opt(zone.clone()), CqlValue::Timestamp(value) => value.0)
        }
        DataType::Time64(TimeUnit::Nanosecond) => build!(Time64NanosecondBuilder::new(), CqlValue::Time(value) => value.0),
        other => return Err(format!("is declared {other}, which cannot be read from Cassandra")),
    })
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Int64Array, StringArray},
        datatypes::{Decimal128Type, Field, Schema},
    };
    use scylla::value::Counter;

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

    #[test]
    fn each_partition_of_a_list_is_read_once() {
        let predicate = |column: &str, op, values: Vec<i64>| KeyPredicate {
            column: column.into(),
            op,
            values: Arc::new(Int64Array::from(values)),
        };
        let predicates = vec![predicate("id", PredicateOp::In, vec![5, 6, 7]), predicate("sub", PredicateOp::LtEq, vec![9])];
        let request = ScanRequest { predicates, ..request(&["v"]) };
        for (wanted, slice_count) in [(1, 1), (2, 2), (64, 3)] {
            let slices = slices(&request, wanted);
            assert_eq!(slices.len(), slice_count);
            let mut read = vec![];
            for (request, slice) in slices.into_iter().flat_map(|slice| statements(request.clone(), slice)) {
                let (text, range) = text(&request, &slice, &["v".to_owned()], false).expect("a statement");
                assert_eq!(text.plain(), r#"SELECT "v" FROM "k"."t" WHERE "id" = ? AND "sub" <= ? LIMIT 5"#);
                assert!(range.is_none());
                read.push(request.predicates[0].values.as_primitive::<Int64Type>().value(0));
            }
            assert_eq!(read, [5, 6, 7]);
        }
    }

    #[test]
    fn a_limit_is_left_out_where_the_server_has_no_number_for_it() {
        let slice = ScanSlice { descriptor: "0..9".into() };
        for (limit, told) in [(i32::MAX as usize, " LIMIT 2147483647"), (i32::MAX as usize + 1, "")] {
            let (text, _) = text(&ScanRequest { limit: Some(limit), ..request(&["v"]) }, &slice, &["v".to_owned()], false)
                .expect("a statement");
            assert_eq!(text.after, format!(r#"token("id") > ? AND token("id") <= ?{told}"#));
        }
    }

    fn request(columns: &[&str]) -> ScanRequest {
        let table = TableSchema {
            name: TableName::new("k", "t"),
            columns: ["id", "sub", "v"].map(|name| Column::new(name, DataType::Int64)).to_vec(),
            partition_key: vec!["id".into()],
            clustering_key: vec!["sub".into()],
        };
        ScanRequest { table, columns: columns.iter().map(|&name| name.to_owned()).collect(), predicates: vec![], limit: Some(5) }
    }

    #[test]
    fn a_partition_without_rows_is_none() {
        let sub = || Some("sub".to_owned());
        assert_eq!(selected(&request(&["v", "sub"]), sub()), (vec!["v".to_owned(), "sub".to_owned()], Some(1)));
        assert_eq!(selected(&request(&["v"]), sub()), (vec!["v".to_owned(), "sub".to_owned()], Some(1)));
        assert_eq!(selected(&request(&[]), sub()), (vec!["sub".to_owned()], Some(0)));
        assert_eq!(selected(&request(&[]), None), (vec!["id".to_owned()], None));
        let row = |sub| Row { columns: vec![None, sub] };
        assert!(is_row(&row(Some(CqlValue::BigInt(1))), Some(1)));
        assert!(!is_row(&row(None), Some(1)));
        assert!(is_row(&row(None), None));
        // Of rows that are left out here, the store must not count any.
        let slice = ScanSlice { descriptor: "0..9".into() };
        for (is_limited_here, limit) in [(true, ""), (false, " LIMIT 5")] {
            let (text, range) = text(&request(&[]), &slice, &["sub".to_owned()], is_limited_here).expect("a statement");
            let wanted = format!(r#"SELECT "sub" FROM "k"."t" WHERE token("id") > ? AND token("id") <= ?{limit}"#);
            assert_eq!((text.plain(), range.map_or(0, |range| range.len())), (wanted, 2));
        }
    }

    #[test]
    fn values_are_read_as_what_has_room_for_them() {
        let varint = |digits: i128| CqlValue::Varint(CqlVarint::from_signed_bytes_be_slice(decimal::to_cql(digits, 0).digits()));
        let read = |data_type: DataType, value: CqlValue| {
            let read = column(&data_type, [Some(&value), None].into_iter())?;
            assert!(read.len() == 2 && read.null_count() == 1 && read.is_null(1));
            Ok::<ArrayRef, String>(read)
        };
        for value in [
            CqlValue::TinyInt(-7),
            CqlValue::SmallInt(-7),
            CqlValue::Int(-7),
            CqlValue::BigInt(-7),
            CqlValue::Counter(Counter(-7)),
            varint(-7),
        ] {
            assert_eq!(read(DataType::Int64, value).expect("a number").as_primitive::<Int64Type>().value(0), -7);
        }
        let read_int = read(DataType::Int32, CqlValue::SmallInt(-7)).expect("a number");
        assert_eq!(read_int.as_primitive::<Int32Type>().value(0), -7);
        let read_double = read(DataType::Float64, CqlValue::Float(1.5)).expect("a number");
        assert!((read_double.as_primitive::<Float64Type>().value(0) - 1.5).abs() < f64::EPSILON);
        let large = 10_i128.pow(37);
        let read_decimal = read(DataType::Decimal128(38, 0), varint(large)).expect("a number");
        assert_eq!(read_decimal.as_primitive::<Decimal128Type>().value(0), large);
        assert!(read(DataType::Int64, varint(large)).is_err_and(|why| why.contains("does not fit BIGINT")));
        assert!(read(DataType::Decimal128(5, 0), varint(100_000)).is_err_and(|why| why.contains("DECIMAL(5, 0)")));
        assert!(read(DataType::Int32, CqlValue::BigInt(1)).is_err());
    }

    #[test]
    fn a_row_that_cannot_be_read_names_its_table_and_column() {
        let field = |is_nullable| Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, is_nullable)]));
        let table = TableName::new("k", "t");
        let row = Row { columns: vec![Some(CqlValue::Text("no number".into()))] };
        let error = batch(&table, &field(true), &[row]).expect_err("a text").to_string();
        assert!(error.starts_with("column \"v\" of k.t has Text"), "{error}");
        let error = batch(&table, &field(false), &[Row { columns: vec![None] }]).expect_err("no key").to_string();
        assert!(error.starts_with("column \"v\" of k.t is NULL in a row"), "{error}");
    }

    #[test]
    fn keys_are_asked_for_as_they_are_stored() {
        let ask = |values: ArrayRef, stored: NativeType| {
            let predicate = KeyPredicate { column: "id".into(), op: polybolos_tables::PredicateOp::Eq, values };
            bind(&TableName::new("k", "t"), &predicate, &ColumnType::Native(stored))
        };
        let number = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        let text = |value: &str| Arc::new(StringArray::from(vec![value])) as ArrayRef;
        assert_eq!(ask(number(7), NativeType::Int).expect("a key"), Some(CqlValue::Int(7)));
        assert_eq!(ask(number(1 << 40), NativeType::Int).expect("a key"), None);
        assert_eq!(ask(text("::1"), NativeType::Inet).expect("a key"), "::1".parse().ok().map(CqlValue::Inet));
        assert_eq!(ask(text("nowhere"), NativeType::Inet).expect("a key"), None);
        assert_eq!(ask(text("0::1"), NativeType::Inet).expect("a key"), None, "no row is read with that text");
        let (random, of_time) = ("123e4567-e89b-42d3-a456-42661417400f", "123e4567-e89b-12d3-a456-42661417400f");
        assert!(ask(text(random), NativeType::Uuid).expect("a key").is_some());
        assert!(ask(text(of_time), NativeType::Timeuuid).expect("a key").is_some());
        assert_eq!(ask(text(random), NativeType::Timeuuid).expect("a key"), None, "the server would refuse it");
        assert_eq!(ask(text(&random.to_uppercase()), NativeType::Uuid).expect("a key"), None, "no row is read with that text");
        let below = KeyPredicate { column: "id".into(), op: PredicateOp::Lt, values: number(1 << 40) };
        let error = bind(&TableName::new("k", "t"), &below, &ColumnType::Native(NativeType::Int)).expect_err("all are below");
        assert!(error.to_string().contains("stored as int and declared BIGINT"), "{error}");
        let error = ask(number(7), NativeType::Text).expect_err("a text").to_string();
        assert_eq!(error, "column \"id\" of k.t is stored as text and declared BIGINT; declare it STRING");
    }

    #[test]
    fn a_partition_whose_key_is_empty_or_too_long_is_not_asked_for() {
        let is_asked = |parts: &[(&str, CqlValue)], partition_key: &[&str]| {
            let predicate = |(column, _): &(&str, CqlValue)| KeyPredicate {
                column: (*column).into(),
                op: PredicateOp::Eq,
                values: Arc::new(Int64Array::from(vec![0])),
            };
            let mut request = ScanRequest { predicates: parts.iter().map(predicate).collect(), ..request(&["v"]) };
            request.table.partition_key = partition_key.iter().map(|&name| name.to_owned()).collect();
            is_key(&request, &parts.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>())
        };
        let long = |bytes: usize| CqlValue::Text("x".repeat(bytes));
        for (bytes, asked) in [(0, false), (1, true), (65_535, true), (65_536, false)] {
            assert_eq!(is_asked(&[("id", long(bytes)), ("sub", long(0))], &["id"]), asked, "{bytes}");
        }
        // Each has its length and an end beside it.
        let number = || CqlValue::BigInt(7);
        for (bytes, asked) in [(0, true), (65_521, true), (65_522, false)] {
            assert_eq!(is_asked(&[("sub", number()), ("id", long(bytes))], &["id", "sub"]), asked, "{bytes}");
        }
        assert!(!is_asked(&[("id", long(40_000)), ("sub", long(40_000))], &["id", "sub"]));
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
