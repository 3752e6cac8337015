//! The bell of a source: what readers ring, and the consumer thread sleeps by.
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Wakes the consumer thread: something to fetch, or something to do.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    condition: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *self.rung.lock() = true;
        self.condition.notify_one();
    }

    /// Until it rings, or for this time.
    pub fn wait(&self, at_most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.condition.wait_for(&mut rung, at_most);
        }
        *rung = false;
    }
}
