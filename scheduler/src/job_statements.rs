//! Statements about jobs: made, upgraded, begun again, ended, kept as savepoints, verified; and their dead letters sent back. Checked against the catalog as it would be before it is.
use std::sync::Arc;

use polybolos_gateway::{engine::Answer, error::EngineError};
use polybolos_persist::crash;
use polybolos_sql::{
    catalog::{Catalog, apply, apply_planned},
    redact,
    statement::{JobAction, RestartFrom, RestartJob, Statement},
};
use polybolos_streaming::coordinator::Command;
use polybolos_tables::plain::{agreeing, counted};

use crate::{
    engine::{PlatformEngine, any_error, catalog_error, change, sql_error},
    replay::{Replayed, Wanted},
    savepoints::SavepointError,
};

impl PlatformEngine {
    pub(crate) async fn create_job(&self, statement: &Statement, tag: &str) -> Result<Answer, EngineError> {
        let jobs = self.leader()?;
        let change = change();
        // Everything is checked against the catalog as it would be, before it is.
        let before = self.catalog.current();
        let planned = Arc::new(apply(&before, statement, &change).map_err(sql_error)?);
        let Some(definition) = planned.jobs.iter().find(|job| job.incarnation == change.incarnation).cloned() else {
            let mut answer = Answer::done(tag);
            answer.notices.push("the job exists already".into());
            return Ok(answer);
        };
        let notices = jobs.prepare(planned.clone(), &definition).await.map_err(any_error)?;
        self.catalog.change(|catalog| apply_planned(catalog, statement, &change, &planned)).await.map_err(catalog_error)?;
        if let Err(error) = jobs.start(&definition).await {
            tracing::warn!(job = %definition.name, error = %format!("{error:#}"), "job created, and cannot start yet");
            jobs.start_in_background(definition.clone());
        }
        let mut answer = Answer::done(tag);
        answer.notices.push(format!("job {} started", definition.name));
        answer.notices.extend(notices);
        Ok(answer)
    }

    /// A new incarnation of a job (EPOCHS rule 18): the old one is ended first, and hands its table on.
    pub(crate) async fn restart_job(&self, statement: &Statement, restart: &RestartJob, tag: &str) -> Result<Answer, EngineError> {
        let name = restart.name.as_str();
        let jobs = self.leader()?;
        let before = self.catalog.current();
        let change = change();
        let planned = Arc::new(apply(&before, statement, &change).map_err(sql_error)?);
        // Nothing is ended for a plan that does not stand any more.
        let next = planned.job(name).map_err(sql_error)?;
        jobs.check_restart(planned.clone(), next, restart).await.map_err(any_error)?;
        let earlier = before.job(name).map_err(sql_error)?;
        if !restart.discard {
            jobs.check_written(earlier).await.map_err(any_error)?;
        }
        let events = jobs.events_until_restart(earlier, &redact::sql(&statement.sql)).await;
        jobs.drop_job(earlier, restart.discard).await.map_err(any_error)?;
        jobs.begin_again(planned.clone(), next, restart, events).await.map_err(any_error)?;
        let (_, after) = self.catalog.change(|catalog| apply(catalog, statement, &change)).await.map_err(catalog_error)?;
        jobs.forget(earlier);
        let definition = after.job(name).map_err(sql_error)?;
        if let Err(error) = jobs.start(definition).await {
            tracing::warn!(job = %name, error = %format!("{error:#}"), "job restarted, and cannot start yet");
            jobs.start_in_background(definition.clone());
        }
        let mut answer = Answer::done(tag);
        answer.notices.push(format!("job {name} restarted as incarnation {}", definition.incarnation));
        if let Some(RestartFrom::Savepoint(savepoint)) = &restart.from
            && jobs.is_of_another_run(savepoint, &earlier.incarnation)
        {
            answer.notices.push(format!(
                "another run than that of savepoint {savepoint} wrote last; rows that it wrote stay until they change again"
            ));
        }
        Ok(answer)
    }

    /// Another definition for the same incarnation, which goes on from what is recorded.
    pub(crate) async fn upgrade_job(&self, statement: &Statement, name: &str, tag: &str) -> Result<Answer, EngineError> {
        let jobs = self.leader()?;
        let before = self.catalog.current();
        let change = change();
        let planned = Arc::new(apply(&before, statement, &change).map_err(sql_error)?);
        let (old, new) = (before.job(name).map_err(sql_error)?, planned.job(name).map_err(sql_error)?);
        let notices = jobs.check_upgrade((&before, old), (&planned, new)).await.map_err(any_error)?;
        jobs.end_for_upgrade(old).await.map_err(any_error)?;
        // From here on the job goes on, with whichever definition the catalog holds.
        crash::point("upgrade-ended");
        let changed = self.catalog.change(|catalog| apply_planned(catalog, statement, &change, &planned)).await;
        let changed = changed.map_err(catalog_error);
        crash::point("upgrade-changed");
        let definition = changed.as_ref().map_or(old, |_| new);
        if let Err(error) = jobs.start(definition).await {
            tracing::warn!(job = %name, error = %format!("{error:#}"), "job upgraded, and cannot start yet");
            jobs.start_in_background(definition.clone());
        }
        changed?;
        jobs.note_upgrade(name);
        Ok(Answer { notices, ..Answer::done(tag) })
    }

