//! How large the next epoch is, and when it comes. While a job keeps up, an epoch takes all there is, after a rest as long as epochs take. When it lags, epochs grow until they take about as long
//! as [`PaceConfig::epoch_us`] says, or longer on a store whose record step is slow; never more than the bounds on rows and bytes. What
//! an epoch takes is shared fairly: a partition with little gets all of it, the others the same number of rows each.
use std::ops::RangeInclusive;

use crate::{frame::OffsetRange, ids::SourcePartition, manifest::MAX_PARTS};

#[derive(Clone, Debug, PartialEq)]
pub struct PaceConfig {
    /// How long an epoch under backlog should take, from submitting it to its record.
    pub epoch_us: RangeInclusive<u64>,
    /// After an epoch that took all there was, a job rests as long as its epochs take, but at most so long: it costs at most half of what
    /// computing without a pause would, and rows wait hardly longer. 0 for no rest.
    pub rest_us: u64,
    /// Epochs that are recorded and unpublished beyond this number make the next one wait for as long as each takes to publish, within these bounds: a slow sink gets
    /// fewer, larger epochs, and rows do not stand in line before it. One more than it has in hand is enough for it to go on.
    pub unpublished_at_ease: u64,
    pub backpressure_us: RangeInclusive<u64>,
    /// Rows an epoch may always take, those it may take at first, and those it may take at most.
    pub min_rows: u64,
    pub first_rows: u64,
    pub max_rows: u64,
    pub max_bytes: u64,
}

impl Default for PaceConfig {
    fn default() -> Self {
        Self {
            epoch_us: 200_000..=500_000,
            rest_us: 20_000,
            unpublished_at_ease: 1,
            backpressure_us: 5_000..=10_000_000,
            min_rows: 1_000,
            first_rows: 50_000,
            max_rows: 2_000_000,
            max_bytes: 256 << 20,
        }
    }
}

/// What a partition has to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub source: SourcePartition,
    pub available: OffsetRange,
    /// 0 when unknown.
    pub bytes_per_record: u32,
}

/// One recorded epoch, as the pace sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    pub rows: u64,
    pub compute_us: u64,
    pub record_us: u64,
    /// More was there than the epoch took.
    pub limited: bool,
}

#[derive(Clone, Debug)]
pub struct Pace {
    config: PaceConfig,
    rows: u64,
    /// Smoothed time of the record step.
    record_us: u64,
    /// Smoothed time of an epoch; 0 under backlog.
    epoch_us: u64,
    /// Where the sharing starts, so that nobody is always last.
    turn: usize,
}

impl Pace {
    pub fn new(config: PaceConfig) -> Self {
        let rows = config.first_rows.clamp(config.min_rows.max(1), config.max_rows.max(1));
        Self { config, rows, record_us: 0, epoch_us: 0, turn: 0 }
    }

    /// Rows the next epoch may take.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// How long after a submit the next one may follow, with so many epochs unpublished by a sink that lately took `publish_us` for each; of an urgent one nothing but
    /// its sink holds it back.
    pub fn interval_us(&self, unpublished_epochs: u64, publish_us: u64, urgent: bool) -> u64 {
        let beyond = self.beyond_ease(unpublished_epochs);
        let bounds = &self.config.backpressure_us;
        let rest_us = if urgent { 0 } else { self.epoch_us.min(self.config.rest_us) };
        let with_rest_us = if rest_us == 0 { 0 } else { self.epoch_us + rest_us };
        with_rest_us + beyond * publish_us.clamp(*bounds.start(), *bounds.end())
    }

    /// So many unpublished epochs make the next one wait.
    pub fn is_held_back(&self, unpublished_epochs: u64) -> bool {
        self.beyond_ease(unpublished_epochs) > 0
    }

    fn beyond_ease(&self, unpublished_epochs: u64) -> u64 {
        unpublished_epochs.saturating_sub(self.config.unpublished_at_ease)
    }

