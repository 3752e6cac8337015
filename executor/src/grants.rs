//! This process's right to publish (EPOCHS rule 6), checked before every batch: a process that slept past it writes nothing.
use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use polybolos_streaming::grant::Grant as GrantClock;
use tokio_util::sync::CancellationToken;

/// The grant of one stream, with the clock that it is read by. The clock never goes back, and runs on while the process is stopped.
#[derive(Debug)]
pub struct PublishGrant {
    origin: Instant,
    clock: Mutex<GrantClock>,
}

impl Default for PublishGrant {
    fn default() -> Self {
        Self { origin: Instant::now(), clock: Mutex::default() }
    }
}

impl PublishGrant {
    pub fn now_us(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    pub fn renew(&self, asked_us: u64) {
        self.clock.lock().renew(asked_us);
    }

    pub fn revoke(&self) {
        self.clock.lock().revoke();
    }
}

/// What one order may write under: the grant of the stream that it came by, as long as its job goes on here. What an earlier
/// leader ordered, the next one's grant does not cover (EPOCHS rule 5).
pub struct Leave {
    pub grant: Arc<PublishGrant>,
    pub ended: CancellationToken,
}

impl polybolos_tables::Grant for Leave {
    fn holds(&self) -> bool {
        !self.ended.is_cancelled() && self.grant.clock.lock().allows(self.grant.now_us())
    }
}

#[cfg(test)]
mod tests {
    use polybolos_tables::Grant;

    use super::*;

    #[test]
    fn an_order_ends_with_its_stream_and_with_its_job() {
        let stream = |asked_us| {
            let grant = Arc::new(PublishGrant::default());
            grant.renew(asked_us);
            grant
        };
        let (first, job) = (stream(u64::MAX), CancellationToken::new());
        let leave = |grant: &Arc<PublishGrant>, ended: &CancellationToken| Leave { grant: grant.clone(), ended: ended.clone() };
        let (order, of_another_job) = (leave(&first, &job), leave(&first, &CancellationToken::new()));
        assert!(order.holds() && of_another_job.holds());
        job.cancel();
        assert!(!order.holds() && of_another_job.holds());
        first.revoke();
        let second = stream(u64::MAX);
        assert!(!of_another_job.holds() && leave(&second, &CancellationToken::new()).holds());
    }
}
