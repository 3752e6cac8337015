//! Elections between candidates with clocks of their own, over a store that loses and delays.
use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::*;

const MS: u64 = 1_000;

#[derive(Default)]
struct Store {
    object: Option<(u64, LeaseRecord)>,
}

impl Store {
    fn read(&self) -> ReadAnswer {
        self.object
            .clone()
            .map_or(ReadAnswer::Missing, |(version, record)| ReadAnswer::Found { version: Version(version.to_string()), record })
    }

    fn write(&mut self, expected: Option<Version>, record: LeaseRecord) -> WriteAnswer {
        let version = self.object.as_ref().map(|(version, _)| Version(version.to_string()));
        if version != expected {
            return WriteAnswer::Conflict;
        }
        let next = self.object.as_ref().map_or(1, |(version, _)| version + 1);
        self.object = Some((next, record));
        WriteAnswer::Stored(Version(next.to_string()))
    }
}

fn run_alone(election: &mut Election, store: &mut Store, now_us: u64) -> Vec<LeaseAction> {
    let mut seen = Vec::new();
    let mut actions = election.on_event(now_us, LeaseEvent::Tick);
    for _ in 0..10 {
        let mut next = Vec::new();
        for action in actions {
            next.extend(match action.clone() {
                LeaseAction::Read => election.on_event(now_us, LeaseEvent::Read(store.read())),
                LeaseAction::Write { expected, record } => {
                    let counter = record.counter;
                    let answer = store.write(expected, record);
                    election.on_event(now_us, LeaseEvent::Written { counter, answer })
                }
                _ => Vec::new(),
            });
            seen.push(action);
        }
        actions = next;
    }
    seen
}

#[test]
fn the_first_leads_at_once_and_the_second_waits_out_the_lease() {
    let mut store = Store::default();
    let mut first = Election::new(LeaseConfig::default(), "first", "127.0.0.1:1");
    assert!(run_alone(&mut first, &mut store, 5).contains(&LeaseAction::Lead(Generation(1))));

    let mut second = Election::new(LeaseConfig::default(), "second", "127.0.0.1:2");
    let mut led_at = None;
    for ms in (0..10_000).step_by(100) {
        if run_alone(&mut second, &mut store, ms * MS).contains(&LeaseAction::Lead(Generation(2))) {
            led_at = Some(ms);
        }
        if led_at.is_none() {
            assert_eq!(second.leader().map(|leader| leader.endpoint.as_str()), Some("127.0.0.1:1"));
        }
    }
    let led_at = led_at.unwrap();
    assert!((4_000..=4_500).contains(&led_at), "led after {led_at} ms");
    assert_eq!(first.role(4_000 * MS), Role::Deposed);
}

#[test]
fn a_lease_given_back_is_free_at_once() {
    let mut store = Store::default();
    let mut first = Election::new(LeaseConfig::default(), "first", "a");
    run_alone(&mut first, &mut store, 0);
    let LeaseAction::Write { expected, record } = first.release(100 * MS).remove(0) else { panic!("a leader writes to release") };
    let counter = record.counter;
    let answer = store.write(expected, record);
    assert_eq!(first.on_event(101 * MS, LeaseEvent::Written { counter, answer }), [LeaseAction::Released]);
    let mut second = Election::new(LeaseConfig::default(), "second", "b");
    assert!(run_alone(&mut second, &mut store, 0).contains(&LeaseAction::Lead(Generation(2))));
}

/// A full disk: it answers at once, and takes nothing.
#[test]
fn a_store_that_takes_no_write_is_asked_at_a_bounded_rate_and_deposes_in_time() {
    let mut store = Store::default();
    let config = LeaseConfig::default();
    let mut election = Election::new(config, "first", "a");
    run_alone(&mut election, &mut store, 0);
    let (mut writes, mut now_us) = (0, 0);
    while let Some(at) = election.next_wakeup() {
        assert!(now_us < config.lease_us, "it leads for ever");
        now_us = now_us.max(at);
        let mut actions = election.on_event(now_us, LeaseEvent::Tick);
        while let Some(action) = actions.pop() {
            actions.extend(match action {
                LeaseAction::Read => election.on_event(now_us, LeaseEvent::Read(store.read())),
                LeaseAction::Write { record, .. } => {
                    writes += 1;
                    assert!(writes < 10, "{writes} writes until {now_us} µs");
                    election.on_event(now_us, LeaseEvent::Written { counter: record.counter, answer: WriteAnswer::Unknown })
                }
                _ => vec![],
            });
        }
    }
    assert_eq!((election.role(now_us), now_us), (Role::Deposed, config.lease_us - config.margin_us));
}

