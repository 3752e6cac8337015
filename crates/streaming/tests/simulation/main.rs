//! The epoch coordinator in a simulated world: thousands of seeded schedules of crashes, pauses, lost, late and doubled messages, torn files and jumping
//! clocks. Each run plans a fault and must see it strike; an oracle checks every swap, every write, and the tables at the end. Each rule of EPOCHS.md
//! that a flaw can take out has a test that fails without it.
//!
//! * `world`: clock, queue, producers; `happening`: what waits in it; `topic`: the log; `store`: manifest, lease, files;
//! * `state`: a toy state, for the runs whose job has one;
//! * `processes`, `watching`: schedulers that lead by lease and run the coordinator; `executors`, `tasks`: attempts; `publishers`: the tables;
//! * `faults`, `disasters`: what goes wrong; `oracle`: what must be true all the same.
//!
//! `POLYBOLOS_SEED=n cargo test -p polybolos-streaming --test simulation one_seed -- --nocapture` repeats one run and prints its diary.
mod disasters;
mod executors;
mod faults;
mod happening;
mod oracle;
mod processes;
mod publishers;
mod state;
mod store;
mod tasks;
mod topic;
mod watching;
mod world;

use faults::{ALL, Counters, Plan, Sabotage};
use polybolos_streaming::coordinator::Rule;
use world::{Outcome, run};

const SEEDS: u64 = 5_000;

/// So many seeds are tried to show that a rule is needed; a few need a rare meeting of faults.
const SEEDS_WITHOUT_A_RULE: u64 = 5_000;

/// A run that keeps all rules and saw its fault.
fn verify(plan: Plan) -> Result<Outcome, String> {
    let seed = plan.seed;
    let outcome = run(plan);
    if let Some(violation) = &outcome.violation {
        return Err(format!("seed {seed} ({:?}): {violation}", plan.fault));
    }
    if outcome.faults.of(plan.fault) == 0 {
        return Err(format!("seed {seed}: its fault {:?} never struck", plan.fault));
    }
    Ok(outcome)
}

#[test]
fn every_schedule_publishes_the_ledger() {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let results: Vec<(u64, Result<Outcome, String>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || {
                    (first..SEEDS).step_by(threads as usize).map(|seed| (seed, verify(Plan::of(seed)))).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic in a run")).collect()
    });
    let mut faults = Counters::default();
    let (mut epochs, mut records, mut slowest_us, mut violations) = (0, 0, 0, Vec::new());
    for (seed, result) in results {
        match result {
            Ok(outcome) => {
                faults.add(&outcome.faults);
                epochs += outcome.epochs;
                records += outcome.records;
                slowest_us = slowest_us.max(outcome.settled_us);
            }
            Err(violation) => violations.push((seed, violation)),
        }
    }
    violations.sort();
    let shown: Vec<&str> = violations.iter().take(10).map(|(_, text)| text.as_str()).collect();
    assert!(violations.is_empty(), "{} of {SEEDS} runs went wrong:\n{}", violations.len(), shown.join("\n"));
    println!("{SEEDS} runs, {epochs} epochs, {records} records, settled {} s after the last fault at most", slowest_us / 1_000_000);
    println!("{faults}");
    for fault in ALL {
        assert!(faults.of(*fault) > 0, "{fault:?} never struck");
    }
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..ALL.len() as u64 {
        let [first, second] = [(); 2].map(|()| run(Plan { traced: true, ..Plan::of(seed) }));
        assert_eq!(first.diary, second.diary, "seed {seed}");
    }
}

/// `POLYBOLOS_SEED` names the run; otherwise it is the first.
#[test]
fn one_seed() {
    let seed = std::env::var("POLYBOLOS_SEED").map_or(0, |seed| seed.parse().expect("POLYBOLOS_SEED is a number"));
    let outcome = run(Plan { traced: true, ..Plan::of(seed) });
    if std::env::var_os("POLYBOLOS_SEED").is_some() {
        println!("{}", outcome.diary.join("\n"));
    }
    assert!(!outcome.diary.is_empty());
    verify(Plan::of(seed)).expect("a correct run");
}

/// Some seed goes wrong without the rule, and goes right with it.
fn assert_needed(without: Sabotage, plan_of: impl Fn(u64) -> Plan) {
    for seed in 0..SEEDS_WITHOUT_A_RULE {
        let plan = plan_of(seed);
        let Some(violation) = run(Plan { without: Some(without), ..plan }).violation else { continue };
        verify(plan).expect("the same run with the rule");
        println!("without {without:?}, seed {seed} ({:?}): {violation}", plan.fault);
        return;
    }
    panic!("none of {SEEDS_WITHOUT_A_RULE} seeds needs {without:?}");
}

