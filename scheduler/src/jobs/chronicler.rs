//! Keeps what a job went through on the store, beside its manifest, for the leader after this one. Best effort: the job never waits for it, and goes on
//! without. Written seconds after something happened, by who leads: what another leader has written meanwhile is taken in, and one that a later
//! leader has followed writes no more. A job that rests writes nothing.
use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use polybolos_persist::{Expected, Store, StoreError, Swap, Version, envelope, keys};
use polybolos_streaming::ids::Incarnation;
use tokio::time::{Instant, timeout};

use super::{
    chronicle::{Beginning, Chronicle, JobEvent},
    history::{Changes, History},
};

const KIND: &str = "history";

/// Between two writes of epochs, and after a failure.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// A store that takes longer is asked again later; a leader that ends, or a statement, waits so long at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// Another leader may write in between, once or twice before it knows that it does not lead.
const TRIES: usize = 3;

#[derive(Debug)]
pub struct Chronicler {
    store: Arc<dyn Store>,
    key: String,
    found: Beginning,
    kept: tokio::sync::Mutex<Kept>,
}

/// What is known of the object on the store.
#[derive(Debug, Default)]
struct Kept {
    is_read: bool,
    /// As it was read or written last.
    version: Option<Version>,
    /// The changes that it has.
    changes: u64,
    tried_at: Option<Instant>,
    has_failed: bool,
    /// Somebody else writes it now, or nobody shall.
    is_over: bool,
}

impl Kept {
    fn is_due(&self, changes: Changes) -> bool {
        let rests = self.tried_at.is_some_and(|at| at.elapsed() < KEEP_EVERY);
        let waits = rests && (self.has_failed || changes.urgent <= self.changes);
        !self.is_over && !waits && (!self.is_read || changes.all > self.changes)
    }
}

impl Chronicler {
    pub fn new(store: Arc<dyn Store>, incarnation: &Incarnation, found: Beginning) -> Self {
        Self { store, key: keys::history(incarnation), found, kept: tokio::sync::Mutex::default() }
    }

    /// Whether there is something to read or to write now.
    pub fn is_due(&self, changes: Changes) -> bool {
        // One at a time; what happens meanwhile is part of the next.
        self.kept.try_lock().is_ok_and(|kept| kept.is_due(changes))
    }

    /// Reads what there is, the first time, and writes later. To be called when the job is this leader's by its manifest.
    pub async fn keep(&self, history: &Mutex<History>) {
        let Ok(mut kept) = self.kept.try_lock() else { return };
        kept.tried_at = Some(Instant::now());
        let work = async { if kept.is_read { self.write(&mut kept, history).await } else { self.read(&mut kept, history).await } };
        let outcome = timeout(PATIENCE, work).await;
        kept.has_failed = !matches!(outcome, Ok(Ok(())));
        if let Ok(Err(error)) = outcome {
            tracing::debug!(key = %self.key, %error, "a job's history is not kept; tried again");
        }
    }

    /// Writes what there is to write, as this leader ends or the loop does.
    pub async fn end(&self, history: &Mutex<History>) {
        match timeout(PATIENCE, self.write_all(history)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(key = %self.key, %error, "the end of a job's history is lost"),
            Err(_) => tracing::debug!(key = %self.key, "the end of a job's history is lost: the store does not answer"),
        }
    }

    /// The incarnation has ended; what was written after all goes later ([`super::leftovers`]).
    pub async fn remove(&self) {
        let mut kept = self.kept.lock().await;
        kept.is_over = true;
        if let Err(error) = self.store.delete(std::slice::from_ref(&self.key)).await {
            tracing::debug!(key = %self.key, %error, "the history of a dropped job takes room for some hours");
        }
    }

    async fn write_all(&self, history: &Mutex<History>) -> Result<(), StoreError> {
        let mut kept = self.kept.lock().await;
        if !kept.is_read {
            self.read(&mut kept, history).await?;
        }
        self.write(&mut kept, history).await
    }

    async fn read(&self, kept: &mut Kept, history: &Mutex<History>) -> Result<(), StoreError> {
        let (earlier, version) = match self.store.get(&self.key).await {
            Ok(Some((bytes, version))) => (decode(&self.key, &bytes), Some(version)),
            Ok(None) => (Chronicle::default(), None),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!(%error, "a job's history is left alone");
                kept.is_over = true;
                (Chronicle::default(), None)
            }
            Err(error) => return Err(error),
        };
        kept.version = version;
        if earlier.generation() > self.found.generation {
            kept.is_over = true;
            return Ok(());
        }
        history.lock().remember(earlier, (!kept.is_read).then_some(&self.found));
        kept.is_read = true;
        Ok(())
    }

    async fn write(&self, kept: &mut Kept, history: &Mutex<History>) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let (chronicle, changes) = {
                let history = history.lock();
                (history.chronicle(), history.changes().all)
            };
            if kept.is_over || changes == kept.changes {
                return Ok(());
            }
            let expected = kept.version.clone().map_or(Expected::Absent, Expected::Version);
            match self.store.put_if(&self.key, envelope::encode(KIND, &chronicle)?, expected).await? {
                Swap::Stored(version) => {
                    (kept.version, kept.changes) = (Some(version), changes);
                    return Ok(());
                }
                // Of a leader before this one, or of this one, whose answer was lost.
                Swap::Conflict => self.read(kept, history).await?,
            }
        }
        Ok(())
    }
}

