//! When a process ends that serves.
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
    pub fn token(&self) -> std::io::Result<CancellationToken> {
        let token = shutdown::on_signals()?;
        if self.end_with_input {
            shutdown::on_end_of_input(token.clone())?;
        }
        Ok(token)
    }
}
