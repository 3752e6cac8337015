//! What is written reads back the same, for every type, in both notations; and the text of a few rows.
use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
        Int32Array, Int64Array, ListBuilder, MapBuilder, StringArray, StringBuilder, StructArray, Time32MillisecondArray,
        Time32SecondArray, Time64MicrosecondArray, Time64NanosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray,
    },
    datatypes::{Field, Fields},
};

use super::*;
use crate::{
    decode::{DecodeOptions, Field as Source, JsonDecoder},
    records::{ChunkBuilder, RawRecord},
};

fn lists() -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    builder.append_value([Some("a"), None, Some("")]);
    builder.append_null();
    builder.append_value(std::iter::empty::<Option<&str>>());
    Arc::new(builder.finish())
}

fn maps() -> ArrayRef {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), arrow::array::Int64Builder::new());
    builder.keys().append_value("one \"quoted\"");
    builder.values().append_value(1);
    builder.keys().append_value("none");
    builder.values().append_null();
    builder.append(true).unwrap();
    builder.append(true).unwrap();
    builder.append(false).unwrap();
    Arc::new(builder.finish())
}

fn structs() -> ArrayRef {
    let fields =
        Fields::from(vec![Field::new("x", DataType::Float64, true), Field::new("tags", lists().data_type().clone(), true)]);
    let columns = vec![Arc::new(Float64Array::from(vec![Some(0.5), None, Some(-1e300)])) as ArrayRef, lists()];
    Arc::new(StructArray::new(fields, columns, Some(vec![true, false, true].into())))
}

fn everything() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(StringArray::from(vec![Some("Zoé \"O'Brien\"\n\u{1}\\ 李雷 🎯"), None, Some("")]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("i8", Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)]))),
        ("i16", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)]))),
        ("i32", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)]))),
        ("i64", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
        ("f32", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(f32::INFINITY)]))),
        ("f64", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NEG_INFINITY), Some(f64::MIN_POSITIVE)]))),
        ("price", Arc::new(Decimal128Array::from(vec![Some(-7), None, Some(12_345)]).with_precision_and_scale(10, 2).unwrap())),
        (
            "wide",
            Arc::new(Decimal128Array::from(vec![Some(10i128.pow(38) - 1), None, Some(0)]).with_precision_and_scale(38, 0).unwrap()),
        ),
        ("raw", Arc::new(BinaryArray::from(vec![Some(&[0u8, 255, 7][..]), None, Some(&[])]))),
        ("day", Arc::new(Date32Array::from(vec![Some(-719_528), None, Some(2_932_896)]))),
        ("t0", Arc::new(Time32SecondArray::from(vec![Some(0), None, Some(86_399)]))),
        ("t3", Arc::new(Time32MillisecondArray::from(vec![Some(1), None, Some(86_399_999)]))),
        ("t6", Arc::new(Time64MicrosecondArray::from(vec![Some(1), None, Some(86_399_999_999)]))),
        ("t9", Arc::new(Time64NanosecondArray::from(vec![Some(1), None, Some(86_399_999_999_999)]))),
        ("s", Arc::new(TimestampSecondArray::from(vec![Some(-1), None, Some(1_767_225_600)]))),
        ("ms", Arc::new(TimestampMillisecondArray::from(vec![Some(-1), None, Some(1_767_225_600_001)]).with_timezone("UTC"))),
        ("us", Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None, Some(1_767_225_600_000_001)]))),
        (
            "ns",
            Arc::new(TimestampNanosecondArray::from(vec![Some(-1), None, Some(1_767_225_600_000_000_001)]).with_timezone("UTC")),
        ),
        ("list", lists()),
        ("map", maps()),
        ("place", structs()),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn round_trip(batch: &RecordBatch, options: EncodeOptions) -> RecordBatch {
    let encoded = encode(batch, options).unwrap();
    let mut builder = ChunkBuilder::new();
    for row in 0..encoded.len() {
        let record = RawRecord { offset: row as i64, timestamp: None, key: None, payload: Some(encoded.row(row).unwrap()) };
        builder.push(record, std::iter::empty());
    }
    let fields = batch.schema_ref().fields().iter().map(|field| Source::Json { name: field.name().clone() }).collect();
    let mut decoder = JsonDecoder::new(batch.schema(), fields, DecodeOptions::default()).unwrap();
    let decoded = decoder.decode(&builder.finish(), 0..batch.num_rows(), "t", 0).unwrap();
    assert_eq!(decoded.failures, []);
    decoded.batch
}

