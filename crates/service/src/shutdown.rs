//! Ctrl-C and SIGTERM end everything in order; a second one ends it at once. A process that another one started may end with it.
use std::{io, thread, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Nobody is left to kill a process without a parent that does not end in order in this time.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);

/// A token that the first Ctrl-C or SIGTERM cancels.
pub fn on_signals() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupts, mut terminations) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut first = true;
        loop {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
            }
            if !first {
                tracing::warn!("second signal: ending at once");
                std::process::exit(130);
            }
            first = false;
            cancelled.cancel();
        }
    });
    Ok(token)
}

/// Cancels the token at the end of standard input. Whoever started this process holds the other end, and the system closes it
/// however that one ends.
pub fn on_end_of_input(token: CancellationToken) -> io::Result<()> {
    // Not a task: a runtime would wait at its end for somebody who reads.
    thread::Builder::new().name("parent".to_owned()).spawn(move || {
        // An error is an end, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        tracing::warn!("the process that started this one is gone: ending");
        token.cancel();
        thread::sleep(ORPHAN_GRACE);
        std::process::exit(1);
    })?;
    Ok(())
}
