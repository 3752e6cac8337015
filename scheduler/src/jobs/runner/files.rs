//! Files of an incarnation on the store: which ones savepoints keep, what earlier leaders left behind, and deleting what nobody needs.
use std::time::{Duration, SystemTime};

use polybolos_persist::{Entry, keys};
use polybolos_streaming::coordinator::Event;

use super::Runner;

/// More of what earlier leaders left behind goes when the job is taken over again.
const LEFT_BEHIND_MAX: usize = 20_000;

/// Between two tries to list the savepoints.
const LIST_AGAIN: Duration = Duration::from_secs(5);

impl Runner {
    /// Tells the coordinator which files savepoints name; until it knows, nothing is deleted. Then what earlier leaders left.
    pub(super) fn list_savepoints(&self) {
        let (savepoints, job, answers) = (self.context.savepoints.clone(), self.spec.name.clone(), self.answers.clone());
        let (store, prefix) = (self.context.store.clone(), keys::parts_of(&self.incarnation));
        let retention = Duration::from_micros(self.spec.config.file_retention_us);
        self.tasks.spawn(async move {
            loop {
                let changing = savepoints.changing().await;
                match savepoints.refresh().await {
                    Ok(()) => {
                        let _ = answers.send(Event::Pinned { names: savepoints.files_of(&job) }).await;
                        break;
                    }
                    Err(error) => tracing::warn!(%job, %error, "savepoints cannot be listed; no files are deleted meanwhile"),
                }
                drop(changing);
                tokio::select! {
                    () = answers.closed() => return,
                    () = tokio::time::sleep(LIST_AGAIN) => {}
                }
            }
            match store.list(&prefix).await {
                Ok(entries) => {
                    let names = left_behind(entries, SystemTime::now(), retention);
                    let _ = answers.send(Event::LeftBehind { names }).await;
                }
                Err(error) => tracing::debug!(%job, %error, "what earlier leaders left behind is not known, and takes room"),
            }
        });
    }

    pub(super) fn delete(&self, names: Vec<String>) {
        let store = self.context.store.clone();
        self.tasks.spawn(async move {
            if let Err(error) = store.delete(&names).await {
                tracing::warn!(%error, files = names.len(), "old part files could not be deleted; they only take room");
            }
        });
    }

    /// The incarnation's manifest stays as its tombstone; its part files go, but for those that savepoints name. What is still being written
    /// goes later ([`crate::jobs::leftovers`]).
    pub(super) fn end_incarnation(&self) {
        let (store, chronicler) = (self.context.store.clone(), self.chronicler.clone());
        self.tasks.spawn(async move { chronicler.remove().await });
        let Some(pinned) = self.coordinator.pinned().cloned() else {
            tracing::warn!(job = %self.spec.name, "the savepoints are not known; part files of the dropped job take room for some hours");
            return;
        };
        let prefix = keys::parts_of(&self.incarnation);
        self.tasks.spawn(async move {
            let names = match store.list(&prefix).await {
                Ok(entries) => entries.into_iter().map(|entry| entry.key).filter(|name| !pinned.contains(name)).collect::<Vec<_>>(),
                Err(error) => {
                    tracing::warn!(%error, "part files of a dropped job could not be listed; they take room for some hours");
                    return;
                }
            };
            if let Err(error) = store.delete(&names).await {
                tracing::warn!(%error, "part files of a dropped job could not be deleted; they take room for some hours");
            }
        });
    }
}

/// Files of an incarnation that are older than the lead of whoever just took it over, by so much that no clock is wrong by it.
fn left_behind(entries: Vec<Entry>, now: SystemTime, retention: Duration) -> Vec<String> {
    let is_old = |entry: &Entry| now.duration_since(entry.modified).is_ok_and(|age| age > retention);
    entries.into_iter().filter(is_old).map(|entry| entry.key).take(LEFT_BEHIND_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_behind_is_older_than_any_clock_is_wrong() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let entry = |key: &str, modified: SystemTime| Entry { key: key.into(), bytes: 1, modified };
        let entries = vec![
            entry("of now", now),
            entry("of an hour ago", now - hour),
            entry("older", now - 2 * hour),
            entry("of a clock that is ahead", now + 2 * hour),
        ];
        assert_eq!(left_behind(entries, now, hour), ["older"]);
        let many = (0..=LEFT_BEHIND_MAX).map(|number| entry(&number.to_string(), now - 2 * hour)).collect();
        assert_eq!(left_behind(many, now, hour).len(), LEFT_BEHIND_MAX);
    }
}
