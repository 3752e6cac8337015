//! Free loopback ports for servers that are told their port before they start.
//!
//! They are taken from *below* the range from which the kernel gives out local ports of outgoing connections. A port from
//! that range would be a trap for every test that restarts a server: while the server is away, somebody's connection may take
//! its port, and a client that keeps trying to connect to it may even end up connected to itself.
use std::net::{IpAddr, Ipv4Addr};

use polybolos_service::ports;

use crate::error::{Error, Result};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// `count` different ports of 127.0.0.1 on which nothing listens, never given out before by this process.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    ports::free(LOOPBACK, count).map_err(|error| Error::NoFreePorts(error.to_string()))
}

/// Whether a server could listen on this port of 127.0.0.1 now.
pub(crate) fn is_free(port: u16) -> bool {
    ports::is_free(LOOPBACK, port)
}
