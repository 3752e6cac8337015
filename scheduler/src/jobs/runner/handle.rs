//! A running job, as the rest of the leader speaks to it: commands, snapshots of what is recorded, and holding it until it is at rest.
use std::{
    collections::BTreeSet,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use polybolos_streaming::{
    coordinator::{Command, Event},
    ids::Attempt,
    manifest::Manifest,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Hold, JobHandle, Request, View};
use crate::jobs::{
    chronicle::JobEvent,
    history::History,
    latest::Latest,
    recording::{self, recorded},
};

/// For a job to write what it has recorded.
const REST_PATIENCE: Duration = Duration::from_secs(60);

impl JobHandle {
    /// Gives a command; once it is taken, its effect shows in the view.
    pub async fn command(&self, command: Command) -> anyhow::Result<()> {
        taken(&self.requests, command).await.ok_or_else(|| self.gone())
    }

    /// Waits until it is recorded what the job shall do, by the command that was taken last.
    pub async fn life_recorded(&self) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            outcome = recorded(self.shared.recording.subscribe()) => outcome.map_err(|why| {
                let (job, patience_s) = (&self.spec.name, recording::PATIENCE.as_secs());
                anyhow::anyhow!(
                    "job {job} obeys, but this is not recorded after {patience_s} s, and the next leader would not know of it: {why}; say it again when the store is back"
                )
            }),
            () = self.requests.closed() => Err(self.gone()),
        }
    }

    pub async fn tell(&self, event: Event) -> anyhow::Result<()> {
        self.requests.send(Request::Event(event)).await.map_err(|_| self.gone())
    }

    /// What is recorded, with its files kept beside those that are `pinned` already.
    pub async fn snapshot(&self, pinned: BTreeSet<String>) -> anyhow::Result<Manifest> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Snapshot { pinned, answer }).await.map_err(|_| self.gone())?;
        answered.await.map_err(|_| anyhow::anyhow!("job {} is being taken over at this moment; try again", self.spec.name))
    }

    /// Holds the job, and waits until it is at rest: what it is then.
    pub async fn at_rest(&self) -> anyhow::Result<(Hold, View)> {
        self.shared.holds.fetch_add(1, Ordering::SeqCst);
        let hold = Hold { shared: self.shared.clone(), requests: self.requests.clone() };
        self.tell(Event::Tick).await?;
        let deadline = Instant::now() + REST_PATIENCE;
        loop {
            if self.requests.is_closed() {
                return Err(self.gone());
            }
            let view = self.view();
            if view.is_at_rest {
                return Ok((hold, view));
            }
            if Instant::now() > deadline {
                let (job, patience_s) = (&self.spec.name, REST_PATIENCE.as_secs());
                anyhow::bail!("job {job} does not come to rest within {patience_s} s; its sink may be away");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the loop where it stands; the incarnation can be taken over again, from this attempt on.
    pub async fn end(&self) -> Attempt {
        self.stop.cancel();
        self.requests.closed().await;
        self.view().next_attempt
    }

    /// Cancelled when the loop is to end, by whom ever.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    fn gone(&self) -> anyhow::Error {
        anyhow::anyhow!("job {} is not running on this scheduler any more", self.spec.name)
    }

    pub fn view(&self) -> View {
        self.shared.view.read().clone()
    }

    pub fn with_history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.shared.history.lock())
    }

    /// Tells the history of what happened to the job from outside.
    pub fn note(&self, event: JobEvent) {
        self.shared.history.lock().note(event);
    }

    pub fn with_latest<T>(&self, look: impl FnOnce(&Latest) -> T) -> T {
        look(&self.shared.latest.lock())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.holds.fetch_sub(1, Ordering::SeqCst);
        // Where there is no room for it, the loop looks all the same.
        let _ = self.requests.try_send(Request::Event(Event::Tick));
    }
}

/// Waits until a command is taken; `None`: the loop ends, and may have missed it.
async fn taken(requests: &mpsc::Sender<Request>, command: Command) -> Option<()> {
    let (taken, is_taken) = oneshot::channel();
    requests.send(Request::Command { command, taken }).await.ok()?;
    is_taken.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_is_given_when_it_is_taken_and_not_when_it_waits() {
        let (requests, mut requested) = mpsc::channel(2);
        let gives = || {
            let requests = requests.clone();
            tokio::spawn(async move { taken(&requests, Command::Pause).await })
        };
        let (one, other) = (gives(), gives());
        let Some(Request::Command { command: Command::Pause, taken }) = requested.recv().await else { panic!("it is handed over") };
        tokio::task::yield_now().await;
        assert!(!one.is_finished() && !other.is_finished());
        taken.send(()).expect("it waits");
        // The loop ends, and has taken one of them.
        drop(requested);
        let mut given = [one.await.expect("ends"), other.await.expect("ends")];
        given.sort_unstable();
        assert_eq!(given, [None, Some(())]);
    }
}
