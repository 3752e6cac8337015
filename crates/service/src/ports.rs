//! Listening sockets. A port already taken is an error that names the port and the flag.
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, bail};
use rand::Rng;
use tokio::net::TcpListener;

/// Below this live well-known services and our own doors.
const FIRST_FREE: u16 = 10_000;
/// Where the kernel's outgoing ports begin unless it says otherwise.
const OUTGOING_FROM: u16 = 32_768;
const TRIES_PER_PORT: usize = 200;

/// Ports that this process has given out already: two calls never return the same one.
static GIVEN_OUT: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Binds `host:port`; `door` says what for, `flag` how to choose another.
pub async fn bind(host: IpAddr, port: u16, door: &str, flag: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {port} for {door} is taken already; end what listens there or choose another with {flag}")
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address} for {door}; see {flag}")),
    }
}

/// A port moved by `--port-offset`.
pub fn offset(port: u16, by: u16) -> anyhow::Result<u16> {
    port.checked_add(by).with_context(|| format!("port {port} moved by {by} is beyond 65535; choose a smaller --port-offset"))
}

/// `count` different ports of `host` on which nothing listens, for servers that are told a port and bind it themselves later. They are from *below*
/// the range from which the kernel gives out ports of outgoing connections: one of those may be taken again before the server listens.
pub fn free(host: IpAddr, count: usize) -> anyhow::Result<Vec<u16>> {
    let limit = outgoing_from();
    let mut given_out = GIVEN_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let given_out = given_out.get_or_insert_default();
    let mut ports = Vec::with_capacity(count);
    for _ in 0..count * TRIES_PER_PORT {
        if ports.len() == count {
            break;
        }
        let port = rand::rng().random_range(FIRST_FREE..limit);
        if !given_out.contains(&port) && is_free(host, port) {
            given_out.insert(port);
            ports.push(port);
        }
    }
    anyhow::ensure!(ports.len() == count, "no {count} free ports on {host} below {limit}; stop some programs that listen there");
    Ok(ports)
}

/// Whether a server could listen on this port now.
pub fn is_free(host: IpAddr, port: u16) -> bool {
    std::net::TcpListener::bind((host, port)).is_ok()
}

fn outgoing_from() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let start = range.split_whitespace().next().and_then(|start| start.parse().ok());
    // Some machines widen the range downwards; leave room for a choice even there.
    start.unwrap_or(OUTGOING_FROM).max(FIRST_FREE + 5_000)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn free_ports_are_different_free_and_below_the_outgoing_range() {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut ports = free(host, 20).unwrap();
        ports.extend(free(host, 20).unwrap());
        let different: HashSet<_> = ports.iter().collect();
        assert_eq!(different.len(), 40);
        assert!(ports.iter().all(|&port| port < outgoing_from() && is_free(host, port)));
        let _listening = std::net::TcpListener::bind((host, ports[0])).unwrap();
        assert!(!is_free(host, ports[0]));
    }
}
