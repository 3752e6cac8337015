//! The law: whatever the cuts into epochs, whatever crashes or rescales, what a job's deltas add up to is what plain DataFusion answers over all the input
//! so far, minus late rows. Seeded cases: random tables, random queries, random schedules, held against the oracle.
//!
//! * `tables`, `expressions`, `queries`: what is asked about what; `spelling`: in which words; `cases`: when rows come and what goes wrong meanwhile;
//! * `engine`: what is under test; `dataflow`, `stream`: the engine itself; `sham`: an engine with flaws on purpose, which the law must find;
//! * `bounded`: what is held does not grow where event time bounds it;
//! * `lateness`: what comes out, when, and again, where late rows are allowed; `closed`: a query that answers what has come out;
//! * `aggregates`: each that can be named is refused or keeps the law;
//! * `infinities`: sums of what is infinite or no number, and is taken back;
//! * `zeros`: -0.0 and 0.0 are one group, and NaN is greater than all else;
//! * `frames`: window functions, frames, set operations and grouping sets that the grammar does not write;
//! * `shared`: what several read is there for each;
//! * `failing`: rows that an expression fails on are set aside, and all others go on;
//! * `platform`: the same cases as jobs of a running platform, for `tests/python/test_law.py`;
//! * `oracle`, `changes`: the right answer, and how another differs; `judge`: runs a case, and shrinks one that goes wrong.
//!
//! `POLYBOLOS_LAW_CASES` (300) is how many cases run, from `POLYBOLOS_LAW_SEED` (1) on; with the seed of a case that went wrong and one case it is repeated.
mod aggregates;
mod bounded;
mod cases;
mod changes;
mod closed;
mod dataflow;
mod engine;
mod expressions;
mod failing;
mod frames;
mod infinities;
mod judge;
mod lateness;
mod oracle;
mod peers;
mod platform;
mod queries;
mod sham;
mod shared;
mod spelling;
mod stream;
mod tables;
mod zeros;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use cases::Case;
use judge::{Kept, judge, shrink};
use queries::{Construct, constructs};
use sham::{Flaw, Sham};

/// Constructs that the engine refuses so far. It shrinks with time, and nothing else is left out.
const REFUSED: &[Construct] = &[];

const CASES: u64 = 300;

/// What queries are made of, beside constructs, as it is written in them.
const WORDS: &[&str] = &[
    "AS DECIMAL(20, 2))",
    "AS DATE)",
    "INTERVAL '5' HOUR",
    "INTERVAL '1' MONTH",
    "TIMESTAMPTZ '",
    "AT TIME ZONE",
    "TIMESTAMPDIFF(",
    "json_value(",
    "RETURNING BIGINT",
    "->> 'b'",
    "JSON_OBJECT(",
    "json_exists(",
    "to_json(",
    "FILTER (WHERE",
    "percentile_disc(",
    "percentile_cont(",
    "mode()",
    "median(",
    "string_agg(",
    "first_value(",
    "ROLLUP",
    "grouping(",
    "IS NOT DISTINCT FROM",
    "RANGE BETWEEN INTERVAL",
    "ROWS BETWEEN",
    "IGNORE NULLS",
    "ntile(",
    "TABLE(TUMBLE(",
    "TABLE(HOP(",
    "TABLE(CUMULATE(",
    "TABLE(SESSION(",
    "UNION",
    "INTERSECT",
    "EXCEPT",
];

/// So many of the cases that go wrong are made small and shown.
const SHOWN: usize = 3;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

