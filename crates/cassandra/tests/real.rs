//! Against a real Apache Cassandra at `POLYBOLOS_TEST_CASSANDRA` (`make test` starts one), in keyspaces of its own.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{ArrayRef, AsArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Decimal128Type},
};
use futures::TryStreamExt;
use polybolos_cassandra::{CassandraBackend, CassandraConfig};
use polybolos_tables::{
    Column, CreateOptions, Grant, KeyPredicate, PredicateOp, ScanRequest, TableBackend, TableError, TableName, TableSchema,
    TableWriter, WriteOptions, check,
};

#[path = "../../tables/tests/conformance/mod.rs"]
mod conformance;

fn address() -> String {
    std::env::var("POLYBOLOS_TEST_CASSANDRA")
        .expect("POLYBOLOS_TEST_CASSANDRA=host:port names a real Cassandra; `make test` starts one")
}

async fn backend() -> CassandraBackend {
    backend_of("cassandra").await
}

/// Of a user whose password is the name.
async fn backend_of(user: &str) -> CassandraBackend {
    let login = || user.to_owned();
    let config =
        CassandraConfig { contact_points: vec![address()], username: login(), password: login(), ..CassandraConfig::default() };
    CassandraBackend::connect(&config).await.unwrap()
}

fn keyspace() -> String {
    format!("t{}", uuid::Uuid::new_v4().simple())
}

/// Somebody else's session with a keyspace.
struct Cql(scylla::client::session::Session);

impl Cql {
    async fn connect(keyspace: &str) -> Self {
        let builder = scylla::client::session_builder::SessionBuilder::new().known_node(address()).user("cassandra", "cassandra");
        let cql = Self(builder.build().await.unwrap());
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        cql.run(&format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}")).await;
        cql
    }

