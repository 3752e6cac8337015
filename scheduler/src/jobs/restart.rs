//! The other ways for an incarnation to begin than the first: with a savepoint's state, or to replace what an earlier run wrote (EPOCHS rule 18). Its manifest stands
//! before the catalog names it, so that a crash in between begins nothing else.
use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, bail};
use polybolos_kafka::admin::Admin;
use polybolos_persist::{Expected, Swap, keys};
use polybolos_sql::{
    catalog::{Catalog, Connector, JobDefinition, TableDefinition},
    planner::JobPlan,
    statement::{EarlierRows, RestartFrom, RestartJob},
};
use polybolos_streaming::{
    coordinator::Event,
    ids::{Epoch, Incarnation},
    manifest::{Manifest, Replace},
    savepoint::Savepoint,
};
use polybolos_tables::check;

use super::{
    chronicle::{EventKind, JobEvent},
    chronicler,
    manager::{Entry, JobManager},
    runner::load_manifest,
    shape,
    spec::JobSpec,
};
use crate::savepoints::SavepointError;

impl JobManager {
    /// Everything that can be refused of a restart, before the earlier run is ended.
    pub async fn check_restart(
        &self,
        catalog: Arc<Catalog>,
        definition: &JobDefinition,
        restart: &RestartJob,
    ) -> anyhow::Result<()> {
        let plan = self.plan(catalog.clone(), definition).await?;
        if let Some(RestartFrom::Offsets(start)) = &restart.from {
            plan.check_start(Some(start))?;
        }
        self.ensure_targets(&plan).await?;
        let spec = self.spec(definition, &plan).await?;
        self.ensure_topics(&spec).await?;
        match &restart.from {
            Some(RestartFrom::Savepoint(name)) => fits(&catalog, definition, &spec, &self.savepoints().find(name)?)?,
            _ => self.find_files(&plan).await?,
        }
        if restart.earlier_rows == EarlierRows::Replace {
            for insert in &plan.inserts {
                check_replace(&insert.target)?;
                if let Some(declared) = insert.target.table_schema() {
                    check::deletes(&*self.platform().tables, &declared.name).await?;
                }
            }
        }
        Ok(())
    }

    /// What a job went through until now, when it is restarted by this statement. To be asked before it is ended.
    pub async fn events_until_restart(&self, definition: &JobDefinition, sql: &str) -> Vec<JobEvent> {
        let mut events = match self.find(&definition.name) {
            Some(Entry::Running(handle)) => handle.with_history(|history| history.events().to_vec()),
            Some(Entry::Starting { .. }) | None => {
                let incarnation = Incarnation(definition.incarnation.clone());
                chronicler::load(&*self.context().store, &incarnation).await.events().to_vec()
            }
        };
        let (generation, at_us) = (self.context().generation, self.context().clock.now().wall_us);
        events.push(JobEvent::new(generation, at_us, EventKind::Restarted, Epoch(0), sql));
        events
    }

    /// Stores the first manifest of the new incarnation. The earlier one has ended, and went through these `events`.
    pub async fn begin_again(
        &self,
        catalog: Arc<Catalog>,
        definition: &JobDefinition,
        restart: &RestartJob,
        events: Vec<JobEvent>,
    ) -> anyhow::Result<()> {
        let plan = self.plan(catalog.clone(), definition).await?;
        let spec = self.spec(definition, &plan).await?;
        let mut manifest = self.first_manifest(definition, &plan, &spec).await?;
        if let Some(RestartFrom::Savepoint(name)) = &restart.from {
            let savepoint = self.savepoints().find(name)?;
            fits(&catalog, definition, &spec, &savepoint)?;
            savepoint.begin(&mut manifest);
        }
        if restart.earlier_rows == EarlierRows::Replace {
            let before_us = manifest.window_end_us.max(self.context().clock.now().wall_us);
            manifest.window_end_us = before_us;
            manifest.replace = Some(Replace { before_us, through: ends(&spec).await? });
        }
        let bytes = polybolos_persist::manifest::encode(&manifest)?;
        match self.context().store.put_if(&keys::manifest(&manifest.incarnation), bytes, Expected::Absent).await? {
            Swap::Stored(_) => {
                chronicler::begin(&*self.context().store, &manifest.incarnation, events).await;
                Ok(())
            }
            Swap::Conflict => bail!("incarnation {} of job {} exists already; try again", manifest.incarnation, definition.name),
        }
    }

