//! What can go wrong when starting and steering real processes. Each message names the object and the remedy in one line; a
//! server that failed to start shows the end of its log below that line.
use std::io;
use std::path::{Path, PathBuf};

/// Why a server, a process or a proxy could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of the operating system is not installed.
    #[error("{program} is not installed (or not on PATH); run: apt-get install {packages}")]
    MissingProgram { program: String, packages: &'static str },
    /// Java is there, but not the version that Cassandra needs.
    #[error("Java 17 is needed, but {found}; run: apt-get install openjdk-17-jre-headless maven (or set JAVA_HOME)")]
    WrongJava { found: String },
    /// A file or folder could not be used.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// The operating system refused to start a process.
    #[error("cannot start {name}: {source}")]
    Spawn { name: String, source: io::Error },
    /// A signal could not be sent, or a process not be waited for.
    #[error("cannot {action} {name} (process {pid}): {source}")]
    Signal { action: &'static str, name: String, pid: u32, source: io::Error },
    /// The process is not running, so it cannot be signalled.
    #[error("{name} is not running; start it again with restart()")]
    NotRunning { name: String },
    /// The process ended before it said what was waited for.
    #[error("{name} ended ({status}) before {waited_for}; its log is {log}, and ends with:\n{tail}", log = log.display())]
    Ended { name: String, status: String, waited_for: String, log: PathBuf, tail: String },
    /// The process runs but did not say or do in time what was waited for.
    #[error("{name}: {waited_for} did not happen within {seconds:.1} s ({last}); its log is {log}, and ends with:\n{tail}", log = log.display())]
    Late { name: String, waited_for: String, seconds: f64, last: String, log: PathBuf, tail: String },
    /// A condition without a process did not come true in time.
    #[error("{what} did not happen within {seconds:.1} s")]
    NotInTime { what: String, seconds: f64 },
    /// Maven could not bring the server's jars.
    #[error("Maven could not resolve the jars of {server} (is Maven Central reachable? see {log}); it said:\n{tail}", log = log.display())]
    Maven { server: &'static str, log: PathBuf, tail: String },
    /// A port that was asked for is in use.
    #[error("port {port} for {server} is taken; stop what uses it, or choose another one ({remedy})")]
    PortTaken { port: u16, server: &'static str, remedy: &'static str },
    /// No free port was found.
    #[error("{0}")]
    NoFreePorts(String),
    /// Somebody else runs a server on the same folder.
    #[error("data folder {path} is in use by another launcher; stop that one or choose another folder", path = path.display())]
    HomeInUse { path: PathBuf },
    /// The environment holds a malformed address.
    #[error("{variable}={value} is not host:port; unset it, or let polybolos-local-servers set it")]
    BadAddress { variable: &'static str, value: String },
    /// The proxy could not listen or find its upstream.
    #[error("fault proxy in front of {upstream} cannot {action}: {source}")]
    Proxy { upstream: String, action: &'static str, source: io::Error },
    /// The caller gave up waiting.
    #[error("{what} was cancelled")]
    Cancelled { what: String },
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the file in an I/O error: `fs::read(p).map_err(at("read", p))`.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}
