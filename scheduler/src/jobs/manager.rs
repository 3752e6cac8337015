//! All jobs of this leader: made from the catalog, kept running, ended by statements.
mod beginning;
mod ending;
mod targets;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use datafusion::execution::SendableRecordBatchStream;
use parking_lot::{Mutex, RwLock};
use polybolos_kafka::admin::Admin;
use polybolos_sql::{
    catalog::{Catalog, Connector, JobDefinition},
    planner::{InsertPlan, JobPlan, Planner},
};
use polybolos_streaming::{
    coordinator::Command,
    ids::{Attempt, Incarnation},
    manifest::{Life, Manifest},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    earlier_rows,
    leftovers::{LOOK_EVERY, Leftovers},
    once, planning, replace,
    runner::{self, JobHandle, RunnerContext},
    sink::sink,
    spec::JobSpec,
};
use crate::{catalog::CatalogStore, engine::any_error, metrics::Families, providers::PlatformTables, savepoints::Savepoints};

/// Between two tries to start a job whose Kafka or Cassandra is away.
const RETRY: Duration = Duration::from_secs(2);

pub struct JobManager {
    context: RunnerContext,
    catalog: Arc<CatalogStore>,
    platform: PlatformTables,
    families: Families,
    jobs: RwLock<BTreeMap<String, Entry>>,
    /// Where those of an incarnation go on whose loop was ended: an executor that was not told may still compute an earlier one.
    pub(super) attempts: Mutex<BTreeMap<Incarnation, Attempt>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A job on this leader.
#[derive(Clone)]
pub enum Entry {
    Running(JobHandle),
    /// It could not be started yet, and is tried again.
    Starting {
        incarnation: Incarnation,
        error: String,
    },
}

impl Entry {
    fn is_of(&self, definition: &JobDefinition) -> bool {
        let (Self::Running(JobHandle { incarnation, .. }) | Self::Starting { incarnation, .. }) = self;
        incarnation.as_str() == definition.incarnation
    }
}

/// Whether the catalog still has this incarnation.
fn is_named(catalog: &Catalog, definition: &JobDefinition) -> bool {
    catalog.find_job(&definition.name).is_some_and(|job| job.incarnation == definition.incarnation)
}

fn has_gone(entry: Option<&Entry>, catalog: &Catalog, job: &str) -> bool {
    entry.is_none() && catalog.find_job(job).is_none()
}

/// An incarnation that has ended is not here any more, and stops where it was being started meanwhile. What has its name by now
/// stays.
fn withdraw(jobs: &mut BTreeMap<String, Entry>, definition: &JobDefinition) {
    if jobs.get(&definition.name).is_some_and(|entry| entry.is_of(definition))
        && let Some(Entry::Running(handle)) = jobs.remove(&definition.name)
    {
        handle.stopping().cancel();
    }
}

impl JobManager {
    pub fn new(
        context: RunnerContext,
        catalog: Arc<CatalogStore>,
        platform: PlatformTables,
        families: Families,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let (jobs, attempts, tasks) = (RwLock::default(), Mutex::default(), TaskTracker::new());
        Arc::new(Self { context, catalog, platform, families, jobs, attempts, tasks, shutdown })
    }

    /// Starts every job of the catalog; those that cannot start yet are tried again in the background.
    pub fn start_all(self: &Arc<Self>) {
        for definition in self.catalog.current().jobs.clone() {
            self.start_in_background(definition);
        }
    }

