//! Values and failures, column by column.
mod oracle;
mod tombstones;

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, RecordBatch, types::*},
    datatypes::{DataType, Field as Column, Fields, Schema, TimeUnit},
    json::ArrayWriter,
};
use serde_json::{Value, json};

use super::*;
use crate::records::{ChunkBuilder, RawRecord, TimestampType};

fn chunk<T: AsRef<[u8]>>(payloads: &[Option<T>]) -> RecordChunk {
    let mut builder = ChunkBuilder::new();
    for (index, payload) in payloads.iter().enumerate() {
        let offset = 100 + 2 * index as i64;
        let record = RawRecord {
            offset,
            timestamp: Some((TimestampType::CreateTime, 1_000 + offset)),
            key: Some(b"key"),
            payload: payload.as_ref().map(AsRef::as_ref),
        };
        builder.push(record, [("h", Some(b"1".as_slice())), ("h", Some(b"2"))].into_iter());
    }
    builder.finish()
}

fn struct_of(fields: Vec<Column>) -> DataType {
    DataType::Struct(Fields::from(fields))
}

fn decoder(columns: Vec<Column>, options: DecodeOptions) -> JsonDecoder {
    let fields = columns.iter().map(|column| Field::Json { name: column.name().clone() }).collect();
    JsonDecoder::new(Arc::new(Schema::new(columns)), fields, options).unwrap()
}

/// Decodes one record into one column `c`: what arrow's own JSON writer makes of it, or the failure.
fn one(data_type: DataType, payload: impl AsRef<[u8]>) -> Result<Value, String> {
    let mut decoder = decoder(vec![Column::new("c", data_type, true)], DecodeOptions::default());
    let good = br#"{"c":null}"#.to_vec();
    let chunk = chunk(&[Some(good.clone()), Some(payload.as_ref().to_vec()), Some(good)]);
    let decoded = decoder.decode(&chunk, 0..3, "t", 0).unwrap();
    assert_eq!(decoded.batch.num_rows(), decoded.records.len());
    assert_eq!(decoded.batch.num_rows() + decoded.failures.len(), 3);
    match decoded.failures.as_slice() {
        [] => {
            assert_eq!(decoded.records, [0, 1, 2]);
            assert!(!decoded.batch.column(0).is_valid(0) && !decoded.batch.column(0).is_valid(2), "neighbours keep their values");
            Ok(rows(&decoded.batch)[1]["c"].clone())
        }
        [failure] => {
            assert_eq!((decoded.records.as_slice(), failure.record), ([0, 2].as_slice(), 1));
            assert!(!failure.error.contains('\n'), "{}", failure.error);
            Err(failure.error.clone())
        }
        more => panic!("{more:?}"),
    }
}