    pub fn observe(&mut self, epoch: Observed) {
        self.record_us = smoothed(self.record_us, epoch.record_us);
        let duration_us = (epoch.compute_us + epoch.record_us).max(1);
        self.epoch_us = if epoch.limited { 0 } else { smoothed(self.epoch_us, duration_us) };
        // Recording should be the smaller part of an epoch, so a slow store makes longer ones.
        let low = (*self.config.epoch_us.start()).max(2 * self.record_us);
        let high = (*self.config.epoch_us.end()).max(4 * self.record_us);
        let aim = low.midpoint(high);
        let fitting = u64::try_from(u128::from(epoch.rows) * u128::from(aim) / u128::from(duration_us)).unwrap_or(u64::MAX);
        if duration_us > high {
            self.set(fitting.clamp(self.rows / 2, self.rows));
        } else if epoch.limited && duration_us < low {
            self.set(fitting.clamp(self.rows, self.rows.saturating_mul(2)));
        }
    }

    /// An attempt of so many rows was too much.
    pub fn cut(&mut self, rows: u64) {
        self.set(self.rows.min(rows / 2));
    }

    fn set(&mut self, rows: u64) {
        self.rows = rows.clamp(self.config.min_rows.max(1), self.config.max_rows.max(1));
    }

    /// The ranges of the next epoch, in the order of `backlog`: empty only if all of it is. `rows` overrides the pace's own limit downwards.
    pub fn choose(&mut self, backlog: &[Backlog], rows: Option<u64>) -> Vec<(SourcePartition, OffsetRange)> {
        let limit = rows.map_or(self.rows, |rows| rows.min(self.rows)).max(1);
        let offers: Vec<&Backlog> = backlog.iter().filter(|offer| !offer.available.is_empty()).collect();
        let first = if offers.is_empty() { 0 } else { self.turn % offers.len() };
        let chosen: Vec<usize> = (0..offers.len().min(usize::from(MAX_PARTS))).map(|i| (first + i) % offers.len()).collect();
        let lengths: Vec<u64> = chosen.iter().map(|&i| offers[i].available.len()).collect();
        let sizes: Vec<u64> = chosen.iter().map(|&i| u64::from(offers[i].bytes_per_record)).collect();
        let shares = share_within_bytes(limit, self.config.max_bytes, &lengths, &sizes);
        let served = shares.iter().filter(|rows| **rows > 0).count();
        self.turn = first + if served == offers.len() { 1 } else { served };

        let mut ranges: Vec<(usize, SourcePartition, OffsetRange)> = chosen
            .into_iter()
            .zip(shares)
            .filter(|(_, rows)| *rows > 0)
            .map(|(i, rows)| {
                let start = offers[i].available.start;
                (i, offers[i].source, OffsetRange::new(start, start + rows as i64))
            })
            .collect();
        ranges.sort_by_key(|(i, ..)| *i);
        ranges.into_iter().map(|(_, source, range)| (source, range)).collect()
    }
}

pub(crate) fn smoothed(known: u64, new: u64) -> u64 {
    if known == 0 { new } else { (known * 3 + new) / 4 }
}

/// Fair shares of at most `limit` rows whose bytes stay within `max_bytes`; one row at least, so that a record larger than the bound passes too.
fn share_within_bytes(limit: u64, max_bytes: u64, lengths: &[u64], sizes: &[u64]) -> Vec<u64> {
    let bytes =
        |shares: &[u64]| shares.iter().zip(sizes).map(|(rows, size)| rows.saturating_mul(*size)).fold(0u64, u64::saturating_add);
    let whole = fair_shares(limit, lengths);
    if bytes(&whole) <= max_bytes {
        return whole;
    }
    let (mut fits, mut exceeds) = (1, limit);
    while fits + 1 < exceeds {
        let middle = fits.midpoint(exceeds);
        if bytes(&fair_shares(middle, lengths)) <= max_bytes {
            fits = middle;
        } else {
            exceeds = middle;
        }
    }
    fair_shares(fits, lengths)
}

/// Max-min fair: everyone gets the same, except those who need less; what they leave goes to the others. What cannot be divided goes to the
/// first who want more, a row each. The sum is `min(limit, total)`.
fn fair_shares(limit: u64, lengths: &[u64]) -> Vec<u64> {
    let mut needs = lengths.to_vec();
    needs.sort_unstable();
    let mut left = limit;
    let mut level = u64::MAX;
    for (served, need) in needs.iter().enumerate() {
        let others = (needs.len() - served) as u64;
        if *need > left / others {
            level = left / others;
            left %= others;
            break;
        }
        left -= need;
    }
    let mut shares: Vec<u64> = lengths.iter().map(|length| level.min(*length)).collect();
    for (share, length) in shares.iter_mut().zip(lengths) {
        if left > 0 && *share < *length {
            *share += 1;
            left -= 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests;