    async fn run(&self, statement: &str) {
        self.0.query_unpaged(statement, ()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_and_expiry_are_as_in_every_store() {
    conformance::run(&backend().await, &keyspace()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_forgets_deletions_is_refused() {
    let keyspace = keyspace();
    let session = Cql::connect(&keyspace).await;
    session.run(&format!("CREATE TABLE {keyspace}.t (k text PRIMARY KEY) WITH gc_grace_seconds = 60")).await;
    let backend = backend().await;
    let name = TableName::new(&keyspace, "t");
    assert_eq!(backend.gc_grace_seconds(&name).await.unwrap(), Some(60));
    let error = check::deletes(&backend, &name).await.unwrap_err();
    assert!(matches!(error, TableError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains(&format!("ALTER TABLE {keyspace}.t WITH gc_grace_seconds = 3600")), "{error}");
}

/// Somebody else made them, for a user who may not.
#[tokio::test(flavor = "multi_thread")]
async fn what_exists_is_not_made_and_needs_no_right_to() {
    let keyspace = keyspace();
    let cql = Cql::connect(&keyspace).await;
    cql.run(&format!("CREATE TABLE {keyspace}.t (id text PRIMARY KEY)")).await;
    cql.run(&format!("CREATE ROLE {keyspace} WITH PASSWORD = '{keyspace}' AND LOGIN = true")).await;
    cql.run(&format!("GRANT SELECT ON KEYSPACE {keyspace} TO {keyspace}")).await;
    let backend = backend_of(&keyspace).await;
    let table = |keyspace: &str, name: &str| TableSchema {
        name: TableName::new(keyspace, name),
        columns: vec![Column::new("id", DataType::Utf8)],
        partition_key: vec!["id".into()],
        clustering_key: vec![],
    };
    backend.create(&table(&keyspace, "t"), &CreateOptions::default()).await.unwrap();
    let other = format!("{keyspace}x");
    for (keyspace, name) in [(keyspace.as_str(), "u"), (other.as_str(), "t")] {
        let error = backend.create(&table(keyspace, name), &CreateOptions::default()).await.unwrap_err().to_string();
        assert!(error.contains("has no CREATE permission"), "{error}");
    }
    cql.run(&format!("DROP ROLE {keyspace}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_lingers_as_long_as_the_driver_waits_for_it() {
    assert_eq!(backend().await.writes_linger(), CassandraConfig::default().request_timeout);
}

/// EPOCHS rule 11: what is published twice would not be the same as once.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_cannot_be_written_twice_are_refused() {
    let keyspace = keyspace();
    let session = Cql::connect(&keyspace).await;
    let columns = "id text, sub int, shared text STATIC, items list<int>, whole frozen<list<int>>, PRIMARY KEY (id, sub)";
    session.run(&format!("CREATE TABLE {keyspace}.t ({columns})")).await;
    session.run(&format!("CREATE TABLE {keyspace}.c (id text PRIMARY KEY, hits counter)")).await;
    let backend = backend().await;
    for (table, column, why) in [
        ("t", "shared", "static columns are shared by rows"),
        ("t", "items", "collections that are not frozen grow"),
        ("c", "hits", "its type is not supported"),
    ] {
        let stored = backend.describe(&TableName::new(&keyspace, table)).await.unwrap().unwrap();
        let mut declared = stored.clone();
        declared.columns.push(Column::new(column, DataType::Utf8));
        let error = check::columns(&backend, &declared, &stored).unwrap_err().to_string();
        assert!(error.contains(&format!("column {column:?}: {why}")), "{error}");
    }
}

struct Always;

impl Grant for Always {
    fn holds(&self) -> bool {
        true
    }
}

/// A UUID is text to us and sixteen bytes there, also as a key.
#[tokio::test(flavor = "multi_thread")]
async fn uuids_are_text_here_and_uuids_there() {
    const ID: &str = "123e4567-e89b-12d3-a456-426614174000";
    let backend = backend().await;
    let uuid = |name: &str| Column { native_type: Some("uuid".into()), ..Column::new(name, DataType::Utf8) };
    let table = TableSchema {
        name: TableName::new(keyspace(), "t"),
        columns: vec![uuid("id"), uuid("other")],
        partition_key: vec!["id".into()],
        clustering_key: vec![],
    };
    backend.create(&table, &CreateOptions::default()).await.unwrap();
    let stored = backend.describe(&table.name).await.unwrap().unwrap();
    assert!(stored.columns.iter().all(|column| column.native_type.as_deref() == Some("native(uuid)")), "{stored:?}");
    assert!(stored.columns.iter().all(|column| column.data_type == DataType::Utf8), "{stored:?}");

    let columns = ["id", "other"].map(str::to_owned).to_vec();
    let texts = |texts: &[Option<&str>]| Arc::new(StringArray::from_iter(texts.iter().copied())) as ArrayRef;
    let capital = ID.to_uppercase();
    let rows = [texts(&[Some(ID), Some(&capital), Some("nonsense")]), texts(&[None, None, Some(ID)])];
    let batch =
        RecordBatch::try_from_iter_with_nullable(["id", "other"].into_iter().zip(rows).map(|(name, column)| (name, column, true)));
    let writer = backend.writer(&table, &columns, &WriteOptions::default()).await.unwrap();
    let outcome = writer.write(&batch.unwrap(), 1_000, &Always).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.len()), (1, 2));
    assert!(outcome.refused[1].error.contains("\"nonsense\" is no UUID"), "{outcome:?}");

    for (key, found) in [(ID, 1), (capital.as_str(), 0), ("nonsense", 0)] {
        let predicate = KeyPredicate { column: "id".into(), op: PredicateOp::Eq, values: texts(&[Some(key)]) };
        let request = ScanRequest { table: table.clone(), columns: columns.clone(), predicates: vec![predicate], limit: None };
        let mut read = vec![];
        for slice in backend.slices(&request, 1).await.unwrap() {
            for batch in backend.scan(&request, &slice).try_collect::<Vec<RecordBatch>>().await.unwrap() {
                read.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
            }
        }
        assert_eq!((read.len(), read.iter().all(|id| id == ID)), (found, true), "{key}: {read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decimals_keep_their_digits() {
    let backend = backend().await;
    let table = TableSchema {
        name: TableName::new(keyspace(), "t"),
        columns: vec![Column::new("id", DataType::Utf8), Column::new("price", DataType::Decimal128(38, 4))],
        partition_key: vec!["id".into()],
        clustering_key: vec![],
    };
    backend.create(&table, &CreateOptions::default()).await.unwrap();
    let stored = backend.describe(&table.name).await.unwrap().unwrap();
    check::columns(&backend, &table, &stored).unwrap();

    let columns = ["id", "price"].map(str::to_owned).to_vec();
    let prices = [Some(0), Some(-1), Some(128), Some(10_i128.pow(38) - 1), None];
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..prices.len()).map(|row| row.to_string())));
    let written = Decimal128Array::from_iter(prices).with_precision_and_scale(38, 4).unwrap();
    let batch =
        RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("price", Arc::new(written) as ArrayRef, true)]).unwrap();
    let writer = backend.writer(&table, &columns, &WriteOptions::default()).await.unwrap();
    let outcome = writer.write(&batch, 1_000, &Always).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.len()), (5, 0));

