//! The catalog, and what is refused: declarations, columns and rows that do not fit, writes without the grant.
use tempfile::TempDir;

use super::*;

#[test]
fn the_catalog_is_durable_and_create_leaves_what_is_there() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        assert_eq!(tables.describe(&readings().name).await.unwrap(), None);
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let mut other = readings();
        other.columns.push(Column::new("more", DataType::Utf8));
        tables.create(&other, &CreateOptions::default()).await.unwrap();
        let unsupported =
            TableSchema { name: TableName::new("k", "u"), columns: vec![Column::new("id", DataType::UInt8)], ..readings() };
        let error = tables.create(&unsupported, &CreateOptions::default()).await.unwrap_err();
        assert!(matches!(error, TableError::Unsupported { .. }) && error.to_string().contains("UInt8"), "{error}");
        drop(tables);
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        assert_eq!(tables.list().await.unwrap(), [readings().name]);
        let described = tables.describe(&readings().name).await.unwrap().unwrap();
        assert_eq!(
            described.columns.iter().map(|c| c.native_type.as_deref().unwrap()).collect::<Vec<_>>(),
            ["bigint", "text", "bigint", "text"]
        );
        assert_eq!(described.arrow(), readings().arrow());
    });
}

#[test]
fn null_empty_and_huge_rows_are_refused_others_written() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let long = "x".repeat(70_000);
        let devices: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("b"), Some(&long)]));
        let ats: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(1), Some(1), None, Some(1)]));
        let outcome = write(&tables, &["device", "at"], vec![devices, ats], 1).await.unwrap();
        assert_eq!(outcome.rows, 1);
        let refused: Vec<_> = outcome.refused.iter().map(|refused| (refused.row, refused.error.as_str())).collect();
        assert_eq!(
            refused[..3],
            [(1, "key column device is null"), (2, "key column device is empty"), (3, "key column at is null"),]
        );
        assert!(refused[3].1.contains("65519"), "{}", refused[3].1);
        assert_eq!(rows(&read(&tables, &request(readings()), 3).await.unwrap()).len(), 1);
    });
}

#[test]
fn writers_name_what_does_not_fit() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        let missing = tables.writer(&readings(), &[], &WriteOptions::default()).await.unwrap_err();
        assert!(matches!(missing, TableError::NoSuchTable { .. }));
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let wrong = tables.writer(&readings(), &["device".into(), "x".into()], &WriteOptions::default()).await.unwrap_err();
        assert_eq!(wrong.to_string().matches(';').count(), 1, "both faults: {wrong}");
        let values: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let mistyped = write(&tables, &["device", "at"], vec![Arc::clone(&values), values], 1).await.unwrap_err();
        assert!(matches!(mistyped, TableError::Mismatch { .. }), "{mistyped}");
    });
}

#[test]
fn nothing_is_written_without_the_grant() {
    struct Never;
    impl Grant for Never {
        fn holds(&self) -> bool {
            false
        }
    }
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let columns = ["device".to_owned(), "at".to_owned()];
        let writer = tables.writer(&readings(), &columns, &WriteOptions::default()).await.unwrap();
        let (devices, ats): (ArrayRef, ArrayRef) = (Arc::new(StringArray::from(vec!["a"])), Arc::new(Int64Array::from(vec![1])));
        let batch = RecordBatch::try_from_iter([("device", devices), ("at", ats)]).unwrap();
        assert!(matches!(writer.write(&batch, 1, &Never).await, Err(TableError::GrantExpired)));
        assert!(read(&tables, &request(readings()), 1).await.unwrap().is_empty());
    });
}
