//! A folder that another process has open, and damage on disk.
use std::fs;

use polybolos_tables::Blame;
use tempfile::TempDir;

use super::*;

#[test]
fn a_folder_opens_once() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let _tables = EmbeddedTables::open(folder.path()).await.unwrap();
        let error = EmbeddedTables::open(folder.path()).await.unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()) && error.contains("another process"), "{error}");
    });
}

#[test]
fn damaged_rows_and_catalog_entries_are_corruption() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let (devices, ats): (ArrayRef, ArrayRef) = (Arc::new(StringArray::from(vec!["a"])), Arc::new(Int64Array::from(vec![1])));
        write(&tables, &["device", "at"], vec![Arc::clone(&devices), Arc::clone(&ats)], 1).await.unwrap();
        let table = tables.table(&readings().name).unwrap();
        let key = table.rows.first_key_value().unwrap().key().unwrap();
        table.rows.insert(key, b"\x09nonsense").unwrap();
        let error = read(&tables, &request(readings()), 1).await.unwrap_err();
        assert!(matches!(&error, TableError::Corrupt { object, .. } if object == "table telemetry.readings"), "{error}");
        assert_eq!(error.blame(), Blame::Environment);
        let error = write(&tables, &["device", "at"], vec![devices, ats], 2).await.unwrap_err();
        assert!(matches!(error, TableError::Corrupt { .. }), "{error}");

        tables.catalog.insert("telemetry.readings", b"{}").unwrap();
        drop((tables, table));
        let error = EmbeddedTables::open(folder.path()).await.unwrap_err();
        assert!(matches!(&error, TableError::Corrupt { object, .. } if object.contains("catalog")), "{error}");
    });
}

#[test]
fn a_flipped_bit_in_a_file_is_corruption() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let devices: ArrayRef = Arc::new(StringArray::from_iter_values((0..5000).map(|i| format!("device {}", i * 7919))));
        let ats: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5000));
        write(&tables, &["device", "at", "value"], vec![devices, Arc::clone(&ats), ats], 1).await.unwrap();
        tables.table(&readings().name).unwrap().rows.rotate_memtable_and_wait().unwrap();
        drop(tables);
        let file = largest_file(&folder.path().join("keyspaces"));
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&file, bytes).unwrap();
        let outcome = async {
            let tables = EmbeddedTables::open(folder.path()).await?;
            read(&tables, &request(readings()), 1).await
        };
        let error = outcome.await.unwrap_err();
        assert!(matches!(error, TableError::Corrupt { .. }), "{error}");
    });
}

fn largest_file(folder: &Path) -> std::path::PathBuf {
    let mut folders = vec![folder.to_path_buf()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.metadata().unwrap().len(), entry.path()));
            }
        }
    }
    files.into_iter().max().unwrap().1
}