    /// Looks from time to time for what incarnations that have ended left behind.
    pub fn remove_leftovers(self: &Arc<Self>) {
        let manager = self.clone();
        self.spawn(async move {
            let mut leftovers = Leftovers::new(manager.context.store.clone(), manager.context.savepoints.clone());
            loop {
                let living = manager.catalog.current().jobs.iter().map(|job| Incarnation(job.incarnation.clone())).collect();
                match leftovers.look(&living).await {
                    Ok(0) => {}
                    Ok(files) => tracing::info!(files, "files of jobs that have ended are deleted"),
                    Err(error) => tracing::warn!(%error, "files of jobs that have ended take room; they are looked for again"),
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    }

    /// Waits for all loops to end, after the shutdown token was cancelled.
    pub async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub fn list(&self) -> BTreeMap<String, Entry> {
        self.jobs.read().clone()
    }

    pub fn find(&self, job: &str) -> Option<Entry> {
        self.jobs.read().get(job).cloned()
    }

    /// Whether a job is neither here nor in the catalog: one that the catalog names is being started or restarted where it is not
    /// here, and its manifest names files.
    pub(super) fn has_gone(&self, job: &str) -> bool {
        has_gone(self.jobs.read().get(job), &self.catalog.current(), job)
    }

    /// A job that has started.
    pub(super) fn running(&self, job: &str) -> anyhow::Result<JobHandle> {
        match self.find(job) {
            Some(Entry::Running(handle)) => Ok(handle),
            Some(Entry::Starting { error, .. }) => bail!("job {job} has not started yet: {error}"),
            None => bail!("job {job} is not running on this scheduler"),
        }
    }

    /// Everything that can be wrong with a job, before it is in the catalog: plan, target table, sole writer. Answers notices.
    pub async fn prepare(&self, catalog: Arc<Catalog>, definition: &JobDefinition) -> anyhow::Result<Vec<String>> {
        let plan = self.plan(catalog, definition).await?;
        self.find_files(&plan).await?;
        self.check_clients(&plan)?;
        self.ensure_targets(&plan).await?;
        let spec = self.spec(definition, &plan).await?;
        self.ensure_topics(&spec).await?;
        self.own_targets(definition, &plan).await?;
        let mut notices = planning::notices(&plan, &spec.template)?;
        notices.extend(earlier_rows::notices(&*self.platform.tables, &plan).await);
        Ok(notices)
    }

    /// That a client can be made for each topic which the job reads: one that librdkafka refuses stays refused, and the job would never start.
    fn check_clients(&self, plan: &JobPlan) -> anyhow::Result<()> {
        for table in plan.inserts.iter().flat_map(|insert| &insert.sources) {
            let Some(options) = table.topic() else { continue };
            let connection = self.platform.connection(&options)?;
            Admin::connect(&connection).with_context(|| format!("table {}", table.name))?;
        }
        Ok(())
    }

    /// That there is something to read in the files which the job reads once, when it starts.
    pub(super) async fn find_files(&self, plan: &JobPlan) -> anyhow::Result<()> {
        for table in plan.inserts.iter().flat_map(|insert| &insert.sources) {
            let Connector::Filesystem(options) = &table.connector else { continue };
            let files = self.platform.files(table, options)?;
            if files.files(&self.platform.places).await?.is_empty() {
                bail!(
                    "table {} has no file in {}; put them there first, as job {} reads them once, when it starts",
                    table.name,
                    files.place,
                    plan.name
                );
            }
        }
        Ok(())
    }

    /// Writes the rows of an INSERT that ends; answers how many.
    pub async fn insert(&self, insert: &InsertPlan, rows: SendableRecordBatchStream) -> anyhow::Result<u64> {
        self.ensure_target_topic(&insert.target).await?;
        self.ensure_table(&insert.target).await?;
        let (keeping, _, sink) = sink(&self.platform, insert)?;
        let now_us = self.context.clock.now().wall_us;
        once::insert(&*self.context.store, &self.platform.tables, keeping, sink, now_us, rows, &self.shutdown).await
    }

    /// Starts a job that is in the catalog. The topics that it writes to were made with it: one that is gone since is missed, not made again.
    pub async fn start(self: &Arc<Self>, definition: &JobDefinition) -> anyhow::Result<()> {
        let catalog = self.catalog.current();
        let plan = self.plan(catalog, definition).await?;
        self.ensure_tables(&plan).await?;
        self.ensure_dead_letters().await?;
        let mut spec = self.spec(definition, &plan).await?;
        self.ensure_positions(definition, &spec).await?;
        let (mut manifest, version) = self.manifest(definition, &plan, &spec).await?;
        match (unreadable(&manifest, &spec), &manifest.life) {
            (None, _) => (manifest.layout, manifest.kept_columns) = (spec.template.layout(), spec.template.kept_columns()),
            (Some(reason), Life::Running | Life::Paused) => {
                manifest.life = Life::Failed { reason, stuck: None };
                manifest.recorded_at_us = self.context.clock.now().wall_us;
            }
            (Some(_), _) => {}
        }
        let next_attempt = self.attempts.lock().get(&manifest.incarnation).copied();
        spec.config.first_attempt = next_attempt.unwrap_or(spec.config.first_attempt);
        let replace = manifest.replace.clone();
        let handle = runner::start(
            self.context.clone(),
            spec,
            manifest,
            version,
            self.families.of(&definition.name),
            self.shutdown.child_token(),
            &self.tasks,
        );
        if let Some(replace) = replace {
            let (tables, stopping) = (self.platform.tables.clone(), handle.stopping());
            self.tasks.spawn(replace::run(handle.clone(), replace, tables, stopping));
        }
        self.enter(definition, Entry::Running(handle));
        Ok(())
    }

    /// Nothing of an incarnation that a statement ended meanwhile: what has its name by now may have started already.
    fn enter(&self, definition: &JobDefinition, entry: Entry) {
        let mut jobs = self.jobs.write();
        if is_named(&self.catalog.current(), definition) {
            jobs.insert(definition.name.clone(), entry);
        } else if let Entry::Running(handle) = entry {
            handle.stopping().cancel();
        }
    }

    /// Starts a job, and goes on trying when something it needs is away.
    pub fn start_in_background(self: &Arc<Self>, definition: JobDefinition) {
        let manager = self.clone();
        self.tasks.spawn(async move {
            loop {
                let error = match manager.shutdown.run_until_cancelled(manager.start(&definition)).await {
                    None | Some(Ok(())) => return,
                    Some(Err(error)) => any_error(error).to_string(),
                };
                tracing::warn!(job = %definition.name, %error, "job cannot be started yet; trying again");
                let incarnation = Incarnation(definition.incarnation.clone());
                manager.enter(&definition, Entry::Starting { incarnation, error });
                tokio::select! {
                    () = manager.shutdown.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
                if !is_named(&manager.catalog.current(), &definition) {
                    withdraw(&mut manager.jobs.write(), &definition);
                    return;
                }
            }
        });
    }

    /// Has a job pause, go on or stop; done when that is recorded.
    pub async fn command(&self, job: &str, command: Command) -> anyhow::Result<()> {
        let handle = self.running(job)?;
        if command == Command::Resume
            && let Some(why) = unreadable(&handle.view().manifest, &handle.spec)
        {
            bail!("{why}");
        }
        handle.command(command).await?;
        handle.life_recorded().await
    }

    /// To be called when the catalog does not name a job's incarnation any more. One that could not start may have been tried once
    /// more since it was ended. An executor may have joined since the job's loop said it, and may hold what it had under an earlier
    /// leader of a job that this one could not run.
    pub fn forget(&self, definition: &JobDefinition) {
        withdraw(&mut self.jobs.write(), definition);
        self.context.executors.forget(&Incarnation(definition.incarnation.clone()));
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        });
    }

    pub(super) fn savepoints(&self) -> &Arc<Savepoints> {
        &self.context.savepoints
    }

    pub(super) fn context(&self) -> &RunnerContext {
        &self.context
    }

    pub(super) fn platform(&self) -> &PlatformTables {
        &self.platform
    }

    pub(super) async fn plan(&self, catalog: Arc<Catalog>, definition: &JobDefinition) -> anyhow::Result<JobPlan> {
        let state = self.context.ballista.session().state();
        let planner = Planner::new(&state, catalog, Arc::new(self.platform.clone()));
        // One partition: the frame says how many there really are.
        Ok(planner.plan_stored_job(definition, 1).await?)
    }

    pub(super) async fn spec(&self, definition: &JobDefinition, plan: &JobPlan) -> anyhow::Result<JobSpec> {
        let session = self.context.ballista.session().state();
        planning::job_spec(&self.platform, &session, definition, plan).await
    }
}

/// Why a job cannot go on with the state that it has, if so: it publishes what is recorded, and computes nothing.
fn unreadable(manifest: &Manifest, spec: &JobSpec) -> Option<String> {
    let (job, layout, kept_columns) = (&spec.name, spec.template.layout(), spec.template.kept_columns());
    let (then, now) = manifest.unreadable_by(&layout, &kept_columns)?;
    Some(format!(
        "the state of job {job} is of another version of polybolos: it was written with {then:?}, and this one has {now:?}; run that version again and RESUME JOB {job}, or RESTART JOB {job} FROM EARLIEST KEEP"
    ))
}

#[cfg(test)]
mod tests {
    use polybolos_sql::{
        catalog::{Change, apply},
        parser::parse,
    };

    use super::*;

    /// A catalog with one job `j`.
    fn catalog(incarnation: &str) -> Catalog {
        let text = "CREATE TABLE t (k STRING) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
            CREATE TABLE s (k STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
            CREATE JOB j AS INSERT INTO s SELECT k FROM t";
        let change = Change { now_us: 0, incarnation: incarnation.into() };
        let mut catalog = Catalog::default();
        for statement in parse(text).expect("read") {
            catalog = apply(&catalog, &statement, &change).expect("applied");
        }
        catalog
    }

    #[test]
    fn a_job_that_could_not_start_takes_nothing_of_its_successor_with_it() {
        let (first, second) = (catalog("a1"), catalog("b2"));
        let [earlier, later] = [&first, &second].map(|catalog| catalog.find_job("j").expect("declared"));
        assert!(is_named(&first, earlier) && !is_named(&second, earlier) && !is_named(&Catalog::default(), earlier));
        let starting = |definition: &JobDefinition| {
            let incarnation = Incarnation(definition.incarnation.clone());
            BTreeMap::from([(definition.name.clone(), Entry::Starting { incarnation, error: "away".into() })])
        };
        let mut jobs = starting(later);
        withdraw(&mut jobs, earlier);
        assert_eq!(jobs.len(), 1, "it was restarted while the earlier run was being tried");
        let mut jobs = starting(earlier);
        withdraw(&mut jobs, earlier);
        assert!(jobs.is_empty());
    }

    #[test]
    fn a_job_that_is_only_in_the_catalog_has_not_gone() {
        let (catalog, incarnation) = (catalog("a1"), Incarnation("a1".into()));
        let starting = Entry::Starting { incarnation, error: "away".into() };
        assert!(!has_gone(None, &catalog, "j"), "its leader has only just begun to lead, or it is being restarted");
        assert!(!has_gone(Some(&starting), &Catalog::default(), "j") && has_gone(None, &catalog, "k"));
    }
}
