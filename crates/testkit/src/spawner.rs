//! Starts children whose life is bound to ours: when this process ends, in whatever way (SIGKILL included), the kernel kills
//! them.
//!
//! Linux offers the parent-death signal for this, with two catches. It is sent when the *thread* that started the child ends,
//! and test threads end early: so one thread, which lives as long as the process, starts them all. And a parent that dies
//! between fork and the child's request for the signal goes unnoticed: so the child, once it has asked (through `setpriv` of
//! util-linux, as our crates forbid the unsafe code that asking by ourselves would need), looks whether its parent is still
//! the one that it was told. All wrapping processes `exec` the next: the child's pid is the program's pid.
use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Refuses to run the program when the parent has changed meanwhile; `$0` is the parent's pid, `$@` the program.
const CHECK_PARENT_THEN_EXEC: &str = r#"[ "$PPID" = "$0" ] || exit 125; exec "$@""#;
/// One request at a time: the callers wait for the answer anyway.
const PENDING_REQUESTS: usize = 1;

type Reply = SyncSender<io::Result<Child>>;

/// A command that runs `program args…` with its life bound to ours; environment and redirections are the caller's to add.
pub(crate) fn bound_command(program: &OsStr, args: &[OsString]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "sh", "-c", CHECK_PARENT_THEN_EXEC]);
    command.arg(std::process::id().to_string()).arg(program).args(args);
    command
}

/// Starts a [`bound_command`] from the thread that outlives all others.
pub(crate) fn spawn_bound(command: Command) -> io::Result<Child> {
    let (reply, answer) = sync_channel(1);
    let gone = || io::Error::other("the thread that starts processes is gone");
    requests().send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn requests() -> &'static SyncSender<(Command, Reply)> {
    static REQUESTS: OnceLock<SyncSender<(Command, Reply)>> = OnceLock::new();
    REQUESTS.get_or_init(|| {
        let (sender, receiver) = sync_channel::<(Command, Reply)>(PENDING_REQUESTS);
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                while let Ok((mut command, reply)) = receiver.recv() {
                    // A caller that has gone away drops the child's handle; the child still dies with us.
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a process can start one thread");
        sender
    })
}