#[test]
fn deltas_add_up_to_the_answer_over_all_input() {
    let (first, count) = (setting("POLYBOLOS_LAW_SEED", 1), setting("POLYBOLOS_LAW_CASES", CASES));
    let next = AtomicU64::new(first);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut done = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return done;
            }
            let case = Case::random(seed, REFUSED);
            let result = judge(&case, &dataflow::start);
            done.push((case, result));
        }
    };
    let mut results: Vec<(Case, Result<Kept, String>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("panics of a case are caught")).collect()
    });
    results.sort_by_key(|(case, _)| case.seed);
    let mut total = Kept::default();
    let (mut generated, mut wrong) = (BTreeMap::<Construct, usize>::new(), Vec::new());
    let is_refused = |result: &Result<Kept, String>| result.as_ref().is_ok_and(|kept| kept.without_answer > 0);
    for (case, result) in &results {
        for construct in case.statements.iter().filter(|_| !is_refused(result)).flat_map(|statement| &statement.constructs) {
            *generated.entry(*construct).or_default() += 1;
        }
        match result {
            Ok(kept) => {
                total.rows += kept.rows;
                total.crashes += kept.crashes;
                total.late += kept.late;
                total.corrected += kept.corrected;
                total.epochs += kept.epochs;
                total.without_answer += kept.without_answer;
                total.oracle_wrong += kept.oracle_wrong;
            }
            Err(failure) => wrong.push((case, failure)),
        }
    }
    // Bugs of its planner; the grammar must not run into many.
    let refused: Vec<u64> = results.iter().filter(|(_, result)| is_refused(result)).map(|(case, _)| case.seed).collect();
    assert!(refused.len() as u64 <= 2 + count / 50, "plain DataFusion refuses {} of {count} cases: {refused:?}", refused.len());
    assert!(
        total.oracle_wrong as u64 <= 2 + count / 100,
        "plain DataFusion disagrees with itself in {} of {count} cases",
        total.oracle_wrong
    );
    println!("seeds {first} to {}: {total:?}; constructs {generated:?}", first + count - 1);
    let shown: Vec<String> = wrong.iter().take(SHOWN).map(|(case, failure)| report(case, failure)).collect();
    let seeds: Vec<String> =
        wrong.iter().map(|(case, failure)| format!("{}: {}", case.seed, failure.lines().next().unwrap_or_default())).collect();
    assert!(wrong.is_empty(), "{} of {count} cases break the law:\n{}\n\n{}", wrong.len(), shown.join("\n"), seeds.join("\n"));
    if count >= CASES {
        let answered = results.iter().filter(|(_, result)| !is_refused(result));
        let statements: Vec<_> = answered.flat_map(|(case, _)| &case.statements).collect();
        let of_constructs = constructs().filter(|construct| !REFUSED.contains(construct) && !generated.contains_key(construct));
        let of_words = WORDS.iter().filter(|word| !statements.iter().any(|statement| statement.ours.contains(**word)));
        let lacking: Vec<String> =
            of_constructs.map(|construct| format!("{construct:?}")).chain(of_words.map(ToString::to_string)).collect();
        assert!(lacking.is_empty(), "no case from seed {first} on has {}", lacking.join(", "));
        assert!(statements.iter().any(|statement| statement.closing.is_some()), "no case emits when windows close");
    }
}

fn report(case: &Case, failure: &str) -> String {
    let (small, failure) = shrink(case, failure, &dataflow::start);
    let seed = case.seed;
    format!(
        "=== seed {seed}, made small; repeat it with\nPOLYBOLOS_LAW_SEED={seed} POLYBOLOS_LAW_CASES=1 cargo test -p polybolos-dataflow --test law -- --nocapture\n{}{failure}\n",
        small.describe()
    )
}

/// A correct engine keeps the law on random cases: the grammar writes only queries with one answer, which plain DataFusion takes.
#[test]
fn the_oracle_agrees_with_itself() {
    let start: judge::Start = &|case| Ok(Box::new(Sham::new(case, Flaw::None)));
    let (first, count) = (setting("POLYBOLOS_LAW_SEED", 1), setting("POLYBOLOS_LAW_CASES", 100));
    let mut wrong = Vec::new();
    for case in
        (first..first + count.min(1_000)).map(|seed| Case::random(seed, &[]).on_update()).filter(|case| case.epochs.len() <= 6)
    {
        if let Err(failure) = judge(&case, start) {
            let (small, failure) = shrink(&case, &failure, start);
            wrong.push(format!("seed {}\n{}{failure}", case.seed, small.describe()));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// Each flaw is found within a few cases, and the case can be made small.
#[test]
fn flaws_are_found() {
    for flaw in [Flaw::KeepsDiscarded, Flaw::ForgetsLast, Flaw::NeverRetracts] {
        let start: judge::Start = &|case| Ok(Box::new(Sham::new(case, flaw)));
        let found =
            (1..200).map(|seed| Case::random(seed, &[]).on_update()).filter(|case| case.epochs.len() <= 13).find_map(|case| {
                let failure = judge(&case, start).err().filter(|failure| failure.starts_with("statement"))?;
                Some((case, failure))
            });
        let (case, failure) = found.unwrap_or_else(|| panic!("{flaw:?} was not found"));
        let (small, failure) = shrink(&case, &failure, start);
        println!("{flaw:?}:\n{}{failure}", small.describe());
        assert!((1..=5).contains(&small.arrivals.len()), "{flaw:?} was made {} rows small", small.arrivals.len());
    }
}

#[test]
fn a_seed_is_a_case() {
    for seed in 0..20 {
        assert_eq!(Case::random(seed, &[]).describe(), Case::random(seed, &[]).describe());
    }
}
