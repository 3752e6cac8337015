//! Waiting for something to become true, with a deadline instead of a guess.
use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// How often a condition is looked at: far below what a person or a test notices, far above what costs CPU.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Calls `condition` until it is true; fails, naming `what`, when `deadline` has passed. The condition is looked at at least once.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    loop {
        if condition() {
            return Ok(());
        }
        if started.elapsed() >= deadline {
            return Err(Error::NotInTime { what: what.to_owned(), seconds: deadline.as_secs_f64() });
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// [`wait_until`] for conditions that await something; a condition that hangs is cut off at the deadline too.
pub async fn wait_until_async<C, F>(what: &str, deadline: Duration, mut condition: C) -> Result<()>
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let polling = async {
        while !condition().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    match tokio::time::timeout(deadline, polling).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Error::NotInTime { what: what.to_owned(), seconds: deadline.as_secs_f64() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let waited = wait_until("third look", Duration::from_secs(5), || {
            looks += 1;
            looks == 3
        });
        assert!(waited.is_ok());
        assert_eq!(looks, 3);
    }

    #[tokio::test]
    async fn the_deadline_names_what_was_waited_for() {
        let error = wait_until("rain", Duration::from_millis(30), || false).unwrap_err();
        assert_eq!(error.to_string(), "rain did not happen within 0.0 s");
        let hung = wait_until_async("thaw", Duration::from_millis(30), std::future::pending).await;
        assert!(hung.is_err());
    }
}
