//! What a sink does while Cassandra is away, slow or too small: it tries again within its budget, has so many batches under way and no more, and never takes
//! silence for a yes. Against the real server at `POLYBOLOS_TEST_CASSANDRA` (`make test` starts one), through a proxy that breaks connections.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{ArrayRef, Int32Array, RecordBatch, StringArray},
    datatypes::DataType,
};
use futures::TryStreamExt;
use polybolos_cassandra::{CassandraBackend, CassandraConfig};
use polybolos_tables::{
    Column, CreateOptions, Grant, ScanRequest, TableBackend, TableError, TableName, TableSchema, TableWriter, WriteOptions,
};
use polybolos_testkit::{Direction, FaultProxy, wait_until_async};

const DEADLINE: Duration = Duration::from_secs(120);

fn server() -> String {
    std::env::var("POLYBOLOS_TEST_CASSANDRA")
        .expect("POLYBOLOS_TEST_CASSANDRA=host:port names a real Cassandra; `make test` starts one")
}

async fn backend(address: String, request_timeout: Duration) -> CassandraBackend {
    let login = || "cassandra".to_owned();
    let config = CassandraConfig {
        contact_points: vec![address],
        username: login(),
        password: login(),
        request_timeout,
        ..CassandraConfig::default()
    };
    CassandraBackend::connect(&config).await.unwrap()
}

/// A new table with a text `id` and an integer `v`, in a keyspace of its own that has one replica.
async fn table(backend: &CassandraBackend) -> TableSchema {
    let table = TableSchema {
        name: TableName::new(format!("t{}", uuid::Uuid::new_v4().simple()), "t"),
        columns: vec![Column::new("id", DataType::Utf8), Column::new("v", DataType::Int32)],
        partition_key: vec!["id".into()],
        clustering_key: vec![],
    };
    backend.create(&table, &CreateOptions::default()).await.unwrap();
    backend.describe(&table.name).await.unwrap().unwrap()
}

async fn writer(backend: &CassandraBackend, table: &TableSchema, options: &WriteOptions) -> Arc<dyn TableWriter> {
    backend.writer(table, &["id", "v"].map(str::to_owned), options).await.unwrap()
}

fn rows(count: i32) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(|row| row.to_string())));
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..count));
    RecordBatch::try_from_iter([("id", ids), ("v", numbers)]).unwrap()
}

async fn stored(backend: &CassandraBackend, table: &TableSchema) -> usize {
    // Somebody else may have made it.
    backend.describe(&table.name).await.unwrap();
    let request = ScanRequest { table: table.clone(), columns: vec!["id".into()], predicates: vec![], limit: None };
    let mut stored = 0;
    for slice in backend.slices(&request, 1).await.unwrap() {
        let batches = backend.scan(&request, &slice).try_collect::<Vec<RecordBatch>>().await.unwrap();
        stored += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    }
    stored
}

/// A grant that holds. It is asked for before every try, so it knows how many there were; at one of them it makes the proxy whole again.
struct Tries<'a> {
    proxy: &'a FaultProxy,
    heals_at: u64,
    made: AtomicU64,
}

impl<'a> Tries<'a> {
    fn healing_at(heals_at: u64, proxy: &'a FaultProxy) -> Self {
        Self { proxy, heals_at, made: AtomicU64::new(0) }
    }

    fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

impl Grant for Tries<'_> {
    fn holds(&self) -> bool {
        if self.made.fetch_add(1, Ordering::Relaxed) + 1 == self.heals_at {
            self.proxy.heal();
            self.proxy.accept().unwrap();
        }
        true
    }
}