    let request = ScanRequest { table: table.clone(), columns, predicates: vec![], limit: None };
    let mut read = vec![];
    for slice in backend.slices(&request, 2).await.unwrap() {
        for batch in backend.scan(&request, &slice).try_collect::<Vec<RecordBatch>>().await.unwrap() {
            let (ids, prices) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Decimal128Type>());
            read.extend(ids.iter().flatten().map(str::to_owned).zip(prices.iter()));
        }
    }
    read.sort();
    assert_eq!(read.into_iter().map(|(_, price)| price).collect::<Vec<_>>(), prices);
}

/// Rows with a text `id` and an integer `v`.
fn ids_and_numbers(rows: &[(&str, i32)]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.1)));
    RecordBatch::try_from_iter([("id", ids), ("v", numbers)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_not_to_blame_for_its_table() {
    let (backend, keyspace) = (backend().await, keyspace());
    let cql = Cql::connect(&keyspace).await;
    cql.run(&format!("CREATE TABLE {keyspace}.t (id text PRIMARY KEY, v int)")).await;
    let name = TableName::new(&keyspace, "t");
    let table = backend.describe(&name).await.unwrap().unwrap();
    let writer = backend.writer(&table, &["id", "v"].map(str::to_owned), &WriteOptions::default()).await.unwrap();
    // A row at fault is alone with it.
    let outcome = writer.write(&ids_and_numbers(&[("a", 1), ("", 2), ("b", 3)]), 1_000, &Always).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.len(), outcome.refused[0].row), (2, 1, 1), "{outcome:?}");
    cql.run(&format!("DROP TABLE {keyspace}.t")).await;
    for rows in [&[("a", 1), ("b", 2)][..], &[("a", 1)]] {
        let error = writer.write(&ids_and_numbers(rows), 1_000, &Always).await.unwrap_err();
        assert!(!error.is_retryable() && error.to_string().contains("does not exist"), "{error}");
    }
    // Once it is there again, it is written to again.
    cql.run(&format!("CREATE TABLE {keyspace}.t (id text PRIMARY KEY, v int)")).await;
    let outcome = writer.write(&ids_and_numbers(&[("a", 1)]), 1_000, &Always).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.len()), (1, 0));
}

/// What is asked of the server again and again is prepared once, and the server forgets it with the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_made_again_is_written_only_where_it_fits() {
    let (backend, keyspace) = (backend().await, keyspace());
    let cql = Cql::connect(&keyspace).await;
    let name = TableName::new(&keyspace, "t");
    let made_again = async |columns: &str| {
        cql.run(&format!("DROP TABLE IF EXISTS {keyspace}.t")).await;
        cql.run(&format!("CREATE TABLE {keyspace}.t ({columns})")).await;
    };
    let writer = async || {
        let table = backend.describe(&name).await.unwrap().unwrap();
        backend.writer(&table, &["id", "v"].map(str::to_owned), &WriteOptions::default()).await.unwrap()
    };
    let refused = async |writer: &dyn TableWriter, rows: &[(&str, i32)], why: &str| {
        let error = writer.write(&ids_and_numbers(rows), 1_000, &Always).await.unwrap_err();
        assert!(matches!(error, TableError::Mismatch { .. }), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
        let rows = cql.0.query_unpaged(format!("SELECT id FROM {keyspace}.t"), ()).await.unwrap().into_rows_result().unwrap();
        assert_eq!(rows.rows_num(), 0);
    };
    made_again("id text PRIMARY KEY, v int").await;
    let old = writer().await;
    assert!(Arc::ptr_eq(&old, &writer().await), "it is prepared once, whoever asks");
    assert_eq!(old.write(&ids_and_numbers(&[("a", 1)]), 1_000, &Always).await.unwrap().rows, 1);

    // The server refuses at once.
    let why = format!("table {keyspace}.t does not fit its declaration: column \"v\" is declared Int32 and stored Utf8");
    made_again("id text PRIMARY KEY, v text").await;
    for rows in [&[("a", 1)][..], &[("a", 1), ("b", 2)]] {
        refused(&*old, rows, &why).await;
        refused(&*writer().await, rows, &why).await;
    }
    assert!(!Arc::ptr_eq(&old, &writer().await));
    // What it takes is found out once the driver has read the schema, which a description waits for.
    made_again("id text PRIMARY KEY, v blob").await;
    backend.describe(&name).await.unwrap();
    refused(&*old, &[("a", 1)], "column \"v\" is declared Int32 and stored Binary").await;
    made_again("id text, v int, PRIMARY KEY (v, id)").await;
    backend.describe(&name).await.unwrap();
    refused(&*old, &[("a", 1)], "its primary key is declared ((id)) and stored ((v), id)").await;
    // Repaired.
    made_again("id text PRIMARY KEY, v int, more text").await;
    assert_eq!(writer().await.write(&ids_and_numbers(&[("a", 1)]), 1_000, &Always).await.unwrap().rows, 1);
}

