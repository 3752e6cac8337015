//! Leaves no process behind: a launcher adopts the orphans of the command that it ran, and ends them.
//!
//! A command may start services and die without ending them. As a "child subreaper" (Linux) this process, instead of init,
//! becomes the parent of whatever is orphaned below it, and so can find and end it.
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, wait};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// Orphans that are killed leave their own children to us, so ending them takes rounds; this bounds a chain that never ends.
const MAX_ROUNDS: usize = 1000;
const ROUND_PAUSE: Duration = Duration::from_millis(10);

/// From now on, processes that are orphaned below this one become its children.
pub fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// A process that was left behind.
#[derive(Debug)]
pub struct Orphan {
    pub pid: Pid,
    /// Its program and arguments, separated by spaces.
    pub command: String,
}

/// Ends all children of this process: SIGTERM, SIGKILL for those still there after `grace`. Returns those that had not
/// ended by themselves.
///
/// To be called when every child that somebody waits for has been waited for.
pub fn end_all(grace: Duration) -> Vec<Orphan> {
    let started = Instant::now();
    let mut asked: Vec<Orphan> = Vec::new();
    for _ in 0..MAX_ROUNDS {
        reap();
        let children = children();
        if children.is_empty() {
            break;
        }
        for child in children {
            if !asked.iter().any(|orphan| orphan.pid == child) {
                // Read before the signal: what has ended has no command any more.
                asked.push(Orphan { pid: child, command: command(child) });
                let _ = kill_process(child, Signal::TERM);
                let _ = kill_process(child, Signal::CONT);
            }
            if started.elapsed() >= grace {
                let _ = kill_process(child, Signal::KILL);
            }
        }
        std::thread::sleep(ROUND_PAUSE);
    }
    asked.retain(|orphan| !orphan.command.is_empty());
    asked
}

/// Collects children that have ended already, of whatever process group.
fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// Empty once it has ended.
fn command(pid: Pid) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned()
}

fn children() -> Vec<Pid> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    children
}
