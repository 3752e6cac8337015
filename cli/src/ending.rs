//! When a process ends that serves, and what it says of that to whoever sits at a terminal.
use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use clap::Args;
use polybolos_service::shutdown;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
pub struct Ending {
    /// End with whoever started this and holds the other end of standard input.
    #[arg(long, hide = true)]
    end_with_input: bool,
}

impl Ending {
    /// A token that signals cancel, and the end of whoever started this, if it said so.
    pub fn token(&self) -> io::Result<CancellationToken> {
        let token = shutdown::on_signals()?;
        if self.end_with_input {
            shutdown::on_end_of_input(token.clone())?;
        }
        Ok(token)
    }
}

pub const STOPPING: &str = "stopping; Ctrl-C again ends at once";

pub fn stopped(folder: &Path) -> String {
    let folder = folder.display();
    format!("stopped; data stays in {folder}, `polybolos up --data-dir {folder}` goes on")
}

/// A line for a terminal, over the `^C` that it shows. Without one, nobody has pressed that.
pub fn tell(line: &str) {
    let mut terminal = io::stderr();
    if terminal.is_terminal() {
        // One that is gone misses nothing.
        let _ = writeln!(terminal, "\r{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_how_to_go_on() {
        let told = stopped(Path::new("here/data"));
        assert_eq!(told, "stopped; data stays in here/data, `polybolos up --data-dir here/data` goes on");
    }
}