const NEVER: u64 = u64::MAX;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_tried_again_within_its_budget() {
    let proxy = FaultProxy::start(&server(), 1).unwrap();
    let direct = backend(server(), CassandraConfig::default().request_timeout).await;
    let through = backend(proxy.address(), CassandraConfig::default().request_timeout).await;
    let table = table(&through).await;
    let poor = writer(&through, &table, &WriteOptions { retries: 2, ..WriteOptions::default() }).await;
    let patient = writer(&through, &table, &WriteOptions { retries: 1_000, ..WriteOptions::default() }).await;
    // From here on nothing reaches the server, also of what was sent before the connections break.
    proxy.refuse().unwrap();
    proxy.hold(Direction::ToServer);
    proxy.cut_all();

    let tries = Tries::healing_at(NEVER, &proxy);
    let error = poor.write(&rows(10), 1_000, &tries).await.unwrap_err();
    assert!(matches!(error, TableError::Unavailable { .. }), "{error}");
    assert_eq!(tries.made(), 3, "once, and two retries");
    assert_eq!(stored(&direct, &table).await, 0);

    let tries = Tries::healing_at(3, &proxy);
    let outcome = patient.write(&rows(10), 1_000, &tries).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.len()), (10, 0));
    assert!(outcome.retries >= 2 && outcome.retries + 1 == tries.made(), "{} retries of {} tries", outcome.retries, tries.made());
    assert_eq!(stored(&direct, &table).await, 10);
    assert!(proxy.counts().cut > 0 && proxy.counts().refusals == 1, "{:?}", proxy.counts());
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_batches_are_under_way_and_no_more() {
    let proxy = FaultProxy::start(&server(), 2).unwrap();
    // Longer than a slow machine takes to look.
    let through = backend(proxy.address(), DEADLINE * 2).await;
    let table = table(&through).await;
    let options = WriteOptions { in_flight: 3, batch_rows: 1, ..WriteOptions::default() };
    let writer = writer(&through, &table, &options).await;
    let (tries, rows) = (Tries::healing_at(NEVER, &proxy), rows(10));
    proxy.hold(Direction::ToClient);
    let looked = async {
        let is_held = || std::future::ready(tries.made() >= 3 && proxy.counts().held > 0);
        wait_until_async("an answer that is held", DEADLINE, is_held).await.unwrap();
        let under_way = tries.made();
        proxy.heal();
        under_way
    };
    let (outcome, under_way) = tokio::join!(writer.write(&rows, 1_000, &tries), looked);
    assert_eq!(under_way, 3);
    assert_eq!(outcome.unwrap().rows, 10);
    assert_eq!(stored(&through, &table).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consistency_that_cannot_be_had_is_no_success() {
    let proxy = FaultProxy::start(&server(), 3).unwrap();
    let backend = backend(proxy.address(), CassandraConfig::default().request_timeout).await;
    let table = table(&backend).await;
    let of =
        |consistency: &str| WriteOptions { consistency: consistency.into(), batch_rows: 3, retries: 1, ..WriteOptions::default() };
    let keys = rows(1).project(&[0]).unwrap();
    for consistency in ["TWO", "three"] {
        let writer = writer(&backend, &table, &of(consistency)).await;
        // A row alone, a batch, and a full one; a delete.
        for count in 1..=3 {
            let tries = Tries::healing_at(NEVER, &proxy);
            let error = writer.write(&rows(count), 1_000, &tries).await.unwrap_err();
            assert!(matches!(error, TableError::Unavailable { .. }), "{consistency}, {count} rows: {error}");
            assert_eq!(tries.made(), 2, "another node may be there a moment later");
        }
        let error = writer.delete(&keys, 1_000, &Tries::healing_at(NEVER, &proxy)).await.unwrap_err();
        assert!(matches!(error, TableError::Unavailable { .. }), "{consistency}: {error}");
    }
    assert_eq!(stored(&backend, &table).await, 0);
    for consistency in ["ONE", "ALL", "local_quorum"] {
        let writer = writer(&backend, &table, &of(consistency)).await;
        assert_eq!(writer.write(&rows(3), 1_000, &Tries::healing_at(NEVER, &proxy)).await.unwrap().rows, 3, "{consistency}");
    }
    let columns = ["id", "v"].map(str::to_owned);
    let error = backend.writer(&table, &columns, &of("MOST")).await.unwrap_err();
    assert!(error.to_string().contains("'sink.consistency' = 'MOST' is no consistency level"), "{error}");
}