#[test]
fn every_type_reads_back_as_it_was() {
    let batch = everything();
    check(batch.schema_ref()).unwrap();
    for timestamp_format in [TimestampFormat::Sql, TimestampFormat::Iso8601] {
        for ignore_null_fields in [false, true] {
            assert_eq!(round_trip(&batch, EncodeOptions { timestamp_format, ignore_null_fields }), batch);
        }
    }
}

#[test]
fn not_a_number_reads_back() {
    let batch = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![f64::NAN])) as ArrayRef)]).unwrap();
    let back = round_trip(&batch, EncodeOptions::default());
    assert!(back.column(0).as_any().downcast_ref::<Float64Array>().unwrap().value(0).is_nan());
}

#[test]
fn the_text_is_flink_s() {
    let batch = everything();
    let columns = |names: &[&str]| {
        let indexes: Vec<usize> = names.iter().map(|name| batch.schema().index_of(name).unwrap()).collect();
        batch.project(&indexes).unwrap()
    };
    let some = columns(&["i32", "price", "raw", "t3", "us", "ms", "list"]);
    let encoded = encode(&some, EncodeOptions::default()).unwrap();
    let text = |row| std::str::from_utf8(encoded.row(row).unwrap()).unwrap();
    assert_eq!(
        text(0),
        r#"{"i32":-2147483648,"price":-0.07,"raw":"AP8H","t3":"00:00:00.001","us":"1969-12-31 23:59:59.999999","ms":"1969-12-31 23:59:59.999Z","list":["a",null,""]}"#
    );
    assert_eq!(text(1), r#"{"i32":null,"price":null,"raw":null,"t3":null,"us":null,"ms":null,"list":null}"#);
    let options = EncodeOptions { timestamp_format: TimestampFormat::Iso8601, ignore_null_fields: true };
    let encoded = encode(&columns(&["i32", "ms"]), options).unwrap();
    assert_eq!(encoded.row(0), Ok(&br#"{"i32":-2147483648,"ms":"1969-12-31T23:59:59.999Z"}"#[..]));
    assert_eq!(encoded.row(1), Ok(&b"{}"[..]));
}

#[test]
fn a_row_that_cannot_be_said_fails_alone() {
    let days: ArrayRef = Arc::new(Date32Array::from(vec![0, 2_932_897, 1]));
    let encoded = encode(&RecordBatch::try_from_iter([("day", days)]).unwrap(), EncodeOptions::default()).unwrap();
    assert_eq!(encoded.row(0), Ok(&br#"{"day":"1970-01-01"}"#[..]));
    assert_eq!(encoded.row(1), Err("field \"day\": the year 10000 cannot be written in four digits"));
    assert_eq!(encoded.row(2), Ok(&br#"{"day":"1970-01-02"}"#[..]));
}

#[test]
fn maps_with_other_keys_are_refused() {
    let key = Field::new("keys", DataType::Int32, false);
    let value = Field::new("values", DataType::Utf8, true);
    let entries = Field::new("entries", DataType::Struct(vec![key, value].into()), false);
    let schema = Schema::new(vec![Field::new("m", DataType::Map(Arc::new(entries), false), true)]);
    let error = check(&schema).unwrap_err().to_string();
    assert!(error.contains("\"m\"") && error.contains("text keys"), "{error}");
}
