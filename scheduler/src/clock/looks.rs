//! What the nodes of the table store told of the time. Each has a clock of its own, and one of them may be wrong: that it is far ahead is believed when it is
//! not ahead of most. Their times are compared with this machine's clock, which need not be right, as it is the same for all of them.
use std::collections::BTreeMap;

/// Clocks that are kept in time differ by less.
pub const KEPT_US: i64 = 60_000_000;

/// A node that told nothing for so long counts no more.
const FORGOTTEN_AFTER_US: u64 = 120_000_000;

#[derive(Debug, Default)]
pub struct Looks {
    nodes: BTreeMap<String, Look>,
}

#[derive(Debug)]
struct Look {
    /// Of this machine's clock.
    ahead_us: i64,
    /// By the monotonic clock.
    at_us: u64,
    is_refused: bool,
}

/// What is to be made of a node's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Follow,
    /// It is so far ahead of most.
    Refuse {
        ahead_us: i64,
        is_news: bool,
    },
}

impl Looks {
    pub fn add(&mut self, node: &str, ahead_us: i64, at_us: u64) {
        self.nodes.retain(|_, look| at_us.saturating_sub(look.at_us) < FORGOTTEN_AFTER_US);
        let is_refused = self.nodes.get(node).is_some_and(|look| look.is_refused);
        self.nodes.insert(node.to_owned(), Look { ahead_us, at_us, is_refused });
    }

    /// How far ahead of this machine's clock at least half of them are. Where they are even in number, this machine counts too: one of two nodes that is
    /// wrong, whichever way, is not most of them.
    pub fn middle_us(&self) -> i64 {
        let mut ahead: Vec<i64> = self.nodes.values().map(|look| look.ahead_us).collect();
        if ahead.len().is_multiple_of(2) {
            ahead.push(0);
        }
        ahead.sort_unstable();
        ahead[ahead.len() / 2]
    }

    pub fn judge(&mut self, node: &str) -> Verdict {
        let middle_us = self.middle_us();
        let Some(look) = self.nodes.get_mut(node) else { return Verdict::Follow };
        let ahead_us = look.ahead_us - middle_us;
        let was_refused = std::mem::replace(&mut look.is_refused, ahead_us > KEPT_US);
        match look.is_refused {
            true => Verdict::Refuse { ahead_us, is_news: !was_refused },
            false => Verdict::Follow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn looks(ahead_us: &[i64]) -> Looks {
        let mut looks = Looks::default();
        for (node, ahead_us) in ["a", "b", "c", "d"].iter().zip(ahead_us) {
            looks.add(node, *ahead_us, 1);
        }
        looks
    }

    #[test]
    fn a_node_that_is_far_ahead_of_most_is_refused() {
        for others in [&[0_i64] as &[i64], &[0, 0], &[-5, 7], &[0, 0, 9], &[-HOUR_US, 0]] {
            let all: Vec<i64> = [HOUR_US].iter().chain(others).copied().collect();
            let mut looks = looks(&all);
            assert!(matches!(looks.judge("a"), Verdict::Refuse { is_news: true, .. }), "{all:?}");
            assert!(matches!(looks.judge("a"), Verdict::Refuse { is_news: false, .. }), "it is told once: {all:?}");
            assert_eq!(looks.judge("b"), Verdict::Follow, "{all:?}");
        }
    }

    #[test]
    fn what_most_tell_is_followed_wherever_this_machines_clock_is() {
        for all in [
            &[HOUR_US] as &[i64],
            &[HOUR_US, HOUR_US],
            &[HOUR_US, HOUR_US, 0],
            &[HOUR_US, HOUR_US + KEPT_US, HOUR_US],
            &[0, -HOUR_US],
            &[-HOUR_US, -HOUR_US, -HOUR_US],
        ] {
            assert_eq!(looks(all).judge("a"), Verdict::Follow, "{all:?}");
            assert_eq!(looks(all).judge("b"), Verdict::Follow, "{all:?}");
        }
    }

    #[test]
    fn a_node_that_is_gone_is_forgotten_and_one_that_is_set_right_is_followed() {
        let mut looks = looks(&[HOUR_US, 0, 0]);
        assert!(matches!(looks.judge("a"), Verdict::Refuse { .. }));
        looks.add("a", 0, 2);
        assert_eq!(looks.judge("a"), Verdict::Follow);
        looks.add("a", HOUR_US, 1 + FORGOTTEN_AFTER_US);
        assert_eq!(looks.judge("a"), Verdict::Follow, "there is no other");
    }
}
