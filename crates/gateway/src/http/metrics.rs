//! `/metrics` and `/healthz`: two routes of the HTTP door, and all there is of a process that has no other door.
use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Metrics, listen, login, security_headers};
use crate::auth::Authenticate;

#[derive(Clone)]
struct Shown {
    login: Arc<dyn Authenticate>,
    /// Of the door, which the name of its cookie has.
    port: u16,
    metrics: Metrics,
}

/// Serves until `stop` is cancelled; with `tls`, HTTPS only.
pub async fn serve(
    listener: TcpListener,
    login: Arc<dyn Authenticate>,
    metrics: Metrics,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    info!(%address, tls = tls.is_some(), "metrics door open");
    let router = routes::<()>(login, address.port(), metrics).layer(middleware::from_fn(security_headers));
    listen(listener, router, tls, stop).await
}

pub(super) fn routes<S>(login: Arc<dyn Authenticate>, port: u16, metrics: Metrics) -> Router<S> {
    let shown = Shown { login, port, metrics };
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/metrics", get(show)).with_state(shown)
}

/// For Prometheus: with a token, or without one from this machine when the request also names this machine, which keeps out pages of
/// other sites that a browser here was lured to (DNS rebinding).
async fn show(State(shown): State<Shown>, ConnectInfo(peer): ConnectInfo<SocketAddr>, uri: Uri, headers: HeaderMap) -> Response {
    let local = peer.ip().is_loopback() && login::names_loopback(&uri, &headers);
    if !local && login::principal(&*shown.login, shown.port, &headers).is_none() {
        return login::refuse_api();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (shown.metrics)()).into_response()
}
