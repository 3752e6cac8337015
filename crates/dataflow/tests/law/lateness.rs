//! Late rows that are allowed, epoch by epoch: a window comes out when the watermark passes its end, again as such rows change it, and is dropped when none can
//! come any more.
use datafusion::arrow::{array::AsArray, datatypes::Int64Type};

use super::{
    REFUSED,
    bounded::long_case,
    cases::{Arrival, Case, Epoch},
    dataflow,
    engine::Feed,
    judge::judge,
    tables::Value,
};

/// Cases with windows that close, of which few among all cases see a row that corrects one.
const CLOSING: usize = 60;
const WINDOWS: &str =
    "SELECT date_bin(INTERVAL '10' SECOND, ts) AS w, count(*) AS n FROM t0 GROUP BY date_bin(INTERVAL '10' SECOND, ts)";
const SECOND_US: i64 = 1_000_000;
/// A moment at which windows start.
const BEGIN_MS: i64 = 1_700_000_000_000;

/// Windows of ten seconds over rows of these times, by epoch.
fn case(epochs: &[&[i64]], emits_on_close: bool, allowed_ms: i64) -> Case {
    let mut case = long_case(WINDOWS, 10 * SECOND_US, emits_on_close);
    (case.delay_ms, case.allowed_ms) = (Some(0), allowed_ms);
    case.epochs = vec![Epoch::default(); epochs.len()];
    let timed = epochs.iter().enumerate().flat_map(|(epoch, times)| times.iter().map(move |time_ms| (epoch, time_ms)));
    case.arrivals.clear();
    for (row, (epoch, time_ms)) in timed.enumerate() {
        *case.tables[0].rows[row].last_mut().expect("the event time is last") = Value::TimeMs(BEGIN_MS + time_ms);
        case.arrivals.push(Arrival { table: 0, row, partition: 0, epoch });
    }
    case
}

/// Epoch, count of rows and weight of all that comes out, how many rows are late, and what is held in the end.
fn run(case: &Case, reloads: bool) -> (Vec<(usize, i64, i64)>, usize, usize) {
    let mut engine = dataflow::start(case).expect("the query is supported");
    let (mut changes, mut late) = (vec![], 0);
    for epoch in 0..case.epochs.len() {
        let ran = engine.run(&Feed::of(case, epoch)).expect("runs");
        engine.record().expect("records");
        if reloads {
            engine.reload(1 + epoch % 3).expect("reloads");
        }
        late += ran.late;
        for (batch, weights) in ran.deltas.into_iter().flatten() {
            let counts = batch.column(1).as_primitive::<Int64Type>().values().to_vec();
            changes.extend(counts.into_iter().zip(weights).map(|(count, weight)| (epoch, count, weight)));
        }
    }
    changes.sort_unstable_by_key(|(epoch, _, weight)| (*epoch, *weight));
    (changes, late, engine.held())
}

#[test]
fn a_closed_window_comes_out_again_until_no_late_row_is_allowed() {
    // An epoch judges by what was seen before it.
    let epochs: [&[i64]; 9] =
        [&[1_000, 2_000], &[12_000], &[3_000], &[4_000], &[30_500], &[5_000, 15_000], &[16_000], &[200_000], &[]];
    for reloads in [false, true] {
        let (changes, late, held) = run(&case(&epochs, true, 0), reloads);
        assert_eq!(changes, [(2, 2, 1), (5, 1, 1), (8, 1, 1)], "once each");
        assert_eq!((late, held), (5, 1));

        // At 30.5 s the first window ended longer than 20 s ago.
        let (changes, late, held) = run(&case(&epochs, true, 20_000), reloads);
        let expected = [(2, 3, 1), (3, 3, -1), (3, 4, 1), (5, 2, 1), (6, 2, -1), (6, 3, 1), (8, 1, 1)];
        assert_eq!(changes, expected);
        assert_eq!((late, held), (1, 2), "of the last window: its group, and the row that is held back");

        let (changes, late, held) = run(&case(&epochs, false, 20_000), reloads);
        let last: i64 = changes.iter().map(|(_, count, weight)| count * weight).sum();
        assert_eq!((changes.first(), last, late, held), (Some(&(0, 2, 1)), 9, 1, 1));
    }
}

#[test]
fn state_is_kept_so_much_longer_and_not_for_ever() {
    let most = |emits_on_close: bool, allowed_ms: i64| {
        let mut case = long_case(
            "SELECT date_bin(INTERVAL '10' SECOND, ts) AS w, k, count(*) AS n FROM t0 GROUP BY date_bin(INTERVAL '10' SECOND, ts), k",
            10 * SECOND_US,
            emits_on_close,
        );
        case.allowed_ms = allowed_ms;
        let mut engine = dataflow::start(&case).expect("the query is supported");
        let mut most = 0;
        for epoch in 0..case.epochs.len() {
            engine.run(&Feed::of(&case, epoch)).expect("runs");
            engine.record().expect("records");
            most = most.max(engine.held());
        }
        most
    };
    for emits_on_close in [false, true] {
        let (before, after) = (most(emits_on_close, 0), most(emits_on_close, 60_000));
        // Six windows of five keys.
        assert!(after >= before + 20 && after <= before + 60, "{before} entries, and {after} with late rows");
    }
}

#[test]
fn corrections_of_closed_windows_keep_the_law() {
    let is_closing = |case: &Case| case.statements.iter().any(|statement| statement.closing.is_some());
    let mut corrected = 0;
    for mut case in (1..).map(|seed| Case::random(seed, REFUSED)).filter(is_closing).take(CLOSING) {
        (case.delay_ms, case.allowed_ms) = (Some(0), 30_000);
        let kept = judge(&case, &dataflow::start).unwrap_or_else(|failure| panic!("{}{failure}", case.describe()));
        corrected += kept.corrected;
    }
    assert!(corrected > CLOSING / 2, "{corrected} rows are taken back");
}
