//! The Flight SQL door, asked by Arrow's own client.
#![allow(clippy::unwrap_used)]
mod support;

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, StringArray},
    datatypes::Schema,
    record_batch::RecordBatch,
};
use arrow_flight::{
    FlightDescriptor, FlightInfo,
    sql::{
        CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys, CommandGetPrimaryKeys,
        CommandGetTables, CommandPreparedStatementQuery, CommandStatementQuery, ProstMessageExt, SqlInfo,
        client::FlightSqlServiceClient,
    },
};
use futures::TryStreamExt;
use polybolos_gateway::flight_sql;
use prost::Message;
use support::{LEFT_OUT, MemoryEngine, READER_TOKEN, TOKEN, TestLogin};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, transport::Channel};

async fn client() -> FlightSqlServiceClient<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(flight_sql::serve(listener, MemoryEngine::start().await, Arc::new(TestLogin), None, CancellationToken::new()));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    FlightSqlServiceClient::new(channel)
}

async fn logged_in() -> FlightSqlServiceClient<Channel> {
    let mut client = client().await;
    client.set_token(TOKEN.to_owned());
    client
}

async fn fetch(client: &mut FlightSqlServiceClient<Channel>, info: FlightInfo) -> Vec<RecordBatch> {
    let promised = info.clone().try_decode_schema().unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let stream = client.do_get(ticket).await.unwrap();
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    for batch in &batches {
        assert_eq!(*batch.schema(), promised, "the promised schema is that of the data");
    }
    batches
}

