//! Carries out the election: reads and swaps the lease object, and tells when this process leads and when it must stop.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::RwLock;
use polybolos_persist::{Expected, Store, Swap, keys};
use polybolos_streaming::{
    ids::{Generation, Version},
    lease::{Election, LeaseAction, LeaseConfig, LeaseEvent, LeaseRecord, ReadAnswer, Role, WriteAnswer},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, control::other_machine};

/// What this process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Standby,
    Leader(Generation),
    /// It led, and may not any more: the process has to start anew.
    Deposed,
    /// It may not take over from the leader there is: why not, and what to change.
    Refused(String),
}

/// Where a scheduler is found.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// By executors: `host:port`.
    pub internal: String,
    /// By people: the console's URL; empty where nobody knows it.
    pub door: String,
}

/// The URL of a console that listens there. Of one that listens on every address, nobody knows by which it is reached.
pub fn door(scheme: &str, listens: SocketAddr) -> String {
    if listens.ip().is_unspecified() { String::new() } else { format!("{scheme}://{listens}") }
}

/// Runs one election to its end: until deposed, refused, or released because of `shutdown`. While another leads, `followed` says where.
pub async fn run(
    store: Arc<dyn Store>,
    clock: Arc<Clock>,
    config: LeaseConfig,
    addresses: Addresses,
    standing: watch::Sender<Standing>,
    followed: Arc<RwLock<Option<String>>>,
    shutdown: CancellationToken,
) {
    let holder = uuid::Uuid::new_v4().simple().to_string();
    let machine = polybolos_persist::machine_id();
    let mut election = Election::new(config, holder, addresses.internal).with_door(addresses.door).on_machine(machine);
    let mut before = None;
    let (answers, mut answered) = mpsc::channel(16);
    let mut actions = election.on_event(clock.now().monotonic_us, LeaseEvent::Tick);
    let mut releasing = false;
    let mut told: Option<Generation> = None;
    let unwritten = Arc::new(AtomicBool::new(false));
    loop {
        for action in actions {
            match action {
                LeaseAction::Read => {
                    let (store, answers) = (store.clone(), answers.clone());
                    tokio::spawn(async move {
                        let _ = answers.send(LeaseEvent::Read(read(&*store).await)).await;
                    });
                }
                LeaseAction::Write { expected, record } => {
                    let (store, answers, unwritten) = (store.clone(), answers.clone(), unwritten.clone());
                    tokio::spawn(async move {
                        let counter = record.counter;
                        let answer = write(&*store, expected, &record, &unwritten).await;
                        let _ = answers.send(LeaseEvent::Written { counter, answer }).await;
                    });
                }
                LeaseAction::Lead(generation) => {
                    standing.send_replace(Standing::Leader(generation));
                }
                LeaseAction::Deposed => {
                    standing.send_replace(Standing::Deposed);
                    return;
                }
                LeaseAction::Released => {
                    standing.send_replace(Standing::Standby);
                    return;
                }
            }
        }
        let wakeup = election.next_wakeup().map(|at| clock.instant(at));
        let sleep = async {
            match wakeup {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            () = shutdown.cancelled(), if !releasing => {
                releasing = true;
                None
            }
            Some(answer) = answered.recv() => Some(answer),
            () = sleep => Some(LeaseEvent::Tick),
        };
        if releasing && !matches!(*standing.borrow(), Standing::Leader(_)) {
            return;
        }
        let now = clock.now().monotonic_us;
        actions = match event {
            Some(event) => election.on_event(now, event),
            None => election.release(now),
        };
        let leader = followed_leader(&election, now);
        if let Some(reason) = leader.and_then(|leader| refused(before.as_ref(), leader, machine, &*store)) {
            standing.send_replace(Standing::Refused(reason));
            return;
        }
        before = leader.cloned();
        if leader.map(|leader| leader.generation) != told {
            told = leader.map(|leader| leader.generation);
            *followed.write() = leader.map(|leader| leader.door.clone()).filter(|door| !door.is_empty());
            if let Some(LeaseRecord { endpoint, generation, .. }) = leader {
                tracing::info!(leader = %endpoint, %generation, "this scheduler stands by, ready to take over from the leader");
            }
        }
    }
}

/// Whom a standby sees lead. A leader that is gone still leads until its lease has run out, unless it gave that back.
fn followed_leader(election: &Election, now_us: u64) -> Option<&LeaseRecord> {
    if election.role(now_us) != Role::Standby {
        return None;
    }
    election.leader()
}

/// Why a standby cannot take over from a leader that it sees at work (rule 19). One that is not seen to raise its counter may have ended with
/// an earlier start of this machine, which had another id.
fn refused(before: Option<&LeaseRecord>, leader: &LeaseRecord, machine: &str, store: &dyn Store) -> Option<String> {
    let is_at_work = before.is_some_and(|before| before.holder == leader.holder && before.counter < leader.counter);
    if !is_at_work || leader.machine.is_empty() {
        return None;
    }
    let at = format!("the scheduler that leads, at {},", leader.endpoint);
    other_machine((at.as_str(), leader.machine.as_str()), ("this one", machine), store)
}

/// Gives the lease of a leader back that is known to be dead, so that nobody waits for it to run out.
pub async fn vacate(store: &dyn Store) {
    if let ReadAnswer::Found { version, record } = read(store).await
        && !record.holder.is_empty()
    {
        let vacant = LeaseRecord { counter: record.counter + 1, holder: String::new(), ..record };
        write(store, Some(version), &vacant, &AtomicBool::new(false)).await;
    }
}

async fn read(store: &dyn Store) -> ReadAnswer {
    match store.get(keys::LEASE).await {
        Ok(Some((bytes, version))) => match polybolos_persist::envelope::decode::<LeaseRecord>(keys::LEASE, "lease", &bytes) {
            Ok(record) => ReadAnswer::Found { version: Version(version.0), record },
            Err(error) => {
                tracing::error!(%error, "the lease cannot be read");
                ReadAnswer::Unknown
            }
        },
        Ok(None) => ReadAnswer::Missing,
        Err(error) => {
            tracing::warn!(%error, "the lease cannot be read");
            ReadAnswer::Unknown
        }
    }
}

/// Says once that it cannot be written, until it is.
async fn write(store: &dyn Store, expected: Option<Version>, record: &LeaseRecord, unwritten: &AtomicBool) -> WriteAnswer {
    let expected = match expected {
        Some(version) => Expected::Version(polybolos_persist::Version(version.0)),
        None => Expected::Absent,
    };
    let bytes = match polybolos_persist::envelope::encode("lease", record) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::error!(%error, "the lease cannot be written");
            return WriteAnswer::Unknown;
        }
    };
    let written = store.put_if(keys::LEASE, bytes, expected).await;
    let is_told = unwritten.swap(written.is_err(), Ordering::Relaxed);
    match written {
        Ok(Swap::Stored(version)) => WriteAnswer::Stored(Version(version.0)),
        Ok(Swap::Conflict) => WriteAnswer::Conflict,
        Err(error) => {
            if !is_told {
                tracing::warn!(%error, "the lease could not be written; trying again");
            }
            WriteAnswer::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_a_url_or_not_told() {
        let told = |listens: &str| door("https", listens.parse().unwrap());
        assert_eq!(told("10.0.0.7:7400"), "https://10.0.0.7:7400");
        assert_eq!(told("[::1]:7400"), "https://[::1]:7400");
        assert_eq!((told("0.0.0.0:7400"), told("[::]:7400")), (String::new(), String::new()));
    }

    fn lease(counter: u64, machine: &str) -> LeaseRecord {
        let (holder, endpoint, door) = ("another".into(), "there:7410".into(), "http://there:7400".into());
        LeaseRecord { counter, holder, endpoint, door, machine: machine.into(), generation: Generation(3) }
    }

    #[tokio::test]
    async fn a_leader_at_work_on_another_machine_refuses_a_standby_of_a_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let store = polybolos_persist::LocalStore::open(folder.path()).await.expect("a store");
        let told = refused(Some(&lease(7, "there")), &lease(8, "there"), "here", &store).expect("is refused");
        let named = ["there:7410", "machine there", "machine here", "storage.url"];
        assert!(named.iter().all(|name| told.contains(*name)) && !told.contains('\n'), "{told}");
        assert_eq!(refused(Some(&lease(7, "here")), &lease(8, "here"), "here", &store), None);
        assert_eq!(refused(Some(&lease(7, "")), &lease(8, ""), "here", &store), None, "of a version that does not tell");
        assert_eq!(refused(None, &lease(8, "there"), "here", &store), None, "it may have ended");
        assert_eq!(refused(Some(&lease(8, "there")), &lease(8, "there"), "here", &store), None, "it may have ended");
    }

    #[test]
    fn a_standby_follows_a_leader_to_its_end() {
        let mut election = Election::new(LeaseConfig::default(), "me", "here:7410");
        assert_eq!(election.on_event(0, LeaseEvent::Tick), [LeaseAction::Read]);
        assert_eq!(followed_leader(&election, 0), None);
        let record = lease(7, "");
        election.on_event(1, LeaseEvent::Read(ReadAnswer::Found { version: Version::new("v7"), record: record.clone() }));
        assert_eq!(followed_leader(&election, 1), Some(&record));
        let later = 1 + LeaseConfig::default().look_us;
        assert_eq!(election.on_event(later, LeaseEvent::Tick), [LeaseAction::Read]);
        let record = LeaseRecord { counter: 8, holder: String::new(), ..record };
        election.on_event(later, LeaseEvent::Read(ReadAnswer::Found { version: Version::new("v8"), record }));
        assert_eq!(followed_leader(&election, later), None, "it gave its lease back");
    }
}
