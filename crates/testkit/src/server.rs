//! A real server as a child process: what Kafka and Cassandra have in common once it is known how to start them.
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::process::{Process, ProcessSpec};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a server may take to end on SIGTERM before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Everything needed to start a server, again and again, on the same ports and data.
pub(crate) struct Launch {
    pub(crate) spec: ProcessSpec,
    pub(crate) home: Home,
    pub(crate) address: SocketAddr,
    pub(crate) sasl_address: Option<SocketAddr>,
    pub(crate) proxied_address: Option<SocketAddr>,
    pub(crate) ready: fn(SocketAddr) -> Result<(), String>,
    pub(crate) start_deadline: Duration,
    pub(crate) cancel: Cancel,
}

/// A running (or stopped, or killed) Kafka or Cassandra. Dropping it ends the process, and removes a temporary data folder.
pub struct LocalServer {
    launch: Launch,
    process: Mutex<Option<Process>>,
}

impl LocalServer {
    /// Starts it and waits until it serves.
    pub(crate) fn launch(launch: Launch) -> Result<Self> {
        let server = Self { launch, process: Mutex::new(None) };
        server.start()?;
        Ok(server)
    }

    /// Where clients connect: `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.launch.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.launch.address.port()
    }

    /// Kafka's SASL/PLAIN listener, if one was asked for.
    pub fn sasl_address(&self) -> Option<String> {
        self.launch.sasl_address.map(|address| address.to_string())
    }

    /// Kafka's listener for a proxy (the proxy's upstream), if one was asked for.
    pub fn proxied_address(&self) -> Option<String> {
        self.launch.proxied_address.map(|address| address.to_string())
    }

    /// Where its data, configuration and logs are.
    pub fn folder(&self) -> &Path {
        self.launch.home.path()
    }

    /// What it printed; warnings and errors are here.
    pub fn log(&self) -> PathBuf {
        log_file(self.folder(), self.launch.spec.name())
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_mut().and_then(|process| process.is_running().then(|| process.pid()))
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether it has ended without having been told to.
    pub fn has_ended_by_itself(&self) -> bool {
        self.process().as_mut().is_some_and(|process| !process.is_running())
    }

    /// Starts it after a stop or a kill, on the same ports and data; returns when it serves. Does nothing when it runs.
    pub fn start(&self) -> Result<()> {
        let mut slot = self.process();
        if slot.as_mut().is_some_and(Process::is_running) {
            return Ok(());
        }
        let Launch { spec, address, ready, start_deadline, cancel, .. } = &self.launch;
        let mut process = spec.spawn()?;
        let waited_for = format!("serving on {address}");
        process.wait_until(&waited_for, *start_deadline, cancel, |_| ready(*address))?;
        *slot = Some(process);
        Ok(())
    }

    /// Ends it in order (SIGTERM), by force when it takes too long. Does nothing when it is not running.
    pub fn stop(&self) -> Result<()> {
        let Some(mut process) = self.process().take() else {
            return Ok(());
        };
        process.terminate(STOP_GRACE).map(drop)
    }

    /// [`LocalServer::stop`], then [`LocalServer::start`].
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// SIGKILL, as a crash. [`LocalServer::start`] brings it back.
    pub fn kill(&self) -> Result<()> {
        let Some(mut process) = self.process().take() else {
            return Err(Error::NotRunning { name: self.launch.spec.name().to_owned() });
        };
        process.kill().map(drop)
    }

    /// SIGSTOP: connections stay, answers stop.
    pub fn pause(&self) -> Result<()> {
        self.with_process(Process::pause)
    }

    /// SIGCONT after [`LocalServer::pause`].
    pub fn resume(&self) -> Result<()> {
        self.with_process(Process::resume)
    }

    fn with_process(&self, act: impl FnOnce(&mut Process) -> Result<()>) -> Result<()> {
        match self.process().as_mut() {
            Some(process) => act(process),
            None => Err(Error::NotRunning { name: self.launch.spec.name().to_owned() }),
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // Before the data folder, which is dropped after this, goes away below it: then there is nothing to end in order for.
        if self.launch.home.is_temporary() {
            drop(self.process().take());
        } else if let Err(error) = self.stop() {
            tracing::warn!(server = self.launch.spec.name(), %error, "not stopped in order");
        }
    }
}

/// Where a server's standard output goes.
pub(crate) fn log_file(home: &Path, server: &str) -> PathBuf {
    home.join("logs").join(format!("{server}.out"))
}
