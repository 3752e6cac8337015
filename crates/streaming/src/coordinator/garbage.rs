//! Files that nobody names any more, and when they may go (EPOCHS rule 4). Kept in memory only: what a crash forgets, or what exceeds the bound, is
//! found when the next coordinator takes the job over ([`Event::LeftBehind`](super::Event::LeftBehind)).
use std::collections::VecDeque;

/// Names held for deletion at most; about ten megabytes.
const MAX_NAMES: usize = 100_000;

/// Deletions are gathered into this many batches per retention time, so that an idle job is not woken for each file.
const BATCHES: u64 = 60;

#[derive(Debug, Default)]
pub(super) struct Garbage {
    /// Due times ascend.
    batches: VecDeque<(u64, Vec<String>)>,
    names: usize,
}

impl Garbage {
    pub fn add(&mut self, now_us: u64, retention_us: u64, name: &str) {
        if name.is_empty() || self.names >= MAX_NAMES {
            return;
        }
        let grain_us = (retention_us / BATCHES).max(1);
        let due_us = (now_us + retention_us).div_ceil(grain_us) * grain_us;
        self.names += 1;
        match self.batches.back_mut() {
            Some((last_us, names)) if *last_us >= due_us => names.push(name.to_owned()),
            _ => self.batches.push_back((due_us, vec![name.to_owned()])),
        }
    }

    /// What may be deleted now.
    pub fn take_due(&mut self, now_us: u64) -> Vec<String> {
        let mut due = Vec::new();
        while let Some((_, names)) = self.batches.pop_front_if(|(due_us, _)| *due_us <= now_us) {
            self.names -= names.len();
            due.extend(names);
        }
        due
    }

    pub fn wakeup_us(&self) -> Option<u64> {
        self.batches.front().map(|(due_us, _)| *due_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_after_the_retention_time_and_in_batches() {
        let mut garbage = Garbage::default();
        for now in 0..100 {
            garbage.add(now, 6_000, &format!("file-{now}"));
        }
        garbage.add(0, 6_000, "");
        assert!(garbage.take_due(5_999).is_empty());
        assert_eq!(garbage.take_due(6_000), ["file-0"]);
        assert_eq!(garbage.wakeup_us(), Some(6_100));
        assert_eq!(garbage.take_due(6_100).len(), 99);
        assert_eq!(garbage.wakeup_us(), None);
    }
}