/// A leader that slept through the end of the job, and knows neither that nor that it slept: only who has heard of its successor
/// can tell.
#[test]
fn rule_5_executors_refuse_lower_generations() {
    assert_needed(Sabotage::LowerGenerations, |seed| Plan { fault: faults::Fault::Discarded, drowsy: true, ..Plan::of(seed) });
}

/// Publishers of a discarded job that sleep through its end, and wake under a leader that lets them write.
#[test]
fn rule_5_orders_end_with_their_stream_and_their_job() {
    assert_needed(Sabotage::OrdersOutliveStreams, |seed| Plan { fault: faults::Fault::Discarded, ..Plan::of(seed) });
}

/// Parts that trade rows have all of them from one execution of each.
#[test]
fn rule_7_a_part_that_trades_rows_runs_once_in_an_attempt() {
    assert_needed(Sabotage::PartsRunAgain, |seed| Plan { stateful: true, sharing: 2, ..Plan::of(seed) });
}

/// Where each part reads a range of its own into a file of its own name, a second execution that is ignored does no harm; the
/// rule is for plans with an exchange, whose parts depend on one another (the test above). With names that executions share, it
/// would (`rule_7_files_carry_a_nonce`).
#[test]
fn rule_7_a_second_execution_does_no_harm_where_parts_are_independent() {
    let without = Some(Sabotage::Coordinator(Rule::OneExecution));
    for seed in 0..SEEDS_WITHOUT_A_RULE {
        let outcome = run(Plan { without, fault: faults::Fault::SecondExecution, stateful: false, ..Plan::of(seed) });
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(outcome.faults.of(faults::Fault::SecondExecution) > 0, "seed {seed}");
    }
}

macro_rules! needed {
    ($($name:ident: $sabotage:expr;)*) => {
        $(#[test] fn $name() { assert_needed($sabotage, Plan::of); })*
    };
}

needed! {
    rule_1_group_offsets_are_not_believed: Sabotage::GroupOffsets;
    rule_2_manifests_change_by_compare_and_swap: Sabotage::PlainWrites;
    rule_2_manifests_are_synced: Sabotage::ManifestNotSynced;
    rule_2_parts_are_synced_before_they_are_reported: Sabotage::PartNotSynced;
    rule_3_an_unclear_swap_is_repeated_with_the_same_bytes: Sabotage::Coordinator(Rule::SameBytes);
    rule_4_files_outlive_their_names: Sabotage::DeletedAtOnce;
    rule_4_published_files_stay_while_they_are_state: Sabotage::Coordinator(Rule::StateOutlivesPublishing);
    rule_4_what_a_savepoint_names_stays: Sabotage::Coordinator(Rule::SavepointsPin);
    rule_5_a_new_leader_takes_over_first: Sabotage::Coordinator(Rule::TakeOver);
    rule_6_publishers_hold_a_grant: Sabotage::NoGrants;
    rule_7_every_part_must_be_reported: Sabotage::Coordinator(Rule::FullCoverage);
    rule_7_files_carry_a_nonce: Sabotage::NamesWithoutNonce;
    rule_8_only_the_winner_counts: Sabotage::Coordinator(Rule::WinnerCounts);
    rule_8_an_overlay_waits_until_a_frame_names_it: Sabotage::OverlayMergedAtOnce;
    rule_8_an_executor_loads_what_it_lacks: Sabotage::StateNotLoaded;
    rule_9_attempts_have_a_deadline: Sabotage::Coordinator(Rule::Deadline);
    rule_9_the_next_attempt_is_smaller: Sabotage::Coordinator(Rule::SmallerNext);
    rule_10_a_part_holds_one_change_per_key: Sabotage::AllChangesPerKey;
    rule_12_windows_ascend: Sabotage::Coordinator(Rule::WindowsAscend);
    rule_13_a_sink_gets_epochs_in_order: Sabotage::Coordinator(Rule::EpochsInOrder);
    rule_15_refused_rows_are_recorded_first: Sabotage::Coordinator(Rule::RecordRefused);
    state_is_merged_only_by_the_order_that_stands: Sabotage::Coordinator(Rule::CompactionOrdered);
    records_are_of_the_log_that_is_read: Sabotage::Coordinator(Rule::RecordsOfOneLog);
    the_watermark_never_falls: Sabotage::Coordinator(Rule::WatermarkAscends);
    the_watermark_follows_the_timers: Sabotage::Coordinator(Rule::WatermarkFollowsTimers);
    rule_17_unpublished_epochs_are_bounded: Sabotage::Coordinator(Rule::BoundUnpublished);
    rule_18_an_incarnation_ends_with_a_last_swap: Sabotage::Coordinator(Rule::LastSwap);
}
