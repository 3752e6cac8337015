//! Why a request failed, in words. An error of the HTTP client only says which step failed; what happened is at the end of its sources.
use std::{
    error::Error,
    io::{self, ErrorKind},
    time::Duration,
};

/// In one line and without the URL, whose query may hold a secret. `timeout` is the request's.
pub fn in_words(error: &reqwest::Error, timeout: Duration) -> String {
    let in_body = error.is_body() || error.is_decode();
    if error.is_timeout() {
        return format!("timed out after {timeout:?}{}", if in_body { ", in the middle of the answer" } else { "" });
    }
    let cause = innermost(error, in_body);
    let host = error.url().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
    match host {
        Some((host, port)) if error.is_connect() => format!("cannot connect to {host}:{port}: {cause}"),
        _ => cause,
    }
}

fn innermost(error: &(dyn Error + 'static), in_body: bool) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let Some(failure) = cause.downcast_ref::<io::Error>() else { return cause.to_string() };
    match failure.kind() {
        ErrorKind::UnexpectedEof if in_body => "the body ended early".into(),
        // The operating system's words for these end with its number.
        kind @ (ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable) => kind.to_string(),
        _ => failure.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    /// As a client wraps what happened below it.
    #[derive(Debug, Error)]
    #[error("error sending request")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_innermost_cause_is_told() {
        let refused = Outer(io::Error::from(ErrorKind::ConnectionRefused));
        assert_eq!(innermost(&refused, false), "connection refused");
        let cut = Outer(io::Error::new(ErrorKind::UnexpectedEof, "end of file before message length reached"));
        assert_eq!(innermost(&cut, true), "the body ended early");
        assert_eq!(innermost(&cut, false), "end of file before message length reached");
        let other = Outer(io::Error::other("invalid peer certificate: Expired"));
        assert_eq!(innermost(&other, false), "invalid peer certificate: Expired");
    }
}
