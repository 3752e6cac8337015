//! Keys that are asked for, as their columns take them. A value that no row can have, or that the server would refuse to look for, is not asked for at all.
use std::net::IpAddr;

use arrow::{
    array::{Array, AsArray},
    datatypes::{
        DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMillisecondType,
    },
};
use polybolos_tables::{KeyPredicate, PredicateOp, ScanRequest, TableError, TableName};
use scylla::{
    cluster::metadata::{ColumnType, NativeType},
    value::{CqlTimestamp, CqlValue, CqlVarint},
};

use crate::{
    decimal,
    pushdown::is_alike,
    types::{address, native_name, unreadable, uuid},
};

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
pub(super) fn bind(table: &TableName, predicate: &KeyPredicate, column: &ColumnType<'_>) -> Result<Option<CqlValue>, TableError> {
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

/// Whether the partition that is asked for can be: the server would refuse to look for one whose key is empty or too long.
pub(super) fn is_key(request: &ScanRequest, values: &[CqlValue]) -> bool {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;
    use crate::scan::tests::request;

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
}
