//! A flag that lets one thread (a signal handler's) end another's waiting for a server.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cloned handles share the flag; once cancelled it stays so.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Makes every wait that holds a clone of this end with [`crate::Error::Cancelled`] within a fraction of a second.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
