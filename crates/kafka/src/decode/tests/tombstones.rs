//! Topics that keep a row per key: keys, null payloads, and what each payload has to have.
use super::*;

#[test]
fn keys_are_decoded_and_null_payloads_are_tombstones() {
    let columns = vec![
        Column::new("id", DataType::Int64, false),
        Column::new("name", DataType::Utf8, true),
        Column::new("age", DataType::Int32, true),
        Column::new("gone", DataType::Boolean, false),
    ];
    let member = |name: &str| Field::Json { name: name.into() };
    let fields = vec![Field::KeyJson { name: "id".into() }, member("name"), member("age"), Field::Tombstone];
    let options = DecodeOptions {
        tombstones: Some(Tombstones { required: vec!["name".into()], in_json: false }),
        ..DecodeOptions::default()
    };
    let mut decoder = JsonDecoder::new(Arc::new(Schema::new(columns)), fields, options).unwrap();
    let records: [(Option<&str>, Option<&str>); 8] = [
        (Some(r#"{"id":1}"#), Some(r#"{"id":9,"name":"Ann","age":30}"#)),
        (Some(r#"{"id":"x"}"#), Some(r#"{"name":"no number"}"#)),
        (Some(r#"{"other":1,"id":2}"#), None),
        (None, Some(r#"{"name":"no key"}"#)),
        (Some(r#"{"id":3}"#), Some(r#"{"age":1}"#)),
        (Some("3"), None),
        (Some(r#"{"id":3} "#), Some(r#"{"name":"Bo","age":"old"}"#)),
        (Some(r#"{"id":4}"#), Some(r#"{"name":"Cy"}"#)),
    ];
    let mut builder = ChunkBuilder::new();
    for (offset, (key, payload)) in records.iter().enumerate() {
        let (key, payload) = (key.map(str::as_bytes), payload.map(str::as_bytes));
        builder.push(RawRecord { offset: offset as i64, timestamp: None, key, payload }, std::iter::empty());
    }
    let decoded = decoder.decode(&builder.finish(), 0..8, "t", 0).unwrap();
    assert_eq!(decoded.records, [0, 2, 7]);
    let ids = decoded.batch.column(0).as_primitive::<Int64Type>();
    let names: Vec<_> = decoded.batch.column(1).as_string::<i32>().iter().collect();
    let gone: Vec<_> = decoded.batch.column(3).as_boolean().iter().flatten().collect();
    assert_eq!(
        (ids.values().to_vec(), names, gone),
        (vec![1, 2, 4], vec![Some("Ann"), None, Some("Cy")], vec![false, true, false])
    );
    let errors: Vec<(u32, &str)> = decoded.failures.iter().map(|failure| (failure.record, failure.error.as_str())).collect();
    let words = [(1, "the record's key"), (3, "no key"), (4, "\"name\": missing"), (5, "expected an object"), (6, "\"age\"")];
    assert_eq!(errors.len(), words.len(), "{errors:?}");
    for ((record, error), (wanted, words)) in errors.iter().zip(words) {
        assert!(*record == wanted && error.contains(words), "{record}: {error}");
    }
}

#[test]
fn null_in_json_is_no_payload_where_that_is_meant() {
    let image = struct_of(vec![Column::new("id", DataType::Int64, true)]);
    let columns = vec![Column::new("payload", image, true), Column::new("gone", DataType::Boolean, false)];
    let fields = vec![Field::Json { name: "payload".into() }, Field::Tombstone];
    let payloads = [
        Some(r#"{"schema":{"type":"struct"},"payload":{"id":1}}"#),
        Some(r#"{"schema":{"payload":1},"payload":null}"#),
        Some(" null "),
        None,
        Some(r#"{"payload":{"id":2},"schema":null}"#),
        Some(r#"{"id":3}"#),
        Some(r#"{"payload":null"#),
        Some("nulls"),
        Some(r#"{"payload":{"id":"x"}}"#),
        Some(r#"{"payload":{"id":null}}"#),
    ];
    let decoded = |in_json: bool| {
        let options = DecodeOptions {
            tombstones: Some(Tombstones { required: vec!["payload".into()], in_json }),
            ..DecodeOptions::default()
        };
        let mut decoder = JsonDecoder::new(Arc::new(Schema::new(columns.clone())), fields.clone(), options).unwrap();
        let decoded = decoder.decode(&chunk(&payloads), 0..10, "t", 0).unwrap();
        let gone: Vec<bool> = decoded.batch.column(1).as_boolean().iter().flatten().collect();
        let image = decoded.batch.column(0);
        let without: Vec<bool> = (0..image.len()).map(|row| image.is_null(row)).collect();
        assert_eq!(without, gone, "{in_json}");
        (decoded.records, gone)
    };
    assert_eq!(decoded(true), (vec![0, 1, 2, 3, 4, 9], vec![false, true, true, true, false, false]));
    assert_eq!(decoded(false), (vec![0, 3, 4, 9], vec![false, true, false, false]));
}

#[test]
fn what_is_required_is_looked_for_in_every_payload() {
    let columns = vec![Column::new("age", DataType::Int32, true)];
    let options = DecodeOptions {
        tombstones: Some(Tombstones { required: vec!["name".into()], in_json: false }),
        ..DecodeOptions::default()
    };
    let mut decoder = decoder(columns, options);
    let payloads = [
        Some(r#"{"name":{"first":"Ann"},"age":1}"#),
        Some(r#"{"age":2}"#),
        None,
        Some(r#"{"age":3,"name":null}"#),
        Some(r#"{"name":"x"}"#),
    ];
    let decoded = decoder.decode(&chunk(&payloads), 0..5, "t", 0).unwrap();
    assert_eq!((decoded.records.as_slice(), decoded.failures.len()), ([0, 2, 4].as_slice(), 2));
    assert_eq!(decoded.batch.column(0).as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(1), None, None]);
}
