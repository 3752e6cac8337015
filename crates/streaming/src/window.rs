//! Write-time windows (EPOCHS rule 12): the microseconds `[w, w + P)` that an epoch owns at its sinks, one for each part.
use crate::{ids::PartIndex, manifest::MAX_PARTS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteWindow {
    pub start_us: i64,
    pub parts: u16,
}

impl WriteWindow {
    /// The next window: at the wall clock, but never before the end of the last one, so that a clock that goes back makes no row invisible.
    ///
    /// # Panics
    /// When `parts` exceeds [`MAX_PARTS`].
    pub fn next(wall_us: i64, last_end_us: i64, parts: u16) -> Self {
        assert!(parts <= MAX_PARTS, "an epoch of {parts} parts exceeds {MAX_PARTS}");
        Self { start_us: wall_us.max(last_end_us), parts }
    }

    /// Exclusive.
    pub fn end_us(&self) -> i64 {
        self.start_us + i64::from(self.parts)
    }
}

/// The timestamp with which a part of a recorded epoch is written, each time it is.
pub fn write_timestamp_us(window_start_us: i64, part: PartIndex) -> i64 {
    window_start_us + i64::from(part.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_never_overlap_whatever_the_clock_does(clocks in prop::collection::vec((0i64..1_000_000, 1u16..=MAX_PARTS), 1..50)) {
            let mut end = 0;
            for (clock, parts) in clocks {
                let window = WriteWindow::next(clock, end, parts);
                prop_assert!(window.start_us >= end && window.start_us >= clock);
                let last = write_timestamp_us(window.start_us, PartIndex(parts - 1));
                prop_assert!(last < window.end_us());
                end = window.end_us();
            }
        }
    }
}
