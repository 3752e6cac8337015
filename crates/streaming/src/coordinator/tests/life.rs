//! What a job shall do: held, let go, paused, and when that is recorded.
use super::*;

/// A statement that holds a job may be gone with its leader: the next one computes, unless somebody paused the job.
#[test]
fn a_job_that_is_held_comes_to_rest_and_nothing_of_that_is_recorded() {
    let mut bench = Bench::leading();
    bench.compute();
    bench.store();
    let orders = bench.orders();
    bench.store_all();
    bench.now.monotonic_us += 10 * SECOND_US;
    bench.arrive(6);
    let (attempt, _) = bench.submitted().expect("the next attempt");
    bench.store_all();
    assert!(!bench.coordinator.is_at_rest());
    bench.send(Event::Command(Command::Hold));
    assert!(bench.done.iter().any(|action| matches!(action, Action::CancelAttempt { attempt: ended } if *ended == attempt)));
    assert_eq!(bench.coordinator.status().phase, Phase::Paused);
    bench.published(&orders[0], None);
    bench.store_all();
    assert!(!bench.coordinator.is_at_rest(), "the other part is not published");
    bench.published(&orders[1], None);
    assert!(!bench.coordinator.is_at_rest(), "the position is not recorded");
    bench.store_all();
    assert!(bench.coordinator.is_at_rest());
    assert_eq!(bench.coordinator.manifest().life, Life::Running, "whoever leads next goes on");
    bench.now.monotonic_us += 10 * SECOND_US;
    bench.send(Event::Tick);
    assert!(bench.submitted().is_none() && bench.coordinator.is_at_rest());
    bench.send(Event::Command(Command::LetGo));
    assert!(bench.submitted().is_some() && !bench.coordinator.is_at_rest());
}

#[test]
fn a_job_that_is_paused_while_it_is_held_stays_paused() {
    let mut bench = Bench::leading();
    bench.send(Event::Command(Command::Hold));
    assert!(bench.coordinator.is_at_rest());
    bench.send(Event::Command(Command::Pause));
    assert!(!bench.coordinator.is_at_rest(), "that is to be recorded");
    bench.store_all();
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    bench.arrive(3);
    bench.send(Event::Command(Command::LetGo));
    bench.now.monotonic_us += 10 * SECOND_US;
    bench.send(Event::Tick);
    assert!(bench.submitted().is_none());
    assert_eq!(bench.coordinator.manifest().life, Life::Paused);
}

/// Who pauses a job is answered then.
#[test]
fn what_a_job_shall_do_is_recorded_once_the_store_has_it_and_nothing_else_is_on_its_way() {
    let mut bench = Bench::leading();
    assert!(bench.coordinator.is_life_recorded());
    bench.send(Event::Command(Command::Pause));
    assert!(!bench.coordinator.is_life_recorded());
    bench.store();
    assert!(bench.coordinator.is_life_recorded());
    bench.send(Event::Command(Command::Resume));
    bench.send(Event::Command(Command::Pause));
    assert!(!bench.coordinator.is_life_recorded(), "that it runs is on its way to the store");
    bench.store_all();
    assert!(bench.coordinator.is_life_recorded());
    assert_eq!(bench.coordinator.manifest().life, Life::Paused);
}
