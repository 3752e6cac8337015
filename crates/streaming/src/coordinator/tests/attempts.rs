//! When an epoch is computed, and which report of which attempt counts.
use super::*;

#[test]
fn an_epoch_that_is_not_due_yet_waits_for_nothing_but_a_slow_sink() {
    let mut bench = Bench::leading();
    bench.compute();
    bench.store();
    bench.now.monotonic_us += 1_000_000;
    bench.arrive(6);
    let (attempt, frame) = bench.submitted().expect("an attempt");
    bench.finish(attempt, &frame);
    bench.store();
    bench.arrive(9);
    assert_eq!(bench.submitted(), None, "two epochs are not published");
    let status = bench.coordinator.status();
    assert_eq!((status.phase, status.limit), (Phase::Pacing, Limit::Publishing { sink: SINK }));
    // The rest of what was read is computed, and there will be no more.
    bench.send(Event::SourceAway { source: SOURCE, message: "all brokers are down".into() });
    let status = bench.coordinator.status();
    assert_eq!(status.limit, Limit::KafkaAway { source: SOURCE });
    assert_eq!(status.phase, Phase::Waiting { why: "topic \"readings\" cannot be read: all brokers are down".into() });
}

#[test]
fn an_epoch_that_is_not_due_yet_does_not_wait_for_records_that_are_there() {
    let mut bench = Bench::leading();
    let (attempt, frame) = bench.begin();
    bench.now.monotonic_us += SECOND_US;
    for part in 0..frame.parts.len() {
        let mut event = reported(attempt, &frame, part, &format!("{attempt}-{part}"));
        if let Event::PartReported(report) = &mut event {
            report.times.fetch_us = 1_000;
        }
        bench.send(event);
    }
    bench.store();
    let ends = BTreeMap::from([(0, 6), (1, 6)]);
    bench.list(&ends);
    let why = "waiting for records from Kafka".to_owned();
    assert_eq!(bench.coordinator.status().phase, Phase::Waiting { why }, "they have not arrived");
    bench.arrive(6);
    assert_eq!(bench.submitted(), None, "it is not due");
    let status = bench.coordinator.status();
    assert_eq!((status.phase, status.limit), (Phase::Pacing, Limit::Fetching), "the last epoch took longest with that");
}

/// Rule 18: after an UPGRADE a leader leads the job anew, and what still comes of an earlier attempt is another definition's.
#[test]
fn attempts_of_an_earlier_coordinator_of_the_same_leader_are_told_apart() {
    let mut earlier = Bench::leading();
    let (attempt, frame) = earlier.begin();
    let config = CoordinatorConfig { first_attempt: earlier.coordinator.next_attempt(), ..CoordinatorConfig::default() };
    let mut bench = Bench::leading_as(manifest(), config);
    let (later, same) = bench.begin();
    assert_eq!(frame.parts, same.parts);
    assert_eq!(later, attempt.next());
    bench.finish(attempt, &frame);
    assert!(matches!(bench.coordinator.status().phase, Phase::Computing { .. }), "nothing is to be recorded of it");
    bench.finish(later, &same);
    assert!(matches!(bench.coordinator.status().phase, Phase::Recording { .. }));
}

/// Rule 7: with which of the two others have computed is not known.
#[test]
fn a_second_execution_of_a_part_ends_the_attempt() {
    let mut bench = Bench::leading();
    let (attempt, frame) = bench.begin();
    bench.send(reported(attempt, &frame, 0, "one"));
    bench.send(reported(attempt, &frame, 0, "one"));
    let is_ended = |action: &Action| matches!(action, Action::CancelAttempt { attempt: ended } if *ended == attempt);
    assert!(!bench.done.iter().any(is_ended), "the same report once more says nothing");
    bench.send(reported(attempt, &frame, 0, "another"));
    assert!(bench.done.iter().any(is_ended), "{:?}", bench.done);
    bench.now.monotonic_us += SECOND_US;
    bench.send(Event::Tick);
    let (next, _) = bench.submitted().expect("another attempt");
    assert_eq!(next, attempt.next());
    bench.send(reported(attempt, &frame, 1, "late"));
    assert!(!bench.done.iter().any(|action| matches!(action, Action::Swap { .. })), "{:?}", bench.done);
}

/// Rules 5 and 18: attempts are numbered anew by each leader and in each run of a job.
#[test]
fn what_was_computed_for_another_leader_or_run_is_not_recorded() {
    let mut bench = Bench::leading();
    let (attempt, frame) = bench.begin();
    let others = [("incarnation", 0), ("incarnation", 2), ("another", 1)];
    for (part, (incarnation, generation)) in (0..2).flat_map(|part| others.map(|other| (part, other))) {
        let Event::PartReported(report) = reported(attempt, &frame, part, "stray") else { unreachable!() };
        let (incarnation, generation) = (Incarnation::new(incarnation), Generation(generation));
        bench.send(Event::PartReported(PartReport { incarnation, generation, ..report }));
    }
    let is_swap = |action: &Action| matches!(action, Action::Swap { .. });
    assert!(!bench.done.iter().any(is_swap), "{:?}", bench.done);
    for part in 0..2 {
        bench.send(reported(attempt, &frame, part, &format!("own-{part}")));
    }
    assert!(bench.done.iter().any(is_swap), "{:?}", bench.done);
}
