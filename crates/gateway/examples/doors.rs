#![allow(clippy::unwrap_used)] // a test fails by panicking
#[path = "../tests/support/mod.rs"]
mod support;
use polybolos_gateway::{
    flight_sql,
    http::{self, HttpDoor},
    postgres,
};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
#[tokio::main]
async fn main() {
    let engine = support::MemoryEngine::start().await;
    let login = Arc::new(support::TestLogin);
    let stop = CancellationToken::new();
    let pg = TcpListener::bind("127.0.0.1:17432").await.unwrap();
    let fl = TcpListener::bind("127.0.0.1:17433").await.unwrap();
    let ht = TcpListener::bind("127.0.0.1:17402").await.unwrap();
    tokio::spawn(postgres::serve(pg, engine.clone(), login.clone(), None, stop.clone()));
    tokio::spawn(flight_sql::serve(fl, engine.clone(), login.clone(), None, stop.clone()));
    http::serve(
        ht,
        HttpDoor { engine, login, metrics: Arc::new(String::new), ready: Arc::new(|| Ok(())), port: 17402, https: false, stop },
        None,
    )
    .await
    .unwrap();
}