    /// Whether a savepoint was made by another incarnation than this one.
    pub fn is_of_another_run(&self, savepoint: &str, incarnation: &str) -> bool {
        self.savepoints().find(savepoint).is_ok_and(|savepoint| savepoint.incarnation.as_str() != incarnation)
    }

    /// Keeps what is recorded of a running job under a name.
    pub async fn create_savepoint(
        &self,
        catalog: &Arc<Catalog>,
        definition: &JobDefinition,
        name: &str,
    ) -> anyhow::Result<Savepoint> {
        let savepoints = self.savepoints().clone();
        let _changing = savepoints.changing().await;
        if savepoints.find(name).is_ok() {
            return Err(SavepointError::Exists { name: name.to_owned() }.into());
        }
        let handle = self.running(&definition.name)?;
        let plan = self.plan(catalog.clone(), definition).await?;
        let spec = self.spec(definition, &plan).await?;
        let shape = shape::of(catalog, definition, &spec)?;
        let manifest: Manifest = handle.snapshot(savepoints.files_of(&definition.name)).await?;
        let savepoint = Savepoint::of(name, &manifest, shape, self.context().clock.now().wall_us);
        let added = savepoints.add(savepoint.clone()).await;
        // A leader that was deposed meanwhile: its successor may have listed the savepoints before this one was there.
        let stands = match &added {
            Ok(()) => {
                let stored = load_manifest(&*self.context().store, &manifest.incarnation).await;
                matches!(stored, Ok(Some((stored, _))) if stored.generation == self.context().generation)
            }
            Err(_) => false,
        };
        if added.is_ok() && !stands {
            savepoints.remove(name).await.with_context(|| format!("savepoint {name} may not be whole; drop it"))?;
        }
        handle.tell(Event::Pinned { names: savepoints.files_of(&definition.name) }).await?;
        added?;
        if !stands {
            bail!("another scheduler leads since a moment; ask it for the savepoint");
        }
        Ok(savepoint)
    }

    /// Its files go when nobody names them any more.
    pub async fn drop_savepoint(&self, name: &str) -> anyhow::Result<()> {
        let savepoints = self.savepoints().clone();
        let _changing = savepoints.changing().await;
        let savepoint = savepoints.find(name)?;
        savepoints.remove(name).await?;
        let job = savepoint.job.as_str();
        let kept = savepoints.files_of(job);
        match self.find(job) {
            Some(Entry::Running(handle)) => handle.tell(Event::Pinned { names: kept }).await,
            // It lists the savepoints when it has started.
            Some(Entry::Starting { .. }) => Ok(()),
            None if !self.has_gone(job) => Ok(()),
            None => {
                let names: Vec<String> = savepoint.file_names().filter(|name| !kept.contains(*name)).map(str::to_owned).collect();
                Ok(self.context().store.delete(&names).await?)
            }
        }
    }
}

/// That rows of an earlier run can be deleted from it.
fn check_replace(target: &TableDefinition) -> anyhow::Result<()> {
    let table = &target.name;
    match target.connector {
        Connector::Kafka(_) => bail!("REPLACE cannot take back records of topic table {table}; write KEEP"),
        Connector::UpsertKafka(_) => bail!(
            "REPLACE cannot take back rows of topic table {table}; write KEEP: the new run writes over rows of the same key, and VERIFY JOB lists those that it does not write as extra"
        ),
        Connector::Filesystem(_) => {
            bail!("REPLACE cannot take back files of table {table}; write KEEP, and delete those of the earlier run if you want to")
        }
        Connector::Cassandra(_) | Connector::Blackhole | Connector::Print { .. } => Ok(()),
    }
}

