//! A program that a test or the launcher runs: output in files, signals by pid, and a life that ends with ours.
//!
//! A [`ProcessSpec`] says how to start it and can be spawned again (a restart appends to the same files). A [`Process`] is one
//! run: dropping it kills it together with the children that stayed in its process group.
use crate::cancel::Cancel;
use crate::error::{Error, Result, at};
use crate::spawner;
use crate::wait::POLL_INTERVAL;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How many lines of a log an error shows.
const TAIL_LINES: usize = 12;
/// How much of a log's end is read to find them.
const TAIL_BYTES: u64 = 16 * 1024;

/// How to start a program. `name` is what messages and log files (`<name>.out`, `<name>.err`) call it.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    environment: Vec<(OsString, Option<OsString>)>,
    current_dir: Option<PathBuf>,
    log_dir: Option<PathBuf>,
}

impl ProcessSpec {
    /// `program` is a path, or a name to be found on PATH.
    pub fn new(name: impl Into<String>, program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref().to_owned();
        Self { name: name.into(), program, args: Vec::new(), environment: Vec::new(), current_dir: None, log_dir: None }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable; all others are inherited.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Keeps a variable of ours from the program.
    #[must_use]
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.environment.push((key.as_ref().to_owned(), None));
        self
    }

    #[must_use]
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(folder.into());
        self
    }

    /// Where the output files go; the folder is made when missing. Without it the output goes to a temporary folder.
    #[must_use]
    pub fn log_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.log_dir = Some(folder.into());
        self
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it in a process group of its own, with nothing on standard input and its output appended to its files.
    pub fn spawn(&self) -> Result<Process> {
        let (log_dir, temporary) = match &self.log_dir {
            Some(folder) => (folder.clone(), None),
            None => {
                let folder = tempfile::tempdir().map_err(at("create a folder in", &std::env::temp_dir()))?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        fs::create_dir_all(&log_dir).map_err(at("create", &log_dir))?;
        let stdout_log = log_dir.join(format!("{}.out", self.name));
        let stderr_log = log_dir.join(format!("{}.err", self.name));
        let (stdout, stdout_start) = open_log(&stdout_log)?;
        let (stderr, _) = open_log(&stderr_log)?;
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        let child = spawner::spawn_bound(command).map_err(|source| self.spawn_error(source))?;
        Ok(Process {
            name: self.name.clone(),
            child,
            ended: None,
            group: true,
            stdout_log,
            stderr_log,
            stdout_start,
            _logs: temporary,
        })
    }

    /// Starts it in our process group with our standard input and output, as a shell starts a foreground command.
    pub fn spawn_in_foreground(&self) -> Result<Process> {
        let child = spawner::spawn_bound(self.command()?).map_err(|source| self.spawn_error(source))?;
        let nowhere = PathBuf::from("/dev/null");
        let name = self.name.clone();
        Ok(Process {
            name,
            child,
            ended: None,
            group: false,
            stdout_log: nowhere.clone(),
            stderr_log: nowhere,
            stdout_start: 0,
            _logs: None,
        })
    }

    fn command(&self) -> Result<std::process::Command> {
        let Some(program) = find_program(&self.program) else {
            let source = io::Error::new(io::ErrorKind::NotFound, format!("there is no program {}", self.program.display()));
            return Err(self.spawn_error(source));
        };
        if find_program(OsStr::new("setpriv")).is_none() {
            return Err(Error::MissingProgram { program: "setpriv".to_owned(), packages: "util-linux" });
        }
        let mut command = spawner::bound_command(program.as_os_str(), &self.args);
        for (key, value) in &self.environment {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(folder) = &self.current_dir {
            command.current_dir(folder);
        }
        Ok(command)
    }

    fn spawn_error(&self, source: io::Error) -> Error {
        Error::Spawn { name: self.name.clone(), source }
    }
}

/// One run of a program. All waiting blocks the calling thread.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    /// Whether it leads a process group of its own, which then is ended with it.
    group: bool,
    stdout_log: PathBuf,
    stderr_log: PathBuf,
    /// Where this run's output begins in a file that earlier runs wrote to.
    stdout_start: u64,
    _logs: Option<tempfile::TempDir>,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn stdout_log(&self) -> &Path {
        &self.stdout_log
    }

    pub fn stderr_log(&self) -> &Path {
        &self.stderr_log
    }

    /// What this run has written to standard output so far.
    pub fn stdout(&self) -> Result<String> {
        let bytes = read_from(&self.stdout_log, self.stdout_start).map_err(at("read", &self.stdout_log))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What this and earlier runs with the same log folder have written to standard error.
    pub fn stderr(&self) -> Result<String> {
        let bytes = read_from(&self.stderr_log, 0).map_err(at("read", &self.stderr_log))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// How it ended, or `None` while it runs (or is paused).
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(|source| self.signal_error("look after", source))?;
        }
        Ok(self.ended)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.exit_status(), Ok(None))
    }

    /// Waits for the line that every service of ours prints when it can be used: one that starts with `ready`. Returns it.
    pub fn wait_ready(&mut self, deadline: Duration) -> Result<String> {
        self.wait_line("ready", deadline)
    }

    /// Waits for a whole line on standard output that starts with `prefix`, and returns it without its end.
    pub fn wait_line(&mut self, prefix: &str, deadline: Duration) -> Result<String> {
        let waited_for = format!("its line {prefix:?}");
        let mut found = None;
        let mut lines = LineReader::new(&self.stdout_log, self.stdout_start)?;
        self.wait_until(&waited_for, deadline, &Cancel::default(), |_| {
            found = lines.find(prefix).map_err(|error| error.to_string())?;
            if found.is_some() { Ok(()) } else { Err("no such line yet".to_owned()) }
        })?;
        Ok(found.expect("the wait ended well only when a line was found"))
    }

    /// Calls `probe` until it succeeds. Fails at once when the process ends or `cancel` is set, and at the deadline with what
    /// the last probe said.
    pub fn wait_until(
        &mut self,
        waited_for: &str,
        deadline: Duration,
        cancel: &Cancel,
        mut probe: impl FnMut(&Self) -> Result<(), String>,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            // The order matters: a process that has done what was waited for may end right after.
            let ended = self.exit_status()?;
            let last = match probe(self) {
                Ok(()) => return Ok(()),
                Err(last) => last,
            };
            if let Some(status) = ended {
                let (name, log, tail) = (self.name.clone(), self.log_with_news(), self.tail());
                return Err(Error::Ended { name, status: status.to_string(), waited_for: waited_for.to_owned(), log, tail });
            }
            if cancel.is_cancelled() {
                return Err(Error::Cancelled { what: format!("waiting for {}", self.name) });
            }
            if started.elapsed() >= deadline {
                let (name, log, tail) = (self.name.clone(), self.log_with_news(), self.tail());
                return Err(Error::Late {
                    name,
                    waited_for: waited_for.to_owned(),
                    seconds: deadline.as_secs_f64(),
                    last,
                    log,
                    tail,
                });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits for its end by itself.
    pub fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if started.elapsed() >= deadline {
                let what = format!("the end of {} (process {})", self.name, self.pid());
                return Err(Error::NotInTime { what, seconds: deadline.as_secs_f64() });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// SIGKILL to this process alone, as a crash: its children, if it has any, are left to notice. Returns when it is gone.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        self.signal(Signal::KILL)?;
        let status = self.child.wait().map_err(|source| self.signal_error("wait for", source))?;
        self.ended = Some(status);
        Ok(status)
    }

    /// SIGTERM, and SIGKILL to its whole group when it has not ended within `grace`.
    pub fn terminate(&mut self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        // A paused process would not see the request.
        self.signal(Signal::CONT)?;
        if let Ok(status) = self.wait_exit(grace) {
            return Ok(status);
        }
        tracing::warn!(name = self.name, pid = self.pid(), "did not end on SIGTERM in time: killed");
        self.kill_group();
        self.kill()
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&mut self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// SIGSTOP: it stays alive and keeps its connections, but does nothing.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on, believing that no time has passed.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends any signal to this process alone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exit_status()?.is_some() {
            return Err(Error::NotRunning { name: self.name.clone() });
        }
        kill_process(self.raw_pid(), signal).map_err(|source| self.signal_error("signal", source.into()))
    }

    /// The last lines of its output, of standard error if there are any there.
    pub fn tail(&self) -> String {
        tail(&self.log_with_news())
    }

    fn log_with_news(&self) -> PathBuf {
        let has_errors = fs::metadata(&self.stderr_log).is_ok_and(|file| file.len() > 0);
        if has_errors { self.stderr_log.clone() } else { self.stdout_log.clone() }
    }

    fn kill_group(&self) {
        if self.group {
            // Fails only when nobody is left in it, which is what we want.
            let _ = kill_process_group(self.raw_pid(), Signal::KILL);
        }
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal_error(&self, action: &'static str, source: io::Error) -> Error {
        Error::Signal { action, name: self.name.clone(), pid: self.pid(), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Once it is reaped, its number may belong to somebody else.
        if self.is_running() {
            self.kill_group();
            let _ = self.kill();
        }
    }
}

/// Reads the complete lines that appear at the end of a file.
struct LineReader {
    file: File,
    path: PathBuf,
    rest: Vec<u8>,
}

impl LineReader {
    fn new(path: &Path, start: u64) -> Result<Self> {
        let mut file = File::open(path).map_err(at("open", path))?;
        file.seek(SeekFrom::Start(start)).map_err(at("read", path))?;
        Ok(Self { file, path: path.to_owned(), rest: Vec::new() })
    }

    fn find(&mut self, prefix: &str) -> Result<Option<String>> {
        self.file.read_to_end(&mut self.rest).map_err(at("read", &self.path))?;
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            if line.starts_with(prefix) {
                return Ok(Some(line.into_owned()));
            }
        }
        Ok(None)
    }
}

fn open_log(path: &Path) -> Result<(File, u64)> {
    let file = File::options().create(true).append(true).open(path).map_err(at("open", path))?;
    let length = file.metadata().map_err(at("read the length of", path))?.len();
    Ok((file, length))
}

fn read_from(path: &Path, start: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last lines of a file, or why there are none.
pub(crate) fn tail(path: &Path) -> String {
    let length = fs::metadata(path).map_or(0, |file| file.len());
    let Ok(bytes) = read_from(path, length.saturating_sub(TAIL_BYTES)) else {
        return "(no log)".to_owned();
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return "(nothing)".to_owned();
    }
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// The file that PATH, or a path, names.
pub(crate) fn find_program(program: &OsStr) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 {
        return path.is_file().then(|| path.to_owned());
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(path)).find(|candidate| candidate.is_file())
}
