//! A small server that speaks the randomuser.me API on loopback, for `up` and for tests: the ingestor polls it as it would poll the real
//! one. Seeded: the same seed gives the same people.
pub mod names;
pub mod users;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::users::Users;

/// Most people in one answer, as the real API has it.
const MAX_RESULTS: usize = 5_000;

#[derive(Debug, Deserialize)]
struct Ask {
    results: Option<usize>,
    seed: Option<String>,
}

type Shared = Arc<Mutex<Users>>;

/// Serves `GET /api/?results=N[&seed=S]` until shutdown. With `seed` an answer is always the same people; without, new ones each time.
pub async fn serve(listener: TcpListener, seed: u64, shutdown: CancellationToken) -> std::io::Result<()> {
    let state: Shared = Arc::new(Mutex::new(Users::new(seed)));
    let routes = Router::new().route("/api/", get(answer)).route("/api", get(answer)).with_state(state);
    axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn answer(State(users): State<Shared>, Query(ask): Query<Ask>) -> Json<Value> {
    let count = ask.results.unwrap_or(1).clamp(1, MAX_RESULTS);
    let results: Vec<Value> = match &ask.seed {
        Some(seed) => {
            let mut fixed = Users::named(seed);
            (0..count).map(|_| fixed.person()).collect()
        }
        None => {
            let mut users = users.lock();
            (0..count).map(|_| users.person()).collect()
        }
    };
    let info = json!({ "seed": ask.seed.unwrap_or_default(), "results": count, "page": 1, "version": "1.4" });
    Json(json!({ "results": results, "info": info }))
}
