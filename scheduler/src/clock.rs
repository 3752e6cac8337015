//! The leader's clocks: a monotonic one, and a wall clock that runs with it and is anchored to the store's. It never goes back, so that write
//! timestamps do not while this process leads; it goes forward when the store's clock is ahead, as it is after this machine slept (EPOCHS
//! rule 12).
use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use polybolos_streaming::coordinator::Now;
use polybolos_tables::TableBackend;

/// How often the store is asked. Each answer is late by its way here, so the clocks only ever differ by the best of those ways.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A store that does not answer by then is asked again later.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is told: smaller steps are those of clocks that are kept in time.
const LEAP_US: i64 = 1_000_000;

#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    wall_us_at_origin: AtomicI64,
}

impl Clock {
    /// As the store tells the time; as this machine does while the store cannot be asked.
    pub async fn anchored(store: &dyn TableBackend) -> Self {
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
        match ask(store).await {
            Ok(told) => Self::starting_at(told),
            Err(error) => {
                tracing::warn!(error, "the store's clock cannot be read; going by this machine's until it can");
                Self::starting_at(here)
            }
        }
    }

    fn starting_at(wall_us: i64) -> Self {
        Self { origin: Instant::now(), wall_us_at_origin: AtomicI64::new(wall_us) }
    }

    /// Goes along with the store's clock until it is dropped.
    pub async fn follow(&self, store: &dyn TableBackend) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Whoever needs the store now says that it is away.
            if let Ok(told) = ask(store).await {
                self.catch_up(told);
            }
        }
    }

    /// Goes forward to the store's time, if that is ahead.
    fn catch_up(&self, store_us: i64) {
        let anchor = store_us - self.elapsed_us() as i64;
        let before = self.wall_us_at_origin.fetch_max(anchor, Ordering::AcqRel);
        if anchor - before > LEAP_US {
            tracing::warn!(ahead_ms = (anchor - before) / 1_000, "the store's clock was ahead; this machine may have slept");
        }
    }

    fn elapsed_us(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    pub fn now(&self) -> Now {
        let elapsed = self.elapsed_us();
        Now { monotonic_us: elapsed, wall_us: self.wall_us_at_origin.load(Ordering::Acquire) + elapsed as i64 }
    }

    /// A monotonic time as an instant.
    pub fn instant(&self, monotonic_us: u64) -> Instant {
        self.origin + Duration::from_micros(monotonic_us)
    }
}

async fn ask(store: &dyn TableBackend) -> Result<i64, String> {
    match tokio::time::timeout(PATIENCE, store.clock_us()).await {
        Ok(told) => told.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {PATIENCE:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    #[test]
    fn a_wall_clock_follows_the_stores_forward_and_never_back() {
        let clock = Clock::starting_at(10 * HOUR_US);
        let first = clock.now();
        clock.catch_up(9 * HOUR_US);
        let second = clock.now();
        assert!(second.wall_us >= first.wall_us, "the store's clock went back");
        assert!(second.wall_us < 10 * HOUR_US + HOUR_US / 2);
        // The machine slept: its monotonic clock stood still, the store's went on.
        clock.catch_up(18 * HOUR_US);
        let third = clock.now();
        assert!(third.wall_us >= 18 * HOUR_US, "{third:?}");
        assert!(third.monotonic_us < HOUR_US as u64, "only the wall clock moves");
    }
}
