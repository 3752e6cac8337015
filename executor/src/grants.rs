//! This process's right to publish (EPOCHS rule 6), checked before every batch: a process that slept past it writes nothing.
use std::time::Instant;

use parking_lot::Mutex;
use polybolos_streaming::grant::Grant as GrantClock;

/// The grant, with the clock that it is read by. The clock never goes back, and runs on while the process is stopped.
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

impl polybolos_tables::Grant for PublishGrant {
    fn holds(&self) -> bool {
        self.clock.lock().allows(self.now_us())
    }
}
