//! Leaves no process behind: a launcher adopts the orphans of the command that it ran, and ends them.
//!
//! A command may start services and die without ending them. As a "child subreaper" (Linux) this process, instead of init,
//! becomes the parent of whatever is orphaned below it, and so can find and end it.
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};
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

/// Ends all children of this process: SIGTERM, SIGKILL for those still there after `grace`. Returns how many there were.
///
/// To be called when every child that somebody waits for has been waited for.
pub fn end_all(grace: Duration) -> usize {
    let started = Instant::now();
    let mut asked = Vec::new();
    for _ in 0..MAX_ROUNDS {
        reap();
        let children = children();
        if children.is_empty() {
            break;
        }
        for child in children {
            if started.elapsed() >= grace {
                let _ = kill_process(child, Signal::KILL);
            } else if !asked.contains(&child) {
                let _ = kill_process(child, Signal::TERM);
                let _ = kill_process(child, Signal::CONT);
            }
            if !asked.contains(&child) {
                asked.push(child);
            }
        }
        std::thread::sleep(ROUND_PAUSE);
    }
    asked.len()
}

/// Collects children that have ended already.
fn reap() {
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
}

fn children() -> Vec<Pid> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    children
}