fn rows(batch: &RecordBatch) -> Vec<Value> {
    let mut bytes = Vec::new();
    let mut writer = ArrayWriter::new(&mut bytes);
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn fails(data_type: DataType, payload: impl AsRef<[u8]>, part: &str) {
    let shown = String::from_utf8_lossy(payload.as_ref()).into_owned();
    let error = one(data_type, payload).expect_err(&shown);
    assert!(error.contains(part), "{shown}: {error}");
}

#[test]
fn broken_records_are_failures_with_good_messages() {
    let int = || DataType::Int32;
    fails(int(), "", "an empty record");
    fails(int(), "   ", "an empty record");
    fails(int(), r#"{"c":1"#, "the record ends");
    fails(int(), r#"{"c":1}{"c":2}"#, "exactly one value");
    fails(int(), r#"{"c":1} x"#, "exactly one value");
    fails(int(), r#"{"c":1,}"#, "a key in quotes");
    fails(int(), r#"{"c":1 "d":2}"#, "',' or '}'");
    fails(int(), r#"{,"c":1}"#, "a key in quotes");
    fails(int(), r#"{"c":01}"#, "leading zero");
    fails(int(), r#"{"c":1.}"#, "a digit");
    fails(int(), r#"{"c":-}"#, "a digit");
    fails(int(), r#"{"c":nul}"#, "a value");
    fails(int(), r#"{"c":1,"d":tru}"#, "a value");
    fails(int(), r#"{"c":1,"d":"\x"}"#, "an escape sequence");
    fails(int(), r#"{"c":1,"d":"\ud800"}"#, "surrogate");
    fails(int(), "{\"c\":1,\"d\":\"a\nb\"}", "control character");
    fails(int(), b"{\"c\":1,\"d\":\"\xff\"}", "not UTF-8");
    fails(int(), "[1]", "expected an object, found a list");
    fails(int(), "7", "expected an object, found 7");
    fails(int(), "null", "expected an object, found null");
    fails(int(), r#"{"c":"abc"}"#, r#"column "c": expected Int32, found "abc""#);
    fails(int(), r#"{"c":{"a":1}}"#, "found an object");
    fails(int(), r#"{"c":true}"#, "found true");
    fails(int(), r#"{"c":2147483648}"#, "does not fit Int32");
    fails(int(), r#"{"c":1.5}"#, "does not fit Int32");
    fails(int(), r#"{"c":1e-400}"#, "does not fit Int32");
    fails(DataType::Int64, r#"{"c":9223372036854775808.0}"#, "does not fit Int64");
    fails(DataType::Int64, r#"{"c":99999999999999999999}"#, "does not fit Int64");
    fails(DataType::UInt8, r#"{"c":-1}"#, "does not fit UInt8");
    fails(DataType::Float64, r#"{"c":1e999}"#, "does not fit Float64");
    fails(DataType::Utf8, r#"{"c":5}"#, r#"column "c": expected a string, found 5"#);
    fails(DataType::Boolean, r#"{"c":"yes"}"#, "true or false");
    fails(DataType::Decimal128(5, 2), r#"{"c":123456.7}"#, "DECIMAL(5, 2)");
    fails(DataType::Decimal128(5, 2), r#"{"c":999.995}"#, "DECIMAL(5, 2)");
    fails(DataType::Binary, r#"{"c":"***"}"#, "base64");
    fails(DataType::Date32, r#"{"c":"2023-02-30"}"#, "a date like");
    let deep = format!(r#"{{"c":1,"d":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    fails(int(), deep, "nested deeper than 64");
    let deep = format!(r#"{{"c":{}"#, r#"{"c":"#.repeat(100_000));
    fails(int(), deep, "nested deeper than 64");
}

#[test]
fn good_values() {
    let ok = |data_type: DataType, payload: &str| one(data_type, payload).unwrap_or_else(|error| panic!("{payload}: {error}"));
    assert_eq!(ok(DataType::Int32, r#" { "c" : -12 } "#), json!(-12));
    assert_eq!(ok(DataType::Int32, r#"{"c":1,"c":2}"#), json!(2), "the last of two counts");
    assert_eq!(ok(DataType::Int32, r#"{"c":2e3}"#), json!(2000));
    assert_eq!(ok(DataType::Int64, r#"{"c":9007199254740993.0}"#), json!(9_007_199_254_740_993_i64));
    assert_eq!(ok(DataType::Int64, r#"{"c":-9.223372036854775808e18}"#), json!(i64::MIN));
    assert_eq!(ok(DataType::Int32, r#"{"c":"42"}"#), json!(42));
    assert_eq!(ok(DataType::Int32, r#"{"\u0063":3}"#), json!(3), "escaped keys are keys");
    assert_eq!(ok(DataType::Int32, r#"{"x":{"c":[1,{"c":"}"}]}}"#), Value::Null, "missing is NULL");
    assert_eq!(ok(DataType::Int64, r#"{"c":-9223372036854775808}"#), json!(i64::MIN));
    assert_eq!(ok(DataType::UInt64, r#"{"c":18446744073709551615}"#), json!(u64::MAX));
    assert_eq!(ok(DataType::Float64, r#"{"c":0.1}"#), json!(0.1));
    assert_eq!(ok(DataType::Decimal128(6, 2), r#"{"c":"-12.50"}"#), json!(-12.5));
    assert_eq!(ok(DataType::Decimal128(10, 2), r#"{"c":12.349}"#), json!(12.35));
    assert_eq!(ok(DataType::Decimal128(10, 2), r#"{"c":"-12.349"}"#), json!(-12.35));
    assert_eq!(ok(DataType::Decimal128(10, 2), r#"{"c":0.005}"#), json!(0.01));
    assert_eq!(ok(DataType::Utf8, r#"{"c":"فارسی \"é\" \u00e9\ud83d\ude00\/\n"}"#), json!("فارسی \"é\" é😀/\n"));
    assert_eq!(ok(DataType::Utf8View, r#"{"c":"abc"}"#), json!("abc"));
    assert_eq!(ok(DataType::LargeUtf8, r#"{"c":"abc"}"#), json!("abc"));
    assert_eq!(ok(DataType::Binary, r#"{"c":"aGk="}"#), json!("6869"));
    assert_eq!(ok(DataType::Boolean, r#"{"c":false}"#), json!(false));
    assert_eq!(ok(DataType::Date32, r#"{"c":"2024-02-29"}"#), json!("2024-02-29"));
    assert_eq!(ok(DataType::Time64(TimeUnit::Microsecond), r#"{"c":"23:59:01.5"}"#), json!("23:59:01.500"));
    for text in
        [r#""2024-01-01 00:00:00.123""#, r#""2024-01-01T00:00:00.123Z""#, r#""2024-01-01T01:00:00.123+01:00""#, "1704067200123"]
    {
        for unit in [TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
            assert_eq!(ok(DataType::Timestamp(unit, None), &format!(r#"{{"c":{text}}}"#)), json!("2024-01-01T00:00:00.123"));
        }
    }
    let list = DataType::new_list(DataType::Int32, true);
    assert_eq!(ok(list.clone(), r#"{"c":[1, null ,3]}"#), json!([1, null, 3]));
    assert_eq!(ok(list, r#"{"c":[]}"#), json!([]));
    let nested = struct_of(vec![Column::new("a", DataType::Int32, true), Column::new("b", DataType::Utf8, true)]);
    assert_eq!(ok(nested, r#"{"c":{"b":"x","z":1}}"#), json!({"b": "x"}));
    let entries = struct_of(vec![Column::new("keys", DataType::Utf8, false), Column::new("values", DataType::Int32, true)]);
    let map = DataType::Map(Arc::new(Column::new("entries", entries, false)), false);
    assert_eq!(ok(map.clone(), r#"{"c":{"x":1,"y":2}}"#), json!({"x": 1, "y": 2}));
    fails(map, r#"{"c":{"x":1,"x":2}}"#, "named twice");
}

#[test]
fn a_missing_field_is_a_failure_when_asked_for() {
    let options = DecodeOptions { fail_on_missing_field: true, ..DecodeOptions::default() };
    let mut decoder = decoder(vec![Column::new("c", DataType::Utf8, true)], options);
    let payloads = [Some(r#"{"c":"x"}"#), Some(r#"{"d":"x"}"#), Some(r#"{"c":null}"#)];
    let decoded = decoder.decode(&chunk(&payloads), 0..3, "t", 0).unwrap();
    assert_eq!(decoded.batch.num_rows(), 2, "NULL is not missing");
    assert_eq!(decoded.failures[0].record, 1);
    assert!(decoded.failures[0].error.contains("column \"c\": missing"), "{:?}", decoded.failures);
}

#[test]
fn sizes_nulls_and_not_null() {
    let columns = || vec![Column::new("c", DataType::Utf8, false)];
    let mut decoder = decoder(columns(), DecodeOptions { max_record_bytes: 20, ..DecodeOptions::default() });
    let payloads = [
        Some(r#"{"c":"fits"}"#),
        Some(r#"{"c":"does not fit at all"}"#),
        None,
        Some("{}"),
        Some(r#"{"c":null}"#),
        Some(r#"{"c":"z"}"#),
    ];
    let decoded = decoder.decode(&chunk(&payloads), 0..6, "t", 0).unwrap();
    assert_eq!(decoded.records, [0, 5]);
    let errors: Vec<(u32, &str)> = decoded.failures.iter().map(|failure| (failure.record, failure.error.as_str())).collect();
    assert_eq!(errors[0].0, 1);
    assert!(errors[0].1.contains("limit of 20"), "{errors:?}");
    assert_eq!(errors[1], (2, NULL_PAYLOAD));
    assert!(errors[2].1.contains("NOT NULL") && errors[3].1.contains("NOT NULL"), "{errors:?}");
    assert_eq!(decoded.batch.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("fits"), Some("z")]);
}

#[test]
fn scalars_as_text_when_asked_for() {
    let mut decoder =
        decoder(vec![Column::new("c", DataType::Utf8, true)], DecodeOptions { scalars_as_text: true, ..DecodeOptions::default() });
    let decoded =
        decoder.decode(&chunk(&[Some(r#"{"c":93027}"#), Some(r#"{"c":true}"#), Some(r#"{"c":{}}"#)]), 0..3, "t", 0).unwrap();
    assert_eq!(decoded.batch.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("93027"), Some("true"), Some("{}")]);
    assert_eq!(decoded.failures.len(), 0);
}

#[test]
fn objects_and_lists_are_text_as_they_stand() {
    let ok = |data_type: DataType, payload: &str| one(data_type, payload).unwrap_or_else(|error| panic!("{payload}: {error}"));
    for text in [r#"{ "b":1.50, "a" : [ null,"\u00e9" ],"a":{} }"#, "[]", r#"[ {"x":"}"} , 1e2]"#] {
        for data_type in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
            assert_eq!(ok(data_type, &format!(r#"{{"c": {text} ,"d":1}}"#)), json!(text));
        }
    }
    let list = DataType::new_list(DataType::Utf8, true);
    assert_eq!(ok(list, r#"{"c":["x",{"y": 1},[2]]}"#), json!(["x", r#"{"y": 1}"#, "[2]"]));
    fails(DataType::Utf8, r#"{"c":{"a":01}}"#, "leading zero");
    fails(DataType::Utf8, r#"{"c":[1,]}"#, "a value");
    fails(DataType::Utf8, r#"{"c":{"a":1}"#, "the record ends");
    fails(DataType::Utf8, format!(r#"{{"c":{}{}}}"#, "[".repeat(64), "]".repeat(64)), "nested deeper than 64");
    fails(DataType::Utf8, r#"{"c":true}"#, "expected a string, found true");
    fails(DataType::Binary, r#"{"c":{}}"#, "expected a base64 string, found an object");
}

#[test]
fn metadata_columns() {
    let entries = struct_of(vec![Column::new("key", DataType::Utf8, false), Column::new("value", DataType::Binary, true)]);
    let schema = Schema::new(vec![
        Column::new("o", DataType::Int64, false),
        Column::new("c", DataType::Int32, true),
        Column::new("p", DataType::Int32, false),
        Column::new("t", DataType::Utf8, false),
        Column::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Column::new("tt", DataType::Utf8View, true),
        Column::new("k", DataType::Binary, true),
        Column::new("v", DataType::Utf8, true),
        Column::new("h", DataType::Map(Arc::new(Column::new("entries", entries, false)), false), true),
    ]);
    let json = Field::Json { name: "real name".into() };
    let fields = vec![
        Field::Offset,
        json,
        Field::Partition,
        Field::Topic,
        Field::Timestamp,
        Field::TimestampType,
        Field::Key,
        Field::Value,
        Field::Headers,
    ];
    let mut decoder = JsonDecoder::new(Arc::new(schema), fields, DecodeOptions::default()).unwrap();
    let decoded = decoder.decode(&chunk(&[Some("{}"), Some("{"), Some(r#"{"real name":3}"#)]), 0..3, "topic", 5).unwrap();
    assert_eq!(decoded.records, [0, 2]);
    let batch = &decoded.batch;
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[100, 104]);
    assert_eq!(batch.column(1).as_primitive::<Int32Type>().value(1), 3);
    assert_eq!(batch.column(2).as_primitive::<Int32Type>().values(), &[5, 5]);
    assert_eq!(batch.column(3).as_string::<i32>().value(1), "topic");
    assert_eq!(batch.column(4).as_primitive::<TimestampMicrosecondType>().values(), &[1_100_000, 1_104_000]);
    assert_eq!(batch.column(5).as_string_view().value(0), "CreateTime");
    assert_eq!(batch.column(6).as_binary::<i32>().value(0), b"key");
    assert_eq!(batch.column(7).as_string::<i32>().value(1), r#"{"real name":3}"#);
    let headers = batch.column(8).as_map().value(0);
    assert_eq!((headers.len(), headers.column(1).as_binary::<i32>().value(0)), (1, b"2".as_slice()));
}

#[test]
fn a_timestamp_that_its_column_cannot_hold_is_a_failure() {
    let far_ms = i64::MAX / 1_000 + 1;
    let mut builder = ChunkBuilder::new();
    for (offset, ms) in [(0, far_ms - 1), (1, far_ms), (2, i64::MIN), (3, 5)] {
        let timestamp = Some((TimestampType::CreateTime, ms));
        builder.push(RawRecord { offset, timestamp, key: None, payload: Some(b"{}") }, std::iter::empty());
    }
    let chunk = builder.finish();
    for (unit, held) in
        [(TimeUnit::Millisecond, vec![0, 1, 2, 3]), (TimeUnit::Microsecond, vec![0, 3]), (TimeUnit::Nanosecond, vec![3])]
    {
        let schema = Schema::new(vec![Column::new("ts", DataType::Timestamp(unit, None), false)]);
        let mut decoder = JsonDecoder::new(Arc::new(schema), vec![Field::Timestamp], DecodeOptions::default()).unwrap();
        let decoded = decoder.decode(&chunk, 0..4, "t", 0).unwrap();
        assert_eq!(decoded.records, held, "{unit:?}");
        let told = |failure: &DecodeFailure| failure.error.contains("timestamp") && failure.error.contains("does not fit");
        assert!(decoded.failures.len() == 4 - held.len() && decoded.failures.iter().all(told), "{:?}", decoded.failures);
    }
}

#[test]
fn raw_and_no_columns() {
    let schema = Arc::new(Schema::new(vec![Column::new("v", DataType::Binary, true)]));
    let options = DecodeOptions { format: Format::Raw, ..DecodeOptions::default() };
    let mut decoder = JsonDecoder::new(schema, vec![Field::Value], options).unwrap();
    let decoded = decoder.decode(&chunk(&[Some(b"\xff".as_slice()), None]), 0..2, "t", 0).unwrap();
    assert_eq!(decoded.batch.column(0).as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(b"\xff".as_slice()), None]);

    let mut none = JsonDecoder::new(Arc::new(Schema::empty()), vec![], DecodeOptions::default()).unwrap();
    let decoded = none.decode(&chunk(&[Some("{}"), Some("broken"), Some(r#"{"a":[1]}"#)]), 0..3, "t", 0).unwrap();
    assert_eq!((decoded.batch.num_rows(), decoded.failures.len()), (2, 1));
}

#[test]
fn types_json_cannot_fill_are_refused_by_name() {
    let schema = Arc::new(Schema::new(vec![Column::new("odd", DataType::Duration(TimeUnit::Second), true)]));
    let error = JsonDecoder::new(schema, vec![Field::Json { name: "odd".into() }], DecodeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("\"odd\""), "{error}");
}
