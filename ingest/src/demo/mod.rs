//! A small server that speaks the randomuser.me API on loopback, for `up` and for tests: the ingestor polls it as it would poll the real
//! one. The same seed gives the same people; without a seed nobody comes twice, in a server that was started again neither.
pub mod names;
pub mod users;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

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

/// Serves `GET /api/?results=N[&seed=S]` until shutdown. With `seed` an answer is always the same people; without, new ones each time, which depend on when the
/// server was `started`.
pub async fn serve(listener: TcpListener, started: SystemTime, shutdown: CancellationToken) -> std::io::Result<()> {
    let state = since(started);
    let routes = Router::new().route("/api/", get(answer)).route("/api", get(answer)).with_state(state);
    axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn since(started: SystemTime) -> Shared {
    let seed = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    Arc::new(Mutex::new(Users::new(seed)))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn told(server: &Shared, seed: Option<&str>) -> Value {
        let ask = Ask { results: Some(3), seed: seed.map(str::to_owned) };
        let Json(answer) = answer(State(server.clone()), Query(ask)).await;
        answer["results"].clone()
    }

    #[tokio::test]
    async fn a_server_that_is_started_again_tells_other_people_and_the_same_ones_of_a_seed() {
        let start = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        let (first, again) = (since(start), since(start + Duration::from_secs(1)));
        let people = told(&first, None).await;
        assert_eq!(people, told(&since(start), None).await);
        assert_ne!(people, told(&first, None).await);
        assert_ne!(people, told(&again, None).await);
        let fixed = told(&first, Some("a")).await;
        assert_eq!(fixed, told(&again, Some("a")).await);
        assert_ne!(fixed, told(&again, Some("b")).await);
    }
}
