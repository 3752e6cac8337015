//! Free loopback ports for servers that are told their port before they start.
//!
//! They are taken from *below* the range from which the kernel gives out local ports of outgoing connections. A port from
//! that range would be a trap for every test that restarts a server: while the server is away, somebody's connection may take
//! its port, and a client that keeps trying to connect to it may even end up connected to itself.
use crate::error::{Error, Result};
use rand::Rng;
use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Below this live well-known services and the defaults of Kafka (9092) and Cassandra (9042).
const FIRST_PORT: u16 = 10_000;
/// Where the kernel's outgoing ports begin unless it says otherwise.
const DEFAULT_EPHEMERAL_START: u16 = 32_768;
const TRIES_PER_PORT: usize = 200;

/// Ports that this process has given out already: two calls never return the same one.
static GIVEN_OUT: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// `count` different ports of 127.0.0.1 on which nothing listens, never given out before by this process.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let limit = ephemeral_start();
    let mut given_out = GIVEN_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let given_out = given_out.get_or_insert_default();
    let mut random = rand::rng();
    let mut ports = Vec::with_capacity(count);
    for _ in 0..count * TRIES_PER_PORT {
        if ports.len() == count {
            break;
        }
        let port = random.random_range(FIRST_PORT..limit);
        if !given_out.contains(&port) && is_free(port) {
            given_out.insert(port);
            ports.push(port);
        }
    }
    if ports.len() < count {
        return Err(Error::NoFreePorts { wanted: count, limit });
    }
    Ok(ports)
}

/// Whether a server could listen on this port of 127.0.0.1 now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn ephemeral_start() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let start = range.split_whitespace().next().and_then(|start| start.parse().ok());
    // Some machines widen the range downwards; leave room for a choice even there.
    start.unwrap_or(DEFAULT_EPHEMERAL_START).max(FIRST_PORT + 5_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different_free_and_below_the_outgoing_range() {
        let mut ports = free_ports(20).unwrap();
        ports.extend(free_ports(20).unwrap());
        let different: HashSet<_> = ports.iter().collect();
        assert_eq!(different.len(), 40);
        assert!(ports.iter().all(|&port| port < ephemeral_start()));
        let _listening = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
        assert!(!is_free(ports[0]));
    }
}
