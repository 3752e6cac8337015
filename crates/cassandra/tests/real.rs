//! Against a real Apache Cassandra at `POLYBOLOS_TEST_CASSANDRA` (`make test` starts one), in keyspaces of its own.
#![allow(clippy::unwrap_used)] // a test fails by panicking
use polybolos_cassandra::{CassandraBackend, CassandraConfig};
use polybolos_tables::{TableBackend, TableError, TableName, check};

#[path = "../../tables/tests/conformance/mod.rs"]
mod conformance;

fn address() -> String {
    std::env::var("POLYBOLOS_TEST_CASSANDRA")
        .expect("POLYBOLOS_TEST_CASSANDRA=host:port names a real Cassandra; `make test` starts one")
}

async fn backend() -> CassandraBackend {
    let login = || "cassandra".to_owned();
    let config =
        CassandraConfig { contact_points: vec![address()], username: login(), password: login(), ..CassandraConfig::default() };
    CassandraBackend::connect(&config).await.unwrap()
}

fn keyspace() -> String {
    format!("t{}", uuid::Uuid::new_v4().simple())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_and_expiry_are_as_in_every_store() {
    conformance::run(&backend().await, &keyspace()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_forgets_deletions_is_refused() {
    let keyspace = keyspace();
    let session = scylla::client::session_builder::SessionBuilder::new()
        .known_node(address())
        .user("cassandra", "cassandra")
        .build()
        .await
        .unwrap();
    for statement in [
        format!("CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"),
        format!("CREATE TABLE {keyspace}.t (k text PRIMARY KEY) WITH gc_grace_seconds = 60"),
    ] {
        session.query_unpaged(statement, ()).await.unwrap();
    }
    let backend = backend().await;
    let name = TableName::new(&keyspace, "t");
    assert_eq!(backend.gc_grace_seconds(&name).await.unwrap(), Some(60));
    let error = check::deletes(&backend, &name).await.unwrap_err();
    assert!(matches!(error, TableError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains(&format!("ALTER TABLE {keyspace}.t WITH gc_grace_seconds = 3600")), "{error}");
}
