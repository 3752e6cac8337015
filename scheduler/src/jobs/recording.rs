//! Whether it is recorded what a job shall do. Who says PAUSE, RESUME or STOP is answered then, and not before: whoever leads next knows nothing
//! else.
use std::time::Duration;

use tokio::sync::watch;

/// For a store that is slow. Until it has passed, no other statement changes the job.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// As the job's loop left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    pub is_recorded: bool,
    /// What the store says instead of taking it.
    pub trouble: Option<String>,
}

/// Waits until it is recorded; an error says why it is not.
pub async fn recorded(mut recording: watch::Receiver<Recording>) -> Result<(), String> {
    let is_recorded = matches!(tokio::time::timeout(PATIENCE, recording.wait_for(|known| known.is_recorded)).await, Ok(Ok(_)));
    if is_recorded {
        return Ok(());
    }
    let trouble = recording.borrow().trouble.clone();
    Err(trouble.unwrap_or_else(|| "the store does not answer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_waited_for_until_it_is_recorded_and_not_for_ever() {
        let recording = watch::Sender::new(Recording::default());
        let waits = tokio::spawn(recorded(recording.subscribe()));
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        recording.send_replace(Recording { is_recorded: true, trouble: None });
        assert_eq!(waits.await.expect("ends"), Ok(()));

        recording.send_replace(Recording { is_recorded: false, trouble: Some("the disk is full".into()) });
        assert_eq!(recorded(recording.subscribe()).await, Err("the disk is full".into()));
        recording.send_replace(Recording::default());
        assert_eq!(recorded(recording.subscribe()).await, Err("the store does not answer".into()));
    }
}
