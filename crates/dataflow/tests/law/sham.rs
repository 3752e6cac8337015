//! An engine that computes everything again in each epoch, to test the law with: correct, or with a flaw that the law must find.
use super::{
    cases::Case,
    changes::Answer,
    engine::{Deltas, Engine, Feed, Ran},
    oracle,
};
use datafusion::{arrow::array::RecordBatch, datasource::MemTable};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// An epoch that ran twice counts twice.
    KeepsDiscarded,
    /// The last epoch is gone after a reload.
    ForgetsLast,
    /// Nothing is taken back.
    NeverRetracts,
}

pub struct Sham<'a> {
    case: &'a Case,
    flaw: Flaw,
    /// By table.
    recorded: Vec<Vec<RecordBatch>>,
    running: Vec<Vec<RecordBatch>>,
    before: Vec<Vec<RecordBatch>>,
    /// Before its first epoch a job has no answer, not even the one row of a total over nothing.
    has_answered: bool,
}

impl<'a> Sham<'a> {
    pub fn new(case: &'a Case, flaw: Flaw) -> Self {
        let nothing = vec![Vec::new(); case.tables.len()];
        Self { case, flaw, recorded: nothing.clone(), running: nothing.clone(), before: nothing, has_answered: false }
    }

    fn answers(&self, rows: &[Vec<RecordBatch>]) -> Result<Vec<Vec<RecordBatch>>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let context = oracle::context(self.case, &[])?;
            for (table, batches) in self.case.tables.iter().zip(rows) {
                let memory = MemTable::try_new(table.schema(), vec![batches.clone()]).map_err(|error| error.to_string())?;
                context.register_table(table.name.as_str(), Arc::new(memory)).map_err(|error| error.to_string())?;
            }
            let mut answers = Vec::new();
            for statement in &self.case.statements {
                let frame = context.sql(&statement.sql).await.map_err(|error| error.to_string())?;
                answers.push(frame.collect().await.map_err(|error| error.to_string())?);
            }
            Ok(answers)
        })
    }
}

impl Engine for Sham<'_> {
    fn window_ends(&self) -> Option<Vec<(i64, i64)>> {
        None
    }

    fn run(&mut self, feed: &Feed) -> Result<Ran, String> {
        let old = if self.has_answered { self.answers(&self.recorded)? } else { vec![Vec::new(); self.case.statements.len()] };
        if self.flaw != Flaw::KeepsDiscarded {
            self.running = vec![Vec::new(); self.case.tables.len()];
        }
        for (rows, batches) in self.running.iter_mut().zip(&feed.tables) {
            rows.extend(batches.iter().map(|(_, batch)| batch.clone()));
        }
        let all: Vec<Vec<RecordBatch>> =
            self.recorded.iter().zip(&self.running).map(|(old, new)| old.iter().chain(new).cloned().collect()).collect();
        let new = self.answers(&all)?;
        let signed = |batches: Vec<RecordBatch>, sign: i64| {
            batches.into_iter().map(move |batch| (batch.clone(), vec![sign; batch.num_rows()]))
        };
        let deltas: Deltas = old
            .into_iter()
            .zip(new)
            .map(|(old, new)| {
                let old = if self.flaw == Flaw::NeverRetracts { Vec::new() } else { old };
                signed(old, -1).chain(signed(new, 1)).collect()
            })
            .collect();
        Ok(Ran { deltas, late: 0, fired_us: feed.watermark_us, failed: Vec::new() })
    }

    fn discard(&mut self) {}

    fn record(&mut self) -> Result<(), String> {
        self.has_answered = true;
        self.before = self.recorded.clone();
        for (rows, more) in self.recorded.iter_mut().zip(&mut self.running) {
            rows.append(more);
        }
        Ok(())
    }

    fn reload(&mut self, _: usize) -> Result<(), String> {
        if self.flaw == Flaw::ForgetsLast {
            self.recorded = self.before.clone();
        }
        self.running = vec![Vec::new(); self.case.tables.len()];
        Ok(())
    }
}

/// So that a flaw in retracting shows in the sum and not only in a table.
pub fn sum(deltas: &[(RecordBatch, Vec<i64>)], answer: &mut Answer) -> Result<(), String> {
    deltas.iter().try_for_each(|(batch, weights)| answer.add(batch, weights))
}
