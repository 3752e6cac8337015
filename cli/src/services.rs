//! The services of `polybolos cluster`, each a process that is started again a second after it ended. Until the cluster is ready, one that
//! ends a second time is given up: what is wrong at a start seldom mends itself. They end with this process even when it is killed.
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use polybolos_service::exit::{Exit, Failure};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// A service that died is started again after this.
const RESTART: Duration = Duration::from_secs(1);

/// A service that does not end by itself is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Of a log, read to find what a service said last.
const TAIL_BYTES: u64 = 16 << 10;

pub type Environment = BTreeMap<&'static str, String>;

/// All of a cluster.
pub struct Services {
    program: PathBuf,
    /// Has their logs, in `log`, and their process ids.
    folder: PathBuf,
    is_ready: Arc<AtomicBool>,
    stop: CancellationToken,
    kept: JoinSet<anyhow::Result<()>>,
}

impl Services {
    pub fn new(program: PathBuf, folder: PathBuf) -> Self {
        Self { program, folder, is_ready: Arc::default(), stop: CancellationToken::new(), kept: JoinSet::new() }
    }

    pub fn start(&mut self, name: impl Into<String>, arguments: &[&str], environment: Environment) {
        let service = Service {
            name: name.into(),
            program: self.program.clone(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment,
            folder: self.folder.clone(),
            is_ready: self.is_ready.clone(),
        };
        self.kept.spawn(service.keep(self.stop.clone()));
    }

    /// From now on a service is started again however often it ends.
    pub fn are_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Waits until one cannot be kept running: why.
    pub async fn broken(&mut self) -> anyhow::Error {
        loop {
            match self.kept.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return error.into(),
                // In order they end only when they are told to.
                Some(Ok(Ok(()))) => {}
                None => std::future::pending::<()>().await,
            }
        }
    }

    pub async fn end(mut self) {
        self.stop.cancel();
        while self.kept.join_next().await.is_some() {}
    }
}

struct Service {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Environment,
    folder: PathBuf,
    is_ready: Arc<AtomicBool>,
}

impl Service {
    /// Keeps it running until `stop`; its output goes to a log file.
    async fn keep(self, stop: CancellationToken) -> anyhow::Result<()> {
        let log = self.folder.join("log").join(format!("{}.log", self.name));
        let mut ends = 0;
        loop {
            let file = OpenOptions::new().create(true).append(true).open(&log);
            let file = file.with_context(|| format!("cannot write {}", log.display()))?;
            let began_at = file.metadata()?.len();
            let mut child = self.spawn(file).with_context(|| format!("cannot start {}", self.name))?;
            // The system closes it when this process ends, in whatever way, and the service ends, too. Left in the child, waiting closes it.
            let _input = child.stdin.take();
            let pid = child.id();
            if let Some(pid) = pid
                && let Err(error) = std::fs::write(self.folder.join(format!("{}.pid", self.name)), pid.to_string())
            {
                // Only scripts miss it; the disk may be full.
                tracing::warn!(name = %self.name, %error, "the process id of a service cannot be written");
            }
            let status = tokio::select! {
                status = child.wait() => status?,
                () = stop.cancelled() => return end(child, pid).await,
            };
            ends += 1;
            let said = last_words(&log, began_at).unwrap_or_default();
            if ends > 1 && !self.is_ready.load(Ordering::Relaxed) {
                let unreachable = status.code() == Some(Failure::Unreachable as i32);
                let failure = if unreachable { Failure::Unreachable } else { Failure::Failed };
                let (name, log) = (&self.name, log.display());
                let message = format!("{name} ended twice before the cluster was ready ({status}): {said}; its log is {log}");
                return Err(Exit::new(failure, message).into());
            }
            tracing::warn!(name = %self.name, %status, %said, log = %log.display(), "service ended; starting it again");
            tokio::select! {
                () = tokio::time::sleep(RESTART) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    fn spawn(&self, log: File) -> io::Result<Child> {
        Command::new(&self.program)
            .args(&self.arguments)
            .arg("--end-with-input")
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
    }
}

async fn end(mut child: Child, pid: Option<u32>) -> anyhow::Result<()> {
    if let Some(pid) = pid {
        // SIGTERM by the system's own tool: the standard library only knows SIGKILL.
        let _ = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await;
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

/// The error with which a run ended whose part of the log begins at `from`; without one, its last line.
fn last_words(log: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let tail_at = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from.max(tail_at)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let mut lines = tail.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let error = lines.clone().rev().find_map(|line| line.strip_prefix("error: "));
    Ok(error.or_else(|| lines.next_back()).unwrap_or("it said nothing").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Services that are shell scripts.
    fn scripts(folder: &Path) -> Services {
        std::fs::create_dir(folder.join("log")).unwrap();
        Services::new("/bin/sh".into(), folder.to_owned())
    }

    #[tokio::test]
    async fn one_that_cannot_start_is_given_up_with_what_it_said_and_its_code() {
        for (script, code, said) in [
            ("echo ready; echo 'error: no luck' >&2; echo more; exit 3", Failure::Unreachable, "(exit status: 3): no luck; "),
            ("echo one; echo two; exit 1", Failure::Failed, "(exit status: 1): two; "),
            ("kill -9 $$", Failure::Failed, "): it said nothing; "),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut services = scripts(folder.path());
            services.start("idle", &["-c", "read -r nothing"], Environment::new());
            services.start("wrong", &["-c", script], Environment::new());
            let error = services.broken().await;
            let exit = error.downcast_ref::<Exit>().expect("has a code");
            assert_eq!(exit.failure, code, "{error}");
            let log = folder.path().join("log/wrong.log");
            assert!(error.to_string().starts_with("wrong ended twice before the cluster was ready ("), "{error}");
            assert!(error.to_string().ends_with(&format!("{said}its log is {}", log.display())), "{error}");
            services.end().await;
        }
    }

    #[tokio::test]
    async fn one_that_ends_later_is_started_again_however_often() {
        let folder = tempfile::tempdir().unwrap();
        let mut services = scripts(folder.path());
        services.are_ready();
        let told = folder.path().join("told");
        let environment = Environment::from([("TOLD", told.display().to_string())]);
        services.start("short", &["-c", "echo once >> \"$TOLD\""], environment);
        let thrice = async {
            while std::fs::read_to_string(&told).unwrap_or_default().lines().count() < 3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = thrice => {}
            error = services.broken() => panic!("{error}"),
        }
        services.end().await;
    }

    #[test]
    fn an_error_of_an_earlier_run_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let earlier = "error: of yesterday\n";
        std::fs::write(&log, format!("{earlier}starting\nworking\n")).unwrap();
        assert_eq!(last_words(&log, earlier.len() as u64).unwrap(), "working");
        assert_eq!(last_words(&log, 0).unwrap(), "of yesterday");
        std::fs::write(&log, format!("{earlier}{}\n", "x".repeat(TAIL_BYTES as usize - 1))).unwrap();
        assert!(last_words(&log, 0).unwrap().starts_with("xx"), "only its end is read");
    }
}
