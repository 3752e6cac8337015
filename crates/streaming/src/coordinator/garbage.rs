//! Files that nobody names any more, and when they may go (EPOCHS rule 4). Kept in memory only: what a crash forgets, or what exceeds the bound, is
//! found when the next coordinator takes the job over ([`Event::LeftBehind`](super::Event::LeftBehind)).
use std::collections::{BTreeSet, HashSet, VecDeque};

use super::{Action, JobCoordinator, Now, Rule, attempt::Running};
use crate::manifest::Manifest;

/// Names held for deletion at most; about ten megabytes.
const MAX_NAMES: usize = 100_000;

/// Deletions are gathered into this many batches per retention time, so that an idle job is not woken for each file.
const BATCHES: u64 = 60;

/// Names per [`Action::DeleteFiles`].
const DELETE_BATCH: usize = 1_000;

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

impl JobCoordinator {
    pub(super) fn delete_garbage(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(pinned) = &self.pinned else { return };
        let mut names = self.garbage.take_due(now.monotonic_us);
        if !self.config.lacks(Rule::SavepointsPin) {
            // They come back when no savepoint names them any more.
            names.retain(|name| !pinned.contains(name));
        }
        if names.is_empty() {
            return;
        }
        // Nothing gets here that is still named; a mistake would lose data, so it is asked once more.
        let named: HashSet<&str> = self.named_files().collect();
        names.retain(|name| !named.contains(name.as_str()));
        if let Some(running) = &self.running {
            // Runs that were merged while an attempt reads them.
            let (read, free): (Vec<String>, Vec<String>) = names.into_iter().partition(|name| running.state_files.contains(name));
            names = free;
            for name in read {
                self.garbage.add(now.monotonic_us, self.config.file_retention_us, &name);
            }
        }
        for names in names.chunks(DELETE_BATCH) {
            actions.push(Action::DeleteFiles { names: names.to_vec() });
        }
    }

    pub(super) fn files_of<'a>(&self, manifest: &'a Manifest) -> impl Iterator<Item = &'a str> + use<'a> {
        let state = if self.config.lacks(Rule::StateOutlivesPublishing) { &[] } else { manifest.state.as_slice() };
        manifest.files().map(|file| file.name.as_str()).chain(state.iter().map(|run| run.name.as_str()))
    }

    fn named_files(&self) -> impl Iterator<Item = &str> {
        let in_flight = self.swap.iter().flat_map(|swap| self.files_of(&swap.manifest));
        let computed = self.computed.iter().flat_map(|computed| computed.reports.iter().map(|report| report.file.name.as_str()));
        let refused = self.publishing.refused_files().map(|file| file.name.as_str());
        let running = self.running.iter().flat_map(Running::file_names);
        let of_manifests = self.files_of(&self.manifest).chain(in_flight);
        of_manifests.chain(running).chain(computed).chain(refused).chain(self.compaction.file_name())
    }

    pub(super) fn add_stray(&mut self, name: &str, now: Now) {
        if !self.named_files().any(|named| named == name) {
            self.garbage.add(now.monotonic_us, self.config.file_retention_us, name);
        }
    }

    pub(super) fn on_left_behind(&mut self, mut names: Vec<String>, now: Now) {
        let named: HashSet<&str> = self.named_files().collect();
        names.retain(|name| !named.contains(name.as_str()));
        for name in names {
            self.garbage.add(now.monotonic_us, self.config.file_retention_us, &name);
        }
    }

    /// What is released by the last savepoint that named it goes like any other file that nobody names.
    pub(super) fn on_pinned(&mut self, names: BTreeSet<String>, now: Now) {
        let before = self.pinned.replace(names).unwrap_or_default();
        for name in before {
            if self.pinned.as_ref().is_some_and(|pinned| !pinned.contains(&name)) {
                self.add_stray(&name, now);
            }
        }
    }

    /// Files that savepoints name, as far as they were told.
    pub fn pinned(&self) -> Option<&BTreeSet<String>> {
        self.pinned.as_ref()
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