/// The job's table that cannot be rid of rows of an earlier run, if there is one: `REPLACE` is refused because of it.
pub fn keeping_target(plan: &JobPlan) -> Option<&TableDefinition> {
    plan.inserts.iter().map(|insert| &insert.target).find(|target| check_replace(target).is_err())
}

/// The statement that has a job write its tables anew, and what it does: without `REPLACE`, where one of them cannot be rid of other rows.
pub fn anew(job: &str, keeping: Option<&TableDefinition>) -> String {
    let restart = format!("RESTART JOB {job} FROM EARLIEST");
    match keeping {
        None => format!("{restart} REPLACE writes all rows anew and deletes others"),
        Some(_) => format!("{restart} KEEP writes all rows anew and leaves others as they are"),
    }
}

/// Whether a job can begin with a savepoint: it is the same job, of the same texts and operators.
fn fits(catalog: &Catalog, definition: &JobDefinition, spec: &JobSpec, savepoint: &Savepoint) -> anyhow::Result<()> {
    let (name, job) = (&savepoint.name, &definition.name);
    if savepoint.job.as_str() != *job {
        bail!("savepoint {name} is one of job {}, not of {job}", savepoint.job);
    }
    if let Some((then, now)) = shape::difference(catalog, definition, spec, &savepoint.shape)? {
        bail!(
            "savepoint {name} does not fit job {job} any more: it was made with {then:?}, and now there is {now:?}; restart the job FROM EARLIEST, or create it as it was"
        );
    }
    let same =
        |(id, source): (_, &super::spec::SourceSpec)| savepoint.sources.get(id).is_some_and(|then| then.topic == source.topic);
    if !spec.sources.iter().all(same) || spec.sources.len() != savepoint.sources.len() {
        bail!("savepoint {name} does not fit job {job} any more: it read other topics; restart the job FROM EARLIEST");
    }
    Ok(())
}

async fn ends(spec: &JobSpec) -> anyhow::Result<BTreeMap<polybolos_streaming::ids::SourceId, BTreeMap<i32, i64>>> {
    let mut through = BTreeMap::new();
    for (id, source) in &spec.sources {
        let admin = Admin::connect(&source.connection)?;
        let Some(description) = admin.describe(&source.topic).await? else { continue };
        through.insert(*id, admin.offsets(&source.topic, &description.partitions).await?.ends);
    }
    Ok(through)
}

#[cfg(test)]
mod tests {
    use polybolos_sql::{
        catalog::{Change, apply},
        parser::parse,
    };

    use super::*;

    #[test]
    fn only_tables_that_keep_a_row_per_key_of_their_own_are_replaced() {
        let key = ", PRIMARY KEY (k) NOT ENFORCED";
        for (key, options, refusal) in [
            (key, "'connector' = 'cassandra', 'keyspace' = 's'", None),
            ("", "'connector' = 'blackhole'", None),
            ("", "'connector' = 'kafka', 'topic' = 't', 'format' = 'json'", Some("records of topic table s; write KEEP")),
            (
                key,
                "'connector' = 'upsert-kafka', 'topic' = 't', 'key.format' = 'json', 'value.format' = 'json'",
                Some("rows of topic table s; write KEEP: "),
            ),
            ("", "'connector' = 'filesystem', 'path' = 'file:///s', 'format' = 'json'", Some("files of table s; write KEEP, ")),
        ] {
            let statement = parse(&format!("CREATE TABLE s (k STRING{key}) WITH ({options})")).expect("read").remove(0);
            let change = Change { now_us: 0, incarnation: "a1".into() };
            let catalog = apply(&Catalog::default(), &statement, &change).expect("applied");
            let target = catalog.table(&"s".into()).expect("declared");
            let said = check_replace(target).err().map(|error| error.to_string());
            let statement = anew("j", said.as_ref().map(|_| target));
            assert_eq!(statement.contains("KEEP") && statement.contains("leaves others"), refusal.is_some(), "{statement}");
            assert_eq!(statement.contains("REPLACE") && statement.contains("deletes others"), refusal.is_none(), "{statement}");
            match refusal {
                Some(words) => assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{options}: {said:?}"),
                None => assert_eq!(said, None, "{options}"),
            }
        }
    }
}