/// Of a version that this one does not know, or damaged: nothing, and the next write takes its place.
fn decode(key: &str, bytes: &[u8]) -> Chronicle {
    envelope::decode(key, KIND, bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, "what a job went through under earlier leaders cannot be read, and is left out");
        Chronicle::default()
    })
}

/// What an incarnation that does not run here went through, as far as it can be read.
pub async fn load(store: &dyn Store, incarnation: &Incarnation) -> Chronicle {
    let key = keys::history(incarnation);
    match timeout(PATIENCE, store.get(&key)).await {
        Ok(Ok(Some((bytes, _)))) => decode(&key, &bytes),
        _ => Chronicle::default(),
    }
}

/// Has a new incarnation begin with what the one before it went through.
pub async fn begin(store: &dyn Store, incarnation: &Incarnation, events: Vec<JobEvent>) {
    let key = keys::history(incarnation);
    match timeout(PATIENCE, create(store, &key, &Chronicle::new(events, vec![]))).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%key, %error, "the history of a restarted job begins anew"),
        Err(_) => tracing::debug!(%key, "the history of a restarted job begins anew: the store does not answer"),
    }
}

async fn create(store: &dyn Store, key: &str, chronicle: &Chronicle) -> Result<Swap, StoreError> {
    store.put_if(key, envelope::encode(KIND, chronicle)?, Expected::Absent).await
}

#[cfg(test)]
mod tests {
    use polybolos_persist::LocalStore;
    use polybolos_streaming::{
        ids::{Epoch, Generation},
        manifest::Life,
    };

    use super::*;
    use crate::jobs::chronicle::EventKind;

    /// A leader's loop of a job.
    struct Leader {
        generation: Generation,
        chronicler: Chronicler,
        history: Mutex<History>,
    }

    impl Leader {
        fn new(store: &Arc<dyn Store>, generation: u64, earlier: u64) -> Self {
            let (generation, earlier) = (Generation(generation), Generation(earlier));
            let found = Beginning { generation, earlier, at_us: 1, epoch: Epoch(0), life: Life::Running, recorded_at_us: 0 };
            let chronicler = Chronicler::new(store.clone(), &Incarnation::new("j"), found);
            Self { generation, chronicler, history: Mutex::new(History::of(generation)) }
        }

        fn note(&self, at_us: i64, kind: EventKind) {
            self.history.lock().note(JobEvent::new(self.generation, at_us, kind, Epoch(0), ""));
        }

        fn is_due(&self) -> bool {
            let changes = self.history.lock().changes();
            self.chronicler.is_due(changes)
        }

        /// As the job's loop does each second.
        async fn tick(&self) {
            if self.is_due() {
                self.chronicler.keep(&self.history).await;
            }
        }

        fn tells(&self) -> Vec<(u64, &'static str)> {
            self.history.lock().events().iter().map(|event| (event.generation.0, event.kind.name())).collect()
        }
    }

    async fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
        Arc::new(LocalStore::open(folder.path().join("store")).await.expect("a store"))
    }

    #[tokio::test]
    async fn the_next_leader_tells_what_the_one_before_it_saw_and_that_one_writes_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        let first = Leader::new(&store, 1, 0);
        first.tick().await;
        assert!(!first.is_due(), "that it began can wait");
        first.note(5, EventKind::Paused);
        first.tick().await;
        assert!(!first.is_due());
        first.note(6, EventKind::Trouble);
        assert!(!first.is_due(), "troubles can wait, too");

        let second = Leader::new(&store, 2, 1);
        second.tick().await;
        assert_eq!(second.tells(), [(1, "created"), (1, "paused"), (2, "taken_over")]);
        // The first one does not know yet, and writes once more.
        first.note(7, EventKind::Resumed);
        first.tick().await;
        second.note(3, EventKind::Stopped);
        second.tick().await;
        let told: [(u64, &str); 6] =
            [(1, "created"), (1, "paused"), (1, "trouble"), (1, "resumed"), (2, "taken_over"), (2, "stopped")];
        assert_eq!(second.tells(), told);
        first.note(8, EventKind::Failed);
        first.chronicler.end(&first.history).await;
        first.note(9, EventKind::Resumed);
        assert!(!first.is_due(), "it is over");

        let third = Leader::new(&store, 3, 2);
        third.chronicler.end(&third.history).await;
        assert_eq!(third.tells(), [&told[..], &[(3, "taken_over")]].concat());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_left_out_and_what_has_ended_is_not_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        let incarnation = Incarnation::new("j");
        let key = keys::history(&incarnation);
        store.put_if(&key, "polybolos-history 99 0\n{}\n".into(), Expected::Absent).await.expect("stored");
        let leader = Leader::new(&store, 2, 1);
        leader.chronicler.end(&leader.history).await;
        assert_eq!(leader.tells(), [(2, "taken_over")]);
        assert_eq!(load(&*store, &incarnation).await.events().len(), 1, "it is written anew");

        leader.chronicler.remove().await;
        leader.note(5, EventKind::Paused);
        leader.tick().await;
        leader.chronicler.end(&leader.history).await;
        assert!(store.get(&key).await.expect("read").is_none());

        // A restart hands on what happened.
        let mut events = leader.history.lock().events().to_vec();
        events.push(JobEvent::new(Generation(2), 6, EventKind::Restarted, Epoch(0), ""));
        begin(&*store, &incarnation, events).await;
        let again = Leader::new(&store, 2, 0);
        again.tick().await;
        assert_eq!(again.tells(), [(2, "taken_over"), (2, "paused"), (2, "restarted")]);
    }
}
