//! Listening sockets. A port already taken is an error that names the port and the flag.
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use tokio::net::TcpListener;

/// Binds `host:port`; `door` says what for, `flag` how to choose another.
pub async fn bind(host: IpAddr, port: u16, door: &str, flag: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {port} for {door} is taken by another process; end it or choose another port with {flag}")
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address} for {door}; see {flag}")),
    }
}

/// A port moved by `--port-offset`.
pub fn offset(port: u16, by: u16) -> anyhow::Result<u16> {
    port.checked_add(by).with_context(|| format!("port {port} moved by {by} is beyond 65535; choose a smaller --port-offset"))
}
