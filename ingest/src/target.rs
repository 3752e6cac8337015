//! Which addresses a feed may call. A feed's URL, and every redirect, is resolved once, judged, and then called at just that address, so
//! that a name cannot point elsewhere between the check and the call.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum TargetError {
    #[error("{0:?} is not a URL that a feed can call; write http:// or https://")]
    NotHttp(String),
    #[error("host {host:?} cannot be resolved: {source}")]
    Unresolved { host: String, source: std::io::Error },
    #[error("host {host:?} is at {address}, which is not a public address; set allow_private = true if that is meant")]
    Private { host: String, address: IpAddr },
}

/// An address as people may see it: without login and query, which may hold secrets.
pub fn shown(address: &str) -> String {
    match Url::parse(address) {
        Ok(mut url) if url.has_host() => {
            let query = if url.query().is_some() { "?…" } else { "" };
            // What has no login refuses to lose one.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.set_fragment(None);
            format!("{url}{query}")
        }
        // No feed can call it, and somebody wants to know why.
        _ => {
            let end = address.find(['?', '#']).unwrap_or(address.len());
            let bare = &address[..end];
            bare.rsplit_once('@').map_or(bare, |(_, place)| place).to_owned()
        }
    }
}

/// Where to connect for `url`.
pub async fn resolve(url: &Url, allow_private: bool) -> Result<SocketAddr, TargetError> {
    let (Some(host), Some(port), "http" | "https") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
        return Err(TargetError::NotHttp(shown(url.as_str())));
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let unresolved = |source| TargetError::Unresolved { host: host.to_owned(), source };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((bare, port)).await.map_err(unresolved)?.collect();
    let refused = addresses.iter().find(|address| !allow_private && !is_public(address.ip()));
    if let Some(refused) = refused {
        return Err(TargetError::Private { host: host.to_owned(), address: refused.ip() });
    }
    addresses.first().copied().ok_or_else(|| unresolved(std::io::Error::other("no address")))
}

/// Whether an address is on the public internet: not loopback, private, link-local, shared, documentation or otherwise special.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (b == 18 || b == 19);
    !(address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || shared
        || benchmark)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    let unique_local = first & 0xfe00 == 0xfc00;
    let link_local = first & 0xffc0 == 0xfe80;
    let documentation = first == 0x2001 && address.segments()[1] == 0x0db8;
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || unique_local || link_local || documentation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!is_public(private.parse().expect("address")), "{private}");
        }
        for public in ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"] {
            assert!(is_public(public.parse().expect("address")), "{public}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        for (address, told) in [
            ("https://ann:hush@example.org:8443/v1/users?key=hush#hush", "https://example.org:8443/v1/users?…"),
            ("http://hush@[::1]/a", "http://[::1]/a"),
            ("http://127.0.0.1:1/", "http://127.0.0.1:1/"),
            ("ann:hush@example.org/v1?key=hush", "example.org/v1"),
            ("file:///etc/passwd?key=hush", "file:///etc/passwd"),
            ("/v1/users?key=hush", "/v1/users"),
        ] {
            assert_eq!(shown(address), told);
        }
    }

    #[tokio::test]
    async fn loopback_needs_leave() {
        let url = Url::parse("http://127.0.0.1:9/").expect("URL");
        assert!(matches!(resolve(&url, false).await, Err(TargetError::Private { .. })));
        assert_eq!(resolve(&url, true).await.expect("allowed").port(), 9);
        let url = Url::parse("file:///etc/passwd?key=hush").expect("URL");
        let refused = resolve(&url, true).await.expect_err("it is no HTTP");
        assert!(matches!(&refused, TargetError::NotHttp(told) if told == "file:///etc/passwd"), "{refused}");
    }
}
