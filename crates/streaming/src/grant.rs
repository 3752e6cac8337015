//! A publisher's leave to write (EPOCHS rule 6). The leader answers a publisher's beat with a grant; it lasts from the moment the publisher *asked*, by the
//! publisher's own monotonic clock, so that it ends there no later than [`GRANT_US`] after the leader answered, however long the answer travelled or
//! the process slept.

/// How long a grant lasts.
pub const GRANT_US: u64 = 2_000_000;

/// The publisher's side. Check [`Grant::allows`] before every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    until_us: u64,
}

impl Grant {
    /// A grant was answered to the beat that was sent at `asked_us`. Answers out of order never shorten a grant.
    pub fn renew(&mut self, asked_us: u64) {
        self.until_us = self.until_us.max(asked_us.saturating_add(GRANT_US));
    }

    /// Taken back at once.
    pub fn revoke(&mut self) {
        self.until_us = 0;
    }

    pub fn allows(&self, now_us: u64) -> bool {
        now_us < self.until_us
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_granted_at_first_and_nothing_after_a_revocation() {
        let mut grant = Grant::default();
        assert!(!grant.allows(0));
        grant.renew(10);
        assert!(grant.allows(10) && grant.allows(9 + GRANT_US) && !grant.allows(10 + GRANT_US));
        grant.revoke();
        assert!(!grant.allows(11));
    }

    proptest! {
        /// Asked at `asked`, answered `there` later, received `back` later still: once the leader counts the grant as run out, the publisher does too.
        #[test]
        fn a_publisher_stops_before_the_leader_counts_on_it(beats in prop::collection::vec((0u64..10_000_000, 0u64..5_000_000, 0u64..5_000_000), 1..20), probe in 0u64..30_000_000) {
            let mut grant = Grant::default();
            let mut last_answer: Option<u64> = None;
            for (asked, there, back) in beats {
                if asked + there <= probe {
                    last_answer = last_answer.max(Some(asked + there));
                    if asked + there + back <= probe {
                        grant.renew(asked);
                    }
                }
            }
            if last_answer.is_none_or(|answered| probe >= answered + GRANT_US) {
                prop_assert!(!grant.allows(probe));
            }
        }
    }
}
