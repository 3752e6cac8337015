//! Which attempt of each job runs on this executor, and how it is ended. A job runs one attempt at a time: a newer one ends the one before it, also where the leader
//! that would have cancelled it is no more. A part that waits for others would otherwise wait for ever, and keep the state from the next.
use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet, hash_map::Entry},
};

use polybolos_streaming::ids::{Attempt, Generation, Incarnation, PartIndex};
use tokio_util::sync::CancellationToken;

/// The newest attempt of each incarnation that is known here. Attempts ascend within a generation.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    newest: HashMap<Incarnation, Running>,
}

type Number = (Generation, Attempt);

#[derive(Debug)]
struct Running {
    number: Number,
    token: CancellationToken,
    /// Parts that trade rows with others and have begun.
    begun: HashSet<PartIndex>,
}

impl Running {
    fn new(number: Number) -> Self {
        Self { number, token: CancellationToken::new(), begun: HashSet::new() }
    }
}

impl Attempts {
    /// The token of an attempt, which ends all before it; `None`: a newer one is known.
    pub fn admit(&mut self, incarnation: &Incarnation, generation: Generation, attempt: Attempt) -> Option<CancellationToken> {
        let this = (generation, attempt);
        match self.newest.entry(incarnation.clone()) {
            Entry::Vacant(entry) => Some(entry.insert(Running::new(this)).token.clone()),
            Entry::Occupied(mut entry) => {
                let newest = entry.get_mut();
                match this.cmp(&newest.number) {
                    Ordering::Less => None,
                    Ordering::Equal => Some(newest.token.clone()),
                    Ordering::Greater => {
                        newest.token.cancel();
                        *newest = Running::new(this);
                        Some(newest.token.clone())
                    }
                }
            }
        }
    }

    /// Whether a part of the newest attempt begins; false: it has begun before, or the attempt is no more the newest.
    pub fn begin(&mut self, incarnation: &Incarnation, generation: Generation, attempt: Attempt, part: PartIndex) -> bool {
        let newest = self.newest.get_mut(incarnation).filter(|newest| newest.number == (generation, attempt));
        newest.is_some_and(|newest| newest.begun.insert(part))
    }

    /// Ends an attempt; tasks of it that have not started yet find its token cancelled.
    pub fn cancel(&mut self, incarnation: &Incarnation, generation: Generation, attempt: Attempt) {
        if let Some(token) = self.admit(incarnation, generation, attempt) {
            token.cancel();
        }
    }

    /// Ends what leaders before this one began.
    pub fn follow(&mut self, generation: Generation) {
        self.newest.values().filter(|running| running.number.0 < generation).for_each(|running| running.token.cancel());
    }

    pub fn forget(&mut self, incarnation: &Incarnation) {
        if let Some(running) = self.newest.remove(incarnation) {
            running.token.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_attempt_ends_the_one_before_and_an_older_one_does_not_start() {
        let mut attempts = Attempts::default();
        let job = Incarnation::new("job");
        let of = |attempts: &mut Attempts, generation, attempt| attempts.admit(&job, Generation(generation), Attempt(attempt));
        let first = of(&mut attempts, 1, 7).expect("the first");
        assert!(!of(&mut attempts, 1, 7).expect("another part of it").is_cancelled());
        let second = of(&mut attempts, 1, 8).expect("a newer one");
        assert!(first.is_cancelled() && !second.is_cancelled());
        assert!(of(&mut attempts, 1, 7).is_none());
        // Another leader counts anew.
        let third = of(&mut attempts, 2, 1).expect("of a later generation");
        assert!(second.is_cancelled() && !third.is_cancelled() && of(&mut attempts, 1, 9).is_none());
        attempts.follow(Generation(2));
        assert!(!third.is_cancelled());
        attempts.follow(Generation(3));
        assert!(third.is_cancelled());
    }

    /// Ballista runs a task again that failed for the disk (EPOCHS rule 7).
    #[test]
    fn a_part_begins_once_in_an_attempt() {
        let mut attempts = Attempts::default();
        let job = Incarnation::new("job");
        let mut begin = |attempt, part| {
            attempts.admit(&job, Generation(1), Attempt(attempt));
            attempts.begin(&job, Generation(1), Attempt(attempt), PartIndex(part))
        };
        assert!(begin(1, 0) && begin(1, 1));
        assert!(!begin(1, 0), "others may have taken rows of the first run");
        assert!(begin(2, 0));
        assert!(!begin(1, 2), "a newer attempt is here");
    }

    #[test]
    fn what_is_cancelled_before_it_starts_finds_that_out() {
        let mut attempts = Attempts::default();
        let job = Incarnation::new("job");
        attempts.cancel(&job, Generation(1), Attempt(2));
        assert!(attempts.admit(&job, Generation(1), Attempt(2)).expect("known").is_cancelled());
        let next = attempts.admit(&job, Generation(1), Attempt(3)).expect("the next");
        attempts.cancel(&job, Generation(1), Attempt(2));
        assert!(!next.is_cancelled());
        attempts.forget(&job);
        assert!(next.is_cancelled() && !attempts.admit(&job, Generation(1), Attempt(1)).expect("anew").is_cancelled());
    }
}
