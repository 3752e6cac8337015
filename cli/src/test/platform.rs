//! A platform of a test's own: `polybolos up` as a process, on a temporary data folder and free ports, so that it can be killed as the real one can.
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{Connect, client::Client};

/// The ports that `--port-offset` moves.
const PORTS: [u16; 6] = [7400, 7410, 7432, 7433, 7490, 9092];

/// Offsets are tried in this range, so that moved ports stay below 65 536.
const OFFSETS: std::ops::Range<u16> = 2_000..50_000;

/// Tries to start before it is given up: another process may take a port that was free.
const STARTS: usize = 5;

/// It starts in a second; a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Platform {
    folder: TempDir,
    child: Child,
    pub client: Client,
}

impl Platform {
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("polybolos-test-").tempdir().context("no temporary folder")?;
        let (child, client) = start_in(folder.path()).await?;
        Ok(Self { folder, child, client })
    }

    /// Where tables have their files.
    pub fn files(&self) -> PathBuf {
        files(self.folder.path())
    }

    /// Kills the process, as a crash would, and starts another on the same data folder.
    pub async fn crash(&mut self) -> anyhow::Result<()> {
        self.child.start_kill().context("the platform could not be killed")?;
        let status = self.child.wait().await?;
        if status.code().is_some() {
            bail!("the platform ended by itself ({status}) before it could be killed: {}", log(self.folder.path()));
        }
        (self.child, self.client) = start_in(self.folder.path()).await?;
        Ok(())
    }

    /// The end of its log, for messages.
    pub fn log(&self) -> String {
        log(self.folder.path())
    }

    /// Ends it without ceremony: nothing of it is needed any more.
    pub async fn end(mut self) {
        // It may have ended already.
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }
}

fn files(folder: &Path) -> PathBuf {
    folder.join("files")
}

async fn start_in(folder: &Path) -> anyhow::Result<(Child, Client)> {
    let mut last = String::new();
    for _ in 0..STARTS {
        let offset = free_offset()?;
        let errors = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
        let data = folder.join("data");
        let mut child = Command::new(std::env::current_exe()?)
            .args(["up", "--no-pipelines", "--end-with-input", "--port-offset", &offset.to_string(), "--data-dir"])
            .arg(&data)
            .arg("--allow-location")
            .arg(files(folder))
            // The system closes it when this process ends, in whatever way, and the platform ends, too.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .context("the platform could not be started")?;
        let stdout = child.stdout.take().context("the platform has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        match tokio::time::timeout(PATIENCE, lines.next_line()).await {
            Ok(Ok(Some(line))) if line.starts_with("ready ") => {
                // It goes on writing; somebody must read.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                let connect = Connect { data_dir: data, http: None, token: None, ca_file: None };
                return Ok((child, Client::connect(&connect)?));
            }
            _ => {
                let _ = child.start_kill();
                let _ = child.wait().await;
                last = log(folder);
            }
        }
    }
    bail!("the platform did not start, tried {STARTS} times: {last}")
}

fn log(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" ⏎ ")
}

/// An offset at which every port is free, another at each call.
fn free_offset() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = OFFSETS.end - OFFSETS.start;
    let first = (std::process::id() % u32::from(span)) as u16;
    for _ in 0..span / 10 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(10);
        let offset = OFFSETS.start + ((u32::from(first) + u32::from(step)) % u32::from(span)) as u16;
        if PORTS.iter().all(|port| TcpListener::bind(("127.0.0.1", port + offset)).is_ok()) {
            return Ok(offset);
        }
    }
    bail!("no free ports for a test platform")
}
