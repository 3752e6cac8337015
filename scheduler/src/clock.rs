//! The leader's clocks: a monotonic one, and a wall clock that runs with it and is anchored to the store's. It never goes back, so that write
//! timestamps do not while this process leads; it goes forward when the store's clock is ahead, as it is after this machine slept (EPOCHS
//! rule 12). A node of the store that is far ahead of most moves nothing: the clock would keep its error.
mod looks;

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use polybolos_streaming::coordinator::Now;
use polybolos_tables::{NodeTime, TableBackend};

use self::looks::{KEPT_US, Looks, Verdict};

/// How often the store is asked. Each answer is late by its way here, so the clocks only ever differ by the best of those ways.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A store that does not answer by then is asked again later.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is told: smaller steps are those of clocks that are kept in time.
const LEAP_US: i64 = 1_000_000;
/// How often it is asked at once when a node's time is far ahead. Whichever node has the time answers: that so many answers are one node's, of several, is rare.
const MOST_ANSWERS: usize = 9;

#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    wall_us_at_origin: AtomicI64,
}

/// A node's time, and when it was told.
#[derive(Debug)]
struct Told {
    node: String,
    /// What the wall clock would have been when the monotonic one was zero.
    anchor_us: i64,
}

impl Clock {
    /// As most of the store's nodes tell the time; as this machine does while the store cannot be asked.
    pub async fn anchored(store: &dyn TableBackend) -> Self {
        let clock = Self::starting_at(machine_us());
        let mut looks = Looks::default();
        match clock.look(store, &mut looks).await {
            Ok(_) => Self::starting_at(machine_us() + looks.middle_us()),
            Err(error) => {
                tracing::warn!(error, "the store's clock cannot be read; going by this machine's until it can");
                clock
            }
        }
    }

    fn starting_at(wall_us: i64) -> Self {
        Self { origin: Instant::now(), wall_us_at_origin: AtomicI64::new(wall_us) }
    }

    /// Goes along with the store's clock until it is dropped.
    pub async fn follow(&self, store: &dyn TableBackend) {
        let mut looks = Looks::default();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Whoever needs the store now says that it is away.
            if let Ok(told) = self.look(store, &mut looks).await {
                self.judge(&mut looks, &told);
            }
        }
    }

    /// What the store tells: one answer, or more where that is far ahead, for other nodes to tell theirs.
    async fn look(&self, store: &dyn TableBackend, looks: &mut Looks) -> Result<Vec<Told>, String> {
        let mut told = Vec::new();
        while told.len() < MOST_ANSWERS {
            let answer = match ask(store).await {
                Ok(answer) => answer,
                Err(error) if told.is_empty() => return Err(error),
                Err(_) => break,
            };
            let (answered, is_far) = self.take(looks, answer, machine_us());
            told.push(answered);
            if !is_far {
                break;
            }
        }
        Ok(told)
    }

    /// Takes an answer down; whether it is far ahead of this clock.
    fn take(&self, looks: &mut Looks, answer: NodeTime, machine_us: i64) -> (Told, bool) {
        let elapsed = self.elapsed_us();
        looks.add(&answer.node, answer.at_us - machine_us, elapsed);
        let anchor_us = answer.at_us - elapsed as i64;
        let is_far = anchor_us - self.wall_us_at_origin.load(Ordering::Acquire) > KEPT_US;
        (Told { node: answer.node, anchor_us }, is_far)
    }

    /// Follows the answers that are to be believed.
    fn judge(&self, looks: &mut Looks, told: &[Told]) {
        for Told { node, anchor_us } in told {
            match looks.judge(node) {
                Verdict::Follow => self.catch_up(*anchor_us),
                Verdict::Refuse { ahead_us, is_news: true } => tracing::warn!(
                    node,
                    ahead_s = ahead_us / 1_000_000,
                    "this node of the table store has a clock that is ahead of the others', and is not followed; set it, by NTP or its like"
                ),
                Verdict::Refuse { is_news: false, .. } => {}
            }
        }
    }

    /// Goes forward to the store's time, if that is ahead.
    fn catch_up(&self, anchor_us: i64) {
        let before = self.wall_us_at_origin.fetch_max(anchor_us, Ordering::AcqRel);
        if anchor_us - before > LEAP_US {
            tracing::warn!(ahead_ms = (anchor_us - before) / 1_000, "the store's clock was ahead; this machine may have slept");
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

fn machine_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64
}

async fn ask(store: &dyn TableBackend) -> Result<NodeTime, String> {
    match tokio::time::timeout(PATIENCE, store.node_time()).await {
        Ok(told) => told.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {PATIENCE:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    /// A clock that follows answers, this machine's clock being at `machine_us`.
    fn told(clock: &Clock, looks: &mut Looks, machine_us: i64, answers: &[(&str, i64)]) -> Now {
        let answer = |(node, at_us): &(&str, i64)| NodeTime { node: (*node).to_owned(), at_us: *at_us };
        let told: Vec<Told> = answers.iter().map(|told| clock.take(looks, answer(told), machine_us).0).collect();
        clock.judge(looks, &told);
        clock.now()
    }

    #[test]
    fn a_wall_clock_follows_the_stores_forward_and_never_back() {
        let clock = Clock::starting_at(10 * HOUR_US);
        let mut looks = Looks::default();
        let first = clock.now();
        let second = told(&clock, &mut looks, 10 * HOUR_US, &[("a", 9 * HOUR_US)]);
        assert!(second.wall_us >= first.wall_us, "the store's clock went back");
        assert!(second.wall_us < 10 * HOUR_US + HOUR_US / 2);
        // The machine slept: its monotonic clock stood still, the store's went on.
        let third = told(&clock, &mut looks, 18 * HOUR_US, &[("a", 18 * HOUR_US)]);
        assert!(third.wall_us >= 18 * HOUR_US, "{third:?}");
        assert!(third.monotonic_us < HOUR_US as u64, "only the wall clock moves");
    }

    #[test]
    fn one_nodes_wrong_clock_does_not_move_the_leaders() {
        let clock = Clock::starting_at(10 * HOUR_US);
        let mut looks = Looks::default();
        for answers in
            [&[("a", 30 * HOUR_US), ("b", 10 * HOUR_US)] as &[(&str, i64)], &[("a", 30 * HOUR_US)], &[("c", 10 * HOUR_US)]]
        {
            let now = told(&clock, &mut looks, 10 * HOUR_US, answers);
            assert!(now.wall_us < 11 * HOUR_US, "{answers:?}: {now:?}");
        }
        // All of them are ahead, and it is this machine that is wrong.
        let answers = [("a", 30 * HOUR_US), ("b", 30 * HOUR_US), ("c", 30 * HOUR_US)];
        assert!(told(&clock, &mut looks, 10 * HOUR_US, &answers).wall_us >= 30 * HOUR_US);
    }

    #[test]
    fn only_what_is_far_ahead_is_asked_about_again() {
        let clock = Clock::starting_at(10 * HOUR_US);
        let is_far = |at_us| clock.take(&mut Looks::default(), NodeTime { node: "a".to_owned(), at_us }, 10 * HOUR_US).1;
        assert!(!is_far(9 * HOUR_US) && !is_far(10 * HOUR_US) && is_far(11 * HOUR_US));
    }
}