#[tokio::test]
async fn a_query_brings_what_was_promised() {
    let mut client = logged_in().await;
    let info = client.execute("SELECT id, age, registered_date FROM created_users ORDER BY id".to_owned(), None).await.unwrap();
    let batches = fetch(&mut client, info).await;
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    let info = client.execute("SELECT * FROM created_users WHERE false".to_owned(), None).await.unwrap();
    assert_eq!(fetch(&mut client, info).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
}

#[tokio::test]
async fn what_folding_makes_non_null_is_told_alike_before_and_after() {
    let mut client = logged_in().await;
    let sql = "SELECT CASE WHEN 1 = 1 THEN 5 END AS n, make_array(named_struct('a', nullif(1, 2))) AS l, id FROM created_users";
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    let batches = fetch(&mut client, info).await;
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    assert!(batches[0].schema().fields().iter().all(|field| field.is_nullable()));
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    let promised = prepared.dataset_schema().unwrap().clone();
    let info = prepared.execute().await.unwrap();
    assert_eq!(*fetch(&mut client, info).await[0].schema(), promised);
}

#[tokio::test]
async fn what_a_query_left_out_is_told_in_the_trailers_of_its_rows() {
    let mut client = logged_in().await;
    for (sql, expected) in [
        ("SELECT id AS left_out FROM created_users", (3, vec![LEFT_OUT.to_owned()])),
        ("SELECT id AS left_out FROM created_users WHERE false", (0, vec![LEFT_OUT.to_owned()])),
        ("SELECT id FROM created_users", (3, vec![])),
    ] {
        let info = client.execute(sql.to_owned(), None).await.unwrap();
        let mut batches = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
        let mut rows = 0;
        while let Some(batch) = batches.try_next().await.unwrap() {
            rows += batch.num_rows();
        }
        let trailers = batches.trailers().unwrap_or_default();
        let told = trailers.get_all_bin("polybolos-notice-bin");
        let told = told.iter().map(|notice| String::from_utf8(notice.to_bytes().unwrap().to_vec()).unwrap());
        assert_eq!((rows, told.collect::<Vec<_>>()), expected, "{sql}");
    }
}

/// What `GetSchema` tells of a command.
async fn schema(
    client: &mut FlightSqlServiceClient<Channel>,
    token: &str,
    command: &impl ProstMessageExt,
) -> Result<Schema, Status> {
    let mut request = Request::new(FlightDescriptor::new_cmd(command.as_any().encode_to_vec()));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let told = client.inner_mut().get_schema(request).await?.into_inner();
    Ok(Schema::try_from(told).unwrap())
}

fn names(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

#[tokio::test]
async fn the_schema_alone_is_told_without_running_anything() {
    let mut client = client().await;
    let sql = "SELECT id, age + 1 AS next FROM created_users";
    let query = |sql: &str| CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
    let told = schema(&mut client, TOKEN, &query(sql)).await.unwrap();
    assert_eq!(names(&told), ["id", "next"]);
    client.set_token(TOKEN.to_owned());
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    assert_eq!(told, info.try_decode_schema().unwrap(), "it is what the query promises");
    let prepared = CommandPreparedStatementQuery { prepared_statement_handle: sql.into() };
    assert_eq!(names(&schema(&mut client, TOKEN, &prepared).await.unwrap()), ["id", "next"]);
    let tables = CommandGetTables { include_schema: true, ..Default::default() };
    assert!(names(&schema(&mut client, READER_TOKEN, &tables).await.unwrap()).contains(&"table_schema"));
    // A reader may not carry it out.
    let paused = schema(&mut client, READER_TOKEN, &query("PAUSE JOB j")).await.unwrap();
    assert!(paused.fields().is_empty());
    let missing = schema(&mut client, TOKEN, &query("SELECT * FROM nowhere")).await.unwrap_err();
    assert!(missing.message().contains("nowhere"), "{missing}");
    let unknown = schema(&mut client, "wrong", &query(sql)).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn rows_without_an_end_are_sent_as_they_come_and_where_all_are_wanted_refused() {
    const QUIET: &str = "SELECT id AS endless FROM created_users";
    let mut client = logged_in().await;
    let info = client.execute(QUIET.to_owned(), None).await.unwrap();
    let mut batches = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    let mut rows = 0;
    while rows < 3 {
        rows += batches.try_next().await.unwrap().unwrap().num_rows();
    }
    assert_eq!(rows, 3);
    for sql in [QUIET.to_owned(), format!("{QUIET}; SELECT 1")] {
        let refused = client.execute_update(sql, None).await.unwrap_err().to_string();
        assert!(refused.contains("send it by itself"), "{refused}");
    }
}

#[tokio::test]
async fn basic_logins_receive_a_bearer() {
    let mut client = client().await;
    assert!(client.execute("SELECT 1".to_owned(), None).await.is_err(), "without a token nothing works");
    assert!(client.handshake("admin", "wrong").await.is_err());
    client.handshake("admin", TOKEN).await.unwrap();
    assert!(client.execute("SELECT 1".to_owned(), None).await.is_ok());
}

#[tokio::test]
async fn statements_are_prepared_and_updates_run() {
    let mut client = logged_in().await;
    let mut prepared = client.prepare("SELECT first_name FROM created_users WHERE id = 'a'".to_owned(), None).await.unwrap();
    assert_eq!(prepared.dataset_schema().unwrap().field(0).name(), "first_name");
    let info = prepared.execute().await.unwrap();
    assert_eq!(fetch(&mut client, info).await[0].num_rows(), 1);
    prepared.close().await.unwrap();

    let mut prepared = client.prepare("SELECT id FROM created_users WHERE first_name = $1".to_owned(), None).await.unwrap();
    assert_eq!(prepared.parameter_schema().unwrap().fields().len(), 1);
    for (name, expected) in [("O'Hara", "c"), ("Zoë", "b")] {
        let value = RecordBatch::try_from_iter([("$1", Arc::new(StringArray::from(vec![name])) as ArrayRef)]).unwrap();
        prepared.set_parameters(value).unwrap();
        let info = prepared.execute().await.unwrap();
        let found = fetch(&mut client, info).await;
        assert_eq!(arrow::util::display::array_value_to_string(found[0].column(0), 0).unwrap(), expected, "bound again");
    }

    client.execute_update("PAUSE JOB j".to_owned(), None).await.unwrap();
    let info = client.execute("PAUSE JOB j".to_owned(), None).await.unwrap();
    client.set_token(READER_TOKEN.to_owned());
    assert!(fetch(&mut client, info).await.is_empty(), "it is not carried out again, which a reader may not");
    let refused = [
        client.execute_update("PAUSE JOB j".to_owned(), None).await.unwrap_err().to_string(),
        client.execute("PAUSE JOB j".to_owned(), None).await.unwrap_err().to_string(),
    ];
    assert!(refused.iter().all(|refused| refused.contains("may not pause")), "{refused:?}");
    let missing = client.execute("SELECT * FROM nowhere".to_owned(), None).await.unwrap_err().to_string();
    assert!(missing.contains("nowhere"), "{missing}");
}

#[tokio::test]
async fn drivers_learn_what_there_is() {
    let mut client = logged_in().await;
    let info = client.get_catalogs().await.unwrap();
    let catalogs = fetch(&mut client, info).await;
    assert!(catalogs[0].column(0).as_string::<i32>().iter().any(|name| name == Some("polybolos")));
    let info = client.get_db_schemas(CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None }).await.unwrap();
    assert!(fetch(&mut client, info).await[0].num_rows() > 0);
    for include_schema in [false, true] {
        let command =
            CommandGetTables { table_name_filter_pattern: Some("created%".to_owned()), include_schema, ..Default::default() };
        let info = client.get_tables(command).await.unwrap();
        assert_eq!(fetch(&mut client, info).await[0].num_rows(), 1);
    }
    for include_schema in [false, true] {
        let command = CommandGetTables { table_types: vec!["VIEW".to_owned()], include_schema, ..Default::default() };
        let info = client.get_tables(command).await.unwrap();
        let views = &fetch(&mut client, info).await[0];
        assert_eq!((views.num_rows(), views.column(2).as_string::<i32>().value(0)), (1, "Adults"));
    }
    let keys = [
        client.get_primary_keys(CommandGetPrimaryKeys { table: "created_users".to_owned(), ..Default::default() }).await,
        client.get_exported_keys(CommandGetExportedKeys { table: "created_users".to_owned(), ..Default::default() }).await,
        client.get_imported_keys(CommandGetImportedKeys { table: "created_users".to_owned(), ..Default::default() }).await,
        client.get_cross_reference(CommandGetCrossReference::default()).await,
    ];
    for info in keys {
        assert_eq!(fetch(&mut client, info.unwrap()).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    }
    let info = client.get_table_types().await.unwrap();
    assert!(fetch(&mut client, info).await[0].num_rows() > 0);
    let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerName]).await.unwrap();
    assert_eq!(fetch(&mut client, info).await[0].num_rows(), 1);
}