    pub(crate) async fn create_savepoint(&self, name: &str, job: &str, tag: &str) -> Result<Answer, EngineError> {
        let jobs = self.leader()?;
        let catalog = self.catalog.current();
        let definition = catalog.job(job).map_err(sql_error)?;
        let savepoint = jobs.create_savepoint(&catalog, definition, name).await.map_err(any_error)?;
        let mut answer = Answer::done(tag);
        answer.notices.push(format!(
            "savepoint {name} has job {job} through epoch {}, {} of state",
            savepoint.epoch,
            counted(savepoint.bytes(), "byte")
        ));
        Ok(answer)
    }

    pub(crate) async fn replay(&self, wanted: Wanted) -> Result<Answer, EngineError> {
        self.leader()?;
        // A topic may be another cluster's.
        let sources: Vec<_> = self.status.handles().into_iter().flat_map(|handle| handle.spec.sources.into_values()).collect();
        let connection_of = |topic: &str| {
            let source = sources.iter().find(|source| source.topic == topic);
            source.map_or_else(|| self.platform.kafka.clone(), |source| source.connection.clone())
        };
        let catalog = self.catalog.current();
        let keeps_last_record = |topic: &str| {
            let mut tables = catalog.tables.iter().filter(|table| table.keeps_last_record());
            tables.any(|table| table.topic().is_some_and(|options| options.topic == topic))
        };
        let replayed = self.replay.run(&wanted, connection_of, keeps_last_record).await.map_err(any_error)?;
        // The letters of a job that was dropped stay.
        if let (Some(job), true) = (&wanted.job, replayed == Replayed::default()) {
            catalog.job(job).map_err(sql_error)?;
        }
        let mut answer = Answer::done(format!("REPLAY {}", replayed.sent));
        let (letters, known) = (counted(replayed.sent as u64, "dead letter"), replayed.known);
        answer.notices.push(format!("{letters} sent back, {known} {} before", agreeing(known as u64, "was", "were")));
        if replayed.left > 0 {
            answer.notices.push(format!(
                "{} {} no whole record to send: rows that a table refused, or records longer than what is kept of them",
                replayed.left,
                agreeing(replayed.left as u64, "has", "have")
            ));
        }
        if replayed.kept_back > 0 {
            answer.notices.push(format!(
                "{} {} of topics whose last records are rows of a table, where they could take the place of newer records; REPLAY DEAD LETTERS 'id' sends one",
                replayed.kept_back,
                agreeing(replayed.kept_back as u64, "is", "are")
            ));
        }
        Ok(answer)
    }

    pub(crate) async fn drop_savepoint(&self, name: &str, if_exists: bool, tag: &str) -> Result<Answer, EngineError> {
        let jobs = self.leader()?;
        match jobs.drop_savepoint(name).await {
            Err(error) if if_exists && matches!(error.downcast_ref(), Some(SavepointError::NoSuch { .. })) => {}
            outcome => outcome.map_err(any_error)?,
        }
        Ok(Answer::done(tag))
    }

    pub(crate) async fn drop_job(&self, statement: &Statement, name: &str, tag: &str) -> Result<Answer, EngineError> {
        let jobs = self.leader()?;
        let change = change();
        let before: Arc<Catalog> = self.catalog.current();
        apply(&before, statement, &change).map_err(sql_error)?;
        let dropped = before.find_job(name);
        if let Some(definition) = dropped {
            jobs.drop_job(definition, false).await.map_err(any_error)?;
        }
        self.catalog.change(|catalog| apply(catalog, statement, &change)).await.map_err(catalog_error)?;
        if let Some(definition) = dropped {
            jobs.forget(definition);
        }
        Ok(Answer::done(tag))
    }

    pub(crate) async fn control(&self, name: &str, action: JobAction, tag: &str) -> Result<Answer, EngineError> {
        let jobs = self.leader()?;
        self.catalog.current().job(name).map_err(sql_error)?;
        let command = match action {
            JobAction::Pause => Command::Pause,
            JobAction::Resume => Command::Resume,
            JobAction::Stop => Command::Stop,
        };
        jobs.command(name, command).await.map_err(any_error)?;
        Ok(Answer::done(tag))
    }

    /// Begins; `polybolos.verifications` tells how it goes on.
    pub(crate) fn verify(&self, name: &str, tag: &'static str) -> Result<Answer, EngineError> {
        let jobs = self.leader()?;
        // The tables are read as one definition left them, which is the one that there is from now on.
        let claim = self.statements.change(name, tag)?;
        let catalog = self.catalog.current();
        let definition = catalog.job(name).map_err(sql_error)?.clone();
        jobs.verify(&self.status.verifications, self.queries.clone(), catalog, definition, claim).map_err(any_error)?;
        let mut answer = Answer::done(tag);
        answer.notices.push("it goes on in the background; polybolos.verifications tells how".into());
        Ok(answer)
    }
}