async fn read(backend: &CassandraBackend, request: &ScanRequest) -> Result<Vec<RecordBatch>, TableError> {
    let mut read = vec![];
    for slice in backend.slices(request, 2).await? {
        read.extend(backend.scan(request, &slice).try_collect::<Vec<RecordBatch>>().await?);
    }
    Ok(read)
}

fn rows(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

fn declared(keyspace: &str, columns: &[(&str, DataType)], clustering: &[&str]) -> TableSchema {
    TableSchema {
        name: TableName::new(keyspace, "t"),
        columns: columns.iter().map(|(name, data_type)| Column::new(*name, data_type.clone())).collect(),
        partition_key: vec![columns[0].0.into()],
        clustering_key: clustering.iter().map(|&name| name.to_owned()).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_static_columns_alone_has_no_row() {
    let (backend, keyspace) = (backend().await, keyspace());
    let cql = Cql::connect(&keyspace).await;
    cql.run(&format!("CREATE TABLE {keyspace}.t (id text, sub int, shared text STATIC, v int, PRIMARY KEY (id, sub))")).await;
    for id in 0..20 {
        cql.run(&format!("INSERT INTO {keyspace}.t (id, shared) VALUES ('static {id}', 's')")).await;
    }
    cql.run(&format!("INSERT INTO {keyspace}.t (id, sub, v) VALUES ('a', 1, 2)")).await;
    let table = declared(&keyspace, &[("id", DataType::Utf8), ("sub", DataType::Int32), ("v", DataType::Int32)], &["sub"]);
    let request = |columns: &[&str]| ScanRequest {
        table: table.clone(),
        columns: columns.iter().map(|&name| name.to_owned()).collect(),
        predicates: vec![],
        limit: None,
    };
    for columns in [&["id", "sub", "v"][..], &["v"], &[]] {
        assert_eq!(rows(&read(&backend, &request(columns)).await.unwrap()), 1, "{columns:?}");
        // What is no row counts towards no limit.
        assert_eq!(rows(&read(&backend, &ScanRequest { limit: Some(1), ..request(columns) }).await.unwrap()), 1, "{columns:?}");
    }
    // The last two are keys that the server refuses to look for.
    let long = "x".repeat(70_000);
    for (id, found) in [("a", 1), ("static 1", 0), ("", 0), (long.as_str(), 0)] {
        let values = Arc::new(StringArray::from(vec![id])) as ArrayRef;
        let predicates = vec![KeyPredicate { column: "id".into(), op: PredicateOp::Eq, values }];
        assert_eq!(rows(&read(&backend, &ScanRequest { predicates, ..request(&["sub", "v"]) }).await.unwrap()), found, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_partitions_and_ranges_within_them_are_read_exactly() {
    const TEXTS: [&str; 4] = ["", "a", "z", "é"];
    let (backend, keyspace) = (backend().await, keyspace());
    let cql = Cql::connect(&keyspace).await;
    let order = "CLUSTERING ORDER BY (c DESC, d ASC)";
    let columns = "a text, b int, c bigint, d text, shared int STATIC, v int";
    cql.run(&format!("CREATE TABLE {keyspace}.t ({columns}, PRIMARY KEY ((a, b), c, d)) WITH {order}")).await;
    let mut stored = vec![];
    for b in 0..4 {
        for (c, d) in (-2..3_i64).flat_map(|c| TEXTS.map(|d| (c, d))) {
            cql.run(&format!("INSERT INTO {keyspace}.t (a, b, c, d, v) VALUES ('x', {b}, {c}, '{d}', 1)")).await;
            stored.push((b, c, d));
        }
    }
    cql.run(&format!("INSERT INTO {keyspace}.t (a, b, shared) VALUES ('x', 7, 1)")).await;
    let table = backend.describe(&TableName::new(&keyspace, "t")).await.unwrap().unwrap();
    let predicate = |column: &str, op, values: ArrayRef| KeyPredicate { column: column.into(), op, values };
    let text = |column: &str, op, value: &str| predicate(column, op, Arc::new(StringArray::from(vec![value])));
    let int = |op, values: &[i32]| predicate("b", op, Arc::new(Int32Array::from(values.to_vec())));
    let long = |op, value: i64| predicate("c", op, Arc::new(Int64Array::from(vec![value])));
    let x = || text("a", PredicateOp::Eq, "x");
    let count = async |predicates: Vec<KeyPredicate>| {
        assert_eq!(backend.supports(&table, &predicates), vec![true; predicates.len()], "{predicates:?}");
        let columns = vec!["b".to_owned(), "c".to_owned()];
        rows(&read(&backend, &ScanRequest { table: table.clone(), columns, predicates, limit: None }).await.unwrap())
    };
    let having = |keeps: &dyn Fn(i32, i64, &str) -> bool| stored.iter().filter(|(b, c, d)| keeps(*b, *c, d)).count();

    // Of a partition of static columns alone there is no row, and of one that is not there neither.
    let some = || int(PredicateOp::In, &[1, 3, 7, 9]);
    assert_eq!(count(vec![x(), some()]).await, having(&|b, _, _| b == 1 || b == 3));
    let within = vec![x(), some(), long(PredicateOp::Gt, -1), long(PredicateOp::LtEq, 1)];
    assert_eq!(count(within).await, having(&|b, c, _| (b == 1 || b == 3) && c > -1 && c <= 1));
    for op in [PredicateOp::Lt, PredicateOp::LtEq, PredicateOp::Gt, PredicateOp::GtEq] {
        let keeps = |c: i64| match op {
            PredicateOp::Lt => c < 0,
            PredicateOp::LtEq => c <= 0,
            PredicateOp::Gt => c > 0,
            _ => c >= 0,
        };
        assert_eq!(
            count(vec![x(), int(PredicateOp::Eq, &[2]), long(op, 0)]).await,
            having(&|b, c, _| b == 2 && keeps(c)),
            "{op:?}"
        );
    }
    for (op, value) in [(PredicateOp::Gt, "a"), (PredicateOp::GtEq, "z"), (PredicateOp::Lt, "é"), (PredicateOp::LtEq, "")] {
        let keeps = |d: &str| match op {
            PredicateOp::Gt => d > value,
            PredicateOp::GtEq => d >= value,
            PredicateOp::Lt => d < value,
            _ => d <= value,
        };
        let predicates = vec![x(), int(PredicateOp::Eq, &[0]), long(PredicateOp::Eq, 2), text("d", op, value)];
        assert_eq!(count(predicates).await, having(&|b, c, d| b == 0 && c == 2 && keeps(d)), "{op:?} {value}");
    }

    // A column that is compared as another type than it is stored in stays with us.
    let other = predicate("c", PredicateOp::Gt, Arc::new(Int32Array::from(vec![0])));
    assert_eq!(backend.supports(&table, &[x(), int(PredicateOp::Eq, &[1]), other]), [true, true, false]);
    let request = ScanRequest { table: table.clone(), columns: vec!["c".into()], predicates: vec![x(), some()], limit: Some(2) };
    assert_eq!(backend.slices(&request, 3).await.unwrap().len(), 3);
    assert!(rows(&read(&backend, &request).await.unwrap()) >= 2);
}

/// The driver reads the schema in parts, and hears of a table that is made meanwhile without its columns.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_never_heard_of_in_part() {
    let (backend, keyspace) = (backend().await, keyspace());
    let cql = Cql::connect(&keyspace).await;
    let made = AtomicBool::new(false);
    let names: Vec<TableName> = (0..8).map(|index| TableName::new(&keyspace, format!("t{index}"))).collect();
    let make = async {
        for TableName { keyspace, table } in &names {
            cql.run(&format!("CREATE TABLE {keyspace}.{table} (id text, sub int, PRIMARY KEY (id, sub))")).await;
        }
        made.store(true, Ordering::Relaxed);
    };
    let look = async {
        let mut seen = 0;
        while !made.load(Ordering::Relaxed) || seen < names.len() {
            seen = 0;
            for table in &names {
                let found = match backend.describe(table).await {
                    Ok(found) => found,
                    // Beside other tests the server may be slow to tell.
                    Err(error) if error.is_retryable() => continue,
                    Err(error) => panic!("{error}"),
                };
                let Some(found) = found else { continue };
                assert_eq!((found.partition_key, found.clustering_key), (vec!["id".to_owned()], vec!["sub".to_owned()]));
                seen += 1;
            }
        }
    };
    let bounded = tokio::time::timeout(Duration::from_secs(120), async { tokio::join!(make, look) });
    bounded.await.expect("all tables are seen in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_does_not_fit_is_no_outage() {
    let (backend, keyspace) = (backend().await, keyspace());
    let cql = Cql::connect(&keyspace).await;
    let error = async |table: TableSchema, columns: &[&str]| {
        let columns = columns.iter().map(|&name| name.to_owned()).collect();
        let error = read(&backend, &ScanRequest { table, columns, predicates: vec![], limit: None }).await.unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        error.to_string()
    };
    let id = || ("id", DataType::Utf8);
    let missing = error(declared(&keyspace, &[id()], &[]), &["id"]).await;
    assert!(missing.contains(&format!("table {keyspace}.t does not exist")), "{missing}");
    let nowhere = error(declared("nowhere_at_all", &[id()], &[]), &["id"]).await;
    assert!(nowhere.contains("table nowhere_at_all.t does not exist"), "{nowhere}");
    cql.run(&format!("CREATE TABLE {keyspace}.t (id text, a text, sub int, big varint, PRIMARY KEY (id, sub))")).await;
    let undefined = error(declared(&keyspace, &[id(), ("none", DataType::Utf8)], &[]), &["none"]).await;
    assert!(
        undefined.contains(&format!("table {keyspace}.t does not fit its declaration: it has no column \"none\"")),
        "{undefined}"
    );
    let key = error(declared(&keyspace, &[("a", DataType::Utf8)], &[]), &["a"]).await;
    assert!(key.contains("its primary key is declared ((a)) and stored ((id), sub)"), "{key}");
    let typed = error(declared(&keyspace, &[id(), ("big", DataType::Utf8)], &[]), &["big"]).await;
    assert!(typed.contains(&format!("column \"big\" of {keyspace}.t is stored as varint and declared STRING")), "{typed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_read_as_what_has_room_for_them_and_keys_as_they_are_now() {
    let (backend, keyspace) = (backend().await, keyspace());
    let cql = Cql::connect(&keyspace).await;
    cql.run(&format!("CREATE TABLE {keyspace}.t (id int PRIMARY KEY, tiny tinyint, real float, big varint)")).await;
    cql.run(&format!("INSERT INTO {keyspace}.t (id, tiny, real, big) VALUES (7, -3, 1.5, 300)")).await;
    let columns =
        [("id", DataType::Int64), ("tiny", DataType::Int32), ("real", DataType::Float64), ("big", DataType::Decimal128(38, 0))];
    let table = declared(&keyspace, &columns, &[]);
    let values = Arc::new(Int64Array::from(vec![7])) as ArrayRef;
    let predicates = vec![KeyPredicate { column: "id".into(), op: PredicateOp::Eq, values }];
    let columns = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let request = ScanRequest { table, columns, predicates, limit: None };
    let found = read(&backend, &request).await.unwrap();
    assert_eq!(rows(&found), 1);
    assert_eq!(found[0].column(3).as_primitive::<Decimal128Type>().value(0), 300);
    // The kept statement must not compare a number's bytes with texts.
    cql.run(&format!("DROP TABLE {keyspace}.t")).await;
    cql.run(&format!("CREATE TABLE {keyspace}.t (id text PRIMARY KEY, tiny tinyint, real float, big varint)")).await;
    for _ in 0..2 {
        let error = read(&backend, &request).await.unwrap_err();
        assert!(!error.is_retryable(), "{error}");
    }
    let error = read(&backend, &request).await.unwrap_err().to_string();
    assert!(error.contains("column \"id\"") && error.contains("is stored as text and declared BIGINT"), "{error}");
}
