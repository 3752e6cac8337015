//! Exit codes, the same for every verb.
use std::process::ExitCode;

/// Why a command did not end well. The message is one line; the code is for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failure {
    Failed = 1,
    Usage = 2,
    /// A service cannot be reached.
    Unreachable = 3,
    /// The job or test itself reports a failure.
    Reported = 4,
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        ExitCode::from(failure as u8)
    }
}

/// An error with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    pub failure: Failure,
    pub message: String,
}

impl Exit {
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into() }
    }
}

/// An error and its causes in one line. Some errors tell their causes themselves.
pub fn told(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told.replace('\n', " ")
}

/// The same of any error. Those of HTTP clients say little themselves: what happened is among their sources.
pub fn chained(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        source = cause.source();
    }
    told.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let missing = std::io::Error::other("no such file");
        let error = Err::<(), _>(missing).context("cannot read x: no such file").context("a.toml").unwrap_err();
        assert_eq!(told(&error), "a.toml: cannot read x: no such file");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("error sending request")]
    struct Request(#[source] std::io::Error);

    #[test]
    fn sources_are_told() {
        let error = Request(std::io::Error::other("invalid peer certificate: UnknownIssuer"));
        assert_eq!(chained(&error), "error sending request: invalid peer certificate: UnknownIssuer");
    }
}
