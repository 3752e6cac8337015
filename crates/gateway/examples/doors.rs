//! All doors over the engine that the tests use, to try clients by hand.
#![allow(clippy::unwrap_used)] // an example fails by panicking
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use polybolos_gateway::{
    flight_sql,
    http::{self, HttpDoor},
    postgres,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() {
    let engine = support::MemoryEngine::start().await;
    let login = Arc::new(support::TestLogin);
    let stop = CancellationToken::new();

    let postgres_listener = TcpListener::bind("127.0.0.1:17432").await.unwrap();
    tokio::spawn(postgres::serve(postgres_listener, engine.clone(), login.clone(), None, stop.clone()));

    let flight_listener = TcpListener::bind("127.0.0.1:17433").await.unwrap();
    tokio::spawn(flight_sql::serve(flight_listener, engine.clone(), login.clone(), None, stop.clone()));

    let http_listener = TcpListener::bind("127.0.0.1:17402").await.unwrap();
    let door =
        HttpDoor { engine, login, metrics: Arc::new(String::new), ready: Arc::new(|| Ok(())), port: 17402, https: false, stop };
    http::serve(http_listener, door, None).await.unwrap();
}