/// Candidates that pause, over a store that loses and delays requests and replies: never two leaders at the same true time, and one again when the
/// trouble is over.
#[test]
fn never_two_leaders() {
    let (mut takeovers, mut late_writes) = (0, 0);
    for seed in 0..400 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let clock_offsets: Vec<u64> = (0..3).map(|_| random.random_range(0..1_000_000_000)).collect();
        let mut elections: Vec<Election> =
            (0..3).map(|i| Election::new(LeaseConfig::default(), format!("{seed}-{i}"), "x")).collect();
        let mut restarts = 0;
        let mut paused_until = [0; 3];
        let mut store = Store::default();
        // Requests and replies under way: (time, order) -> who, what.
        let mut requests: BTreeMap<(u64, u64), (usize, u64, LeaseAction)> = BTreeMap::new();
        let mut replies: BTreeMap<(u64, u64), (usize, u64, LeaseEvent)> = BTreeMap::new();
        let mut lives = [0; 3];
        let mut order = 0;
        let mut generations = Vec::new();
        for now in (0..60_000u64).step_by(50) {
            let calm = now > 40_000;
            while let Some(entry) = requests.first_entry().filter(|entry| entry.key().0 <= now) {
                let (who, life, action) = entry.remove();
                let event = match action {
                    LeaseAction::Read => LeaseEvent::Read(store.read()),
                    LeaseAction::Write { expected, record } => {
                        let counter = record.counter;
                        LeaseEvent::Written { counter, answer: store.write(expected, record) }
                    }
                    _ => continue,
                };
                let delay = if calm { 0 } else { *[0, 0, 50, 200, 1_500, 100_000].choose(&mut random).unwrap() };
                order += 1;
                replies.insert((now + delay, order), (who, life, event));
            }
            let mut arrived = Vec::new();
            while let Some(entry) = replies.first_entry().filter(|entry| entry.key().0 <= now) {
                arrived.push(entry.remove());
            }
            for i in 0..3 {
                if now < paused_until[i] {
                    continue;
                }
                let clock = now * MS + clock_offsets[i];
                let events: Vec<LeaseEvent> = arrived
                    .iter()
                    .filter(|(who, life, _)| *who == i && *life == lives[i])
                    .map(|(.., event)| event.clone())
                    .chain([LeaseEvent::Tick])
                    .collect();
                for event in events {
                    for action in elections[i].on_event(clock, event) {
                        if let LeaseAction::Lead(generation) = action {
                            generations.push(generation);
                        }
                        let delay = if calm { 0 } else { *[0, 0, 50, 300, 3_000].choose(&mut random).unwrap() };
                        late_writes += u64::from(delay == 3_000 && matches!(action, LeaseAction::Write { .. }));
                        order += 1;
                        requests.insert((now + delay, order), (i, lives[i], action));
                    }
                }
                if !calm && random.random_bool(0.003) {
                    paused_until[i] = now + random.random_range(100..9_000);
                }
                if elections[i].role(clock) == Role::Deposed {
                    restarts += 1;
                    lives[i] += 1;
                    elections[i] = Election::new(LeaseConfig::default(), format!("{seed}-{i}-{restarts}"), "x");
                }
            }
            let leaders = (0..3).filter(|&i| matches!(elections[i].role(now * MS + clock_offsets[i]), Role::Leader(_))).count();
            assert!(leaders <= 1, "seed {seed}: {leaders} leaders at {now} ms");
        }
        let leads = (0..3).filter(|&i| matches!(elections[i].role(59_950 * MS + clock_offsets[i]), Role::Leader(_))).count();
        assert_eq!(leads, 1, "seed {seed}: nobody leads after the trouble");
        assert!(generations.is_sorted_by(|a, b| a < b), "seed {seed}: generations {generations:?}");
        takeovers += generations.len() - 1;
    }
    assert!(takeovers > 400 && late_writes > 1_000, "{takeovers} takeovers, {late_writes} late writes");
}
