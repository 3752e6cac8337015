//! Who carries a statement out. What only reads is part of the call that asked for it, and ends with that. What changes something
//! is a task of its own, which goes on when the caller is gone: nobody asked for half of a restart or an upgrade. Of two that change
//! one job, the later is refused.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use polybolos_gateway::error::{EngineError, ErrorKind};
use polybolos_sql::statement::{Statement, StatementKind};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// What statements under way get to end when the scheduler is told to stop; together with what its other parts get after that, less
/// than the ten seconds after which `polybolos cluster` kills it.
const PATIENCE: Duration = Duration::from_secs(5);

/// PostgreSQL's `object_in_use`.
const IN_USE: &str = "55006";

#[derive(Clone)]
pub struct Statements {
    tasks: TaskTracker,
    /// Once it is cancelled, nothing goes on: another scheduler may lead.
    stop: CancellationToken,
    changing: Changing,
}

/// By job: the statement that makes, changes or ends it.
type Changing = Arc<Mutex<BTreeMap<String, &'static str>>>;

impl Statements {
    pub fn new(stop: CancellationToken) -> Self {
        Self { tasks: TaskTracker::new(), stop, changing: Changing::default() }
    }

    /// Carries a statement out by what `work` makes of it.
    pub async fn carry_out<T, W>(&self, statement: Statement, work: impl FnOnce(Statement) -> W) -> Result<T, EngineError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        if statement.kind.is_read_only() {
            return work(statement).await;
        }
        let claim = self.claim(&statement.kind)?;
        let what = shown(&statement);
        let work = work(statement);
        let claimed = async move {
            let outcome = work.await;
            // Whoever has the answer may change the job again.
            drop(claim);
            outcome
        };
        self.to_its_end(what, claimed).await
    }

    /// The outcome of `work`, which goes on when nobody waits for it any more.
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        what: String,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        if self.tasks.is_closed() {
            let message = format!("this scheduler is stopping: {what} was not begun");
            return Err(EngineError::new(ErrorKind::Unavailable, message).with_hint("try again in a few seconds"));
        }
        let (answer, answered) = oneshot::channel();
        let (stop, told) = (self.stop.clone(), what.clone());
        let carried_out = async move {
            let Some(outcome) = stop.run_until_cancelled(work).await else { return };
            match answer.send(outcome) {
                Ok(()) => {}
                Err(Ok(_)) => tracing::info!(statement = %told, "carried out after whoever gave it was gone"),
                Err(Err(error)) => tracing::warn!(statement = %told, %error, "failed after whoever gave it was gone"),
            }
        };
        self.tasks.spawn(carried_out.in_current_span());
        answered.await.unwrap_or_else(|_| {
            let message = format!("{what} did not come to its end: the scheduler stopped or failed at it");
            Err(EngineError::new(ErrorKind::Unavailable, message).with_hint("SHOW JOBS shows how far it came, the log says more"))
        })
    }

    /// Cancelled once nothing goes on any more.
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Begins no more changes, and waits for those under way as long as they may take.
    pub async fn finish(&self) {
        self.tasks.close();
        if tokio::time::timeout(PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!(statements = self.tasks.len(), "statements are cut short; SHOW JOBS shows how far they came");
        }
    }

    /// The right to change a job, for a statement that does.
    fn claim(&self, statement: &StatementKind) -> Result<Option<Claim>, EngineError> {
        let job = match statement {
            StatementKind::CreateJob(create) | StatementKind::UpgradeJob(create) => &create.name,
            StatementKind::RestartJob(restart) => &restart.name,
            // PAUSE, RESUME and STOP are done in a moment; yet an upgrade that began in that moment would undo them.
            StatementKind::DropJob { name, .. } | StatementKind::ControlJob { name, .. } => name,
            _ => return Ok(None),
        };
        self.change(job, statement.tag()).map(Some)
    }

    /// The right to change a job, or to look at what it has written, until it is dropped.
    pub fn change(&self, job: &str, by: &'static str) -> Result<Claim, EngineError> {
        let mut changing = self.changing.lock();
        if let Some(by) = changing.get(job) {
            let message = format!("job {job} is being changed by another statement at this moment: {by}");
            let error = EngineError::new(ErrorKind::Unavailable, message).with_sqlstate(IN_USE);
            return Err(error.with_hint("try again when that is done; SHOW JOBS shows the job"));
        }
        changing.insert(job.to_owned(), by);
        Ok(Claim { job: job.to_owned(), changing: self.changing.clone() })
    }
}

/// Gives a job back when dropped.
pub struct Claim {
    job: String,
    changing: Changing,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.changing.lock().remove(&self.job);
    }
}

fn shown(statement: &Statement) -> String {
    let tag = statement.kind.tag();
    statement.object().map_or_else(|| tag.to_owned(), |(_, name)| format!("{tag} {name}"))
}

#[cfg(test)]
mod tests {
    use polybolos_sql::parser::parse;
    use tokio::time::Instant;

    use super::*;

    fn statement(sql: &str) -> Statement {
        parse(sql).expect(sql).remove(0)
    }

    /// Whether a statement comes to its end when its call is dropped in the middle.
    async fn outlives_its_call(statements: &Statements, sql: &str) -> bool {
        let (begun, has_begun) = oneshot::channel();
        let (gate, opened) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let call = statements.carry_out(statement(sql), |_| async move {
            let _ = begun.send(());
            let _ = opened.await;
            let _ = done.send(());
            Ok(())
        });
        tokio::select! {
            outcome = call => panic!("{sql} passed a gate that is closed: {outcome:?}"),
            begun = has_begun => begun.expect("it begins"),
        }
        // The call is gone, and with it what was part of it.
        let _ = gate.send(());
        is_done.await.is_ok()
    }

