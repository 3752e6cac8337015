//! Runs a case through an engine and holds what it emitted against the oracle; when they differ, makes the case small.
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    cases::{Case, Crash, Epoch},
    changes::Answer,
    engine::{Engine, Feed},
    oracle,
};

/// Makes the engine of a case.
pub type Start<'s> = &'s dyn for<'a> Fn(&'a Case) -> Result<Box<dyn Engine + 'a>, String>;

/// What a case that keeps the law had: for the summary.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kept {
    pub rows: usize,
    pub crashes: usize,
    pub late: usize,
    /// Rows of closed windows that were taken back.
    pub corrected: usize,
    pub epochs: usize,
    /// Plain DataFusion has no answer itself.
    pub without_answer: usize,
    /// Plain DataFusion answers otherwise than without its physical optimiser, and we as the latter.
    pub oracle_wrong: usize,
}

pub fn judge(case: &Case, start: Start) -> Result<Kept, String> {
    match catch_unwind(AssertUnwindSafe(|| run(case, start))) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("of an unknown kind")))
        }
    }
}

fn run(case: &Case, start: Start) -> Result<Kept, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let (rows, _) = oracle::on_time(case, case.epochs.len(), None);
    for statement in 0..case.statements.len() {
        if let Err(error) = runtime.block_on(oracle::answer(case, statement, &rows, None)) {
            println!("seed {}: {error}\n{}", case.seed, case.statements[statement].sql);
            return Ok(Kept { without_answer: 1, ..Kept::default() });
        }
    }
    let mut engine = start(case)?;
    let mut answers = vec![Answer::default(); case.statements.len()];
    let mut kept = Kept::default();
    let ends = engine.window_ends();
    for (number, epoch) in case.epochs.iter().enumerate() {
        let feed = Feed::of(case, number);
        match epoch.crash {
            Some(Crash::Attempt) => {
                engine.run(&feed)?;
                engine.discard();
            }
            Some(Crash::ExecutorEarly { lanes }) => {
                engine.run(&feed)?;
                engine.reload(lanes)?;
            }
            _ => {}
        }
        let ran = engine.run(&feed).map_err(|error| format!("epoch {number}: {error}"))?;
        // Queries of the grammar fail on no row.
        if let Some(error) = ran.failed.first() {
            return Err(format!("failed: {error}"));
        }
        engine.record()?;
        if let Some(Crash::ExecutorLate { lanes }) = epoch.crash {
            engine.reload(lanes)?;
        }
        for ((answer, deltas), statement) in answers.iter_mut().zip(&ran.deltas).zip(&case.statements) {
            super::sham::sum(deltas, answer)?;
            let taken_back = deltas.iter().flat_map(|(_, weights)| weights).filter(|weight| **weight < 0).count();
            if statement.closing.is_some() {
                kept.corrected += taken_back;
            }
            if statement.closing.is_some() && case.allowed_ms == 0 && taken_back > 0 {
                return Err(format!("closed: {taken_back} rows of closed windows are taken back in epoch {number}"));
            }
        }
        kept.crashes += usize::from(epoch.crash.is_some());
        kept.late += ran.late;
        if !epoch.is_checked && number + 1 < case.epochs.len() {
            continue;
        }
        let (rows, late) = oracle::on_time(case, number, ends.as_deref());
        let watermark_us = ran.fired_us.map(|us| us + case.allowed_ms * 1_000);
        if kept.late != late {
            return Err(format!("after epoch {number}: {} late rows instead of {late}", kept.late));
        }
        for (statement, answer) in answers.iter().enumerate() {
            let expected = runtime.block_on(oracle::answer(case, statement, &rows, watermark_us))?;
            if let Some(difference) = answer.difference(&expected) {
                let careful = runtime.block_on(oracle::careful_answer(case, statement, &rows, watermark_us));
                if careful.is_ok_and(|careful| answer.difference(&careful).is_none()) {
                    kept.oracle_wrong += 1;
                    continue;
                }
                return Err(format!("statement {statement} after epoch {number}:\n{difference}\n{}", engine.explain()));
            }
            kept.rows = expected.len();
        }
    }
    kept.epochs = case.epochs.len();
    Ok(kept)
}

/// So many runs are spent on making a case smaller.
const MOST_RUNS: usize = 400;

/// The smallest case found that goes wrong in the same way, as far as the first word tells, and how it does.
pub fn shrink(case: &Case, failure: &str, start: Start) -> (Case, String) {
    let kind = first_word(failure).to_owned();
    let mut best = (case.clone(), failure.to_owned());
    let mut runs = 0;
    let mut attempt = |tried: Case, best: &mut (Case, String)| {
        runs += 1;
        if runs > MOST_RUNS {
            return false;
        }
        match judge(&tried, start) {
            Err(failure) if first_word(&failure) == kind => {
                *best = (tried, failure);
                true
            }
            _ => false,
        }
    };
    // One statement, one lane, no crash, each if it still goes wrong.
    for statement in 0..case.statements.len() {
        let one = vec![case.statements[statement].clone()];
        let _ = attempt(Case { statements: one, ..best.0.clone() }, &mut best);
    }
    for simpler in [
        |case: &mut Case| case.epochs.iter_mut().for_each(|epoch| epoch.crash = None),
        |case: &mut Case| case.lanes = 1,
        |case: &mut Case| case.allowed_ms = 0,
        |case: &mut Case| *case = case.clone().on_update(),
        |case: &mut Case| {
            *case = case.clone().on_update();
            case.delay_ms = None;
        },
        |case: &mut Case| case.epochs.iter_mut().for_each(|epoch| epoch.is_checked = false),
        |case: &mut Case| {
            case.arrivals.iter_mut().for_each(|arrival| arrival.epoch = 0);
            case.epochs = vec![Epoch::default()];
        },
    ] {
        let mut tried = best.0.clone();
        simpler(&mut tried);
        let _ = attempt(tried, &mut best);
    }
    let mut chunk = best.0.arrivals.len().div_ceil(2);
    while chunk > 0 {
        let mut from = 0;
        while from < best.0.arrivals.len() {
            let mut tried = best.0.clone();
            let to = (from + chunk).min(tried.arrivals.len());
            tried.arrivals.drain(from..to);
            if !attempt(without_empty_epochs(tried), &mut best) {
                from = to;
            }
        }
        chunk /= 2;
    }
    best
}

/// Epochs without rows and without crashes go, except for the last: a watermark may act there.
fn without_empty_epochs(mut case: Case) -> Case {
    let mut number = 0;
    while number + 1 < case.epochs.len() {
        if case.epochs[number].crash.is_some() || case.arrivals.iter().any(|arrival| arrival.epoch == number) {
            number += 1;
            continue;
        }
        case.epochs.remove(number);
        case.arrivals.iter_mut().filter(|arrival| arrival.epoch > number).for_each(|arrival| arrival.epoch -= 1);
    }
    case
}

fn first_word(failure: &str) -> &str {
    failure.split([' ', ':']).next().unwrap_or_default()
}
