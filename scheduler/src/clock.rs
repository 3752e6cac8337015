//! The leader's clocks: a monotonic one, and a wall clock that is anchored once and then runs with it, so that write timestamps never go
//! back while this process leads.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use polybolos_streaming::coordinator::Now;

#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    wall_us_at_origin: i64,
}

impl Clock {
    /// Anchored to the store's clock where it told one, else to this machine's.
    pub fn anchored(store_clock_us: Option<i64>) -> Self {
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
        Self { origin: Instant::now(), wall_us_at_origin: store_clock_us.unwrap_or(here) }
    }

    pub fn now(&self) -> Now {
        let elapsed = self.origin.elapsed().as_micros() as u64;
        Now { monotonic_us: elapsed, wall_us: self.wall_us_at_origin + elapsed as i64 }
    }

    /// A monotonic time as an instant.
    pub fn instant(&self, monotonic_us: u64) -> Instant {
        self.origin + Duration::from_micros(monotonic_us)
    }
}
