//! As long as keys can be, and longer; as many rows as come at once.
use std::collections::BTreeSet;

use polybolos_tables::PredicateOp;
use tempfile::TempDir;

use super::*;

#[test]
fn the_longest_key_can_be_deleted_and_a_longer_one_is_looked_for_among_others() {
    // Beside the device: a token, the end of a text, and a number.
    const BESIDE: usize = key::TOKEN_BYTES + 2 + 8;
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let longest = key::BYTES_MAX - graves::PREFIX_BYTES - BESIDE;
        let (fits, too_long) = ("x".repeat(longest), "x".repeat(longest + 1));
        let devices: ArrayRef = Arc::new(StringArray::from(vec!["a", fits.as_str(), too_long.as_str()]));
        let ats: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 1]));
        let outcome = write(&tables, &["device", "at"], vec![devices, ats], 1).await.unwrap();
        assert_eq!(outcome.refused.iter().map(|refused| refused.row).collect::<Vec<_>>(), [2]);

        let found = async |op, devices: Vec<&str>| {
            let values = Arc::new(StringArray::from(devices));
            let predicates = vec![KeyPredicate { column: "device".into(), op, values }];
            let read = read(&tables, &ScanRequest { predicates, ..request(readings()) }, 3).await.unwrap();
            read.iter().map(RecordBatch::num_rows).sum::<usize>()
        };
        // As long as no key of the store can be, also where they begin alike.
        let never = "x".repeat(3 * key::BYTES_MAX);
        assert_eq!(found(PredicateOp::In, vec!["a", fits.as_str(), never.as_str()]).await, 2);
        assert_eq!(found(PredicateOp::Eq, vec![never.as_str()]).await, 0);
        assert_eq!(found(PredicateOp::Lt, vec![never.as_str()]).await, 2);
        delete(&tables, &[(fits.clone(), 1)], 2).await;
        assert_eq!(found(PredicateOp::In, vec!["a", fits.as_str(), never.as_str()]).await, 1);
    });
}

#[test]
fn a_bound_longer_than_any_key_is_kept() {
    let schema = TableSchema {
        columns: vec![Column::new("device", DataType::Int64), Column::new("name", DataType::Utf8)],
        partition_key: vec!["device".into()],
        clustering_key: vec!["name".into()],
        ..readings()
    };
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&schema, &CreateOptions::default()).await.unwrap();
        let columns = ["device", "name"].map(str::to_owned);
        let writer = tables.writer(&schema, &columns, &WriteOptions::default()).await.unwrap();
        let long = "m".repeat(60_000);
        let (devices, names): (ArrayRef, ArrayRef) =
            (Arc::new(Int64Array::from(vec![1; 3])), Arc::new(StringArray::from(vec!["a", long.as_str(), "z"])));
        let batch = RecordBatch::try_from_iter([("device", devices), ("name", names)]).unwrap();
        assert_eq!(writer.write(&batch, 1, &Always).await.unwrap().rows, 3);

        let bound = "m".repeat(70_000);
        for (op, count) in [(PredicateOp::Lt, 2), (PredicateOp::LtEq, 2), (PredicateOp::Gt, 1), (PredicateOp::GtEq, 1)] {
            let predicates = vec![
                KeyPredicate { column: "device".into(), op: PredicateOp::Eq, values: Arc::new(Int64Array::from(vec![1])) },
                KeyPredicate { column: "name".into(), op, values: Arc::new(StringArray::from(vec![bound.as_str()])) },
            ];
            let found = read(&tables, &ScanRequest { predicates, ..request(schema.clone()) }, 1).await.unwrap();
            assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), count, "{op:?}");
        }
    });
}

#[test]
fn many_rows_come_in_bounded_batches_from_every_slice() {
    runtime().block_on(async {
        let folder = TempDir::new().unwrap();
        let tables = EmbeddedTables::open(folder.path()).await.unwrap();
        tables.create(&readings(), &CreateOptions::default()).await.unwrap();
        let count = 30_000;
        let devices: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(|i| format!("device {i}"))));
        let ats: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
        write(&tables, &["device", "at", "value"], vec![devices, Arc::clone(&ats), ats], 1).await.unwrap();
        let request = request(readings());
        let slices = tables.slices(&request, 3).await.unwrap();
        assert_eq!(slices.len(), 3);
        let mut seen = BTreeSet::new();
        for slice in slices {
            let batches: Vec<_> = tables.scan(&request, &slice).try_collect().await.unwrap();
            let in_slice: usize = batches.iter().map(RecordBatch::num_rows).sum();
            assert!((9_000..11_000).contains(&in_slice), "slices are even: {in_slice}");
            assert!(batches.iter().all(|batch| batch.num_rows() <= 8192));
            seen.extend(rows(&batches).into_iter().map(|row| row.0.1));
        }
        assert_eq!(seen.len(), count as usize);
    });
}
