//! HTTP on port 7400: the console at `/`, REST and events below `/api/v1`, `/metrics`, `/healthz`, `/readyz`. Everything but the health
//! checks, the login page and its few files needs a token; see [`login`] for the ways to show it.
mod console;
mod events;
mod login;
pub mod metrics;
pub mod rows;
mod savepoints;
mod sql;

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use polybolos_tables::statement::MAX_STATEMENT_BYTES;
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{auth::Authenticate, engine::Engine, error::EngineError, tls::TlsListener};

/// Of a statement as JSON: a character of one byte takes six at most there, and the rest of the body is small.
const MAX_BODY_BYTES: usize = 6 * MAX_STATEMENT_BYTES + 1024;
/// Browsers that watch at once; each costs a status and a look at one table per second.
const MAX_WATCHERS: usize = 64;

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Prometheus' text format.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;
/// Whether requests can be answered now; if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

#[derive(Clone)]
pub struct HttpDoor {
    pub engine: Arc<dyn Engine>,
    pub login: Arc<dyn Authenticate>,
    pub metrics: Metrics,
    pub ready: Readiness,
    /// Browsers send cookies to every port of a host: the port is part of the cookie's name.
    pub port: u16,
    /// Whether browsers reach this door by https: then the cookie never travels without.
    pub https: bool,
    /// Ends the streams of events.
    pub stop: CancellationToken,
}

#[derive(Clone)]
struct Shared {
    door: Arc<HttpDoor>,
    watchers: Arc<Semaphore>,
}

/// Serves until `door.stop` is cancelled; with `tls`, HTTPS only.
pub async fn serve(listener: TcpListener, door: HttpDoor, tls: Option<Arc<rustls::ServerConfig>>) -> io::Result<()> {
    let stop = door.stop.clone();
    info!(address = %listener.local_addr()?, tls = tls.is_some(), "HTTP door open");
    listen(listener, router(door), tls, stop).await
}

async fn listen(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    match tls {
        None => axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await,
        Some(config) => {
            // Tapped only because axum tells the peer's address of such listeners.
            let listener = TlsListener::new(listener, config)?.tap_io(|_| {});
            axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await
        }
    }
}

/// The routes, for a server that has its own listener; it must add [`axum::extract::ConnectInfo`] of the peer's address.
pub fn router(door: HttpDoor) -> Router {
    let watched = metrics::routes::<Shared>(door.login.clone(), door.port, door.metrics.clone());
    let shared = Shared { door: Arc::new(door), watchers: Arc::new(Semaphore::new(MAX_WATCHERS)) };
    let guarded = Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/sql", post(sql::run))
        .route("/api/v1/events", get(events::watch))
        .route("/api/v1/savepoints", post(savepoints::import))
        .route("/api/v1/savepoints/{name}/archive", get(savepoints::export))
        .route_layer(middleware::from_fn_with_state(shared.clone(), login::require));
    Router::new()
        .merge(guarded)
        .merge(watched)
        .route("/readyz", get(ready))
        .route("/", get(console::index))
        .fallback(get(console::file))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(security_headers))
        .with_state(shared)
}

async fn status(State(shared): State<Shared>) -> Response {
    Json(shared.door.engine.status().await).into_response()
}

async fn ready(State(shared): State<Shared>) -> Response {
    match (shared.door.ready)() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn security_headers(request: axum::extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

impl EngineError {
    fn body(&self) -> Json<serde_json::Value> {
        Json(json!({ "error": { "kind": self.kind, "message": self.message, "hint": self.hint } }))
    }
}

impl IntoResponse for EngineError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, self.body()).into_response()
    }
}