    #[tokio::test]
    async fn what_changes_something_goes_on_without_its_call_and_what_reads_does_not() {
        let statements = Statements::new(CancellationToken::new());
        for sql in ["RESTART JOB j KEEP", "DROP TABLE t", "INSERT INTO t SELECT v FROM s", "CREATE SAVEPOINT s FOR JOB j"] {
            assert!(outlives_its_call(&statements, sql).await, "{sql}");
        }
        for sql in ["SELECT 1", "EXPLAIN SELECT 1", "SHOW JOBS"] {
            assert!(!outlives_its_call(&statements, sql).await, "{sql}");
        }
        statements.finish().await;
        assert!(statements.changing.lock().is_empty());
    }

    #[tokio::test]
    async fn one_statement_at_a_time_changes_a_job() {
        let statements = Statements::new(CancellationToken::new());
        let (begun, has_begun) = oneshot::channel();
        let (gate, opened) = oneshot::channel();
        let first = statements.carry_out(statement("RESTART JOB j KEEP"), |_| async move {
            let _ = begun.send(());
            opened.await.expect("the gate opens");
            Ok(())
        });
        let others = async {
            has_begun.await.expect("it begins");
            for sql in [
                "RESTART JOB j KEEP",
                "UPGRADE JOB j AS INSERT INTO t SELECT a FROM s",
                "CREATE JOB IF NOT EXISTS j AS INSERT INTO t SELECT a FROM s",
                "DROP JOB j",
                "PAUSE JOB j",
            ] {
                let refused = statements.carry_out(statement(sql), |_| async { Ok(()) }).await.expect_err(sql);
                assert_eq!(refused.message, "job j is being changed by another statement at this moment: RESTART JOB", "{sql}");
            }
            for sql in ["DROP JOB k", "PAUSE JOB k", "DROP TABLE j", "SHOW JOBS"] {
                statements.carry_out(statement(sql), |_| async { Ok(()) }).await.expect(sql);
            }
            gate.send(()).expect("it waits");
        };
        let (first, ()) = tokio::join!(first, others);
        first.expect("is carried out");
        statements.carry_out(statement("DROP JOB j"), |_| async { Ok(()) }).await.expect("the job is free");
    }

    /// An upgrade ends the job's loop, and with it what the loop was told and has not recorded.
    #[tokio::test]
    async fn a_job_is_not_upgraded_while_it_is_told_to_pause() {
        let statements = Statements::new(CancellationToken::new());
        let upgrade = "UPGRADE JOB j AS INSERT INTO t SELECT a FROM s";
        for (sql, tag) in [("PAUSE JOB j", "PAUSE JOB"), ("RESUME JOB j", "RESUME JOB"), ("STOP JOB j", "STOP JOB")] {
            let others = statements.clone();
            let tells = statements.carry_out(statement(sql), move |_| async move {
                let refused = others.carry_out(statement(upgrade), |_| async { Ok(()) }).await.expect_err(upgrade);
                assert_eq!(refused.message, format!("job j is being changed by another statement at this moment: {tag}"));
                Ok(())
            });
            tells.await.expect(sql);
        }
        statements.carry_out(statement(upgrade), |_| async { Ok(()) }).await.expect("the job is free");
    }

    #[tokio::test]
    async fn a_job_is_not_changed_while_what_it_has_written_is_looked_at() {
        let statements = Statements::new(CancellationToken::new());
        let looks = statements.change("j", "VERIFY JOB").expect("the job is free");
        for sql in ["UPGRADE JOB j AS INSERT INTO t SELECT a FROM s", "RESTART JOB j KEEP", "DROP JOB j", "RESUME JOB j"] {
            let refused = statements.carry_out(statement(sql), |_| async { Ok(()) }).await.expect_err(sql);
            assert_eq!(refused.message, "job j is being changed by another statement at this moment: VERIFY JOB", "{sql}");
        }
        assert!(statements.change("j", "VERIFY JOB").is_err());
        drop(looks);
        statements.carry_out(statement("DROP JOB j"), |_| async { Ok(()) }).await.expect("the job is free");
        let others = statements.clone();
        let ends = statements.carry_out(statement("DROP JOB j"), |_| async move { Ok(others.change("j", "VERIFY JOB").is_err()) });
        assert!(ends.await.expect("is carried out"), "nor is it looked at while it is changed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_stops_waits_for_what_is_under_way_but_not_forever() {
        let stop = CancellationToken::new();
        let statements = Statements::new(stop.clone());
        let (begun, has_begun) = oneshot::channel();
        let endless = statements.carry_out(statement("DROP JOB j"), |_| async move {
            let _ = begun.send(());
            std::future::pending::<Result<(), EngineError>>().await
        });
        let stopping = async {
            has_begun.await.expect("it begins");
            let told = Instant::now();
            statements.finish().await;
            assert!(told.elapsed() >= PATIENCE);
            let late = statements.carry_out(statement("DROP JOB k"), |_| async { Ok(()) }).await.expect_err("it stops");
            assert_eq!(late.message, "this scheduler is stopping: DROP JOB k was not begun");
            stop.cancel();
        };
        let (endless, ()) = tokio::join!(endless, stopping);
        let told = endless.expect_err("it was cut short").message;
        assert!(told.starts_with("DROP JOB j did not come to its end"), "{told}");
    }
}
