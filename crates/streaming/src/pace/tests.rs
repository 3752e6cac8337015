//! The pace is fair, bounded, and settles.
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::SourceId;

fn partition(partition: i32) -> SourcePartition {
    SourcePartition { source: SourceId(0), partition }
}

fn backlog(lengths: &[u64], bytes_per_record: u32) -> Vec<Backlog> {
    let offer = |(i, length): (usize, &u64)| Backlog {
        source: partition(i as i32),
        available: OffsetRange::new(7, 7 + *length as i64),
        bytes_per_record,
    };
    lengths.iter().enumerate().map(offer).collect()
}

fn pace(max_rows: u64, max_bytes: u64) -> Pace {
    Pace::new(PaceConfig { min_rows: 1, first_rows: max_rows, max_rows, max_bytes, ..PaceConfig::default() })
}

#[test]
fn small_backlogs_are_taken_whole() {
    let chosen = pace(100, u64::MAX).choose(&backlog(&[3, 0, 5], 10), None);
    assert_eq!(chosen, [(partition(0), OffsetRange::new(7, 10)), (partition(2), OffsetRange::new(7, 12))]);
}

#[test]
fn a_record_larger_than_the_bound_passes() {
    let chosen = pace(100, 1_000).choose(&backlog(&[9], 5_000), None);
    assert_eq!(chosen, [(partition(0), OffsetRange::new(7, 8))]);
}

#[test]
fn slow_publishing_makes_epochs_wait() {
    let pace = Pace::new(PaceConfig::default());
    assert_eq!(pace.interval_us(1, 400_000, false), 0);
    assert_eq!(pace.interval_us(3, 400_000, false), 800_000);
    assert_eq!(pace.interval_us(101, 0, true), 500_000);
}

proptest! {
    #[test]
    fn the_sum_is_the_bound_or_all_there_is(lengths in prop::collection::vec(0u64..500, 0..40), limit in 1u64..2_000) {
        let shares = fair_shares(limit, &lengths);
        prop_assert_eq!(shares.iter().sum::<u64>(), limit.min(lengths.iter().sum()));
        let least_of_the_cut = shares.iter().zip(&lengths).filter(|(share, length)| share < length).map(|(share, _)| *share).min();
        for (share, length) in shares.iter().zip(&lengths) {
            prop_assert!(share <= length);
            // Max-min: nobody has a row more than the least of those who wanted more.
            prop_assert!(least_of_the_cut.is_none_or(|least| *share <= least + 1));
        }
    }

    #[test]
    fn bytes_stay_within_the_bound(lengths in prop::collection::vec(1u64..500, 1..20), size in 1u32..100, max_bytes in 1u64..20_000) {
        let chosen = pace(1_000, max_bytes).choose(&backlog(&lengths, size), None);
        let rows: u64 = chosen.iter().map(|(_, range)| range.len()).sum();
        prop_assert!(rows == 1 || rows * u64::from(size) <= max_bytes);
        // And not far below: another row would exceed some bound.
        prop_assert!(rows == lengths.iter().sum::<u64>() || rows == 1_000 || (rows + 1) * u64::from(size) > max_bytes);
    }

    #[test]
    fn nobody_starves(lengths in prop::collection::vec(1u64..1_000, 1..30), limit in 1u64..40) {
        let mut pace = pace(limit, u64::MAX);
        let mut taken: BTreeMap<SourcePartition, u64> = BTreeMap::new();
        // As if as much arrived as was taken: everyone always has a backlog. Within `n` epochs everybody has had a turn.
        for _ in 0..lengths.len() {
            for (source, range) in pace.choose(&backlog(&lengths, 10), None) {
                *taken.entry(source).or_default() += range.len();
            }
        }
        prop_assert_eq!(taken.len(), lengths.len());
    }

    /// Under backlog, whatever a row costs, the limit settles: epochs take about as long as they should, or the limit is at a bound.
    #[test]
    fn the_limit_settles(nanos_per_row in 1u64..1_000_000, fixed_us in 0u64..50_000, record_us in 1u64..2_000_000) {
        let config = PaceConfig::default();
        let mut pace = Pace::new(config.clone());
        let duration = |rows: u64| fixed_us + rows * nanos_per_row / 1_000;
        let mut last = 0;
        for _ in 0..60 {
            last = pace.rows();
            pace.observe(Observed { rows: last, compute_us: duration(last), record_us, limited: true });
            prop_assert!(pace.rows() >= config.min_rows && pace.rows() <= config.max_rows);
        }
        prop_assert_eq!(pace.rows(), last, "still moving after sixty epochs");
        let epoch_us = duration(last) + record_us;
        let in_time = epoch_us >= 200_000.min(2 * record_us) && epoch_us <= 500_000.max(4 * record_us);
        prop_assert!(in_time || last == config.min_rows || last == config.max_rows, "{} rows take {} us", last, epoch_us);
    }

    /// A job that keeps up computes half of the time at most while its epochs are short; one under backlog never waits.
    #[test]
    fn short_epochs_are_followed_by_as_long_a_rest(epoch_us in 2u64..200_000, record_us in 1u64..2_000) {
        let config = PaceConfig::default();
        let mut pace = Pace::new(config.clone());
        prop_assert_eq!(pace.interval_us(0, 0, false), 0);
        let epoch = Observed { rows: 1, compute_us: epoch_us, record_us, limited: false };
        pace.observe(epoch);
        let took_us = epoch_us + record_us;
        prop_assert_eq!(pace.interval_us(0, 0, false), took_us + took_us.min(config.rest_us));
        prop_assert_eq!(pace.interval_us(0, 0, true), 0);
        pace.observe(Observed { limited: true, ..epoch });
        prop_assert_eq!(pace.interval_us(0, 0, false), 0);
    }

    /// Rows do not stand in line before a slow sink, which nevertheless never waits for more of them.
    #[test]
    fn a_slow_sink_has_the_next_epoch_and_no_more(compute_us in 1_000u64..500_000, times in 1u64..20) {
        let pace = Pace::new(PaceConfig { rest_us: 0, ..PaceConfig::default() });
        let publish_us = compute_us * times;
        let mut published_us = Vec::new();
        let mut now = 0;
        for _ in 0..50 {
            let submitted = now;
            now += compute_us;
            let idle = published_us.last().map_or(0, |last| now.saturating_sub(*last));
            prop_assert_eq!(idle, 0, "the sink waits");
            published_us.push(published_us.last().map_or(now, |last| now.max(*last)) + publish_us);
            loop {
                let waiting: Vec<u64> = published_us.iter().copied().filter(|end| *end > now).collect();
                prop_assert!(waiting.len() <= 3, "{} epochs in line", waiting.len());
                let due = submitted + pace.interval_us(waiting.len() as u64, publish_us, false);
                if due <= now {
                    break;
                }
                now = waiting.first().map_or(due, |next| due.min(*next));
            }
        }
    }

    /// Small epochs of a job that keeps up say nothing about how much fits: they never lower the limit.
    #[test]
    fn keeping_up_never_lowers_the_limit(rows in prop::collection::vec(1u64..100, 1..100)) {
        let mut pace = Pace::new(PaceConfig::default());
        for rows in rows {
            pace.observe(Observed { rows, compute_us: 30_000, record_us: 5_000, limited: false });
            prop_assert_eq!(pace.rows(), PaceConfig::default().first_rows);
        }
    }
}
